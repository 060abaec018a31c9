"""Where the seconds of a run went: into steps, and into what happens around them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.report.number_format import finite_or_none, format_duration

# Parts that the recipe's cadences ask for; the values of real images (`reference`) are needed once per set.
ASIDE = ("validation", "grids", "checkpoints", "curves")


@dataclass
class RunClock:
    """Seconds of training, by what they were spent on.

    Attributes:
        elapsed: seconds before this process, of earlier starts of the run.
        seconds: of each part, earlier starts included: ``steps``, those of ``ASIDE``, ``reference``, ``callbacks`` and
            ``animation``. A continuation counts from its checkpoint.
        wait: returns when the device has finished all steps, so that no other part waits for them.
        busy: seconds of steps since the last row of the log.
        saved_at: time of the last checkpoint.
    """

    elapsed: float
    seconds: dict[str, float] = field(default_factory=dict)
    wait: Callable[[], None] = lambda: None
    started: float = field(default_factory=time.monotonic)
    busy: float = 0.0
    saved_at: float = field(default_factory=time.monotonic)
    _inner: float = 0.0  # seconds of parts inside the current one

    @property
    def total(self) -> float:
        """Seconds of training, those of earlier starts included."""
        return self.elapsed + time.monotonic() - self.started

    @property
    def aside(self) -> float:
        """Seconds of the parts that the cadences ask for."""
        return sum(self.seconds.get(part, 0.0) for part in ASIDE)

    @contextlib.contextmanager
    def counting(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to ``part``, without those of blocks inside it."""
        if part != "steps":
            with self.counting("steps"):
                self.wait()
        start, outer, self._inner = time.monotonic(), self._inner, 0.0
        try:
            yield
        finally:
            spent = time.monotonic() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + spent - self._inner
            self._inner = outer + spent

    def record(self) -> dict[str, float]:
        """Return the seconds of each part for run.json; their sum is that of training."""
        other = self.total - sum(self.seconds.values())
        return {part: round(value, 3) for part, value in {**self.seconds, "other": max(other, 0.0)}.items()}


def describe_seconds(record: Any) -> str:
    """Write ``1 h 02 min: steps 97.5%, validation 1.6%, ...`` for the seconds in run.json; "" where there are none."""
    items = record.items() if isinstance(record, Mapping) else ()
    seconds = {part: value for part, item in items if (value := finite_or_none(item)) is not None and value > 0}
    total = sum(seconds.values())
    shares = sorted(((value / total, part) for part, value in seconds.items()), reverse=True)
    parts = ", ".join(f"{part} {share:.1%}" for share, part in shares if share >= 0.0005)
    return f"{format_duration(total)}: {parts}" if parts else ""
