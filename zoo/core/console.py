"""The one progress display of data preparation and training."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Console(Console):
    """Falls silent when its reader goes away, as in ``zoo train ... 2>&1 | head``; rich would end the training."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display:
    """Bars on a terminal; elsewhere (a log file, a notebook's cell) a plain line now and then.

    Everything goes to stderr except what :meth:`result` prints, so that stdout stays a script's.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = _Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._numbers = ""
        self._last = 0.0
        self._label = ""

    def start(self, task: str, total: int) -> None:
        """Begin a bar; one at a time."""
        self.stop()
        self._last, self._label = time.monotonic(), task
        if not self.console.is_terminal:
            return
        self._numbers = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        self._task = self._progress.add_task(task, total=total)
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
        self._live.start()

    def advance(self, n: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, n)

    def moved(self, nimg: int, row: dict[str, Any]) -> None:
        """Training has come to ``nimg`` images; ``row`` holds means as in the log."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=nimg)
            self._numbers = format_training_row(row)
        elif time.monotonic() - self._last > 30:
            self._last = time.monotonic()
            self.console.print(f"{self._label}: {nimg} images, {format_training_row(row)}", markup=False)

    def due(self) -> bool:
        """Whether another :meth:`moved` would show: numbers are read off the device no oftener than that."""
        period = 0.5 if self._progress is not None else 30.0
        if time.monotonic() - self._last < period:
            return False
        if self._progress is not None:
            self._last = time.monotonic()
        return True

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = self._progress = self._task = None

    def _render(self) -> Group:
        """The bar, and the numbers on a line of their own: both fit a narrow terminal."""
        parts: list[Any] = [self._progress] if self._progress is not None else []
        if self._numbers:
            parts.append(Text(self._numbers, no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def say(self, message: str) -> None:
        self.console.print(message, markup=False)

    def warn(self, message: str) -> None:
        self.console.print(f"warning: {message}", style="yellow", markup=False)


def format_training_row(row: dict[str, Any]) -> str:
    """A row of the log in one line: ``D(x)`` and ``D(G(z))`` as probabilities, accuracies in percent.

    Where logits have no zero (relativistic and Wasserstein losses): their difference, and the share of pairs of a real
    image and a fake of which D finds the real one the more real.
    """
    parts = []
    if "img_per_s" in row:
        parts.append(f"{row['img_per_s']:.1f} img/s")
    if "loss_d" in row:
        parts.append(f"D {row['loss_d']:.3f} G {row['loss_g']:.3f}")
        if "d_acc_pairs" in row:
            parts.append(f"D(x) - D(G(z)) {row['d_real'] - row['d_fake']:.2f} logits")
            parts.append(f"D acc pairs {row['d_acc_pairs']:.0%}")
        else:
            parts.append(f"D(x) {_probability(row['d_real']):.2f} D(G(z)) {_probability(row['d_fake']):.2f}")
            parts.append(f"D acc real {row['d_acc_real']:.0%} fake {row['d_acc_fake']:.0%}")
    return "  ".join(parts)


def _probability(logit: float) -> float:
    return 1 / (1 + math.exp(-max(min(logit, 50), -50)))
