"""Find the generator that a word on the command line names: a run, a file or pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from zoo.core.arguments import refuse_empty_name
from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError, shorten, suggest
from zoo.core.files import is_file, is_folder
from zoo.hub.load import explain_missing_weights, require_weights
from zoo.hub.model_repository import CONFIG, fetch_weights, find_weights, is_hub_address
from zoo.hub.pretrained import load_named_weights
from zoo.recipes import list_models, load_recipe
from zoo.training.generator_file import load_generator_file
from zoo.training.run_folder import Run, find_runs, open_run


@dataclass(frozen=True, kw_only=True)
class Target:
    """A generator to evaluate.

    Attributes:
        name: in tables.
        kind: ``run``, ``file`` or ``variant`` (a recipe that a benchmark trains).
        group: the same text for the training seeds of one variant, and unique otherwise.
        weights: file of the generator.
        recipe: how it was trained.
        run: its run; None: the file is in no run folder.
    """

    name: str
    kind: str
    group: str
    weights: Path
    recipe: Recipe
    run: Run | None = None


@dataclass(frozen=True, kw_only=True)
class FailedTarget:
    """A generator that cannot be evaluated.

    Attributes:
        name, kind, group: as of :class:`Target`.
        error: why, on one line.
        recipe: what could not be trained; None: a run or file that could not be read.
    """

    name: str
    kind: str
    group: str
    error: str
    recipe: Recipe | None = None


AnyTarget: TypeAlias = Target | FailedTarget


def find_target(word: str, runs: str | Path) -> Target:
    """Return the run, the file or the pretrained weights that ``word`` names.

    Args:
        word: path or name.
        runs: folder in which names of runs are looked up.

    Raises:
        ZooError: nothing of this name, or it is damaged.
    """
    target = open_target(word, Path(runs))
    if isinstance(target, FailedTarget):
        raise ZooError(f"{word}: {target.error}")
    return target


def open_target(word: str, runs: Path, *, recipes: Sequence[str] = ()) -> AnyTarget:
    """Return like :func:`find_target`, but report damaged runs and files as :class:`FailedTarget`.

    Args:
        recipes: names that are also allowed, for the suggestion in the error's text.

    Raises:
        ZooError: nothing of this name.
    """
    refuse_empty_name(word)
    if is_hub_address(word):  # before paths, which no address is
        weights = fetch_weights(word)
        return Target(name=word, kind="file", group=word, weights=weights, recipe=load_generator_file(weights)[1])
    path = Path(word)
    # A path comes before a name in `runs`, as for load_generator().
    if not (is_file(path) or is_folder(path)) and is_folder(runs / word):
        path = runs / word
    # The name of a recipe never means a folder here that happens to have the same name.
    if not is_recipe(word):
        if is_file(path):
            return _open_file(path)
        if is_folder(path):
            return _open_published(path) if is_file(path / CONFIG) else _open_run(path)
    for run in reversed(find_runs(runs, word)):  # the newest that has reached a checkpoint
        if run.generator_file.is_file():
            return _open_run(run.path)
    pretrained = load_named_weights()
    if word in pretrained:  # after runs and files, which are the user's own
        weights = pretrained[word].path(Display())
        return Target(name=word, kind="file", group=word, weights=weights, recipe=load_generator_file(weights)[1])
    if is_recipe(word):
        raise ZooError(explain_missing_weights(word, runs))
    known = [*recipes, *pretrained, *(run.name for run in find_runs(runs))]
    kinds = "no run, file or recipe" if recipes else "no run or file"
    raise ZooError(f"{kinds} {shorten(word, 200)}{suggest(word, known)}")


def run_target(run: Run, name: str, kind: str) -> Target:
    """Return the generator of a run that has written one."""
    recipe = load_recipe(run.recipe_file)
    group = str(run.path.resolve())
    return Target(name=name, kind=kind, group=group, weights=run.generator_file, recipe=recipe, run=run)


def is_recipe(word: str) -> bool:
    """Return whether ``word`` names a recipe, of the package or in a YAML file."""
    return word.endswith((".yaml", ".yml")) or word in list_models()


def make_names_unique(targets: Sequence[AnyTarget]) -> list[AnyTarget]:
    """Rename targets of equal names but different groups: runs and files by path, variants by digest."""
    groups: dict[str, set[str]] = {}
    for target in targets:
        groups.setdefault(target.name, set()).add(target.group)
    # Names identify rows and their images on the page, where equal ones would hide each other.
    renamed = []
    for target in targets:
        name = target.name
        if len(groups[name]) > 1:
            place = target.weights if isinstance(target, Target) else target.group
            name = f"{name} ({target.group[-8:]})" if target.kind == "variant" else str(place)
        renamed.append(replace(target, name=name))
    return renamed


def _open_file(path: Path) -> AnyTarget:
    group = str(path.resolve())
    try:
        recipe = load_generator_file(path)[1]
    except ZooError as error:
        return FailedTarget(name=path.name, kind="file", group=group, error=str(error))
    try:
        run = open_run(path.parent)  # whose training data the generator is evaluated against
    except ZooError:
        run = None
    return Target(name=path.stem, kind="file", group=group, weights=path, recipe=recipe, run=run)


def _open_published(path: Path) -> AnyTarget:
    """Open a folder of ``zoo publish`` or ``save_pretrained``."""
    try:
        return replace(_open_file(find_weights(path)), name=path.resolve().name)
    except ZooError as error:
        return FailedTarget(name=path.resolve().name, kind="file", group=str(path.resolve()), error=str(error))


def _open_run(path: Path) -> AnyTarget:
    try:
        run = open_run(path)
        require_weights(run)  # before the recipe, which a run has from its start
        return run_target(run, run.name, "run")
    except ZooError as error:
        return FailedTarget(name=path.name, kind="run", group=str(path.resolve()), error=str(error))
