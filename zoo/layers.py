"""Blocks and conventions that at least two architectures use, and nothing else.

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

from typing import Any

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

KERAS_NORM: dict[str, Any] = {"momentum": 0.01, "eps": 1e-3}


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 1: the one way a network gets thinner or wider."""
    return max(1, round(channels * width))


def doublings(resolution: int, network: str) -> int:
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


def check_multiple(resolution: int, factor: int, network: str) -> None:
    """Refuse a ``resolution`` that ``network`` cannot reach from, or bring down to, whole pixels.

    Raises:
        ValueError: ``resolution`` is no multiple of ``factor``.
    """
    if resolution % factor:
        raise ValueError(f"{network} takes multiples of {factor} pixels, not {resolution}")


def halving(channels: int, out: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    """An odd ``kernel`` at stride 2, Keras' "same" in the mirror: (N, channels, 2h, 2w) to (N, out, h, w)."""
    return nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2, bias=bias)


def doubling(channels: int, out: int, kernel: int, *, bias: bool) -> nn.ConvTranspose2d:
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

    What such a product costs is reading its weights once; casting them first reads them and writes a copy besides.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.amp.is_autocast_available(input.device.type):  # as on "meta"
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


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
