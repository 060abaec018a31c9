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

from zoo.data.decode import MAX_IMAGE_PIXELS, UnreadableError

MAX_PADDED_PIXELS = 1 << 22  # at a time
MAX_SQUARE_SIDE = 1 << 14  # of a padded image; beyond it, no image of MAX_IMAGE_PIXELS is nearly square

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

    Raises:
        UnreadableError: the image is so thin that resizing it would take more memory than an image may.
    """
    # Stretching holds an image of which one side is already changed. It must not be larger than an image may be.
    height = values.shape[0]
    if fit == "stretch" and height > resolution and height * resolution > MAX_IMAGE_PIXELS:
        raise UnreadableError(f"too thin ({values.shape[1]}x{values.shape[0]}) to be resized to {resolution} pixels")
    # Grey is computed before resizing: one plane to filter instead of three.
    if channels == 1 or values.ndim == 2 or values.shape[2] == 1:
        planes = [to_grey(values)]
    else:
        planes = [values[:, :, channel] for channel in range(channels)]
    resized = np.stack([_resize_plane(plane, resolution, fit) for plane in planes])
    return np.repeat(resized, channels // len(planes), axis=0)


def _resize_plane(plane: ndarray, resolution: int, fit: Fit) -> ndarray:
    height, width = plane.shape
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        plane = plane[top : top + side, left : left + side]
    if fit != "pad":
        return _filter_plane(plane, (resolution, resolution))
    side = max(height, width)
    if side <= MAX_SQUARE_SIDE:
        for axis in (1, 0):
            plane = _filter_axis(plane, axis, resolution, side)
        return np.rint(plane).astype(np.uint8)
    # The square of a long, thin image may not fit into memory: it is resized first and padded afterwards.
    shape = max(1, round(height * resolution / side)), max(1, round(width * resolution / side))
    canvas = np.zeros((resolution, resolution), np.uint8)
    top, left = ((resolution - size) // 2 for size in shape)
    canvas[top : top + shape[0], left : left + shape[1]] = _filter_plane(plane, shape)
    return canvas


def _filter_plane(plane: ndarray, shape: tuple[int, int]) -> ndarray:
    for axis in (1, 0):  # one axis at a time, because the result of the first is clipped
        plane = _filter_axis(plane, axis, shape[axis])
    return np.rint(plane).astype(np.uint8)


def _filter_axis(plane: ndarray, axis: int, size: int, side: int = 0) -> ndarray:
    """Pad one axis to ``side`` with black, resize it to ``size``, and clip the result."""
    length, across = plane.shape[axis], plane.shape[1 - axis]
    padded = max(length, side)
    if padded == size == length:
        return plane
    before = (padded - length) // 2  # odd differences leave the extra row or column at the bottom or right
    margins = [(0, 0), (0, 0)]
    margins[axis] = (before, padded - length - before)
    # Shrink with Hamming: antialiased, sharper than bilinear, without the uneven steps of box, and with positive
    # weights only, so that black stays black (Lanczos lifts the background near an edge to 8 of 255).
    # Grow with bicubic: its one negative lobe is clipped after each axis, so that the second axis cannot turn it
    # positive.
    kernel = Image.Resampling.HAMMING if padded > size else Image.Resampling.BICUBIC
    blocks = []
    step = max(1, MAX_PADDED_PIXELS // padded)  # lines are filtered one by one, so they are padded in blocks
    for start in range(0, across, step):
        block = plane[start : start + step] if axis == 1 else plane[:, start : start + step]
        block = np.pad(np.asarray(block, np.float32), margins) if padded > length else block
        if padded != size:
            target = (size, block.shape[0]) if axis == 1 else (block.shape[1], size)
            image = Image.fromarray(np.ascontiguousarray(block, np.float32)).resize(target, kernel)
            block = np.clip(np.asarray(image), 0, 255)
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1 - axis)
