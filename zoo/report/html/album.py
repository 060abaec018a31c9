"""The pictures of a page, as large as it can afford."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any, TypeVar

import numpy as np

from zoo.report.html.sprites import Array, Sprite, bytes_per_pixel, make_sprite

Plain = Mapping[str, Any]
T = TypeVar("T")

BUDGET = 5_500_000  # bytes of PNG in a page, about: a third more as text
SIDES = (192, 128, 96, 64)  # pixels a side to which larger images are averaged down where they would not fit

GRID = {32: (36, 6), 64: (25, 5), 128: (16, 4)}  # images and columns of a grid, by the largest size they are for
LARGE_GRID = {32: (64, 8), 64: (64, 8), 128: (25, 5)}  # the same on the page of one run
CARD = 350  # CSS pixels that a grid is to be about as wide as
PAIRS = {128: 6}
STRIP_SIDE = 128
SMALL = 64  # pixels a side up to which pixels are shown as squares, and there are fakes that no grid shows
POOL = 24  # images of either kind that a quiz draws from


def none() -> Array:
    """No images."""
    return np.zeros((0, 1, 1, 1), np.uint8)


@dataclass(frozen=True, kw_only=True)
class RowPictures:
    """What is shown of one generator: uint8 (n, C, R, R) with 1 or 3 channels, any of them possibly empty.

    Attributes:
        fakes: samples, up to 64.
        pairs: fakes beside their nearest training images, the nearest first.
        nearest: the training image nearest to each of these; real.
        pair_notes: a caption for each pair.
        strip: an interpolation in latent space.
        log: rows of the training log: dicts with ``nimg`` and any figures.
    """

    fakes: Array = field(default_factory=none)
    pairs: Array = field(default_factory=none)
    nearest: Array = field(default_factory=none)
    pair_notes: list[str] = field(default_factory=list)
    strip: Array = field(default_factory=none)
    log: list[dict[str, Any]] = field(default_factory=list)

    def arrays(self) -> list[Array]:
        return [self.fakes, self.pairs, self.nearest, self.strip]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sprite, and how wide it is to be shown where there is room: by a whole factor if it is small."""

    sprite: Sprite
    wide: int
    pixelated: bool


class Album:
    """Encodes pictures, as large as the page can afford."""

    def __init__(
        self, document: Plain, pictures: Mapping[str, RowPictures], reals: Mapping[str, Array], *, no_reals: bool
    ) -> None:
        for images in [*reals.values(), *(images for shown in pictures.values() for images in shown.arrays())]:
            if len(images) and (images.ndim != 4 or images.dtype != np.uint8):
                raise ValueError(f"a page shows uint8 images (n, C, R, R), not {images.dtype} {images.shape}")
        self.pictures, self.reals, self.no_reals = pictures, reals, no_reals
        self.single = document["kind"] == "report"
        self.sides = self._sides(document["groups"])
        self.grids: dict[str, Grid] = {}
        self.spare: dict[str, Array] = {}  # fakes that no grid shows
        for group in document["groups"]:
            for row in group["rows"]:
                shown = pictures.get(row["name"])
                if shown is None or not len(shown.fakes) or row.get("error"):
                    continue
                count, columns = self._grid(group["resolution"])
                if len(shown.fakes) < count:
                    columns = max(1, ceil(sqrt(len(shown.fakes))))
                made = make_sprite(shown.fakes[:count], columns, side=self.sides[group["name"]])
                room, small = 2 * CARD if self.single else CARD, made.side <= SMALL
                wide = made.width * max(1, round(room / made.width)) if small else min(made.width, room)
                self.grids[row["name"]] = Grid(sprite=made, wide=wide, pixelated=small)
                self.spare[row["name"]] = shown.fakes[count : count + POOL] if small else none()

    def pairs(self, name: str, side: int) -> list[tuple[Sprite, str]]:
        """Each with its nearest training image in one sprite, and a caption."""
        shown = self.pictures.get(name)
        if shown is None or self.no_reals:
            return []
        count = min(len(shown.pairs), len(shown.nearest), _by_size(PAIRS, side, 4))
        notes = [*shown.pair_notes, *[""] * count]
        both = [np.stack([shown.pairs[i], shown.nearest[i]]) for i in range(count)]
        return [(make_sprite(images, 2, side=side), notes[i]) for i, images in enumerate(both)]

    def strip(self, name: str, side: int) -> Sprite | None:
        shown = self.pictures.get(name)
        if shown is None or not len(shown.strip):
            return None
        return make_sprite(shown.strip, len(shown.strip), side=min(side, STRIP_SIDE))

    def _grid(self, resolution: int) -> tuple[int, int]:
        return _by_size(LARGE_GRID if self.single else GRID, resolution, (25, 5) if self.single else (16, 4))

    def _sides(self, groups: Sequence[Plain]) -> dict[str, int]:
        """The largest size for each group at which all pictures together are within the budget, about."""
        for limit in (None, *SIDES):
            sides = {group["name"]: min(group["resolution"], limit or group["resolution"]) for group in groups}
            if sum(self._bytes(group, sides[group["name"]]) for group in groups) <= BUDGET:
                break
        return sides

    def _bytes(self, group: Plain, side: int) -> float:
        total = 0.0
        for images, count in self._planned(group, side):
            if count and len(images):
                total += bytes_per_pixel(images) * min(count, len(images)) * min(side, images.shape[-1]) ** 2
        return total

    def _planned(self, group: Plain, side: int) -> Iterator[tuple[Array, int]]:
        for row in group["rows"]:
            if (shown := self.pictures.get(row["name"])) is not None:
                yield shown.fakes, self._grid(group["resolution"])[0] + (POOL if side <= SMALL else 0)
                yield shown.fakes, len(shown.strip) if side <= STRIP_SIDE else len(shown.strip) // 4
                if not self.no_reals:
                    pairs = _by_size(PAIRS, side, 4)
                    yield shown.pairs, pairs
                    yield shown.nearest, pairs
        yield self.reals.get(group["name"], none()), POOL


def _by_size(table: Mapping[int, T], size: int, otherwise: T) -> T:
    return next((value for largest, value in table.items() if size <= largest), otherwise)
