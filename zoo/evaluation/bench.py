"""Benchmark generators: train recipes, evaluate all alike, write tables and a page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.core.arguments import as_list
from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, describe_error, error_reason
from zoo.core.files import atomic_file
from zoo.core.locks import hold_lock
from zoo.core.options import RENAMED_KEYWORDS, EvaluationOptions, TrainOptions, field_names, with_keywords
from zoo.core.output_place import HTML_SUFFIXES, check_file, check_folder, name_result
from zoo.data.dataset import load_dataset
from zoo.data.sources.memory import as_source
from zoo.data.sources.registry import choose_data
from zoo.evaluation.evaluate_generators import (
    REPORTED,
    EvaluatedGroup,
    GeneratorEvaluator,
    create_evaluator,
    evaluate_one,
)
from zoo.evaluation.targets import (
    AnyTarget,
    FailedTarget,
    find_target,
    is_recipe,
    make_names_unique,
    open_target,
    run_target,
)
from zoo.metrics.ssim import ssim
from zoo.recipes import list_models, load_recipe, override_recipe
from zoo.report.html.page import write_page
from zoo.report.table import bench_markdown
from zoo.runtime.device import choose_device, describe_environment
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.run_folder import Run, find_equal_runs, find_runs
from zoo.training.train import resolve_data, train, with_classes

MAX_SEEDS = 1000  # trainings of one recipe
BENCH_KIMG = 10.0  # thousands of images that each recipe is trained for by default

# Without targets and runs: two architectures at 32 pixels, minutes on two cores.
DEMO_RECIPES = ("dcgan-64", "lean-256")
DEMO_OVERRIDES = ("data.resolution=32", "generator.width=0.5", "discriminator.width=0.5", "train.batch=64")
DEMO_SAMPLES = 500


@torch_defaults()
def bench(
    targets: Sequence[str] = (),
    *,
    training: TrainOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    seeds: int = 1,
    out: str | Path = "bench",
    runs: str | Path = "runs",
    no_reals: bool = False,
    demo: bool = False,
    display: Display | None = None,
    **keywords: Any,
) -> dict[str, Any]:
    """Train recipes, evaluate generators and write the results; the function behind ``zoo bench``.

    Generators of one image shape are evaluated against the same images and ranked together. Finished rows are kept, so
    that the same call continues an interrupted benchmark; all but those in which a metric of a plug-in failed.

    Args:
        targets: runs, files of generators, or recipes, which are trained first; none: all trained runs in ``runs``.
        training: how recipes are trained; ``out`` and ``new`` are ignored, ``kimg`` is 10 by default, and ``data`` and
            ``device`` are by default those of ``evaluation``.
        evaluation: what generators are evaluated by.
        seeds: training seeds of each recipe.
        out: folder of ``results.jsonl``, ``table.md``, ``report.html`` and the benchmark's own runs.
        runs: folder in which names are looked up.
        no_reals: leave real images out of the page.
        demo: train two small recipes on phantoms, and compare these.
        display: where progress is shown; default: stderr.
        **keywords: fields of :class:`EvaluationOptions`, and those of :class:`TrainOptions` that it lacks.

    Returns:
        What table and page show: ``metrics``, ``groups`` of ``rows`` and ``baselines``, ``notes``.

    Raises:
        ZooError: bad input, or no generator can be evaluated. A failed row raises nothing, but has an ``error``.
    """
    # `data` and `device` are fields of both: of the evaluation here, from where training takes them below.
    names = set(field_names(TrainOptions)) - set(field_names(EvaluationOptions))
    training_keywords = {key: keywords.pop(key) for key in [*keywords] if RENAMED_KEYWORDS.get(key, key) in names}
    training = with_keywords(training or TrainOptions(), training_keywords, function="bench", depth=3)
    evaluation = with_keywords(evaluation or EvaluationOptions(), keywords, function="bench", depth=3)
    display, out, runs = display or Display(), Path(out), Path(runs)
    _check_training(training, seeds)
    if training.device == "auto":
        training = replace(training, device=evaluation.device)
    choose_device(training.device)
    # $ZOO_DATA is for training only: runs are evaluated against the images they were trained on.
    training = resolve_data(training)
    data = training.data if training.data is not None else as_source(evaluation.data)
    training = replace(training, data=choose_data(data))
    words = [os.fspath(target) for target in as_list(targets)]
    # Runs without a checkpoint are left out here, but reported if they are named.
    if demo:
        words, training, evaluation = [*words, *DEMO_RECIPES], *_demo_options(training, evaluation)
    words = words or [str(run.path) for run in find_runs(runs) if run.generator_file.is_file()]
    if not words:
        raise ZooError(
            f"no trained runs in {runs}. Name recipes to train and compare (`zoo bench dcgan-64 --kimg 20`), or add "
            f"--demo: it trains {' and '.join(DEMO_RECIPES)} at 32 pixels on phantoms, ten minutes on two cores"
        )
    evaluator = create_evaluator(evaluation, cache=out / "judged", display=display)
    variants = _VariantTrainer(training, seeds, out / "runs", display)
    planned = _look_up(words, runs, variants)
    untrained = [item for item in planned if isinstance(item, list)]
    if not untrained and (training.set or seeds > 1 or (training.kimg, training.precision) != (None, None)):
        flags = "--set, --seeds, --kimg and --precision"
        display.warn(f"{flags} apply to recipes; runs and files are evaluated as they are")
    # Missing or unreadable data are errors now and not after the first training.
    for recipes in untrained:
        load_dataset(training.data, recipes[0].data, reporter=display)
    check_folder(out)
    with hold_lock(out / ".lock", f"{out}: another benchmark is writing there. Wait for it, or name another --out."):
        opened: list[AnyTarget] = []
        for item in planned:
            opened += [variants.train(recipe) for recipe in item] if isinstance(item, list) else [item]
        groups, failed = evaluator.groups(make_names_unique(opened))
        if not groups:
            # A document without any group would be an empty page.
            raise ZooError("; ".join(f"{row.name}: {row.error}" for row in failed))
        document = _document("zoo bench", "bench", evaluator, groups)
        _write_results(out, document)
        _write_page(out / "report.html", document, groups, no_reals=no_reals)
    return document


@torch_defaults()
def report(
    target: str | Path,
    *,
    evaluation: EvaluationOptions | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    no_reals: bool = False,
    display: Display | None = None,
    **keywords: Any,
) -> Path:
    """Write the page of one generator and return its path; the function behind ``zoo report``.

    Args:
        target: a run, the file of a generator, or the name of pretrained weights.
        evaluation: what it is evaluated by.
        out: the page; default: ``report.html`` in the run's folder, ``<name>-report.html`` next to a file, and in the
            working directory for pretrained weights.
        runs, no_reals, display: as in :func:`bench`.
        **keywords: fields of :class:`EvaluationOptions`.

    Raises:
        ZooError: as in :func:`bench`, or the generator cannot be evaluated.
    """
    options = with_keywords(evaluation or EvaluationOptions(), keywords, function="report", depth=3)
    options = options if options.metrics is not None else replace(options, metrics=REPORTED)
    opened = find_target(os.fspath(target), runs)
    page = "report.html" if opened.kind == "run" else f"{name_result(opened.name)}-report.html"
    # Pretrained weights lie in the package or the cache, which are no places for a page.
    folder = opened.weights.parent if opened.kind == "run" or Path(target).is_file() else Path()
    path = Path(out) if out is not None else folder / page
    check_file(path, HTML_SUFFIXES, "a report")
    evaluator, group = evaluate_one(opened, options, display or Display())
    _write_page(path, _document(opened.name, "report", evaluator, [group]), [group], no_reals=no_reals)
    return path


def failed_rows(document: Mapping[str, Any]) -> list[str]:
    """Return one line for each generator that could not be trained or evaluated."""
    rows = [row for group in document["groups"] for row in group["rows"]]
    lines = [f"{row['name']}: {row['error']}" for row in rows if row["error"] is not None]
    for row in rows:
        lines += [f"{row['name']}: a training seed failed: {error}" for error in row.get("failed", [])]
    return lines


@dataclass(frozen=True)
class _VariantTrainer:
    """Trains recipes for a benchmark, unless an earlier call has done so."""

    options: TrainOptions
    seeds: int
    out: Path
    display: Display

    @property
    def kimg(self) -> float:
        return BENCH_KIMG if self.options.kimg is None else self.options.kimg

    def recipes(self, name: str) -> list[Recipe]:
        """Return the recipe with its overrides, once per training seed.

        Raises:
            ZooError: an invalid recipe or override.
        """
        overrides = [*self.options.set, f"train.kimg={self.kimg!r}"]
        if self.options.precision is not None:
            overrides.append(f"train.precision={self.options.precision}")
        return [load_recipe(name, [*overrides, f"train.seed={seed}"]) for seed in range(self.seeds)]

    def train(self, recipe: Recipe) -> AnyTarget:
        """Train a recipe, or return the run of an earlier call."""
        group = f"{recipe.name} {override_recipe(recipe, 'train.seed=0').digest}"  # the same for all seeds
        images = load_dataset(self.options.data, recipe.data, reporter=self.display)
        run = self._find_run(with_classes(recipe, images), images.digest)
        # The recipe contains these already.
        options = replace(self.options, out=self.out, new=False, kimg=None, precision=None, set=())
        try:
            run = run or train(recipe, options=options, display=self.display, announce=sys.stderr)
        except Interrupted:  # saved, and continued by the next call
            raise
        except Exception as error:  # such as no memory: the other recipes can still be trained
            reason = describe_error(error)
            self.display.warn(f"{recipe.name}: {reason}")
            return FailedTarget(name=recipe.name, kind="variant", group=group, error=reason, recipe=recipe)
        return replace(run_target(run, recipe.name, "variant"), group=group)

    def _find_run(self, recipe: Recipe, data_digest: str) -> Run | None:
        """Return the finished run of the same recipe, images and length."""
        nimg = recipe.train.batches.end(round(self.kimg * 1000))  # training stops after a whole batch
        for run, info in find_equal_runs(self.out, recipe.name, recipe.digest, data_digest):
            if (info["status"], info["nimg"]) == ("finished", nimg) and run.generator_file.is_file():
                return run
        return None


def _check_training(training: TrainOptions, seeds: int) -> None:
    if not 1 <= seeds <= MAX_SEEDS:
        raise ZooError(f"--seeds {seeds}: must be at least 1, and at most {MAX_SEEDS}")
    if training.kimg is not None and not 0 < training.kimg < float("inf"):
        raise ZooError(f"--kimg {training.kimg:g}: must be above 0")
    if training.epochs is not None or training.hours is not None:
        raise ZooError("the recipes of a benchmark are equally long: give their length as kimg, not as epochs or hours")
    flags = {"train.seed": "--seeds K, which trains with 0 to K - 1", "train.kimg": "--kimg N"}
    for key in (text.partition("=")[0].strip() for text in training.set):
        if key in flags:
            raise ZooError(f"--set {key}: is set by the benchmark. Use {flags[key]}.")


def _demo_options(training: TrainOptions, evaluation: EvaluationOptions) -> tuple[TrainOptions, EvaluationOptions]:
    """Return options for the two small recipes that are trained if there are no runs."""
    samples = DEMO_SAMPLES if evaluation.num_samples is None else evaluation.num_samples
    data = "phantoms" if training.data is None else training.data
    training = replace(training, set=[*DEMO_OVERRIDES, *training.set], data=data)
    return training, replace(evaluation, num_samples=samples)


def _look_up(words: Sequence[str], runs: Path, variants: _VariantTrainer) -> list[AnyTarget | list[Recipe]]:
    """Return what each word names, recipes once per seed; repeated words are left out.

    Everything is looked up before anything is trained, so that a typing error is reported at once.
    """
    planned: dict[str, AnyTarget | list[Recipe]] = {}
    for word in words:
        if is_recipe(word):
            recipes = variants.recipes(word)
            planned.setdefault(f"{recipes[0].name} {recipes[0].digest}", recipes)
        else:
            target = open_target(word, runs, recipes=list_models())
            planned.setdefault(target.group, target)
    return list(planned.values())


def _document(title: str, kind: str, evaluator: GeneratorEvaluator, groups: Sequence[EvaluatedGroup]) -> dict[str, Any]:
    return {
        "title": title,
        "kind": kind,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["zoo", *sys.argv[1:]]),
        "environment": {**describe_environment(evaluator.device, "fp32"), "ssim_engine": ssim.engine()},
        "metrics": [metric.to_json() for metric in evaluator.columns],
        "groups": [group.to_json() for group in groups],
        "notes": evaluator.notes,
    }


def _write_results(out: Path, document: dict[str, Any]) -> None:
    """Write ``results.jsonl`` and ``table.md``."""
    try:
        with atomic_file(out / "results.jsonl", "w") as file:
            for group in document["groups"]:
                for row in [*group["rows"], *group["baselines"]]:
                    # The row comes last of these: failed ones say themselves that they belong to no group.
                    line = {"group": group["name"], "data_digest": group["data"]["digest"], **row}
                    file.write(json.dumps({**line, "versions": document["environment"]}) + "\n")
        with atomic_file(out / "table.md", "w") as file:
            file.write(bench_markdown(document))
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None


def _write_page(path: Path, document: dict[str, Any], groups: Sequence[EvaluatedGroup], *, no_reals: bool) -> None:
    images = {name: row_images for group in groups for name, row_images in group.images.items()}
    try:
        write_page(path, document, images, {group.name: group.real_images for group in groups}, no_reals=no_reals)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error_reason(error)})") from None
