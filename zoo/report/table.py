"""The document of a benchmark as tables, for the terminal and in Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.report.number_format import (
    DASH,
    finite_or_none,
    format_count,
    format_duration,
    format_rate,
    format_whole,
    join_words,
    value_and_ends,
)

_Plain = Mapping[str, Any]
_Table = tuple[list[str], list[list[str]]]  # headings, those of right-aligned columns ending in ">"; rows

NONE = "-"
ALARMS = ("collapse", "memorisation", "untrained")  # without that of privacy, which only one command asks for
PRIVACY_METRICS = ("authenticity", "distance_ratio", "membership_distance", "membership_discriminator")
ALARM_NOTE = "alarm "  # starts the note of a value that says where its alarm begins
ASYMMETRY = 0.2  # an interval is shown by its ends where its halves differ by more than this share of its width
INTERVAL_NOTE = "±: half of the 95 % interval, or (low to high) where it is asymmetric"
SEEDS_NOTE = "± ... sd: standard deviation over training seeds, instead of the interval"
READING_NOTE = (
    f"{INTERVAL_NOTE}; {SEEDS_NOTE}. "
    "Names in brackets are baselines. FID falls with the number of images (n, that of the first metric; metrics on "
    "pairs use at most 256 images): compare FID at equal n, or compare KID.\n"
)


def quality_tables(group: _Plain, metrics: Sequence[_Plain], width: int) -> list[_Table]:
    """Split the quality table into as many as fit ``width`` characters; each repeats the row names.

    Alarms, which are long, are in the last one only.
    """
    tables: list[_Table] = []
    chosen: list[_Plain] = []
    metrics = measured_metrics(group, metrics)
    for metric in metrics:
        is_last = metric is metrics[-1]
        if chosen and _table_width(_terminal_table(group, [*chosen, metric], alarms=is_last)) > width:
            tables.append(_terminal_table(group, chosen, alarms=False))
            chosen = []
        chosen.append(metric)
    return [*tables, _terminal_table(group, chosen, alarms=True)]


def _terminal_table(group: _Plain, metrics: Sequence[_Plain], *, alarms: bool) -> _Table:
    """Make a part of the quality table, with the names of alarms or without; an error has a line of its own."""
    headings, rows = quality_table(group, metrics, intervals=True)
    rows_of_group = [*group["rows"], *group["baselines"]]
    names = [", ".join(dict.fromkeys(alarm["name"] for alarm in row["alarms"])) for row in rows_of_group]
    if not alarms:
        return headings[:-1], [row[:-1] for row in rows]
    texts = ["broken" if row["error"] else name for row, name in zip(rows_of_group, names, strict=True)]
    return headings, [[*row[:-1], text] for row, text in zip(rows, texts, strict=True)]


def _table_width(table: _Table) -> int:
    """Return the characters of a table's line; two spaces separate its columns."""
    headings, rows = table
    widths = [max(len(text) for text in column) for column in zip(headings, *rows, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1)


def quality_table(group: _Plain, metrics: Sequence[_Plain], *, intervals: bool) -> _Table:
    """Make the table of metric values: generators, best first, then the baselines.

    Args:
        intervals: add the interval, or the standard deviation over training seeds, to each value.
    """
    metrics = measured_metrics(group, metrics)
    headings = ["", *(f"{metric['title']}>" for metric in metrics), "n>", "alarms"]
    rows = []
    for row in [*group["rows"], *group["baselines"]]:
        if row["error"]:
            rows.append([row["name"], *[NONE] * len(metrics), NONE, f"broken: {row['error']}"])
            continue
        cells = [_metric_cell(row, metric, interval=intervals) for metric in metrics]
        name = f"({row['name']})" if row["kind"] == "baseline" else row["name"]
        values = [row["figures"].get(metric["name"]) for metric in metrics]
        n = next((value["n"] for value in values if value and value_and_ends(value)), None)
        rows.append([name, *cells, NONE if n is None else f"{n:,}", format_alarms(row)])
    return headings, rows


def measured_metrics(group: _Plain, metrics: Sequence[_Plain]) -> list[_Plain]:
    """Return the metrics that any row of the group has a value of; the others would be columns of dashes."""
    rows = [*group["rows"], *group["baselines"]]
    return [metric for metric in metrics if any(value_and_ends(row["figures"].get(metric["name"])) for row in rows)]


def privacy_table(row: _Plain, baselines: Sequence[_Plain], metrics: Sequence[_Plain]) -> _Table:
    """Make the table of a generator's values of privacy: value, that of held-out images, and where its alarm begins.

    Returns:
        No rows if none was measured; one that is not available has its reason instead of where the alarm begins.
    """
    heldout: _Plain = next((baseline["figures"] for baseline in baselines if baseline["name"] == "unseen subjects"), {})
    rows = []
    for metric in metrics:
        figure = row["figures"].get(metric["name"])
        if metric["name"] not in PRIVACY_METRICS or figure is None:
            continue
        name, decimals, note = metric["name"], metric["decimals"], figure.get("note") or ""
        reference = (
            "0.5" if name.startswith("membership") else format_value_cell(heldout.get(name), decimals, interval=True)
        )
        cells = [format_value_cell(figure, decimals, interval=True), reference, note.removeprefix(ALARM_NOTE) or NONE]
        rows.append([metric["title"], *cells])
    return ["", "value>", "held-out people, or a guess>", "alarm"], rows


def describe_notes(group: _Plain, metrics: Sequence[_Plain]) -> list[str]:
    """Say which metrics have no value, or a value with a note, and why: one line for all that share a reason."""
    notes: dict[str, list[str]] = {}
    for row in group["rows"]:
        for metric in metrics:
            if note := (row["figures"].get(metric["name"]) or {}).get("note"):
                notes.setdefault(note, []).append(metric["title"])
    return [f"{', '.join(dict.fromkeys(titles))}: {note}" for note, titles in notes.items()]


def describe_signs(group: _Plain) -> str:
    """Say what ± means in the quality table; both meanings only where both are there."""
    seeds = any(spread["sd"] is not None for row in group["rows"] for spread in row.get("spread", {}).values())
    return f"{INTERVAL_NOTE}; {SEEDS_NOTE}" if seeds else INTERVAL_NOTE


def unevaluated_alarms(rows: Sequence[_Plain]) -> list[str]:
    """Return the names of the alarms that were checked for no row; rows that failed do not count."""
    checked = {alarm for row in rows if not row.get("error") for alarm in row.get("checked_alarms", ())}
    return [alarm for alarm in ALARMS if alarm not in checked]


def describe_no_alarm(rows: Sequence[_Plain]) -> str:
    """Say that no alarm was triggered, and which were not evaluated."""
    missing = unevaluated_alarms(rows)
    if all(row.get("error") for row in rows):
        return "No generator could be evaluated."
    if len(missing) == len(ALARMS):
        return "Alarms were not evaluated: no metric that triggers one was measured, or too few images were there."
    if missing:
        return f"No alarm was triggered; not evaluated: {join_words(missing)}."
    return "No alarm was triggered."


def format_value_cell(figure: _Plain | None, decimals: int, *, interval: bool) -> str:
    """Write ``"137.7 ±6.4"``, or ``"0.016 (0 to 0.078)"`` for an asymmetric interval; a dash for a missing value."""
    numbers = value_and_ends(figure)
    if not numbers:
        return NONE
    value, *ends = numbers
    text = f"{value:.{decimals}f}"
    if not interval or not ends:
        return text
    if ends[0] == ends[1]:  # of one image again and again
        return text
    below, above = value - ends[0], ends[1] - value
    low, high = (re.sub(r"(\.[0-9]*?)0+$", r"\1", f"{end:.{decimals}f}").rstrip(".") for end in ends)
    # One number would hide that, for example, a share near zero can only be larger.
    if abs(above - below) > ASYMMETRY * (above + below) and low != high:
        return f"{text} ({low} to {high})"
    return f"{text} ±{(above + below) / 2:.{decimals}f}"


def _metric_cell(row: _Plain, metric: _Plain, *, interval: bool) -> str:
    """Write a metric of a row; over several training seeds with their standard deviation instead of the interval."""
    # The interval of one run covers the choice of images, not that of the training seed.
    spread = row.get("spread", {}).get(metric["name"])
    text = format_value_cell(
        row["figures"].get(metric["name"]), metric["decimals"], interval=interval and spread is None
    )
    if text == NONE or spread is None or spread["sd"] is None:
        return text
    return f"{text} ±{spread['sd']:.{metric['decimals']}f} sd"


def format_alarms(row: _Plain) -> str:
    """List the triggered alarms and the metrics that triggered them: ``"collapse (SSIM pairwise)"``."""
    metrics: dict[str, list[str]] = {}
    for alarm in row["alarms"]:
        metrics.setdefault(alarm["name"], []).append(alarm["metric"])
    return "; ".join(f"{name} ({', '.join(names)})" for name, names in metrics.items())


@dataclass(frozen=True)
class CostColumn:
    """What a generator needs, as a column of a table.

    Attributes:
        title: heading.
        unit: what is written after or under the heading.
        keys: of a row's costs; the first is sorted by.
        write: how to write a value.
        more: whether more is better.
    """

    title: str
    unit: str
    keys: tuple[str, ...]
    write: Callable[[float], str]
    more: bool = False

    def cell(self, row: _Plain) -> tuple[str, float | None]:
        """Return the text and the number to sort by; an empty text and None where nothing is known."""
        values = [finite_or_none((row.get("cost") or {}).get(key)) for key in self.keys]
        first = next((value for value in values if value is not None), None)
        text = " / ".join(DASH if value is None else self.write(value) for value in values)
        return ("", None) if first is None else (text, first)


def _format_bytes(value: float) -> str:
    return format_count(value, "B")


COST_COLUMNS = (
    CostColumn("Parameters", "G / D", ("parameters_g", "parameters_d"), format_count),
    CostColumn("Multiply-adds", "G / D, per image", ("macs_g", "macs_d"), format_count),
    CostColumn("Generator file", "", ("checkpoint_bytes",), _format_bytes),
    CostColumn("Images seen", "in training", ("nimg",), format_whole, more=True),
    CostColumn("Training", "images/s", ("train_img_per_s",), format_rate, more=True),
    CostColumn("Sampling", "images/s", ("sample_img_per_s",), format_rate, more=True),
    CostColumn("Peak memory", "", ("peak_memory_bytes",), _format_bytes),
    CostColumn("Training time", "", ("wall_s",), format_duration),
)


def _costs_table(group: _Plain) -> _Table:
    """Make the table of each generator's size, speed and training time."""
    columns = [column for column in COST_COLUMNS if any(column.cell(row)[0] for row in group["rows"])]
    headings = ["", *(f"{column.title} {column.unit}".rstrip() + ">" for column in columns)]
    return headings, [[row["name"], *(column.cell(row)[0] or NONE for column in columns)] for row in group["rows"]]


def bench_markdown(document: _Plain) -> str:
    """Write the whole document: per group a quality table, the triggered alarms and a cost table; then the notes."""
    parts = []
    for group in document["groups"]:
        data = group["data"]
        images = f"{data['train']:,} training images and {data['unseen']:,} held-out images of unseen subjects"
        parts.append(f"### {group['name']}\n\nCompared with {images} ({data['description']}).\n")
        parts.append(markdown_table(*quality_table(group, document["metrics"], intervals=True)))
        parts.append(READING_NOTE)
        parts += [f"{line}\n" for line in describe_notes(group, document["metrics"])]
        triggered = [f"- **{row['name']}**: {alarm['text']}\n" for row in group["rows"] for alarm in row["alarms"]]
        # "no alarm" would mislead if nothing was evaluated
        parts.append("".join(triggered) or f"{describe_no_alarm(group['rows'])}\n")
        parts.append(markdown_table(*_costs_table(group)))
    if document["notes"]:
        parts.append("".join(f"- {note}\n" for note in document["notes"]))
    return "\n".join(parts)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; columns whose headings end in ``>`` hold numbers and are aligned to the right."""
    # GitHub's Markdown: a colon at the right end aligns a column to the right.
    rule = ["---:" if heading.endswith(">") else "---" for heading in headings]
    lines = [[heading.rstrip(">") for heading in headings], rule, *rows]
    return "".join(f"| {' | '.join(_escape(text) for text in line)} |\n" for line in lines)


def _escape(text: str) -> str:
    """Keep text on one line and free of what Markdown reads as a cell border or a tag."""
    return " ".join(text.replace("|", "/").replace("<", "&lt;").split())
