"""Exceptions of the package, and their one-line texts."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable

MAX_MESSAGE = 1000  # characters of an error; longer ones are cut in the middle
_MAX_WORD, _MAX_CHOICES = 100, 10_000  # characters and words that are compared for a suggestion


class ZooError(Exception):
    """A mistake in the input or the environment that the user can correct.

    The text is one line: where, what is wrong, what to do. The command line prints it without a traceback and exits
    with 2.
    """


class Interrupted(Exception):  # noqa: N818 (a requested stop is no error)
    """A run was asked to stop by a signal, and stopped after saving everything.

    Attributes:
        signum: number of the signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def error_message(error: BaseException) -> str:
    """Return an error's first line; of an OSError the system's words, without the path: ``No space left on device``."""
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def describe_error(error: BaseException) -> str:
    """Return any error as one line, with its type's name unless it was written for users."""
    message = error_message(error)
    return message if isinstance(error, ZooError | OSError) else f"{type(error).__name__}: {message}"


def error_reason(error: BaseException) -> str:
    """Return :func:`error_message` in lower case, for the middle of a sentence."""
    return error_message(error).lower()


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the choice most like ``word``, or ``""`` if none is similar."""
    some = [choice for choice in itertools.islice(choices, _MAX_CHOICES) if len(choice) <= _MAX_WORD]
    if len(word) > _MAX_WORD:
        return ""
    matches = _other_numbers(word, some) or difflib.get_close_matches(word, some, n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _other_numbers(word: str, choices: Iterable[str]) -> list[str]:
    """Return the choices that differ from ``word`` in one number only, such as a resolution, nearest first."""
    parts = re.fullmatch(r"(.*\D)([0-9]{1,9})(\D*)", word)
    if parts is None:
        return []
    start, number, end = parts.groups()
    others: list[tuple[bool, float, str]] = []
    for choice in choices:
        middle = choice[len(start) : len(choice) - len(end)]
        if choice.startswith(start) and choice.endswith(end) and re.fullmatch("[0-9]{1,9}", middle):
            swapped = sorted(middle) == sorted(number)  # 46 for 64 is a typing error, 32 another size
            others.append((not swapped, abs(math.log((int(middle) + 1) / (int(number) + 1))), choice))
    return [choice for _, _, choice in sorted(others)]


def shorten(value: object, limit: int = 80) -> str:
    """Return ``repr(value)`` in at most about ``limit`` characters, however large the value is."""
    if isinstance(value, dict):
        pairs = (f"{shorten(key, limit // 2)}: {shorten(item, limit // 2)}" for key, item in value.items())
        return f"{{{_join_start(pairs, limit)}}}"
    if isinstance(value, list | tuple):
        items = _join_start((shorten(item, limit // 2) for item in value), limit)
        return f"[{items}]" if isinstance(value, list) else f"({items})"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * limit:
        return "a whole number of more digits than can be shown"
    text = repr(value[: limit + 1]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= limit + 2 else f"{text[:limit]}..."


def _join_start(parts: Iterable[str], limit: int) -> str:
    """Join parts until they have ``limit`` characters; the others, of which there may be any number, are never made."""
    text = ""
    for index, part in enumerate(parts):
        if len(text) >= limit:
            return f"{text}, ..."
        text += f", {part}" if index else part
    return text


def printable(text: str, *, keep: str = "") -> str:
    r"""Return text with escapes such as ``\x1b`` for all that would move the cursor, colour or reorder a terminal.

    Control characters, line ends, bytes of undecodable file names and marks that change the direction of writing are
    escaped, except those in ``keep``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(error: BaseException | str) -> str:
    """Return an error as one printable line of at most about ``MAX_MESSAGE`` characters."""
    text = " ".join(str(error).splitlines())
    if len(text) > MAX_MESSAGE:
        half = MAX_MESSAGE // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return printable(text)
