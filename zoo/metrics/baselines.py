"""Images that no generator made, as baselines of every metric."""

from __future__ import annotations

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.runtime import rng


def baseline_images(train_images: ImageSet, noise_images: int = 1) -> dict[str, np.ndarray]:
    """Return the mean training image and a black image, (1, C, H, W) uint8, and ``noise_images`` of noise."""
    images = train_images.images
    total = np.zeros(train_images.shape, np.int64)
    for start in range(0, len(images), 256):  # a memory map need not fit into memory
        total += images[start : start + 256].sum(axis=0, dtype=np.int64)
    mean = np.rint(total / len(images)).astype(np.uint8)[None]
    draws = np.random.default_rng(rng.derive_seed("noise"))
    return {
        "dataset mean": mean,
        "black": np.zeros_like(mean),
        "noise": draws.integers(0, 256, (noise_images, *train_images.shape), np.uint8),
    }
