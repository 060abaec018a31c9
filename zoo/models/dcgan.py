"""DCGAN (Radford et al. 2016, arXiv:1511.06434), and original 2, which is the same at 128 pixels with twice the width.

Notable: no dense layers, no pooling; the widths double as the resolution halves. From 4 x 4 to the image it is 4 x 4
kernels at stride 2 all the way, as in the authors' Torch code (the projection in the paper's figure 1 is the same
thing: a transposed convolution of one pixel).

Differs from the paper in: sizes other than 64 pixels; the sigmoid of the discriminator lives in the loss; classes, if
any, are encoded as in Mirza & Osindero 2014 (arXiv:1411.1784): a one-hot vector appended to the latent, and one plane
per class appended to the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import count_doublings, dcgan_normal, one_hot, scale_channels
from zoo.models.registry import register_architecture


@dataclass(frozen=True, kw_only=True)
class DCGANGeneratorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True

    latent: Count = 100  # dimension of the latent
    base: Count = 64  # channels at half the image's resolution; twice as many at each halving, down to 4 x 4

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a DCGAN generator")


class DCGANGenerator(Generator):
    def __init__(self, config: DCGANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        stages = count_doublings(image.resolution, "a DCGAN generator")
        widths = [scale_channels(config.base * 2**stage, config.width) for stage in reversed(range(stages))]
        layers: list[nn.Module] = [
            Rearrange("n c -> n c 1 1"),
            nn.ConvTranspose2d(config.latent + image.classes, widths[0], 4, bias=False),  # 1 x 1 to 4 x 4
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for channels, out in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], image.channels, 4, stride=2, padding=1, bias=False), nn.Tanh()]
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
        stages = count_doublings(image.resolution, "a DCGAN discriminator")
        widths = [scale_channels(config.base * 2**stage, config.width) for stage in range(stages)]
        layers: list[nn.Module] = [  # no norm next to the images: the paper found it unstable
            nn.Conv2d(image.channels + image.classes, widths[0], 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.2),
        ]
        for channels, out in pairwise(widths):
            layers += [
                nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.LeakyReLU(0.2),
            ]
        layers += [nn.Conv2d(widths[-1], 1, 4, bias=False), nn.Flatten(0)]  # 4 x 4 to one logit an image
        self.layers = nn.Sequential(*layers).apply(dcgan_normal)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if self.image.classes:
            planes = one_hot(label, self.image.classes)[..., None, None].to(x.dtype)
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        return self.layers(x)


register_architecture(
    "dcgan",
    generator=(DCGANGeneratorConfig, DCGANGenerator),
    discriminator=(DCGANDiscriminatorConfig, DCGANDiscriminator),
    paper="Radford et al. 2016, arXiv:1511.06434",
)
