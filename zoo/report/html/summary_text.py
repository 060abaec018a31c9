"""What a bench's document says, in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.report.number_format import finite_or_none, format_interval, format_value, join_words

Plain = Mapping[str, Any]
Sentence = list[str]  # its parts; those that are names are Names

CEILING = "unseen"  # how the name of the baseline begins that is the ceiling: real images of unseen subjects


class Name(str):
    """A part of a sentence that a page shows in bold."""


def ceiling(group: Plain) -> Plain | None:
    """The row of unseen real images, if there are any."""
    return next((row for row in group["baselines"] if row["name"].startswith(CEILING)), None)


def known(row: Plain, metric: str | None) -> float | None:
    """A row's value of a metric, where it is available."""
    return finite_or_none((row["figures"].get(metric) or {}).get("value")) if metric and not row.get("error") else None


def summarise_group(document: Plain) -> list[list[Sentence]]:
    """The page's first paragraphs: who comes first, by what, against which ceiling; alarms; what is missing. Several
    groups have one each.
    """
    metrics = {metric["name"]: metric for metric in document["metrics"]}
    several = len(document["groups"]) > 1
    paragraphs: list[list[Sentence]] = []
    for place, group in enumerate(document["groups"]):
        metric = metrics.get(group.get("ranked_by") or "")
        if document["kind"] == "report":
            paragraphs.append(_scores(group, metric))
        else:
            paragraphs.append(_ranking(group, metric, several=several, explain=not place))
    rows = [row for group in document["groups"] for row in group["rows"]]
    last = [*_alarms(rows, document["kind"]), *_broken(rows), *_missing(document, rows)]
    paragraphs.append(last)
    if not several:
        paragraphs = [list(itertools.chain.from_iterable(paragraphs))]
    return [paragraph for paragraph in paragraphs if paragraph]


def written(found: Plain | None, metric: Plain) -> str:
    """``137.7 [131 - 144]``, with an en dash; ``not available`` where it is not."""
    value = finite_or_none((found or {}).get("value"))
    if found is None or value is None:
        return "not available"
    low, high = finite_or_none(found.get("low")), finite_or_none(found.get("high"))
    text = format_value(value, metric["decimals"])
    return (
        text
        if low is None or high is None or low == high
        else f"{text} [{format_interval(low, high, metric['decimals'])}]"
    )


def direction(metric: Plain) -> str:
    """Which figures of a metric are good."""
    return {"lower": "lower is better", "higher": "higher is better"}.get(metric["better"], "nearest to unseen is best")


def goodness(metric: Plain, value: float, ideal: float | None) -> float | None:
    """A number that is lower for what is better; None for a ``match`` metric without the figure of unseen reals."""
    if metric["better"] == "lower":
        return value
    if metric["better"] == "higher":
        return -value
    return None if ideal is None else abs(value - ideal)


def _ranking(group: Plain, metric: Plain | None, *, several: bool, explain: bool) -> list[Sentence]:
    rows = group["rows"]
    of = f"{len(rows)} generator{'s' if len(rows) != 1 else ''} of {group['name']} images"
    if metric is None:
        return [[f"The {of} could not be ranked: no metric is known for all of them."]] if rows else []
    best = [row for row in rows if known(row, metric["name"]) is not None]
    if not best:
        return [[f"The {of} could not be ranked by {metric['title']}."]]
    first = best[0]
    alone = f"At {group['name']}, " if several else ""
    start: Sentence = [f"Of {of}, " if len(rows) > 1 else alone, Name(first["name"])]
    start += [f" comes first by {metric['title']}: " if len(rows) > 1 else f" scores {metric['title']} "]
    return [_against(start, first, group, metric, explain=explain), *_runners_up(best, metric), *_rang(first)]


def _scores(group: Plain, metric: Plain | None) -> list[Sentence]:
    rows = [row for row in group["rows"] if metric and known(row, metric["name"]) is not None]
    if metric is None or not rows:
        return []
    return [_against([Name(rows[0]["name"]), f" scores {metric['title']} "], rows[0], group, metric)]


def _against(start: Sentence, row: Plain, group: Plain, metric: Plain, *, explain: bool = True) -> Sentence:
    """The first row's figure beside the ceiling's; ``explain`` says how to read them."""
    value, found = known(row, metric["name"]), row["figures"][metric["name"]]
    start = [*start, Name(written(found, metric))]
    top = ceiling(group)
    ideal = known(top, metric["name"]) if top else None
    if top is None or ideal is None or value is None:
        return [*start, f" ({direction(metric)})." if explain else "."]
    best = written(top["figures"][metric["name"]], metric)
    if metric["better"] == "match":
        return [*start, f", where real images of unseen subjects score {best}; the nearer the better."]
    sentence = [*start, f", where real images of unseen subjects score {best}"]
    sentence += [f" ({direction(metric)})"] if explain else []
    counts = [some["figures"][metric["name"]].get("n") for some in (row, top)]
    if explain and metric["name"].startswith("fid") and None not in counts and max(counts) > 1.1 * min(counts):
        sentence += [f" (of {counts[0]:,} and {counts[1]:,} images; FID falls with their number, KID does not)"]
    if value < ideal if metric["better"] == "lower" else value > ideal:
        return [*sentence, ": better than real images do, which is a reason to look for copies."]
    if metric["better"] == "lower" and ideal > 0 and value >= 1.5 * ideal:
        return [*sentence, f": {_times(value / ideal)} as much."]
    return [*sentence, "."]


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 9.95 else f"{ratio:,.0f} times"


def _runners_up(best: Sequence[Plain], metric: Plain) -> list[Sentence]:
    """Whether the first is ahead of the others by more than chance."""
    if len(best) < 2:
        return []
    first = best[0]["figures"][metric["name"]]
    low, high = finite_or_none(first.get("low")), finite_or_none(first.get("high"))
    if low is None or high is None:
        return [["Second is ", Name(best[1]["name"]), f" with {written(best[1]['figures'][metric['name']], metric)}."]]
    close = []
    for row in best[1:]:
        found = row["figures"][metric["name"]]
        ends = finite_or_none(found.get("low")), finite_or_none(found.get("high"))
        if ends[0] is not None and ends[1] is not None and ends[0] <= high and low <= ends[1]:
            close.append(row["name"])
    if close:
        names: Sentence = []
        for i, name in enumerate(close):
            names += [Name(name), ", " if i < len(close) - 2 else " and " if i == len(close) - 2 else ""]
        return [["Its interval overlaps with that of ", *names, ": which of them is better is not settled."]]
    second = best[1]["figures"][metric["name"]]
    return [
        ["Second is ", Name(best[1]["name"]), f" with {written(second, metric)}; the two intervals do not overlap."]
    ]


def _rang(row: Plain) -> list[Sentence]:
    """A first place is worth little while an alarm rings."""
    names = list(dict.fromkeys(alarm["name"] for alarm in row["alarms"]))
    if not names:
        return []
    rang = f"The {join_words(names)} alarm{'s ring' if len(names) > 1 else ' rings'} for it"
    return [[f"{rang}, so this first place means little."]]


def _alarms(rows: Sequence[Plain], kind: str) -> list[Sentence]:
    rang: dict[str, list[str]] = {}
    for row in rows:
        for name in dict.fromkeys(alarm["name"] for alarm in row["alarms"]):
            rang.setdefault(name, []).append(row["name"])
    if not rang:
        return [["No alarm rang."]] if any(not row.get("error") for row in rows) else []
    if kind == "report":
        return [["Alarms that rang: ", Name(join_words(list(rang))), "."]]
    of = len(rows)
    parts: Sentence = ["Alarms rang: "]
    for i, (name, names) in enumerate(rang.items()):
        parts += ["; " if i else "", Name(name), f" for {len(names)} of {of}"]
        parts += [f" ({join_words(names)})" if len(names) <= 3 else ""]
    return [[*parts, "."]]


def _broken(rows: Sequence[Plain]) -> list[Sentence]:
    names = [row["name"] for row in rows if row.get("error")]
    if not names:
        return []
    return [
        [
            f"{len(names)} of {len(rows)} could not be judged ({join_words(names[:3])}{' ...' if len(names) > 3 else ''})."
        ]
    ]


def _missing(document: Plain, rows: Sequence[Plain]) -> list[Sentence]:
    whole = [row for row in rows if not row.get("error")]
    if not whole:
        return []
    absent = [m["title"] for m in document["metrics"] if all(known(row, m["name"]) is None for row in whole)]
    return [[f"Not available: {join_words(absent)}."]] if absent else []
