"""Rows of results: their JSON form, the mean of training seeds, the ranking."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.metrics.registry import Metric
from zoo.metrics.value import MetricValue, missing_value

UNNAMED_IMAGES = "images that its file does not name"  # of a generator without a run


@dataclass(kw_only=True)
class ResultRow:
    """Results of one generator, of several seeds of one variant, or of a baseline.

    Attributes:
        error: why there are no results; None: there are.
        values: by the name of the metric.
        facts: recipe, digests, seeds, sampling: what is needed to repeat the evaluation.
        spread: mean and standard deviation of each metric over training seeds.
    """

    name: str
    kind: str
    error: str | None = None
    values: dict[str, MetricValue] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    spread: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as in ``results.jsonl``."""
        values = {name: value.to_json() for name, value in self.values.items()}
        row: dict[str, Any] = {"name": self.name, "kind": self.kind, "error": self.error, "figures": values}
        row |= {"alarms": self.alarms, "cost": self.cost, **self.facts}
        return {**row, "spread": self.spread} if self.spread else row


def row_from_json(plain: dict[str, Any]) -> ResultRow:
    """Return the row that :meth:`ResultRow.to_json` wrote."""
    facts = dict(plain)
    values = {name: MetricValue(**value).finite() for name, value in facts.pop("figures").items()}
    known = {key: facts.pop(key) for key in ("name", "kind", "error", "alarms", "cost")}
    spread = facts.pop("spread", {})
    return ResultRow(**known, values=values, spread=spread, facts=facts)  # all other keys are facts


def merge_seeds(rows: Sequence[ResultRow]) -> ResultRow:
    """Return one row for several training seeds: means, intervals that cover all of theirs, all alarms."""
    valid = [row for row in rows if row.error is None]
    if len(rows) == 1 or not valid:
        return rows[0]
    first = valid[0]
    merged = ResultRow(name=first.name, kind=first.kind, facts=dict(first.facts))
    # What differs between seeds becomes a list; all other facts are the same for all.
    for key in ("seeds", "key", "weights_sha256"):
        merged.facts[key] = [row.facts[key] for row in valid if key in row.facts]
    merged.facts["seeds"] = [seed for seeds in merged.facts["seeds"] for seed in seeds]
    if len(valid) < len(rows):
        merged.facts["failed"] = [row.error for row in rows if row.error is not None]
    for name in first.values:
        _merge_metric(merged, name, [row.values[name] for row in valid if name in row.values], len(valid))
    # Every alarm counts, not only those of the mean: one collapsed seed in three is a result.
    for row in valid:
        seeds = row.facts.get("seeds", [])[:1]
        merged.alarms += [alarm | {"seed": seed} for alarm in row.alarms for seed in seeds]
    merged.cost = {key: _median([row.cost.get(key) for row in valid]) for key in first.cost}
    return merged


def _merge_metric(merged: ResultRow, name: str, values: Sequence[MetricValue], seeds: int) -> None:
    numbers = [value.value for value in values if value.value is not None]
    # A mean over some of the seeds would look as certain as one over all.
    if len(numbers) < seeds:
        merged.values[name] = missing_value("for all training seeds", values[0].n)
        return
    lows = [value.low for value in values if value.low is not None]
    highs = [value.high for value in values if value.high is not None]
    mean = statistics.fmean(numbers)
    # The union is wider than an interval of the mean; between-seed variation is in `spread`.
    merged.values[name] = MetricValue(
        value=mean,
        low=min(lows) if len(lows) == seeds else None,
        high=max(highs) if len(highs) == seeds else None,
        n=values[0].n,
        note=f"mean of {seeds} training seeds; the interval covers all of theirs",
    )
    # ddof = 1: the seeds are a sample of all possible ones
    sd = statistics.stdev(numbers) if seeds > 1 else None
    merged.spread[name] = {"mean": mean, "sd": sd, "seeds": seeds}


def _median(values: Sequence[Any]) -> float | int | None:
    """Return the median of the numbers, an integer if all are; None if there are none."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers:
        return None
    median = statistics.median(numbers)
    return round(median) if all(isinstance(number, int) for number in numbers) else median


def rank_rows(
    rows: Sequence[ResultRow], metrics: Sequence[Metric], ideal: dict[str, MetricValue]
) -> tuple[list[ResultRow], str | None]:
    """Sort rows by the first metric that all valid ones have, best first and failed ones last.

    Args:
        ideal: values of held-out images; metrics whose ``better`` is ``match`` are best close to them.

    Returns:
        The rows, and the name of the metric; None: they could not be ranked.
    """
    valid, failed = [row for row in rows if row.error is None], [row for row in rows if row.error is not None]
    for metric in metrics:
        values = [row.values[metric.name].value for row in valid if metric.name in row.values]
        numbers = [value for value in values if value is not None]
        aim = ideal[metric.name].value if metric.name in ideal else None
        # Shares of copies and privacy are alarms, and good for bad generators too: they do not rank.
        if not numbers or len(numbers) < len(valid) or metric.family in ("copies", "privacy"):
            continue
        if metric.better == "match":
            if aim is None:
                continue
            losses = [abs(number - aim) for number in numbers]
        else:
            losses = numbers if metric.better == "lower" else [-number for number in numbers]
        # sorted() is stable: equal values keep the order in which targets were given
        order = sorted(range(len(valid)), key=losses.__getitem__)
        return [*(valid[index] for index in order), *failed], metric.name
    return [*valid, *failed], None
