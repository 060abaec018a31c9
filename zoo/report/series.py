"""Values of log rows against images seen, reduced to as many points as a drawing needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Series = tuple[np.ndarray, np.ndarray]  # images seen, ascending, and the values there; all finite


def number_or_nan(value: Any) -> float:
    """Return a number as a float, and NaN for everything else."""
    return float(value) if isinstance(value, int | float | np.number) else np.nan


def read_series(rows: Iterable[Mapping[str, Any]], source: str | Callable[[Mapping[str, Any]], float]) -> Series:
    """Read a key of log rows, or what a function returns for each; rows without a finite value are left out."""
    value_of = source if callable(source) else lambda row: row.get(source)
    pairs = np.array([(number_or_nan(row.get("nimg")), number_or_nan(value_of(row))) for row in rows]).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]  # a resumed run may have logged rows out of order
    return pairs[:, 0], pairs[:, 1]


def block_medians(series: Series, most: int) -> Series:
    """Reduce a series of more than ``most`` points to the medians of as many blocks."""
    x, y = series
    if len(y) <= most:
        return series
    # Medians keep a single outlier from stretching the axis; means would not.
    x, y = (np.array([np.median(block) for block in np.array_split(v, most)]) for v in (x, y))
    return x, y


def smooth(y: np.ndarray, reach: int, average: Callable[[np.ndarray], Any] = np.median) -> np.ndarray:
    """Average each value with up to ``reach`` neighbours on either side, as many on one as on the other.

    At the ends there are fewer, so that a smooth curve starts and ends at the data: neighbours on one side alone would
    move a steep start far off.
    """
    last = len(y) - 1
    windows = ((i, min(reach, i, last - i)) for i in range(len(y)))
    return np.array([average(y[i - half : i + half + 1]) for i, half in windows])
