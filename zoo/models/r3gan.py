"""R3GAN (Huang et al. 2024, arXiv:2501.05441): a modern baseline without tricks.

Notable: residual blocks of a wide grouped convolution between two 1 x 1 ones; no normalisation, styles or noise.
It is stable because of its loss (RpGAN + R1 + R2 converges locally) and residual branches that start at zero. Differs
from the paper in: the recipes' widths and blocks, constant learning rate, betas and penalty weights, clipped output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.schema import Count
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    FOUR_OR_SEVEN,
    check_stages,
    clip_output,
    count_doublings,
    require_label,
    scale_widths,
)
from zoo.models.registry import register_architecture
from zoo.models.residual import normal_convolution, residual_stages

PAPER_CHANNELS = (768, 768, 768, 768, 384, 192, 96)  # at 4, 8, 16, ... 256 pixels


@dataclass(frozen=True, kw_only=True)
class R3GANConfig(NetworkConfig):
    """Options of both networks."""

    conditional: ClassVar[bool] = True
    spectral: ClassVar[bool] = False

    channels: tuple[Count, ...] = PAPER_CHANNELS  # at 4 (or 7), 8 (14), ... pixels; larger images need more
    blocks: Count = 2  # per resolution
    group: Count = 16  # channels per group
    expansion: Count = 2  # how much wider the grouped convolutions are
    embedding: Count = 64  # numbers per class


def _stages(widths: list[int], config: R3GANConfig, *, up: bool) -> list[nn.Module]:
    return residual_stages(widths, blocks=config.blocks, group=config.group, expansion=config.expansion, up=up)


@dataclass(frozen=True, kw_only=True)
class R3GANGeneratorConfig(R3GANConfig):
    latent: Count = 64  # numbers per latent

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, len(self.channels) - 1, "an R3GAN generator", FOUR_OR_SEVEN)


class R3GANGenerator(Generator):
    def __init__(self, config: R3GANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        doublings = count_doublings(image.resolution, starts=FOUR_OR_SEVEN)
        start = image.resolution >> doublings
        widths = scale_widths(config.channels[: doublings + 1], config.width)
        self.embedding = nn.Embedding(image.classes, config.embedding) if image.classes else None
        inputs = config.latent + (config.embedding if image.classes else 0)
        # Basis maps of 4 x 4 or 7 x 7, each scaled by a linear function of the latent.
        self.basis = nn.Parameter(torch.randn(widths[0], start, start))
        self.linear = nn.Linear(inputs, widths[0], bias=False)
        nn.init.normal_(self.linear.weight, std=1 / math.sqrt(inputs))
        self.layers = nn.Sequential(*_stages(widths, config, up=True))
        self.to_image = normal_convolution(widths[-1], image.channels, 1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(require_label(label))], 1)
        # A linear output hovers about the black that most of a medical image is.
        return clip_output(self.to_image(self.layers(self.basis * self.linear(z)[..., None, None])))


@dataclass(frozen=True, kw_only=True)
class R3GANDiscriminatorConfig(R3GANConfig):
    sizes: tuple[Count, ...] = ()  # pixels of averaged images that further networks of this kind look at

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, len(self.channels) - 1, "an R3GAN discriminator", FOUR_OR_SEVEN)
        if self.sizes and self.san:
            raise ValueError("discriminator.sizes: has several last layers, so that discriminator.san must be false")
        for size in self.sizes:
            if size >= image.resolution or image.resolution % size or self.sizes.count(size) > 1:
                raise ValueError(
                    f"discriminator.sizes: {size} must divide {image.resolution}, be smaller, and be named once"
                )
            check_stages(size, len(self.channels) - 1, "an R3GAN discriminator", FOUR_OR_SEVEN)


class R3GANDiscriminator(Discriminator):
    """One logit per image, or one for each size that ``sizes`` adds (after Wang et al. 2018, arXiv:1711.11585).

    Networks that see averaged images alone cannot decide by fine detail: shapes, and how often each occurs, are all
    that is left. Losses are means over all logits.
    """

    def __init__(self, config: R3GANDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        halvings = count_doublings(image.resolution, starts=FOUR_OR_SEVEN)
        end = image.resolution >> halvings
        widths = scale_widths(config.channels[halvings::-1], config.width)
        last = widths[-1]
        from_image = normal_convolution(image.channels, widths[0], 1)
        self.layers = nn.Sequential(from_image, *_stages(widths, config, up=False))
        # Depthwise: the transpose of the generator's basis.
        self.basis = nn.Conv2d(last, last, end, groups=last, bias=False)
        nn.init.normal_(self.basis.weight, std=1 / end)
        self.embedding = nn.Embedding(image.classes, config.embedding) if image.classes else None
        self.linear = nn.Linear(last, config.embedding if image.classes else 1, bias=False)
        nn.init.normal_(self.linear.weight, std=1 / math.sqrt(last))
        self.sizes, one = config.sizes, replace(config, sizes=())
        self.small = nn.ModuleList(R3GANDiscriminator(one, replace(image, resolution=size)) for size in config.sizes)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map images (N, C, H, W) in [-1, 1] to logits (N,), or (N, 1 + len(sizes))."""
        if not self.small:
            return self._classify(x, label)
        logits = [self._classify(x, label)]
        for size, network in zip(self.sizes, self.small, strict=True):
            logits.append(network(F.avg_pool2d(x, x.shape[-1] // size), label))
        return torch.stack(logits, 1)

    def _classify(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = self.linear(self.basis(self.layers(x)).flatten(1))
        if self.embedding is None:
            return x.squeeze(1)
        # Projection discriminator (Miyato & Koyama 2018), scaled to the variance of a single product.
        return (x * self.embedding(require_label(label))).sum(1) / math.sqrt(x.shape[1])


register_architecture(
    "r3gan",
    generator=(R3GANGeneratorConfig, R3GANGenerator),
    discriminator=(R3GANDiscriminatorConfig, R3GANDiscriminator),
    paper="Huang et al. 2024, arXiv:2501.05441",
)
