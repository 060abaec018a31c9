"""The summary at the top of a page: what the document of a benchmark says, in sentences.

A sentence is `Markup`: names and values that the page shows in bold stand in ``<strong>``, and everything that is
filled in is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from zoo.core.wording import count_of
from zoo.report.number_format import finite_or_none, format_interval, format_value, join_words, value_and_ends
from zoo.report.table import describe_no_alarm

_Plain = Mapping[str, Any]

CEILING_PREFIX = "unseen"  # the baseline whose name starts so is the ceiling: real images of unseen subjects
NOTEWORTHY_RATIO = 1.5  # a value that is lower for better is compared with the ceiling's from this ratio on
FID_COUNT_TOLERANCE = 1.1  # FIDs of numbers of images that differ by more than this factor are not comparable
_BOLD = Markup("<strong>{}</strong>")
_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "match": "near held-out is best"}


def ceiling(group: _Plain) -> _Plain | None:
    """Return the baseline of held-out real images, if there is one."""
    return next((row for row in group["baselines"] if row["name"].startswith(CEILING_PREFIX)), None)


def metric_value(row: _Plain, metric: str | None) -> float | None:
    """Return a row's value of a metric; None where it is not available."""
    return None if not metric or row.get("error") else finite_or_none((row["figures"].get(metric) or {}).get("value"))


def format_with_interval(figure: _Plain | None, metric: _Plain) -> str:
    """Write ``137.7 [131 - 144]`` with an en dash, or ``not available``."""
    numbers = value_and_ends(figure)
    if not numbers:
        return "not available"
    interval = format_interval(numbers[1:], metric["decimals"])
    return format_value(numbers[0], metric["decimals"]) + (f" [{interval}]" if interval else "")


def describe_direction(metric: _Plain) -> str:
    """Say which values of a metric are good."""
    return _DIRECTIONS[metric["better"]]


def write_sentence(note: str) -> str:
    """Write the note of a value as a sentence; short forms are explained."""
    if edge := re.fullmatch(r"copies: (above|below) (\S+)", note):
        kind = "likeness to" if edge[1] == "above" else "relative distance from"
        return (
            f"An image counts as a copy where its {kind} a training image is {edge[1]} {edge[2]}: less than half as "
            "far as the nearest tenth of held-out real images."
        )
    text = note[:1].upper() + note[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def summarise_groups(document: _Plain) -> list[Markup]:
    """Write the first paragraphs: the best generator of each group, alarms, and what is missing.

    A single group has one paragraph, several groups have one each and one for the rest.
    """
    metrics = {metric["name"]: metric for metric in document["metrics"]}
    several = len(document["groups"]) > 1
    paragraphs: list[list[Markup]] = []
    # How to read a value is explained once, in the first group.
    for index, group in enumerate(document["groups"]):
        metric = metrics.get(group.get("ranked_by") or "")
        paragraphs.append(_describe_group(group, metric, document["kind"], several=several, explain=index == 0))
    rows = [row for group in document["groups"] for row in group["rows"]]
    last = [*_describe_alarms(rows, document["kind"]), *_describe_failures(rows), *_describe_missing(document, rows)]
    paragraphs.append(last)
    if not several:  # two or three short paragraphs of one group would look scattered
        paragraphs = [[sentence for paragraph in paragraphs for sentence in paragraph]]
    return [Markup(" ").join(paragraph) for paragraph in paragraphs if paragraph]


def _describe_group(group: _Plain, metric: _Plain | None, kind: str, *, several: bool, explain: bool) -> list[Markup]:
    """Say which generator ranks first and by how much, or, on the page of one run, what it scores."""
    rows = group["rows"]
    generators = f"{count_of(len(rows), 'generator')} of {group['name']} images"
    ranked = [row for row in rows if metric and metric_value(row, metric["name"]) is not None]
    if metric is None or not ranked:
        reason = f"by {metric['title']}" if metric else "because there is no metric that all of them have a value of"
        return [Markup("The {} could not be ranked {}.").format(generators, reason)] if rows and kind == "bench" else []
    if kind == "bench" and len(rows) > 1:
        text = Markup("Of {0}, {1} ranks first by {2}: ")
    else:
        text = Markup("At {3}, {1} has {2} ") if several else Markup("{1} has {2} ")
    start = text.format(generators, _BOLD.format(ranked[0]["name"]), metric["title"], group["name"])
    sentences = [start + _compare_with_ceiling(ranked[0], group, metric, explain=explain)]
    if kind == "bench":  # a single run has no rank to qualify
        sentences += [*_describe_lead(ranked, metric), *_doubt_first_place(ranked[0])]
    return sentences


def _compare_with_ceiling(row: _Plain, group: _Plain, metric: _Plain, *, explain: bool) -> Markup:
    """Write a row's value next to that of held-out real images; ``explain`` says how to read them."""
    name = metric["name"]
    text = _BOLD.format(format_with_interval(row["figures"][name], metric))
    hint = describe_direction(metric)
    baseline = ceiling(group)
    value = metric_value(row, name)
    ideal = metric_value(baseline, name) if baseline else None
    if baseline is not None and ideal is not None:
        text += f"; held-out real images have {format_with_interval(baseline['figures'][name], metric)}"
        counts = [some["figures"][name].get("n") for some in (row, baseline)]
        if name.startswith("fid") and None not in counts and max(counts) > FID_COUNT_TOLERANCE * min(counts):
            hint += f"; from {counts[0]:,} and {counts[1]:,} images: FID falls with their number, KID does not"
    text += f" ({hint})." if explain else "."
    # For a metric that should match, neither "better than real" nor a ratio has a meaning.
    if value is None or ideal is None or metric["better"] == "match":
        return text
    if value < ideal if metric["better"] == "lower" else value > ideal:
        return text + " It is better than real images are, which is a reason to look for copies."
    if metric["better"] == "lower" and ideal > 0 and value >= NOTEWORTHY_RATIO * ideal:
        ratio = value / ideal  # of distances from the training images; KID may be below zero, hence `ideal > 0`
        return text + f" That is {ratio:,.{1 if ratio < 9.95 else 0}f} times as much."
    return text


def _describe_lead(ranked: Sequence[_Plain], metric: _Plain) -> list[Markup]:
    """Say whether the first of the ranked rows is ahead of the others by more than chance."""
    if len(ranked) < 2:
        return []
    _, *first = value_and_ends(ranked[0]["figures"][metric["name"]])
    close = []
    for row in ranked[1:]:
        _, *ends = value_and_ends(row["figures"][metric["name"]])
        # Overlapping 95 % intervals do not prove equality, but a lead within them may be chance.
        if first and ends and ends[0] <= first[1] and first[0] <= ends[1]:
            close.append(_BOLD.format(row["name"]))
    if close:
        text = Markup("Its interval overlaps with that of {}, so which of them is better is not settled.")
        return [text.format(Markup(join_words(close)))]  # the names were escaped above
    second = format_with_interval(ranked[1]["figures"][metric["name"]], metric)
    apart = "; the two intervals do not overlap" if first else ""
    return [Markup("Second is {} with {}{}.").format(_BOLD.format(ranked[1]["name"]), second, apart)]


def _alarm_names(row: _Plain) -> list[str]:
    """Return the names of a row's alarms, each once, in their order."""
    # Several metrics may trigger the same alarm.
    return list(dict.fromkeys(alarm["name"] for alarm in row["alarms"]))


def _doubt_first_place(row: _Plain) -> list[Markup]:
    names = _alarm_names(row)
    if not names:
        return []
    text = Markup("It triggered the {} alarm{}, so this first place means little.")
    return [text.format(join_words(names), "s" if len(names) > 1 else "")]


def _describe_alarms(rows: Sequence[_Plain], kind: str) -> list[Markup]:
    triggered: dict[str, list[str]] = {}
    for row in rows:
        for name in _alarm_names(row):
            triggered.setdefault(name, []).append(row["name"])
    if not triggered:
        return [Markup("{}").format(describe_no_alarm(rows))] if any(not row.get("error") for row in rows) else []
    if kind == "report":
        return [Markup("Triggered alarms: {}.").format(_BOLD.format(join_words(list(triggered))))]
    parts = []
    for name, names in triggered.items():
        # Longer lists are in the section on alarms.
        listed = f" ({join_words(names)})" if len(names) <= 3 else ""
        parts.append(Markup("{} for {} of {}{}").format(_BOLD.format(name), len(names), len(rows), listed))
    return [Markup("Triggered alarms: {}.").format(Markup("; ").join(parts))]


def _describe_failures(rows: Sequence[_Plain]) -> list[Markup]:
    names = [row["name"] for row in rows if row.get("error")]
    if not names:
        return []
    listed = join_words(names[:3]) + (" ..." if len(names) > 3 else "")
    return [Markup("{} of {} could not be evaluated ({}).").format(len(names), len(rows), listed)]


def _describe_missing(document: _Plain, rows: Sequence[_Plain]) -> list[Markup]:
    evaluated = [row for row in rows if not row.get("error")]
    missing = []
    for metric in document["metrics"]:
        if evaluated and all(metric_value(row, metric["name"]) is None for row in evaluated):
            missing.append(metric["title"])
    return [Markup("Not available: {}.").format(join_words(missing))] if missing else []
