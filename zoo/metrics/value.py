"""A measured value with its interval, as tables, JSON and pages show it."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return ``{"value", "low", "high", "n"}``, with ``"note"`` and ``"error"`` where they are set."""
        plain: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        if self.note:
            plain["note"] = self.note
        if self.error is not None:
            plain["error"] = self.error
        return plain


def missing_value(reason: str, n: int = 0) -> MetricValue:
    """Return a value that is not available for this reason."""
    return MetricValue(value=None, n=n, note=f"not available: {reason}")
