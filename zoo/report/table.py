"""A bench's document as tables: for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Group = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]  # headings, those of right-aligned columns ending in ">"; rows

NONE = "-"
READING = (
    "±: half of the 95 % interval, or its ends where it is lopsided; sd: the standard deviation among training seeds. "
    "In brackets what nobody trained. FID falls with the number of images (n, that of the first figure; pairs are of "
    "at most 256): compare it at equal n, else KID.\n"
)


def fitting(group: Group, metrics: Sequence[Mapping[str, Any]], width: int) -> list[Table]:
    """The quality table, cut into as many as a terminal of ``width`` characters needs; all of them name the rows."""
    tables: list[Table] = []
    some: list[Mapping[str, Any]] = []
    for metric in metrics:
        headings, rows = quality(group, [*some, metric], intervals=True)
        columns = zip(headings[:-1], *(row[:-1] for row in rows), strict=True)
        widths = [max(len(cell) for cell in column) for column in columns]
        if some and sum(widths) + 2 * len(widths) > width:
            tables.append(quality(group, some, intervals=True))
            some = []
        some.append(metric)
    return [*tables, quality(group, some, intervals=True)]


def quality(group: Group, metrics: Sequence[Mapping[str, Any]], *, intervals: bool) -> Table:
    """Generators best first, then the baselines; ``intervals`` adds those."""
    headings = ["", *(f"{metric['title']}>" for metric in metrics), "n>", "alarms"]
    rows = []
    for row in [*group["rows"], *group["baselines"]]:
        if row["error"]:
            rows.append([row["name"], *[NONE] * len(metrics), NONE, f"broken: {row['error']}"])
            continue
        cells = [_cell(row, metric, interval=intervals) for metric in metrics]
        name = f"({row['name']})" if row["kind"] == "baseline" else row["name"]
        named = [row["figures"][metric["name"]] for metric in metrics if metric["name"] in row["figures"]]
        n = next((figure["n"] for figure in named if figure["value"] is not None), 0)
        rows.append([name, *cells, f"{n:,}", alarms(row)])
    return headings, rows


def cell(figure: Mapping[str, Any] | None, decimals: int, *, interval: bool) -> str:
    """``"137.7 ±6.4"``, ``"0.016 (0 to 0.078)"`` where the interval is lopsided; a dash for what is not available."""
    if figure is None or figure["value"] is None:
        return NONE
    text = f"{figure['value']:.{decimals}f}"
    if interval and figure["low"] is not None and figure["high"] is not None:
        below, above = figure["value"] - figure["low"], figure["high"] - figure["value"]
        ends = [f"{figure[end]:.{decimals}f}".rstrip("0").rstrip(".") for end in ("low", "high")]
        if abs(above - below) > 0.2 * (above + below) and ends[0] != ends[1]:
            return f"{text} ({' to '.join(ends)})"
        text += f" ±{(above + below) / 2:.{decimals}f}"
    return text


def _cell(row: Mapping[str, Any], metric: Mapping[str, Any], *, interval: bool) -> str:
    """Of several training seeds, the standard deviation among them takes the interval's place."""
    figure, spread = row["figures"].get(metric["name"]), row.get("spread", {}).get(metric["name"])
    if spread is None or figure is None or figure["value"] is None:
        return cell(figure, metric["decimals"], interval=interval)
    text = cell(figure, metric["decimals"], interval=False)
    return text if spread["sd"] is None else f"{text} ±{spread['sd']:.{metric['decimals']}f} sd"


def alarms(row: Mapping[str, Any]) -> str:
    """``"collapse (SSIM pairwise)"``: which rang, and by what."""
    found: dict[str, list[str]] = {}
    for alarm in row["alarms"]:
        found.setdefault(alarm["name"], []).append(alarm["metric"])
    return "; ".join(f"{name} ({', '.join(by)})" for name, by in found.items())


def costs(group: Group) -> Table:
    """What each generator is and took."""
    headings = ["", "images seen>", "G / D parameters>", "G multiply-adds>", "file>", "training img/s>"]
    headings += ["sampling img/s>", "peak memory>", "training time>"]
    rows = []
    for row in group["rows"]:
        cost = row["cost"]
        parameters = " / ".join(_count(cost.get(key)) for key in ("parameters_g", "parameters_d"))
        rows.append(
            [
                row["name"],
                f"{cost['nimg']:,}" if cost.get("nimg") is not None else NONE,
                parameters,
                _count(cost.get("macs_g")),
                _bytes(cost.get("checkpoint_bytes")),
                _rate(cost.get("train_img_per_s")),
                _rate(cost.get("sample_img_per_s")),
                _bytes(cost.get("peak_memory_bytes")),
                _time(cost.get("wall_s")),
            ]
        )
    return headings, rows


def bench_markdown(document: Mapping[str, Any]) -> str:
    """The whole document: a quality and a cost table a group, alarms and notes in words."""
    parts = []
    for group in document["groups"]:
        data = group["data"]
        against = f"{data['train']:,} training images and {data['unseen']:,} of unseen subjects"
        parts.append(f"### {group['name']}\n\nAgainst {against} ({data['description']}).\n")
        parts.append(markdown_table(*quality(group, document["metrics"], intervals=True)))
        parts.append(READING)
        rang = [f"- **{row['name']}**: {alarm['text']}" for row in group["rows"] for alarm in row["alarms"]]
        judged = any(row["error"] is None for row in group["rows"])
        parts.append("\n".join(rang) + "\n" if rang else "No alarm rang.\n" if judged else "Nothing was judged.\n")
        parts.append(markdown_table(*costs(group)))
    if document["notes"]:
        parts.append("\n".join(f"- {note}" for note in document["notes"]) + "\n")
    return "\n".join(parts)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose headings end in ``>`` where numbers stand, which go to the right."""
    rule = ["---:" if heading.endswith(">") else "---" for heading in headings]
    lines = [[heading.rstrip(">") for heading in headings], rule, *rows]
    return "".join(f"| {' | '.join(_plain(cell) for cell in line)} |\n" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return " ".join(text.replace("|", "/").replace("<", "&lt;").split())


def _count(value: float | None) -> str:
    """``"3.57 M"``."""
    return NONE if value is None else _scaled(value, 1000, ("", " K", " M", " G", " T"))


def _bytes(value: float | None) -> str:
    return NONE if value is None else _scaled(value, 1000, (" B", " kB", " MB", " GB", " TB"))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    for unit in units:
        if value < base or unit == units[-1]:
            break
        value /= base
    return f"{value:.3g}{unit}"


def _rate(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def _time(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
