"""Style-based GAN (Karras et al. 2019, arXiv:1812.04948), as D. Wang wrote it (PatternFlow).

Notable: a mapping network turns latents into styles; a learned constant grows block by block into the image; styles set
every channel's mean and deviation (adaptive instance normalisation) and noise adds what differs from image to image.

Differs from the paper in: one style for both normalisations of a block; one noise map an image, cropped for every
layer, and brought to the channels by dense layers; one activation a block; styles are mixed by a coin for every block
instead of a crossover point; a sigmoid output; average pooling in the discriminator; no progressive growing, blur,
equalised learning rate or R1.

Differs from the original in: every training image tosses its own coins (there, one toss was frozen for the whole run);
the two dense layers that spread noise over channels are applied as the one affine map they amount to.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import repeat
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count, Share
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import Dropout, count_doublings, glorot_uniform, scale_channels
from zoo.models.registry import register_architecture


def adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Adaptive instance normalisation (Karras et al. 2019, equation 1), around a scale of one.

    ``(x - mean) / (std + 1e-8) * (scale + 1) + shift``, multiplied out so that one map as large as ``x`` is made
    instead of four.

    Args:
        x: maps (N, C, H, W); mean and (population) std are taken over H and W.
        scale: (N, C), 0 for a deviation of one.
        shift: (N, C), the new mean.

    Returns:
        maps (N, C, H, W).
    """
    std, mean = torch.std_mean(x, dim=(2, 3), correction=0, keepdim=True)
    gain = (scale[..., None, None] + 1) / (std + 1e-8)
    return torch.addcmul(shift[..., None, None] - mean * gain, x, gain)


class Noise(nn.Module):
    """Adds to every channel its own multiple of one noise map (B in the paper's figure 1).

    The multiples come from ``depth`` dense layers, 1 to ``channels`` and on. With nothing in between they are one
    affine map, so they are asked twice, at 0 and at 1, and not at every pixel.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        widths = [1, *[channels] * depth]
        self.dense = nn.Sequential(*(nn.Linear(inside, out) for inside, out in pairwise(widths)))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Maps (N, C, h, w) plus the top left corner of noise (N, 1, H, W); H >= h, W >= w."""
        asked = torch.stack([x.new_zeros(1), x.new_ones(1)])  # made on the device: a CUDA graph can hold that
        at_zero, at_one = self.dense(asked)[..., None, None]
        return x + noise[..., : x.shape[2], : x.shape[3]] * (at_one - at_zero) + at_zero


class Block(nn.Module):
    """One resolution of the synthesis network.

    Twice convolution, noise and style, where the ``first`` block has no convolution at the constant, which it takes as
    it is; it neither doubles the resolution nor ends in an activation.
    """

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        self.scale = nn.Linear(channels, channels)  # with the next one: A in the paper's figure 1
        self.shift = nn.Linear(channels, channels)
        self.begin = nn.Identity() if first else nn.Upsample(scale_factor=2)
        self.convolutions = nn.ModuleList(
            [
                nn.Identity() if first else nn.Conv2d(channels, channels, 3, padding=1),
                nn.Conv2d(channels, channels, 3, padding=1),
            ]
        )
        self.noises = nn.ModuleList([Noise(channels, depth=1 if first else 2), Noise(channels, depth=2)])
        self.end = nn.Identity() if first else nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        scale, shift = self.scale(w), self.shift(w)
        x = self.begin(x)
        for convolution, add_noise in zip(self.convolutions, self.noises, strict=True):
            x = adain(add_noise(convolution(x), noise), scale, shift)
        return self.end(x)


@dataclass(frozen=True, kw_only=True)
class StyleGANGeneratorConfig(NetworkConfig):
    latent: Count = 256  # dimension of the latent
    channels: Count = 256  # everywhere: in the mapping network, the styles and every block
    depth: Count = 8  # dense layers of the mapping network
    mixing: Share = 0.5  # probability that a training image mixes the styles of two latents

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a StyleGAN generator")


class StyleGANGenerator(Generator):
    """Implements :class:`zoo.models.base.StyleGenerator`: one style a block, as wide as the blocks are."""

    def __init__(self, config: StyleGANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        channels = scale_channels(config.channels, config.width)
        self.mixing = config.mixing
        self.num_styles = count_doublings(image.resolution, "a StyleGAN generator") + 1
        mapping: list[nn.Module] = []
        for inside, out in pairwise([config.latent, *[channels] * config.depth]):
            mapping += [nn.Linear(inside, out), nn.LeakyReLU(0.2)]
        self.mapping_layers = nn.Sequential(*mapping)
        self.constant = nn.Linear(1, channels * 4 * 4)  # of the number 1: weight and bias are the constant together
        self.blocks = nn.ModuleList(Block(channels, first=index == 0) for index in range(self.num_styles))
        self.to_image = nn.Conv2d(channels, image.channels, 3, padding=1)
        self.apply(glorot_uniform)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents (N, latent.dim) to images; in training, some of them of two latents (see ``mixed``)."""
        w = repeat(self.mapping(z), "n c -> n k c", k=self.num_styles)
        if self.training and self.mixing > 0:
            w = self.mixed(w, self.mapping(torch.randn_like(z)))
        return self.synthesis(w)

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents (N, latent.dim) to styles (N, channels)."""
        return self.mapping_layers(z)

    def mixed(self, w: Tensor, other: Tensor) -> Tensor:
        """With probability ``mixing``, an image's blocks each toss a coin between its own style and another's.

        Args:
            w: styles (N, num_styles, channels).
            other: styles (N, channels).

        Returns:
            styles (N, num_styles, channels).
        """
        mixes = torch.rand(len(w), 1, 1, device=w.device) < self.mixing
        heads = torch.rand(len(w), self.num_styles, 1, device=w.device) < 0.5
        return torch.where(mixes & heads, other[:, None], w)

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles (N, num_styles, channels), the 4 x 4 block's first, to images (N, C, H, W) in [-1, 1]."""
        size = self.image.resolution
        noise = torch.randn(len(w), 1, size, size, dtype=w.dtype, device=w.device)
        constant = self.constant(self.constant.weight.new_ones(1))
        x = repeat(constant, "(c h w) -> n c h w", n=len(w), h=4, w=4)
        for block, style in zip(self.blocks, w.unbind(1), strict=True):
            x = block(x, style, noise)
        return 2 * torch.sigmoid(self.to_image(x)) - 1  # the original's images are in [0, 1]


@dataclass(frozen=True, kw_only=True)
class StyleGANDiscriminatorConfig(NetworkConfig):
    channels: tuple[Count, ...] = (64, 128, 128, 256, 256, 512)  # before each halving; small images enter further on
    dense: Count = 256  # units between the 4 x 4 maps and the logit
    dropout: Share = 0.4  # probability, of these units

    def validate(self, image: ImageSpec) -> None:
        most = len(self.channels)
        if count_doublings(image.resolution, "a StyleGAN discriminator") > most:
            sizes = ", ".join(str(4 << count) for count in range(1, most + 1))
            raise ValueError(
                f"a StyleGAN discriminator of {most} stages takes {sizes} pixels, not {image.resolution}; "
                "give discriminator.channels one more for every doubling"
            )


class StyleGANDiscriminator(Discriminator):
    def __init__(self, config: StyleGANDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        stages = count_doublings(image.resolution, "a StyleGAN discriminator")
        layers: list[nn.Module] = []
        channels = image.channels
        for out in (scale_channels(c, config.width) for c in config.channels[-stages:]):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.AvgPool2d(2), nn.LeakyReLU(0.2)]
            channels = out
        dense = scale_channels(config.dense, config.width)
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(channels * 4 * 4, dense),  # and no activation: the original has none
            Dropout(config.dropout),
            nn.Linear(dense, 1),
        ]
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layers((x + 1) / 2).squeeze(1)  # the original's images are in [0, 1]


register_architecture(
    "stylegan",
    generator=(StyleGANGeneratorConfig, StyleGANGenerator),
    discriminator=(StyleGANDiscriminatorConfig, StyleGANDiscriminator),
    paper="Karras et al. 2019, arXiv:1812.04948; as written by D. Wang, PatternFlow",
)
