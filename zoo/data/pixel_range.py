"""Between uint8 images and float images in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Float images aiming at [-1, 1] to uint8 of the same shape: clamped, ``round(x * 127.5 + 127.5)``; NaN is black.

    `from_uint8` is the inverse: ``to_uint8(from_uint8(u))`` is ``u`` for every value.
    """
    levels = images.detach().float().nan_to_num(nan=-1.0).clamp(-1, 1) * 127.5 + 127.5
    return levels.round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]: ``u / 127.5 - 1``, so 0 is -1 and 255 is 1. The inverse of `to_uint8`."""
    return images.float() / 127.5 - 1
