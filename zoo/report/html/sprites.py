"""Pictures inside a page: many images in one PNG, and that as a ``data:`` address."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

GROUND = 40  # between the images: dark as scans are, yet not their black


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """Images in rows on one PNG, the first at the top left.

    Attributes:
        uri: ``data:image/png;base64,...``.
        width: of the PNG in pixels.
        height: of the PNG in pixels.
        count: images in it.
        columns: images a row.
        side: pixels a side of each image.
        gap: pixels around each image.
    """

    uri: str
    width: int
    height: int
    count: int
    columns: int
    side: int
    gap: int


def make_sprite(images: Array, columns: int, *, side: int | None = None, gap: int = 1) -> Sprite:
    """uint8 images (n, C, R, R) as one PNG; n of at least 1.

    Of images with neither 1 nor 3 channels the first channel is shown, as grey.

    Args:
        side: images with more pixels a side are averaged down to this many.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"a sprite takes uint8 images (n, C, R, R), not {images.dtype} {images.shape}")
    pixels = _fitted(images if images.shape[1] == 3 else images[:, :1], side)
    count, channels, size, _ = pixels.shape
    columns = min(columns, count)
    cell = size + gap
    sheet = np.full((gap + ceil(count / columns) * cell, gap + columns * cell, channels), GROUND, np.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + i // columns * cell, gap + i % columns * cell
        sheet[top : top + size, left : left + size] = image.transpose(1, 2, 0)
    height, width = sheet.shape[:2]
    uri = "data:image/png;base64," + base64.b64encode(_png(sheet)).decode("ascii")
    return Sprite(uri=uri, width=width, height=height, count=count, columns=columns, side=size, gap=gap)


def bytes_per_pixel(images: Array) -> float:
    """How well these compress: the size of the first as a PNG, over its pixels."""
    image = images[0] if images.shape[1] == 3 else images[0, :1]
    return len(_png(image.transpose(1, 2, 0))) / image[0].size


def _png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _fitted(images: Array, side: int | None) -> Array:
    if side is None or images.shape[-1] <= side:
        return images
    small = np.empty((*images.shape[:2], side, side), np.uint8)
    for image, out in zip(images, small, strict=True):
        for plane, target in zip(image, out, strict=True):
            target[:] = np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BOX))
    return small
