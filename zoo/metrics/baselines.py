"""Images no generator made, as baselines of every metric."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.runtime import rng

Array = np.ndarray[Any, Any]


def baseline_images(reals: ImageSet, noise: int = 1) -> dict[str, Array]:
    """Pictures that nobody made: the mean of the reals and a black one, (1, C, H, W), and some of noise."""
    mean = _mean_image(reals.images)[None]
    draws = np.random.default_rng(rng.derive_seed("noise"))
    return {
        "dataset mean": mean,
        "black": np.zeros_like(mean),
        "noise": draws.integers(0, 256, (noise, *reals.shape), np.uint8),
    }


def _mean_image(images: Any) -> Array:
    total = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), 256):
        total += images[start : start + 256].sum(axis=0, dtype=np.int64)
    return np.rint(total / len(images)).astype(np.uint8)
