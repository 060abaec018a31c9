"""The two contracts every architecture keeps, so that any generator trains with any discriminator.

Images are float tensors ``(N, C, H, W)`` aiming at [-1, 1] (-1 is black). A network whose original spoke [0, 1] maps at
its own edge. A generator with a linear output may leave the range in training; whatever becomes a picture is clamped.
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
        image: the pictures it makes.
        latent: the latents it takes.
    """

    def __init__(self, config: NetworkConfig, image: ImageSpec, latent: LatentSpec) -> None:
        super().__init__()
        config.validate(image)
        self.image = image
        self.latent = latent

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """``z`` (N, latent.dim), and ``label`` (N,) int64 where there are classes, to images (N, C, H, W) aiming at
        [-1, 1].
        """
        raise NotImplementedError


class Discriminator(nn.Module):
    """Images to logits; positive logits mean "real".

    Attributes:
        image: the pictures it judges.
        auxiliary: weights of losses of its own, by name, which :meth:`judged` gives.
        pretrained: its submodules that begin with timm's weights: their names, and timm's. Building a network reads
            no file (see ``zoo.training.warm_start.load_pretrained_backbones``).
    """

    auxiliary: Mapping[str, float] = MappingProxyType({})
    pretrained: Mapping[str, str] = MappingProxyType({})

    def __init__(self, config: NetworkConfig, image: ImageSpec) -> None:
        super().__init__()
        config.validate(image)
        self.image = image

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to logits (N,), or (N, ...) where there are several verdicts an image."""
        raise NotImplementedError

    def judged(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of real images, and a scalar for every name in ``auxiliary``, from one pass; in D's own phase."""
        return self(x, label), {}


@runtime_checkable
class StyleGenerator(Protocol):
    """The optional hook of generators with a mapping network: what truncation and style mixing are built on."""

    num_styles: int  # how many layers or blocks take a style of their own

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """``z`` (N, latent.dim) to styles w (N, width of w)."""
        ...

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles (N, num_styles, width of w), one a block, to images (N, C, H, W)."""
        ...
