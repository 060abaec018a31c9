"""What becomes black and what white in pictures of more than 8 bits: one window for the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter
from zoo.core.threads import map_chunks
from zoo.data.decode import Array, UnreadableError, decode
from zoo.data.resize import Window
from zoo.data.sources import Source

PERCENTILES = (0.5, 99.5)  # of all pixels of all pictures: a few hot pixels must not darken everything else


class DeepError(Exception):
    """A picture of more than 8 bits, of this dtype, before there is a window."""


@dataclass
class Counts:
    """Histograms of the upper 16 bits of sortable keys, and of the lower 16 below chosen uppers."""

    dtypes: set[str] = field(default_factory=set)
    upper: Array = field(default_factory=lambda: np.zeros(1 << 16, np.int64))
    lower: dict[int, Array] = field(default_factory=dict)

    def add(self, pixels: Array, wanted: Sequence[int]) -> None:
        self.dtypes.add(str(pixels.dtype))
        keys = _keys(pixels)
        if not wanted:
            self.upper += np.bincount((keys >> 16).ravel(), minlength=1 << 16)
        for upper in wanted:
            found = np.bincount(keys[keys >> 16 == upper] & 0xFFFF, minlength=1 << 16)
            self.lower[upper] = self.lower.get(upper, 0) + found

    def merge(self, other: Counts) -> None:
        self.dtypes |= other.dtypes
        self.upper += other.upper
        for upper, found in other.lower.items():
            self.lower[upper] = self.lower.get(upper, 0) + found


def measure_range(source: Source, reporter: Reporter, percentiles: Sequence[float] = PERCENTILES) -> tuple[float, ...]:
    """Exact percentiles (no interpolation) of the pixels of all deep pictures; memory does not grow with the set.

    uint16 takes one pass over the pictures. Anything else is compared as float32 and takes two: pixels become integers
    that sort alike, the first pass counts their upper 16 bits, the second the lower ones where a percentile fell. No
    outlier can coarsen the bins, as it would those of an ordinary histogram.

    Raises:
        ZooError: deep pictures of different types, which no one window fits.
    """
    first = _count(source, reporter, [])
    if len(first.dtypes) > 1:
        raise mixed_depths_error(source.label, first.dtypes)
    total = int(first.upper.sum())
    ranks = [min(total - 1, max(0, int(np.ceil(total * p / 100)) - 1)) for p in percentiles]
    below = np.cumsum(first.upper)
    uppers = [int(np.searchsorted(below, rank, side="right")) for rank in ranks]
    if first.dtypes == {"uint16"}:
        return tuple(float(upper) for upper in uppers)
    second = _count(source, reporter, sorted(set(uppers)))
    values = []
    for rank, upper in zip(ranks, uppers, strict=True):
        rest = rank - (int(below[upper - 1]) if upper else 0)
        low = int(np.searchsorted(np.cumsum(second.lower[upper]), rest, side="right"))
        values.append(_value(upper << 16 | low))
    return tuple(values)


def percentile_window(source: Source, reporter: Reporter) -> Window:
    """The 0.5-99.5 percentiles; minimum and maximum where those are one, as in masks that are nearly all background."""
    return window_and_range(source, reporter)[0]


def window_and_range(source: Source, reporter: Reporter) -> tuple[Window, Window]:
    """:func:`percentile_window`, and the least and greatest intensity, from the same passes."""
    low, high, least, most = measure_range(source, reporter, (*PERCENTILES, 0, 100))
    if low == high:
        low, high = least, most
    return ((low, high) if low < high else (low, low + 1)), (least, most)


def dtype_window(dtype: str) -> Window:
    """All that a type can hold: its extremes for integers, 0 to 1 for floats."""
    kind = np.dtype(dtype)
    return (0.0, 1.0) if kind.kind == "f" else (float(np.iinfo(kind).min), float(np.iinfo(kind).max))


def mixed_depths_error(label: str, dtypes: set[str]) -> ZooError:
    return ZooError(f"{label}: {' and '.join(sorted(dtypes))} pictures side by side: set data.window to [black, white]")


def _count(source: Source, reporter: Reporter, wanted: Sequence[int]) -> Counts:
    def count(part: range) -> Counts:
        counts = Counts()
        for index in part:
            try:
                picture = decode(source.raw(index))
            except (UnreadableError, OSError):
                continue  # named when the cache is written
            if picture.deep:
                counts.add(picture.pixels, wanted)
        return counts

    sums = Counts()
    for _, counts in map_chunks(
        count, len(source.names), source.chunk, task="measuring intensities", reporter=reporter
    ):
        sums.merge(counts)
    return sums


def _keys(pixels: Array) -> Array:
    """Pixels to int64 of 32 bits that sort as the pixels do. uint16 fills the upper half only."""
    if pixels.dtype == np.uint16:
        return pixels.astype(np.int64) << 16
    bits = pixels.astype(np.float32).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits | 0x80000000)


def _value(key: int) -> float:
    bits = key & 0x7FFFFFFF if key >> 31 else 0xFFFFFFFF - key
    return float(np.uint32(bits).view(np.float32))
