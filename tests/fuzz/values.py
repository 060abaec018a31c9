"""Odd values as YAML, JSON and Python would write them, and what a text means to a reader who knows YAML 1.2."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

# Texts of scalars. None of them is a rare one: each is in a bug report of some program that reads YAML.
ODD_TEXTS = (
    *("017", "0o17", "0x1F", "0b11", "1_000", "_1", "12:30:45", "1:2", "190:20:30.15", "1e3", "1E3", "1e+3", ".5"),
    *("+5", "-5", "-0", "0", "1", "8", "16", "64", "0.5", "1.0", "1e400", "-1e400", "1e-400", "1e308", "5e-324"),
    *(".inf", "-.inf", ".nan", ".NaN", "nan", "inf", "Infinity", "1,5", "1.5.2", "٣", "½", "1e", "0x", "5."),
    *("true", "True", "yes", "no", "on", "off", "y", "n", "null", "~", "Null", "", " ", "''", '""', "'8'", '"8"'),
    *("2020-13-45", "2020-01-01", "2001-12-14t21:59:43.10-05:00", "2020-01-01 25:61:61", "=", "<<", "!", "*a", "&a 8"),
    *("!!int x", "!!int 8", "!!float x", "!!bool 8", "!!binary x", "!!timestamp x", "!!set {a}", "!!omap [a]"),
    *("!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd", "!foo 8", "!!str 8", "!!int ''", "!!float ''"),
    *("[]", "{}", "[8]", "[8, 8]", "{a: 8}", "[[0, 1], [1, 2]]", "[[0, 1e-3]]", "[.nan, 1]", "[1, 0]", "[0, 1]", "? 8"),
    *("{<<: 8}", "{8: 8}", "{[a]: 8}", "{? {a: b} : c}", "[8", "8]", "{8", "a: b", "- 8", "|", ">", "# 8", "8 # 9"),
    *("9" * 30, "9" * 400, "9" * 5000, "-" + "9" * 30, "18446744073709551616", "9223372036854775808", "2147483648"),
    *("\x00", "\x07", "\x1b[31m", "\ufeff8", "\ud800", "\u202e8", "8\n9", "8\r", "a\tb", "x" * 5000, "--5"),
    *("[" * 300 + "]" * 300, "{a: " * 200 + "8" + "}" * 200, "[&a [x], *a, *a]", "&a [*a]"),
    *("../../etc/passwd", "/dev/zero", "%s", "{0}"),
)  # fmt: skip

ODD_JSON = (
    *(None, True, False, 0, 1, -1, -5, 3, 0.5, -0.5, 1e308, 1e30, float("nan"), float("inf"), 10**30, -(10**30)),
    *("", "x", "8", "-5", "nan", "\x1b[31mred", "[/b]", "[v1]", "x" * 5000, "a\nb", "\ud800", "running", "finished"),
    *([], [1], [None], {}, {"a": 1}, {"name": 3}, [[[[[]]]]], [{"name": "collapse"}], ["a", "b"]),
)

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TRUE, _FALSE = {"true", "yes", "on", "y"}, {"false", "no", "off", "n"}
_MAX_LEAVES = 2000


def odd_text(rng: random.Random) -> str:
    """Return an odd scalar or collection, as text; sometimes a growing one."""
    if rng.random() < 0.04:
        depth = rng.randrange(2, 9)
        lists = ["&a0 [" + ",".join("x" * 10) + "]"]
        lists += [f"&a{level} [" + ",".join([f"*a{level - 1}"] * 10) + "]" for level in range(1, depth)]
        return "[" + ",".join(lists) + "]"
    if rng.random() < 0.2:
        number = rng.choice(
            (rng.randrange(-5, 300), rng.uniform(-2, 2), rng.uniform(0, 1) * 10.0 ** rng.randrange(-9, 9))
        )
        return repr(number)
    return rng.choice(ODD_TEXTS)


def agrees(text: Any, used: Any) -> bool:
    """Return whether the value that was used is what the text says; where two readings are possible, either.

    Args:
        text: a scalar's text, or lists and mappings of these (``yaml.BaseLoader``).
        used: the value in the resolved recipe.
    """
    if isinstance(text, list) and isinstance(used, list) and len(text) == len(used):
        return all(agrees(part, other) for part, other in zip(text, used, strict=True))
    if not isinstance(text, str) or isinstance(used, list | dict):
        return True  # of another form, such as a number as a schedule
    text = text.strip()
    if isinstance(used, bool):
        return text.lower() in (_TRUE if used else _FALSE)
    if used is None:
        return text.lower() in ("", "~", "null")
    if isinstance(used, int | float):
        number = _number(text)
        return (
            number is not None and math.isfinite(used) and (number == used or math.isclose(number, used, rel_tol=1e-12))
        )
    return text == used


def _number(text: str) -> float | None:
    text = text.replace("_", "")
    try:
        if re.fullmatch(r"[-+]?0o[0-7]+|[-+]?0x[0-9a-fA-F]+", text):
            return int(text, 0)
        if _INT.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else None
    except ValueError:  # more digits than Python converts
        return None


def leaves(text: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and text of the leaves of a YAML mapping, with nothing resolved; nothing where it is no YAML."""
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except Exception:
        return
    stack: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for _ in range(_MAX_LEAVES):
        if not stack:
            return
        path, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*path, str(key)), item) for key, item in value.items()]
        else:
            yield path, value


def unquoted(text: str) -> Any:
    """Return what YAML makes of a value's text before it looks for types; the text itself where it is no YAML."""
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except Exception:
        return text


def at_path(content: Any, path: Sequence[str]) -> Any:
    """Return the value at a path.

    Raises:
        KeyError: there is none.
    """
    for key in path:
        if not isinstance(content, dict):
            raise KeyError(key)
        content = content[key]
    return content


def paths_of(content: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all values that are not mappings."""
    if not isinstance(content, dict) or not content:
        return [prefix]
    return [path for key, value in content.items() for path in paths_of(value, (*prefix, str(key)))]


def replace_at(rng: random.Random, content: Any, value: Any) -> Any:
    """Put ``value`` somewhere into nested lists and mappings, or remove something; return the new content."""
    if not isinstance(content, dict | list) or not content or rng.random() < 0.05:
        return value
    key = rng.choice(list(content)) if isinstance(content, dict) else rng.randrange(len(content))
    if rng.random() < 0.15:
        del content[key]
    elif isinstance(content[key], dict | list) and rng.random() < 0.8:
        content[key] = replace_at(rng, content[key], value)
    else:
        content[key] = value
    return content
