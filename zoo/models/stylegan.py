"""StyleGAN (Karras et al. 2019, arXiv:1812.04948) by D. Wang, PatternFlow.

Notable: a mapping network turns latents into styles; a learned constant grows block by block into the image; styles set
every channel's mean and deviation (adaptive instance normalisation) and noise adds variation. Differs from the paper
mainly in: one style and one activation per block, one noise map per image, mixing per block, a sigmoid output, no
progressive growing, blur, equalised learning rate or R1 (full list, also against the original: docs/architectures.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import repeat
from torch import Tensor, nn

from zoo.core.schema import Count, Share
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    Dropout,
    check_stages,
    count_doublings,
    draw_noise,
    glorot_uniform,
    scale_channels,
    scale_widths,
)
from zoo.models.registry import register_architecture


def adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Apply adaptive instance normalisation, around a scale of one.

    Karras et al. 2019, equation 1:
    ``(x - mean) / (std + 1e-8) * (scale + 1) + shift``.

    Args:
        x: maps (N, C, H, W); mean and (population) std are taken over H and W.
        scale: (N, C), 0 for a deviation of one.
        shift: (N, C), the new mean.
    """
    std, mean = torch.std_mean(x, dim=(2, 3), correction=0, keepdim=True)
    gain = (scale[..., None, None] + 1) / (std + 1e-8)
    # Multiplied out: one map as large as x instead of four.
    return torch.addcmul(shift[..., None, None] - mean * gain, x, gain)


class NoiseInjection(nn.Module):
    """Add to every channel its own multiple of one noise map.

    B in the paper's figure 1.
    The multiples come from ``depth`` dense layers, 1 to ``channels`` and on.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        widths = [1, *[channels] * depth]
        self.dense = nn.Sequential(*(nn.Linear(before, after) for before, after in pairwise(widths)))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Add the top left corner of ``noise`` to maps (N, C, h, w).

        ``noise`` is (N, 1, H, W) with H >= h and W >= w.
        """
        # Without activations the layers are one affine map: two inputs determine it, no need to run at every pixel.
        # Both are created on the device, as CUDA graphs require.
        at_zero, at_one = self.dense(torch.stack([x.new_zeros(1), x.new_ones(1)]))[..., None, None]
        return x + noise[..., : x.shape[2], : x.shape[3]] * (at_one - at_zero) + at_zero


class SynthesisBlock(nn.Module):
    """One resolution of the synthesis network.

    Upsampling, twice (convolution, noise, style), activation.
    The ``first`` block takes the constant: it has no upsampling, first convolution or activation.
    """

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        # A in the paper's figure 1
        self.scale = nn.Linear(channels, channels)
        self.shift = nn.Linear(channels, channels)
        self.begin = nn.Identity() if first else nn.Upsample(scale_factor=2)
        self.convolutions = nn.ModuleList(
            [
                nn.Identity() if first else nn.Conv2d(channels, channels, 3, padding=1),
                nn.Conv2d(channels, channels, 3, padding=1),
            ]
        )
        self.noises = nn.ModuleList(
            [NoiseInjection(channels, depth=1 if first else 2), NoiseInjection(channels, depth=2)]
        )
        self.end = nn.Identity() if first else nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        scale, shift = self.scale(w), self.shift(w)
        x = self.begin(x)
        for convolution, add_noise in zip(self.convolutions, self.noises, strict=True):
            x = adain(add_noise(convolution(x), noise), scale, shift)
        return self.end(x)


@dataclass(frozen=True, kw_only=True)
class StyleGANGeneratorConfig(NetworkConfig):
    latent: Count = 256  # numbers per latent
    channels: Count = 256  # everywhere: in the mapping network, the styles and every block
    depth: Count = 8  # dense layers of the mapping network
    mixing: Share = 0.5  # probability that a training image mixes the styles of two latents

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a StyleGAN generator")


class StyleGANGenerator(Generator):
    """A ``StyleGenerator`` with one style per block, as wide as the blocks."""

    def __init__(self, config: StyleGANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        channels = scale_channels(config.channels, config.width)
        self.mixing = config.mixing
        self.num_styles = count_doublings(image.resolution) + 1
        mapping: list[nn.Module] = []
        for before, after in pairwise([config.latent, *[channels] * config.depth]):
            mapping += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.mapping_layers = nn.Sequential(*mapping)
        self.constant = nn.Linear(1, channels * 4 * 4)  # input 1: the constant is weight plus bias
        self.blocks = nn.ModuleList(SynthesisBlock(channels, first=index == 0) for index in range(self.num_styles))
        self.to_image = nn.Conv2d(channels, image.channels, 3, padding=1)
        self.apply(glorot_uniform)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate images; in training, some mix the styles of two latents."""
        w = repeat(self.mapping(z), "n c -> n k c", k=self.num_styles)
        if self.training and self.mixing > 0:
            w = self.mix_styles(w, self.mapping(torch.randn_like(z)))
        return self.synthesis(w)

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Map latents (N, latent.dim) to styles (N, channels)."""
        return self.mapping_layers(z)

    def mix_styles(self, w: Tensor, other: Tensor) -> Tensor:
        """Replace each style of mixed images by ``other`` with probability 1/2.

        Images are mixed with probability ``mixing``.

        Args:
            w: styles (N, num_styles, channels).
            other: styles (N, channels).

        Returns:
            styles (N, num_styles, channels).
        """
        mixed = torch.rand(len(w), 1, 1, device=w.device) < self.mixing
        # Each block by itself; the paper has one crossover point.
        replaced = torch.rand(len(w), self.num_styles, 1, device=w.device) < 0.5
        return torch.where(mixed & replaced, other[:, None], w)

    def synthesis(self, w: Tensor) -> Tensor:
        """Generate images (N, C, H, W) in [-1, 1] from styles, the 4 x 4 block's first.

        ``w`` is (N, num_styles, channels).
        """
        size = self.image.resolution
        noise = draw_noise(len(w), 1, size, size, like=w)
        constant = self.constant(self.constant.weight.new_ones(1))
        x = constant.view(1, -1, 4, 4).expand(w.shape[0], -1, -1, -1)  # traced by zoo export, unlike len(w)
        for block, style in zip(self.blocks, w.unbind(1), strict=True):
            x = block(x, style, noise)
        return 2 * torch.sigmoid(self.to_image(x)) - 1  # the original works in [0, 1]


@dataclass(frozen=True, kw_only=True)
class StyleGANDiscriminatorConfig(NetworkConfig):
    channels: tuple[Count, ...] = (64, 128, 128, 256, 256, 512)  # before each halving; smaller images start further on
    dense: Count = 256  # units between the 4 x 4 maps and the logit
    dropout: Share = 0.4  # probability, of these units

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, len(self.channels), "a StyleGAN discriminator")


class StyleGANDiscriminator(Discriminator):
    def __init__(self, config: StyleGANDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        stages = config.channels[-count_doublings(image.resolution) :]
        widths = [image.channels, *scale_widths(stages, config.width)]
        last = widths[-1]
        layers: list[nn.Module] = []
        for channels, out in pairwise(widths):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.AvgPool2d(2), nn.LeakyReLU(0.2)]
        dense = scale_channels(config.dense, config.width)
        layers += [
            nn.Conv2d(last, last, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(last * 4 * 4, dense),  # without an activation, as in the original
            Dropout(config.dropout),
            nn.Linear(dense, 1),
        ]
        self.layers = nn.Sequential(*layers).apply(glorot_uniform)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layers((x + 1) / 2).squeeze(1)  # the original works in [0, 1]


register_architecture(
    "stylegan",
    generator=(StyleGANGeneratorConfig, StyleGANGenerator),
    discriminator=(StyleGANDiscriminatorConfig, StyleGANDiscriminator),
    paper="Karras et al. 2019, arXiv:1812.04948; as written by D. Wang, PatternFlow",
)
