"""A measured figure with its interval, as tables, JSON and pages show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """One metric of one set of images.

    Attributes:
        value: the figure; None where it is not available.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        n: of how many images it was taken.
        note: why it is not available, or what else must be known to read it.
        error: of KID: the standard deviation over its subsets, as torch-fidelity prints it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """``{"value", "low", "high", "n"}``, and ``"note"`` and ``"error"`` where there are such."""
        plain: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        return (
            plain
            | ({"note": self.note} if self.note else {})
            | ({"error": self.error} if self.error is not None else {})
        )


def missing_value(why: str, n: int = 0) -> MetricValue:
    """A figure that is not available, and why."""
    return MetricValue(value=None, n=n, note=f"not available: {why}")
