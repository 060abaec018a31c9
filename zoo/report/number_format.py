"""Numbers as people read them: no more digits than they carry, in units that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MINUS, DASH, NARROW = "\u2212", "\u2013", "\u202f"  # the last a narrow space at which no line breaks
NONE = DASH
VALUE_DIGITS, END_DIGITS = 4, 3  # of a figure, and of the ends of its interval: those are known less well


def finite_or_none(value: Any) -> float | None:
    """A real number as a float; None for everything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def format_value(value: float, decimals: int, digits: int = VALUE_DIGITS) -> str:
    """``137.7`` of 137.731 with 2 decimals: at most ``digits`` significant ones, and at most ``decimals`` decimals.

    What stands in front of the point is always whole.
    """
    return _signed(value, max(0, min(decimals, digits - _before(value))))


def format_interval(low: float, high: float, decimals: int) -> str:
    """``131-144`` with an en dash between narrow spaces; both ends with as many decimals as the larger has room for."""
    places = max(0, min(decimals, END_DIGITS - _before(max(abs(low), abs(high)))))
    return f"{_signed(low, places)}{NARROW}{DASH}{NARROW}{_signed(high, places)}"


def format_whole(value: float) -> str:
    """``5,472``."""
    return _signed(value, 0)


def format_count(value: float, unit: str = "") -> str:
    """``3.57 M``: three digits, with k, M, G or T for thousands, millions ... and ``unit`` behind it."""
    prefix = ""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or prefix == "T":
            break
        value /= 1000
    text = _signed(value, max(0, 3 - _before(value)) if prefix else 0 if value == int(value) else 3 - _before(value))
    return f"{text} {prefix}{unit}".rstrip()


def format_duration(seconds: float) -> str:
    """``8.2 s``, ``42 s``, ``14 min 42 s``, ``3 h 05 min``, ``2 d 4 h``."""
    total = round(seconds)
    if total < 10:
        return f"{seconds:.1f} s"
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600} h"


def format_rate(value: float) -> str:
    """Per second: ``1,250``, ``43.2``, ``0.213``."""
    return _signed(value, max(0, 3 - _before(value)))


def join_words(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def _before(value: float) -> int:
    """Digits in front of the point: 3 of 137.7, 1 of 9.3 and of 0, -1 of 0.04."""
    return math.floor(math.log10(abs(value))) + 1 if value else 1


def _signed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    if not text.startswith("-"):
        return text
    return MINUS + text[1:] if text.strip("-0.") else text[1:]
