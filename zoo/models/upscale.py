"""Two stages: a small image from latents, and a learned step that enlarges it.

Notable: the step sees the small image alone and not the latent, so that real images teach it as well (the penalty
``restoration``), and D looks at patches only. The body is that of a generator that was trained before, and stays as it
is: shapes and variety are its own. After LAPGAN (Denton et al. 2015, arXiv:1506.05751) and SRGAN (Ledig et al. 2017,
arXiv:1609.04802); D's patches after pix2pix (Isola et al. 2017, arXiv:1611.07004), its wavelets after SWAGAN (Gal et
al. 2021, arXiv:2102.06108).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.schema import Count, Positive
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.haar_transform import HaarTransform
from zoo.models.layers import clip_output, count_doublings, halving_conv, scale_channels
from zoo.models.registry import register_architecture
from zoo.models.skip_layer_excitation import FastGANBody

SLOPE = 0.2  # of leaky ReLUs below zero
GAIN = 2.0  # of the step's details: that of an orthonormal transform


def check_factor(image: ImageSpec, factor: int, key: str) -> int:
    """Return the resolution divided by ``factor``.

    Raises:
        ValueError: ``factor`` is no power of two from 2, or too large for the image.
    """
    if factor < 2 or factor & (factor - 1):
        raise ValueError(f"{key}: must be 2, 4 or a higher power of two, not {factor}")
    count_doublings(image.resolution, "an enlarged image", least=8 * factor)
    return image.resolution // factor


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions whose result is added; it starts as the identity (after Lim et al. 2017, EDSR)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return x + self.second(F.leaky_relu_(self.first(x), SLOPE))  # in place: no gradient needs what it overwrites


class Enlarger(nn.Module):
    """Add learned details to a bilinear enlargement.

    Residual blocks at the small size, bilinear doublings up to half the large size, each with half the channels, and
    one Haar transform of 2 x 2 pixels.

    Args:
        colours: channels of the images.
        channels: of the residual blocks.
        blocks: number of residual blocks.
        factor: of the side, a power of two.
    """

    def __init__(self, colours: int, channels: int, blocks: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.trunk = nn.Sequential(
            nn.Conv2d(colours, channels, 5, padding=2), *(ResidualBlock(channels) for _ in range(blocks))
        )
        layers: list[nn.Module] = [nn.LeakyReLU(SLOPE)]
        half = max(1, channels // 2)
        for _ in range(factor.bit_length() - 2):
            # Bilinear: nearest neighbours leave a grid of patches (see benchmarks/notes.md).
            layers += [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(channels, half, 3, padding=1)]
            layers += [nn.LeakyReLU(SLOPE)]
            channels, half = half, max(1, half // 2)
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(SLOPE)]
        self.details = nn.Sequential(*layers)
        self.to_details = nn.Conv2d(channels, 4 * colours, 3, padding=1)
        nn.init.zeros_(self.to_details.weight)  # training starts from the bilinear enlargement
        nn.init.zeros_(self.to_details.get_parameter("bias"))
        self.haar = HaarTransform(2, GAIN)

    def forward(self, small: Tensor) -> Tensor:
        """Map images (N, C, h, w) to (N, C, factor h, factor w), about as bright; the range is not limited."""
        enlarged = F.interpolate(small, scale_factor=self.factor, mode="bilinear")
        # The last doubling as coefficients: maps of the large size would cost more than all others together.
        return enlarged + self.haar.join(self.to_details(self.details(self.trunk(small))))


@dataclass(frozen=True, kw_only=True)
class UpscaleGeneratorConfig(NetworkConfig):
    spectral: ClassVar[bool] = False  # some weights are zero at first

    latent: Count = 256  # numbers per latent
    base: Count = 16  # as FastGAN's, of the body that makes small images
    factor: Count = 4  # by which the side of a small image is enlarged
    channels: Count = 40  # of the residual blocks
    blocks: Count = 6  # residual blocks
    frozen_body: bool = False  # the body keeps the weights of train.init_from

    def validate(self, image: ImageSpec) -> None:
        check_factor(image, self.factor, "factor")


class UpscaleGenerator(Generator):
    def __init__(self, config: UpscaleGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        small = image.resolution // config.factor
        # Names and shapes are those of a FastGAN generator of the small images, whose weights it starts from.
        self.body = FastGANBody(config.latent, image.channels, small, config.base * config.width, deep=True)
        if config.frozen_body:
            self.body.requires_grad_(False)
        channels = scale_channels(config.channels, config.width)
        self.factor = config.factor
        self.enlarger = Enlarger(image.channels, channels, config.blocks, config.factor)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        # Clipped before, too: the step then sees the black of a background as it is in real images.
        return clip_output(self.enlarge(clip_output(self.body(z))))

    def enlarge(self, small: Tensor) -> Tensor:
        """Map images (N, C, h, w) in [-1, 1] to (N, C, factor h, factor w) in about [-1, 1]."""
        return self.enlarger(small)


@dataclass(frozen=True, kw_only=True)
class UpscaleDiscriminatorConfig(NetworkConfig):
    channels: Count = 64  # of the first convolutions, in patches; twice as many later
    patch: Count = 4  # pixels per side of the patches of the Haar transform
    gain: Positive = 32.0  # of details, see HaarTransform: fine ones are then about as large as the means
    shift: bool = True  # shift the images of a pass by less than a patch, in training

    def validate(self, image: ImageSpec) -> None:
        check_factor(image, self.patch, "patch")


class UpscaleDiscriminator(Discriminator):
    """Return one logit for every square of eight by eight pixels (patches of 4), each from 56 pixels around it."""

    def __init__(self, config: UpscaleDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        self.shift = config.shift
        self.haar = HaarTransform(config.patch, config.gain)
        few = scale_channels(config.channels, config.width)
        many = 2 * few
        layers: list[nn.Module] = []
        for before, after in ((image.channels * config.patch**2, few), (few, few), (few, many)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
        layers += [halving_conv(many, many, 4, bias=True), nn.LeakyReLU(SLOPE)]
        layers += [nn.Conv2d(many, many, 3, padding=1), nn.LeakyReLU(SLOPE), nn.Conv2d(many, 1, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if self.shift and self.training:
            # One shift per pass: no fixed grid escapes D. On the CPU, which no GPU waits for.
            down, across = torch.randint(self.haar.patch, (2,)).tolist()
            x = x.roll((down, across), (2, 3))
        return self.layers(self.haar.split(x)).flatten(1)


register_architecture(
    "upscale",
    generator=(UpscaleGeneratorConfig, UpscaleGenerator),
    discriminator=(UpscaleDiscriminatorConfig, UpscaleDiscriminator),
    paper="after Denton et al. 2015, arXiv:1506.05751",
)
