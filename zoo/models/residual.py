"""Residual blocks with grouped convolutions: R3GAN's blocks, shared by Haar-space networks (arXiv:2501.05441)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.layers import blur_down, blur_up
from zoo.runtime.kernels import BiasLeaky, can_read

_SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + _SLOPE**2))  # He et al. 2015, equation 15


def normal_convolution(channels: int, out: int, kernel: int, *, groups: int = 1, gain: float = 1.0) -> nn.Conv2d:
    """Return a convolution without bias and with weights N(0, gain^2 / fan in)."""
    layer = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    return layer


class BiasedActivation(nn.Module):
    """Add a bias per channel, then apply a leaky ReLU."""

    fused = False  # in training on a CPU, overwrite the maps, in one pass

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.fused and self.training and can_read(x):
            return BiasLeaky.apply(x, self.bias, _SLOPE)
        return F.leaky_relu(x + self.bias[:, None, None].to(x.dtype), _SLOPE)


class ResidualBlock(nn.Module):
    """x + branch(x) (the paper's figure 3, right).

    Args:
        channels: of input and output.
        group: channels per group.
        expansion: how much wider the grouped convolution is.
        count: residual blocks in the whole network.
    """

    def __init__(self, channels: int, *, group: int, expansion: int, count: int) -> None:
        super().__init__()
        inner = channels * expansion
        groups = max(1, inner // group)
        while inner % groups:  # widths of thin networks are no multiple of the group
            groups -= 1
        # Fixup (Zhang et al. 2019): L^(-1 / (2m - 2)) for m = 3 layers, of which the last starts at zero.
        gain = GAIN * count**-0.25
        self.branch = nn.Sequential(
            normal_convolution(channels, inner, 1, gain=gain),
            BiasedActivation(inner),
            normal_convolution(inner, inner, 3, groups=groups, gain=gain),
            BiasedActivation(inner),
            normal_convolution(inner, channels, 1, gain=0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Resample(nn.Module):
    """Double (``up``) or halve the resolution, with a 1 x 1 convolution."""

    def __init__(self, channels: int, out: int, *, up: bool) -> None:
        super().__init__()
        self.change = normal_convolution(channels, out, 1) if channels != out else nn.Identity()
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        # The convolution runs at the lower resolution, where it is cheaper.
        return blur_up(self.change(x)) if self.up else self.change(blur_down(x))


def residual_stages(widths: list[int], *, blocks: int, group: int, expansion: int, up: bool) -> list[nn.Module]:
    """Return ``blocks`` residual blocks at each of ``widths`` with resampling in between."""
    layers: list[nn.Module] = []
    count = blocks * len(widths)
    for index, width in enumerate(widths):
        if index:
            layers.append(Resample(widths[index - 1], width, up=up))
        layers += [ResidualBlock(width, group=group, expansion=expansion, count=count) for _ in range(blocks)]
    return layers
