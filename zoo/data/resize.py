"""Pixels of any size and depth to square uint8 pictures.

The window comes first, at full precision: what lies outside it is clipped before the filter could smear it over its
neighbours. Then the picture is made square, resized in float32, and rounded once.

An axis that shrinks is filtered with Pillow's Hamming: antialiased, sharper than bilinear, free of box's uneven steps,
and of positive weights only, so that black stays black and nothing outshines its brightest neighbour. (Lanczos rings:
its second lobe lifts the background beside a bright edge to about 8 of 255.) An axis that grows is filtered with
bicubic, whose one negative lobe is clipped after each axis, so that it cannot turn positive in the second. Without a
change of size no pixel changes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from zoo.data.decode import Array

Window = tuple[float, float]
Fit = Literal["pad", "crop", "stretch"]


def to_8_bit(pixels: Array, window: Window | None) -> Array:
    """Pixels to float32 of [0, 255], the same shape; ``window`` becomes black and white, None changes nothing."""
    values = pixels.astype(np.float32)
    if window is None:
        return values
    low, high = window
    return np.clip((values - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)


def to_grey(values: Array) -> Array:
    """(H, W) or (H, W, C) to (H, W): luminance (ITU-R 601) of three channels, the mean of any other number."""
    if values.ndim == 2:
        return values
    if values.shape[2] == 3:
        return values @ np.array([0.299, 0.587, 0.114], np.float32)
    return values.mean(axis=2)


def resize_image(values: Array, *, resolution: int, channels: int, fit: Fit) -> Array:
    """Float32 levels (H, W) or (H, W, C) in [0, 255] to uint8 (channels, resolution, resolution).

    One channel of several is luminance; several of one are copies of it; any other number must be the picture's own.
    """
    if channels == 1 or values.ndim == 2 or values.shape[2] == 1:
        planes = [to_grey(values)]
    else:
        planes = [values[:, :, channel] for channel in range(channels)]
    done = np.stack([_resized(_square(plane, fit), resolution) for plane in planes])
    return np.repeat(done, channels // len(planes), axis=0)


def thumbnail(values: Array, width: int, height: int) -> Array:
    """Float32 levels (H, W) to float32 (height, width), each pixel about the mean of what it covers."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize((width, height), Image.Resampling.BOX))


def _square(plane: Array, fit: Fit) -> Array:
    height, width = plane.shape
    if fit == "stretch" or height == width:
        return plane
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return plane[top : top + side, left : left + side]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = np.zeros((side, side), np.float32)
    canvas[top : top + height, left : left + width] = plane
    return canvas


def _resized(plane: Array, resolution: int) -> Array:
    for axis in (0, 1):  # each axis by itself, for the sake of the clip in between
        size = plane.shape[1], plane.shape[0]
        if size[axis] != resolution:
            kernel = Image.Resampling.HAMMING if size[axis] > resolution else Image.Resampling.BICUBIC
            target = (resolution, size[1]) if axis == 0 else (size[0], resolution)
            image = Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(target, kernel)
            plane = np.clip(np.asarray(image), 0, 255)
    return np.rint(plane).astype(np.uint8)
