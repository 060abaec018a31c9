"""Restoration: a generator that enlarges small images learns from real ones, made small and degraded."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.losses.step_outputs import StepOutputs
from zoo.runtime.precision import upcast

MOST_NOISE = 0.05  # largest deviation of the noise, of a range of [-1, 1]
MOST_BLUR = 0.6  # largest deviation of the blur, in pixels of the small image
DEGRADED_SHARE = 0.5  # of images that are blurred; independently, as many have noise


def restoration(step: StepOutputs) -> Tensor:
    """Return the mean absolute difference of real images and what ``G.enlarge`` makes of them, made small.

    Some of the small images are blurred or noisy, as generated ones are: after Ledig et al. 2017, arXiv:1609.04802
    (the pixel loss), and Zhang et al. 2021, arXiv:2103.14006 (random degradation).
    """
    assert step.real is not None
    G: Any = step.G
    real = step.real.detach()
    return F.l1_loss(upcast(G.enlarge(degrade(shrink_images(real, G.factor)))), upcast(real))


def shrink_images(images: Tensor, factor: int) -> Tensor:
    """Map images (N, C, factor h, factor w) to (N, C, h, w) by the filter of the data cache.

    A small image then is what a generator of that size was trained on; see ``zoo.data.resize``.
    """
    position = (torch.arange(2 * factor, dtype=images.dtype, device=images.device) + 0.5) / factor - 1
    window = torch.sinc(position) * (0.54 + 0.46 * torch.cos(math.pi * position))  # Hamming
    window = window / window.sum()
    small = F.pad(images.flatten(0, 1)[:, None], (factor // 2,) * 4, mode="replicate")
    for kernel, stride in ((window[:, None], (factor, 1)), (window[None], (1, factor))):
        small = F.conv2d(small, kernel[None, None], stride=stride)
    return small[:, 0].unflatten(0, images.shape[:2])


def degrade(images: Tensor) -> Tensor:
    """Blur some images (N, C, H, W) and add noise to some, each by its own random amount."""
    blur = MOST_BLUR * _draw_amounts(images)
    # Normal weights of the nearest neighbours; a deviation of 0 leaves the image as it is.
    side = torch.where(blur > 0, torch.exp(-0.5 / blur.clamp(min=1e-3).square()), 0.0)
    for axis in (2, 3):
        pad = (1, 1, 0, 0) if axis == 3 else (0, 0, 1, 1)
        before, centre, after = (
            F.pad(images, pad, mode="replicate").narrow(axis, start, images.shape[axis]) for start in range(3)
        )
        images = (centre + side * (before + after)) / (1 + 2 * side)
    return images + MOST_NOISE * _draw_amounts(images) * torch.randn_like(images)


def _draw_amounts(images: Tensor) -> Tensor:
    """Return a number in [0, 1) for each image, (N, 1, 1, 1); 0 for the images that stay as they are."""
    amounts, chances = torch.rand(2, len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
    return amounts * (chances < DEGRADED_SHARE)
