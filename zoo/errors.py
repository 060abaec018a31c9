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


def reason(error: BaseException) -> str:
    """Why, in a few lower-case words without the file's name: ``"no space left on device"``."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].lower()


def nearest(word: str, choices: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the choice that ``word`` most resembles, or ``""`` where none comes near."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
