"""Exceptions of the package, and their one-line texts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
