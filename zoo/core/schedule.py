"""A number that may change as images are seen."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """Piecewise linear in thousands of images (kimg), constant before the first point and after the last.

    In a recipe: a number, or a list of ``[kimg, value]`` pairs: ``lr: [[0, 2e-4], [100, 2e-4], [200, 0]]``.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def parse(cls, data: Any) -> Schedule:
        """From a recipe's plain data.

        Raises:
            ValueError: neither a number of at least 0 nor a list of [kimg, value] pairs with rising kimg.
        """
        if isinstance(data, Schedule):
            return data
        wrong = f"must be a number of at least 0, or a list of [kimg, value] pairs with rising kimg, not {data!r}"
        try:
            if isinstance(data, list | tuple):
                points = tuple((float(kimg), float(value)) for kimg, value in data)
            elif isinstance(data, bool):
                raise TypeError
            else:
                points = ((0.0, float(data)),)
        except (TypeError, ValueError):
            raise ValueError(wrong) from None
        rising = all(a[0] < b[0] for a, b in itertools.pairwise(points))
        fitting = all(0 <= number < float("inf") for point in points for number in point)
        if not points or not rising or not fitting:
            raise ValueError(wrong)
        return cls(points)

    def plain(self) -> float | list[list[float]]:
        return self.points[0][1] if len(self.points) == 1 else [list(point) for point in self.points]

    def at(self, nimg: int) -> float:
        """The value after ``nimg`` images."""
        kimg = nimg / 1000
        right = bisect.bisect_right(self.points, kimg, key=lambda point: point[0])
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (start, low), (end, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (kimg - start) / (end - start)
