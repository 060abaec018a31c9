"""What a page shows of one image shape: tables, dots with intervals, curves, and its pictures."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.report import number_format
from zoo.report.html import svg_charts
from zoo.report.html.album import Album, RowPictures
from zoo.report.html.summary_text import ceiling, direction, goodness, known, written
from zoo.report.html.svg_charts import Axis, Chart
from zoo.report.number_format import finite_or_none

Plain = Mapping[str, Any]

PAPER = 9  # columns of figures that a sheet of paper has room for


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure in a table.

    Attributes:
        text: the value; nothing where it is not available.
        interval: its ends.
        spread: standard deviation over training seeds, with their mean where that is not the value.
        n: of how many images, where that is not what the row says.
        key: a number to sort by, lower for better; None goes last.
        mark: the footnote, counted from 1; 0: none.
        why: the footnote's text.
        drawing: dot and interval; SVG.
    """

    text: str = ""
    interval: str = ""
    spread: str = ""
    n: str = ""
    key: float | None = None
    mark: int = 0
    why: str = ""
    drawing: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A metric: its plain data, and what holds for all of its cells."""

    metric: Plain
    ideal: Plain | None
    axis: Axis | None
    direction: str
    short: str
    ranks: bool


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a table: a generator or a baseline."""

    row: Plain
    anchor: str
    rank: int
    n: int
    baseline: bool
    is_ceiling: bool
    alarms: list[str]
    remarks: list[str]
    cells: list[Cell]

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def error(self) -> str | None:
        return self.row.get("error")


class GroupSection:
    """Everything that a page shows of one image shape."""

    def __init__(
        self, index: int, group: Plain, document: Plain, pictures: Mapping[str, RowPictures], album: Album
    ) -> None:
        self.index, self.plain, self.name = index, group, group["name"]
        self.single = document["kind"] == "report"
        self.data: Plain = group["data"]
        self.footnotes: list[str] = []
        self.ceiling = ceiling(group)
        whole = [row for row in group["rows"] if not row.get("error")]
        self.columns = [self._column(metric, [*whole, *group["baselines"]]) for metric in document["metrics"]]
        self.columns = [column for column in self.columns if column.axis is not None or _noted(column.metric, whole)]
        self.lines = [self._line(place, row) for place, row in enumerate(group["rows"])]
        self.floors = [self._line(place, row, baseline=True) for place, row in enumerate(group["baselines"])]
        self.forest = self._forest()
        self.costs = _costs(whole)
        self.samples = [(line, grid) for line in self.whole if (grid := album.grids.get(line.name))]
        self.side, self.resolution = album.sides[self.name], group["resolution"]
        self.pairs = [(line, pairs) for line in self.whole if (pairs := album.pairs(line.name, self.side))]
        self.strips = [(line, strip) for line in self.whole if (strip := album.strip(line.name, self.side))]
        self.charts, self.legend = _charts(group, document, pictures)

    @property
    def whole(self) -> list[Line]:
        return [line for line in self.lines if not line.error]

    @property
    def ranked(self) -> Column | None:
        return next((column for column in self.columns if column.ranks), None)

    @property
    def alarmed(self) -> list[Line]:
        return [line for line in self.whole if line.alarms]

    @property
    def rung_floors(self) -> list[str]:
        return [line.name for line in self.floors if line.alarms]

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Ranges of columns that fit on a sheet of paper, about as wide as one another."""
        count = -(-len(self.columns) // PAPER)
        edges = [round(len(self.columns) * part / count) for part in range(count + 1)] if count else [0]
        return list(itertools.pairwise(edges))

    def between(self, column: Column) -> str:
        """The first generator's figure among those of all baselines; SVG."""
        floors = [_found(line.row, column) for line in self.floors if not line.is_ceiling]
        if column.axis is None or not self.whole:
            return ""
        return svg_charts.whisker(column.axis, _found(self.whole[0].row, column), column.ideal, others=floors)

    def explained(self, column: Column) -> list[tuple[str, str]]:
        """What the baselines score: names and figures."""
        rows = [(row["name"], known(row, column.metric["name"])) for row in self.plain["baselines"]]
        return [
            (name, number_format.format_value(value, column.metric["decimals"]))
            for name, value in rows
            if value is not None
        ]

    def _column(self, metric: Plain, rows: Sequence[Plain]) -> Column:
        figures = [row["figures"].get(metric["name"]) for row in rows]
        values = [value for found in figures for value in svg_charts.ends(found)]
        return Column(
            metric=metric,
            ideal=self.ceiling["figures"].get(metric["name"]) if self.ceiling else None,
            axis=svg_charts.axis(values, zero=True),
            direction=direction(metric),
            short={"lower": "lower is better", "higher": "higher is better"}.get(
                metric["better"], "near unseen is best"
            ),
            ranks=metric["name"] == self.plain.get("ranked_by"),
        )

    def _line(self, place: int, row: Plain, *, baseline: bool = False) -> Line:
        sizes = Counter(found["n"] for found in row["figures"].values() if found.get("n") and svg_charts.ends(found))
        n = sizes.most_common(1)[0][0] if sizes else 0
        return Line(
            row=row,
            anchor=f"{'b' if baseline else 'r'}{self.index}-{place}",
            rank=0 if baseline or self.single or row.get("error") or not self.plain.get("ranked_by") else place + 1,
            n=n,
            baseline=baseline,
            is_ceiling=baseline and row is self.ceiling,
            alarms=list(dict.fromkeys(alarm["name"] for alarm in row.get("alarms", []))),
            remarks=_remarks(row),
            cells=[]
            if row.get("error")
            else [self._cell(row, column, n, baseline=baseline) for column in self.columns],
        )

    def _cell(self, row: Plain, column: Column, n: int, *, baseline: bool) -> Cell:
        metric = column.metric
        found = row["figures"].get(metric["name"]) or {}
        note = str(found.get("note") or "")
        value = finite_or_none(found.get("value"))
        if value is None:
            why = note or "not available: not measured"
            return Cell(mark=self._footnote(why), why=why)
        low, high = finite_or_none(found.get("low")), finite_or_none(found.get("high"))
        spread = (row.get("spread") or {}).get(metric["name"])
        mean, sd = (finite_or_none(spread.get(key)) if spread else None for key in ("mean", "sd"))
        seeds = ""
        if spread and mean is not None and sd is not None:
            texts = (
                number_format.format_value(mean, metric["decimals"]),
                number_format.format_value(sd, metric["decimals"] + 2, 2),
            )
            seeds = f"± {texts[1]}" if mean == value else f"{texts[0]} ± {texts[1]}"
        ideal = finite_or_none((column.ideal or {}).get("value"))
        drawn = svg_charts.whisker(column.axis, found, column.ideal, hollow=baseline) if column.axis else ""
        return Cell(
            text=number_format.format_value(value, metric["decimals"]),
            interval=number_format.format_interval(low, high, metric["decimals"])
            if low is not None and high is not None and low != high
            else "",
            spread=seeds,
            n=number_format.format_whole(found["n"]) if found.get("n") and found["n"] != n else "",
            key=goodness(metric, value, ideal) if metric["better"] != "match" or ideal is not None else value,
            mark=self._footnote(note) if note and not spread else 0,
            why=note,
            drawing=drawn,
        )

    def _footnote(self, text: str) -> int:
        if text not in self.footnotes:
            self.footnotes.append(text)
        return self.footnotes.index(text) + 1

    def _forest(self) -> dict[str, Any] | None:
        """The ranking metric of every row as a dot with its interval; None where there is nothing to rank."""
        column = self.ranked
        if column is None or not any(known(line.row, column.metric["name"]) is not None for line in self.lines):
            return None
        along = self._span(column)
        rows = []
        for line in [*self.lines, *self.floors]:
            if (value := known(line.row, column.metric["name"])) is not None:
                found = _found(line.row, column)
                beyond = "left" if value < along.low else "right" if value > along.high else ""
                drawn = svg_charts.whisker(along, found, column.ideal, hollow=line.baseline)
                rows.append((line, beyond, written(found, column.metric), drawn))
        return {
            "column": column,
            "rows": rows,
            "rules": svg_charts.gridlines(along, 5),
            "ticks": along.ticks(5),
            "logarithmic": along.kind == "log",
            "ceiling": bool(svg_charts.ends(column.ideal)),
        }

    def _span(self, column: Column) -> Axis:
        """All generators and the ceiling, and baselines that are not far off: the others would flatten the rest."""
        values = [value for line in self.lines for value in svg_charts.ends(_found(line.row, column))]
        values += svg_charts.ends(column.ideal)
        reach = 0.5 * (max(values) - min(values))
        low, high = min(values) - reach, max(values) + reach
        for line in self.floors:
            values += [value for value in svg_charts.ends(_found(line.row, column)) if low <= value <= high]
        along = svg_charts.axis(values, zero=True)
        assert along is not None
        return along


def _remarks(row: Plain) -> list[str]:
    """What must be known of a row as a whole."""
    remarks = [f"trained on {row['trained_on']}"] if row.get("trained_on") else []
    if spread := row.get("spread"):
        notes = Counter(found["note"] for found in row["figures"].values() if found.get("note"))
        several = f"mean of {max(each['seeds'] for each in spread.values())} training seeds"
        remarks.append(f"{notes.most_common(1)[0][0] if notes else several}; ± their standard deviation")
    return remarks + [f"a training seed failed: {why}" for why in row.get("failed", [])]


def _found(row: Plain, column: Column) -> Plain:
    return row["figures"].get(column.metric["name"]) or {}


def _noted(metric: Plain, rows: Sequence[Plain]) -> bool:
    """Whether there is at least a reason why nobody has this figure."""
    return any((row["figures"].get(metric["name"]) or {}).get("note") for row in rows)


def _bytes(value: float) -> str:
    return number_format.format_count(value, "B")


COSTS = (
    # keys in a row's costs, heading, what to say under it, how to write a number, whether more is better
    (("parameters_g", "parameters_d"), "Parameters", "G / D", number_format.format_count, False),
    (("macs_g", "macs_d"), "Multiply-adds", "G / D, per image", number_format.format_count, False),
    (("checkpoint_bytes",), "Generator file", "", _bytes, False),
    (("nimg",), "Images seen", "in training", number_format.format_count, True),
    (("train_img_per_s",), "Training", "images/s", number_format.format_rate, True),
    (("sample_img_per_s",), "Sampling", "images/s", number_format.format_rate, True),
    (("peak_memory_bytes",), "Peak memory", "", _bytes, False),
    (("wall_s",), "Training time", "", number_format.format_duration, False),
)


def _costs(rows: Sequence[Plain]) -> list[dict[str, Any]]:
    """The columns that at least one row has: headings, texts and numbers to sort by, a cell for each whole row."""
    columns = []
    for keys, title, unit, write, more in COSTS:
        cells = []
        for row in rows:
            values = [finite_or_none((row.get("cost") or {}).get(key)) for key in keys]
            texts = [number_format.NONE if value is None else write(value) for value in values]
            known_ones = [value for value in values if value is not None]
            cells.append((" / ".join(texts), known_ones[0]) if known_ones else ("", None))
        if any(text for text, _ in cells):
            columns.append({"title": title, "unit": unit, "more": more, "cells": cells})
    return columns


LOSSES = {"loss_d": "D loss", "loss_g": "G loss"}
REFERENCES = ("_unseen", "_real")  # behind a figure's name: the same of real images, in the same row of the log


def _charts(
    group: Plain, document: Plain, pictures: Mapping[str, RowPictures]
) -> tuple[list[Chart], list[tuple[int, str]]]:
    """Losses, then every metric that a log holds, each with all rows in it; and the legend, if it takes one.

    Of a single log the two losses share a chart.
    """
    logs = [
        (slot, row["name"], pictures[row["name"]].log)
        for slot, row in enumerate(group["rows"])
        if row["name"] in pictures
    ]
    logs = [(slot, name, log) for slot, name, log in logs if log]
    drawn = []
    if len(logs) == 1:
        found = [svg_charts.line(logs[0][2], key, title, slot) for slot, (key, title) in enumerate(LOSSES.items())]
        if lines := [line for line in found if line]:
            drawn.append(svg_charts.curves("Loss", lines, log=True))
    else:
        for key, title in LOSSES.items():
            if lines := _lines(logs, key):
                drawn.append(svg_charts.curves(title, lines, log=True))
    for metric in document["metrics"]:
        if lines := _lines(logs, metric["name"]):
            band = _reference([log for *_, log in logs], metric["name"])
            drawn.append(svg_charts.curves(metric["title"], lines, reference=band, means="real images"))
    names = {slot: name for chart in drawn for slot, name in chart.slots}
    return drawn, sorted(names.items()) if len(logs) > 1 else []


def _lines(rows: Sequence[tuple[int, str, list[dict[str, Any]]]], key: str) -> list[svg_charts.Line]:
    found = [svg_charts.line(log, key, name, slot) for slot, name, log in rows]
    return [line for line in found if line]


def _reference(logs: Sequence[Sequence[Plain]], key: str) -> tuple[float, float] | None:
    """The lowest and the highest of what the logs say real images score."""
    last = []
    for log in logs:
        values = [finite_or_none(row.get(key + suffix)) for row in log for suffix in REFERENCES]
        last += [value for value in values if value is not None][-1:]
    return (min(last), max(last)) if last else None
