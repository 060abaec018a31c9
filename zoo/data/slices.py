"""Which slices of a volume are used: those with foreground, all, or a range in mm, indices or shares."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError

FOREGROUND_LEVEL = 0.1  # between the lowest (0.5 %) and the highest (99.5 %) intensity of the volume
MIN_FOREGROUND_SHARE = 0.05  # of the foreground in the fullest slice of the volume
SAMPLED_VOXELS = 1 << 18  # about as many give the two intensities
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_RANGE = re.compile(rf"({_NUMBER})?\s*(mm|%)?\s*\.\.\s*({_NUMBER})?\s*(mm|%)?")


@dataclass(frozen=True, kw_only=True)
class SliceChoice:
    """A value of ``data.slices``.

    Attributes:
        unit: "foreground", "all", "mm", "%" or "" (indices).
        low, high: the range: mm and shares include both ends, of indices the last is left out.
    """

    unit: str = "foreground"
    low: float = -np.inf
    high: float = np.inf

    @classmethod
    def parse(cls, text: str | None) -> SliceChoice:
        """Read "all", "40..120", "20%..80%" or "-30mm..50mm"; either end may be left out. None: foreground.

        Raises:
            ZooError: it is none of these.
        """
        if text is None:
            return cls()
        if text == "all":
            return cls(unit="all")
        match = _RANGE.fullmatch(text.strip())
        units = {unit for unit in (match[2], match[4]) if unit} if match else set()
        if match and (match[1] or match[3]) and len(units) <= 1:
            low = float(match[1]) if match[1] else -np.inf
            high = float(match[3]) if match[3] else np.inf
            if low < high:
                return cls(unit=next(iter(units), ""), low=low, high=high)
        raise ZooError(
            f"data.slices: {text!r} is neither 'all' nor a range such as 40..120 (indices), 20%..80% or -30mm..50mm"
        )

    def select(self, slices: ndarray, positions: ndarray | None) -> ndarray:
        """Return which slices (N, H, W) or (N, H, W, C) are used: a mask (N,).

        Args:
            slices: finite intensities.
            positions: of the slices in mm (N,); None: unknown.

        Raises:
            ValueError: a range in mm without positions.
        """
        count = len(slices)
        if self.unit == "foreground":
            return find_foreground(slices)
        if self.unit == "mm":
            if positions is None:
                raise ValueError("data.slices in mm: the file does not say where its slices lie; use indices or %")
            return (positions >= self.low) & (positions <= self.high)
        indices = np.arange(count)
        if self.unit == "%":
            shares = (indices + 0.5) * 100 / count
            return (shares >= self.low) & (shares <= self.high)
        # Negative indices count from the end, as everywhere in Python.
        low, high = (value + count if -np.inf < value < 0 else value for value in (self.low, self.high))
        return (indices >= low) & (indices < high)

    def describe(self) -> str:
        """Return the choice in words."""
        if self.unit == "foreground":
            return "slices of almost no foreground left out"
        return "all slices" if self.unit == "all" else f"slices {self.low:g}{self.unit} to {self.high:g}{self.unit}"


def find_foreground(slices: ndarray) -> ndarray:
    """Return which slices (N, H, W[, C]) hold enough of what is brighter than the background: a mask (N,).

    A volume of one intensity has no foreground: all of it is kept.
    """
    if slices.dtype == bool:
        slices = slices.astype(np.uint8)
    if slices.ndim == 4:
        slices = slices.mean(axis=3)
    step = max(1, round((slices.size / SAMPLED_VOXELS) ** (1 / 3)))
    low, high = np.percentile(slices[::step, ::step, ::step], (0.5, 99.5))
    if low == high:
        low, high = slices.min(), slices.max()
    threshold = low + FOREGROUND_LEVEL * (high - low)
    areas = np.array([np.count_nonzero(image > threshold) for image in slices])
    return areas >= MIN_FOREGROUND_SHARE * areas.max()
