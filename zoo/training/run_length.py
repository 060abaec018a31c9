"""How long a run will take, said from its first steps, and its end at a wall time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

from zoo.core.measurements import load_measurements
from zoo.report.number_format import format_duration
from zoo.runtime.timer import synchronize
from zoo.training.trainer import Trainer

TIME_IS_UP = 1000  # what StopAtTime returns; above every signal's number, since the largest of all processes counts
MIN_TIMED_STEPS, MIN_TIMED_S = 2, 2.0  # after the first step, which also compiles and fills caches
LONG_RUN_S = 2 * 3600.0  # beyond, a shorter length is suggested
SHORT_RUN_S = 60.0  # below, nothing is said
HOUR_S = 3600.0


class StopAtTime(contextlib.AbstractContextManager["StopAtTime"]):
    """Asks training to stop once a time has passed, or when ``stop`` does.

    Args:
        seconds: from now.
        stop: the caller's own; entered with this one if it is a context manager.
    """

    def __init__(self, seconds: float, stop: Callable[[], Any] | None) -> None:
        self.deadline = time.monotonic() + seconds
        self.stop = stop or (lambda: None)

    def __call__(self) -> Any:
        return self.stop() or (TIME_IS_UP if time.monotonic() >= self.deadline else None)

    def __enter__(self) -> StopAtTime:
        if isinstance(self.stop, contextlib.AbstractContextManager):
            self.stop.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self.stop, contextlib.AbstractContextManager):
            self.stop.__exit__(kind, error, traceback)


class EndForecast:
    """Times the first steps of a process and says once when the run will end.

    Args:
        trainer: before its first step.
        total_nimg: images of the whole run.
        stop: the run's; a :class:`StopAtTime` ends it earlier.
        say: receives the line.
    """

    def __init__(self, trainer: Trainer, total_nimg: int, stop: Any, say: Callable[[str], None]) -> None:
        self.trainer, self.total_nimg, self.say = trainer, total_nimg, say
        self.deadline = stop.deadline if isinstance(stop, StopAtTime) else None
        self.is_done = False
        self._start: float | None = None
        self._start_nimg = trainer.nimg

    def step(self) -> None:
        """Note that a step was made."""
        if self.is_done:
            return
        if self._start is None:
            synchronize(self.trainer.device)
            self._start, self._start_nimg = time.monotonic(), self.trainer.nimg
            return
        batches = self.trainer.recipe.train.batches
        steps = batches.steps(self.trainer.nimg) - batches.steps(self._start_nimg)
        if steps < MIN_TIMED_STEPS or time.monotonic() - self._start < MIN_TIMED_S:
            return
        synchronize(self.trainer.device)
        self.is_done = True
        rate = (self.trainer.nimg - self._start_nimg) / (time.monotonic() - self._start)
        share = self.trainer.recipe.train.evaluate_share
        rate /= 1 + min(share, 1.0)  # validations, grids and checkpoints
        left = (self.total_nimg - self.trainer.nimg) / rate
        limit = None if self.deadline is None else self.deadline - time.monotonic()
        if max(left, limit or 0.0) >= SHORT_RUN_S:
            self.say(self._describe(left, rate, limit))

    def _describe(self, left: float, rate: float, limit: float | None) -> str:
        total, nimg = self.total_nimg / 1000, self.trainer.nimg
        if limit is not None and limit < left:
            text = f"expected end: {_clock(limit)}, when the time of --hours is up"
            reached = (nimg + rate * limit) / 1000
            return (
                f"{text}, after about {_round(reached)} of {total:g} kimg ({rate:.3g} images/s){self._quality(reached)}"
            )
        text = f"expected end: {_clock(left)}, in about {format_duration(left)} ({total:g} kimg at {rate:.3g} images/s)"
        if left <= LONG_RUN_S:
            return text
        hour = (nimg + rate * HOUR_S) / 1000
        return f"{text}; --kimg {_round(hour)} takes about an hour{self._quality(hour)}"

    def _quality(self, kimg: float) -> str:
        """Return what the recipe had reached at about this length on brain slices."""
        recipe = self.trainer.recipe.name
        run = load_measurements().longest_run(recipe, kimg)
        if run is None:
            return f"; the quality of {recipe} at that length was not measured"
        alarms = f", alarm {', '.join(run.alarms)}" if run.alarms else ""
        return f"; on brain slices {recipe} had FID {run.fid:g} ({run.samples} fakes{alarms}) after {run.kimg:.0f} kimg"


def _round(kimg: float) -> str:
    """Write a length with two digits; whole numbers are not shortened."""
    return f"{kimg:.0f}" if kimg >= 10 else f"{kimg:.2g}"


def _clock(seconds: float) -> str:
    """Write the time of day in so many seconds, with the date if it is another day."""
    now = datetime.now()
    try:
        end = now + timedelta(seconds=seconds)
    except OverflowError:
        return "after the year 9999"
    return end.strftime("%H:%M" if end.date() == now.date() else "%Y-%m-%d %H:%M")
