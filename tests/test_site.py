"""The documentation site: generated pages are complete, links fit, and it is built without warnings."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from tests.test_page import Chromium, Tab, needs_chromium
from zoo.core.measurements import load_measurements
from zoo.hub.pretrained import load_catalogue
from zoo.models.registry import get_architecture, list_architectures

sys.path.insert(0, str(Path(__file__).parent.parent / "docs" / "hooks"))

import api_pages
import architecture_pages
import command_page
import site_links

ROOT = site_links.ROOT


@pytest.fixture(scope="module")
def pages():
    return architecture_pages.architecture_pages()


def test_every_architecture_has_a_page_with_its_options(pages):
    assert set(pages) == {f"architectures/{name}.md" for name in list_architectures()}
    for name in list_architectures():
        page = pages[f"architectures/{name}.md"]
        architecture = get_architecture(name)
        source = Path(sys.modules[architecture.generator.__module__].__file__).read_text(encoding="utf-8")
        for side in ("generator", "discriminator"):
            config = getattr(architecture, f"{side}_config")
            rows = dict(re.findall(rf"^\| `{side}\.(\w+)` \| (.+) \|$", page, re.MULTILINE))
            assert {field.name for field in dataclasses.fields(config)} - set(rows) <= {
                *(("minibatch_std", "packing", "san") if side == "generator" else ()),
                *(() if config.spectral else ("spectral_norm",)),
            }
            for option, row in rows.items():
                kind, default, comment = row.split(" | ", 2)
                assert kind, (name, option)
                assert default.startswith("`"), (name, option)
                assert comment, (name, option)
                own = option in inspect.get_annotations(config)
                assert not own or comment.replace("\\", "").replace("`", "")[:20] in source.replace("`", "")


def test_every_recipe_stands_on_the_page_of_its_generator(pages):
    measured, catalogue = load_measurements(), load_catalogue()
    for name in zoo.list_models():
        recipe = zoo.load_recipe(name)
        page = pages[f"architectures/{recipe.generator.arch}.md"]
        section = page.split(f"\n### {name}\n")[1].split("\n### ")[0].split("\n## ")[0]
        text = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        words = re.findall(r"[a-z]{4,}", section)
        assert set(re.findall(r"[a-z]{4,}", text)) <= set(words)  # the header and the keys
        assert f"{recipe.parameters.generator:,} / {recipe.parameters.discriminator:,}" in section
        for run in measured.runs:
            assert run.recipe != name or f"FID {run.fid:.1f} of {run.samples} fakes" in section
        other = pages[f"architectures/{recipe.discriminator.arch}.md"]
        assert f"\n### {name}\n" in other
        for entry in catalogue.values():
            assert entry.recipe != name or f'src="../../{entry.check.grid}"' in page


def test_every_command_is_documented_with_every_argument():
    page = command_page.command_page()
    sections = dict(re.findall(r"^### (zoo .+)\n((?:.|\n)+?)(?=^##|\Z)", page, re.MULTILINE))
    commands = list(command_page.walk_commands())
    assert len(commands) > 15
    assert set(sections) == {command.prog for command in commands}
    for command in commands:
        cells = re.findall(r"^\| (.+?) \| (.+) \|$", sections[command.prog], re.MULTILINE)
        names = " ".join(name for name, _ in cells)
        for action in command._actions:
            for flag in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"`{flag}[` ]", names), (command.prog, flag)
        assert all(meaning.strip() and "%(" not in meaning for _, meaning in cells)
    assert "| `--seeds SEEDS` | training seeds of each NAME (default: 1) |" in sections["zoo bench"]
    assert "| `RUN\\|FILE`" not in page  # pipes stay as they are in code
    variables = {*re.findall(r"ZOO_[A-Z]+", page)}
    used = {name for path in (ROOT / "zoo").rglob("*.py") for name in re.findall(r"ZOO_[A-Z]+", path.read_text())}
    assert variables == used - {"ZOO_TEST"}


def test_every_public_name_and_contract_is_in_the_reference():
    assert sorted(re.findall(r"^::: zoo\.(\w+)$", api_pages.python_page(), re.MULTILINE)) == zoo.__all__
    names = re.findall(r"^::: ([\w.]+)$", api_pages.contract_page(), re.MULTILINE)
    for name in names:
        place, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(place), attribute).__module__ == place
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"`(?:zoo\.[\w.]+\.)?([A-Z][a-z]+\w*[a-z])`", contributing))
    assert mentioned - {"ZooError"} <= {name.rpartition(".")[2] for name in names}
    with pytest.raises(ValueError, match=r"zoo\.x is of zoo\.runtime\.rng, which no group"):
        api_pages._find_group("x", "zoo.runtime.rng")


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[\w/-]+\.md$", text.partition("\nnav:")[2].partition("\nvalidation:")[0], re.MULTILINE)
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    missing = (pages | set(site_links.PAGES_OUTSIDE)) - {site_links.repository_path(place) for place in listed}
    assert not missing, "add the page to `nav` in mkdocs.yml"


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/data.md", "[a](training.md#keys)", "[a](training.md#keys)"),
        ("docs/data.md", "[plug-ins](../CONTRIBUTING.md)", "[plug-ins](contributing.md)"),
        ("docs/data.md", "see [training.md](training.md).", "see [Training](training.md)."),
        ("README.md", "[docs/training.md](docs/training.md)", "[Training](training.md)"),
        ("README.md", '<img src="benchmarks/pictures/a.png">', '<img src="benchmarks/pictures/a.png">'),
        ("docs/results.md", '<img src="../benchmarks/p.png">', '<img src="benchmarks/p.png">'),
        ("benchmarks/README.md", "![a](pictures/a.png)", "![a](pictures/a.png)"),
        ("benchmarks/README.md", "[b](../docs/speed.md#x)", "[b](../speed.md#x)"),
        ("benchmarks/notes.md", "[c](README.md)", "[c](index.md)"),
        ("docs/architectures/lean.md", "[d](../../zoo/hub/a.png)", "[d](../zoo/hub/a.png)"),
        ("docs/data.md", "[e](https://a.b/c.md) [f](#here) `[g](../h.md)`", None),
        ("docs/data.md", "    [code](../README.md)\n", None),
        ("docs/data.md", "```\n[code](../README.md)\n```\n", None),
        ("docs/data.md", "- item\n\n    [g](../README.md)\n", "- item\n\n    [g](start.md)\n"),
    ],
)
def test_links_for_a_code_host_become_those_of_the_site(page, text, expected):
    titles = {"docs/training.md": "Training"}
    assert site_links.relocate_links(text, page, titles) == (text if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n  b\n\n  c\n", "- a\n    b\n\n    c\n"),
        ("1. a\n   b\n", "1. a\n    b\n"),
        ("a\n  b\n", None),
        ("- a\n\nb\n  c\n", None),
        ("- a\n\n```\n  c\n```\n", None),
    ],
)
def test_lists_are_indented_for_python_markdown(text, expected):
    assert site_links.indent_lists(text) == (text if expected is None else expected)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs builds the site; `make test` installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_is_complete(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 30
    for path, page in pages.items():
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', page)
        for place in loaded:
            assert path.name == "404.html" or (path.parent / place).is_file(), f"{path.name} lacks {place}"
        body = re.sub(r"(?s)<(pre|script|style)\b.*?</\1>", "", page)
        assert not re.search(r"<p>[^<]*\n- ", body), f"a list in {path.name} has no blank line before it"
        assert not re.search(r":(func|class|meth|mod|attr|data):", body), path.name
    search = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    for word in ("skip-layer excitation", "zoo interpolate", "load_generator", "StepOutputs", "fastgan-r3-64"):
        assert word in search
    reference = pages[site / "reference" / "python.html"]
    assert all(f'id="zoo.{name}"' in reference for name in zoo.__all__)


SEARCH = """new Promise((done) => {
  const field = document.querySelector("[data-md-component=search-query]");
  field.focus();
  field.value = "excitation";
  field.dispatchEvent(new Event("keyup", { bubbles: true }));
  const look = () => {
    const links = [...document.querySelectorAll(".md-search-result__link")].map((link) => link.href);
    links.length ? done(links) : setTimeout(look, 50);
  };
  look();
})"""


@pytest.mark.slow
@needs_chromium
def test_the_site_is_read_from_a_disk_without_a_network(site, tmp_path):
    browser = Chromium(tmp_path / "chromium")
    try:
        for place in ("index", "architectures/fastgan", "reference/commands", "reference/python", "benchmarks/index"):
            tab = Tab(browser, site / f"{place}.html", width=390, height=800, mobile=True)
            assert {address.partition(":")[0] for address in tab.requests} <= {"file", "data", "about"}, place
            assert tab.complaints == [], place
            assert tab.run("document.documentElement.scrollWidth") <= 390, place
            tab.close()
        tab = Tab(browser, site / "data.html")
        assert any("architectures/fastgan.html" in link for link in tab.run(SEARCH))
    finally:
        browser.close()
