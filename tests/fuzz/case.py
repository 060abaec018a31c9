"""One case: its random numbers, its folder, the commands it ran, and what came out."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.core.errors import ZooError

LINE, FINE, TRACEBACK, HANG, NONSENSE = "one line", "fine", "traceback", "hang", "accepted nonsense"
OUTCOMES = (LINE, FINE, TRACEBACK, HANG, NONSENSE)
FAILURES = (TRACEBACK, HANG, NONSENSE)
LONGEST_ERROR = 2000  # characters; a longer one is no line that somebody can read


class AcceptedNonsense(Exception):  # noqa: N818 (an outcome)
    """Something wrong was accepted, or something right was used wrongly."""


class UnexpectedError(Exception):
    """An error that is not one line, or an exit code that is not promised."""


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and both outputs."""

    code: int
    out: str
    err: str


class Case:
    """What a kind of cases gets.

    Attributes:
        rng: the only source of random numbers.
        folder: an empty folder, which is also the current one.
        shared: read-only inputs that all cases start from (``tests/fuzz/shared.py``).
        commands: what was called so far, for the report of a failure.
        refused: whether any call ended in an error of one line.
    """

    def __init__(self, rng: random.Random, folder: Path, shared: Path) -> None:
        self.rng, self.folder, self.shared = rng, folder, shared
        self.commands: list[str] = []
        self.refused = False

    def note(self, text: str) -> None:
        """Add a line to ``commands``, without the names of temporary folders."""
        self.commands.append(text.replace(str(self.folder), "FOLDER").replace(str(self.shared), "SHARED"))

    def zoo(self, *arguments: object) -> Result:
        """Run a command in this process.

        Raises:
            UnexpectedError: its error is not one line, or its exit code neither 0 nor 2.
        """
        from zoo.cli.main import main

        words = [str(argument) for argument in arguments]
        self.note(ascii(words))
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                code = main(words)
            except SystemExit as stop:  # argparse
                code = int(stop.code or 0)
        result = Result(code, out.getvalue(), err.getvalue())
        if code not in (0, 2):
            raise UnexpectedError(f"exit code {code}: {result.err[-300:]}")
        if code == 2:
            require_one_line(result.err)
            self.refused = True
        return result

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call a function of the package; None if it refused, in one line."""
        self.note(f"{function.__qualname__}{arguments!a} {keywords!a}")
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return function(*arguments, **keywords)
        except ZooError as error:
            require_one_line(f"zoo: {error}\n")
            self.refused = True
            return None

    def expect(self, condition: object, otherwise: str) -> None:
        """Require ``condition``.

        Raises:
            AcceptedNonsense: it does not hold; ``otherwise`` says what is wrong.
        """
        if not condition:
            raise AcceptedNonsense(otherwise)

    def odd_bytes(self, content: bytes) -> bytes:
        """Return ``content`` with a few bytes flipped, removed, repeated, or cut off."""
        mutated = bytearray(content)
        for _ in range(self.rng.choice((1, 1, 2, 8))):
            at = self.rng.randrange(len(mutated) or 1)
            match self.rng.randrange(5):
                case 0:
                    mutated[at : at + 1] = bytes([self.rng.randrange(256)])
                case 1:
                    del mutated[at : at + self.rng.choice((1, 4, 100))]
                case 2:
                    mutated[at:at] = mutated[at : at + self.rng.choice((1, 4, 100))]
                case 3:
                    del mutated[at:]
                case 4:
                    mutated[at : at + 4] = self.rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
        return bytes(mutated)


def require_one_line(err: str) -> None:
    """Check that the last line of stderr is the whole error.

    Raises:
        UnexpectedError: the error has several lines, none, or a very long one.
    """
    lines = err.rstrip("\n").split("\n")
    if not lines[-1].startswith("zoo"):
        raise UnexpectedError(f"the error is not one line: {err[-300:]!a}")
    if len(lines[-1]) > LONGEST_ERROR:
        raise UnexpectedError(f"the error has {len(lines[-1]):,} characters: {lines[-1][:100]!a}...")
    if any(character < " " or "\x7f" <= character < "\xa0" for character in lines[-1]):
        raise UnexpectedError(f"the error holds control characters: {lines[-1][:300]!a}")
