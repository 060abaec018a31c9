"""The two contracts every architecture keeps, so that any generator trains with any discriminator.

Images are float tensors ``(N, C, H, W)`` aiming at [-1, 1] (-1 is black). A network whose original spoke [0, 1] maps at
its own edge. A generator with a linear output may leave the range in training; whatever becomes a picture is clamped.
Discriminators return logits: where an original ended in a sigmoid, the sigmoid lives in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from zoo.core.schema import Positive


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What pictures are: square, ``resolution`` pixels a side, with 1 (grey), 3 (RGB) or any number of channels; and of
    which classes, as shares of the set, where networks are told them.
    """

    resolution: int
    channels: int
    shares: tuple[float, ...] = ()

    @property
    def classes(self) -> int:
        """How many classes; 0: networks are told none."""
        return len(self.shares)


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a generator is fed: ``dim`` independent standard normal numbers an image."""

    dim: int


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What every network can be told. Architectures add their own fields; all are plain data and round-trip to YAML."""

    conditional: ClassVar[bool] = False  # whether the network can be told classes
    spectral: ClassVar[bool] = (
        True  # whether spectral norm suits it: not where weights are scaled in use, or begin at 0
    )

    width: Positive = 1.0  # scales every channel count inside the network (see zoo.models.layers.scaled)
    spectral_norm: bool = (
        False  # weights divided by their largest singular values (see zoo.models.layers.spectrally_normed)
    )

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
        """``z`` (N, latent.dim), and ``label`` (N,) int64 where there are classes, to images (N, C, H, W) aiming at
        [-1, 1].
        """
        raise NotImplementedError


class Discriminator(nn.Module):
    """Images to logits: positive means "real".

    Attributes:
        image: the pictures it judges.
        auxiliary: weights of losses of its own, by name, which :meth:`judged` gives.
        pretrained: its submodules that begin with timm's weights: their names, and timm's. Building a network reads
            no file (see ``zoo.training.generator_file.load_pretrained``).
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
