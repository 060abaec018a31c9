"""Who is told how far the work is, and what went wrong."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """What long work speaks to. ``zoo.core.console.Display`` is one."""

    def start(self, task: str, total: int) -> None:
        """Begin a bar called ``task`` of ``total`` steps; one at a time."""

    def advance(self, n: int) -> None:
        """``n`` more steps are done."""

    def stop(self) -> None:
        """The bar is over, finished or not; more than once does no harm."""

    def say(self, message: str) -> None:
        """One line that is good to know."""

    def warn(self, message: str) -> None:
        """One line that may need mending."""


class SilentReporter:
    """The reporter that says nothing."""

    def start(self, task: str, total: int) -> None: ...
    def advance(self, n: int) -> None: ...
    def stop(self) -> None: ...
    def say(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


class RecordingReporter(SilentReporter):
    """The reporter that keeps what is said.

    Attributes:
        lines: of :meth:`say` and :meth:`warn`.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(message)
