"""Repositories on Hugging Face, by a server on this machine that speaks the few endpoints that are used."""

import base64
import hashlib
import http.server
import json
import pickle
import re
import threading

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import zoo
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.evaluation.targets import find_target
from zoo.hub.load import LoadedGenerator

QUICK = {"extractors": ["random"], "num_samples": 24, "device": "cpu"}


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories as {name: {commit: {file: bytes}}}, the last of which is ``main``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, document, status=200, **headers):
        self._answer(json.dumps(document).encode(), status, Content_Type="application/json", **headers)

    def _missing(self, kind):
        self._answer(b"", 404, X_Error_Code=kind, X_Error_Message=kind)

    def do_GET(self):
        hub = self.server
        hub.requests.append((self.command, self.path))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", self.path):
            known = match[1] in hub.repos
            return (
                self._json({"id": match[1], "modelId": match[1], "siblings": []})
                if known
                else self._missing("RepoNotFound")
            )
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if match is None or match[1] not in hub.repos:
            return self._missing("RepoNotFound")
        commits = hub.repos[match[1]]
        commit = [*commits][-1] if match[2] == "main" else match[2]
        if commit not in commits:
            return self._missing("RevisionNotFound")
        if match[3] not in commits[commit]:
            return self._missing("EntryNotFound")
        content = commits[commit][match[3]]
        return self._answer(content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha256(content).hexdigest()}"')

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        hub = self.server
        hub.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            document = json.loads(body)
            hub.created.append(document)
            name = document.get("organization", "owner") + "/" + document["name"]
            hub.repos.setdefault(name, {})
            return self._json({"url": f"{hub.url}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        name = re.match(r"/api/models/([^/]+/[^/]+)/", self.path)[1]
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = hashlib.sha1(body).hexdigest()
        hub.repos[name][commit] = files
        return self._json({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repos, server.requests, server.created = {}, [], []
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def put(hub, folder, commit="a" * 40, repo="owner/tiny"):
    hub.repos.setdefault(repo, {})[commit] = {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def tiny(runs, tmp_path):
    generator = zoo.load_generator(runs / "dcgan-64-000")
    return generator, generator.save_pretrained(tmp_path / "tiny")


def test_load_from_a_folder_and_a_repository(hub, tiny, tmp_path, monkeypatch, capsys):
    generator, folder = tiny
    expected = generator.sample(4)
    put(hub, folder)
    loaded = [
        zoo.load_generator(folder),
        zoo.load_generator("hf:owner/tiny"),
        LoadedGenerator.from_pretrained("owner/tiny"),
    ]
    loaded += [
        zoo.load_generator("hf:owner/tiny@" + "a" * 40),
        LoadedGenerator.from_pretrained("hf:owner/tiny", revision="main"),
    ]
    for each in loaded:
        assert torch.equal(each.sample(4), expected)
        assert (each.nimg, each.recipe) == (generator.nimg, generator.recipe)
    # Only two files are read, and nothing that can hold code; a second load downloads nothing.
    files = {path.rpartition("/")[2] for command, path in hub.requests if command == "GET" and "/resolve/" in path}
    assert files == {"config.json", "model.safetensors"}
    downloads = [path for command, path in hub.requests if command == "GET" and path.endswith(".safetensors")]
    assert len(downloads) == 1
    monkeypatch.chdir(tmp_path)
    for command in (
        ["sample", "hf:owner/tiny", "-n", "4"],
        ["interpolate", "hf:owner/tiny", "-n", "1", "--frames", "2"],
    ):
        assert main([*command, "--device", "cpu"]) == 0, capsys.readouterr().err
    assert (tmp_path / "tiny-samples.png").is_file()
    # Offline, what was downloaded still loads.
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert torch.equal(zoo.load_generator("hf:owner/tiny").sample(4), expected)
    with pytest.raises(
        ZooError, match=r"hf:owner/other: ZOO_OFFLINE is set, and config\.json was not downloaded before"
    ):
        zoo.load_generator("hf:owner/other")


def test_a_revision_is_a_commit(hub, tiny, runs):
    _, folder = tiny
    put(hub, folder, "a" * 40)
    changed = zoo.load_generator(runs / "dcgan-64-000")
    with torch.no_grad():
        next(changed.parameters()).mul_(2)
    changed.save_pretrained(folder)
    put(hub, folder, "b" * 40)
    old, new = (zoo.load_generator(f"hf:owner/tiny@{letter * 40}").sample(2) for letter in "ab")
    assert not torch.equal(old, new)
    assert torch.equal(zoo.load_generator("hf:owner/tiny").sample(2), new)


def edit_config(files, **changes):
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), **changes}).encode()


class Bomb:
    def __reduce__(self):
        return (print, ("code of the repository ran",))


def remove(name):
    return lambda files: files.pop(name)


def replace_weights(content):
    return lambda files: files.update({"model.safetensors": content})


def pickled(files):
    bomb = pickle.dumps(Bomb())
    files["model.safetensors"] = bomb
    edit_config(files, size=len(bomb), sha256=hashlib.sha256(bomb).hexdigest())


WRONG = {
    "no config": (remove("config.json"), r"holds no generator of zoo \(no config.json\)"),
    "no weights": (remove("model.safetensors"), r"\(no model.safetensors\)"),
    "other weights": (replace_weights(b"x" * 100), r"model.safetensors is not the file .* \(wrong hash\)"),
    "damaged": (lambda files: files.update({"config.json": b"{"}), r"\(config.json is damaged\)"),
    "another library": (lambda files: edit_config(files, library="x"), "is that of another library"),
    "a list": (lambda files: files.update({"config.json": b"[1]"}), "is that of another library"),
    "a pickle by name": (lambda files: edit_config(files, weights="model.pt"), "no name of a .safetensors file"),
    "a path": (lambda files: edit_config(files, weights="../x.safetensors"), "no name of a .safetensors file"),
    "no hash": (lambda files: edit_config(files, sha256="x"), "size or sha256 is damaged"),
    "a pickle inside": (pickled, "is not a safetensors file, or damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_repositories_are_one_line_and_run_no_code(hub, tiny, name, capsys):
    change, message = WRONG[name]
    put(hub, tiny[1])
    change(hub.repos["owner/tiny"]["a" * 40])
    with pytest.raises(ZooError, match=message) as caught:
        zoo.load_generator("hf:owner/tiny")
    assert "\n" not in str(caught.value)
    assert "code of the repository" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf:tiny", "must read hf:OWNER/NAME"),
        ("hf:owner/tiny/x", "must read hf:OWNER/NAME"),
        ("hf:owner/tiny@", "must read hf:OWNER/NAME"),
        ("hf:owner/none", "no such repository. For a private one run"),
        ("hf:owner/tiny@nope", "the repository has no such revision"),
    ],
)
def test_addresses(hub, tiny, address, message):
    put(hub, tiny[1])
    for call in (zoo.load_generator, lambda source: find_target(source, "runs")):
        with pytest.raises(ZooError, match=message):
            call(address)


@pytest.mark.slow  # the library tries again for 20 seconds
def test_no_server(hub, tiny, monkeypatch):
    put(hub, tiny[1])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ZooError, match=r"hf:owner/tiny: .*(not downloaded before|cannot be downloaded)") as caught:
        zoo.load_generator("hf:owner/tiny")
    assert "\n" not in str(caught.value)


def test_a_folder_with_other_weights_is_refused(tiny):
    _, folder = tiny
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ZooError, match=r"is not the file that config\.json describes \(wrong hash"):
        zoo.load_generator(folder)


def check_card(folder, arch):
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("gan-zoo", "unconditional-image-generation")
    assert (data.license, data.license_link) == ("other", "LICENSE.md")
    assert (folder / "LICENSE.md").read_text().startswith("# Licence of ")
    assert data.tags == ["gan", arch]  # phantoms are not medical images
    return data


def test_cards_have_valid_headers(tiny, published):
    assert check_card(tiny[1], "dcgan").eval_results is None
    results = {result.metric_type: result for result in check_card(published, "dcgan").eval_results}
    entry = json.loads((published / "card.json").read_text())["entry"]
    for name, value in entry["metrics"].items():
        assert results[name].metric_value == value["value"]
    assert results["fid"].metric_name == "FID (random)"
    header = yaml.safe_load((published / "README.md").read_text().split("---")[1])
    assert header["model-index"][0]["name"] == "tiny"


def test_push_evaluates_first_and_loads_again(hub, runs):
    generator = zoo.load_generator(runs / "dcgan-64-000", precision="fp32")
    address = generator.push_to_hub("owner/brains", private=True, name="tiny", **QUICK)
    assert address == f"{hub.url}/owner/brains"
    assert "private" in (hub.created[0].get("visibility"), "private" if hub.created[0].get("private") else None)
    (files,) = hub.repos["owner/brains"].values()
    assert {"README.md", "LICENSE.md", "config.json", "card.json", "tiny.safetensors", "recipe.yaml"} <= files.keys()
    loaded = LoadedGenerator.from_pretrained("owner/brains", precision="fp32")
    difference = loaded.sample(8).int() - generator.sample(8).int()
    assert difference.abs().max() <= 3  # fp16 weights
    with torch.no_grad():
        next(generator.parameters()).mul_(2)
    with pytest.raises(ZooError, match="the weights are not those of a file"):
        generator.push_to_hub("owner/brains", **QUICK)


def test_published_folders_load(published):
    assert zoo.load_generator(published).nimg == zoo.load_generator(published / "tiny.safetensors").nimg
