"""Skip-layer excitation: FastGAN's generator body, shared by projected GANs."""

from __future__ import annotations

from itertools import pairwise

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from zoo.models.batch_norm import update_running_statistics
from zoo.models.layers import FOUR_OR_SEVEN, count_doublings, glorot_uniform, scale_channels, with_batch_norm
from zoo.runtime.convolution import convolve_doubled
from zoo.runtime.kernels import LANES, NormGate, can_read

LEAST_MERGED = 8  # pixels a side before a doubling that is merged with its convolution: below, kernels cost more


class GatedLinearUnit(nn.Module):
    """Multiply half of the channels by the sigmoid of the rest.

    Dauphin et al. 2017.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 2 c, H, W) to (N, c, H, W)."""
        # Not nn.GLU: its gradient loses the memory layout of its input, and with channels last on a CPU the batch norm
        # before it then took ten times as long.
        value, gate = x.chunk(2, dim=1)
        return value * gate.sigmoid()


class GatedSequential(nn.Sequential):
    """Layers of gated blocks; where ``fused``, training on a CPU joins norm and gate, doubling and convolution."""

    fused = False

    def forward(self, input: Tensor) -> Tensor:
        if not (self.fused and self.training) or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        x, layers = input, list(self)
        while layers:
            layer = layers.pop(0)
            following = layers[0] if layers else None
            if isinstance(layer, nn.BatchNorm2d) and isinstance(following, GatedLinearUnit):
                x = norm_gate(layer, layers.pop(0), x)
            elif isinstance(layer, nn.Upsample) and isinstance(following, nn.Conv2d) and x.shape[2] >= LEAST_MERGED:
                x = convolve_doubled(x, following.weight, following.bias)
                layers.pop(0)
            else:
                x = layer(x)
        return x


def norm_gate(norm: nn.BatchNorm2d, gate: nn.Module, x: Tensor) -> Tensor:
    """Return ``gate(norm(x))`` in one pass over the maps where that is possible."""
    if type(norm) is not nn.BatchNorm2d or not norm.affine or not can_read(x, 2 * LANES):
        return gate(norm(x))
    out, mean, variance = NormGate.apply(x, norm.weight, norm.bias, norm.eps)
    update_running_statistics(norm, mean, variance, x.numel() // x.shape[1])
    return out


def gated_block(channels: int, out: int, *, double: bool) -> nn.Sequential:
    """Return 3 x 3 convolution, batch norm and gated linear unit.

    (N, channels, h, w) to (N, out, h, w).
    With ``double``, at twice the resolution (nearest neighbours).
    """
    return GatedSequential(
        nn.Upsample(scale_factor=2) if double else nn.Identity(),
        *with_batch_norm(nn.Conv2d(channels, 2 * out, 3, padding=1, bias=False), GatedLinearUnit()),
    )


class SkipLayerExcitation(nn.Module):
    """Gate the channels of large maps by small ones (Liu et al. 2021, equation 2)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(4),
            nn.Conv2d(channels, out, 4),
            nn.LeakyReLU(0.1),
            nn.Conv2d(out, out, 1),
            nn.Sigmoid(),
        )

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        """Scale each channel of ``large`` by a gate in (0, 1) from ``small``.

        ``large`` is (N, out, H, W), ``small`` is (N, channels, h, w).
        """
        return large * self.gates(small)


class FastGANBody(nn.Module):
    """Map latents to an image with a linear output (Liu et al. 2021, figure 3).

    Gated convolutions double the resolution from 4 x 4, or from 7 x 7 for 28 pixels and its doubles; every resolution
    excites the one sixteen times as large.

    Args:
        latent: numbers per latent.
        channels: of the image.
        resolution: of the image, a power of two from 8, or 7 times a power of two.
        base: channels at 128 px; twice as many at 64 px and 32 px, doubling with each halving below.
        deep: add a second convolution to every other doubling, the first included.
    """

    def __init__(self, latent: int, channels: int, resolution: int, base: float, *, deep: bool) -> None:
        super().__init__()
        doublings = count_doublings(resolution, starts=FOUR_OR_SEVEN)
        start = resolution >> doublings
        sizes = [start << count for count in range(doublings + 1)]
        widths = [scale_channels(64 if size < 64 else 128, base / size) for size in sizes]
        # Twice the channels before each gated linear unit, which halves them.
        self.start = GatedSequential(
            Rearrange("n c -> n c 1 1"),
            # 1 x 1 to the smallest maps
            *with_batch_norm(nn.ConvTranspose2d(latent, 2 * widths[0], start, bias=False), GatedLinearUnit()),
        )
        self.blocks = nn.ModuleList()
        for index, (before, after) in enumerate(pairwise(widths)):
            block = gated_block(before, after, double=True)
            if deep and index % 2 == 0:
                block.extend(gated_block(after, after, double=False))
            self.blocks.append(block)
        # Four doublings apart: 4 px to 64 px, 8 px to 128 px, 7 px to 112 px.
        self.excitations = nn.ModuleList(map(SkipLayerExcitation, widths, widths[4:]))
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.apply(glorot_uniform)

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, latent) to (N, channels, resolution, resolution)."""
        return self.to_image(self.features(z))

    def features(self, z: Tensor) -> Tensor:
        """Map (N, latent) to the last maps (N, C, resolution, resolution) that the image is made of."""
        maps = [self.start(z)]
        for index, block in enumerate(self.blocks, start=1):
            x = block(maps[-1])
            if index >= 4:  # the source is four doublings back
                x = self.excitations[index - 4](maps[index - 4], x)
            maps.append(x)
        return maps[-1]
