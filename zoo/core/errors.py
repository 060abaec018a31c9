"""Errors for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """Something the user can mend, said in one line: what was wrong, where, what is allowed.

    The command line prints it without a traceback and exits with 2.
    """


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """A signal asked a run to stop, and it did, with everything saved.

    Attributes:
        signum: which signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def error_message(error: BaseException) -> str:
    """Why, as the system says it, on one line and without the file's name: ``"No space left on device"``."""
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def describe_error(error: BaseException) -> str:
    """Any failure on one line: what was said for people as it is, anything else with its kind before it."""
    return (
        error_message(error)
        if isinstance(error, ZooError | OSError)
        else f"{type(error).__name__}: {error_message(error)}"
    )


def error_reason(error: BaseException) -> str:
    """The same in lower case, for the middle of a sentence."""
    return error_message(error).lower()


def suggest(word: str, choices: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the choice that ``word`` most resembles, or ``""`` where none comes near."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
