"""Conversion between uint8 images and float images in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Convert float images in [-1, 1] to uint8 of the same shape.

    Values are clamped and mapped by ``round(x * 127.5 + 127.5)``; NaN becomes black. ``to_uint8(from_uint8(u))`` is
    ``u`` for every value.
    """
    levels = images.detach().float().nan_to_num(nan=-1.0).clamp(-1, 1) * 127.5 + 127.5
    return levels.round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [-1, 1]: ``u / 127.5 - 1``."""
    return images.float() / 127.5 - 1
