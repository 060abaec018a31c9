"""The images of a page, as large as its size allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any

import numpy as np

from zoo.report.html.sprites import Sprite, bytes_per_pixel, make_sprite

_Plain = Mapping[str, Any]

PAGE_PNG_BYTES = 5_500_000  # about how many bytes of PNG a page may hold; as base64 they take a third more
REDUCED_SIDES = (192, 128, 96, 64)  # pixels a side to which larger images are averaged down where they do not fit

# Largest resolution, images of a grid, columns of a grid; the last row is for all larger images.
_GRID_SHAPES = ((32, 36, 6), (64, 25, 5), (None, 16, 4))
_SINGLE_RUN_GRID_SHAPES = ((64, 64, 8), (None, 25, 5))
GRID_WIDTH = 350  # CSS pixels that a grid is about as wide as; twice as many on the page of one run
STRIP_SIDE = 128  # pixels a side of the images of an interpolation
PIXELATED_SIDE = 64  # images up to this side are shown with square pixels, and some fakes are left for the quiz
QUIZ_POOL_IMAGES = 24  # images of either kind that a quiz draws from


def no_images() -> np.ndarray:
    """Return an empty array of images."""
    return np.zeros((0, 1, 1, 1), np.uint8)


@dataclass(frozen=True, kw_only=True)
class RowPictures:
    """The images of one generator: uint8 (n, C, R, R) with 1 or 3 channels, any of them possibly empty.

    Attributes:
        fakes: samples, up to 64.
        pairs: fakes that are shown next to their nearest training images, the closest pair first.
        nearest: the training image nearest to each of these; real.
        pair_notes: a caption for each pair.
        strip: an interpolation in latent space.
        log: rows of the training log: dicts with ``nimg`` and any values.
    """

    fakes: np.ndarray = field(default_factory=no_images)
    pairs: np.ndarray = field(default_factory=no_images)
    nearest: np.ndarray = field(default_factory=no_images)
    pair_notes: list[str] = field(default_factory=list)
    strip: np.ndarray = field(default_factory=no_images)
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sprite of samples.

    Attributes:
        width: CSS pixels that it takes where there is room; small images are shown by a whole factor.
        pixelated: whether pixels are shown as squares.
    """

    sprite: Sprite
    width: int
    pixelated: bool


class Album:
    """Encodes the images of a page at the largest size that keeps it within about `PAGE_PNG_BYTES`.

    Raises:
        ValueError: images that are not uint8 (n, C, R, R).
    """

    def __init__(
        self,
        document: _Plain,
        pictures: Mapping[str, RowPictures],
        reals: Mapping[str, np.ndarray],
        *,
        no_reals: bool,
    ) -> None:
        arrays = [*reals.values()]
        for row in pictures.values():
            arrays += [row.fakes, row.pairs, row.nearest, row.strip]
        for array in arrays:
            if len(array) and (array.ndim != 4 or array.dtype != np.uint8):
                raise ValueError(f"a page needs uint8 images (n, C, R, R), got {array.dtype} {array.shape}")
        self._pictures, self.reals, self.no_reals = pictures, reals, no_reals
        self._single_run = document["kind"] == "report"
        self.sides = self._choose_sides(document["groups"])
        self.grids: dict[str, Grid] = {}
        self.quiz_fakes: dict[str, np.ndarray] = {}  # fakes that no grid shows
        for group in document["groups"]:
            for row in group["rows"]:
                images = pictures.get(row["name"])
                if images is not None and len(images.fakes) and not row.get("error"):
                    self._add_grid(row["name"], images.fakes, group)

    def pairs(self, name: str, side: int) -> list[tuple[Sprite, str]]:
        """Return sprites of a fake and its nearest training image, each with a caption."""
        row = self._pictures.get(name)
        if row is None or self.no_reals:
            return []
        # Either array may be empty or shorter.
        count = min(len(row.pairs), len(row.nearest), _pair_count(side))
        notes = [*row.pair_notes, *[""] * count]
        return [(make_sprite(np.stack([row.pairs[i], row.nearest[i]]), 2, side=side), notes[i]) for i in range(count)]

    def strip(self, name: str, side: int) -> Sprite | None:
        """Return the sprite of an interpolation, if there is one."""
        row = self._pictures.get(name)
        if row is None or not len(row.strip):
            return None
        return make_sprite(row.strip, len(row.strip), side=min(side, STRIP_SIDE))

    def _add_grid(self, name: str, fakes: np.ndarray, group: _Plain) -> None:
        count, columns = self._grid_shape(group["resolution"])
        # Fewer samples than planned are arranged as close to a square as possible.
        if len(fakes) < count:
            columns = max(1, ceil(sqrt(len(fakes))))
        sprite = make_sprite(fakes[:count], columns, side=self.sides[group["name"]])
        small = sprite.side <= PIXELATED_SIDE
        room = 2 * GRID_WIDTH if self._single_run else GRID_WIDTH
        # A fractional factor would make some pixels wider than others.
        width = sprite.width * max(1, round(room / sprite.width)) if small else min(sprite.width, room)
        self.grids[name] = Grid(sprite=sprite, width=width, pixelated=small)
        self.quiz_fakes[name] = fakes[count : count + QUIZ_POOL_IMAGES] if small else no_images()

    def _grid_shape(self, resolution: int) -> tuple[int, int]:
        """Return how many images a grid shows, and in how many columns."""
        shapes = _SINGLE_RUN_GRID_SHAPES if self._single_run else _GRID_SHAPES
        return next((count, columns) for largest, count, columns in shapes if not largest or resolution <= largest)

    def _choose_sides(self, groups: list[_Plain]) -> dict[str, int]:
        """Return for each group the largest side at which all images together are about within the limit."""
        sides = {group["name"]: group["resolution"] for group in groups}
        for limit in REDUCED_SIDES:  # at the smallest, the page is as large as it has to be
            if sum(self._estimate_bytes(group, sides[group["name"]]) for group in groups) <= PAGE_PNG_BYTES:
                break
            sides = {group["name"]: min(group["resolution"], limit) for group in groups}
        return sides

    def _estimate_bytes(self, group: _Plain, side: int) -> float:
        """Estimate the bytes of a group's images as PNG, at ``side`` pixels a side."""
        shown = [(self.reals.get(group["name"], no_images()), QUIZ_POOL_IMAGES)]
        for row in group["rows"]:
            images = self._pictures.get(row["name"])
            if images is None:
                continue
            quiz_fakes = QUIZ_POOL_IMAGES if side <= PIXELATED_SIDE else 0
            shown.append((images.fakes, self._grid_shape(group["resolution"])[0] + quiz_fakes))
            # An interpolation of larger images is reduced to STRIP_SIDE: about a quarter of the pixels.
            shown.append((images.fakes, len(images.strip) if side <= STRIP_SIDE else len(images.strip) // 4))
            if not self.no_reals:
                shown += [(images.pairs, _pair_count(side)), (images.nearest, _pair_count(side))]
        # The first image stands for all of its kind: encoding every one twice would double the time.
        total = 0.0
        for array, count in shown:
            if count and len(array):
                total += bytes_per_pixel(array) * min(count, len(array)) * min(side, array.shape[-1]) ** 2
        return total


def _pair_count(side: int) -> int:
    return 6 if side <= 128 else 4
