"""Convert pixels of any size and depth to square uint8 images.

The window is applied first, at full precision: intensities outside it are clipped before the resampling filter could
spread them over their neighbours. Then the image is made square, resized in float32, and rounded once. Without a change
of size no pixel changes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy import ndarray
from PIL import Image

IntensityWindow = tuple[float, float]  # the intensities that become black and white
Fit = Literal["pad", "crop", "stretch"]


def to_8_bit(pixels: ndarray, window: IntensityWindow | None) -> ndarray:
    """Map pixels to float32 in [0, 255], same shape; without a window values stay."""
    values = pixels.astype(np.float32)
    if window is None:
        return values
    low, high = window
    return np.clip((values - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)


def to_grey(values: ndarray) -> ndarray:
    """Reduce (H, W, C) to (H, W): luminance of 3 channels, else the mean."""
    if values.ndim == 2:
        return values
    if values.shape[2] == 3:
        return values @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return values.mean(axis=2)


def resize_image(values: ndarray, *, resolution: int, channels: int, fit: Fit) -> ndarray:
    """Make an image square and resize it to uint8 (channels, resolution, resolution).

    Args:
        values: float32 in [0, 255], (H, W) or (H, W, C).
        resolution: pixels per side.
        channels: 1 takes the luminance of several; several repeat a single one; any other number must be the image's.
        fit: pad with black, crop the middle, or stretch.
    """
    # Grey is computed before resizing: one plane to filter instead of three.
    if channels == 1 or values.ndim == 2 or values.shape[2] == 1:
        planes = [to_grey(values)]
    else:
        planes = [values[:, :, channel] for channel in range(channels)]
    resized = np.stack([_resize_plane(_make_square(plane, fit), resolution) for plane in planes])
    return np.repeat(resized, channels // len(planes), axis=0)


def _make_square(plane: ndarray, fit: Fit) -> ndarray:
    height, width = plane.shape
    if fit == "stretch" or height == width:
        return plane
    side = min(height, width) if fit == "crop" else max(height, width)
    # Odd differences leave the extra row or column at the bottom or right.
    top, left = abs(side - height) // 2, abs(side - width) // 2
    if fit == "crop":
        return plane[top : top + side, left : left + side]
    canvas = np.zeros((side, side), np.float32)
    canvas[top : top + height, left : left + width] = plane
    return canvas


def _resize_plane(plane: ndarray, resolution: int) -> ndarray:
    for axis in (0, 1):  # one axis at a time, because the result of the first is clipped
        size = plane.shape[1], plane.shape[0]
        if size[axis] != resolution:
            # Shrink with Hamming: antialiased, sharper than bilinear, without the uneven steps of box, and with
            # positive weights only, so that black stays black (Lanczos lifts the background near an edge to 8 of 255).
            # Grow with bicubic: its one negative lobe is clipped after each axis, so that the second axis cannot turn
            # it positive.
            kernel = Image.Resampling.HAMMING if size[axis] > resolution else Image.Resampling.BICUBIC
            target = (resolution, size[1]) if axis == 0 else (size[0], resolution)
            image = Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(target, kernel)
            plane = np.clip(np.asarray(image), 0, 255)
    return np.rint(plane).astype(np.uint8)
