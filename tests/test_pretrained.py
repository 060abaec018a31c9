"""Pretrained weights: the catalogue, the shipped files and their downloads."""

import contextlib
import hashlib
import http.server
import json
import shutil
import socket
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import recipes
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.core.network import offline_reason
from zoo.core.progress import RecordingReporter
from zoo.hub import pretrained
from zoo.hub.pretrained import PretrainedWeights, load_catalogue
from zoo.metrics.ssim.ssim import ssim
from zoo.report import image_grid
from zoo.training.generator_file import load_generator_file

SHIPPED = [entry for entry in load_catalogue().values() if entry.local is not None]


def check_entry(entry):
    """Check that an entry's file is complete, fits, and makes the images that it made when it was published."""
    path = entry.path()
    loaded, resolved, nimg = load_generator_file(path)
    assert (resolved.digest, nimg) == (entry.recipe_digest, entry.nimg)
    assert (loaded.image.resolution, loaded.image.channels) == (entry.resolution, entry.channels)
    images = zoo.load_generator(path, precision="fp32").sample(16)
    levels = images.double()
    assert float(levels.mean()) == pytest.approx(entry.check.mean, abs=0.5)
    assert float(levels.std()) == pytest.approx(entry.check.std, abs=0.5)
    with Image.open(pretrained.ROOT / entry.check.grid) as image:
        expected = torch.from_numpy(np.array(image))
    grid = torch.from_numpy(np.array(image_grid.make_grid(images, entry.check.columns)))
    assert expected.shape == grid.shape
    expected, grid = (x.reshape(1, *x.shape[:2], -1).permute(0, 3, 1, 2) for x in (expected, grid))
    assert float(ssim(expected.float(), grid.float(), 255)) > 0.98
    assert (pretrained.ROOT / entry.card).is_file()
    assert "memorisation" not in entry.judged.alarms


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_shipped_weights_are_unchanged(entry):
    check_entry(entry)


@pytest.fixture
def repository(tmp_path, published, monkeypatch):
    """A repository with its own catalogue, which replaces the real one."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "pretrained.yaml").write_text("# A comment.\n{}\n")
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    monkeypatch.setattr(pretrained, "CATALOGUE", tmp_path / "zoo" / "pretrained.yaml")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("entry", load_catalogue().values(), ids=lambda entry: entry.name)
def test_shipped_entry_is_named_after_its_recipe(entry):
    """A name that stood for weights of another recipe would have two values of each metric."""
    assert entry.name == entry.recipe
    # Only what it started from may differ from the recipe, which leaves that open.
    start = zoo.load_generator(entry.name).recipe.train.init_from
    overrides = [] if start is None else [f"train.init_from={start}"]
    assert recipes.load_recipe(entry.recipe, overrides).digest == entry.recipe_digest
    assert entry.judged is not None
    card = (pretrained.ROOT / entry.card).read_text(encoding="utf-8")
    assert f"# {entry.name}\n" in card
    assert f"trained by the recipe `{entry.recipe}` (`recipe.yaml`, digest {entry.recipe_digest})" in card


def test_shipped_aliases_are_the_best_generators_of_their_sizes():
    entries = load_catalogue().values()
    for entry in entries:
        same_size = [other for other in entries if other.resolution == entry.resolution]
        best = min(same_size, key=lambda other: other.metrics["fid"].value)
        assert entry.alias == (f"brain-{entry.resolution}" if entry is best else None)
    assert not {entry.alias for entry in entries} & set(recipes.list_models())


def test_alias_loads_the_same_generator(tmp_path):
    alias, name = (zoo.load_generator(name, runs=tmp_path) for name in ("brain-28", "fastgan-r3-28"))
    assert alias.recipe.name == "fastgan-r3-28"
    assert torch.equal(alias.sample(2), name.sample(2))


@pytest.mark.parametrize(
    ("recipe", "instead"),
    [
        ("dcgan-64", "dcgan-64-stable, fastgan-r3-64, fastgan-r3-64-packed, brain-64"),
        ("multires-28", "fastgan-r3-28, multires-28-stable, brain-28"),
    ],
)
def test_recipe_without_weights_names_those_of_its_size(recipe, instead, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    message = (
        f"No trained weights for '{recipe}' in runs/ or among the pretrained models. Train it with `zoo train {recipe}`"
    )
    with pytest.raises(ZooError, match="No trained weights") as error:
        zoo.load_generator(recipe)
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(f"load pretrained weights of {recipe[-2:]} pixels: {instead}.")
    for command in ("sample", "interpolate", "report"):
        assert main([command, recipe]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_alias_moves_to_the_new_entry(repository, published):
    first = pretrained.add_to_catalogue(published, alias="brain-16")
    pretrained.CATALOGUE.write_text(pretrained._to_yaml({"older": replace(first, name="older")}, ""))
    added = pretrained.add_to_catalogue(published, alias="brain-16")
    assert {name: entry.alias for name, entry in load_catalogue().items()} == {"older": None, "tiny": "brain-16"}
    assert pretrained.add_to_catalogue(published) == added  # the alias stays with the name
    assert pretrained.load_named_weights()["brain-16"] == added
    pretrained.CATALOGUE.write_text(pretrained._to_yaml({"brain-16": replace(added, alias=None), "tiny": added}, ""))
    with pytest.raises(ZooError, match=r"brain-16\.alias: is also the name or alias of another entry"):
        load_catalogue()


def test_published_folder_becomes_an_entry_that_loads(repository, published):
    entry = pretrained.add_to_catalogue(published)
    assert entry.file == "zoo/hub/_weights/tiny.safetensors"
    assert load_catalogue() == {"tiny": entry}
    text = (repository / "zoo" / "pretrained.yaml").read_text()
    assert text.startswith("# A comment.\ntiny:\n")
    assert "(tiny.png)" in (repository / "zoo" / "hub" / "_weights" / "tiny.md").read_text()
    assert entry.where == "packaged"
    check_entry(entry)
    assert zoo.load_generator("tiny").nimg == entry.nimg
    assert pretrained.add_to_catalogue(published, to=pretrained.IN_REPOSITORY).where == "in the repository"
    assert list(load_catalogue()) == ["tiny"]


def test_runs_come_before_pretrained_weights(repository, published, runs):
    entry = replace(pretrained.add_to_catalogue(published), name="dcgan-64")
    pretrained.CATALOGUE.write_text(pretrained._to_yaml({"dcgan-64": entry}, ""))
    here = zoo.load_generator("dcgan-64", runs=repository / "none")
    assert here.recipe.name == "dcgan-64"
    local = zoo.load_generator("dcgan-64", runs=runs)
    assert not torch.equal(next(here.parameters()), next(local.parameters()))  # rounded to fp16, and not


def test_changed_file_is_refused(repository, published):
    entry = pretrained.add_to_catalogue(published)
    data = bytearray(entry.local.read_bytes())
    data[-1] ^= 1
    entry.local.write_bytes(data)
    with pytest.raises(ZooError, match="is not the file of the catalogue"):
        zoo.load_generator("tiny")
    with pytest.raises(ZooError, match="was not written by `zoo publish`"):
        pretrained.read_published_folder(repository)


def test_weights_without_address_say_which_file_goes_where(repository, published):
    entry = pretrained.add_to_catalogue(published, to=None)
    assert (entry.local, entry.url) == (None, None)
    assert entry.where == f"to be put into {entry.cached}"
    with pytest.raises(ZooError, match=r"no public address\. Put tiny-") as error:
        zoo.load_generator("tiny")
    assert str(entry.cached.parent) in str(error.value)
    entry.cached.parent.mkdir(parents=True)
    shutil.copyfile(published / "tiny.safetensors", entry.cached)
    assert entry.where == "cached"
    assert zoo.load_generator("tiny").recipe.name == "dcgan-64"


def test_offline_says_which_file_goes_where(repository, published):
    pretrained.add_to_catalogue(published, to=None, url="hf:owner/models/tiny.safetensors")
    address = "https://huggingface.co/owner/models/resolve/main/tiny.safetensors"
    with pytest.raises(ZooError, match=f"ZOO_OFFLINE is set. Put {address} as tiny-"):
        zoo.load_generator("tiny")


def test_weights_on_the_command_line(repository, published, capsys):
    assert main(["weights"]) == 0
    assert "no weights come with this version" in capsys.readouterr().out
    pretrained.add_to_catalogue(published)
    assert main(["weights"]) == 0
    out = capsys.readouterr().out
    assert "tiny" in out
    assert "packaged" in out
    assert main(["weights", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["where"] == "packaged"
    assert row["metrics"]["fid"]["value"] > 0
    assert main(["sample", "tiny", "-n", "4", "--device", "cpu", "--out", "x.npz"]) == 0
    assert np.load("x.npz")["images"].shape == (4, 1, 16, 16)
    assert main(["sample", "tine", "-n", "4"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
    words = ["--data", "phantoms:4", "--spaces", "random", "--metrics", "fid", "--samples", "24", "--device", "cpu"]
    assert main(["report", "tiny", *words]) == 0
    assert (repository / "tiny-report.html").is_file()
    assert main(["bench", "tiny", *words]) == 0
    assert "| tiny |" in (repository / "bench" / "table.md").read_text()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"alias": "a.b"}, "alias: must be letters"),
        ({"sha256": "0"}, "sha256: must be 64 hexadecimal digits"),
        ({"url": "http://example.org/x"}, "url: must be https://"),
        ({"file": "/etc/passwd"}, "must be a path from the repository's root"),
        ({"file": "zoo/../../x"}, "must be a path from the repository's root"),
        ({"sise": 3}, "unknown key \\(did you mean 'size'\\?\\)"),
        ({"nimg": "many"}, "x.nimg: must be a whole number"),
    ],
)
def test_mistakes_in_the_catalogue_are_reported(change, why, tmp_path):
    import yaml

    keys = {"sha256": "0" * 64, "size": 1, "recipe": "x", "recipe_digest": "y", "resolution": 8, "nimg": 1}
    keys |= {"data": "", "licence": "", **change}
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump({"x": keys}))
    with pytest.raises(ZooError, match=why):
        load_catalogue(tmp_path / "weights.yaml")


def test_card_keeps_the_entry(repository, published):
    entry = pretrained.read_published_folder(published)
    assert isinstance(entry, PretrainedWeights)
    resolved = recipes.load_recipe(published / "recipe.yaml")
    assert resolved.digest == entry.recipe_digest
    (repository / "card.json").write_text("{")
    with pytest.raises(ZooError, match="is damaged"):
        pretrained.read_published_folder(repository)


CONTENT = bytes(range(256)) * 2000  # 512,000 bytes


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of ``content`` at any path; at most ``limit`` bytes of it, and silent for ``delay`` seconds."""
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            state.requests.append((self.command, self.path))
            state.silence.wait(state.delay)
            if "missing" in self.path:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(state.content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(BrokenPipeError):  # the client has timed out
                    self.wfile.write(state.content[: state.limit])
            return None

        def log_message(self, *_):
            pass

    state = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.content, state.limit, state.delay, state.requests = CONTENT, None, 0, []
    state.silence = threading.Event()
    state.url = f"http://127.0.0.1:{state.server_address[1]}"
    thread = threading.Thread(target=state.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    state.silence.set()
    state.shutdown()
    state.server_close()
    thread.join()


def far_entry(url, content=CONTENT, **changes):
    keys = {"name": "far", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "recipe": "dcgan-64"}
    keys |= {"recipe_digest": "x", "resolution": 16, "nimg": 7, "data": "none", "licence": "any"}
    entry = PretrainedWeights(**keys | changes)
    object.__setattr__(entry, "url", url)  # the catalogue allows https only
    return entry


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_download_once_and_completely(server):
    entry, reporter = far_entry(f"{server.url}/x"), RecordingReporter()
    assert entry.path(reporter).read_bytes() == CONTENT
    assert files_in(entry.cached.parent) == [entry.cached.name]
    assert "0.5 MB" in reporter.lines[0]
    assert entry.path() == entry.cached
    assert len(server.requests) == 1
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x", CONTENT[:1000]])
def test_download_of_another_file_is_refused_and_leaves_nothing(server, content):
    entry = far_entry(f"{server.url}/x")
    server.content = content
    with pytest.raises(ZooError, match="is not the file of the catalogue"):
        entry.path()
    assert files_in(entry.cached.parent) == []
    server.content = CONTENT
    assert entry.path().read_bytes() == CONTENT


def test_failed_downloads_are_one_line_and_leave_nothing(server, monkeypatch):
    monkeypatch.setattr(pretrained, "DOWNLOAD_TIMEOUT_SECONDS", 0.2)
    entries = [(far_entry(f"{server.url}/missing"), "404"), (far_entry("http://127.0.0.1:9/x"), "refused")]
    for entry, reason in entries:
        with pytest.raises(ZooError, match=rf"cannot be downloaded \(.*{reason}.*\)$"):
            entry.path()
    server.limit = 300_000
    entry = far_entry(f"{server.url}/x")
    with pytest.raises(ZooError, match=r"is not the file of the catalogue|cannot be downloaded"):
        entry.path()
    server.limit, server.delay = None, 5
    with pytest.raises(ZooError, match="timed out"):
        entry.path()
    assert files_in(entry.cached.parent) == []


def test_download_into_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ZooError, match="cannot be written"):
        far_entry(f"{server.url}/x").path()


def test_offline_reason(monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert offline_reason() == ""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert offline_reason() == "HF_HUB_OFFLINE is set"


def test_load_downloads_from_hugging_face_by_name(server, published, tmp_path, monkeypatch):
    server.content = (published / "tiny.safetensors").read_bytes()
    entry = far_entry("hf:owner/models/far.safetensors", server.content)
    monkeypatch.setattr(pretrained, "CATALOGUE", tmp_path / "pretrained.yaml")
    pretrained.CATALOGUE.write_text(pretrained._to_yaml({"far": entry}, ""))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    assert entry.where == f"to fetch: {server.url}/owner/models/resolve/main/far.safetensors"
    generator = zoo.load_generator("far", runs=tmp_path)
    assert generator.nimg == 32
    # The library also asks for other things than the file, once per process.
    assert [command for command, path in server.requests if path.endswith("/far.safetensors")] == ["HEAD", "GET"]
    assert files_in(entry.cached.parent) == [entry.cached.name]
    assert entry.where == "cached"
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert torch.equal(zoo.load_generator("far", runs=tmp_path).sample(2), generator.sample(2))
    entry.cached.unlink()
    monkeypatch.delenv("ZOO_OFFLINE")
    server.content = CONTENT
    with pytest.raises(ZooError, match="is not the file of the catalogue"):
        zoo.load_generator("far", runs=tmp_path)
    assert files_in(entry.cached.parent) == []
