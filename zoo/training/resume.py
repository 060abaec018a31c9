"""Start a run, or continue one from its newest checkpoint, exactly where that is possible."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch

from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError, error_reason
from zoo.core.plugins import loaded_plugins
from zoo.core.version import version
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.sources.memory import address_of
from zoo.data.sources.source import Source
from zoo.recipes import load_recipe, override_recipe
from zoo.runtime import distributed
from zoo.runtime.device import describe_environment, environment_changes, is_same_machine
from zoo.runtime.speed import AutoChoice, Speed, choose_speed
from zoo.training import checkpoint
from zoo.training.auto_speed import choose_measured_speed
from zoo.training.callbacks import Callbacks
from zoo.training.checkpoint_content import check_content
from zoo.training.log_writers import open_loggers
from zoo.training.loop import Stop, TrainingLoop
from zoo.training.run_clock import RunClock
from zoo.training.run_folder import Run, create_run, find_equal_runs, open_run
from zoo.training.trainer import Trainer
from zoo.training.warm_start import load_pretrained_backbones, require_start, warm_start

_State = dict[str, Any]  # content of a checkpoint


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is the same for every run that one call trains."""

    device: torch.device
    display: Display
    announce: TextIO
    stop: Stop | None
    loggers: Sequence[str] = ()
    callbacks: Sequence[Any] = ()
    epochs: float | None = None

    def start(self, recipe: Recipe, data: str | Path | Source | None, out: Path, *, new: bool, restarted: bool) -> Run:
        """Train ``recipe`` in a new run, or continue the newest unfinished one of the same numbers and images.

        Args:
            new: never continue.
            restarted: torchrun started the group again because a process died.
        """
        if data is None:
            self.display.say("no --data (or ZOO_DATA): training on built-in phantom brains")
        images = self._load_images(data, recipe)
        recipe = self._with_length(with_classes(recipe, images), images)
        unfinished = None if new or not self._is_first else find_unfinished_run(out, recipe, images)
        path = distributed.broadcast(str(unfinished.path) if unfinished is not None else None)
        if path is not None:
            run = open_run(path) if self._is_first else Run(path)
            info = distributed.broadcast(run.info if self._is_first else None)
            if restarted and info["status"] == "failed":  # a failure of the run itself, which would only repeat
                raise ZooError(info["reason"])
            with self._claim(run):
                return self._continue(run, recipe, images, self._load_state(run, recipe))
        trainer = self._build_trainer(recipe, images)
        path = None
        if self._is_first:
            path = str(create_run(out, recipe.name, lambda run: self._describe(run, recipe, images, data)).path)
        run = Run(distributed.broadcast(path))
        with self._claim(run):
            size = distributed.current_world().size
            processes = f" in {size} processes" if size > 1 else ""
            self.display.say(f"{run.path}: {recipe.name}, {recipe.train.kimg:g} kimg, on {self.device}{processes}")
            return self._train(run, trainer, None)

    def resume(self, run: Run, overrides: list[str], data: str | Path | Source | None) -> Run:
        """Continue ``run``, longer or with other cadences where ``overrides`` say so.

        Raises:
            ZooError: an override changes the run's numbers, or the images are others.
        """
        before = load_recipe(run.recipe_file)
        recipe = load_recipe(run.recipe_file, overrides)
        same_precision = f"train.precision={before.train.precision}"
        changing = [text for text in overrides if override_recipe(before, text, same_precision).digest != before.digest]
        if changing:
            raise ZooError(
                f"{run.path}: {', '.join(changing)} changes its numbers. On resume only length, cadences and precision "
                f"may change; for the rest start a new run with --set train.init_from={run.path}"
            )
        info = run.info
        with self._claim(run):
            state = self._load_state(run, recipe)
            images = self._load_images(data if data is not None else info["data"], recipe)
            if images.digest != info["data_digest"]:
                raise ZooError(f"{run.path}: was trained on other images ({info['data_description']})")
            return self._continue(run, self._with_length(recipe, images), images, state)

    @property
    def _is_first(self) -> bool:
        """Whether this process is the one of its group that reads, writes and prints."""
        return distributed.current_world().first

    def _claim(self, run: Run) -> contextlib.AbstractContextManager[None]:
        """Hold the run's lock, in one process for all."""
        return run.claim() if self._is_first else contextlib.nullcontext()

    def _with_length(self, recipe: Recipe, images: Dataset) -> Recipe:
        """The recipe with its length in ``epochs`` of these images, where that was asked for."""
        if self.epochs is None:
            return recipe
        try:
            return override_recipe(recipe, f"train.kimg={self.epochs * len(images.train) / 1000!r}")
        except ZooError as error:
            raise ZooError(f"--epochs {self.epochs:g} of {len(images.train):,} images: {error}") from None

    def _load_images(self, data: str | Path | Source | None, recipe: Recipe) -> Dataset:
        if distributed.local_rank() > 0:  # one process per host builds the cache, the others wait and read it
            distributed.barrier()
        images = load_dataset(data, recipe.data, reporter=self.display)
        if distributed.local_rank() == 0:
            distributed.barrier()
        images.require(max(recipe.train.batches.sizes))
        self.display.say(images.description)
        return images

    def _load_state(self, run: Run, recipe: Recipe) -> _State | None:
        """The newest intact checkpoint, read by the first process for all; None if the run stopped before its first."""

        def check(path: Path, state: Any) -> None:
            check_content(path, state, recipe)

        content = checkpoint.load_newest_checkpoint(run.state, self.display.warn, check) if self._is_first else None
        state, seen = distributed.broadcast((content, run.info["nimg"] if self._is_first else None))
        if state is None and seen:
            raise ZooError(
                f"{run.path}: has seen {seen:,} images, but has no checkpoint in {run.state.name}/ to continue from. "
                "Remove or rename this folder to start anew (`zoo train` also takes --new); "
                "train.init_from=FILE starts with the weights of its generator"
            )
        with contextlib.suppress(BrokenPipeError):  # the reader of stdout is gone
            if self._is_first:
                print(f"resuming {run.path} at nimg {_nimg(state)}", file=self.announce, flush=True)
        return state

    def _describe(self, run: Run, recipe: Recipe, images: Dataset, data: str | Path | Source | None) -> None:
        """Write what the folder of a new run says about itself."""
        run.write_recipe(recipe)
        run.write_info(
            recipe=recipe.name,
            recipe_digest=recipe.digest,
            data=address_of(data),
            data_digest=images.digest,
            data_description=images.description,
            window=images.window,
            command=sys.argv,
            zoo=version(),
            **({"plugins": [plugin.plain() for plugin in plugins]} if (plugins := loaded_plugins()) else {}),
            status="new",
            nimg=0,
            kimg=recipe.train.kimg,
        )

    def _continue(self, run: Run, recipe: Recipe, images: Dataset, state: _State | None) -> Run:
        nimg = _nimg(state)
        speed = self._restore_speed(run, recipe, state)
        if state is not None:
            self._report_changes(state, speed)
        is_complete = nimg >= recipe.train.kimg * 1000
        if distributed.broadcast(is_complete and run.info["status"] == "finished" if self._is_first else None):
            self.display.say(f"{run.path} is finished; --kimg M beyond {nimg / 1000:g} extends it")
            return run
        if self._is_first:
            try:
                run.drop_after(nimg)
                run.write_recipe(recipe)
            except OSError as error:
                raise ZooError(f"{run.path}: cannot be written ({error_reason(error)})") from None
        trainer = self._build_trainer(recipe, images, speed=speed, initialise=state is None)
        if state is not None:
            trainer.load_state_dict(state["trainer"])
        return self._train(run, trainer, state)

    def _restore_speed(self, run: Run, recipe: Recipe, state: _State | None) -> Speed:
        """Return the run's own precision, layout and threads; on another machine they are chosen anew."""
        record = distributed.broadcast(run.info if self._is_first else None)
        before = (state or record).get("environment")
        if before is None or not is_same_machine(before, describe_environment(self.device, "")):
            return choose_measured_speed(recipe, self.device, self.display.say)
        auto = None  # a run of an early version recorded nothing: the hardware's flags decide, as they did then
        if "speed" in record:
            auto = AutoChoice.from_json(record["speed"])
        speed = choose_speed(recipe, self.device, self.display.say, auto=auto)
        if recipe.speed.fused_layers == "auto":
            fused = record.get("speed", {}).get("fused_layers", False)  # earlier versions had none
            if fused and not speed.fused_layers:
                self.display.say("not bit-exact: speed.fused_layers needs a C compiler, which is no longer there")
            speed = replace(speed, fused_layers=fused and speed.fused_layers)
        if recipe.speed.threads == "auto":
            same_processes = before.get("processes", 1) == distributed.current_world().size
            speed = replace(speed, threads=before["threads"] if same_processes else None)
        return speed

    def _report_changes(self, state: _State, speed: Speed) -> None:
        """Report every difference from the checkpoint that changes bits."""
        if speed.threads is not None:
            torch.set_num_threads(speed.threads)
        now = describe_environment(self.device, speed.precision)
        changes = environment_changes(state["environment"], now)
        if changes:
            self.display.say(f"not bit-exact: {', '.join(changes)}")

    def _build_trainer(
        self, recipe: Recipe, images: Dataset, *, speed: Speed | None = None, initialise: bool = True
    ) -> Trainer:
        trainer = Trainer(recipe, images, self.device, reporter=self.display, speed=speed)
        if initialise:
            require_start(trainer.G, recipe.train.init_from)
            load_pretrained_backbones(trainer.D, self.display)
        if initialise and recipe.train.init_from is not None:
            networks = {"G": trainer.G, "D": trainer.D, "ema": trainer.ema.module}
            warm_start(recipe.train.init_from, networks, self.display.say)
        return trainer

    def _train(self, run: Run, trainer: Trainer, state: _State | None) -> Run:
        if self._is_first:
            now = describe_environment(self.device, trainer.speed.precision)
            run.write_info(device=str(self.device), environment=now, speed=trainer.speed.to_json())
        callbacks: list[Any] = []
        if self._is_first:
            callbacks = [*self.callbacks, *open_loggers(self.loggers, run, trainer.recipe, trainer.nimg)]
        before = state or {"elapsed": 0.0}
        seconds = before.get("seconds", {})  # earlier versions counted none
        # A context manager installs what it watches (signal handlers) only for as long as steps are taken.
        watching = self.stop if isinstance(self.stop, contextlib.AbstractContextManager) else contextlib.nullcontext()
        loop = TrainingLoop(
            trainer,
            run,
            self.display,
            clock=RunClock(before["elapsed"], dict(seconds)),
            validation=before.get("watch"),
            callbacks=Callbacks(callbacks, self.device),
            stop=self.stop,
        )
        with watching:
            loop.train()
        return run


def with_classes(recipe: Recipe, images: Dataset) -> Recipe:
    """The recipe with the classes that its labels were found to name."""
    if not images.classes:
        return recipe
    return replace(recipe, data=replace(recipe.data, classes=images.classes), parameters=None)


def find_unfinished_run(out: Path, recipe: Recipe, images: Dataset) -> Run | None:
    """The newest run of the same numbers and images that has not reached its end and that no process is training.

    A run that has seen more images than ``recipe`` wants is no shorter one: it would only be called finished.
    """
    end = recipe.train.batches.end(round(recipe.train.kimg * 1000))
    for run, info in find_equal_runs(out, recipe.name, recipe.digest, images.digest):
        if info["status"] != "finished" and info["nimg"] <= end and not run.locked():
            return run
    return None


def _nimg(state: _State | None) -> int:
    return state["trainer"]["nimg"] if state is not None else 0
