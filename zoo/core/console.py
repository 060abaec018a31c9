"""The progress display of data preparation and training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from zoo.core.errors import printable

_LINE_PERIOD_S = 30.0  # between lines in a log file or a notebook's cell
_BAR_PERIOD_S = 0.5  # between updates of a bar on a terminal


class PlainConsole(Console):
    """A console that prints texts as they are: no markup, no emoji, and control characters as escapes.

    It goes quiet when its reader is gone, as in ``zoo train ... 2>&1 | head`` or after the terminal was closed; rich
    would end the process.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        # Every string passes through here, those in the cells of tables too. File names hold anything.
        return super().render_str(printable(text, keep="\n"), **(options | {"markup": False, "emoji": False}))

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # a closed terminal is an input/output error
            self._buffer.clear()
            self.quiet = True


class _Bar(Progress):
    """A progress bar above a line of losses; on two lines, so that both fit a narrow terminal."""

    losses = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.losses:
            yield Text(self.losses, no_wrap=True, overflow="ellipsis")


class Display:
    """Shows progress bars on a terminal, and a plain line now and then elsewhere.

    Everything is written to stderr, so that stdout stays free for results.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = PlainConsole(stderr=True, quiet=quiet, soft_wrap=True)
        self._bar: _Bar | None = None
        self._last_update = 0.0  # time.monotonic()
        self._label = ""

    def start(self, task: str, total: int) -> None:
        """Start a progress bar called ``task`` of ``total`` steps, and end an earlier one."""
        self.stop()
        self._last_update, self._label = time.monotonic(), task
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
            )
            self._bar = _Bar(*columns, console=self.console, refresh_per_second=4, transient=True)
            self._bar.add_task(printable(task), total=total)
            self._bar.start()

    def advance(self, n: int) -> None:
        """Count ``n`` more steps as done."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], n)

    def moved(self, nimg: int, row: dict[str, Any]) -> None:
        """Show that training has seen ``nimg`` images; ``row`` holds mean losses, with the keys of the log."""
        if self._bar is not None:
            self._bar.losses = format_training_row(row)
            self._bar.update(self._bar.task_ids[0], completed=nimg)
        elif time.monotonic() - self._last_update > _LINE_PERIOD_S:
            self._last_update = time.monotonic()
            self.say(f"{self._label}: {nimg} images, {format_training_row(row)}")

    def due(self) -> bool:
        """Return whether :meth:`moved` would show something now.

        Losses are read from the device only then, since reading them waits for the GPU.
        """
        period = _LINE_PERIOD_S if self._bar is None else _BAR_PERIOD_S
        if time.monotonic() - self._last_update < period:
            return False
        if self._bar is not None:
            self._last_update = time.monotonic()
        return True

    def stop(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def say(self, message: str) -> None:
        """Print one line of information."""
        self.console.print(printable(message))

    def warn(self, message: str) -> None:
        """Print one line about a problem that does not stop the work."""
        self.console.print(printable(f"warning: {message}"), style="yellow")


def format_training_row(row: dict[str, Any]) -> str:
    """Format a row of the training log: speed, losses, D's outputs and accuracies.

    D's outputs are probabilities. For losses whose logits have no zero point (relativistic, Wasserstein) they are the
    difference of mean logits, and the share of (real, fake) pairs in which D rates the real image higher.
    """
    parts = []
    if "img_per_s" in row:
        parts.append(f"{row['img_per_s']:.1f} img/s")
    if "loss_d" in row:
        # With train.d_steps, G may not have been updated since the last row.
        loss_g = f" G {row['loss_g']:.3f}" if "loss_g" in row else ""
        parts.append(f"D {row['loss_d']:.3f}{loss_g}")
        if "d_acc_pairs" in row:
            parts.append(f"D(x) - D(G(z)) {row['d_real'] - row['d_fake']:.2f} logits")
            parts.append(f"D acc pairs {row['d_acc_pairs']:.0%}")
        else:
            parts.append(f"D(x) {_sigmoid(row['d_real']):.2f} D(G(z)) {_sigmoid(row['d_fake']):.2f}")
            parts.append(f"D acc real {row['d_acc_real']:.0%} fake {row['d_acc_fake']:.0%}")
    return "  ".join(parts)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-max(min(logit, 50), -50)))  # clamped: exp overflows beyond 709
