"""The intensities that become black and white in images of more than 8 bits: one window for the whole set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter
from zoo.core.threads import map_chunks
from zoo.data.resize import IntensityWindow
from zoo.data.sources.source import Source

WINDOW_PERCENTILES = (0.5, 99.5)  # of all pixels of the set: a few hot pixels must not darken everything else


class DeepError(Exception):
    """An image of more than 8 bits, of this dtype, was met before a window was known."""


def measure_percentiles(source: Source, reporter: Reporter, percentiles: Sequence[float]) -> tuple[float, ...]:
    """Compute exact percentiles (no interpolation) of the pixels of all deep images.

    Memory does not grow with the set. uint16 takes one pass over the images. Other types are compared as float32 and
    take two: pixels become integers that sort alike, the first pass counts their upper 16 bits, the second the lower
    ones where a percentile fell. Unlike the bins of an ordinary histogram, no outlier can make these coarser.

    Raises:
        ZooError: deep images of different types, which no single window fits.
    """
    dtypes, counts = _count_keys(source, reporter, [])
    # 12 bits stored as uint16 next to float32 in [0, 1]: any common window would turn one of them black.
    if len(dtypes) > 1:
        raise mixed_depths_error(source.label, dtypes)
    total = int(counts.sum())
    # The inverted CDF: the smallest value such that at least p percent of all pixels do not exceed it.
    ranks = [min(total - 1, max(0, int(np.ceil(total * p / 100)) - 1)) for p in percentiles]
    cumulative = np.cumsum(counts)
    uppers = [int(np.searchsorted(cumulative, rank, side="right")) for rank in ranks]
    if dtypes == {"uint16"}:
        return tuple(map(float, uppers))
    _, counts = _count_keys(source, reporter, uppers)
    values = []
    for rank, upper, row in zip(ranks, uppers, counts, strict=True):
        # How many pixels below this one share its upper bits.
        rest = rank - (int(cumulative[upper - 1]) if upper else 0)
        lower = int(np.searchsorted(np.cumsum(row), rest, side="right"))
        values.append(_from_key(upper << 16 | lower))
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


def _count_keys(source: Source, reporter: Reporter, uppers: Sequence[int]) -> tuple[set[str], ndarray]:
    """Count the keys of all deep images by 16 of their bits.

    Returns:
        The dtypes of the images, and counts int64 (n, 65536): one row by upper bits, or, for each of ``uppers``, a row
        by the lower bits of the keys that begin with it.
    """

    def count(part: range) -> tuple[set[str], ndarray]:
        dtypes = set()
        counts = np.zeros((len(uppers) or 1, 1 << 16), np.int64)
        for index in part:
            _, image = source.read_and_decode(index)
            if isinstance(image, str) or not image.deep:
                continue  # unreadable images are reported when the cache is written
            dtypes.add(str(image.pixels.dtype))
            keys = _to_keys(image.pixels).ravel()
            if not uppers:
                counts += np.bincount(keys >> 16, minlength=1 << 16)
            for row, upper in zip(counts, uppers, strict=False):
                row += np.bincount(keys[keys >> 16 == upper] & 0xFFFF, minlength=1 << 16)
        return dtypes, counts

    parts = map_chunks(count, len(source.names), source.chunk, task="measuring intensities", reporter=reporter)
    _, (dtypes, counts) = next(parts)
    for _, (part_dtypes, part_counts) in parts:
        dtypes |= part_dtypes
        counts += part_counts
    return dtypes, counts


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
