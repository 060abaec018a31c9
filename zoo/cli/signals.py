"""SIGINT and SIGTERM as a request to stop, for commands that can save before they exit."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], int | None]]:
    """Collect SIGINT and SIGTERM instead of ending the process.

    Yields:
        ``stop()``: the number of the first signal received, None before that.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(signum: int, frame: object) -> None:
        received.append(signum)
        # The same signal again ends the process as usual. The other one is still collected: after Ctrl-C torchrun also
        # sends SIGTERM to its processes, which must be able to finish saving.
        signal.signal(signum, previous[signum])

    try:
        for caught in (signal.SIGINT, signal.SIGTERM):
            previous[caught] = signal.signal(caught, handle)
    except ValueError:  # outside the main thread (a notebook's server) Python allows no handlers
        previous.clear()
    try:
        yield lambda: received[0] if received else None
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
