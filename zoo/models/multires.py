"""DCGAN at any size (N. Thompson 2020, PatternFlow).

After Radford et al. 2016, arXiv:1511.06434.
Notable: 5 x 5 kernels; a dense start, then one transposed convolution at the same resolution before the doublings
start. One network for 28, 64, 128 and 256 pixels, which differ in their configs alone. Differs from the original in:
padding and batch norm (docs/architectures.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from zoo.core.schema import Count, Share
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    KERAS_NORM,
    Dropout,
    check_multiple,
    dense_start,
    doubling_conv,
    glorot_uniform,
    halving_conv,
    scale_widths,
    with_batch_norm,
)
from zoo.models.registry import register_architecture


@dataclass(frozen=True, kw_only=True)
class MultiresGeneratorConfig(NetworkConfig):
    latent: Count = 100  # numbers per latent
    start: Count = 256  # channels of the dense start
    transposes: tuple[Count, ...] = (256, 128, 64)  # channels at each resolution; the first stays at the dense start's
    slope: Share = 0.0  # of the activations below zero; 0 is ReLU

    def __post_init__(self) -> None:
        if not self.transposes:
            raise ValueError("transposes: must list at least one channel count")

    def validate(self, image: ImageSpec) -> None:
        count = len(self.transposes)  # the last doubling is the image's
        check_multiple(image.resolution, 2**count, f"a multires generator with {count} transposes")


class MultiresGenerator(Generator):
    def __init__(self, config: MultiresGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        size = image.resolution // 2 ** len(config.transposes)
        start, *widths = scale_widths([config.start, *config.transposes], config.width)
        layers: list[nn.Module] = [dense_start(config.latent, start, size, nn.LeakyReLU(config.slope))]
        convolutions = [nn.ConvTranspose2d(start, widths[0], 5, padding=2, bias=False)]
        convolutions += [doubling_conv(channels, out, 5) for channels, out in pairwise(widths)]
        for convolution in convolutions:
            layers += with_batch_norm(convolution, nn.LeakyReLU(config.slope), **KERAS_NORM)
        layers += [doubling_conv(widths[-1], image.channels, 5), nn.Tanh()]
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)


@dataclass(frozen=True, kw_only=True)
class MultiresDiscriminatorConfig(NetworkConfig):
    channels: tuple[Count, ...] = (64, 128, 256)  # after each halving of the resolution
    norm: bool = False  # batch norm after every convolution, the first too
    slope: Share = 0.2  # of the activations below zero
    dropout: Share = 0.3  # probability, after every activation

    def validate(self, image: ImageSpec) -> None:
        count = len(self.channels)
        check_multiple(image.resolution, 2**count, f"a multires discriminator with {count} halvings")


class MultiresDiscriminator(Discriminator):
    def __init__(self, config: MultiresDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        widths = [image.channels, *scale_widths(config.channels, config.width)]
        layers: list[nn.Module] = []
        for channels, out in pairwise(widths):
            layers.append(halving_conv(channels, out, 5, bias=True))
            if config.norm:
                layers.append(nn.BatchNorm2d(out, **KERAS_NORM))
            layers += [nn.LeakyReLU(config.slope), Dropout(config.dropout)]
        size = image.resolution // 2 ** len(config.channels)
        layers += [nn.Flatten(), nn.Linear(widths[-1] * size * size, 1)]
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)


register_architecture(
    "multires",
    generator=(MultiresGeneratorConfig, MultiresGenerator),
    discriminator=(MultiresDiscriminatorConfig, MultiresDiscriminator),
    paper="N. Thompson 2020, PatternFlow (OASIS DCGAN); after Radford et al. 2016, arXiv:1511.06434",
)
