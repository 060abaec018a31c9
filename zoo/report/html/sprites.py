"""Images inside a page: many of them in one PNG, and that as a ``data:`` address."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoo.report.image_grid import arrange_images, tile_image


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """Images in rows on one PNG, the first at the top left.

    Attributes:
        uri: ``data:image/png;base64,...``.
        width: of the PNG in pixels.
        height: of the PNG in pixels.
        count: number of images in it.
        columns: images per row.
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


def make_sprite(images: np.ndarray, columns: int, *, side: int | None = None, gap: int = 1) -> Sprite:
    """Encode uint8 images (n, C, R, R), n of at least 1, as one PNG.

    Of images with neither 1 nor 3 channels the first channel is shown, as grey.

    Args:
        side: images with more pixels a side are averaged down to this many.

    Raises:
        ValueError: the images are not uint8 (n, C, R, R), or there are none.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"a sprite needs at least one of uint8 images (n, C, R, R), got {images.dtype} {images.shape}")
    side = min(images.shape[-1], side or images.shape[-1])
    sheet = arrange_images(_reduce(images, side), columns, gap)
    uri = "data:image/png;base64," + base64.b64encode(_encode_png(sheet)).decode("ascii")
    count = len(images)
    columns = min(columns, count)  # as in `arrange_images`
    return Sprite(uri=uri, width=sheet.width, height=sheet.height, count=count, columns=columns, side=side, gap=gap)


def bytes_per_pixel(images: np.ndarray) -> float:
    """Estimate how well images compress: the bytes of the first as a PNG, divided by its pixels."""
    return len(_encode_png(tile_image(images[0]))) / images[0, 0].size


def _encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # PNG and not JPEG: a reader who looks for copies or artefacts must see the exact pixels.
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _reduce(images: np.ndarray, side: int) -> np.ndarray:
    """Average uint8 images (n, C, R, R) down to ``side`` pixels a side, if they are larger."""
    if images.shape[-1] <= side:
        return images
    planes = [Image.fromarray(plane) for plane in images.reshape(-1, *images.shape[2:])]
    # BOX averages the pixels that fall together, without the overshoot at edges of sharper filters.
    small = np.stack([np.asarray(plane.resize((side, side), Image.Resampling.BOX)) for plane in planes])
    return small.reshape(*images.shape[:2], side, side)
