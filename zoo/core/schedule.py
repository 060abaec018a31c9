"""Values that change during training."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import Any

from zoo.core.errors import shorten


@dataclass(frozen=True)
class Schedule:
    """A piecewise linear function of the images seen, constant before the first point and after the last.

    In a recipe: a number, or a list of ``[kimg, value]`` pairs: ``lr: [[0, 2e-4], [100, 2e-4], [200, 0]]``.

    Attributes:
        points: (thousands of images, value), in rising order of the first.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def parse(cls, data: Any) -> Schedule:
        """Build a schedule from a recipe's plain data.

        Raises:
            ValueError: neither a number of at least 0 nor a list of [kimg, value] pairs with rising kimg.
        """
        if isinstance(data, Schedule):
            return data
        try:
            pairs = data if isinstance(data, list | tuple) else [(0, data)]
            points = tuple((float(kimg), float(value)) for kimg, value in pairs)
            rising = all(a[0] < b[0] for a, b in itertools.pairwise(points))
            finite = all(0 <= number < float("inf") for point in points for number in point)
            if isinstance(data, bool) or not (points and rising and finite):  # bool is an int to Python
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                "must be a number of at least 0, or a list of [kimg, value] pairs with rising kimg, not "
                + shorten(data)
            ) from None
        return cls(points)

    def plain(self) -> float | list[list[float]]:
        """Return what :meth:`parse` reads."""
        return self.points[0][1] if len(self.points) == 1 else [list(point) for point in self.points]

    def at(self, nimg: int) -> float:
        """Return the value after ``nimg`` images."""
        kimg = nimg / 1000
        right = bisect.bisect_right(self.points, kimg, key=lambda point: point[0])
        if right in (0, len(self.points)):
            return self.points[max(right - 1, 0)][1]
        (start, low), (end, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (kimg - start) / (end - start)
