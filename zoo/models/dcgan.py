"""DCGAN (Radford et al. 2016, arXiv:1511.06434).

Original 2 of the recipes is the same at 128 pixels with twice the width.
Notable: no dense layers and no pooling, but 4 x 4 kernels of stride 2 from 4 x 4 pixels to the image; channels double
as the resolution halves. Differs from the paper in: sizes other than 64 pixels; the loss contains the discriminator's
sigmoid; optional classes as in Mirza & Osindero 2014 (arXiv:1411.1784), as one-hot inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from zoo.core.schema import Count
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    count_doublings,
    dcgan_normal,
    doubling_conv,
    halving_conv,
    one_hot,
    scale_channels,
    with_batch_norm,
)
from zoo.models.registry import register_architecture


@dataclass(frozen=True, kw_only=True)
class DCGANGeneratorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True

    latent: Count = 100  # numbers per latent
    base: Count = 64  # channels at half the image's resolution; twice as many at each halving, down to 4 x 4

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a DCGAN generator")


class DCGANGenerator(Generator):
    def __init__(self, config: DCGANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        stages = reversed(range(count_doublings(image.resolution)))
        widths = [scale_channels(config.base * 2**stage, config.width) for stage in stages]
        # The projection in the paper's figure 1 is a transposed convolution of one pixel, as in the authors' code.
        projection = nn.ConvTranspose2d(config.latent + image.classes, widths[0], 4, bias=False)
        layers = [Rearrange("n c -> n c 1 1"), *with_batch_norm(projection, nn.ReLU())]
        for channels, out in pairwise(widths):
            layers += with_batch_norm(doubling_conv(channels, out, 4), nn.ReLU())
        layers += [doubling_conv(widths[-1], image.channels, 4), nn.Tanh()]
        self.layers = nn.Sequential(*layers).apply(dcgan_normal)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.image.classes:
            z = torch.cat([z, one_hot(label, self.image.classes).to(z.dtype)], 1)
        return self.layers(z)


@dataclass(frozen=True, kw_only=True)
class DCGANDiscriminatorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True

    base: Count = 64  # channels at half the image's resolution; twice as many at each halving, down to 4 x 4

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a DCGAN discriminator")


class DCGANDiscriminator(Discriminator):
    def __init__(self, config: DCGANDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        stages = range(count_doublings(image.resolution))
        widths = [scale_channels(config.base * 2**stage, config.width) for stage in stages]
        # No norm next to the image: the paper found it unstable.
        layers: list[nn.Module] = [halving_conv(image.channels + image.classes, widths[0], 4), nn.LeakyReLU(0.2)]
        for channels, out in pairwise(widths):
            layers += with_batch_norm(halving_conv(channels, out, 4), nn.LeakyReLU(0.2))
        layers += [nn.Conv2d(widths[-1], 1, 4, bias=False), nn.Flatten(0)]  # 4 x 4 to one logit per image
        self.layers = nn.Sequential(*layers).apply(dcgan_normal)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if self.image.classes:
            # One constant plane per class next to the image.
            planes = one_hot(label, self.image.classes)[..., None, None].to(x.dtype)
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        return self.layers(x)


register_architecture(
    "dcgan",
    generator=(DCGANGeneratorConfig, DCGANGenerator),
    discriminator=(DCGANDiscriminatorConfig, DCGANDiscriminator),
    paper="Radford et al. 2016, arXiv:1511.06434",
)
