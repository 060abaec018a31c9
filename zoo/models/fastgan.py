"""FastGAN (Liu et al. 2021, arXiv:2101.04775), for two thousand images and fewer.

Notable: skip-layer excitation in the generator; a discriminator with two small decoders that must reconstruct real
images from its maps, the whole image from 8 x 8 and a random quarter from 16 x 16. Differs from the paper mainly in: an
L1 instead of a perceptual loss of the decoders, clipped output, no noise inputs (full list: docs/architectures.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.core.schema import Count, NonNegative
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    FOUR_OR_SEVEN,
    apply_spectral_norm,
    clip_output,
    count_doublings,
    glorot_uniform,
    halving_conv,
    scale_channels,
    with_batch_norm,
)
from zoo.models.registry import register_architecture
from zoo.models.skip_layer_excitation import FastGANBody, gated_block


@dataclass(frozen=True, kw_only=True)
class FastGANGeneratorConfig(NetworkConfig):
    latent: Count = 256  # numbers per latent
    base: Count = 64  # channels at 128 px; twice as many at 64 and 32 px, and from there at each halving, down to 4 x 4

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a FastGAN generator", starts=FOUR_OR_SEVEN)


class FastGANGenerator(Generator):
    def __init__(self, config: FastGANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        base = config.base * config.width
        self.body = FastGANBody(config.latent, image.channels, image.resolution, base, deep=True)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        # Not tanh, as in the paper: it hardly reaches the black that most of a medical image is.
        return clip_output(self.body(z))


class DownBlock(nn.Module):
    """Halve the resolution on two paths and average them.

    (N, channels, 2h, 2w) to (N, out, h, w).
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convolved = nn.Sequential(
            *with_batch_norm(halving_conv(channels, out, 4), nn.LeakyReLU(0.2)),
            *with_batch_norm(nn.Conv2d(out, out, 3, padding=1, bias=False), nn.LeakyReLU(0.2)),
        )
        self.pooled = nn.Sequential(
            nn.AvgPool2d(2), *with_batch_norm(nn.Conv2d(channels, out, 1, bias=False), nn.LeakyReLU(0.2))
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.convolved(x) + self.pooled(x)) / 2


@dataclass(frozen=True, kw_only=True)
class FastGANDiscriminatorConfig(NetworkConfig):
    base: Count = 64  # channels at 128 px; twice as many at each halving, down to 8 x 8
    reconstruction: NonNegative = 1.0  # weight of the decoders' loss, for real images

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a FastGAN discriminator", least=32)


class FastGANDiscriminator(Discriminator):
    """Return 25 logits per image and, for real ones, a reconstruction loss."""

    def __init__(self, config: FastGANDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        self.auxiliary = {"reconstruction": config.reconstruction}
        sizes = [8 << count for count in reversed(range(count_doublings(image.resolution) - 1))]
        base = config.base * config.width
        widths = [scale_channels(128, base / size) for size in sizes]
        large: list[nn.Module] = [halving_conv(image.channels, widths[0], 4, bias=True), nn.LeakyReLU(0.2)]
        large += [DownBlock(channels, out) for channels, out in pairwise(widths[:-1])]
        self.large = nn.Sequential(*large)  # the image to 16 x 16
        self.small = DownBlock(widths[-2], widths[-1])  # 16 x 16 to 8 x 8
        self.verdict = nn.Sequential(
            *with_batch_norm(nn.Conv2d(widths[-1], widths[-1], 1, bias=False), nn.LeakyReLU(0.2)),
            nn.Conv2d(widths[-1], 1, 4),
        )
        self.whole = self._decoder(widths[-1], base)
        self.quarter = self._decoder(widths[-2], base)
        self.apply(glorot_uniform)
        # Only with this bias do images of twice the contrast differ after the next batch norm. At zero it would have no
        # effect until it has been learned.
        nn.init.uniform_(self.large.get_parameter("0.bias"), -1.0, 1.0)
        for part in (self.large, self.small, self.verdict):
            apply_spectral_norm(part)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map images (N, C, H, W) in [-1, 1] to logits (N, 25) of overlapping patches."""
        return self.verdict(self.small(self.large(x))).flatten(1)

    def judged(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits and the decoders' loss (Liu et al. 2021, equation 5).

        It is the sum of two mean absolute differences: of the image at half its resolution, and of one quarter of the
        image, drawn per image.
        """
        large = self.large(x)
        small = self.small(large)
        logits = self.verdict(small).flatten(1)
        corner = torch.randint(4, (len(x),), device=x.device)
        whole = F.l1_loss(self.whole(small).to(x.dtype), F.avg_pool2d(x, 2))
        quarter = F.l1_loss(self.quarter(crop_quarters(large, corner)).to(x.dtype), crop_quarters(x, corner))
        return logits, {"reconstruction": whole + quarter}

    def _decoder(self, channels: int, base: float) -> nn.Sequential:
        """Return a decoder of (N, channels, 8, 8) to images of half the resolution."""
        sizes = [16 << count for count in range(count_doublings(self.image.resolution) - 2)]
        widths = [channels, *(scale_channels(64, base / size) for size in sizes)]
        blocks = [gated_block(before, after, double=True) for before, after in pairwise(widths)]
        return nn.Sequential(*blocks, nn.Conv2d(widths[-1], self.image.channels, 3, padding=1))


def crop_quarters(x: Tensor, corner: Tensor) -> Tensor:
    """Crop one quarter of each image: (N, C, 2h, 2w) to (N, C, h, w).

    Args:
        x: images or maps.
        corner: (N,) from 0 (top left) to 3 (bottom right).
    """
    parts = rearrange(x, "n c (a h) (b w) -> n (a b) c h w", a=2, b=2)
    return parts[torch.arange(len(x), device=x.device), corner]


register_architecture(
    "fastgan",
    generator=(FastGANGeneratorConfig, FastGANGenerator),
    discriminator=(FastGANDiscriminatorConfig, FastGANDiscriminator),
    paper="Liu et al. 2021, arXiv:2101.04775",
)
