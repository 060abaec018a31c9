"""Numbers as text: no more digits than they are known to, with units that fit their size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MINUS, DASH, NARROW = "\u2212", "\u2013", "\u202f"  # NARROW: a thin space at which no line breaks
VALUE_DIGITS, INTERVAL_DIGITS = 4, 3  # significant digits; the ends of an interval are known less well than its value


def finite_or_none(value: Any) -> float | None:
    """Return a real number as a float, and None for everything else, NaN and infinities included."""
    # A bool is an int in Python, but not a value.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def value_and_ends(figure: Mapping[str, Any] | None) -> list[float]:
    """Return a metric's value and, if both are known, the ends of its interval; an empty list without a value."""
    value, low, high = (finite_or_none((figure or {}).get(key)) for key in ("value", "low", "high"))
    if value is None:
        return []
    return [value] if low is None or high is None else [value, low, high]


def format_value(value: float, decimals: int, digits: int = VALUE_DIGITS) -> str:
    """Write ``137.7`` for 137.731: at most ``digits`` significant digits and ``decimals`` decimals.

    The digits before the decimal point are never shortened.
    """
    return _with_sign(value, max(0, min(decimals, digits - _integer_digits(value))))


def format_interval(ends: Sequence[float], decimals: int) -> str:
    """Write ``131-144`` with an en dash; nothing if there are no ends or both look equal.

    Both ends have as many decimals as the larger has room for.
    """
    if not ends or ends[0] == ends[1]:
        return ""
    places = max(0, min(decimals, INTERVAL_DIGITS - _integer_digits(max(abs(end) for end in ends))))
    texts = [_with_sign(end, places) for end in ends]
    return f"{NARROW}{DASH}{NARROW}".join(texts) if len(set(texts)) > 1 else ""


def format_whole(value: float) -> str:
    """Write ``5,472``."""
    return _with_sign(value, 0)


def format_count(value: float, unit: str = "") -> str:
    """Write ``3.57 M``: three digits, with k, M, G or T for thousands, millions ... before ``unit``."""
    prefix = ""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or prefix == "T":  # 999.5 would be rounded to four digits
            break
        value /= 1000
    decimals = 0 if not prefix and value == int(value) else max(0, 3 - _integer_digits(value))
    return f"{_with_sign(value, decimals)} {prefix}{unit}".rstrip()


def format_duration(seconds: float) -> str:
    """Write ``8.2 s``, ``42 s``, ``14 min 42 s``, ``3 h 05 min`` or ``2 d 4 h``."""
    total = round(seconds)  # before the units are chosen, so that 59.7 s is not "60 s"
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
    """Write a number per second: ``1,250``, ``43.2``, ``0.213``."""
    return _with_sign(value, max(0, 3 - _integer_digits(value)))


def format_distinct(values: Sequence[float], decimals: int) -> list[str]:
    """Write numbers with ``decimals`` decimals, or with up to four more where different ones would look equal."""
    texts: list[str] = []
    for places in range(decimals, decimals + 5):
        texts = [f"{value:.{places}f}" for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def join_words(items: Sequence[str]) -> str:
    """Write ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def _integer_digits(value: float) -> int:
    """Count the digits before the decimal point: 3 of 137.7, 1 of 9.3 and of 0, -1 of 0.04."""
    # Zero has no logarithm; it is written with one digit.
    return math.floor(math.log10(abs(value))) + 1 if value else 1


def _with_sign(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    if not text.startswith("-"):
        return text
    return MINUS + text[1:] if text.strip("-0.") else text[1:]  # no minus before a value that rounds to zero
