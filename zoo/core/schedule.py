"""Values that change during training."""

from __future__ import annotations

import bisect
import functools
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.core.errors import shorten, suggest


@dataclass(frozen=True)
class Schedule:
    """A piecewise linear function of the images seen, constant before the first point and after the last.

    In a recipe: a number, or a list of ``[kimg, value]`` pairs: ``lr: [[0, 2e-4], [100, 2e-4], [200, 0]]``. Both can be
    the ``value`` of a mapping, with a warm-up and a decay by the inverse square root of the images (Karras et al. 2024,
    arXiv:2312.02696, appendix B): ``lr: {value: 1e-3, warmup_kimg: 2, sqrt_kimg: 50}``.

    Attributes:
        points: (thousands of images, value), in rising order of the first.
        warmup_kimg: thousands of images in which the value rises linearly from 0; 0: none.
        sqrt_kimg: thousands of images from which on it falls; 0: never.
    """

    points: tuple[tuple[float, float], ...]
    warmup_kimg: float = 0.0
    sqrt_kimg: float = 0.0

    @classmethod
    def parse(cls, data: Any) -> Schedule:
        """Build a schedule from a recipe's plain data.

        Raises:
            ValueError: neither a number of at least 0 nor a list of [kimg, value] pairs with rising kimg.
        """
        if isinstance(data, Schedule):
            return data
        if isinstance(data, dict):
            return cls._parse_mapping(data)
        try:
            pairs = data if isinstance(data, list | tuple) else [(0, data)]
            points = tuple((float(kimg), float(value)) for kimg, value in pairs)
            rising = all(a[0] < b[0] for a, b in itertools.pairwise(points))
            finite = all(0 <= number < float("inf") for point in points for number in point)
            # bool is an int to Python
            boolean = any(isinstance(value, bool) for value in (data, *itertools.chain.from_iterable(pairs)))
            if boolean or not (points and rising and finite):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                "must be a number of at least 0, or a list of [kimg, value] pairs with rising kimg, not "
                + shorten(data)
            ) from None
        return cls(points)

    @classmethod
    def _parse_mapping(cls, data: dict[Any, Any]) -> Schedule:
        keys = ("value", "warmup_kimg", "sqrt_kimg")
        for key in data:
            if key not in keys:
                raise ValueError(f"unknown key {key!r}{suggest(str(key), keys)}; allowed here: {', '.join(keys)}")
        if "value" not in data or isinstance(data["value"], dict):
            raise ValueError("value: must be a number, or a list of [kimg, value] pairs")
        times = {}
        for key in keys[1:]:
            time = cls.parse(data.get(key, 0))
            if len(time.points) > 1:
                raise ValueError(f"{key}: must be a number of at least 0, not {data[key]!r}")
            times[key] = time.points[0][1]
        return cls(cls.parse(data["value"]).points, **times)

    def plain(self) -> float | list[list[float]] | dict[str, Any]:
        """Return what :meth:`parse` reads."""
        value = self.points[0][1] if len(self.points) == 1 else [list(point) for point in self.points]
        if not (self.warmup_kimg or self.sqrt_kimg):
            return value
        return {"value": value, "warmup_kimg": self.warmup_kimg, "sqrt_kimg": self.sqrt_kimg}

    def at(self, nimg: int) -> float:
        """Return the value after ``nimg`` images."""
        kimg = nimg / 1000
        value = self._interpolate(kimg)
        if kimg < self.warmup_kimg:
            value *= kimg / self.warmup_kimg
        if 0 < self.sqrt_kimg < kimg:
            value *= (self.sqrt_kimg / kimg) ** 0.5
        return value

    def _interpolate(self, kimg: float) -> float:
        right = bisect.bisect_right(self.points, kimg, key=lambda point: point[0])
        if right in (0, len(self.points)):
            return self.points[max(right - 1, 0)][1]
        (start, low), (end, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (kimg - start) / (end - start)


@dataclass(frozen=True)
class BatchSchedule:
    """Batch sizes by images seen: ``batch: [[0, 8], [200, 32]]`` is 8 images per step, and 32 from 200 kimg on.

    Steps are a function of the images seen: a stage starts with the first step after its kimg.

    Attributes:
        stages: (thousands of images, images per step), from 0 on and in rising order of the first.
    """

    described: ClassVar[str] = "a list of [kimg, images] pairs with rising kimg from 0"
    stages: tuple[tuple[float, int], ...]

    @classmethod
    def parse(cls, data: Any) -> BatchSchedule:
        """Build a schedule from a recipe's list of pairs.

        Raises:
            ValueError: it is no such list.
        """
        try:
            stages = tuple((float(kimg), int(size)) for kimg, size in data)
            whole = all(size == number and size >= 1 for (_, size), (_, number) in zip(stages, data, strict=True))
            whole = whole and not any(isinstance(value, bool) for value in itertools.chain.from_iterable(data))
            rising = all(a[0] < b[0] < float("inf") for a, b in itertools.pairwise(stages))
            if not (stages and whole and rising and stages[0][0] == 0):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"must be {cls.described}, not {data!r}") from None
        return cls(stages)

    def plain(self) -> list[list[float]]:
        """Return what :meth:`parse` reads."""
        return [list(stage) for stage in self.stages]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images per step in each stage."""
        return tuple(size for _, size in self.stages)

    @functools.cached_property
    def starts(self) -> tuple[tuple[int, int], ...]:
        """Images seen, and steps taken, before the first step of each stage."""
        starts = [(0, 0)]
        for (_, size), (kimg, _) in itertools.pairwise(self.stages):
            nimg, steps = starts[-1]
            more = max(0, -(-(round(1000 * kimg) - nimg) // size))
            starts.append((nimg + more * size, steps + more))
        return tuple(starts)

    def at(self, nimg: int) -> int:
        """Return the images of the step after ``nimg`` images."""
        return self.stages[self._stage(nimg)][1]

    def steps(self, nimg: int) -> int:
        """Return the number of steps in which ``nimg`` images are seen."""
        stage = self._stage(nimg)
        start, steps = self.starts[stage]
        return steps + (nimg - start) // self.stages[stage][1]

    def end(self, images: int) -> int:
        """Return the images seen at the end of the first step that reaches ``images``."""
        stage = self._stage(max(0, images - 1))
        start, size = self.starts[stage][0], self.stages[stage][1]
        return start - (start - images) // size * size

    def _stage(self, nimg: int) -> int:
        return bisect.bisect_right(self.starts, nimg, key=lambda start: start[0]) - 1
