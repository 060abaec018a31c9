"""The two contracts every architecture keeps, so that any generator trains with any discriminator.

Images are float tensors ``(N, C, H, W)`` aiming at [-1, 1] (-1 is black). A network whose original spoke [0, 1] maps at
its own edge. A generator with a linear output may leave the range in training; whatever becomes a picture is clamped.
Discriminators return logits: where an original ended in a sigmoid, the sigmoid lives in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from zoo.schema import Positive


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What pictures are: square, ``resolution`` pixels a side, with 1 (grey), 3 (RGB) or any number of channels."""

    resolution: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a generator is fed: ``dim`` independent standard normal numbers an image."""

    dim: int


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What every network can be told. Architectures add their own fields; all are plain data and round-trip to YAML."""

    width: Positive = 1.0  # scales every channel count inside the network (see zoo.layers.scaled)

    def validate(self, image: ImageSpec) -> None:
        """Refuse pictures this network cannot make or judge.

        Raises:
            ValueError: one line naming the sizes it takes.
        """


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
        """``z`` (N, latent.dim) to images (N, C, H, W) aiming at [-1, 1]."""
        raise NotImplementedError


class Discriminator(nn.Module):
    """Images to logits: positive means "real".

    Attributes:
        image: the pictures it judges.
    """

    def __init__(self, config: NetworkConfig, image: ImageSpec) -> None:
        super().__init__()
        config.validate(image)
        self.image = image

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to logits (N,), or (N, ...) where there are several verdicts an image."""
        raise NotImplementedError


@runtime_checkable
class StyleGenerator(Protocol):
    """The optional hook of generators with a mapping network: what truncation and style mixing are built on."""

    num_styles: int  # how many layers or blocks take a style of their own

    def mapping(self, z: Tensor) -> Tensor:
        """``z`` (N, latent.dim) to styles w (N, width of w)."""
        ...

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles (N, num_styles, width of w), one a block, to images (N, C, H, W)."""
        ...
