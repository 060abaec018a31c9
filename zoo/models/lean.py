"""Lean DCGAN (A. Zhao 2020, PatternFlow).

After Radford et al. 2016, arXiv:1511.06434.
Notable: one large dense layer generates 32 x 32 feature maps at once, so that 256 pixels need only three transposed
convolutions; two plain convolutions smooth their artefacts; the output is linear. Three transposes and two convolutions
trained where four and one collapsed. Differs from the original in: padding and batch norm (docs/architectures.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from einops.layers.torch import Rearrange
from torch import nn

from zoo.core.schema import Count, Share
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    KERAS_NORM,
    Dense,
    Dropout,
    check_multiple,
    doubling_conv,
    glorot_uniform,
    halving_conv,
    scale_widths,
    with_batch_norm,
)
from zoo.models.registry import register_architecture


@dataclass(frozen=True, kw_only=True)
class LeanGeneratorConfig(NetworkConfig):
    latent: Count = 256  # numbers per latent
    start: Count = 256  # channels of the dense start
    transposes: tuple[Count, ...] = (256, 128, 64)  # channels after each doubling of the resolution
    convolutions: tuple[Count, ...] = (64,)  # channels of the 3 x 3 convolutions before the last, which makes the image

    def validate(self, image: ImageSpec) -> None:
        count = len(self.transposes)
        check_multiple(image.resolution, 2**count, f"a lean generator with {count} transposes")


class LeanGenerator(Generator):
    def __init__(self, config: LeanGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        doublings = len(config.transposes)
        size = image.resolution // 2**doublings
        widths = scale_widths([config.start, *config.transposes, *config.convolutions], config.width)
        layers: list[nn.Module] = [
            Dense(config.latent, widths[0] * size * size),
            nn.LeakyReLU(0.2),
            Rearrange("n (c h w) -> n c h w", h=size, w=size),
        ]
        for index, (channels, out) in enumerate(pairwise(widths)):
            # Doublings first, then plain convolutions, which smooth what the transposed ones leave.
            convolution: nn.Conv2d | nn.ConvTranspose2d
            if index < doublings:
                convolution = doubling_conv(channels, out, 4)
            else:
                convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            layers += with_batch_norm(convolution, nn.LeakyReLU(0.2), **KERAS_NORM)
        layers.append(nn.Conv2d(widths[-1], image.channels, 3, padding=1, bias=False))
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)


@dataclass(frozen=True, kw_only=True)
class LeanDiscriminatorConfig(NetworkConfig):
    channels: tuple[Count, ...] = (32, 64, 128)  # after each halving of the resolution
    dropout: Share = 0.4  # probability, after every activation

    def validate(self, image: ImageSpec) -> None:
        count = len(self.channels)
        check_multiple(image.resolution, 2**count, f"a lean discriminator with {count} halvings")


class LeanDiscriminator(Discriminator):
    def __init__(self, config: LeanDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        widths = [image.channels, *scale_widths(config.channels, config.width)]
        layers: list[nn.Module] = []
        for channels, out in pairwise(widths):
            layers += with_batch_norm(
                halving_conv(channels, out, 4, bias=True), nn.LeakyReLU(0.2), Dropout(config.dropout), **KERAS_NORM
            )
        size = image.resolution // 2 ** len(config.channels)
        layers += [nn.Flatten(), nn.Linear(widths[-1] * size * size, 1)]
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)


register_architecture(
    "lean",
    generator=(LeanGeneratorConfig, LeanGenerator),
    discriminator=(LeanDiscriminatorConfig, LeanDiscriminator),
    paper="A. Zhao 2020, PatternFlow (OASIS DCGAN); after Radford et al. 2016, arXiv:1511.06434",
)
