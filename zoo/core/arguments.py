"""Values that Python code passes, as those that the command line would give: plain numbers, and lists of words."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from zoo.core.errors import ZooError, shorten


def plain_number(name: str, value: Any, *, whole: bool = False) -> Any:
    """Return a number as Python's own: numpy's and tensors of one number mean the same; 1.0 is whole.

    Raises:
        ZooError: it is no number (True, text), or not whole; ``name`` says what it is.
    """
    number = value
    if hasattr(number, "item") and not isinstance(number, int):
        try:
            number = number.item()
        except (ValueError, RuntimeError):  # of an array of several
            number = None
    if whole and isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
        raise ZooError(f"{name}: must be a {'whole ' if whole else ''}number, not {shorten(value)}")
    return int(number) if isinstance(number, int) else float(number)


def refuse_empty_name(word: str | os.PathLike[str]) -> None:
    """Refuse an empty name of a run or a generator, as of a variable that is not set.

    As a path it would mean the current folder.

    Raises:
        ZooError: it is empty, or only spaces.
    """
    if not os.fspath(word).strip():
        raise ZooError("the name of a run or generator is empty. `zoo runs` and `zoo weights` list names")


def as_list(values: Any) -> list[Any]:
    """Return several values as a list; one word alone, whose letters are no list, is a list of one.

    Raises:
        ZooError: neither a word nor several values.
    """
    if isinstance(values, str | os.PathLike):
        return [values]
    if not isinstance(values, Iterable):
        raise ZooError(f"{shorten(values)}: must be a list of words, or one of them")
    return list(values)
