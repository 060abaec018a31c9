"""A measured value with its interval, as tables, JSON and pages show it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """One metric of one set of images.

    Attributes:
        value: the value; None if it is not available.
        low: lower end of its 95 % interval; None if it has no interval.
        high: upper end.
        n: number of images it was computed from.
        note: why it is not available, or what else must be known to read it.
        error: KID only: the standard deviation over its subsets, as torch-fidelity prints it.
        failed: whether it is not available because something failed that may succeed another time; then not cached.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""
    error: float | None = None
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return ``{"value", "low", "high", "n"}``, with ``note``, ``error`` and ``failed`` where they are set."""
        plain: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        if self.note:
            plain["note"] = self.note
        if self.error is not None:
            plain["error"] = self.error
        if self.failed:
            plain["failed"] = True
        return plain

    def finite(self) -> MetricValue:
        """Return it without infinite ends and NaN, which JSON and ranks do not have; a value itself is then missing."""
        if self.value is not None and not math.isfinite(self.value):
            return missing_value(f"its value is {self.value}", self.n)
        if all(end is None or math.isfinite(end) for end in (self.low, self.high)):
            return self
        return replace(self, low=None, high=None)


def missing_value(reason: str, n: int = 0, *, failed: bool = False) -> MetricValue:
    """Return a value that is not available for this reason."""
    return MetricValue(value=None, n=n, note=f"not available: {reason}", failed=failed)
