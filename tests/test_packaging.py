"""What is built for others agrees with pyproject.toml: metadata, the README of the package index, the Dockerfile."""

import importlib
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def absolute_readme(monkeypatch):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; `make test` installs it")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "hooks"))
    return importlib.import_module("pypi_readme").absolute_readme


@pytest.fixture(scope="module")
def docker():
    """The instructions of the Dockerfile, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def arguments(docker, name):
    return [text for instruction, text in docker if instruction == name]


def test_classifiers_name_the_versions_of_python_from_the_lowest_on():
    lowest = PROJECT["requires-python"].removeprefix(">=")
    listed = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert listed[0] == lowest
    assert listed == [f"3.{int(lowest[2:]) + index}" for index in range(len(listed))]


def test_readme_of_the_index_has_no_relative_link(absolute_readme):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = r'\]\((?!https?:|#)|(?:src|href)="(?!https?:)'
    assert re.search(relative, text)
    plain = absolute_readme(text, None, "1.2.3")
    assert not re.search(relative, plain)
    assert "<img" not in plain
    assert "docs/training.md" in plain
    full = absolute_readme(text, "https://host/o/zoo/", "1.2.3")
    assert not re.search(relative, full)
    assert 'src="https://host/o/zoo/raw/v1.2.3/benchmarks/pictures/brain-256.png"' in full
    assert "[docs/training.md](https://host/o/zoo/blob/v1.2.3/docs/training.md)" in full
    assert full.count("<img") == text.count("<img")


@pytest.mark.parametrize(
    ("text", "without", "with_address"),
    [
        ("[a](b.md#c) d", "a d", "[a](H/blob/v1/b.md#c) d"),
        ("[a](https://b.c)", "[a](https://b.c)", "[a](https://b.c)"),
        ("[a](#b)", "[a](#b)", "[a](#b)"),
        ("![a](b.png)", "", "![a](H/raw/v1/b.png)"),
        ('<img src="b.png" alt="x"> t', "t", '<img src="H/raw/v1/b.png" alt="x"> t'),
        ('<img src="https://b.c">', '<img src="https://b.c">', '<img src="https://b.c">'),
    ],
)
def test_links_of_the_readme(absolute_readme, text, without, with_address):
    assert absolute_readme(text, None, "1") == without
    assert absolute_readme(text, "https://h", "1") == with_address.replace("H/", "https://h/")


def test_dockerfile_agrees_with_the_project(docker):
    *stages, final = arguments(docker, "FROM")
    names = [stage.split(" AS ")[1] for stage in stages]
    (default,) = (text for text in arguments(docker, "ARG"))
    assert (final, default, names) == ("${DEVICE}", "DEVICE=cpu", ["cpu", "cuda"])
    pythons = {version for _, text in docker for version in re.findall(r"python:?(3\.\d+)", text)}
    assert len(pythons) == 1
    assert f"Programming Language :: Python :: {pythons.pop()}" in PROJECT["classifiers"]
    (torch,) = (line for line in PROJECT["dependencies"] if line.startswith("torch>"))
    runs = arguments(docker, "RUN")
    assert sum(f'"{torch}"' in run for run in runs) == len(names)
    (extras,) = (match[1] for run in runs if (match := re.search(r"/src\[([\w,]+)\]", run)))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert arguments(docker, "ENTRYPOINT") == [f'["{next(iter(PROJECT["scripts"]))}"]']


def test_container_has_no_privileges_and_keeps_its_cache(docker):
    instructions = [instruction for instruction, _ in docker]
    assert arguments(docker, "USER") == ["zoo"]
    assert "RUN" not in instructions[instructions.index("USER") :]
    (volume,) = arguments(docker, "VOLUME")
    assert any(f"XDG_CACHE_HOME={volume} " in text for text in arguments(docker, "ENV"))
    assert any(re.search(rf"-m 1777 {volume}\b", run) for run in arguments(docker, "RUN"))


def test_dockerfile_copies_what_the_wheel_is_built_from(docker, tmp_path, monkeypatch):
    build = pytest.importorskip("hatchling.build", reason="hatchling builds the wheel; `make test` installs it")
    for line in arguments(docker, "COPY"):
        *sources, target = line.split()
        for source in sources:
            place = tmp_path / target.removeprefix("/") / (source if target.endswith("/") else "")
            ignored = shutil.ignore_patterns("_weights", "__pycache__")  # large, and not needed here
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=ignored)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    monkeypatch.chdir(tmp_path / "src")
    monkeypatch.setattr(sys, "path", [*sys.path])
    wheel = tmp_path / build.build_wheel(str(tmp_path))
    assert wheel.is_file()
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
        assert "zoo/_recipes/dcgan-64.yaml" in archive.namelist()
    assert "Author: The zoo authors" in metadata
    assert "Description-Content-Type: text/markdown" in metadata
    assert "\n# zoo\n" in metadata
