"""The training loop of one run: steps, and what is written while they are taken.

Everything has its own cadence in images. What happens to weights and losses at an image count depends on that count
alone, so that a run that was killed and resumed writes what an unbroken one would have written. Only which looks are
taken depends on the clock, and beyond the first 32 which grids and checkpoints are made, unless
``train.evaluate_share`` is 1.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, error_reason
from zoo.runtime import distributed
from zoo.runtime.device import describe_environment, peak_memory, reset_peak_memory
from zoo.training import checkpoint, generator_file
from zoo.training.logger import LogFile, TensorBoardWriter
from zoo.training.run_folder import Run
from zoo.training.sample_grids import SampleGrids
from zoo.training.trainer import Trainer
from zoo.training.validation import COLLAPSE_PATIENCE_CHECKS, NUM_VALIDATION_IMAGES, Validator

ALWAYS = 32  # grids and checkpoints that are made whatever they cost; later ones only within their share of the time


class DivergedError(ZooError):
    """A loss or a weight became NaN or infinite."""


class CollapsedError(ZooError):
    """The generator makes much the same picture whatever its latent, and ``train.stop_on_collapse`` is on."""


class TrainingLoop:
    """Drives a trainer until its recipe's length is reached, and keeps its run's folder."""

    def __init__(
        self,
        trainer: Trainer,
        run: Run,
        display: Display,
        *,
        elapsed: float,
        watch: dict[str, Any] | None,
        board: TensorBoardWriter | None,
    ) -> None:
        self.trainer, self.run, self.display, self.board = trainer, run, display, board
        self.first = distributed.current_world().first  # of several processes, the one that writes, looks and speaks
        self.alone = distributed.current_world().size == 1
        self.signum: int | None = None  # the signal that ends training, once all processes know of it
        self.config = trainer.recipe.train
        self.total = round(self.config.kimg * 1000)
        self.elapsed = elapsed  # seconds of training before this process
        self.started = time.monotonic()
        self.snapshots = SampleGrids(trainer, run)
        self.watch = Validator(trainer, display, watch)
        if run.best_file.is_file():  # which may be of a look after the checkpoint that this run goes on from
            self.watch.best = run.info.get("best")
        reset_peak_memory(trainer.device)
        self.busy = 0.0  # seconds spent in steps since the last row
        self.ask_in = 1  # steps until processes ask one another
        self.begun = trainer.nimg  # images at the last row
        self.waited = 0.0  # seconds the feed had made steps wait by then
        self.aside = 0.0  # seconds that went into looks, grids and checkpoints
        self.drawing = [0.0, 0.0]  # seconds that curves took: altogether, and the last time
        self.drawn: int | None = None  # images at that time
        self.saved: int | None = None  # images at the last checkpoint of this process
        self.saved_at = self.started  # when that was

    def train(self) -> None:
        """Take steps to the end.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the step was finished and everything saved.
            DivergedError: a loss or weight is NaN or infinite.
            CollapsedError: the fakes have become much the same, and the recipe says to stop then.
            ZooError: the run's folder could not be written.
        """
        try:
            self._write_info(status="running", kimg=self.config.kimg)
            with _signals() as received, self._log() as self.log, contextlib.closing(self.trainer.feed):
                self._steps(received)
            if self.first:
                self.snapshots.draw_animation()
            self._write_info(status="interrupted" if self.signum else "finished")
            distributed.barrier()
        except ZooError as error:
            self._fail(str(error))
            raise
        except OSError as error:
            last = checkpoint.newest_checkpoint(self.run.state)
            kept = f"the last checkpoint {last} is intact" if last else "no checkpoint had been written yet"
            message = f"{self.run.path}: cannot be written ({error_reason(error)}); {kept}"
            self._fail(message)
            raise ZooError(message) from None
        if self.signum:
            raise Interrupted(
                f"stopped by {signal.Signals(self.signum).name} at nimg {self.trainer.nimg}; everything is saved, "
                f"`zoo train --resume {self.run.path}` goes on",
                self.signum,
            )

    def _steps(self, received: list[int]) -> None:
        """Steps to the end, or until a signal is received."""
        if self.trainer.nimg == 0 and self.first:
            self.snapshots.first()
        self.display.start(f"training {self.run.name}", self.total)
        try:
            while self.trainer.nimg < self.total and not self.signum:
                self._step(received)
            self._save(last=True)
        finally:
            self.display.stop()

    def _log(self) -> contextlib.AbstractContextManager[LogFile | None]:
        return contextlib.closing(LogFile(self.run)) if self.first else contextlib.nullcontext()

    def _write_info(self, **changes: Any) -> None:
        if self.first:
            self.run.write_info(**changes)

    def _fail(self, message: str) -> None:
        with contextlib.suppress(OSError):  # a full disk may be what there is to tell of
            self._write_info(status="failed", reason=message)

    def _step(self, received: list[int]) -> None:
        before, start = self.trainer.nimg, time.monotonic()
        self.trainer.step()
        now = self.trainer.nimg
        done = now >= self.total
        sampling_due = self._due(self.config.sample_kimg, before, now)
        row_due = any(_crossed(every, before, now) for every in (self.config.sample_kimg, self.config.log_kimg))
        if row_due or done:
            self._check()
            row = self._row(start)
            row |= self._look(last=done) if sampling_due or done else {}
            if self.log is not None:
                self.log.write(row)
            if self.board is not None:
                self.board.write(row)
            self.display.moved(now, row)
            if row_due:  # the last row of a run that is extended later begins no new one
                self.trainer.meters.reset()
            self.busy, self.begun, self.waited = 0.0, now, self.trainer.feed.waited
        else:
            if self.alone and self.display.due():  # the means of several processes are asked for by all of them
                self.display.moved(now, self._row(start))
            self.busy += time.monotonic() - start
        late = time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes
        self.signum = received[0] if received else None
        if not self.alone:
            late, self.signum = self._asked(late, self.signum, time.monotonic() - start)
        if late or self._due(self.config.checkpoint_kimg, before, now):
            self._save()
        if sampling_due and self.config.stop_on_collapse and distributed.broadcast(self.watch.collapsed()):
            self._save()
            raise CollapsedError(
                f"{self.run.path}: collapsed by nimg {now}: at the last {COLLAPSE_PATIENCE_CHECKS} looks fakes were much the same, and "
                f"not becoming more varied; saved, and `zoo train --resume {self.run.path} --set "
                "train.stop_on_collapse=false` goes on regardless"
            )

    def _asked(self, late: bool, signum: int | None, seconds: float) -> tuple[bool, int | None]:
        """What clocks and signals say in any process, which all must heed at the same step; ``seconds`` the step took.

        Asked every two seconds or so: torchrun leaves its processes half a minute to end.
        """
        self.ask_in -= 1
        if self.ask_in > 0:
            return False, None
        lates, signals, took = zip(*distributed.all_gather((late, signum or 0, seconds)), strict=True)
        self.ask_in = max(1, int(2 / max(took)))
        return any(lates), max(signals) or None

    def _due(self, every_kimg: float, before: int, now: int) -> bool:
        """Whether to sample or save after this step: at every multiple of the cadence, as long as that leaves the
        steps their share of the time. A small net on a fast device passes many multiples a second.
        """
        if not _crossed(every_kimg, before, now):
            return False
        elapsed = time.monotonic() - self.started
        affordable = self.aside <= (self.config.evaluate_share or 0.05) * elapsed
        return distributed.broadcast(now <= ALWAYS * every_kimg * 1000 or affordable)

    def _look(self, *, last: bool) -> dict[str, Any]:
        """A grid; and figures for the log, unless looking would take more than its share of the time."""
        due = distributed.broadcast(last or self.watch.due(self.elapsed + time.monotonic() - self.started))
        if due and self.first:
            self.watch.reference()
        start = time.monotonic()
        ranked = self.watch.ranked_features() if due else None  # by all processes, each its part
        if not self.first:
            return {}
        fakes = self.snapshots.fakes(max(NUM_VALIDATION_IMAGES, self.snapshots.count) if due else self.snapshots.count)
        self.snapshots.save(fakes)
        if not due:
            self.aside += time.monotonic() - start
            return {}
        row = self.watch.look(fakes[:NUM_VALIDATION_IMAGES], ranked)
        nimg = self.trainer.nimg
        if self.watch.improved(row, nimg):
            best = self.watch.best or {}
            averaged, notes = self.trainer.averaged(), {key: str(best[key]) for key in ("metric", "value")}
            generator_file.save_generator(
                self.run.best_file, averaged, recipe=self.trainer.recipe, nimg=nimg, dtype=None, **notes
            )
            self.run.write_info(best=best)
        self.watch.took(time.monotonic() - start)
        self.aside += time.monotonic() - start
        return row

    def _row(self, start: float) -> dict[str, Any]:
        means = self.trainer.meters.means()
        now = time.monotonic()
        seconds = max(self.busy + now - start, 1e-9)
        return {
            "nimg": self.trainer.nimg,
            **means,
            "img_per_s": round((self.trainer.nimg - self.begun) / seconds, 3),
            "data_wait_s": round(self.trainer.feed.waited - self.waited, 3),
            "time": round(self.elapsed + now - self.started, 3),
        }

    def _check(self) -> None:
        name = next((name for name in distributed.all_gather(self.trainer.nonfinite()) if name is not None), None)
        if name is not None:
            last = checkpoint.newest_checkpoint(self.run.state)
            good = f"the last good checkpoint is {last}" if last else "no checkpoint had been written yet"
            raise DivergedError(f"{self.run.path}: {name} became NaN or infinite by nimg {self.trainer.nimg}; {good}")

    def _save(self, *, last: bool = False) -> None:
        """The checkpoint comes last: once it is there, so is all that belongs to it."""
        nimg = self.trainer.nimg
        if nimg == self.saved:
            if last:
                self._draw()
            return
        self._check()
        start = time.monotonic()
        state = self.trainer.state_dict()
        self.saved, self.saved_at = nimg, time.monotonic()
        if self.log is None:
            return
        averaged = self.trainer.averaged()
        generator_file.save_generator(self.run.generator_file, averaged, recipe=self.trainer.recipe, nimg=nimg)
        if last or sum(self.drawing) <= self.config.evaluate_share * (time.monotonic() - self.started):
            self._draw()
        self.log.sync()
        content = {
            "trainer": state,
            "elapsed": self.elapsed + time.monotonic() - self.started,
            "watch": self.watch.state_dict(),
            "window": self.trainer.data.window,
            "environment": describe_environment(self.trainer.device, self.trainer.speed.precision),
        }
        checkpoint.save_checkpoint(self.run.state, nimg, content, keep=self.config.keep)
        self.run.write_info(nimg=nimg, peak_memory_bytes=peak_memory(self.trainer.device))
        self.saved_at = time.monotonic()
        self.aside += self.saved_at - start

    def _draw(self) -> None:
        """Curves of what has been logged, where they do not take more than looks may."""
        if not self.first or self.drawn == self.trainer.nimg:
            return
        start = time.monotonic()
        reference = self.watch.reference()
        self.snapshots.draw_curves(
            {"ssim_nearest": reference["ssim_nearest_unseen"], "ssim_pairwise": reference["ssim_pairwise_real"]}
        )
        seconds = time.monotonic() - start
        self.drawing, self.drawn = [self.drawing[0] + seconds, seconds], self.trainer.nimg


def _crossed(every_kimg: float, before: int, now: int) -> bool:
    """Whether a multiple of the cadence lies after ``before`` and not after ``now``."""
    every = every_kimg * 1000
    return now // every > before // every


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second one is no longer caught.

    Outside the main thread (a notebook's server) Python allows no handlers, and signals are left as they are.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def handle(signum: int, frame: object) -> None:
        received.append(signum)
        signal.signal(signum, before[signum])

    try:
        for caught in (signal.SIGINT, signal.SIGTERM):
            before[caught] = signal.signal(caught, handle)
    except ValueError:
        before.clear()
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
