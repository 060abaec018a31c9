"""The training loop of one run: take steps, and write the log, samples and checkpoints between them.

What happens to weights and losses at an image count depends on that count alone, so that a run that was killed and
resumed writes what an unbroken one would have written (docs/exact-resume.md). The clock decides only which validations
run and, beyond ``MIN_SNAPSHOTS``, which grids and checkpoints are written, unless ``train.evaluate_share`` is 1.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, error_reason
from zoo.runtime import distributed
from zoo.runtime.device import describe_environment, peak_memory, reset_peak_memory
from zoo.runtime.timer import synchronize
from zoo.training import checkpoint
from zoo.training.callbacks import CALLBACK_FAILED, Callbacks
from zoo.training.generator_file import save_generator
from zoo.training.logger import LogFile
from zoo.training.run_clock import RunClock
from zoo.training.run_folder import Run
from zoo.training.run_length import TIME_IS_UP, EndForecast
from zoo.training.sample_grids import SampleGrids
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state
from zoo.training.validation import COLLAPSE_PATIENCE_CHECKS, NUM_VALIDATION_IMAGES, Validator

MIN_SNAPSHOTS = 32  # grids and checkpoints written whatever they cost; later ones only within their share of the time
AGREE_EVERY_S = 2.0  # processes exchange clocks and stop signals this often: torchrun gives them half a minute to end
REFERENCE_KEYS = {"ssim_nearest": "ssim_nearest_unseen", "ssim_pairwise": "ssim_pairwise_real"}
DEFAULT_EVALUATE_SHARE = 0.02  # of the time, for grids and checkpoints of runs without validation

Stop = Callable[[], Any]


class DivergedError(ZooError):
    """A loss or a weight became NaN or infinite."""


class CollapsedError(ZooError):
    """The generator makes nearly the same image from every latent, and ``train.stop_on_collapse`` is on."""


class TrainingLoop:
    """Drives a trainer to the recipe's length, and keeps its run folder.

    Args:
        clock: seconds of training before this process.
        validation: state of the validator in the checkpoint that is resumed; None at the start.
        callbacks: receive rows, images and checkpoints, in the process that writes.
        stop: called after every step; a true value ends training with everything saved.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: Run,
        display: Display,
        *,
        clock: RunClock,
        validation: dict[str, Any] | None,
        callbacks: Callbacks,
        stop: Stop | None,
    ) -> None:
        self.trainer, self.run, self.display, self.callbacks = trainer, run, display, callbacks
        self.stop = stop or (lambda: None)
        self.is_first = distributed.current_world().first  # the process that writes, validates and prints
        self.is_alone = distributed.current_world().size == 1
        self.config = trainer.recipe.train
        self.total_nimg = round(self.config.kimg * 1000)
        self.clock = clock
        clock.wait = lambda: synchronize(trainer.device)
        self.grids = SampleGrids(trainer, run)
        self.validator = Validator(trainer, display, validation)
        if run.best_file.is_file():  # which may be newer than the checkpoint that is resumed
            self.validator.best = run.info.get("best")
        reset_peak_memory(trainer.device)
        self.log: LogFile | None = None
        self.stopped_by: Any = None  # what `stop` returned, once all processes know of it
        self.steps_to_agreement = 1
        self.row_nimg = trainer.nimg  # images at the last row of the log
        self.row_waited = 0.0  # seconds that steps had waited for images by then
        self.saved_nimg: int | None = None  # images at the last checkpoint of this process
        self.drawn_nimg: int | None = None  # images when curves were last drawn
        self.last_curves = 0.0  # seconds that they took

    def train(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: ``stop`` returned a true value; the step was finished and everything saved. That the time is
                up is no interruption.
            DivergedError: a loss or weight is NaN or infinite.
            CollapsedError: the generator collapsed, and the recipe says to stop then.
            ZooError: the run folder cannot be written, or a callback raised; everything is saved then.
        """
        try:
            self._train_and_finish()
        finally:
            self.callbacks.end(self.run)
        if self.callbacks.failure is not None:
            raise self._callback_error()

    def _train_and_finish(self) -> None:
        try:
            self._write_info(status="running", kimg=self.config.kimg)
            log = LogFile(self.run) if self.is_first else None
            with contextlib.closing(log) if log else contextlib.nullcontext(), contextlib.closing(self.trainer.loader):
                self.log = log
                self._train()
            if self.is_first:
                with self.clock.counting("animation"):
                    self.grids.draw_animation(self.display.warn)
            if self.stopped_by == CALLBACK_FAILED:
                raise self._callback_error()
            self._write_info(status="interrupted" if self.stopped_by else "finished", seconds=self.clock.record())
            distributed.barrier()
        except ZooError as error:
            self._write_failure(str(error))
            raise
        except OSError as error:
            last = checkpoint.newest_checkpoint(self.run.state)
            kept = f"the last checkpoint {last} is intact" if last else "no checkpoint was written yet"
            message = f"{self.run.path}: cannot be written ({error_reason(error)}); {kept}"
            self._write_failure(message)
            raise ZooError(message) from None
        if self.stopped_by == TIME_IS_UP:
            nimg, path = self.trainer.nimg, self.run.path
            self.display.say(
                f"the time is up at nimg {nimg}; everything is saved, `zoo train --resume {path}` continues"
            )
        elif self.stopped_by:
            raise self._interruption()

    def _train(self) -> None:
        if self.trainer.nimg == 0 and self.is_first:
            with self.clock.counting("grids"):
                self.grids.save_first()
            with self.clock.counting("callbacks"):
                self.callbacks.images(0, self.grids.latest)
        self.display.start(f"training {self.run.name}", self.total_nimg)
        forecast = EndForecast(self.trainer, self.total_nimg, self.stop, self.display.say)
        try:
            while self.trainer.nimg < self.total_nimg and not self.stopped_by:
                before, start = self.trainer.nimg, time.monotonic()
                with self.clock.counting("steps"):
                    self.trainer.step()
                forecast.step()
                snapshot_due = self._is_snapshot_due(self.config.sample_kimg, before)
                self._report_status(before, start, snapshot_due=snapshot_due)
                self._save_snapshots(before)
                self._save_if_due(before, seconds=time.monotonic() - start)
                if snapshot_due and self.config.stop_on_collapse:
                    self._stop_if_collapsed()
            if self.stopped_by == TIME_IS_UP and self.row_nimg < self.trainer.nimg:  # with a last look, as at the end
                self._report_status(self.trainer.nimg, time.monotonic(), snapshot_due=True)
            self._save(last=True)
        finally:
            self.display.stop()

    def _report_status(self, before: int, start: float, *, snapshot_due: bool) -> None:
        """Write a row of the log where one is due, with validation and samples where these are; update the display."""
        nimg = self.trainer.nimg
        done = nimg >= self.total_nimg or self.stopped_by == TIME_IS_UP
        row_due = any(_crosses(every, before, nimg) for every in (self.config.sample_kimg, self.config.log_kimg))
        if not (row_due or done):
            # The means of several processes need all of them, so between rows only a single process shows them.
            if self.is_alone and self.display.due():
                self.display.moved(nimg, self._row(start))
            self.clock.busy += time.monotonic() - start
            return
        self.run.require_folder()
        self._check_finite()
        row = self._row(start)
        if snapshot_due or done:
            row |= self._snapshot(last=done)
        if self.log is not None:
            self.log.write(row)
        with self.clock.counting("callbacks"):
            self.callbacks.log(row)
            if (snapshot_due or done) and self.is_first:
                self.callbacks.images(nimg, self.grids.latest)
        self.display.moved(nimg, row)
        if row_due:  # the last row of a run that is extended later does not start a new mean
            self.trainer.meters.reset()
        self.clock.busy, self.row_nimg, self.row_waited = 0.0, nimg, self.trainer.loader.waited

    def _row(self, start: float) -> dict[str, Any]:
        means = self.trainer.meters.means()
        seconds = max(self.clock.busy + time.monotonic() - start, 1e-9)
        return {
            "nimg": self.trainer.nimg,
            **means,
            "img_per_s": round((self.trainer.nimg - self.row_nimg) / seconds, 3),
            "data_wait_s": round(self.trainer.loader.waited - self.row_waited, 3),
            "time": round(self.clock.total, 3),
        }

    def _snapshot(self, *, last: bool) -> dict[str, Any]:
        """Save a grid, and validate unless that would take more than its share of the time; values for the log."""
        due = distributed.broadcast(last or self.validator.due(self.clock.total))
        if due and self.is_first:
            with self.clock.counting("reference"):  # once per set, and not part of what a validation takes
                self.validator.reference()
        start = time.monotonic()
        with self.clock.counting("validation" if due else "grids"):
            features = self.validator.ranking_features() if due else None  # by all processes, each its part
            if not self.is_first:
                return {}
            fakes = self.grids.generate(max(NUM_VALIDATION_IMAGES, self.grids.count) if due else self.grids.count)
            with self.clock.counting("grids"):
                self.grids.save(fakes)
            if not due:
                return {}
            row = self.validator.validate(fakes[:NUM_VALIDATION_IMAGES], features)
            if self.validator.improved(row, self.trainer.nimg):
                self._save_best()
            self.validator.record_duration(time.monotonic() - start)
        return row

    def _save_best(self) -> None:
        best = self.validator.best or {}
        averaged, notes = self.trainer.averaged(), {key: str(best[key]) for key in ("metric", "value")}
        recipe, nimg = self.trainer.recipe, self.trainer.nimg
        save_generator(self.run.best_file, averaged, recipe=recipe, nimg=nimg, dtype=None, **notes)
        self.run.write_info(best=best)

    def _save_snapshots(self, before: int) -> None:
        """Keep the further averages where a snapshot is due, and at the end."""
        nimg, recipe = self.trainer.nimg, self.trainer.recipe
        due = _crosses(recipe.ema.snapshot_kimg, before, nimg) or nimg >= self.total_nimg
        if not (due and self.is_first and self.trainer.snapshot_emas):
            return
        self.run.snapshots.mkdir(exist_ok=True)
        with self.clock.counting("checkpoints"):
            for std, ema in zip(recipe.ema.snapshot_stds, self.trainer.snapshot_emas, strict=True):
                path = self.run.snapshot_file(nimg, std)
                notes = {"power_std": repr(std)}
                save_generator(path, ema.module, recipe=recipe, nimg=nimg, dtype=torch.float16, **notes)

    def _save_if_due(self, before: int, *, seconds: float) -> None:
        """Save a checkpoint where one is due by images or by the clock; ask all processes whether to stop."""
        late = time.monotonic() - self.clock.saved_at > 60 * self.config.checkpoint_minutes
        stop = self.callbacks.stop_reason or self.stop()
        if self.is_alone:
            self.stopped_by = stop
        else:
            late, self.stopped_by = self._agree(late, stop, seconds)
        if late or self._is_snapshot_due(self.config.checkpoint_kimg, before):
            self._save()

    def _agree(self, late: bool, stop: Any, seconds: float) -> tuple[bool, Any]:
        """What clocks and stop signals say in any process, for all to act on at the same step."""
        self.steps_to_agreement -= 1
        if self.steps_to_agreement > 0:
            return False, None
        lates, stops, durations = zip(*distributed.all_gather((late, stop or 0, seconds)), strict=True)
        self.steps_to_agreement = max(1, int(AGREE_EVERY_S / max(durations)))
        return any(lates), max(stops) or None

    def _is_snapshot_due(self, every_kimg: float, before: int) -> bool:
        """Whether a step since ``before`` images crossed a multiple of the cadence, and its cost leaves the steps their
        share of the time: a small net on a fast device crosses many multiples a second.
        """
        nimg = self.trainer.nimg
        if not _crosses(every_kimg, before, nimg):
            return False
        affordable = self.clock.aside <= (self.config.evaluate_share or DEFAULT_EVALUATE_SHARE) * self.clock.total
        return distributed.broadcast(nimg <= MIN_SNAPSHOTS * every_kimg * 1000 or affordable)

    def _save(self, *, last: bool = False) -> None:
        """Write generator and log, then the checkpoint: once it is there, so is all that belongs to it.

        Curves follow: at 256 px their first reference values take minutes, which a run that is stopped may not get.
        """
        nimg = self.trainer.nimg
        if nimg == self.saved_nimg:
            if last:
                self._draw_curves()
            return
        self.run.require_folder()
        self._check_finite()
        with self.clock.counting("checkpoints"):
            state = self.trainer.state_dict()  # by all processes
            self.saved_nimg, self.clock.saved_at = nimg, time.monotonic()
            if self.log is None:
                return
            if not self.run.recipe_file.is_file():  # deleted meanwhile, and needed to continue
                self.run.write_recipe(self.trainer.recipe)
            save_generator(self.run.generator_file, self.trainer.averaged(), recipe=self.trainer.recipe, nimg=nimg)
            self.log.sync()
            content = {
                "trainer": state,
                "elapsed": self.clock.total,
                "seconds": dict(self.clock.seconds),
                "watch": self.validator.state_dict(),  # the key of all versions
                "window": self.trainer.data.window,
                "environment": describe_environment(self.trainer.device, self.trainer.speed.precision),
            }
            path = checkpoint.save_checkpoint(self.run.state, nimg, content, keep=self.config.keep)
            memory = peak_memory(self.trainer.device)
            self.run.write_info(nimg=nimg, peak_memory_bytes=memory, seconds=self.clock.record())
            with self.clock.counting("callbacks"):
                self.callbacks.checkpoint(path)
            curves = (
                self.clock.seconds.get("curves", 0.0) + self.last_curves
            )  # what they took, and would take once more
            if last or curves <= self.config.evaluate_share * self.clock.total:
                self._draw_curves()
            self.clock.saved_at = time.monotonic()

    def _draw_curves(self) -> None:
        if not self.is_first or self.drawn_nimg == self.trainer.nimg:
            return
        before = self.clock.seconds.get("curves", 0.0)
        with self.clock.counting("curves"):
            real_values: dict[str, float | None] = {}
            if any("ssim_nearest" in row for row in self.run.rows()):  # else no curve needs what may take minutes
                with self.clock.counting("reference"):
                    reference = self.validator.reference()
                real_values = {name: reference[key] for name, key in REFERENCE_KEYS.items()}
            self.grids.draw_curves(real_values)
        self.last_curves = self.clock.seconds["curves"] - before
        self.drawn_nimg = self.trainer.nimg

    def _check_finite(self) -> None:
        names = distributed.all_gather(find_nonfinite_state(self.trainer))
        name = next((name for name in names if name is not None), None)
        if name is not None:
            last = checkpoint.newest_checkpoint(self.run.state)
            good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
            raise DivergedError(f"{self.run.path}: {name} became NaN or infinite by nimg {self.trainer.nimg}; {good}")

    def _stop_if_collapsed(self) -> None:
        if not distributed.broadcast(self.validator.has_collapsed()):
            return
        self._save()
        raise CollapsedError(
            f"{self.run.path}: collapsed by nimg {self.trainer.nimg}: in the last {COLLAPSE_PATIENCE_CHECKS} "
            "validations fakes were nearly the same image, without becoming more varied. Everything is saved; "
            f"`zoo train --resume {self.run.path} --set train.stop_on_collapse=false` continues anyway"
        )

    def _callback_error(self) -> ZooError:
        cause = self.callbacks.failure or "a callback of the first process failed"
        nimg, path = self.trainer.nimg, self.run.path
        return ZooError(f"{path}: {cause}. Everything is saved at nimg {nimg}; `zoo train --resume {path}` continues")

    def _interruption(self) -> Interrupted:
        is_signal = isinstance(self.stopped_by, int) and not isinstance(self.stopped_by, bool)
        signum = self.stopped_by if is_signal else signal.SIGINT
        cause = signal.Signals(signum).name if signum == self.stopped_by else "request"
        return Interrupted(
            f"stopped by {cause} at nimg {self.trainer.nimg}; everything is saved, "
            f"`zoo train --resume {self.run.path}` continues",
            signum,
        )

    def _write_info(self, **changes: Any) -> None:
        if self.is_first:
            self.run.require_folder()
            self.run.write_info(**changes)

    def _write_failure(self, message: str) -> None:
        with contextlib.suppress(OSError, ZooError):  # a full disk, or a deleted folder, may be the failure
            self._write_info(status="failed", reason=message)


def _crosses(every_kimg: float, before: int, nimg: int) -> bool:
    """Whether a multiple of the cadence lies after ``before`` and not after ``nimg``."""
    every = every_kimg * 1000
    return nimg // every > before // every
