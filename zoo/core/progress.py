"""The interface by which long work reports progress and warnings."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives progress and messages of long work; ``zoo.core.console.Display`` shows them to the user."""

    def start(self, task: str, total: int) -> None:
        """Start a progress bar called ``task`` of ``total`` steps, and end an earlier one."""

    def advance(self, n: int) -> None:
        """Count ``n`` more steps as done."""

    def stop(self) -> None:
        """End the bar, finished or not; may be called more than once."""

    def say(self, message: str) -> None:
        """Report one line of information."""

    def warn(self, message: str) -> None:
        """Report one line about a problem that does not stop the work."""


class SilentReporter:
    """A reporter that ignores everything."""

    def start(self, task: str, total: int) -> None: ...
    def advance(self, n: int) -> None: ...
    def stop(self) -> None: ...
    def say(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


class QuietReporter(SilentReporter):
    """A reporter that forwards progress and warnings to another one, and nothing else."""

    def __init__(self, reporter: Reporter) -> None:
        self.start, self.advance, self.stop = reporter.start, reporter.advance, reporter.stop  # type: ignore[method-assign]
        self.warn = reporter.warn  # type: ignore[method-assign]


class RecordingReporter(SilentReporter):
    """A reporter that records messages, for tests and benchmarks.

    Attributes:
        lines: texts of :meth:`say` and :meth:`warn`, in order.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    warn = say
