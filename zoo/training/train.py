"""From a recipe's name to a trained run: which data, which device, a new run or one that goes on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError, error_reason
from zoo.core.files import cache_folder
from zoo.core.version import version
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.sources import data_address
from zoo.recipes import override_recipe
from zoo.runtime import distributed, speed
from zoo.runtime.device import choose_device, describe_environment, environment_changes
from zoo.runtime.speed import Speed
from zoo.training import checkpoint, run_folder
from zoo.training.logger import TensorBoardWriter
from zoo.training.loop import TrainingLoop
from zoo.training.profiling import profiler
from zoo.training.profiling.profiler import StepProfile
from zoo.training.run_folder import Run
from zoo.training.trainer import Trainer
from zoo.training.warm_start import load_pretrained_backbones, warm_start


def train(
    recipe: str | Path | Recipe | None = None,
    *,
    data: str | Path | None = None,
    resume: str | Path | None = None,
    out: str | Path = "runs",
    kimg: float | None = None,
    device: str = "auto",
    precision: str | None = None,
    new: bool = False,
    deterministic: bool = False,
    tensorboard: bool = False,
    display: Display | None = None,
    announce: TextIO | None = None,
    set: list[str] | tuple[str, ...] = (),
    **overrides: Any,
) -> Run:
    """Train a recipe, or go on with a run; the command ``zoo train`` is a thin caller of this.

    Under ``torchrun`` all processes train one run, each on its own GPU or its share of the CPU.

    The same call again continues the newest unfinished run of the same resolved recipe and data.

    Args:
        recipe: a recipe's name, a path to a YAML file, or a :class:`Recipe`; None with ``resume``.
        data: a folder, zip, ``.npy`` or ``.npz`` of images, or ``"phantoms"``; default: ``$ZOO_DATA``, else phantoms.
        resume: a run's folder to go on with, finished or not.
        out: where run folders are made.
        kimg: thousands of images to train for (``train.kimg``); with ``resume`` it extends a finished run.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``fp32`` or ``bf16`` (``train.precision``).
        new: start afresh even if a run could be continued.
        deterministic: only algorithms that repeat bit for bit; slower on CUDA.
        tensorboard: write scalars for TensorBoard too.
        display: where progress is shown; default: stderr.
        announce: where the line ``resuming RUN at nimg N`` goes; default: stdout.
        set: overrides as on the command line, ``"train.batch=32"``.
        **overrides: the same as keywords, dots as double underscores: ``train__batch=32``.

    Returns:
        The run; ``run.path`` is its folder.

    Raises:
        ZooError: bad input, in one line; or the run diverged.
        zoo.core.errors.Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    settings = [*set, *(f"{key.replace('__', '.')}={_yaml(value)}" for key, value in overrides.items())]
    if kimg is not None:
        settings.append(f"train.kimg={kimg}")
    settings = _settings(settings, precision)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    if tensorboard:
        TensorBoardWriter.require()
    if (recipe is None) == (resume is None):
        raise ZooError(
            "give a recipe or --resume RUN, not both"
            if recipe is not None
            else "give a recipe's name or file, or --resume RUN; `zoo list` shows the recipes"
        )
    where = choose_device(device)
    speed.set_compile_cache(cache_folder() / "compiled")
    with distributed.join_world(where) as world:
        launch = _Launch(
            device=where,
            display=(display or Display()) if world.first else Display(quiet=True),
            announce=announce or sys.stdout,
            tensorboard=tensorboard,
        )
        with _told_of_others(world):
            if resume is not None:
                return launch.resume(run_folder.open_run(resume), settings, data)
            assert recipe is not None
            resolved = _resolved(recipe, settings)
            # A group that torchrun has started again goes on; it is not asked for a new run once more.
            again = distributed.was_restarted()
            return launch.start(resolved, _source(data), Path(out), new=new and not again, again=again)


def profile_recipe(
    recipe: str | Path | Recipe,
    *,
    data: str | Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    seconds: float = 10.0,
    display: Display | None = None,
    set: list[str] | tuple[str, ...] = (),
) -> tuple[StepProfile, Speed]:
    """Where a step of ``recipe`` spends its time on this machine, and the switches that are on; nothing is written.

    Args:
        recipe, data, device, precision, display, set: as :func:`train` takes them.
        seconds: about how long each measurement takes.

    Raises:
        ZooError: bad input, in one line.
    """
    resolved = _resolved(recipe, _settings(set, precision))
    display = display or Display()
    speed.set_compile_cache(cache_folder() / "compiled")
    images = load_dataset(_source(data), resolved.data, reporter=display)
    images.require(resolved.train.batch)
    resolved = with_classes(resolved, images)
    trainer = Trainer(resolved, images, choose_device(device), reporter=display)
    display.say(f"{images.description}: {trainer.feed.where}")
    with contextlib.closing(trainer.feed):
        return profiler.profile_steps(trainer, seconds), trainer.speed


def _settings(settings: Sequence[str], precision: str | None) -> list[str]:
    return [*settings, *([f"train.precision={precision}"] if precision is not None else [])]


def _resolved(recipe: str | Path | Recipe, settings: Sequence[str]) -> Recipe:
    return override_recipe(recipe, *settings) if isinstance(recipe, Recipe) else recipes.load_recipe(recipe, settings)


def _source(data: str | Path | None) -> str | Path | None:
    """Where images are from: as asked for, else $ZOO_DATA, else phantoms."""
    return data or os.environ.get("ZOO_DATA") or None


@contextlib.contextmanager
def _told_of_others(world: distributed.World) -> Iterator[None]:
    """One line, and no traceback, of a process whose others have gone."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not distributed.is_lost_peer(error):
            raise
        raise ZooError(
            f"another process of this run has gone ({str(error).splitlines()[0]}); saved is what the last checkpoint "
            "holds, and the same command goes on from there"
        ) from None


State = dict[str, Any]  # a checkpoint's content


@dataclass(frozen=True, kw_only=True)
class _Launch:
    """How to train, whatever is trained."""

    device: torch.device
    display: Display
    announce: TextIO
    tensorboard: bool

    def start(self, resolved: Recipe, data: str | Path | None, out: Path, *, new: bool, again: bool) -> Run:
        """Train ``resolved`` in a new run, or go on with the newest unfinished one of the same numbers and images.

        ``again``: a process died, and torchrun has started the group again.
        """
        if data is None:
            self.display.say("no --data (or ZOO_DATA): training on built-in phantom brains")
        images = self._load(data, resolved)
        resolved = with_classes(resolved, images)
        found = None if new or not self.first else _unfinished(out, resolved, images)
        path = distributed.broadcast(str(found.path) if found is not None else None)
        if path is not None:
            old = run_folder.open_run(path) if self.first else Run(path)
            info = distributed.broadcast(old.info if self.first else None)
            if again and info["status"] == "failed":  # of its own, which trying once more does not mend
                raise ZooError(info["reason"])
            with self._claim(old):
                return self._go_on(old, resolved, images, self._state(old))
        trainer = self._trainer(resolved, images)
        fresh = Run(distributed.broadcast(str(run_folder.create_run(out, resolved.name).path) if self.first else None))
        with self._claim(fresh):
            try:
                self._describe(fresh, resolved, images, data)
            except OSError as error:
                raise ZooError(f"{fresh.path}: cannot be written ({error_reason(error)})") from None
            processes = (
                f" in {distributed.current_world().size} processes" if distributed.current_world().size > 1 else ""
            )
            self.display.say(
                f"{fresh.path}: {resolved.name}, {resolved.train.kimg:g} kimg, on {self.device}{processes}"
            )
            return self._train(fresh, trainer, None)

    def _describe(self, fresh: Run, resolved: Recipe, images: Dataset, data: str | Path | None) -> None:
        """What the folder of a new run says of itself."""
        if not self.first:
            return
        fresh.write_recipe(resolved)
        fresh.write_info(
            recipe=resolved.name,
            recipe_digest=resolved.digest,
            data=data_address(data),
            data_digest=images.digest,
            data_description=images.description,
            window=images.window,
            command=sys.argv,
            zoo=version(),
            status="new",
            nimg=0,
            kimg=resolved.train.kimg,
        )

    def resume(self, old: Run, settings: list[str], data: str | Path | None) -> Run:
        """Go on with ``old``, longer or with other cadences where ``settings`` say so."""
        before = recipes.load_recipe(old.recipe_file)
        resolved = recipes.load_recipe(old.recipe_file, settings)
        same_precision = f"train.precision={before.train.precision}"
        changing = [text for text in settings if override_recipe(before, text, same_precision).digest != before.digest]
        if changing:
            raise ZooError(
                f"{old.path}: {', '.join(changing)} changes its numbers; length, cadences and precision may change on "
                f"resume, for the rest start a new run with --set train.init_from={old.path}"
            )
        info = old.info
        with self._claim(old):
            state = self._state(old)
            images = self._load(data if data is not None else info["data"], resolved)
            if images.digest != info["data_digest"]:
                raise ZooError(f"{old.path}: was trained on other images ({info['data_description']})")
            return self._go_on(old, resolved, images, state)

    @property
    def first(self) -> bool:
        return distributed.current_world().first

    def _claim(self, folder: Run) -> contextlib.AbstractContextManager[None]:
        """The run's lock, which one process holds for all."""
        return folder.claim() if self.first else contextlib.nullcontext()

    def _load(self, data: str | Path | None, resolved: Recipe) -> Dataset:
        if distributed.local_rank() > 0:  # one process a host makes the cache
            distributed.barrier()
        images = load_dataset(data, resolved.data, reporter=self.display)
        if distributed.local_rank() == 0:
            distributed.barrier()
        images.require(resolved.train.batch)
        self.display.say(images.description)
        return images

    def _state(self, old: Run) -> State | None:
        """The newest whole checkpoint, and a line that says so; None: the run was stopped before its first.

        The first process reads it for all.
        """
        state = distributed.broadcast(
            checkpoint.load_newest_checkpoint(old.state, self.display.warn) if self.first else None
        )
        with contextlib.suppress(BrokenPipeError):  # nobody reads it
            if self.first:
                print(f"resuming {old.path} at nimg {_nimg(state)}", file=self.announce, flush=True)
        return state

    def _go_on(self, old: Run, resolved: Recipe, images: Dataset, state: State | None) -> Run:
        nimg = _nimg(state)
        if state is not None:
            if state["environment"].get("processes", 1) == distributed.current_world().size:
                torch.set_num_threads(state["environment"]["threads"])
            precision = speed.choose_speed(resolved, self.device).precision
            changed = environment_changes(state["environment"], describe_environment(self.device, precision))
            if changed:
                self.display.say(f"not bit-exact: {', '.join(changed)}")
        if distributed.broadcast(
            nimg >= resolved.train.kimg * 1000 and old.info["status"] == "finished" if self.first else None
        ):
            self.display.say(f"{old.path} is finished; --kimg M beyond {nimg / 1000:g} extends it")
            return old
        if self.first:
            old.drop_rows_after(nimg)
            old.write_recipe(resolved)
        trainer = self._trainer(resolved, images, initialise=state is None)
        if state is not None:
            trainer.load_state_dict(state["trainer"])
        return self._train(old, trainer, state)

    def _trainer(self, resolved: Recipe, images: Dataset, *, initialise: bool = True) -> Trainer:
        trainer = Trainer(resolved, images, self.device, reporter=self.display)
        if initialise:
            load_pretrained_backbones(trainer.D, self.display)
        if initialise and resolved.train.init_from is not None:
            networks = {"G": trainer.G, "D": trainer.D, "ema": trainer.ema.module}
            warm_start(resolved.train.init_from, networks, self.display.say)
        return trainer

    def _train(self, folder: Run, trainer: Trainer, state: State | None) -> Run:
        if self.first:
            now = describe_environment(self.device, trainer.speed.precision)
            folder.write_info(device=str(self.device), environment=now, speed=trainer.speed.to_json())
        board = TensorBoardWriter(folder, trainer.nimg) if self.tensorboard and self.first else None
        before = state or {"elapsed": 0.0}
        elapsed, watch = before["elapsed"], before.get("watch")
        TrainingLoop(trainer, folder, self.display, elapsed=elapsed, watch=watch, board=board).train()
        return folder


def with_classes(resolved: Recipe, images: Dataset) -> Recipe:
    """The recipe with the classes that its labels turned out to name."""
    if not images.classes:
        return resolved
    return replace(resolved, data=replace(resolved.data, classes=images.classes), parameters=None)


def _unfinished(out: Path, resolved: Recipe, images: Dataset) -> Run | None:
    """The newest run of the same numbers and images that has not come to its end."""
    for old, info in run_folder.find_equal_runs(out, resolved.name, resolved.digest, images.digest):
        if info["status"] != "finished" and not old.locked():
            return old
    return None


def _nimg(state: State | None) -> int:
    return state["trainer"]["nimg"] if state is not None else 0


def _yaml(value: Any) -> str:
    return json.dumps(value, default=os.fspath)
