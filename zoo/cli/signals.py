"""SIGINT, SIGTERM and SIGHUP as a request to stop, for commands that train: all is saved before they exit."""

from __future__ import annotations

import contextlib
import signal
from types import TracebackType
from typing import Any

# Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopOnSignals(contextlib.AbstractContextManager["StopOnSignals"]):
    """Collects SIGINT, SIGTERM and SIGHUP (a closed terminal) while it is entered, instead of ending the process.

    One that was ignored when the process started stays ignored.

    Called, it returns the number of the first signal received, and None before that. Training enters it for as long as
    steps are taken, so that Ctrl-C still ends everything else at once.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._previous: dict[int, Any] = {}

    def __call__(self) -> int | None:
        return self._received[0] if self._received else None

    def __enter__(self) -> StopOnSignals:
        try:
            for caught in _SIGNALS:
                # Ignored from the start: SIGHUP by nohup, SIGINT by a script for its background jobs.
                if signal.getsignal(caught) != signal.SIG_IGN:
                    self._previous[caught] = signal.signal(caught, self._handle)
        except ValueError:  # outside the main thread (a notebook's server) Python allows no handlers
            self._previous.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _handle(self, signum: int, frame: object) -> None:
        self._received.append(signum)
        # The same signal again ends the process as usual. The other one is still collected: after Ctrl-C torchrun also
        # sends SIGTERM to its processes, which must be able to finish saving.
        signal.signal(signum, self._previous[signum])
