"""Rows of a bench: what was evaluated, its values, and the ranking."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.core.config import Recipe
from zoo.metrics.registry import Metric
from zoo.metrics.value import MetricValue, missing_value
from zoo.training.run_folder import Run


@dataclass(frozen=True, kw_only=True)
class Target:
    """A generator to evaluate.

    Attributes:
        name: in tables; unlike that of any other target but the training seeds of the same variant.
        kind: ``run``, ``file`` or ``variant``.
        group: equal for the seeds of one variant, and for nothing else.
        weights: file of the generator.
        recipe: how it was trained.
        run: its run folder; None for a file outside any run.
    """

    name: str
    kind: str
    group: str
    weights: Path
    recipe: Recipe
    run: Run | None = None


@dataclass(frozen=True, kw_only=True)
class FailedTarget:
    """Something that cannot be evaluated, and why. ``recipe`` is None where it could not be read."""

    name: str
    kind: str
    group: str
    error: str
    recipe: Recipe | None = None


@dataclass(kw_only=True)
class ResultRow:
    """The results of one target, of several seeds of one variant, or of a baseline.

    Attributes:
        figures: values by metric.
        facts: recipe, digests, seeds, sampling: what is needed to repeat the row.
        spread: of several training seeds: mean and standard deviation of each metric.
    """

    name: str
    kind: str
    error: str | None = None
    figures: dict[str, MetricValue] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    spread: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in ``results.jsonl``."""
        figures = {name: value.to_json() for name, value in self.figures.items()}
        row: dict[str, Any] = {"name": self.name, "kind": self.kind, "error": self.error, "figures": figures}
        row |= {"alarms": self.alarms, "cost": self.cost, **self.facts}
        return {**row, "spread": self.spread} if self.spread else row


def row_from_json(plain: dict[str, Any]) -> ResultRow:
    """The inverse of :meth:`ResultRow.to_json`."""
    known = {"name", "kind", "error", "figures", "alarms", "cost", "spread"}
    return ResultRow(
        **{key: plain[key] for key in known - {"figures", "spread"}},
        figures={name: MetricValue(**value) for name, value in plain["figures"].items()},
        facts={key: value for key, value in plain.items() if key not in known},
        spread=plain.get("spread", {}),
    )


def merge_seeds(rows: Sequence[ResultRow]) -> ResultRow:
    """One row for several training seeds: means, intervals that contain all of theirs, and every alarm."""
    complete = [row for row in rows if row.error is None]
    if len(rows) == 1 or not complete:
        return rows[0]
    first = complete[0]
    merged = ResultRow(name=first.name, kind=first.kind, facts={**first.facts})
    for key in ("seeds", "key", "weights_sha256"):
        values = [row.facts[key] for row in complete if key in row.facts]
        merged.facts[key] = [seed for seeds in values for seed in seeds] if key == "seeds" else values
    if len(complete) < len(rows):
        merged.facts["failed"] = [row.error for row in rows if row.error is not None]
    for name in first.figures:
        _merge_metric(merged, complete, name)
    for row in complete:
        merged.alarms += [alarm | {"seed": seed} for alarm in row.alarms for seed in row.facts.get("seeds", [])[:1]]
    for key in first.cost:
        merged.cost[key] = _median([row.cost.get(key) for row in complete])
    return merged


def _merge_metric(merged: ResultRow, rows: Sequence[ResultRow], name: str) -> None:
    n = rows[0].figures[name].n
    metrics = [row.figures[name] for row in rows if name in row.figures]
    values = [metric.value for metric in metrics if metric.value is not None]
    if not values or len(values) < len(rows):
        merged.figures[name] = missing_value("for all training seeds", n)
        return
    lows, highs = [metric.low for metric in metrics], [metric.high for metric in metrics]
    merged.figures[name] = MetricValue(
        value=statistics.fmean(values),
        low=None if None in lows else min(lows),  # type: ignore[type-var]
        high=None if None in highs else max(highs),  # type: ignore[type-var]
        n=n,
        note=f"mean of {len(values)} training seeds; the interval holds all of theirs",
    )
    sd = statistics.stdev(values) if len(values) > 1 else None
    merged.spread[name] = {"mean": statistics.fmean(values), "sd": sd, "seeds": len(values)}


def _median(values: Sequence[Any]) -> float | None:
    """The median of the numbers among ``values``; a whole number of whole numbers."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers:
        return None
    median = statistics.median(numbers)
    return round(median) if all(isinstance(number, int) for number in numbers) else median


def rank_rows(
    rows: Sequence[ResultRow], metrics: Sequence[Metric], ideal: dict[str, MetricValue]
) -> tuple[list[ResultRow], str | None]:
    """Rows by the first metric that all complete ones have, best first and failed ones last; and the metric's name.

    Args:
        ideal: values of held-out real images, to which ``match`` metrics should come close.
    """
    complete = [row for row in rows if row.error is None]
    failed = [row for row in rows if row.error is not None]
    for metric in metrics:
        values = [row.figures[metric.name].value if metric.name in row.figures else None for row in complete]
        aim = ideal[metric.name].value if metric.name in ideal else None
        if not complete or None in values or (metric.better == "match" and aim is None) or metric.family == "copies":
            continue

        def distance(row: ResultRow, metric: Metric = metric, aim: float | None = aim) -> float:
            value = row.figures[metric.name].value
            assert value is not None
            return {"lower": value, "higher": -value}.get(metric.better, abs(value - (aim or 0.0)))

        return [*sorted(complete, key=distance), *failed], metric.name
    return [*complete, *failed], None
