"""Compare generators: train what is not trained yet, judge all by the same figures, write a table and a page."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, describe_error, error_reason, suggest
from zoo.core.files import atomic_file, cache_folder
from zoo.data.dataset import load_dataset
from zoo.evaluation.evaluate_generators import EvaluatedGroup, GeneratorEvaluator
from zoo.evaluation.results import Plain, Target
from zoo.hub import pretrained
from zoo.metrics import registry
from zoo.metrics.features.select_extractors import select_extractors
from zoo.metrics.ssim import ssim
from zoo.recipes import override_recipe
from zoo.report.html.page import write_page
from zoo.report.table import bench_markdown
from zoo.runtime.device import choose_device, describe_environment
from zoo.training import run_folder
from zoo.training.generator_file import load_generator_file
from zoo.training.run_folder import Run
from zoo.training.train import train, with_classes

NUM_SAMPLES = 2000  # fakes a row; FID depends on it, so it does not depend on the device
KIMG = 10.0  # thousands of images each recipe is trained for, unless something else is asked for

# Without runs and names: two families at 32 pixels, a matter of minutes on two cores.
SMALL_SET = ("dcgan-64", "lean-256")
SMALL_SETTINGS = ("data.resolution=32", "generator.width=0.5", "discriminator.width=0.5", "train.batch=64")
SMALL_SAMPLES = 500


def bench(
    targets: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    train_kimg: float | None = None,
    seeds: int = 1,
    metrics: Sequence[str] | None = None,
    spaces: Sequence[str] | None = None,
    weights: str | Path | None = None,
    samples: int | None = None,
    out: str | Path = "bench",
    runs: str | Path = "runs",
    device: str = "auto",
    precision: str | None = None,
    set: Sequence[str] = (),
    no_reals: bool = False,
    display: Display | None = None,
) -> Plain:
    """Judge generators beside their floors and ceilings; the command ``zoo bench`` is a thin caller of this.

    Those of one shape share a reference and are ranked together. What was judged before with the same weights, images
    and metrics is not judged again, so that a killed bench goes on where it was.

    Args:
        targets: runs, generators' files, or recipes, which are trained first; none: all trained runs in ``runs``, else
            a small set on phantoms.
        data: the images; None: those the runs were trained on; recipes are then trained on ``$ZOO_DATA``, or phantoms.
        train_kimg: thousands of images each recipe is trained for.
        seeds: training seeds of each recipe.
        metrics: names and groups; None: the usual ones.
        spaces: feature spaces, the first the one that ranks; None: Inception, and DINOv2 where its weights are.
        weights: a feature network's weights, or a folder of such.
        samples: fakes a generator.
        out: where ``results.jsonl``, ``table.md``, ``report.html`` and the bench's own runs are written.
        runs: where names are looked for.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: of training.
        set: overrides of the recipes.
        no_reals: leave real images out of the page.
        display: where progress is shown; default: stderr.

    Returns:
        What table and page show: ``metrics``, ``groups`` of ``rows`` and ``baselines``, ``notes``.

    Raises:
        ZooError: bad input, or nothing that can be judged. A broken row raises nothing: it says ``error``.
    """
    display = display or Display()
    if seeds < 1:
        raise ZooError(f"--seeds {seeds}: must be at least 1")
    if train_kimg is not None and not train_kimg > 0:
        raise ZooError(f"--train-kimg {train_kimg:g}: must be above 0")
    for key, flag in (("train.seed", "--seeds K trains with 0 to K - 1"), ("train.kimg", "--train-kimg N says it")):
        if any(text.partition("=")[0].strip() == key for text in set):
            raise ZooError(f"--set {key}: is the bench's own; {flag}")
    choose_device(device)
    out, runs = Path(out), Path(runs)
    judged_by, data = data, data or os.environ.get("ZOO_DATA") or None
    targets = list(targets) or [str(run.path) for run in run_folder.find_runs(runs) if run.generator_file.is_file()]
    if not targets:
        where = "built-in phantom brains" if data is None else f"{data}"
        display.say(f"no trained runs in {runs}: training {' and '.join(SMALL_SET)}, small, on {where}")
        targets, set, data = list(SMALL_SET), [*SMALL_SETTINGS, *set], data or "phantoms"
        samples = SMALL_SAMPLES if samples is None else samples
    judging = _judging(
        data=judged_by,
        metrics=metrics,
        spaces=spaces,
        weights=weights,
        samples=samples,
        keep=out / "judged",
        device=device,
        display=display,
    )
    training = _Training(
        data=data,
        kimg=KIMG if train_kimg is None else train_kimg,
        seeds=seeds,
        out=out / "runs",
        device=device,
        precision=precision,
        set=list(set),
        display=display,
    )
    # All is looked up before anything is trained: a slip is known at once.
    looked_up = [_found(os.fspath(target), runs, training) for target in targets]
    found = list({_identity(what): what for what in looked_up}.values())
    if not any(isinstance(what, list) for what in found) and (set or seeds > 1 or train_kimg is not None):
        display.warn("--set, --seeds and --train-kimg say how recipes are trained; runs and files stay as they are")
    for what in found:
        if isinstance(what, list):
            load_dataset(data, what[0].data, reporter=display)
    _writable(out)
    entries = [
        entry
        for what in found
        for entry in ([what] if isinstance(what, Target) else [training.entry(variant) for variant in what])
    ]
    entries = _distinct(entries)
    groups, lost = judging.groups(entries)
    if not groups:
        raise ZooError("; ".join(f"{row.name}: {row.error}" for row in lost) or "nothing to judge")
    document = _document("zoo bench", "bench", judging, groups)
    _write(out, document, groups, no_reals=no_reals)
    return document


def report(
    target: str | Path,
    *,
    data: str | Path | None = None,
    metrics: Sequence[str] | None = None,
    spaces: Sequence[str] | None = None,
    weights: str | Path | None = None,
    samples: int | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    no_reals: bool = False,
    display: Display | None = None,
) -> Path:
    """The page of one run; the command ``zoo report`` is a thin caller of this.

    Args:
        target: a run, a generator's file, or the name of packaged weights.
        out: the page; default: ``report.html`` in the run's folder, and of packaged weights in this one.

    Returns:
        Where the page is.

    Raises:
        ZooError: as :func:`bench`, or the run is broken.
    """
    display = display or Display()
    entry = find_target(target, runs)
    assert entry.weights is not None
    name = "report.html" if entry.kind == "run" else f"{entry.name}-report.html"
    folder = entry.weights.parent if entry.kind == "run" or Path(target).is_file() else Path()
    page = Path(out) if out is not None else folder / name
    judging, groups = evaluate_target(
        entry,
        data=data,
        metrics=metrics,
        spaces=spaces,
        weights=weights,
        samples=samples,
        device=device,
        display=display,
    )
    _write_page(page, _document(entry.name, "report", judging, groups), groups, no_reals=no_reals)
    return page


def find_target(target: str | Path, runs: str | Path) -> Target:
    """The trained run, the generator's file or the packaged weights that ``target`` names.

    Raises:
        ZooError: there is none, or it is broken.
    """
    entry = _found(str(target), Path(runs), None)
    assert isinstance(entry, Target)
    if entry.error is not None:
        raise ZooError(f"{target}: {entry.error}")
    return entry


def evaluate_target(
    entry: Target,
    *,
    data: str | Path | None,
    metrics: Sequence[str] | None,
    spaces: Sequence[str] | None,
    weights: str | Path | None,
    samples: int | None,
    device: str,
    display: Display,
) -> tuple[GeneratorEvaluator, list[EvaluatedGroup]]:
    """One generator's row, in the only group, and what it was judged with; arguments as of :func:`bench`.

    Raises:
        ZooError: it cannot be judged.
    """
    judging = _judging(
        data=data,
        metrics=metrics,
        spaces=spaces,
        weights=weights,
        samples=samples,
        keep=cache_folder() / "judged",
        device=device,
        display=display,
    )
    groups, lost = judging.groups([entry])
    broken = [*lost, *(row for group in groups for row in group.rows if row.error is not None)]
    if broken:
        raise ZooError(f"{entry.name}: {broken[0].error}")
    return judging, groups


def _judging(
    *,
    data: str | Path | None,
    metrics: Sequence[str] | None,
    spaces: Sequence[str] | None,
    weights: str | Path | None,
    samples: int | None,
    keep: Path,
    device: str,
    display: Display,
) -> GeneratorEvaluator:
    if samples is not None and samples < 2:
        raise ZooError(f"--samples {samples}: must be at least 2")
    wanted, where = registry.choose_metrics(metrics), choose_device(device)
    notes: list[str] = []
    found = select_extractors(spaces, metrics, weights=weights, device=where, reporter=display, notes=notes)
    return GeneratorEvaluator(
        data=data,
        metrics=wanted,
        spaces=found,
        samples=NUM_SAMPLES if samples is None else samples,
        keep=keep,
        device=where,
        display=display,
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Training:
    """How recipes are trained before they are judged."""

    data: str | Path | None
    kimg: float
    seeds: int
    out: Path
    device: str
    precision: str | None
    set: Sequence[str]
    display: Display

    def variant(self, name: str) -> list[Recipe]:
        """What a recipe's name stands for: itself with each training seed.

        Raises:
            ZooError: something in it, or in what is to be changed in it, does not fit.
        """
        more = [f"train.kimg={self.kimg!r}"]
        if self.precision is not None:
            more.append(f"train.precision={self.precision}")
        return [recipes.load_recipe(name, [*self.set, *more, f"train.seed={seed}"]) for seed in range(self.seeds)]

    def entry(self, recipe: Recipe) -> Target:
        """Train it, unless that is done; a seed that cannot be trained says why."""
        group = f"{recipe.name} {override_recipe(recipe, 'train.seed=0').digest}"
        images = load_dataset(self.data, recipe.data, reporter=self.display)
        run, beyond = self._before(with_classes(recipe, images), images.digest)
        try:
            run = run or train(
                recipe,
                data=self.data,
                out=self.out,
                device=self.device,
                new=beyond,
                display=self.display,
                announce=sys.stderr,
            )
        except Interrupted:
            raise
        except Exception as error:  # such as no memory: the others can still be trained
            why = describe_error(error)
            self.display.warn(f"{recipe.name}: {why}")
            return Target(name=recipe.name, kind="variant", group=group, recipe=recipe, error=why)
        return replace(_run_entry(run, recipe.name, "variant"), group=group)

    def _before(self, recipe: Recipe, data_digest: str) -> tuple[Run | None, bool]:
        """A finished run of the same numbers and images that is as long; and whether an unfinished one is longer, so
        that it must not be gone on with.
        """
        batch = recipe.train.batch
        length = -(-round(self.kimg * 1000) // batch) * batch
        beyond = False
        for old, info in run_folder.find_equal_runs(self.out, recipe.name, recipe.digest, data_digest):
            if info["status"] == "finished" and info["nimg"] == length and old.generator_file.is_file():
                return old, False
            beyond = beyond or (info["status"] != "finished" and info["nimg"] > length)
        return None, beyond


def _run_entry(run: Run, name: str, kind: str) -> Target:
    recipe = recipes.load_recipe(run.recipe_file)
    group = str(run.path.resolve())
    return Target(name=name, kind=kind, group=group, weights=run.generator_file, recipe=recipe, run=run)


def _found(target: str, runs: Path, training: _Training | None) -> Target | list[Recipe]:
    """What a word on the command line stands for: a file, a run, or a recipe to be trained.

    Raises:
        ZooError: it is neither of them.
    """
    path, is_recipe = Path(target), target.endswith((".yaml", ".yml")) or target in recipes.list_models()
    if not path.exists() and (runs / target).is_dir():
        path = runs / target
    group = str(path.resolve())
    if path.is_file() and not is_recipe:
        try:
            recipe = load_generator_file(path)[1]
        except ZooError as error:
            return Target(name=path.name, kind="file", group=group, error=str(error))
        return Target(name=path.stem, kind="file", group=group, weights=path, recipe=recipe, run=_run_of(path))
    if path.is_dir() and not is_recipe:
        try:
            found = run_folder.open_run(path)
            if not found.generator_file.is_file():
                raise ZooError(f"{path}: has no generator.safetensors yet; the first checkpoint writes it")
            return _run_entry(found, found.name, "run")
        except ZooError as error:
            return Target(name=path.name, kind="run", group=group, error=str(error))
    entries = pretrained.load_catalogue()
    if target in entries and (not is_recipe or training is None):
        weights = entries[target].path(Display())
        return Target(name=target, kind="file", group=target, weights=weights, recipe=load_generator_file(weights)[1])
    known = [*(recipes.list_models() if training else []), *entries, *(run.name for run in run_folder.find_runs(runs))]
    if not is_recipe or training is None:
        kinds = "run, file or recipe" if training else "run or file"
        raise ZooError(f"no {kinds} {target!r}{suggest(target, known)}")
    return training.variant(target)


def _identity(what: Target | list[Recipe]) -> str:
    """Equal for what is the same by any name."""
    return what.group if isinstance(what, Target) else f"{what[0].name} {what[0].digest}"


def _run_of(file: Path) -> Run | None:
    """The run that a generator's file lies in, if it does."""
    try:
        return run_folder.open_run(file.parent)
    except ZooError:
        return None


def _distinct(entries: Sequence[Target]) -> list[Target]:
    """Each group a name of its own: where names clash, runs and files go by their paths, variants by their digests."""
    groups: dict[str, dict[str, None]] = {}
    for entry in entries:
        groups.setdefault(entry.name, {})[entry.group] = None

    def name(entry: Target) -> str:
        if len(groups[entry.name]) == 1:
            return entry.name
        return f"{entry.name} ({entry.group[-8:]})" if entry.kind == "variant" else str(entry.weights or entry.group)

    return [replace(entry, name=name(entry)) for entry in entries]


def _writable(out: Path) -> None:
    """Make the folder, and sure that it takes files, before hours are spent on what goes into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None


def _document(title: str, kind: str, judging: GeneratorEvaluator, groups: Sequence[EvaluatedGroup]) -> Plain:
    return {
        "title": title,
        "kind": kind,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["zoo", *sys.argv[1:]]),
        "environment": {**describe_environment(judging.device, "fp32"), "ssim_engine": ssim.engine()},
        "metrics": [metric.to_json() for metric in judging.columns],
        "groups": [group.to_json() for group in groups],
        "notes": judging.notes,
    }


def _write(out: Path, document: Plain, groups: Sequence[EvaluatedGroup], *, no_reals: bool) -> None:
    """``results.jsonl``, ``table.md`` and ``report.html``, each whole or as it was."""
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


def _write_page(path: Path, document: Plain, groups: Sequence[EvaluatedGroup], *, no_reals: bool) -> None:
    pictures = {name: shown for group in groups for name, shown in group.pictures.items()}
    try:
        write_page(path, document, pictures, {group.name: group.reals for group in groups}, no_reals=no_reals)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error_reason(error)})") from None


def failed_rows(document: Mapping[str, Any]) -> list[str]:
    """A line for each row that could not be judged."""
    rows = [row for group in document["groups"] for row in group["rows"]]
    whole = [f"{row['name']}: {row['error']}" for row in rows if row["error"] is not None]
    return [*whole, *(f"{row['name']}: a training seed failed: {why}" for row in rows for why in row.get("failed", []))]
