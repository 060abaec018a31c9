"""The intensities that become black and white in images of more than 8 bits: one window for the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter
from zoo.core.threads import map_chunks
from zoo.data.resize import IntensityWindow
from zoo.data.sources import Source

WINDOW_PERCENTILES = (0.5, 99.5)  # of all pixels of the set: a few hot pixels must not darken everything else


class DeepError(Exception):
    """An image of more than 8 bits, of this dtype, was met before a window was known."""


@dataclass
class KeyCounts:
    """Histograms of sortable 32-bit keys: of their upper 16 bits, and of the lower 16 below chosen uppers."""

    dtypes: set[str] = field(default_factory=set)
    upper: ndarray = field(default_factory=lambda: np.zeros(1 << 16, np.int64))
    lower: dict[int, ndarray] = field(default_factory=dict)

    def add(self, pixels: ndarray, uppers: Sequence[int]) -> None:
        """Count the pixels of one image; with ``uppers``, only the keys that begin with one of them."""
        self.dtypes.add(str(pixels.dtype))
        keys = _to_keys(pixels)
        if not uppers:
            self.upper += np.bincount((keys >> 16).ravel(), minlength=1 << 16)
        for upper in uppers:
            counts = np.bincount(keys[keys >> 16 == upper] & 0xFFFF, minlength=1 << 16)
            self.lower[upper] = self.lower.get(upper, 0) + counts

    def merge(self, other: KeyCounts) -> None:
        """Add the counts of other images."""
        self.dtypes |= other.dtypes
        self.upper += other.upper
        for upper, counts in other.lower.items():
            self.lower[upper] = self.lower.get(upper, 0) + counts


def measure_percentiles(source: Source, reporter: Reporter, percentiles: Sequence[float]) -> tuple[float, ...]:
    """Compute exact percentiles (no interpolation) of the pixels of all deep images.

    Memory does not grow with the set. uint16 takes one pass over the images. Other types are compared as float32 and
    take two: pixels become integers that sort alike, the first pass counts their upper 16 bits, the second the lower
    ones where a percentile fell. Unlike the bins of an ordinary histogram, no outlier can make these coarser.

    Raises:
        ZooError: deep images of different types, which no single window fits.
    """
    first = _count_keys(source, reporter, [])
    if len(first.dtypes) > 1:
        raise mixed_depths_error(source.label, first.dtypes)
    total = int(first.upper.sum())
    ranks = [min(total - 1, max(0, int(np.ceil(total * p / 100)) - 1)) for p in percentiles]
    cumulative = np.cumsum(first.upper)
    uppers = [int(np.searchsorted(cumulative, rank, side="right")) for rank in ranks]
    if first.dtypes == {"uint16"}:
        return tuple(float(upper) for upper in uppers)
    second = _count_keys(source, reporter, sorted(set(uppers)))
    values = []
    for rank, upper in zip(ranks, uppers, strict=True):
        rest = rank - (int(cumulative[upper - 1]) if upper else 0)
        low = int(np.searchsorted(np.cumsum(second.lower[upper]), rest, side="right"))
        values.append(_from_key(upper << 16 | low))
    return tuple(values)


def percentile_window(source: Source, reporter: Reporter) -> tuple[IntensityWindow, IntensityWindow]:
    """Measure the default window (0.5-99.5 percentiles) and the full range of a set."""
    low, high, minimum, maximum = measure_percentiles(source, reporter, (*WINDOW_PERCENTILES, 0, 100))
    if low == high:  # as in masks that are nearly all background
        low, high = minimum, maximum
    return ((low, high) if low < high else (low, low + 1)), (minimum, maximum)


def dtype_window(dtype: str) -> IntensityWindow:
    """Return the whole range of a type: its extremes for integers, 0 to 1 for floats."""
    kind = np.dtype(dtype)
    return (0.0, 1.0) if kind.kind == "f" else (float(np.iinfo(kind).min), float(np.iinfo(kind).max))


def mixed_depths_error(label: str, dtypes: set[str]) -> ZooError:
    """Return the error for deep images of several types."""
    return ZooError(f"{label}: has both {' and '.join(sorted(dtypes))} images. Set data.window to [black, white]")


def _count_keys(source: Source, reporter: Reporter, uppers: Sequence[int]) -> KeyCounts:
    def count(part: range) -> KeyCounts:
        counts = KeyCounts()
        for index in part:
            _, image = source.read_and_decode(index)
            # Unreadable images are reported when the cache is written.
            if not isinstance(image, str) and image.deep:
                counts.add(image.pixels, uppers)
        return counts

    total = KeyCounts()
    for _, counts in map_chunks(
        count, len(source.names), source.chunk, task="measuring intensities", reporter=reporter
    ):
        total.merge(counts)
    return total


def _to_keys(pixels: ndarray) -> ndarray:
    """Map pixels to int64 keys of 32 bits that sort as the pixels do."""
    if pixels.dtype == np.uint16:
        return pixels.astype(np.int64) << 16  # only the upper half is needed
    # Bits of floats sort like integers once negative ones are inverted and the others get the sign bit.
    bits = pixels.astype(np.float32).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits | 0x80000000)


def _from_key(key: int) -> float:
    bits = key & 0x7FFFFFFF if key >> 31 else 0xFFFFFFFF - key
    return float(np.uint32(bits).view(np.float32))
