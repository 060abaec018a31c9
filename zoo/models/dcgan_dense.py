"""DCGAN with a dense start and a dense end (P. Ngo, PatternFlow; after Radford et al. 2016, arXiv:1511.06434).

Notable: 3 x 3 kernels; a norm over every unit of the dense start; the discriminator norms its first layer too and
drops units *before* the activation.

Differs from the original in: padding (see ``zoo.models.layers``), torch's reading of Keras' batch norm, and plain
normal kernels where Keras cuts the tails beyond two deviations (the variance is the same).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count, Share
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import (
    KERAS_NORM,
    Dropout,
    check_multiple,
    dense_start,
    doubling_conv,
    glorot_uniform,
    halving_conv,
    scale_channels,
)
from zoo.models.registry import register_architecture


def glorot_normal(module: nn.Module) -> None:
    """Glorot normal kernels; nothing here that has one has a bias. For ``module.apply``."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_normal_(module.weight)


@dataclass(frozen=True, kw_only=True)
class DCGANDenseGeneratorConfig(NetworkConfig):
    latent: Count = 100  # dimension of the latent
    start: Count = 512  # channels of the dense start
    transposes: tuple[Count, ...] = (512, 256, 128, 128)  # channels after each doubling but the last, the image

    def validate(self, image: ImageSpec) -> None:
        count = len(self.transposes) + 1
        check_multiple(image.resolution, 2**count, f"a dense DCGAN generator that doubles {count} times")


class DCGANDenseGenerator(Generator):
    def __init__(self, config: DCGANDenseGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        size = image.resolution // 2 ** (len(config.transposes) + 1)
        channels = scale_channels(config.start, config.width)
        layers: list[nn.Module] = [dense_start(config.latent, channels, size, nn.ReLU())]
        for out in (scale_channels(c, config.width) for c in config.transposes):
            layers += [doubling_conv(channels, out, 3, bias=False), nn.BatchNorm2d(out, **KERAS_NORM), nn.ReLU()]
            channels = out
        layers += [doubling_conv(channels, image.channels, 3, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers).apply(glorot_normal)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layers(z)


@dataclass(frozen=True, kw_only=True)
class DCGANDenseDiscriminatorConfig(NetworkConfig):
    channels: tuple[Count, ...] = (64, 128, 256, 512)  # after each halving of the resolution
    dropouts: tuple[Share, ...] = (0.15, 0.15, 0.15, 0.1)  # probability at each of them

    def __post_init__(self) -> None:
        if len(self.dropouts) != len(self.channels):
            raise ValueError(f"as many dropouts as channels: {len(self.channels)}, not {len(self.dropouts)}")

    def validate(self, image: ImageSpec) -> None:
        count = len(self.channels)
        check_multiple(image.resolution, 2**count, f"a dense DCGAN discriminator that halves {count} times")


class DCGANDenseDiscriminator(Discriminator):
    def __init__(self, config: DCGANDenseDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        layers: list[nn.Module] = []
        channels = image.channels
        for out, dropout in zip(
            (scale_channels(c, config.width) for c in config.channels), config.dropouts, strict=True
        ):
            layers += [
                halving_conv(channels, out, 3, bias=False),
                nn.BatchNorm2d(out, **KERAS_NORM),
                Dropout(dropout),
                nn.LeakyReLU(0.2),
            ]
            channels = out
        size = image.resolution // 2 ** len(config.channels)
        logit = nn.Linear(channels * size * size, 1).apply(
            glorot_uniform
        )  # the only kernel with Keras' default initialisation
        self.layers = nn.Sequential(*layers).apply(glorot_normal).extend([nn.Flatten(), logit])

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layers(x).squeeze(1)


register_architecture(
    "dcgan_dense",
    generator=(DCGANDenseGeneratorConfig, DCGANDenseGenerator),
    discriminator=(DCGANDenseDiscriminatorConfig, DCGANDenseDiscriminator),
    paper="P. Ngo, PatternFlow (OASIS DCGAN); after Radford et al. 2016, arXiv:1511.06434",
)
