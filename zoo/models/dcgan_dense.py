"""DCGAN with a dense start and a dense end (P. Ngo, PatternFlow).

After Radford et al. 2016, arXiv:1511.06434.
Notable: 3 x 3 kernels; a norm over every unit of the dense start; the discriminator normalises its first layer too and
drops units *before* the activation. Differs from the original in: padding and batch norm (docs/architectures.md), and
untruncated normal kernels of the same variance.
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


def glorot_normal(module: nn.Module) -> None:
    """Initialise a kernel as Glorot normal; layers of this file have no bias."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_normal_(module.weight)


@dataclass(frozen=True, kw_only=True)
class DCGANDenseGeneratorConfig(NetworkConfig):
    latent: Count = 100  # numbers per latent
    start: Count = 512  # channels of the dense start
    transposes: tuple[Count, ...] = (512, 256, 128, 128)  # channels after each doubling but the last, the image

    def validate(self, image: ImageSpec) -> None:
        count = len(self.transposes) + 1
        check_multiple(image.resolution, 2**count, f"a dense DCGAN generator with {count} doublings")


class DCGANDenseGenerator(Generator):
    def __init__(self, config: DCGANDenseGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        widths = scale_widths([config.start, *config.transposes], config.width)
        size = image.resolution // 2 ** len(widths)
        layers: list[nn.Module] = [dense_start(config.latent, widths[0], size, nn.ReLU())]
        for channels, out in pairwise(widths):
            layers += with_batch_norm(doubling_conv(channels, out, 3), nn.ReLU(), **KERAS_NORM)
        layers += [doubling_conv(widths[-1], image.channels, 3), nn.Tanh()]
        self.layers = nn.Sequential(*layers).apply(glorot_normal)


@dataclass(frozen=True, kw_only=True)
class DCGANDenseDiscriminatorConfig(NetworkConfig):
    channels: tuple[Count, ...] = (64, 128, 256, 512)  # after each halving of the resolution
    dropouts: tuple[Share, ...] = (0.15, 0.15, 0.15, 0.1)  # probability at each of them

    def __post_init__(self) -> None:
        if len(self.dropouts) != len(self.channels):
            raise ValueError(
                f"dropouts: need as many entries as channels: {len(self.channels)}, not {len(self.dropouts)}"
            )

    def validate(self, image: ImageSpec) -> None:
        count = len(self.channels)
        check_multiple(image.resolution, 2**count, f"a dense DCGAN discriminator with {count} halvings")


class DCGANDenseDiscriminator(Discriminator):
    def __init__(self, config: DCGANDenseDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        widths = [image.channels, *scale_widths(config.channels, config.width)]
        layers: list[nn.Module] = []
        for (channels, out), dropout in zip(pairwise(widths), config.dropouts, strict=True):
            layers += with_batch_norm(halving_conv(channels, out, 3), Dropout(dropout), nn.LeakyReLU(0.2), **KERAS_NORM)
        size = image.resolution // 2 ** len(config.channels)
        # The one kernel that the original left at Keras' default.
        to_logit = nn.Linear(widths[-1] * size * size, 1).apply(glorot_uniform)
        self.layers = nn.Sequential(*layers).apply(glorot_normal).extend([nn.Flatten(), to_logit])


register_architecture(
    "dcgan_dense",
    generator=(DCGANDenseGeneratorConfig, DCGANDenseGenerator),
    discriminator=(DCGANDenseDiscriminatorConfig, DCGANDenseDiscriminator),
    paper="P. Ngo, PatternFlow (OASIS DCGAN); after Radford et al. 2016, arXiv:1511.06434",
)
