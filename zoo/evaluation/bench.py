"""Compare generators: train what is not trained yet, evaluate all alike, and write a table and a page."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.core.console import Display
from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file, cache_folder
from zoo.core.options import EvaluationOptions, TrainOptions, with_keywords
from zoo.data.dataset import load_dataset
from zoo.evaluation.evaluate_generators import EvaluatedGroup, GeneratorEvaluator
from zoo.evaluation.results import Target
from zoo.evaluation.targets import AnyTarget, VariantTraining, distinguish, find_target, find_targets
from zoo.metrics.ssim import ssim
from zoo.report.html.page import write_page
from zoo.report.table import bench_markdown
from zoo.runtime.device import describe_environment
from zoo.training.run_folder import find_runs

DEFAULT_KIMG = 10.0  # thousands of images each recipe is trained for

# Without runs and names: two architectures at 32 pixels, a matter of minutes on two cores.
SMALL_SET = ("dcgan-64", "lean-256")
SMALL_SETTINGS = ("data.resolution=32", "generator.width=0.5", "discriminator.width=0.5", "train.batch=64")
SMALL_NUM_SAMPLES = 500

_Document = dict[str, Any]


def bench(
    targets: Sequence[str] = (),
    *,
    training: TrainOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    seeds: int = 1,
    out: str | Path = "bench",
    runs: str | Path = "runs",
    no_reals: bool = False,
    display: Display | None = None,
    **keywords: Any,
) -> _Document:
    """Evaluate generators next to baselines, and write ``results.jsonl``, ``table.md`` and ``report.html``.

    Generators of one image shape are ranked together. What was evaluated before with the same weights, images and
    metrics is not evaluated again, so that a killed bench continues where it was.

    Args:
        targets: runs, generators' files, or recipes, which are trained first; none: all trained runs in ``runs``, else
            a small set on phantoms.
        training: how recipes are trained; its ``data`` is that of ``evaluation`` if None.
        evaluation: what to evaluate by.
        seeds: training seeds of each recipe.
        out: folder of the results and of the bench's own runs.
        runs: folder in which names are looked up.
        no_reals: leave real images out of the page.
        display: where progress is shown; default: stderr.
        **keywords: fields of both options; ``data`` and ``device`` count for both.

    Returns:
        What table and page show: ``metrics``, ``groups`` of ``rows`` and ``baselines``, ``notes``.

    Raises:
        ZooError: bad input, or nothing that can be evaluated. A failed row raises nothing: it has an ``error``.
    """
    display = display or Display()
    training, evaluation = _split_keywords(training, evaluation, keywords)
    _check(training, seeds)
    out, runs = Path(out), Path(runs)
    data = training.data or evaluation.data or os.environ.get("ZOO_DATA") or None
    training = replace(
        training, data=data, device=evaluation.device, out=out / "runs", kimg=training.kimg or DEFAULT_KIMG
    )
    words = [os.fspath(target) for target in targets]
    words = words or [str(run.path) for run in find_runs(runs) if run.generator_file.is_file()]
    if not words:
        where = "built-in phantom brains" if data is None else f"{data}"
        display.say(f"no trained runs in {runs}: training {' and '.join(SMALL_SET)}, small, on {where}")
        words = list(SMALL_SET)
        training = replace(training, set=[*SMALL_SETTINGS, *training.set], data=data or "phantoms")
        evaluation = replace(evaluation, num_samples=evaluation.num_samples or SMALL_NUM_SAMPLES)
    evaluator = GeneratorEvaluator(evaluation, cache=out / "judged", display=display)
    variants = VariantTraining(training, seeds, display)
    # Everything is looked up before anything is trained: a mistake is reported at once.
    found = find_targets(words, runs, variants)
    is_training = any(isinstance(target, list) for target in found)
    if not is_training and (training.set or seeds > 1 or training.kimg != DEFAULT_KIMG):
        display.warn("--set, --seeds and --train-kimg affect the training of recipes; runs and files stay as they are")
    for target in found:
        if isinstance(target, list):
            load_dataset(training.data, target[0].data, reporter=display)
    _check_writable(out)
    groups, failed = evaluator.groups(distinguish(_train_variants(found, variants)))
    if not groups:
        raise ZooError("; ".join(f"{row.name}: {row.error}" for row in failed) or "nothing to evaluate")
    document = _document("zoo bench", "bench", evaluator, groups)
    _write_results(out, document, groups, no_reals=no_reals)
    return document


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
    """Write the page of one generator, and return its path.

    Args:
        target: a run, a generator's file, or the name of pretrained weights.
        evaluation: what to evaluate by.
        out: the page; default: ``report.html`` in the run folder, for pretrained weights in the current folder.
        runs, no_reals, display: as for :func:`bench`.
        **keywords: fields of :class:`EvaluationOptions`.

    Raises:
        ZooError: as :func:`bench`, or the generator cannot be evaluated.
    """
    display = display or Display()
    evaluation = with_keywords(evaluation or EvaluationOptions(), keywords, function="report")
    found = find_target(target, runs)
    name = "report.html" if found.kind == "run" else f"{found.name}-report.html"
    folder = found.weights.parent if found.kind == "run" or Path(target).is_file() else Path()
    page = Path(out) if out is not None else folder / name
    evaluator, groups = evaluate_target(found, evaluation, display)
    _write_page(page, _document(found.name, "report", evaluator, groups), groups, no_reals=no_reals)
    return page


def evaluate_target(
    target: Target, evaluation: EvaluationOptions, display: Display
) -> tuple[GeneratorEvaluator, list[EvaluatedGroup]]:
    """Evaluate one generator: its row, in the only group, and the evaluator.

    Raises:
        ZooError: it cannot be evaluated.
    """
    evaluator = GeneratorEvaluator(evaluation, cache=cache_folder() / "judged", display=display)
    groups, failed = evaluator.groups([target])
    failed += [row for group in groups for row in group.rows if row.error is not None]
    if failed:
        raise ZooError(f"{target.name}: {failed[0].error}")
    return evaluator, groups


def failed_rows(document: Mapping[str, Any]) -> list[str]:
    """A line for each row, and each training seed of a row, that failed."""
    rows = [row for group in document["groups"] for row in group["rows"]]
    lines = [f"{row['name']}: {row['error']}" for row in rows if row["error"] is not None]
    for row in rows:
        lines += [f"{row['name']}: a training seed failed: {why}" for why in row.get("failed", [])]
    return lines


def _split_keywords(
    training: TrainOptions | None, evaluation: EvaluationOptions | None, keywords: Mapping[str, Any]
) -> tuple[TrainOptions, EvaluationOptions]:
    """The options with flat keywords applied, each to the dataclass that has such a field."""
    for_training, for_evaluation = {}, {}
    for key, value in keywords.items():
        if key in ("kimg", "train_kimg", "precision", "set", "stop"):
            for_training[key] = value
        else:
            for_evaluation[key] = value
    training = with_keywords(training or TrainOptions(), for_training, function="bench", depth=3)
    return training, with_keywords(evaluation or EvaluationOptions(), for_evaluation, function="bench", depth=3)


def _check(training: TrainOptions, seeds: int) -> None:
    if seeds < 1:
        raise ZooError(f"--seeds {seeds}: must be at least 1")
    if training.kimg is not None and not training.kimg > 0:
        raise ZooError(f"--train-kimg {training.kimg:g}: must be above 0")
    keys = {text.partition("=")[0].strip() for text in training.set}
    for key, instead in (("train.seed", "--seeds K trains with 0 to K - 1"), ("train.kimg", "use --train-kimg N")):
        if key in keys:
            raise ZooError(f"--set {key}: cannot be set in a bench; {instead}")


def _train_variants(targets: Sequence[AnyTarget | list[Any]], variants: VariantTraining) -> list[AnyTarget]:
    trained: list[AnyTarget] = []
    for target in targets:
        trained += [variants.train(recipe) for recipe in target] if isinstance(target, list) else [target]
    return trained


def _check_writable(out: Path) -> None:
    """Create the folder and check that it takes files, before hours are spent on what is written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None


def _document(title: str, kind: str, evaluator: GeneratorEvaluator, groups: Sequence[EvaluatedGroup]) -> _Document:
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


def _write_results(out: Path, document: _Document, groups: Sequence[EvaluatedGroup], *, no_reals: bool) -> None:
    """Write ``results.jsonl``, ``table.md`` and ``report.html``, each completely or not at all."""
    try:
        with atomic_file(out / "results.jsonl", "w") as file:
            for group in document["groups"]:
                for row in [*group["rows"], *group["baselines"]]:
                    line = {"group": group["name"], "data_digest": group["data"]["digest"], **row}
                    file.write(json.dumps({**line, "versions": document["environment"]}) + "\n")
        with atomic_file(out / "table.md", "w") as file:
            file.write(bench_markdown(document))
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None
    _write_page(out / "report.html", document, groups, no_reals=no_reals)


def _write_page(path: Path, document: _Document, groups: Sequence[EvaluatedGroup], *, no_reals: bool) -> None:
    images = {name: row for group in groups for name, row in group.images.items()}
    try:
        write_page(path, document, images, {group.name: group.real_images for group in groups}, no_reals=no_reals)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error_reason(error)})") from None
