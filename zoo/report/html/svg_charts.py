"""Charts as inline SVG: values with their intervals along an axis, and curves.

Every drawing is 1000 units wide and high and is stretched to its place on the page; strokes keep their width
(``non-scaling-stroke``), and a dot is a stroke of no length with round ends. A drawing has no text: axis labels are
elements of the page at the same relative places, so that they stay readable on a phone. Colours and widths are in the
page's style sheet; here are only geometry and class names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zoo.report.number_format import MINUS, format_count, value_and_ends
from zoo.report.series import Series, block_medians, read_series, smooth

_Plain = Mapping[str, Any]
_Kind = Literal["linear", "log", "symlog"]

DRAWING_UNITS = 1000  # width and height of a drawing
CURVE_MAX_POINTS = 400  # a longer curve is drawn from the medians of as many blocks
UNSMOOTHED_POINTS = 12  # a curve of up to as many points is drawn with its points and not smoothed
END_ROOM = 1.015  # of an axis of images seen, for the dot at its end
MIN_TICK_DISTANCE = 0.09  # as a share of the axis; labels of closer ticks would touch
LOG_AXIS_RATIO = 30.0  # positive values that differ by more than this factor have a logarithmic axis
CURVE_COLOURS, CURVE_DASHES = 5, 4  # in the style sheet; without a common divisor, so that 20 curves all differ


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps values to places between 0 and 1.

    Attributes:
        low: the value at 0.
        high: the value at 1.
        kind: ``symlog`` is linear within ``bend`` of zero and logarithmic beyond.
        bend: the absolute value where that changes.
    """

    low: float
    high: float
    kind: _Kind = "linear"
    bend: float = 1.0

    def place(self, value: float) -> float:
        """Return the place of a value; values outside of the axis are placed at the nearer end."""
        low, high = self._transform(self.low), self._transform(self.high)
        return min(1.0, max(0.0, (self._transform(value) - low) / (high - low)))

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return places and labels of round values, at least `MIN_TICK_DISTANCE` apart."""
        candidates = {"linear": self.round_values, "log": self._decades, "symlog": self._signed_decades}[self.kind]
        chosen: list[float] = []
        for value in sorted(candidates(most), key=abs):  # zero has the first claim on its place
            if all(abs(self.place(value) - self.place(other)) >= MIN_TICK_DISTANCE for other in chosen):
                chosen.append(value)
        return [(self.place(value), _format_tick(value, chosen)) for value in sorted(chosen)]

    def round_values(self, most: int) -> list[float]:
        """Return multiples of 1, 2 or 5 times a power of ten, at most ``most`` of them."""
        power = math.floor(math.log10(self.high - self.low)) - 2
        for step in (factor * 10.0**exponent for exponent in range(power, power + 4) for factor in (1, 2, 5)):
            # 1e-9: an end that is a multiple but for rounding counts.
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most:
                break
        return [index * step for index in range(first, last + 1)]

    def _transform(self, value: float) -> float:
        if self.kind == "linear":
            return value
        if self.kind == "log":
            # Values below the axis may be zero or negative.
            return math.log10(max(value, self.low))
        return math.copysign(math.log1p(abs(value) / self.bend), value)

    def _decades(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values: list[float] = []
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [factor * 10.0**power for power in powers for factor in factors]
            values = [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
            if len(values) <= most:
                break
        values = values[:: max(1, math.ceil(len(values) / most))]
        return values if len(values) > 1 else self.round_values(4)  # within one decade

    def _signed_decades(self, most: int) -> list[float]:
        powers = [10.0**power for power in range(math.floor(math.log10(self.bend)), 40)]
        up = [value for value in powers if value <= self.high]
        down = [-value for value in powers if -value >= self.low]
        step = max(1, math.ceil((len(up) + len(down)) / most))
        return [*down[::step], 0.0, *up[::step]]


def make_axis(values: Iterable[float], kind: _Kind | None = None, *, zero: bool = False) -> Axis | None:
    """Make an axis that holds all ``values`` with a little room; None if there are none.

    Args:
        kind: by default logarithmic where all values are positive and far apart, else linear. ``log`` is linear where
            some are not positive.
        zero: start a linear axis at zero where that takes at most a third of it.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return None
    low, high = finite[0], finite[-1]
    if kind is None:
        kind = "log" if low > 0 and high > LOG_AXIS_RATIO * low else "linear"
    if kind == "log" and low > 0:  # 4 % of room at either end of the decades; 2 % of the value if all are equal
        factor = max((high / low) ** 0.04, 1.02)
        return Axis(low=low / factor, high=high * factor, kind="log")
    # A single value, or equal ones, get an axis around them.
    room = 0.05 * (high - low) or max(abs(high) * 0.1, 1e-6)
    if kind == "symlog":
        sizes = [abs(value) for value in finite if value]
        bend = 10.0 ** math.floor(math.log10(float(np.median(sizes)))) if sizes else 1.0
        return Axis(low=low - room, high=high + room, kind="symlog", bend=bend)
    return Axis(low=0.0 if zero and 0 <= low <= high / 3 else low - room, high=high + room)


def draw_whisker(
    axis: Axis,
    figure: _Plain,
    ceiling: _Plain | None,
    *,
    hollow: bool = False,
    others: Iterable[_Plain] = (),
) -> str:
    """Draw a dot with its interval, in front of the ceiling's line and interval, as SVG.

    Values outside of the axis are not drawn.

    Args:
        hollow: draw a ring instead of the dot.
        others: values that are drawn as rings without intervals, behind the dot.
    """
    parts = []
    if ceiling is not None and (numbers := value_and_ends(ceiling)):
        left, right = _x(axis, min(numbers)), _x(axis, max(numbers))
        if left < right:
            parts.append(_band(left, 0, right - left, DRAWING_UNITS))
        parts.append(_stroke("ceiling", f"M{_x(axis, numbers[0])} 0V{DRAWING_UNITS}"))
    for other in others:
        parts += _dot(axis, value_and_ends(other)[:1], hollow=True)
    return _svg("whisker", [*parts, *_dot(axis, value_and_ends(figure), hollow=hollow)])


def _dot(axis: Axis, numbers: Sequence[float], *, hollow: bool) -> list[str]:
    if not numbers or not axis.low <= numbers[0] <= axis.high:
        return []
    middle, x = DRAWING_UNITS // 2, _x(axis, numbers[0])
    parts = [_stroke("ring" if hollow else "dot", f"M{x} {middle}h0")]
    left, right = _x(axis, min(numbers)), _x(axis, max(numbers))
    if left < right:
        parts.insert(0, _stroke("reach", f"M{left} {middle}H{right}"))
    if hollow:
        parts.append(_stroke("hole", f"M{x} {middle}h0"))  # a smaller dot in the page's colour
    return parts


def draw_gridlines(axis: Axis, most: int = 6) -> str:
    """Draw vertical hairlines at the ticks, for behind whiskers, as SVG."""
    parts = [_stroke("rule", f"M{round(place * DRAWING_UNITS)} 0V{DRAWING_UNITS}") for place, _ in axis.ticks(most)]
    return _svg("gridlines", parts)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A named curve.

    Attributes:
        name: in the legend.
        slot: selects its colour and dashes, counted from 0.
        x: images seen, ascending; at least one.
        y: the values there; all finite.
    """

    name: str
    slot: int
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing and the labels around it.

    Attributes:
        title: what is drawn.
        svg: the drawing.
        across: places from the left (0..1) and labels.
        up: places from the bottom (0..1) and labels.
        slots: (slot, name) of the curves in it.
        words: the drawing in a sentence, for screen readers.
        scale: ``logarithmic``, or empty.
        reference: what the band is, or empty.
    """

    title: str
    svg: str
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    slots: list[tuple[int, str]]
    words: str
    scale: str = ""
    reference: str = ""


def read_curve(rows: Iterable[_Plain], key: str, name: str, slot: int) -> Curve | None:
    """Read the value ``key`` of log rows against ``nimg``; None if no row has it."""
    x, y = read_series(rows, key)
    return Curve(name=name, slot=slot, x=x, y=y) if len(y) else None


def draw_curves(
    title: str,
    curves: Sequence[Curve],
    *,
    log: bool = False,
    reference: tuple[float, float] | None = None,
    reference_name: str = "",
) -> Chart:
    """Draw one or more curves against images seen.

    Args:
        log: make the vertical axis logarithmic where values are far apart; linear around zero where some are negative.
        reference: a band from one value to another, or a line where they are equal.
    """
    points = [thin_out(curve.x, curve.y) for curve in curves]
    values = np.concatenate([y for _, y in points])
    # Within a factor of 5 a logarithmic axis looks linear, but has odd ticks.
    kind: _Kind = "linear"
    if log and (values < 0).any():
        kind = "symlog"
    elif log and (values > 0).all() and values.max() > 5 * values.min():
        kind = "log"
    up = make_axis([*values.tolist(), *(reference or ())], kind)
    assert up is not None
    last = max(float(curve.x.max()) for curve in curves) or 1.0
    across = Axis(low=0.0, high=last * END_ROOM)
    heights = [DRAWING_UNITS - round(place * DRAWING_UNITS) for place, _ in up.ticks(5)]
    parts = [_stroke("rule", f"M0 {height}H{DRAWING_UNITS}") for height in heights]
    if reference is not None:
        top, bottom = _y(up, max(reference)), _y(up, min(reference))
        parts.append(_band(0, top, DRAWING_UNITS, max(1, bottom - top)))
        parts.append(_stroke("ceiling", f"M0 {(top + bottom) // 2}H{DRAWING_UNITS}"))
    for curve, (x, y) in zip(curves, points, strict=True):
        parts.append(_draw_curve(curve.slot, [f"{_x(across, a)} {_y(up, b)}" for a, b in zip(x, y, strict=True)]))
    ends = "; ".join(f"{curve.name} ends at {y[-1]:.3g}" for curve, (_, y) in zip(curves, points, strict=True))
    return Chart(
        title=title,
        svg=_svg("curves", parts),
        across=[(across.place(value), _format_images(value)) for value in across.round_values(5)],
        up=up.ticks(5),
        slots=[(curve.slot, curve.name) for curve in curves],
        words=f"{title} against images seen, up to {format_count(last)}: {ends}.",
        scale="" if kind == "linear" else "logarithmic",
        reference=reference_name if reference is not None else "",
    )


def _draw_curve(slot: int, places: Sequence[str]) -> str:
    drawing = _stroke(f"line dash{slot % CURVE_DASHES}", "M" + "L".join(places))
    if len(places) <= UNSMOOTHED_POINTS:
        drawing += _stroke("dots", "".join(f"M{place}h0" for place in places))
    return f'<g class="series ink{slot % CURVE_COLOURS}" data-slot="{slot}">{drawing}</g>'


def draw_swatch(slot: int) -> str:
    """Draw the stroke of a curve, for a legend, as SVG."""
    line = _stroke(f"line dash{slot % CURVE_DASHES}", f"M0 {DRAWING_UNITS // 2}H{DRAWING_UNITS}")
    return _svg("swatch", [f'<g class="ink{slot % CURVE_COLOURS}">{line}</g>'])


def thin_out(x: np.ndarray, y: np.ndarray) -> Series:
    """Reduce a curve to at most `CURVE_MAX_POINTS` block medians and smooth it; a few points stay as they are."""
    if len(y) <= UNSMOOTHED_POINTS:
        return x, y
    x, y = block_medians((x, y), CURVE_MAX_POINTS)
    return x, smooth(y, max(1, len(y) // 40))  # the running median spans a twentieth of the points


def _format_images(value: float) -> str:
    """Write ``0``, ``500``, ``20 k`` or ``2.5 M``."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _format_tick(value: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many decimals as distinguish it from the others; very large or small ones as powers."""
    # The axis decides for all ticks, so that they are written alike.
    largest = max(abs(other) for other in ticks)
    powers = largest >= 1e6 or 0 < largest < 1e-4
    if powers and not value:
        return "0"
    gaps = [abs(value - other) for other in ticks if other != value]
    tolerance = 0.01 * min([*gaps, abs(value) or 1.0])
    text = ""
    for digits in range(17):
        text = f"{value:.{digits}e}" if powers else f"{value:,.{digits}f}"
        if abs(float(text.replace(",", "")) - value) <= tolerance:
            break
    text = re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", text)  # 1e+06 becomes 1e6
    return text.replace("-", MINUS)


def _x(axis: Axis, value: float) -> int:
    return round(DRAWING_UNITS * axis.place(value))


def _y(axis: Axis, value: float) -> int:
    return DRAWING_UNITS - _x(axis, value)  # SVG counts downwards


def _band(x: int, y: int, width: int, height: int) -> str:
    return f'<rect class="band" x="{x}" y="{y}" width="{width}" height="{height}"/>'


def _stroke(kind: str, path: str) -> str:
    # Integer coordinates keep the page small: a drawing has 1000 units on about 400 pixels.
    return f'<path class="{kind}" d="{path}"/>'


def _svg(kind: str, parts: Sequence[str]) -> str:
    """Wrap a drawing, hidden from screen readers: the page says next to it in words what it shows."""
    box = f'viewBox="0 0 {DRAWING_UNITS} {DRAWING_UNITS}" preserveAspectRatio="none" aria-hidden="true"'
    return f'<svg class="{kind}" {box}>{"".join(parts)}</svg>'
