"""Downloads, from a server of our own: broken off and gone on with, wrong files, and no server at all."""

import hashlib
import http.server
import re
import threading

import pytest

from zoo.core.errors import ZooError
from zoo.core.progress import RecordingReporter
from zoo.hub import download

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
KNOWN = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


class Reporter(RecordingReporter):
    """Counts kilobytes."""

    def __init__(self):
        super().__init__()
        self.done = 0

    def advance(self, n):
        self.done += n


@pytest.fixture
def server(monkeypatch):
    """Serves ``content`` at any path, ``limit`` bytes an answer (None: all), with ranges if ``ranges``."""
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append((self.path, self.headers.get("Range")))
            if "missing" in self.path:
                return self.send_error(404)
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(found[1]) if found and state.ranges else 0
            if start >= len(state.content):
                return self.send_error(416)
            self.send_response(206 if found and state.ranges else 200)
            if found and state.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            self.wfile.write(state.content[start : start + state.limit if state.limit else None])
            return None

        def log_message(self, *_):
            pass

    state = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.content, state.limit, state.ranges, state.asked = CONTENT, None, True, []
    state.url = f"http://127.0.0.1:{state.server_address[1]}"
    thread = threading.Thread(target=state.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    state.shutdown()
    state.server_close()
    thread.join()


def fetch(server, path, reporter=None, **more):
    download.download_file(f"{server.url}/x", path, **{**KNOWN, **more}, reporter=reporter or Reporter())


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_comes_whole_and_once(server, tmp_path):
    path, reporter = tmp_path / "cache" / "x.safetensors", Reporter()
    fetch(server, path, reporter)
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == ["x.safetensors"]
    assert reporter.done == len(CONTENT) // 1000
    assert "0.5 MB" in reporter.lines[0]
    fetch(server, path)
    assert len(server.asked) == 1


def test_a_connection_that_breaks_off_is_taken_up_again(server, tmp_path):
    server.limit = 200_000
    fetch(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["bytes=0-", "bytes=200000-", "bytes=400000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_the_next_call_goes_on(server, tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(download, "TRIES", 1)
    server.limit = 300_000
    with pytest.raises(ZooError, match=r"300,000 of 512,000 bytes .* goes on from there"):
        fetch(server, tmp_path / "x")
    assert visible(tmp_path) == ["x.part"]
    server.limit, server.ranges = None, ranges
    reporter = Reporter()
    fetch(server, tmp_path / "x", reporter)
    assert server.asked[-1][1] == "bytes=300000-"
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert reporter.done == len(CONTENT) // 1000


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x", CONTENT[:1000]])
def test_another_file_is_refused_and_leaves_nothing(server, tmp_path, content):
    server.content = content
    with pytest.raises(ZooError, match=r"another file than the one expected|1,000 of 512,000 bytes"):
        fetch(server, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    server.content = CONTENT
    fetch(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_no_such_file_and_no_server(server, tmp_path):
    with pytest.raises(ZooError, match="missing: 404"):
        download.download_file(f"{server.url}/missing", tmp_path / "x", **KNOWN, reporter=Reporter())
    with pytest.raises(ZooError, match=r"0 of 512,000 bytes \("):
        download.download_file("http://127.0.0.1:9/x", tmp_path / "x", **KNOWN, reporter=Reporter())


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZooError, match="cannot be written"):
        fetch(server, tmp_path / "file" / "x")


def test_addresses(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert download.download_url("hf:owner/name/a/b.x") == "https://huggingface.co/owner/name/resolve/main/a/b.x"
    assert download.download_url("https://example.org/x") == "https://example.org/x"


def test_offline(monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert download.offline_reason() == ""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download.offline_reason() == "HF_HUB_OFFLINE is set"


def test_packaged_weights_are_fetched_by_name(server, tmp_path, monkeypatch):
    import torch

    import zoo
    from zoo import recipes
    from zoo.hub import pretrained
    from zoo.training.generator_file import save_generator

    resolved = recipes.load_recipe(
        "dcgan-64", ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125"]
    )
    torch.manual_seed(0)
    save_generator(
        tmp_path / "g.safetensors", recipes.build_networks(resolved)[0], recipe=resolved, nimg=7, dtype=torch.float16
    )
    server.content = (tmp_path / "g.safetensors").read_bytes()
    server.limit = len(server.content) // 2 + 1
    entry = pretrained.PretrainedWeights(
        name="far",
        sha256=hashlib.sha256(server.content).hexdigest(),
        size=len(server.content),
        recipe=resolved.name,
        recipe_digest=resolved.digest,
        resolution=16,
        nimg=7,
        data="none",
        licence="any",
        url="hf:owner/models/far.safetensors",
    )
    monkeypatch.setattr(pretrained, "CATALOGUE", tmp_path / "weights.yaml")
    pretrained.CATALOGUE.write_text(pretrained._to_yaml({"far": entry}, ""))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    assert entry.where == f"to fetch: {server.url}/owner/models/resolve/main/far.safetensors"
    generator = zoo.load_generator("far", runs=tmp_path)
    assert generator.nimg == 7
    assert len(server.asked) == 2
    assert entry.where == "cached"
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert torch.equal(zoo.load_generator("far", runs=tmp_path).sample(2), generator.sample(2))
