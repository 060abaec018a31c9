"""What a page shows of one image shape: tables, values with intervals, curves, and images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.report.html.album import Album, RowPictures
from zoo.report.html.summary_text import ceiling, describe_direction, format_with_interval, metric_value
from zoo.report.html.svg_charts import (
    Axis,
    Chart,
    Curve,
    draw_curves,
    draw_gridlines,
    draw_whisker,
    make_axis,
    read_curve,
)
from zoo.report.number_format import finite_or_none, format_interval, format_value, format_whole, value_and_ends
from zoo.report.table import (
    COST_COLUMNS,
    CostColumn,
    describe_no_alarm,
    describe_notes,
    measured_metrics,
    privacy_table,
)

_Plain = Mapping[str, Any]
_Log = tuple[int, str, Sequence[_Plain]]  # slot of the curve, name, rows

PAPER_COLUMNS = 9  # columns of values that fit on a sheet of paper
FOREST_TICKS = 5
CURVE_TITLES = {"loss_d": "D loss", "loss_g": "G loss"}
REFERENCE_SUFFIXES = ("_unseen", "_real")  # after a metric's name: its value of real images, in the same log row


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A metric value in a table.

    Attributes:
        text: the value; empty where it is not available.
        interval: the ends of its interval.
        spread: standard deviation over training seeds, with their mean where that is not the value.
        n: number of images, where that is not the number of the whole row.
        key: a number to sort by, lower for better; None is sorted last.
        mark: number of the footnote, counted from 1; 0 for none.
        note: text of the footnote.
        drawing: dot and interval, as SVG.
    """

    text: str = ""
    interval: str = ""
    spread: str = ""
    n: str = ""
    key: float | None = None
    mark: int = 0
    note: str = ""
    drawing: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A metric and what all of its cells share.

    Attributes:
        ideal: the value of the ceiling.
        axis: of the drawings; None if no row has a value.
    """

    metric: _Plain
    ideal: _Plain | None
    axis: Axis | None
    direction: str


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A generator or a baseline.

    Attributes:
        data: the row of the document.
        anchor: prefix of the ids of its elements.
        rank: counted from 1; 0 for none.
        n: number of images of most of its values.
        remarks: what must be known of the row as a whole.
    """

    data: _Plain
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
        return str(self.data["name"])

    @property
    def error(self) -> str | None:
        return self.data.get("error")


class GroupSection:
    """Everything that a page shows of one image shape."""

    def __init__(
        self, index: int, group: _Plain, document: _Plain, pictures: Mapping[str, RowPictures], album: Album
    ) -> None:
        self.index, self.plain, self.name = index, group, str(group["name"])
        self.single_run = document["kind"] == "report"
        self.data: _Plain = group["data"]
        self.footnotes: list[str] = []  # filled by the cells, in the order of the table
        self.ceiling = ceiling(group)
        data = [row for row in group["rows"] if not row.get("error")]
        rows = [*data, *group["baselines"]]
        self.columns = [self._make_column(metric, rows) for metric in measured_metrics(group, document["metrics"])]
        shown = [column.metric for column in self.columns]
        # Metrics that no row has a value of, with the reason.
        self.missing = describe_notes(group, [metric for metric in document["metrics"] if metric not in shown])
        self.rows = [self._make_row(index, row) for index, row in enumerate(group["rows"])]
        self.baselines = [self._make_row(index, row, baseline=True) for index, row in enumerate(group["baselines"])]
        self.evaluated = [row for row in self.rows if not row.error]
        self.alarmed = [row for row in self.evaluated if row.alarms]
        self.no_alarm = describe_no_alarm(group["rows"])
        self.alarmed_baselines = [row.name for row in self.baselines if row.alarms]
        ranked = [column for column in self.columns if column.metric["name"] == group.get("ranked_by")]
        self.ranked = ranked[0] if ranked else None
        self.forest = self._make_forest()
        self.privacy = [
            (row, table) for row in self.evaluated if (table := self._privacy_rows(row, document["metrics"]))
        ]
        self.costs = _cost_columns(data)
        self.side, self.resolution = album.sides[self.name], group["resolution"]
        self.samples = [(row, album.grids[row.name]) for row in self.evaluated if row.name in album.grids]
        self.pairs = [(row, pairs) for row in self.evaluated if (pairs := album.pairs(row.name, self.side))]
        self.strips = [(row, strip) for row in self.evaluated if (strip := album.strip(row.name, self.side))]
        self.charts, self.legend = _training_charts(group["rows"], document["metrics"], pictures)

    @property
    def paper_parts(self) -> list[tuple[int, int]]:
        """Ranges of columns that fit on a sheet of paper, about equally wide."""
        # Rounded up; then even parts, rather than full sheets and a last one with a single column.
        count = -(-len(self.columns) // PAPER_COLUMNS)
        return list(itertools.pairwise(round(len(self.columns) * part / max(count, 1)) for part in range(count + 1)))

    def draw_among_baselines(self, column: Column) -> str:
        """Draw the first generator's value among those of all baselines, as SVG."""
        if column.axis is None or not self.evaluated:
            return ""
        # The ceiling is drawn as a line already.
        baselines = [_figure(row.data, column.metric) for row in self.baselines if not row.is_ceiling]
        value = _figure(self.evaluated[0].data, column.metric)
        return draw_whisker(column.axis, value, column.ideal, others=baselines)

    def baseline_values(self, column: Column) -> list[tuple[str, str]]:
        """Return names and values of the baselines."""
        values = [(row.name, metric_value(row.data, column.metric["name"])) for row in self.baselines]
        decimals = column.metric["decimals"]
        return [(name, format_value(value, decimals)) for name, value in values if value is not None]

    def _make_column(self, metric: _Plain, rows: Sequence[_Plain]) -> Column:
        return Column(
            metric=metric,
            ideal=self.ceiling["figures"].get(metric["name"]) if self.ceiling else None,
            # One axis for all rows, so that drawings in a column can be compared.
            axis=make_axis([value for row in rows for value in value_and_ends(_figure(row, metric))], zero=True),
            direction=describe_direction(metric),
        )

    def _make_row(self, index: int, row: _Plain, *, baseline: bool = False) -> TableRow:
        figures = row["figures"].values()
        counts = Counter(figure["n"] for figure in figures if figure.get("n") and value_and_ends(figure))
        # Metrics on pairs use fewer images; their cells say so.
        n = counts.most_common(1)[0][0] if counts else 0
        error = row.get("error")
        ranked = not (baseline or self.single_run or error) and self.plain.get("ranked_by")
        return TableRow(
            data=row,
            anchor=f"{'b' if baseline else 'r'}{self.index}-{index}",
            rank=index + 1 if ranked else 0,
            n=n,
            baseline=baseline,
            is_ceiling=baseline and row is self.ceiling,
            alarms=list(dict.fromkeys(alarm["name"] for alarm in row.get("alarms", []))),
            remarks=_remarks(row),
            # A row that failed has one wide cell with the error.
            cells=[] if error else [self._make_cell(row, column, n, hollow=baseline) for column in self.columns],
        )

    def _make_cell(self, row: _Plain, column: Column, n: int, *, hollow: bool) -> Cell:
        metric = column.metric
        figure = _figure(row, metric)
        note = str(figure.get("note") or "")
        numbers = value_and_ends(figure)
        if not numbers:
            note = note or "not available: not measured"
            return Cell(mark=self._footnote(note), note=note)
        value = numbers[0]
        spread = (row.get("spread") or {}).get(metric["name"])
        return Cell(
            text=format_value(value, metric["decimals"]),
            interval=format_interval(numbers[1:], metric["decimals"]),
            spread=_format_spread(spread, value, metric["decimals"]) if spread else "",
            n=format_whole(figure["n"]) if figure.get("n") and figure["n"] != n else "",
            key=_sort_key(metric, value, finite_or_none((column.ideal or {}).get("value"))),
            mark=self._footnote(note) if note and not spread else 0,  # with a spread the row's remarks say it
            note=note,
            drawing=draw_whisker(column.axis, figure, column.ideal, hollow=hollow) if column.axis else "",
        )

    def _footnote(self, text: str) -> int:
        """Return the number of a footnote; the same text is entered once."""
        if text not in self.footnotes:
            self.footnotes.append(text)
        return self.footnotes.index(text) + 1

    def _make_forest(self) -> dict[str, Any] | None:
        """Draw the ranking metric of every row as a dot with its interval; None if there is nothing to rank."""
        column = self.ranked
        if column is None or all(metric_value(row.data, column.metric["name"]) is None for row in self.rows):
            return None
        axis = self._forest_axis(column)
        tracks = []
        for row in [*self.rows, *self.baselines]:
            value = metric_value(row.data, column.metric["name"])
            if value is None:
                continue
            figure = _figure(row.data, column.metric)
            beyond = "left" if value < axis.low else "right" if value > axis.high else ""
            drawing = draw_whisker(axis, figure, column.ideal, hollow=row.baseline)
            tracks.append((row, beyond, format_with_interval(figure, column.metric), drawing))
        return {
            "column": column,
            "tracks": tracks,
            "gridlines": draw_gridlines(axis, FOREST_TICKS),
            "ticks": axis.ticks(FOREST_TICKS),
            "logarithmic": axis.kind == "log",
            "ceiling": bool(value_and_ends(column.ideal)),
        }

    def _privacy_rows(self, row: TableRow, metrics: Sequence[_Plain]) -> list[tuple[list[str], str]]:
        """Return the cells and the meaning of each value of privacy."""
        sentences = {metric["title"]: metric["sentence"] for metric in metrics}
        _, lines = privacy_table(row.data, self.plain["baselines"], metrics)
        return [(cells, sentences[cells[0]]) for cells in lines]

    def _forest_axis(self, column: Column) -> Axis:
        """Make an axis for all generators, the ceiling and the baselines that are not far from them."""
        values = [value for row in self.rows for value in value_and_ends(_figure(row.data, column.metric))]
        values += value_and_ends(column.ideal)
        # Baselines further away, such as noise, would squeeze the generators together.
        margin = 0.5 * (max(values) - min(values))
        low, high = min(values) - margin, max(values) + margin
        for row in self.baselines:
            values += [value for value in value_and_ends(_figure(row.data, column.metric)) if low <= value <= high]
        axis = make_axis(values, zero=True)
        assert axis is not None
        return axis


def _figure(row: _Plain, metric: _Plain) -> _Plain:
    return row["figures"].get(metric["name"]) or {}


def _sort_key(metric: _Plain, value: float, ideal: float | None) -> float:
    """Return a number that is lower for better: for a ``match`` metric the distance from the ceiling, if known."""
    if metric["better"] == "match" and ideal is not None:
        return abs(value - ideal)
    return -value if metric["better"] == "higher" else value


def _format_spread(spread: _Plain, value: float, decimals: int) -> str:
    mean, sd = finite_or_none(spread.get("mean")), finite_or_none(spread.get("sd"))
    if mean is None or sd is None:
        return ""
    # Two significant digits: a standard deviation over a few seeds is not known better.
    text = f"± {format_value(sd, decimals + 2, 2)}"
    return f"{text} sd" if mean == value else f"{format_value(mean, decimals)} {text} sd"


def _remarks(row: _Plain) -> list[str]:
    remarks = [f"trained on {row['trained_on']}"] if row.get("trained_on") else []
    if spread := row.get("spread"):
        notes = Counter(figure["note"] for figure in row["figures"].values() if figure.get("note"))
        seeds = f"mean of {max(each['seeds'] for each in spread.values())} training seeds"
        remarks.append(f"{notes.most_common(1)[0][0] if notes else seeds}; ± sd: their standard deviation")
    return remarks + [f"a training seed failed: {reason}" for reason in row.get("failed", [])]


def _cost_columns(rows: Sequence[_Plain]) -> list[tuple[CostColumn, list[tuple[str, float | None]]]]:
    """Return the cost columns that at least one row has a value of, with their cells."""
    columns = [(column, [column.cell(row) for row in rows]) for column in COST_COLUMNS]
    return [(column, cells) for column, cells in columns if any(text for text, _ in cells)]


def _training_charts(
    rows: Sequence[_Plain], metrics: Sequence[_Plain], pictures: Mapping[str, RowPictures]
) -> tuple[list[Chart], list[tuple[int, str]]]:
    """Draw the losses and every metric that a log holds, with all rows in each chart.

    Returns:
        The charts, and the slots and names of a legend, which is empty for a single log: its two losses share a chart.
    """
    logs: list[_Log] = []
    for slot, row in enumerate(rows):  # a row keeps its colour where others have no log
        images = pictures.get(row["name"])
        if images is not None and images.log:
            logs.append((slot, row["name"], images.log))
    if len(logs) == 1:  # D and G of one run are read against each other, those of several runs per network
        titles = enumerate(CURVE_TITLES.items())
        losses = [_read_curves([(slot, title, logs[0][2])], key) for slot, (key, title) in titles]
        panels = [("Loss", [curve for curves in losses for curve in curves])]
    else:
        panels = [(title, _read_curves(logs, key)) for key, title in CURVE_TITLES.items()]
    charts = [draw_curves(title, curves, log=True) for title, curves in panels if curves]
    for metric in metrics:
        if _varies(logs, metric["name"]) and (curves := _read_curves(logs, metric["name"])):
            band = _reference_band(logs, metric["name"])
            charts.append(draw_curves(metric["title"], curves, reference=band, reference_name="real images"))
    # A row whose log has none of the drawn values is not in the legend.
    names = {slot: name for chart in charts for slot, name in chart.slots}
    return charts, sorted(names.items()) if len(logs) > 1 else []


def _varies(logs: Sequence[_Log], key: str) -> bool:
    """Return whether a value changes in any log, or differs between them; a chart of a constant shows nothing."""
    values = {finite_or_none(row.get(key)) for _, _, rows in logs for row in rows} - {None}
    return len(values) > 1


def _read_curves(logs: Sequence[_Log], key: str) -> list[Curve]:
    curves = [read_curve(rows, key, name, slot) for slot, name, rows in logs]
    return [curve for curve in curves if curve is not None]


def _reference_band(logs: Sequence[_Log], key: str) -> tuple[float, float] | None:
    """Return the lowest and the highest of the values that the logs last give for real images."""
    last = []
    for _, _, rows in logs:
        values = [finite_or_none(row.get(key + suffix)) for row in rows for suffix in REFERENCE_SUFFIXES]
        # The last: values of real images do not depend on training.
        last += [value for value in values if value is not None][-1:]
    return (min(last), max(last)) if last else None
