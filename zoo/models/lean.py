"""Lean DCGAN (A. Zhao 2020, PatternFlow; after Radford et al. 2016, arXiv:1511.06434).

Notable: one big dense layer makes 32 x 32 feature maps at once, so that 256 pixels need three transposed convolutions
only; two plain convolutions smooth what they leave behind; the output is linear. Three transposes and two convolutions
trained where four and one collapsed.

Differs from the original in: padding (see ``zoo.models.layers``) and torch's reading of Keras' batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops.layers.torch import Rearrange
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count, Share
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import KERAS_NORM, Dense, Dropout, check_multiple, glorot_uniform, scale_channels
from zoo.models.registry import register_architecture


@dataclass(frozen=True, kw_only=True)
class LeanGeneratorConfig(NetworkConfig):
    latent: Count = 256  # dimension of the latent
    start: Count = 256  # channels of the dense start
    transposes: tuple[Count, ...] = (256, 128, 64)  # channels after each doubling of the resolution
    convolutions: tuple[Count, ...] = (64,)  # channels of the 3 x 3 convolutions before the last, which makes the image

    def validate(self, image: ImageSpec) -> None:
        count = len(self.transposes)
        check_multiple(image.resolution, 2**count, f"a lean generator of {count} transposes")


class LeanGenerator(Generator):
    def __init__(self, config: LeanGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        size = image.resolution // 2 ** len(config.transposes)
        channels = scale_channels(config.start, config.width)
        layers: list[nn.Module] = [
            Dense(config.latent, channels * size * size),
            nn.LeakyReLU(0.2),
            Rearrange("n (c h w) -> n c h w", h=size, w=size),
        ]
        for out in (scale_channels(c, config.width) for c in config.transposes):
            layers += [
                nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out, **KERAS_NORM),
                nn.LeakyReLU(0.2),
            ]
            channels = out
        for out in (scale_channels(c, config.width) for c in config.convolutions):
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out, **KERAS_NORM),
                nn.LeakyReLU(0.2),
            ]
            channels = out
        layers.append(nn.Conv2d(channels, image.channels, 3, padding=1, bias=False))
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layers(z)


@dataclass(frozen=True, kw_only=True)
class LeanDiscriminatorConfig(NetworkConfig):
    channels: tuple[Count, ...] = (32, 64, 128)  # after each halving of the resolution
    dropout: Share = 0.4  # probability, after every activation

    def validate(self, image: ImageSpec) -> None:
        count = len(self.channels)
        check_multiple(image.resolution, 2**count, f"a lean discriminator that halves {count} times")


class LeanDiscriminator(Discriminator):
    def __init__(self, config: LeanDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        layers: list[nn.Module] = []
        channels = image.channels
        for out in (scale_channels(c, config.width) for c in config.channels):
            layers += [
                nn.Conv2d(channels, out, 4, stride=2, padding=1),
                nn.BatchNorm2d(out, **KERAS_NORM),
                nn.LeakyReLU(0.2),
                Dropout(config.dropout),
            ]
            channels = out
        size = image.resolution // 2 ** len(config.channels)
        layers += [nn.Flatten(), nn.Linear(channels * size * size, 1)]
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layers(x).squeeze(1)


register_architecture(
    "lean",
    generator=(LeanGeneratorConfig, LeanGenerator),
    discriminator=(LeanDiscriminatorConfig, LeanDiscriminator),
    paper="A. Zhao 2020, PatternFlow (OASIS DCGAN); after Radford et al. 2016, arXiv:1511.06434",
)
