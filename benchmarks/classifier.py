"""A small classifier of images, with which benchmarks count digits and read the position of slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (8, 16, 32)  # channels at full, half and a quarter of the resolution
PEAK_LR = 3e-3
DRAWN_AT_ONCE = 500

Batch = tuple[Tensor, Tensor]  # uint8 images (N, C, H, W) and their classes (N,)


class SmallClassifier(nn.Sequential):
    """Three 3 x 3 convolutions with batch norm and pooling, and a linear layer: logits (N, classes).

    Args:
        channels: of the images.
        resolution: of the images, a multiple of 8.
    """

    def __init__(self, classes: int, channels: int, resolution: int) -> None:
        layers: list[nn.Module] = []
        for width in WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = width
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * (resolution // 2 ** len(WIDTHS)) ** 2, classes))


def train_classifier(
    network: nn.Module, draw: Callable[[np.random.Generator], Batch], *, steps: int, seed: int
) -> None:
    """Train by Adam with a learning rate that rises and falls once (Smith & Topin 2019); leaves it in eval mode.

    Args:
        draw: returns a batch, from the given random numbers alone.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    network.train()
    for _ in range(steps):
        images, labels = draw(rng)
        loss = F.cross_entropy(network(scale_pixels(images)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def predict_classes(network: nn.Module, images: Tensor) -> Tensor:
    """Return the most likely class of each of the uint8 images (N, C, H, W)."""
    return torch.cat([network(scale_pixels(part)).argmax(1) for part in images.split(DRAWN_AT_ONCE)])


def scale_pixels(images: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
