"""FastGAN (Liu et al. 2021, arXiv:2101.04775), for two thousand images and fewer.

Notable: small maps of the generator gate the channels of maps sixteen times as large (skip-layer excitation); the
discriminator has to keep what images look like: two small decoders rebuild real ones from its maps, the whole image
from the 8 x 8 ones and a random quarter from the 16 x 16 ones.

Differs from the paper in: the decoders' loss is the mean absolute difference instead of a perceptual one, whose
network was trained on photographs, and they rebuild half the resolution (the quarter: all of it) at every image size;
the output is cut to [-1, 1], because a tanh hardly reaches the black of most of a medical image; no noise
inputs; no second discriminator for the shrunk image and no excitation in the discriminator, which the authors' code has
and the paper has not. As in their code, the discriminator has both spectral and batch norms; its first convolution
has a bias, because the batch norm after it would otherwise remove the contrast of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count, NonNegative
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import (
    ExcitedBody,
    apply_spectral_norm,
    clip_output,
    count_doublings,
    gated_block,
    glorot_uniform,
    scale_channels,
)
from zoo.models.registry import register_architecture


@dataclass(frozen=True, kw_only=True)
class FastGANGeneratorConfig(NetworkConfig):
    latent: Count = 256  # dimension of the latent
    base: Count = 64  # channels at 128 px; twice as many at 64 and 32 px, and from there at each halving, down to 4 x 4

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a FastGAN generator")


class FastGANGenerator(Generator):
    def __init__(self, config: FastGANGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        base = config.base * config.width
        self.body = ExcitedBody(config.latent, image.channels, image.resolution, base, deep=True)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return clip_output(self.body(z))


class FastGANDown(nn.Module):
    """Half the resolution by two ways, of which the mean is taken: (N, channels, 2h, 2w) to (N, out, h, w)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convolved = nn.Sequential(
            nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(0.2),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(0.2),
        )
        self.pooled = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(channels, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.convolved(x) + self.pooled(x)) / 2


@dataclass(frozen=True, kw_only=True)
class FastGANDiscriminatorConfig(NetworkConfig):
    base: Count = 64  # channels at 128 px; twice as many at each halving, down to 8 x 8
    reconstruction: NonNegative = 1.0  # weight of the decoders' loss, for real images

    def validate(self, image: ImageSpec) -> None:
        if image.resolution < 32 or image.resolution & (image.resolution - 1):
            raise ValueError(
                f"a FastGAN discriminator takes powers of two from 32 up (32, 64, 128, ... pixels), not "
                f"{image.resolution}"
            )


class FastGANDiscriminator(Discriminator):
    """25 logits per image, and for real images the error of their reconstruction."""

    def __init__(self, config: FastGANDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        self.auxiliary = {"reconstruction": config.reconstruction}
        sizes = [size for count in range(1, 32) if (size := image.resolution >> count) >= 8]
        base = config.base * config.width
        widths = [scale_channels(128, base / size) for size in sizes]
        large: list[nn.Module] = [
            nn.Conv2d(image.channels, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        large += [FastGANDown(channels, out) for channels, out in pairwise(widths[:-1])]
        self.large = nn.Sequential(*large)  # the image to 16 x 16
        self.small = FastGANDown(widths[-2], widths[-1])  # and to 8 x 8
        self.verdict = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 1, bias=False),
            nn.BatchNorm2d(widths[-1]),
            nn.LeakyReLU(0.2),
            nn.Conv2d(widths[-1], 1, 4),
        )
        self.whole, self.quarter = (self._decoder(channels, base) for channels in (widths[-1], widths[-2]))
        self.apply(glorot_uniform)
        # Of zero it would be no use before it has been learnt.
        nn.init.uniform_(self.large.get_parameter("0.bias"), -1.0, 1.0)
        for module in (self.large, self.small, self.verdict):
            apply_spectral_norm(module)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to logits (N, 25), of places that overlap."""
        return self.verdict(self.small(self.large(x))).flatten(1)

    def judged(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and how far the decoders are off (Liu et al. 2021, equation 5): the sum of two mean absolute
        differences, that of the image at half its resolution and that of one quarter of it, drawn for every image.
        """
        large = self.large(x)
        small = self.small(large)
        logits = self.verdict(small).flatten(1)
        drawn = torch.randint(4, (len(x),), device=x.device)
        whole = F.l1_loss(self.whole(small).to(x.dtype), F.avg_pool2d(x, 2))
        quarter = F.l1_loss(self.quarter(quarters(large, drawn)).to(x.dtype), quarters(x, drawn))
        return logits, {"reconstruction": whole + quarter}

    def _decoder(self, channels: int, base: float) -> nn.Sequential:
        """Maps (N, channels, 8, 8) to an image of half the resolution."""
        layers: list[nn.Module] = []
        size = 8
        while size < self.image.resolution // 2:
            size *= 2
            out = scale_channels(64, base / size)
            layers.append(gated_block(channels, out, double=True))
            channels = out
        return nn.Sequential(*layers, nn.Conv2d(channels, self.image.channels, 3, padding=1))


def quarters(x: Tensor, which: Tensor) -> Tensor:
    """One quarter of each: (N, C, 2h, 2w) and numbers (N,) from 0, top left, to 3, bottom right, to (N, C, h, w)."""
    parts = rearrange(x, "n c (a h) (b w) -> n (a b) c h w", a=2, b=2)
    return parts[torch.arange(len(x), device=x.device), which]


register_architecture(
    "fastgan",
    generator=(FastGANGeneratorConfig, FastGANGenerator),
    discriminator=(FastGANDiscriminatorConfig, FastGANDiscriminator),
    paper="Liu et al. 2021, arXiv:2101.04775",
)
