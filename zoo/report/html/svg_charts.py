"""Charts as inline SVG: figures with their intervals along a line, and curves.

Every drawing is 1000 units wide and as high, and is stretched to whatever place it is given; its strokes keep their
width (``non-scaling-stroke``), and a dot is a stroke of no length with round ends. There is no text in a drawing: axis
labels are the page's, at the same relative places, so that they stay readable on a phone. Colours and widths are left
to the page's style sheet: nothing here but geometry and class names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zoo.report.number_format import MINUS, finite_or_none, format_count

Array = np.ndarray[Any, Any]
Kind = Literal["linear", "log", "symlog"]

SIZE = 1000  # units of a drawing, across and down
POINTS = 400  # a line of more is drawn from the medians of as many blocks
FEW = 12  # points that are drawn one by one rather than smoothed
APART = 0.09  # the least distance of two ticks
WIDE = 30.0  # a positive range with ends further apart than this factor is drawn on a logarithmic axis


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values to places between 0 and 1.

    Attributes:
        low: the value at 0.
        high: the value at 1.
        kind: ``symlog`` is linear within ``bend`` of zero and logarithmic beyond.
        bend: where that changes.
    """

    low: float
    high: float
    kind: Kind = "linear"
    bend: float = 1.0

    def place(self, value: float) -> float:
        """Where a value stands; what lies outside stands at the end that it is beyond."""
        low, high = self._bent(self.low), self._bent(self.high)
        return min(1.0, max(0.0, (self._bent(value) - low) / (high - low)))

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Places and labels of round values, none so near another that the labels would touch."""
        values = {"linear": self._steps, "log": self._decades, "symlog": self._both}[self.kind](most)
        kept: list[float] = []
        for value in sorted(values, key=abs):  # zero first
            if all(abs(self.place(value) - self.place(other)) >= APART for other in kept):
                kept.append(value)
        return [(self.place(value), _label(value, kept)) for value in sorted(kept)]

    def _bent(self, value: float) -> float:
        if self.kind == "linear":
            return value
        if self.kind == "log":
            return math.log10(max(value, self.low))
        return math.copysign(math.log1p(abs(value) / self.bend), value)

    def _steps(self, most: int) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten, as many as there may be."""
        power = math.floor(math.log10(self.high - self.low)) - 2
        for step in (factor * 10.0**exponent for exponent in range(power, power + 4) for factor in (1, 2, 5)):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most:
                break
        return [index * step for index in range(first, last + 1)]

    def _decades(self, most: int) -> list[float]:
        ends = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values: list[float] = []
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [factor * 10.0**power for power in range(ends[0], ends[1] + 1) for factor in factors]
            values = [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
            if len(values) <= most:
                break
        values = values[:: math.ceil(len(values) / most)] if values else values
        return values if len(values) > 1 else self._steps(4)

    def _both(self, most: int) -> list[float]:
        powers = [10.0**p for p in range(math.floor(math.log10(self.bend)), 40)]
        up = [value for value in powers if value <= self.high]
        down = [-value for value in powers if -value >= self.low]
        thin = max(1, math.ceil((len(up) + len(down)) / most))
        return [*reversed(down[::thin]), 0.0, *up[::thin]]


def axis(values: Iterable[float], kind: Kind | None = None, *, zero: bool = False) -> Axis | None:
    """An axis that holds all ``values`` with a little room; None where there are none.

    Args:
        kind: None: logarithmic where all values are positive and far apart, else linear (as ``log`` is, where some are
            not positive).
        zero: a linear axis begins at zero where that does not cost more than a third of it.
    """
    finites = sorted(value for value in values if math.isfinite(value))
    if not finites:
        return None
    low, high = finites[0], finites[-1]
    if kind is None:
        kind = "log" if low > 0 and high > WIDE * low else "linear"
    if kind == "log" and low > 0:
        room = max((high / low) ** 0.04, 1.02)
        return Axis(low=low / room, high=high * room, kind="log")
    room = 0.05 * (high - low) or max(abs(high) * 0.1, 1e-6)
    start = 0.0 if zero and 0 <= low <= high / 3 else low - room
    if kind == "symlog":
        sizes = [abs(value) for value in finites if value]
        bend = 10.0 ** math.floor(math.log10(float(np.median(sizes)))) if sizes else 1.0
        return Axis(low=low - room, high=high + room, kind="symlog", bend=bend)
    return Axis(low=start, high=high + room)


def ends(figure: Mapping[str, Any] | None) -> list[float]:
    """The value and the ends of its interval, those that there are."""
    found = [finite_or_none((figure or {}).get(key)) for key in ("value", "low", "high")]
    return [value for value in found if value is not None] if found[0] is not None else []


def whisker(
    along: Axis,
    figure: Mapping[str, Any],
    ceiling: Mapping[str, Any] | None,
    *,
    hollow: bool = False,
    others: Iterable[Mapping[str, Any]] = (),
) -> str:
    """A dot with its interval, before the ceiling's line and interval; SVG. What lies beyond the axis is not drawn.

    Args:
        hollow: a ring for the dot.
        others: figures that are drawn as rings without intervals, below the dot.
    """
    parts = []
    if ceiling is not None and (known := ends(ceiling)):
        left, right = _x(along, min(known)), _x(along, max(known))
        parts.append(f'<rect class="band" x="{left}" y="0" width="{max(right - left, 1)}" height="{SIZE}"/>')
        parts.append(_stroke("ceiling", f"M{_x(along, known[0])} 0V{SIZE}"))
    for other in others:
        parts += _dot(along, ends(other)[:1], hollow=True)
    return _svg("whisker", [*parts, *_dot(along, ends(figure), hollow=hollow)])


def _dot(along: Axis, known: Sequence[float], *, hollow: bool) -> list[str]:
    if not known or not along.low <= known[0] <= along.high:
        return []
    middle, at = SIZE // 2, _x(along, known[0])
    reach = [_stroke("reach", f"M{_x(along, min(known))} {middle}H{_x(along, max(known))}")] if len(known) > 1 else []
    ring = [_stroke("hole", f"M{at} {middle}h0")] if hollow else []
    return [*reach, _stroke("ring" if hollow else "dot", f"M{at} {middle}h0"), *ring]


def gridlines(along: Axis, most: int = 6) -> str:
    """Upright hairlines at the ticks, to lie behind whiskers; SVG."""
    return _svg("gridlines", [_stroke("rule", f"M{round(place * SIZE)} 0V{SIZE}") for place, _ in along.ticks(most)])


@dataclass(frozen=True, kw_only=True)
class Line:
    """A named curve.

    Attributes:
        name: in the legend.
        slot: its colour and dash, counted from 0.
        x: images seen, ascending.
        y: a figure there; all finite, one at least.
    """

    name: str
    slot: int
    x: Array
    y: Array


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing and the labels that belong around it.

    Attributes:
        title: what is drawn.
        svg: the drawing.
        across: places from the left (0..1) and labels.
        up: places from the bottom (0..1) and labels.
        slots: (slot, name) of the lines in it.
        words: the drawing in a sentence, for who cannot see it.
        scale: ``logarithmic``, or nothing.
        reference: what the band is, or nothing.
    """

    title: str
    svg: str
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    slots: list[tuple[int, str]]
    words: str
    scale: str = ""
    reference: str = ""


def line(rows: Iterable[Mapping[str, Any]], key: str, name: str, slot: int) -> Line | None:
    """The figure ``key`` of log rows against ``nimg``; None where no row has it."""
    pairs = [(finite_or_none(row.get("nimg")), finite_or_none(row.get(key))) for row in rows]
    table = np.array([pair for pair in pairs if None not in pair], np.float64).reshape(-1, 2)
    if not len(table):
        return None
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Line(name=name, slot=slot, x=table[:, 0], y=table[:, 1])


def curves(
    title: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    reference: tuple[float, float] | None = None,
    means: str = "",
) -> Chart:
    """Lines over images seen; at least one.

    Args:
        log: logarithmic upwards where values are far apart, and linear around zero where some are negative.
        reference: a band from one value to another, the same for two equal ones.
        means: what the band is.
    """
    shown = [(one, *thinned(one.x, one.y)) for one in lines]
    values = np.concatenate([y for *_, y in shown])
    kind: Kind = "linear"
    if log and (values < 0).any():
        kind = "symlog"
    elif log and (values > 0).all() and values.max() > 5 * values.min():
        kind = "log"
    up = axis([*values.tolist(), *(reference or ())], kind)
    across = Axis(low=0.0, high=max(float(one.x.max()) for one in lines) or 1.0)
    assert up is not None
    parts = [_stroke("rule", f"M0 {SIZE - round(place * SIZE)}H{SIZE}") for place, _ in up.ticks(5)]
    if reference is not None:
        top, bottom = (SIZE - round(SIZE * up.place(value)) for value in (max(reference), min(reference)))
        parts.append(f'<rect class="band" x="0" y="{top}" width="{SIZE}" height="{max(1, bottom - top)}"/>')
        parts.append(_stroke("ceiling", f"M0 {(top + bottom) // 2}H{SIZE}"))
    for one, x, y in shown:
        points = [(_x(across, a), SIZE - round(SIZE * up.place(b))) for a, b in zip(x, y, strict=True)]
        drawn = _stroke(f"line dash{one.slot % DASHES}", "M" + "L".join(f"{a} {b}" for a, b in points))
        if len(points) <= FEW:
            drawn += _stroke("dots", "".join(f"M{a} {b}h0" for a, b in points))
        parts.append(f'<g class="series ink{one.slot % INKS}" data-slot="{one.slot}">{drawn}</g>')
    last = "; ".join(f"{one.name} ends at {y[-1]:.3g}" for one, _, y in shown)
    return Chart(
        title=title,
        svg=_svg("curves", parts),
        across=_images(across),
        up=up.ticks(5),
        slots=[(one.slot, one.name) for one in lines],
        words=f"{title} against images seen, up to {format_count(across.high)}: {last}.",
        scale="logarithmic" if kind != "linear" else "",
        reference=means if reference is not None else "",
    )


INKS, DASHES = 5, 4  # colours and dash patterns of the style sheet; without a common divisor, so 20 lines all differ


def swatch(slot: int) -> str:
    """The stroke of a line, for a legend; SVG."""
    drawn = _stroke(f"line dash{slot % DASHES}", f"M0 {SIZE // 2}H{SIZE}")
    return _svg("swatch", [f'<g class="ink{slot % INKS}">{drawn}</g>'])


def thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """At most POINTS of them: block medians, then a running median over a twentieth; few stay as they are."""
    if len(y) <= FEW:
        return x, y
    if len(y) > POINTS:
        x, y = (np.array([np.median(block) for block in np.array_split(v, POINTS)]) for v in (x, y))
    half = max(1, len(y) // 40)
    return x, np.array([np.median(y[max(0, i - half) : i + half + 1]) for i in range(len(y))])


def _images(across: Axis) -> list[tuple[float, str]]:
    """Ticks that say ``20 k`` for 20,000 images."""
    ticks = [index for index in across._steps(5) if index >= 0]
    return [(across.place(value), _thousands(value)) for value in ticks]


def _thousands(value: float) -> str:
    """``0``, ``500``, ``20 k``, ``2.5 M``."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _label(value: float, among: Sequence[float]) -> str:
    """With as many decimals as tell these values apart; powers of ten where that would be long."""
    sizes = [abs(other) for other in among if other]
    if sizes and (max(sizes) >= 1e6 or max(sizes) < 1e-4):
        text = next(text for text in (f"{value:.{digits}e}" for digits in range(17)) if _tells(text, value, among))
        text = re.sub(r"e([+-])0*(\d)", lambda found: "e" + found[1].strip("+") + found[2], text) if value else "0"
    else:
        text = next(text for text in (f"{value:,.{places}f}" for places in range(17)) if _tells(text, value, among))
    return text.replace("-", MINUS)


def _tells(text: str, value: float, among: Sequence[float]) -> bool:
    """Whether a text is nearer to its value than to any other."""
    gaps = [abs(value - other) for other in among if other != value]
    return abs(float(text.replace(",", "")) - value) <= 0.01 * min([*gaps, abs(value) or 1.0])


def _x(along: Axis, value: float) -> int:
    return round(SIZE * along.place(value))


def _stroke(kind: str, path: str) -> str:
    return f'<path class="{kind}" d="{path}"/>'


def _svg(kind: str, parts: Sequence[str]) -> str:
    """Hidden from screen readers: what a drawing says stands beside it in words."""
    box = f'viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" aria-hidden="true"'
    return f'<svg class="{kind}" {box}>{"".join(parts)}</svg>'
