"""From a recipe's name to a trained run: which data, which device, a new run or one that goes on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from zoo import checkpoint, run, weights
from zoo import data as data_package
from zoo import recipe as recipes
from zoo.data import Dataset
from zoo.display import Display
from zoo.environment import choose_device, differences, environment
from zoo.errors import ZooError, reason
from zoo.log import Board
from zoo.loop import Loop
from zoo.recipe import Recipe
from zoo.run import Run
from zoo.trainer import Trainer
from zoo.version import version


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

    The same call again continues the newest unfinished run of the same resolved recipe and data.

    Args:
        recipe: a recipe's name, a path to a YAML file, or a :class:`Recipe`; None with ``resume``.
        data: a folder, zip, ``.npy`` or ``.npz`` of images, or ``"phantoms"``; default: ``$ZOO_DATA``, else phantoms.
        resume: a run's folder to go on with, finished or not.
        out: where run folders are made.
        kimg: thousands of images to train for (``train.kimg``); with ``resume`` it extends a finished run.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32`` or ``bf16`` (``train.precision``).
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
        zoo.errors.Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    settings = [*set, *(f"{key.replace('__', '.')}={_yaml(value)}" for key, value in overrides.items())]
    if kimg is not None:
        settings.append(f"train.kimg={kimg}")
    if precision is not None:
        settings.append(f"train.precision={precision}")
    launch = _Launch(
        device=choose_device(device),
        display=display or Display(),
        announce=announce or sys.stdout,
        tensorboard=tensorboard,
    )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    if tensorboard:
        Board.require()
    if resume is not None:
        if recipe is not None:
            raise ZooError("give a recipe or --resume RUN, not both")
        return launch.resume(run.open_run(resume), settings, data)
    if recipe is None:
        raise ZooError("give a recipe's name or file, or --resume RUN; `zoo list` shows the recipes")
    resolved = recipe.with_(*settings) if isinstance(recipe, Recipe) else recipes.load(recipe, settings)
    return launch.start(resolved, data or os.environ.get("ZOO_DATA") or None, Path(out), new=new)


State = dict[str, Any]  # a checkpoint's content


@dataclass(frozen=True, kw_only=True)
class _Launch:
    """How to train, whatever is trained."""

    device: torch.device
    display: Display
    announce: TextIO
    tensorboard: bool

    def start(self, resolved: Recipe, data: str | Path | None, out: Path, *, new: bool) -> Run:
        """Train ``resolved`` in a new run, or go on with the newest unfinished one of the same numbers and images."""
        if data is None:
            self.display.say("no --data (or ZOO_DATA): training on built-in phantom brains")
        images = self._load(data, resolved)
        old = None if new else _unfinished(out, resolved, images)
        if old is not None:
            with old.claim():
                return self._go_on(old, resolved, images, self._state(old))
        trainer = self._trainer(resolved, images)
        fresh = run.create(out, resolved.name)
        with fresh.claim():
            try:
                fresh.write_recipe(resolved)
                fresh.write_info(
                    recipe=resolved.name,
                    recipe_digest=resolved.digest,
                    data=data_package.address(data),
                    data_digest=images.digest,
                    data_description=images.description,
                    window=images.window,
                    command=sys.argv,
                    zoo=version(),
                    status="new",
                    nimg=0,
                    kimg=resolved.train.kimg,
                )
            except OSError as error:
                raise ZooError(f"{fresh.path}: cannot be written ({reason(error)})") from None
            self.display.say(f"{fresh.path}: {resolved.name}, {resolved.train.kimg:g} kimg, on {self.device}")
            return self._train(fresh, trainer, None)

    def resume(self, old: Run, settings: list[str], data: str | Path | None) -> Run:
        """Go on with ``old``, longer or with other cadences where ``settings`` say so."""
        before = recipes.load(old.recipe_file)
        resolved = recipes.load(old.recipe_file, settings)
        same_precision = f"train.precision={before.train.precision}"
        changing = [text for text in settings if before.with_(text, same_precision).digest != before.digest]
        if changing:
            raise ZooError(
                f"{old.path}: {', '.join(changing)} changes its numbers; length, cadences and precision may change on "
                f"resume, for the rest start a new run with --set train.init_from={old.path}"
            )
        info = old.info
        with old.claim():
            state = self._state(old)
            images = self._load(data if data is not None else info["data"], resolved)
            if images.digest != info["data_digest"]:
                raise ZooError(f"{old.path}: was trained on other images ({info['data_description']})")
            return self._go_on(old, resolved, images, state)

    def _load(self, data: str | Path | None, resolved: Recipe) -> Dataset:
        images = data_package.load(data, resolved.data, reporter=self.display)
        images.require(resolved.train.batch)
        self.display.say(images.description)
        return images

    def _state(self, old: Run) -> State | None:
        """The newest whole checkpoint, and a line that says so; None: the run was stopped before its first."""
        state = checkpoint.load_newest(old.state, self.display.warn)
        with contextlib.suppress(BrokenPipeError):  # nobody reads it
            print(f"resuming {old.path} at nimg {_nimg(state)}", file=self.announce, flush=True)
        return state

    def _go_on(self, old: Run, resolved: Recipe, images: Dataset, state: State | None) -> Run:
        nimg = _nimg(state)
        if state is not None:
            torch.set_num_threads(state["environment"]["threads"])
            changed = differences(state["environment"], environment(self.device, resolved.train.precision))
            if changed:
                self.display.say(f"not bit-exact: {', '.join(changed)}")
        if nimg >= resolved.train.kimg * 1000 and old.info["status"] == "finished":
            self.display.say(f"{old.path} is finished; --kimg M beyond {nimg / 1000:g} extends it")
            return old
        old.drop_rows_after(nimg)
        old.write_recipe(resolved)
        trainer = self._trainer(resolved, images, initialise=state is None)
        if state is not None:
            trainer.load_state_dict(state["trainer"])
        return self._train(old, trainer, state)

    def _trainer(self, resolved: Recipe, images: Dataset, *, initialise: bool = True) -> Trainer:
        trainer = Trainer(resolved, images, self.device)
        if initialise and resolved.train.init_from is not None:
            networks = {"G": trainer.G, "D": trainer.D, "ema": trainer.ema.module}
            weights.initialise(resolved.train.init_from, networks, self.display.say)
        return trainer

    def _train(self, folder: Run, trainer: Trainer, state: State | None) -> Run:
        environment_now = environment(self.device, trainer.recipe.train.precision)
        folder.write_info(device=str(self.device), environment=environment_now)
        board = Board(folder, trainer.nimg) if self.tensorboard else None
        before = state or {"elapsed": 0.0}
        elapsed, watch = before["elapsed"], before.get("watch")
        Loop(trainer, folder, self.display, elapsed=elapsed, watch=watch, board=board).train()
        return folder


def _unfinished(out: Path, resolved: Recipe, images: Dataset) -> Run | None:
    """The newest run of the same numbers and images that has not come to its end."""
    for old in reversed(run.find(out, resolved.name)):
        try:
            info = run.open_run(old.path).info
        except (ZooError, ValueError):
            continue
        same = info.get("recipe_digest") == resolved.digest and info.get("data_digest") == images.digest
        if same and info.get("status") != "finished" and not old.locked():
            return old
    return None


def _nimg(state: State | None) -> int:
    return state["trainer"]["nimg"] if state is not None else 0


def _yaml(value: Any) -> str:
    return json.dumps(value, default=os.fspath)
