"""Blocks and conventions that at least two architectures use, or that the field has a name for.

Three of the original projects were written in Keras. What that means here is decided once:

- **BatchNorm**: Keras' momentum 0.99 is torch's 0.01; eps is 1e-3 (``KERAS_NORM``). Keras keeps the biased batch
  variance as running variance where torch keeps the unbiased one: a factor n / (n - 1), left as torch has it.
- **"same" padding, stride 2**: Keras pads more after than before (3 x 3: 0 and 1; 5 x 5: 1 and 2). The symmetric
  padding used here (1 and 2, with ``output_padding=1`` in transposed convolutions) is *the same network seen in a
  mirror*: flip the input, the kernels and the output along both axes and the numbers agree. Trained from scratch it
  learns the same things, and no extra copy is made. See ``halving`` and ``doubling``; tests/test_layers.py proves it.
- **Initialisation**: glorot uniform kernels and zero biases by default (``glorot_uniform``); Adam's eps 1e-7 stands
  in the recipes.
- **Dense then reshape**: Keras reshapes to (h, w, c), torch to (c, h, w): a renaming of units, irrelevant from
  scratch. A norm in between is one over all c*h*w units (``dense_start``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

KERAS_NORM: dict[str, Any] = {"momentum": 0.01, "eps": 1e-3}


def scale_channels(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 1: the one way a network gets thinner or wider."""
    return max(1, round(channels * width))


def count_doublings(resolution: int, network: str) -> int:
    """How many doublings lead from 4 pixels to ``resolution``: 1 to 8, 4 to 64.

    Args:
        resolution: pixels a side.
        network: who asks, for the message: "a DCGAN generator".

    Raises:
        ValueError: no doublings lead there.
    """
    count = resolution.bit_length() - 3
    if count < 1 or resolution != 4 << count:
        raise ValueError(f"{network} takes powers of two from 8 up (8, 16, 32, ... pixels), not {resolution}")
    return count


def check_stages(resolution: int, channels: Sequence[int], network: str, side: str) -> None:
    """Refuse a ``resolution`` for which ``channels``, one for each from 4 pixels up, are too few.

    Args:
        resolution: pixels a side.
        channels: at 4, 8, 16, ... pixels.
        network: who asks, for the message.
        side: generator or discriminator, whose ``channels`` a recipe gives.

    Raises:
        ValueError: they are too few, or no doublings lead there.
    """
    most = len(channels)
    if count_doublings(resolution, network) + 1 > most:
        sizes = ", ".join(str(4 << count) for count in range(1, most))
        raise ValueError(
            f"{network} of {most} resolutions takes {sizes} pixels, not {resolution}; give {side}.channels one more "
            "for every doubling"
        )


def check_multiple(resolution: int, factor: int, network: str) -> None:
    """Refuse a ``resolution`` that ``network`` cannot reach from, or bring down to, whole pixels.

    Raises:
        ValueError: ``resolution`` is no multiple of ``factor``.
    """
    if resolution % factor:
        raise ValueError(f"{network} takes multiples of {factor} pixels, not {resolution}")


def halving_conv(channels: int, out: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    """An odd ``kernel`` at stride 2, Keras' "same" in the mirror: (N, channels, 2h, 2w) to (N, out, h, w)."""
    return nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2, bias=bias)


def doubling_conv(channels: int, out: int, kernel: int, *, bias: bool) -> nn.ConvTranspose2d:
    """The transpose of ``halving``: (N, channels, h, w) to (N, out, 2h, 2w)."""
    return nn.ConvTranspose2d(channels, out, kernel, stride=2, padding=kernel // 2, output_padding=1, bias=bias)


def dense_start(latent: int, channels: int, size: int, activation: nn.Module) -> nn.Sequential:
    """Latents (N, latent) to maps (N, channels, size, size): dense, normed unit by unit, and only then reshaped."""
    units = channels * size * size
    return nn.Sequential(
        Dense(latent, units, bias=False),
        nn.BatchNorm1d(units, **KERAS_NORM),
        activation,
        Rearrange("n (c h w) -> n c h w", h=size, w=size),
    )


class Dense(nn.Linear):
    """``nn.Linear`` for many units and few rows: in the weights' precision under autocast too.

    Such a product costs one read of its weights; casting them first adds a read and a write.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.amp.is_autocast_available(input.device.type):  # as on "meta"
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class EqualizedConv2d(nn.Conv2d):
    """A convolution whose weights are N(0, 1) and scaled when used, by ``gain`` / sqrt(fan in): all learn at one speed
    under Adam (Karras et al. 2018, arXiv:1710.10196, section 4.1). Biases start at 0.
    """

    def __init__(self, channels: int, out: int, kernel: int, *, gain: float = 1.0, bias: bool = True) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2, bias=bias)
        self.gain = gain / math.sqrt(channels * kernel**2)
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight * self.gain, self.bias, padding=self.padding)


class EqualizedLinear(nn.Linear):
    """A dense layer like :class:`EqualizedConv2d`; ``lr`` slows it further (as a mapping network is), ``start`` is the
    bias it begins with.
    """

    def __init__(self, inside: int, out: int, *, gain: float = 1.0, lr: float = 1.0, start: float = 0.0) -> None:
        super().__init__(inside, out)
        self.gain, self.lr = gain * lr / math.sqrt(inside), lr
        nn.init.normal_(self.weight, std=1 / lr)
        nn.init.constant_(self.bias, start / lr)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.gain, self.bias * self.lr)


class MinibatchStd(nn.Module):
    """One more channel: the standard deviation over groups of images, averaged over places and channels (Karras et al.
    2018, section 3), so that D sees whether a batch is varied.

    Args:
        group: neighbours a group, at most; fewer where that does not divide a batch.
    """

    batch_statistics = True

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C + 1, H, W)."""
        n, _, h, w = x.shape
        group = max(size for size in range(1, min(self.group, n) + 1) if n % size == 0)
        groups = x.float().unflatten(0, (n // group, group))  # the same ones in any part of whole groups
        std = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        channel = std.repeat_interleave(group)[:, None, None, None].expand(n, 1, h, w).to(x.dtype)
        return torch.cat([x, channel], 1)


def one_hot(label: Tensor | None, classes: int) -> Tensor:
    """(N,) int64 to (N, classes) int64 of zeros and ones.

    Raises:
        ValueError: no label.
    """
    return F.one_hot(require_label(label), classes)


def require_label(label: Tensor | None) -> Tensor:
    """``label``, by a network that cannot do without.

    Raises:
        ValueError: there is none.
    """
    if label is None:
        raise ValueError("a network with classes takes labels")
    return label


class GatedLinearUnit(nn.Module):
    """(N, 2 c, H, W) to (N, c, H, W): the first half times the sigmoid of the second (Dauphin et al. 2017).

    ``nn.GLU``, whose gradient forgets the layout of its input: on a CPU, the batch norm before it then took ten times
    as long with channels last.
    """

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=1)
        return value * gate.sigmoid()


def gated_block(channels: int, out: int, *, double: bool) -> nn.Sequential:
    """3 x 3 convolution, batch norm and gated linear unit: (N, channels, h, w) to
    (N, out, h, w), at twice the resolution (nearest neighbours) where ``double``.
    """
    return nn.Sequential(
        nn.Upsample(scale_factor=2) if double else nn.Identity(),
        nn.Conv2d(channels, 2 * out, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * out),
        GatedLinearUnit(),
    )


class SkipLayerExcitation(nn.Module):
    """Small maps gate the channels of large ones (Liu et al. 2021, equation 2)."""

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
        """``large`` (N, out, H, W), each channel times a number in (0, 1) that ``small`` (N, channels, h, w) sets."""
        return large * self.gates(small)


class ExcitedBody(nn.Module):
    """Latents to an image by gated convolutions, doubling by doubling from 4 x 4, with skip-layer excitation from
    every resolution to the one sixteen times as large (Liu et al. 2021, figure 3). The output is linear.

    Args:
        latent: dimension of the latent.
        channels: of the image.
        resolution: of the image, a power of two from 8 up.
        base: channels at 128 px; 64 px and 32 px have twice as many, each halving below doubles them.
        deep: every other doubling, the first included, has a second convolution.
    """

    def __init__(self, latent: int, channels: int, resolution: int, base: float, *, deep: bool) -> None:
        super().__init__()
        sizes = [
            4 << count for count in range(count_doublings(resolution, "a generator with skip-layer excitation") + 1)
        ]
        widths = [scale_channels(64 if size < 64 else 128, base / size) for size in sizes]
        self.start = nn.Sequential(
            Rearrange("n c -> n c 1 1"),
            nn.ConvTranspose2d(latent, 2 * widths[0], 4, bias=False),  # 1 x 1 to 4 x 4
            nn.BatchNorm2d(2 * widths[0]),
            GatedLinearUnit(),
        )
        self.blocks = nn.ModuleList()
        for index, (inside, out) in enumerate(pairwise(widths)):
            block = gated_block(inside, out, double=True)
            if deep and index % 2 == 0:
                block.extend(gated_block(out, out, double=False))
            self.blocks.append(block)
        pairs = zip(widths, widths[4:], strict=False)
        self.excitations = nn.ModuleList(SkipLayerExcitation(inside, out) for inside, out in pairs)
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.apply(glorot_uniform)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) to (N, channels, resolution, resolution)."""
        maps = [self.start(z)]
        for index, block in enumerate(self.blocks, start=1):
            x = block(maps[-1])
            if index >= 4:
                x = self.excitations[index - 4](maps[index - 4], x)
            maps.append(x)
        return self.to_image(maps[-1])


def blur_down(x: Tensor) -> Tensor:
    """(N, C, 2h, 2w) to (N, C, h, w): the filter 1 3 3 1 both ways, every second value (Zhang 2019, arXiv:1904.11486).

    As two products with a matrix of h rows, whose gradients of any order are products too: on CPUs twice as fast as
    pooling and twenty times as a convolution of single channels, whose gradient is slow. Borders are continued.
    """
    n, c, height, width = x.shape
    y = _halves(height, x) @ x.permute(0, 2, 3, 1).reshape(n, height, width * c)
    y = _halves(width, x) @ y.reshape(n * (height // 2), width, c)
    return y.view(n, height // 2, width // 2, c).permute(0, 3, 1, 2)


def _halves(size: int, like: Tensor) -> Tensor:
    """(size / 2, size): the filter at every second place."""
    place = torch.arange(size, device=like.device)
    centre = 2 * torch.arange(size // 2, device=like.device)[:, None]
    rows = torch.zeros(size // 2, size, device=like.device)
    for offset, weight in zip((-1, 0, 1, 2), (0.125, 0.375, 0.375, 0.125), strict=True):
        rows = rows + weight * ((centre + offset).clamp(0, size - 1) == place)
    return rows.to(like.dtype)


def blur_up(x: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C, 2h, 2w): every value is 1/4 of its neighbour and 3/4 of its own, both ways: the filter
    1 3 3 1, which is bilinear interpolation. Borders are continued.
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def apply_spectral_norm(network: nn.Module) -> nn.Module:
    """``network``, every convolution and dense layer divided by its largest singular value, which one step of power
    iteration a forward pass follows (Miyato et al. 2018, arXiv:1802.05957, section 2.1). In place.

    Frozen layers are left alone, and those that are normed already; so is what norms do.
    """
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    found = [m for m in network.modules() if isinstance(m, kinds) and not parametrize.is_parametrized(m)]
    for module in [m for m in found if m.weight.requires_grad]:
        dim = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        parametrizations.spectral_norm(module, dim=dim)
    return network


class Dropout(nn.Dropout):
    """``nn.Dropout`` (Srivastava et al. 2014) whose masks on a CPU are cut from four times fewer random numbers.

    There torch draws one 53-bit number an element, on one thread: most of what the 256 px discriminators did. Sixteen
    bits do; the probability is rounded to a multiple of 2^-16. Other devices draw as torch does.
    """

    def forward(self, input: Tensor) -> Tensor:
        dropped = round(self.p * 2**16)
        if not self.training or not 0 < dropped < 2**16 or input.device.type != "cpu":
            return super().forward(input)
        count = input.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
        least = dropped - 2**15  # of the numbers that keep an element
        mask = bits.clamp_(least - 1, least).neg_().add_(least - 1)  # 0 or, where kept, -1: all bits set
        if input.dim() == 4:  # drawn pixel by pixel, whatever the layout: a switch must not change what is dropped
            n, c, h, w = input.shape
            mask = mask.view(n, h, w, c).permute(0, 3, 1, 2)
            mask = mask.contiguous() if input.is_contiguous() else mask
        else:
            mask = mask.view(input.shape)
        scale = 2**16 / (2**16 - dropped)
        if input.dtype == torch.bfloat16:
            return _Masked.apply(input, mask) * scale
        return input * mask * -scale


class _Masked(torch.autograd.Function):
    """Numbers of 16 bits, ANDed with a mask of as many: a fifth of what a product with it costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return (x.view(torch.int16) & mask).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        (gradient,) = gradients
        if mask.dim() == 4 and mask.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)  # Flatten gives it in another layout
        return _Masked.apply(gradient, mask), None


def clip_output(x: Tensor) -> Tensor:
    """Image values cut to [-1, 1], so that a generator can produce the black of a medical image exactly: anything below
    will do. What is cut still learns where its gradient leads back inside; where it leads further out it is dropped.
    """
    return _Within.apply(x)


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        outwards = ((x < -1) & (gradient > 0)) | ((x > 1) & (gradient < 0))  # descent goes against the gradient
        return gradient.masked_fill(outwards, 0.0)


def glorot_uniform(module: nn.Module) -> None:
    """Keras' default for a convolution or dense layer: glorot uniform kernel, zero bias. For ``module.apply``."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def dcgan_normal(module: nn.Module) -> None:
    """The DCGAN paper's start: kernels N(0, 0.02), norm scales N(1, 0.02), zero biases. For ``module.apply``."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
