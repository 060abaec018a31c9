"""R3GAN (Huang et al. 2024, arXiv:2501.05441): a modern baseline without tricks.

Notable: residual blocks of a wide grouped convolution between two of a single pixel, no normalisation, no styles, no
noise; what keeps it stable is the loss (a local convergence proof holds for RpGAN + R1 + R2) and a start at which every
residual branch gives nothing.

Differs from the paper in: the recipes' widths (the paper's own, 768 channels at 4 to 32 pixels, are the config's
defaults); fewer blocks a resolution in small recipes; constant learning rate, betas and penalty weights; the
output is cut to [-1, 1], because a linear one varies around the black of which most of a medical image consists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import (
    blur_down,
    blur_up,
    check_stages,
    clip_output,
    count_doublings,
    require_label,
    scale_channels,
)
from zoo.models.registry import register_architecture

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))  # He et al. 2015, equation 15
_PAPER = (768, 768, 768, 768, 384, 192, 96)  # at 4, 8, 16, ... 256 pixels


def convolution(channels: int, out: int, kernel: int, *, groups: int = 1, gain: float = 1.0) -> nn.Conv2d:
    """A convolution without bias, weights N(0, gain^2 / fan in); ``gain`` 0 is a branch that starts at zero."""
    layer = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    return layer


class Activation(nn.Module):
    """A bias a channel, then a leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[:, None, None].to(x.dtype), _SLOPE)


class R3GANResidual(nn.Module):
    """x + branch(x) (the paper's figure 3, right).

    Args:
        channels: of input and output.
        group: channels a group of the 3 x 3 convolution.
        expansion: how much wider the branch is.
        blocks: in the whole network; branches start smaller where there are many (Zhang et al. 2019, Fixup).
    """

    def __init__(self, channels: int, group: int, expansion: int, blocks: int) -> None:
        super().__init__()
        inner = channels * expansion
        groups = max(1, inner // group)
        while inner % groups:  # thin networks have no whole number of such groups
            groups -= 1
        gain = _GAIN * blocks**-0.25  # two layers with this gain, one that starts at zero
        self.branch = nn.Sequential(
            convolution(channels, inner, 1, gain=gain),
            Activation(inner),
            convolution(inner, inner, 3, groups=groups, gain=gain),
            Activation(inner),
            convolution(inner, channels, 1, gain=0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


@dataclass(frozen=True, kw_only=True)
class R3GANConfig(NetworkConfig):
    """Options of both networks."""

    conditional: ClassVar[bool] = True
    spectral: ClassVar[bool] = False

    channels: tuple[Count, ...] = _PAPER  # at 4, 8, 16, ... pixels; larger images want more of them
    blocks: Count = 2  # at each resolution
    group: Count = 16  # channels a group
    expansion: Count = 2  # how much wider the grouped convolutions are
    embedding: Count = 64  # dimension of the embedding of a class


@dataclass(frozen=True, kw_only=True)
class R3GANGeneratorConfig(R3GANConfig):
    latent: Count = 64  # dimension of the latent

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, self.channels, "an R3GAN generator", "generator")


class R3GANGenerator(Generator):
    def __init__(self, config: R3GANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        stages = count_doublings(image.resolution, "an R3GAN generator")
        widths = [scale_channels(c, config.width) for c in config.channels[: stages + 1]]
        count = config.blocks * len(widths)
        self.embedding = nn.Embedding(image.classes, config.embedding) if image.classes else None
        inside = config.latent + (config.embedding if image.classes else 0)
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.linear = nn.Linear(inside, widths[0], bias=False)
        nn.init.normal_(self.linear.weight, std=1 / math.sqrt(inside))
        layers: list[nn.Module] = []
        for index, width in enumerate(widths):
            if index:
                layers.append(R3GANUp(widths[index - 1], width))
            layers += [R3GANResidual(width, config.group, config.expansion, count) for _ in range(config.blocks)]
        self.layers = nn.Sequential(*layers)
        self.to_image = convolution(widths[-1], image.channels, 1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(require_label(label))], 1)
        return clip_output(self.to_image(self.layers(self.basis * self.linear(z)[..., None, None])))


class R3GANUp(nn.Module):
    """Twice the resolution, in as many channels as ``out``: a convolution of one pixel, before it gets expensive."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.change = convolution(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return blur_up(self.change(x))


class R3GANDown(nn.Module):
    """The same the other way."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.change = convolution(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.change(blur_down(x))


@dataclass(frozen=True, kw_only=True)
class R3GANDiscriminatorConfig(R3GANConfig):
    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, self.channels, "an R3GAN discriminator", "discriminator")


class R3GANDiscriminator(Discriminator):
    def __init__(self, config: R3GANDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        stages = count_doublings(image.resolution, "an R3GAN discriminator")
        widths = [scale_channels(c, config.width) for c in reversed(config.channels[: stages + 1])]
        count = config.blocks * len(widths)
        layers: list[nn.Module] = [convolution(image.channels, widths[0], 1)]
        for width, after in pairwise([*widths, widths[-1]]):
            layers += [R3GANResidual(width, config.group, config.expansion, count) for _ in range(config.blocks)]
            layers.append(R3GANDown(width, after))
        self.layers = nn.Sequential(*layers[:-1])  # nothing is halved after 4 x 4
        last = widths[-1]
        self.basis = nn.Conv2d(last, last, 4, groups=last, bias=False)
        nn.init.normal_(self.basis.weight, std=1 / 4)
        self.embedding = nn.Embedding(image.classes, config.embedding) if image.classes else None
        self.linear = nn.Linear(last, config.embedding if image.classes else 1, bias=False)
        nn.init.normal_(self.linear.weight, std=1 / math.sqrt(last))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.linear(self.basis(self.layers(x)).flatten(1))
        if self.embedding is None:
            return x.squeeze(1)
        return (x * self.embedding(require_label(label))).sum(1) / math.sqrt(x.shape[1])


register_architecture(
    "r3gan",
    generator=(R3GANGeneratorConfig, R3GANGenerator),
    discriminator=(R3GANDiscriminatorConfig, R3GANDiscriminator),
    paper="Huang et al. 2024, arXiv:2501.05441",
)
