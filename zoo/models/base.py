"""The contracts of all architectures, by which any generator trains with any discriminator.

Images are float tensors ``(N, C, H, W)`` in about [-1, 1] (-1 is black). A network whose original used [0, 1] converts
at its own output or input. A linear output may leave the range in training; it is clamped when it becomes an image.
Discriminators return logits: where an original ended in a sigmoid, the sigmoid lives in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig


class Generator(nn.Module):
    """Latents to images.

    Attributes:
        image: shape and classes of the images it generates.
        latent: shape of the latents it takes.
    """

    def __init__(self, config: NetworkConfig, image: ImageSpec, latent: LatentSpec) -> None:
        super().__init__()
        config.validate(image)
        self.image = image
        self.latent = latent

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents (N, latent.dim), and classes (N,) int64 if there are any, to images (N, C, H, W) in about [-1, 1]."""
        raise NotImplementedError


class Discriminator(nn.Module):
    """Images to logits; positive logits mean "real".

    Attributes:
        image: shape and classes of the images it takes.
        auxiliary: weights of the losses that :meth:`judged` returns, by name.
        pretrained: names of submodules that start with pretrained weights, and timm's names of these. Building a
            network reads no file (see ``zoo.training.warm_start.load_pretrained_backbones``).
    """

    auxiliary: Mapping[str, float] = MappingProxyType({})
    pretrained: Mapping[str, str] = MappingProxyType({})

    def __init__(self, config: NetworkConfig, image: ImageSpec) -> None:
        super().__init__()
        config.validate(image)
        self.image = image

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to logits (N,), or (N, ...) with several logits per image."""
        raise NotImplementedError

    def judged(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of real images, and a scalar for every name in ``auxiliary``, from one pass; in the phase of D."""
        return self(x, label), {}


@runtime_checkable
class StyleGenerator(Protocol):
    """Optional interface of generators with a mapping network, for truncation and style mixing."""

    num_styles: int  # number of layers or blocks that each take a style

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """``z`` (N, latent.dim) to styles w (N, width of w)."""
        ...

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles (N, num_styles, width of w), one per block, to images (N, C, H, W)."""
        ...
