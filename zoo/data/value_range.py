"""The range of values that stands for black to white in a set whose images are not of 8 unsigned bits.

One range for the whole set: a range per image would hide that one image is brighter than another.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.progress import Reporter
from zoo.data.decode import silence_pillow
from zoo.data.resize import IntensityWindow
from zoo.data.sources.memory import open_data
from zoo.data.sources.source import Source, SourceOptions
from zoo.data.windowing import measure_percentiles

MIN_COVERED_SHARE = 0.25  # of a range, that the values of a set must reach for the range to be believed


@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """Values of a set, and the range that they are most likely stored in.

    Attributes:
        path: of the set.
        dtype: of the values.
        low, high: the lowest and the highest value.
        nominal: the values of black and white by convention (0 to 255, 0 to 1, -1 to 1); None: intensities of a
            scanner, which have no such convention.
    """

    path: str | Path | Source
    dtype: str
    low: float
    high: float
    nominal: IntensityWindow | None


def measure_range(path: str | Path | Source, config: DataConfig, reporter: Reporter) -> ValueRange:
    """Measure the values of a set whose images are not of 8 unsigned bits.

    Raises:
        ZooError: it cannot be read, or its values fit no convention well.
    """
    with closing(open_data(path, SourceOptions.from_config(config))) as source, silence_pillow():
        low, first, last, high = measure_percentiles(source, reporter, (0, 1, 99, 100))
        dtype = _find_dtype(source)
    nominal = _find_nominal(dtype, low, first, last, high)
    values = ValueRange(path=path, dtype=dtype, low=low, high=high, nominal=nominal)
    if nominal is not None and high - low < MIN_COVERED_SHARE * (nominal[1] - nominal[0]):
        raise unclear_range_error(values)
    return values


def unclear_range_error(values: ValueRange) -> ZooError:
    """Return the error for values whose black and white cannot be known."""
    place = getattr(values.path, "label", values.path)
    return ZooError(
        f"{place}: {values.dtype} values from {values.low:g} to {values.high:g} do not show which are black and "
        "white. Give both with --window BLACK WHITE"
    )


def _find_dtype(source: Source) -> str:
    for index in range(len(source.names)):
        _, image = source.read_and_decode(index)
        if not isinstance(image, str) and image.deep:
            return str(image.pixels.dtype)
    raise AssertionError("a set without deep images has no range to measure")


def _find_nominal(dtype: str, low: float, first: float, last: float, high: float) -> IntensityWindow | None:
    """Return the conventional range of some values, by their extremes and their 1st and 99th percentile."""
    if dtype == "int8":
        return -128.0, 127.0
    if np.dtype(dtype).kind in "iu":
        if low < 0 or high > 255:
            return None
        return (0.0, 1.0) if high == 1 else (0.0, 255.0)
    if low >= -0.5 and high <= 255.5 and last > 2:  # half a level, by which resampling may overshoot
        return 0.0, 255.0
    # A few values outside, as of resampling or of a generator without a final tanh, are clipped.
    if first < -1 or last > 1 or low < -2 or high > 2:
        return None
    return (0.0, 1.0) if first > -0.05 else (-1.0, 1.0)
