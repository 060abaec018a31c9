"""From a recipe's name to a trained run: find the data and the device, start a run or continue one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch

from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.core.files import cache_folder
from zoo.core.options import TrainOptions, with_keywords
from zoo.data.dataset import load_dataset
from zoo.data.labels import LABEL_COLUMN
from zoo.data.sources.memory import as_source
from zoo.data.sources.registry import choose_data
from zoo.recipes import keyword_overrides, load_recipe, override_recipe
from zoo.runtime import distributed
from zoo.runtime.device import choose_device, keep_thread_count
from zoo.runtime.speed import Speed, set_compile_cache
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.callbacks import check_callbacks
from zoo.training.log_writers import check_loggers
from zoo.training.notebook import NotebookDisplay, choose_display
from zoo.training.resume import Session, with_classes
from zoo.training.run_folder import Run, find_run
from zoo.training.run_length import StopAtTime
from zoo.training.trainer import Trainer

if TYPE_CHECKING:
    from zoo.training.profiling.profiler import StepProfile


@torch_defaults(gradients=True)
def train(
    recipe: str | Path | Recipe | None = None,
    *,
    resume: str | Path | None = None,
    options: TrainOptions | None = None,
    display: Display | None = None,
    announce: TextIO | None = None,
    **keywords: Any,
) -> Run:
    """Train a recipe, or continue a run, and return the run; ``run.path`` is its folder.

    The same call again continues the newest unfinished run of the same resolved recipe and data that is no longer than
    the recipe asks for. Under ``torchrun`` all processes train one run, each on its own GPU or its share of the CPU.

    Args:
        recipe: name of a recipe, path of a YAML file, or a :class:`Recipe`; None with ``resume``.
        resume: folder or name of a run to continue, finished or not; a larger ``kimg`` extends a finished one.
        options: how to train. Signals are left to the caller, whose ``stop`` is asked after every step.
        display: where progress is shown; default: stderr, or below the cell of a notebook.
        announce: where the line ``resuming RUN at nimg N`` goes; default: stdout.
        **keywords: fields of :class:`TrainOptions` (``data="slices/"``, ``kimg=100``), and overrides of the recipe with
            double underscores for dots (``train__batch=32``).

    Raises:
        ZooError: bad input, in one line; or the run diverged.
        zoo.core.errors.Interrupted: ``stop`` returned a true value.
    """
    options = resolve_data(_merge_keywords(options, keywords))
    overrides = _overrides(options)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if options.deterministic != torch.are_deterministic_algorithms_enabled():  # the call takes seconds of imports
        torch.use_deterministic_algorithms(options.deterministic)
    loggers = check_loggers(options.loggers, *(["tensorboard"] if options.tensorboard else []))
    check_callbacks(options.callbacks)
    if recipe is not None and resume is not None:
        raise ZooError("Give a recipe or --resume RUN, not both.")
    if resume is not None and options.new:
        raise ZooError("--resume RUN continues a run, and --new starts one: leave one of them out.")
    if recipe is None and resume is None:
        raise ZooError("Give a recipe's name or file, or --resume RUN. `zoo list` shows the recipes.")
    _check_length(options)
    device = choose_device(options.device)
    display = display or choose_display()
    set_compile_cache(cache_folder() / "compiled", display.warn)
    with distributed.join_world(device) as world:
        session = Session(
            device=device,
            display=display if world.first else Display(quiet=True),
            announce=announce or sys.stdout,
            loggers=loggers,
            callbacks=[*options.callbacks, *([display] if isinstance(display, NotebookDisplay) else [])],
            stop=options.stop if options.hours is None else StopAtTime(3600 * options.hours, options.stop),
            epochs=options.epochs,
        )
        with _explain_lost_peers(world), keep_thread_count():
            if resume is not None:
                return session.resume(find_run(resume, Path(options.out)), overrides, options.data)
            assert recipe is not None
            resolved = _resolve(recipe, overrides)
            # torchrun starts a group again after a crash: it must continue, and not start a new run once more.
            restarted = distributed.was_restarted()
            new = options.new and not restarted
            data = choose_data(options.data)
            return session.start(resolved, data, Path(options.out), new=new, restarted=restarted)


@torch_defaults(gradients=True)
def profile_recipe(
    recipe: str | Path | Recipe,
    *,
    options: TrainOptions | None = None,
    seconds: float = 10.0,
    display: Display | None = None,
    **keywords: Any,
) -> tuple[StepProfile, Speed]:
    """Measure where a step of ``recipe`` spends its time on this machine; nothing is written.

    Args:
        recipe, options, display, keywords: as in :func:`train`.
        seconds: approximate duration of each measurement.

    Returns:
        The profile, and the speed switches that are on.

    Raises:
        ZooError: bad input, in one line.
    """
    from zoo.training.profiling.profiler import profile_steps  # torch's counter of operations loads slowly

    options = resolve_data(_merge_keywords(options, keywords))
    resolved = _resolve(recipe, _overrides(options))
    display = display or Display()
    set_compile_cache(cache_folder() / "compiled", display.warn)
    images = load_dataset(choose_data(options.data), resolved.data, reporter=display)
    images.require(max(resolved.train.batches.sizes))
    resolved = with_classes(resolved, images)
    with keep_thread_count():
        trainer = Trainer(resolved, images, choose_device(options.device), reporter=display)
        display.say(f"{images.description}: {trainer.loader.where}")
        with contextlib.closing(trainer.loader):
            return profile_steps(trainer, seconds), trainer.speed


def _check_length(options: TrainOptions) -> None:
    if options.kimg is not None and options.epochs is not None:
        raise ZooError("--kimg and --epochs both set the length; give one of them")
    for name in ("epochs", "hours"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ZooError(f"--{name} {value:g}: must be above 0")


def _merge_keywords(options: TrainOptions | None, keywords: dict[str, Any]) -> TrainOptions:
    fields = {key: value for key, value in keywords.items() if "__" not in key}
    overrides = keyword_overrides({key: value for key, value in keywords.items() if "__" in key}, "train")
    options = with_keywords(options or TrainOptions(), fields, function="train", depth=4)
    return replace(options, set=[*options.set, *overrides])


def _overrides(options: TrainOptions) -> list[str]:
    overrides = list(options.set)
    if options.kimg is not None:
        overrides.append(f"train.kimg={options.kimg}")
    if options.precision is not None:
        overrides.append(f"train.precision={options.precision}")
    return overrides


def _resolve(recipe: str | Path | Recipe, overrides: Sequence[str]) -> Recipe:
    return override_recipe(recipe, *overrides) if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)


def resolve_data(options: TrainOptions) -> TrainOptions:
    """Return options whose data are a path or a source, with the subjects and labels in it.

    Raises:
        ZooError: arrays or lists that do not fit.
    """
    data = as_source(options.data, subjects=options.subjects, labels=options.labels)
    overrides = list(options.set)
    if options.labels is not None and options.labels is not False:
        overrides.append(f"data.labels={LABEL_COLUMN}")
    return replace(options, data=data, subjects=None, labels=None, set=overrides)


@contextlib.contextmanager
def _explain_lost_peers(world: distributed.World) -> Iterator[None]:
    """Turn the failure of a collective whose other processes are gone into one line."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not distributed.is_lost_peer(error):
            raise
        raise ZooError(
            f"another process of this run ended ({str(error).splitlines()[0]}); the last checkpoint is intact, and the "
            "same command continues from it"
        ) from None
