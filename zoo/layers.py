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

from einops.layers.torch import Rearrange
from torch import nn

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
        nn.Linear(latent, units, bias=False),
        nn.BatchNorm1d(units, **KERAS_NORM),
        activation,
        Rearrange("n (c h w) -> n c h w", h=size, w=size),
    )


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
