"""Which class of a generator is meant by a name or a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zoo.core.arguments import plain_number
from zoo.core.errors import ZooError, shorten, suggest


def find_class(label: Any, names: Sequence[str], generator: str) -> int:
    """Return the index of a class.

    Args:
        label: its name; or, where names are words, its index. Where all names are numbers, as of grades, a number is
            a name by its value: 3, "3" and 3.0 mean the class "03". Otherwise 3 would mean another grade than "3".
        names: of all classes, in their order.
        generator: named in errors.

    Raises:
        ZooError: no such class.
    """
    if isinstance(label, str) and label in names:
        return names.index(label)
    number = _read_number(label)
    values = [_read_number(name) for name in names]
    if number is not None and None not in values:
        found = [index for index, value in enumerate(values) if value == number]
    else:
        found = [index for index in range(len(names)) if index == number]
    if len(found) != 1:
        nearest = suggest(label, names) if isinstance(label, str) else ""
        raise ZooError(f"no class {shorten(label)}{nearest}: {generator} knows {', '.join(names)}")
    return found[0]


def _read_number(value: Any) -> float | None:
    """Return a finite number, also of a text, as from the command line and names of folders; None of other values."""
    try:
        number = float(value) if isinstance(value, str) else plain_number("class", value)
    except (ValueError, ZooError):
        return None
    return number if math.isfinite(number) else None
