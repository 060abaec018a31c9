"""What a word on the command line stands for: a run, a generator's file, pretrained weights, or a recipe to train."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, describe_error, suggest
from zoo.core.options import TrainOptions
from zoo.data.dataset import load_dataset
from zoo.evaluation.results import FailedTarget, Target
from zoo.hub import pretrained
from zoo.recipes import list_models, load_recipe, override_recipe
from zoo.training.generator_file import load_generator_file
from zoo.training.resume import with_classes
from zoo.training.run_folder import Run, find_equal_runs, find_runs, open_run
from zoo.training.train import train

AnyTarget = Target | FailedTarget
Variant = list[Recipe]  # one recipe with each of its training seeds


def find_target(word: str | Path, runs: str | Path) -> Target:
    """The trained run, the generator's file or the pretrained weights that ``word`` names.

    Raises:
        ZooError: unknown, or it cannot be evaluated.
    """
    target = _find_generator(str(word), Path(runs))
    if target is None:
        known = [*pretrained.load_catalogue(), *(run.name for run in find_runs(Path(runs)))]
        raise ZooError(f"no run or file {str(word)!r}{suggest(str(word), known)}")
    if isinstance(target, FailedTarget):
        raise ZooError(f"{word}: {target.error}")
    return target


def find_targets(words: Sequence[str], runs: Path, training: VariantTraining) -> list[AnyTarget | Variant]:
    """What each word names, each thing once; a recipe stands for its variants.

    Raises:
        ZooError: a word names nothing, or a recipe does not fit.
    """
    targets: dict[str, AnyTarget | Variant] = {}
    for word in words:
        target = training.variant(word) if _is_recipe(word) else _find_generator(word, runs)
        if target is None:
            known = [*list_models(), *pretrained.load_catalogue(), *(run.name for run in find_runs(runs))]
            raise ZooError(f"no run, file or recipe {word!r}{suggest(word, known)}")
        identity = f"{target[0].name} {target[0].digest}" if isinstance(target, list) else target.group
        targets[identity] = target
    return list(targets.values())


def distinguish(targets: Sequence[AnyTarget]) -> list[AnyTarget]:
    """Give each group a name that no other has: runs and files by path, variants by digest, where names clash."""
    groups: dict[str, set[str]] = {}
    for target in targets:
        groups.setdefault(target.name, set()).add(target.group)
    renamed: list[AnyTarget] = []
    for target in targets:
        name = target.name
        if len(groups[name]) > 1 and target.kind == "variant":
            name = f"{name} ({target.group[-8:]})"
        elif len(groups[name]) > 1:
            name = str(target.weights) if isinstance(target, Target) else target.group
        renamed.append(replace(target, name=name))
    return renamed


class VariantTraining:
    """Trains recipes before they are evaluated, and finds those that are trained already.

    Args:
        options: how to train; ``out`` is the bench's own folder of runs.
        seeds: training seeds of each recipe.
    """

    def __init__(self, options: TrainOptions, seeds: int, display: Display) -> None:
        assert options.kimg is not None
        self.options, self.seeds, self.display = options, seeds, display
        self.kimg: float = options.kimg

    def variant(self, name: str) -> Variant:
        """The recipe ``name`` with all overrides, once for each training seed.

        Raises:
            ZooError: something in it, or in an override, does not fit.
        """
        overrides = [*self.options.set, f"train.kimg={self.kimg!r}"]
        if self.options.precision is not None:
            overrides.append(f"train.precision={self.options.precision}")
        return [load_recipe(name, [*overrides, f"train.seed={seed}"]) for seed in range(self.seeds)]

    def train(self, recipe: Recipe) -> AnyTarget:
        """Train a recipe, unless that is done; a seed that cannot be trained becomes a :class:`FailedTarget`."""
        group = f"{recipe.name} {override_recipe(recipe, 'train.seed=0').digest}"
        images = load_dataset(self.options.data, recipe.data, reporter=self.display)
        run, new = self._find_trained(with_classes(recipe, images), images.digest)
        # The recipe holds all overrides already.
        options = replace(self.options, kimg=None, precision=None, set=(), new=new)
        try:
            run = run or train(recipe, options=options, display=self.display, announce=sys.stderr)
        except Interrupted:
            raise
        except Exception as error:  # such as no memory: the others can still be trained
            why = describe_error(error)
            self.display.warn(f"{recipe.name}: {why}")
            return FailedTarget(name=recipe.name, kind="variant", group=group, recipe=recipe, error=why)
        return replace(_run_target(run, recipe.name, "variant"), group=group)

    def _find_trained(self, recipe: Recipe, data_digest: str) -> tuple[Run | None, bool]:
        """A finished run of the same numbers, images and length; and whether a new run must be started, because an
        unfinished one is longer and must not be continued.
        """
        batch = recipe.train.batch
        length = -(-round(self.kimg * 1000) // batch) * batch  # images, in whole batches
        new = False
        for run, info in find_equal_runs(Path(self.options.out), recipe.name, recipe.digest, data_digest):
            if info["status"] == "finished" and info["nimg"] == length and run.generator_file.is_file():
                return run, False
            new = new or (info["status"] != "finished" and info["nimg"] > length)
        return None, new


def _is_recipe(word: str) -> bool:
    return word.endswith((".yaml", ".yml")) or word in list_models()


def _find_generator(word: str, runs: Path) -> AnyTarget | None:
    """The file, the run or the pretrained weights called ``word``."""
    path = Path(word)
    if not path.exists() and (runs / word).is_dir():
        path = runs / word
    group = str(path.resolve())
    if path.is_file():
        try:
            recipe = load_generator_file(path)[1]
        except ZooError as error:
            return FailedTarget(name=path.name, kind="file", group=group, error=str(error))
        return Target(name=path.stem, kind="file", group=group, weights=path, recipe=recipe, run=_run_of(path))
    if path.is_dir():
        try:
            run = open_run(path)
            if not run.generator_file.is_file():
                raise ZooError(f"{path}: has no generator.safetensors yet; the first checkpoint writes it")
            return _run_target(run, run.name, "run")
        except ZooError as error:
            return FailedTarget(name=path.name, kind="run", group=group, error=str(error))
    entries = pretrained.load_catalogue()
    if word in entries:
        weights = entries[word].path(Display())
        return Target(name=word, kind="file", group=word, weights=weights, recipe=load_generator_file(weights)[1])
    return None


def _run_target(run: Run, name: str, kind: str) -> Target:
    recipe = load_recipe(run.recipe_file)
    return Target(
        name=name, kind=kind, group=str(run.path.resolve()), weights=run.generator_file, recipe=recipe, run=run
    )


def _run_of(file: Path) -> Run | None:
    """The run that a generator's file is in, if any."""
    try:
        return open_run(file.parent)
    except ZooError:
        return None
