"""Rows of a bench: what was judged, what was found, who comes first."""

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

Plain = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One generator to be judged, or why it cannot be.

    Attributes:
        name: in tables; unlike that of any other entry but the training seeds of the same variant.
        kind: ``run``, ``file`` or ``variant``.
        group: equal for the seeds of one variant, and for nothing else.
        weights: the generator's file.
        recipe: how it was trained.
        run: its folder, if it has one.
        error: why it cannot be judged.
    """

    name: str
    kind: str
    group: str
    weights: Path | None = None
    recipe: Recipe | None = None
    run: Run | None = None
    error: str | None = None


@dataclass(kw_only=True)
class ResultRow:
    """What is known of one entry, of several seeds of one variant, or of a baseline.

    Attributes:
        facts: recipe, digests, seeds, sampling: what a reader repeats it by.
        spread: of several training seeds: mean and standard deviation of each metric.
    """

    name: str
    kind: str
    error: str | None = None
    figures: dict[str, MetricValue] = field(default_factory=dict)
    alarms: list[Plain] = field(default_factory=list)
    cost: Plain = field(default_factory=dict)
    facts: Plain = field(default_factory=dict)
    spread: dict[str, Plain] = field(default_factory=dict)

    def to_json(self) -> Plain:
        """Plain data, as in ``results.jsonl``."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        row: Plain = {"name": self.name, "kind": self.kind, "error": self.error, "figures": figures}
        row |= {"alarms": self.alarms, "cost": self.cost, **self.facts}
        return {**row, "spread": self.spread} if self.spread else row


def row_from_json(plain: Plain) -> ResultRow:
    """The inverse of :meth:`Row.to_json`."""
    known = {"name", "kind", "error", "figures", "alarms", "cost", "spread"}
    return ResultRow(
        **{key: plain[key] for key in known - {"figures", "spread"}},
        figures={name: MetricValue(**figure) for name, figure in plain["figures"].items()},
        facts={key: value for key, value in plain.items() if key not in known},
        spread=plain.get("spread", {}),
    )


def merge_seeds(rows: Sequence[ResultRow]) -> ResultRow:
    """One row of several training seeds: means, intervals that hold all of theirs, every alarm that rang."""
    whole = [row for row in rows if row.error is None]
    if len(rows) == 1 or not whole:
        return rows[0]
    first = whole[0]
    merged = ResultRow(name=first.name, kind=first.kind, facts={**first.facts})
    for key in ("seeds", "key", "weights_sha256"):
        values = [row.facts[key] for row in whole if key in row.facts]
        merged.facts[key] = [seed for seeds in values for seed in seeds] if key == "seeds" else values
    if len(whole) < len(rows):
        merged.facts["failed"] = [row.error for row in rows if row.error is not None]
    for name, figure in first.figures.items():
        values = [row.figures[name].value for row in whole if name in row.figures]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(whole):
            merged.figures[name] = missing_value("for all training seeds", figure.n)
            continue
        lows, highs = ([getattr(row.figures[name], end) for row in whole] for end in ("low", "high"))
        merged.figures[name] = MetricValue(
            value=statistics.fmean(known),
            low=min(lows) if None not in lows else None,
            high=max(highs) if None not in highs else None,
            n=figure.n,
            note=f"mean of {len(known)} training seeds; the interval holds all of theirs",
        )
        sd = statistics.stdev(known) if len(known) > 1 else None
        merged.spread[name] = {"mean": statistics.fmean(known), "sd": sd, "seeds": len(known)}
    for row in whole:
        merged.alarms += [alarm | {"seed": seed} for alarm in row.alarms for seed in row.facts.get("seeds", [])[:1]]
    for key in first.cost:
        numbers = [row.cost[key] for row in whole if isinstance(row.cost.get(key), int | float)]
        middle = statistics.median(numbers) if numbers else None
        counts = bool(numbers) and all(isinstance(number, int) for number in numbers)
        merged.cost[key] = round(middle) if counts and middle is not None else middle
    return merged


def rank_rows(
    rows: Sequence[ResultRow], metrics: Sequence[Metric], ideal: dict[str, MetricValue]
) -> tuple[list[ResultRow], str | None]:
    """Best first by the first metric that all whole rows have; broken ones last. With that metric's name.

    Args:
        ideal: the figures of unseen real images, which ``match`` metrics are best near.
    """
    whole, broken = [row for row in rows if row.error is None], [row for row in rows if row.error is not None]
    for metric in metrics:
        values = [figure.value if (figure := row.figures.get(metric.name)) else None for row in whole]
        aim = ideal[metric.name].value if metric.name in ideal else None
        if not whole or None in values or (metric.better == "match" and aim is None) or metric.family == "copies":
            continue

        def distance(row: ResultRow, metric: Metric = metric, aim: float | None = aim) -> float:
            value = row.figures[metric.name].value
            assert value is not None
            return {"lower": value, "higher": -value}.get(metric.better, abs(value - (aim or 0.0)))

        return [*sorted(whole, key=distance), *broken], metric.name
    return [*whole, *broken], None
