"""The training loop of one run: steps, and what is written while they are taken.

Everything has its own cadence in images. What happens at an image count depends on that count alone, so that a run
that was killed and resumed writes what an unbroken one would have written.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from zoo import checkpoint, sampling, seeds, weights
from zoo.display import Display
from zoo.environment import environment
from zoo.errors import ZooError
from zoo.log import LogFile
from zoo.metrics import ssim
from zoo.report import pictures, plots
from zoo.run import Run
from zoo.trainer import Trainer


class DivergedError(ZooError):
    """A loss or a weight became NaN or infinite."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """A signal asked the run to stop, and it did, with everything saved.

    Attributes:
        signum: which signal.
        nimg: images seen.
    """

    def __init__(self, signum: int, nimg: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at nimg {nimg}; everything is saved")
        self.signum, self.nimg = signum, nimg


class Loop:
    """Drives a trainer until its recipe's length is reached, and keeps its run's folder."""

    def __init__(
        self, trainer: Trainer, run: Run, display: Display, *, elapsed: float = 0.0, tensorboard: bool = False
    ) -> None:
        self.trainer, self.run, self.display = trainer, run, display
        self.config = trainer.recipe.train
        self.total = round(self.config.kimg * 1000)
        self.elapsed = elapsed  # seconds of training before this process
        self.started = time.monotonic()
        self.snapshots = Snapshots(trainer, run)
        self.log = LogFile(run)
        self.board = _board(run, trainer.nimg) if tensorboard else None
        self.busy = 0.0  # seconds spent in steps since the last row
        self.begun = trainer.nimg  # images at the last row

    def train(self) -> None:
        """Take steps to the end.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the step was finished and everything saved.
            DivergedError: a loss or weight is NaN or infinite.
            ZooError: a checkpoint could not be written.
        """
        trainer = self.trainer
        self.run.write_info(status="running", kimg=self.config.kimg)
        if trainer.nimg == 0:
            self.snapshots.first()
        self.display.start(f"training {self.run.name}", self.total)
        try:
            with _signals() as received:
                while trainer.nimg < self.total and not received:
                    self._step()
                if received:
                    self._save()
                self.snapshots.draw_animation()
                if received:
                    raise Interrupted(received[0], trainer.nimg)
            self.run.write_info(status="finished")
        except Interrupted:
            self.run.write_info(status="interrupted")
            raise
        except ZooError as error:
            self.run.write_info(status="failed", reason=str(error))
            raise
        finally:
            self.display.stop()
            self.log.close()
            if self.board is not None:
                self.board.close()

    def _step(self) -> None:
        before, start = self.trainer.nimg, time.monotonic()
        self.trainer.step()
        now = self.trainer.nimg
        done = now >= self.total
        sampling_due = done or _crossed(self.config.sample_kimg, before, now)
        if sampling_due or _crossed(self.config.log_kimg, before, now):
            self._check()
            row = self._row(start)
            row |= self.snapshots.take() if sampling_due else {}
            self.log.write(row)
            if self.board is not None:
                _to_board(self.board, row)
            self.display.moved(now, row)
            self.trainer.meters.reset()
            self.busy, self.begun = 0.0, now
        else:
            if self.display.due():
                self.display.moved(now, self._row(start))
            self.busy += time.monotonic() - start
        if done or _crossed(self.config.checkpoint_kimg, before, now):
            self._save()

    def _row(self, start: float) -> dict[str, Any]:
        means = self.trainer.meters.means()
        now = time.monotonic()
        seconds = max(self.busy + now - start, 1e-9)
        return {
            "nimg": self.trainer.nimg,
            **means,
            "img_per_s": round((self.trainer.nimg - self.begun) / seconds, 3),
            "time": round(self.elapsed + now - self.started, 3),
        }

    def _check(self) -> None:
        name = self.trainer.nonfinite()
        if name is not None:
            last = checkpoint.newest(self.run.state)
            good = f"the last good checkpoint is {last}" if last else "no checkpoint had been written yet"
            raise DivergedError(f"{self.run.path}: {name} became NaN or infinite by nimg {self.trainer.nimg}; {good}")

    def _save(self) -> None:
        self._check()
        self.log.sync()
        averaged = self.trainer.averaged()
        state = {
            "trainer": self.trainer.state_dict(),
            "elapsed": self.elapsed + time.monotonic() - self.started,
            "window": self.trainer.data.window,
            "environment": environment(self.trainer.device, self.config.precision),
        }
        checkpoint.save(self.run.state, self.trainer.nimg, state, keep=self.config.keep)
        weights.save_generator(self.run.generator_file, averaged, recipe=self.trainer.recipe, nimg=self.trainer.nimg)
        self.run.write_info(nimg=self.trainer.nimg)
        self.snapshots.draw_curves()


class Snapshots:
    """Pictures and SSIM of the averaged generator, from the same latents every time."""

    def __init__(self, trainer: Trainer, run: Run) -> None:
        self.trainer, self.run = trainer, run
        seed, resolution = trainer.recipe.train.seed, trainer.recipe.data.resolution
        small = resolution <= 64
        self.count = 64 if small else 25 if resolution <= 128 else 16
        self.z = seeds.fixed_latents(seed, self.count, trainer.G.latent.dim)
        positions = seeds.Order(seeds.derive(seed, "reals"), len(trainer.data.train)).take(0, len(trainer.data.train))
        self.reals = trainer.data.take(trainer.data.train[positions[: 128 if small else 64]])
        self.judged = 32 if small else 16
        self._reference: dict[str, Any] | None = None

    def first(self) -> None:
        """Real images, and what the untrained generator makes."""
        pictures.save_png(pictures.grid(self.reals[: self.count]), self.run.samples / "reals.png")
        pictures.save_png(pictures.grid(self._fakes()), self.run.samples / "fakes_init.png")

    def take(self) -> dict[str, Any]:
        """Save a grid; return the SSIM figures for the log."""
        fakes = self._fakes()
        nimg = self.trainer.nimg
        pictures.save_png(
            pictures.grid(fakes),
            self.run.samples / f"fakes-{nimg / 1000:010.3f}.png",
            {"nimg": nimg, "seed": self._seed},
        )
        return {**_likeness(fakes[: self.judged], self.reals), **self.reference()}

    def reference(self) -> dict[str, Any]:
        """The same figures of real images: unseen ones against the training images, and training images among
        themselves.
        """
        if self._reference is None:
            unseen = self.trainer.data.unseen[: self.judged]
            judged = self.trainer.data.take(unseen) if len(unseen) else self.reals[:0]
            self._reference = {
                "ssim_nearest_unseen": _nearest(judged, self.reals),
                "ssim_pairwise_real": _pairwise(self.reals[: self.judged]),
                "ssim_definition": (
                    f"{ssim.DEFINITION}; {self.judged} EMA fakes, nearest of {len(self.reals)} training images"
                ),
            }
        return self._reference

    def draw_curves(self) -> None:
        """Losses, accuracies and SSIM, from what has been logged."""
        rows, name = self.run.rows(), self.run.name
        plots.plot_losses(rows, self.run.path / "losses.png", name)
        plots.plot_accuracy(rows, self.run.path / "d_accuracy.png", name)
        reference = self.reference()
        reals = {"ssim_nearest": reference["ssim_nearest_unseen"], "ssim_pairwise": reference["ssim_pairwise_real"]}
        plots.plot_ssim(rows, self.run.path / "ssim.png", name, reals)

    def draw_animation(self) -> None:
        """training.gif, from the grids that have been saved."""
        frames = [self.run.samples / "fakes_init.png", *sorted(self.run.samples.glob("fakes-*.png"))]
        captions = ["untrained", *(f"{float(frame.stem.removeprefix('fakes-')):.1f} kimg" for frame in frames[1:])]
        pictures.make_gif(frames, self.run.path / "training.gif", captions=captions)

    @property
    def _seed(self) -> int:
        return self.trainer.recipe.train.seed

    def _fakes(self) -> Tensor:
        return pictures.to_uint8(sampling.images(self.trainer.averaged(), self.z, seed=self._seed))


def _likeness(fakes: Tensor, reals: Tensor) -> dict[str, float | None]:
    return {"ssim_nearest": _nearest(fakes, reals), "ssim_pairwise": _pairwise(fakes)}


def _nearest(images: Tensor, reals: Tensor) -> float | None:
    if not len(images) or not len(reals):
        return None
    return ssim.nearest_ssim(images.float(), reals, 255)[0].mean().item()


def _pairwise(images: Tensor) -> float | None:
    return ssim.pairwise_ssim(images.float(), 255).mean().item() if len(images) > 1 else None


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


def _board(run: Run, nimg: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ZooError("--tensorboard needs the package tensorboard: pip install 'gan-zoo[tensorboard]'") from None
    return SummaryWriter(run.path / "tensorboard", purge_step=nimg + 1)


def _to_board(board: Any, row: dict[str, Any]) -> None:
    for key, value in row.items():
        if isinstance(value, int | float) and key != "nimg":
            board.add_scalar(key, value, row["nimg"])
    board.flush()
