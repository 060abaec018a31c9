"""A short sweep: multiply one number of a recipe by some factors, train a short run for each, and compare them."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, describe_error, error_reason, suggest
from zoo.core.files import atomic_file
from zoo.core.locks import hold_lock
from zoo.core.options import TrainOptions, with_keywords
from zoo.data.dataset import load_dataset
from zoo.data.sources.registry import choose_data
from zoo.losses.objective import default_weight
from zoo.recipes import override_recipe
from zoo.report import image_grid
from zoo.report.plots import plot_sweep
from zoo.training import run_folder
from zoo.training.resume import with_classes
from zoo.training.run_folder import Run
from zoo.training.train import resolve_data, train

DEFAULT_FACTORS = (0.25, 1.0, 4.0)
DEFAULT_KIMG = 10.0
RESERVED_PARAMS = ("train.kimg", "train.seed")  # all runs are equally long, and a seed has no size to multiply
MIN_VALIDATIONS, MIN_LOG_ROWS = 8, 40  # of a run, where the recipe has fewer
MIN_EVALUATE_SHARE = 0.25  # of the time
GRID_ROWS = {64: 8, 128: 5}  # rows of a run's grids, by largest resolution in pixels
LARGE_GRID_ROWS = 4
GRID_PADDING = 2  # pixels between and around the images of a grid
# What two training seeds of a recipe differ by: of SSIM distances absolute, of FID and KID relative. Three seeds each
# of dcgan-64 and fastgan-r3-64 in benchmarks/results/leaderboard.jsonl have standard deviations of 0.027 and 3 %.
SSIM_SEED_NOISE, DISTANCE_SEED_NOISE = 0.03, 0.05
RECENT_SHARE = 0.2  # share of the log's last rows whose medians are in the table

_Row = dict[str, Any]
Number = float | list[list[float]]  # or a schedule: [kimg, value] pairs


def tune(
    name: str | Path,
    *,
    param: str,
    factors: str | Sequence[float] = DEFAULT_FACTORS,
    options: TrainOptions | None = None,
    display: Display | None = None,
    **keywords: Any,
) -> _Row:
    """Train a short run for each factor, and return a row of results for each.

    The same call again continues where it was, and trains nothing that is already trained.

    Args:
        name: name or file of a recipe.
        param: dotted path of a number in it, or of a schedule, which is multiplied at all its points.
        factors: numbers of at least 0, or text with commas between them.
        options: how to train; ``kimg`` is the length of each run (default: 10), ``out`` (default: ``tune``) gets
            ``<recipe>-<param>/x<factor>`` for each run, ``tune.json`` and ``tune.png``.
        display: where progress is shown; default: stderr.
        **keywords: fields of :class:`TrainOptions`.

    Returns:
        ``rows``, one for each factor, and the path of the picture. A run that failed has its ``error`` in its row.

    Raises:
        ZooError: bad input, or the folder cannot be written.
    """
    display = display or Display()
    options = with_keywords(options or TrainOptions(out="tune", kimg=DEFAULT_KIMG), keywords, function="tune")
    if options.epochs is not None or options.hours is not None:
        raise ZooError("the runs of a sweep are equally long: give their length as kimg, not as epochs or hours")
    kimg = DEFAULT_KIMG if options.kimg is None else options.kimg
    options = resolve_data(options)
    options = replace(options, kimg=kimg, data=choose_data(options.data))
    # Everything is resolved before anything is trained, so that a mistake is reported at once.
    variants = _variants(name, param, _parse_factors(factors), options)
    recipe = variants[0].recipe
    load_dataset(options.data, recipe.data, reporter=display).require(max(recipe.train.batches.sizes))
    folder = Path(options.out) / f"{recipe.name}-{param}"
    picture = folder / "tune.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(
            folder / ".lock", f"{folder}: another sweep is writing there. Wait for it, or name another --out."
        ):
            runs: list[Run | None] = []
            rows: list[_Row] = []
            for variant in variants:
                run, error = _train_variant(variant, replace(options, out=folder / f"x{variant.factor:g}"), display)
                runs.append(run)
                rows.append(_row(variant, run, error))
            document = {"recipe": recipe.name, "param": param, "kimg": kimg, "rows": rows, "picture": str(picture)}
            document["mean_image"] = _score_mean_image(runs)
            document["nearest_factors"] = [row["factor"] for row in best_factors(document)]
            document["none_has_learned"] = have_not_learned(document)
            with atomic_file(folder / "tune.json", "w") as file:
                json.dump(document, file, indent=2)
                file.write("\n")
            _draw(variants, runs, picture, title=f"{recipe.name}: {param}")
    except OSError as failure:
        raise ZooError(f"{folder}: cannot be written ({error_reason(failure)})") from None
    return document


def best_factors(document: _Row) -> list[_Row]:
    """The rows with the best validation, best first, and those that differ from it by no more than seeds do.

    Rows with an alarm are left out unless all have one, and those that are untrained always. Empty where not all were
    validated by the same metric.
    """
    rows = [row for row in document["rows"] if row["best"] is not None and row["error"] is None]
    if len({row["best"]["metric"] for row in rows}) != 1:
        return []
    rows = [row for row in rows if not _is_untrained(row)]
    rows = [row for row in rows if not row["alarms"]] or rows
    if not rows:
        return []
    rows.sort(key=lambda row: row["best"]["value"])
    best = rows[0]["best"]
    noise = SSIM_SEED_NOISE if best["metric"] == "ssim" else DISTANCE_SEED_NOISE * abs(best["value"])
    return [row for row in rows if row["best"]["value"] <= best["value"] + noise]


def have_not_learned(document: _Row) -> bool:
    """Return whether the last images of every run that did not fail are little better than noise."""
    rows = [row for row in document["rows"] if row["error"] is None]
    return bool(rows) and all(map(_is_untrained, rows))


def _is_untrained(row: _Row) -> bool:
    return any(alarm["name"] == "untrained" for alarm in row["alarms"])


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A recipe with one number multiplied."""

    factor: float
    value: Number
    recipe: Recipe

    @property
    def label(self) -> str:
        return f"x{self.factor:g}"


def _parse_factors(given: str | Sequence[float]) -> list[float]:
    message = f"--factors {given}: must be different numbers of at least 0 with commas between them, such as 0.25,1,4"
    try:
        factors = [float(part) for part in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError):
        raise ZooError(message) from None
    is_unique = len({f"{factor:g}" for factor in factors}) == len(factors)  # run folders are named this way
    if not factors or not is_unique or not all(math.isfinite(factor) and factor >= 0 for factor in factors):
        raise ZooError(message)
    return factors


def _variants(name: str | Path, param: str, factors: Sequence[float], options: TrainOptions) -> list[_Variant]:
    assert options.kimg is not None
    if not options.kimg > 0:
        raise ZooError(f"--kimg {options.kimg:g}: must be above 0")
    if param in RESERVED_PARAMS:
        raise ZooError(f"--param {param}: cannot be swept. --kimg N sets the length, --set train.seed=1 the seed")
    if "train.kimg" in _keys(options.set):
        raise ZooError("--set train.kimg: cannot be set in a sweep; use --kimg N")
    before = recipes.load_recipe(name, options.set)
    value = _value(before, param)
    if not any(_numbers(value)):
        raise ZooError(f"--param {param}: is 0, which no factor changes; give it a size with --set {param}=...")
    variants = []
    for factor in factors:
        scaled = _scale(value, factor)
        length = f"train.kimg={options.kimg!r}"
        recipe = override_recipe(before, f"{param}={json.dumps(scaled)}", length, *_cadences(before, options))
        if factor != 1 and recipe.digest == before.digest:
            raise ZooError(f"--param {param}: does not change training")
        variants.append(_Variant(factor=factor, value=scaled, recipe=recipe))
    return variants


def _keys(overrides: Sequence[str]) -> set[str]:
    return {text.partition("=")[0].strip() for text in overrides}


def _value(recipe: Recipe, path: str) -> Number:
    """The number or the schedule at a dotted path.

    Raises:
        ZooError: the path does not exist, or holds something else.
    """
    content = recipe.to_dict()
    value: Any = content
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            numbers = [known for known, leaf in _leaves(content) if _is_number(leaf)]
            if ends := [known for known in numbers if known.endswith(f".{path}")]:
                raise ZooError(f"--param {path}: say which; {recipe.name} has {' and '.join(ends)}")
            raise ZooError(
                f"--param {path}: {recipe.name} has no such number{suggest(path, numbers)}. `zoo show {recipe.name}` "
                f"lists its numbers; --set {path}=... adds one"
            )
        value = value[key]
    _, _, name = path.removesuffix(".weight").partition("penalties.")
    if value is None and name in recipe.penalties:  # null stands for the penalty's own default
        value = default_weight(name, recipe).plain()
    if not _is_number(value):
        raise ZooError(f"--param {path}: is {json.dumps(value)}, not a number")
    return value


def _leaves(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _is_number(value: Any) -> bool:
    """Whether ``value`` is a number, or a schedule of numbers."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(point, list) and len(point) == 2 for point in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Number) -> list[float]:
    return [point[1] for point in value] if isinstance(value, list) else [value]


def _scale(value: Number, factor: float) -> Number:
    """Multiply a number, or a schedule at all its points; a whole number stays whole where it can."""
    if isinstance(value, list):
        return [[at, number * factor] for at, number in value]
    product = value * factor
    return round(product) if isinstance(value, int) and float(product).is_integer() else product


def _cadences(recipe: Recipe, options: TrainOptions) -> list[str]:
    """Overrides for enough log rows and validations that a short run has curves; none of them changes a number."""
    assert options.kimg is not None
    cadences = {
        "log_kimg": min(recipe.train.log_kimg, options.kimg / MIN_LOG_ROWS),
        "sample_kimg": min(recipe.train.sample_kimg, options.kimg / MIN_VALIDATIONS),
        "evaluate_share": max(recipe.train.evaluate_share, MIN_EVALUATE_SHARE),
    }
    keys = _keys(options.set)
    return [f"train.{key}={value!r}" for key, value in cadences.items() if f"train.{key}" not in keys]


def _train_variant(variant: _Variant, options: TrainOptions, display: Display) -> tuple[Run | None, str | None]:
    """Train a variant in ``options.out``; its run (also of a failure, if there is one), and why it failed."""
    out = Path(options.out)
    images = load_dataset(options.data, variant.recipe.data, reporter=display)
    recipe = with_classes(variant.recipe, images)
    length = recipe.train.batches.end(round(1000 * recipe.train.kimg))  # images, in whole batches
    shorter = None
    for run, info in run_folder.find_equal_runs(out, recipe.name, recipe.digest, images.digest):
        is_finished = info["status"] == "finished"
        if is_finished and info["nimg"] == length:
            display.say(f"{run.path}: is already trained")
            return run, None
        if is_finished and info["nimg"] < length:
            shorter = shorter or run
    display.say(f"{variant.label}: {json.dumps(variant.value)}")
    options = replace(options, kimg=None, precision=None, set=(), new=False)  # the recipe holds all overrides
    try:
        if shorter is None:
            return train(recipe, options=options, display=display, announce=sys.stderr), None
        keys = ("kimg", "log_kimg", "sample_kimg")
        options = replace(options, set=[f"train.{key}={getattr(recipe.train, key)!r}" for key in keys])
        return train(resume=shorter.path, options=options, display=display, announce=sys.stderr), None
    except Interrupted:
        raise
    except Exception as error:  # diverged, or no memory: the other variants can still be trained
        why = describe_error(error)
        display.warn(f"{variant.label}: {why}")
        return next(iter(reversed(run_folder.find_runs(out, recipe.name))), None), why


def _row(variant: _Variant, run: Run | None, error: str | None) -> _Row:
    """Medians over the end of the log, and the values of the last validation."""
    log = run.rows() if run is not None else []
    recent = [row for row in log if "loss_d" in row]
    recent = recent[-max(1, round(RECENT_SHARE * len(recent))) :]
    last: _Row = next((row for row in reversed(log) if "ssim_nearest" in row), {})
    gaps = [row["d_real"] - row["d_fake"] for row in recent if "d_real" in row]
    ssim_keys = ("ssim_nearest", "ssim_nearest_unseen", "ssim_pairwise", "ssim_pairwise_real")
    return {
        "factor": variant.factor,
        "value": variant.value,
        "error": error,
        "run": str(run.path) if run else None,
        "nimg": log[-1]["nimg"] if log else 0,
        **{key: _median([row[key] for row in recent if key in row]) for key in ("loss_d", "loss_g")},
        "gap": _median(gaps),
        **{key: last.get(key) for key in ssim_keys},
        "best": run.info.get("best") if run is not None else None,
        "alarms": last.get("alarms", []),
    }


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _score_mean_image(runs: Sequence[Run | None]) -> float | None:
    """Return the SSIM distance of the mean image, which no generator made, from real images; None: not measured."""
    keys = ("ssim_nearest_mean", "ssim_nearest_unseen", "ssim_pairwise_real")
    for row in (row for run in runs if run is not None for row in reversed(run.rows())):
        if all(row.get(key) is not None for key in keys):
            nearest, unseen, pairwise = (row[key] for key in keys)
            return abs(nearest - unseen) + abs(1 - pairwise)
    return None


def _draw(variants: Sequence[_Variant], runs: Sequence[Run | None], path: Path, *, title: str) -> None:
    """Draw the curves of all variants, over a strip of each one's last samples."""
    curves: dict[str, list[_Row]] = {}
    strips: dict[str, Image.Image] = {}
    for variant, run in zip(variants, runs, strict=True):
        if run is None:
            continue
        curves[variant.label] = run.rows()
        if (strip := _first_row(run.samples / "reals.png", variant.recipe)) is not None:
            strips.setdefault("real images", strip)
        grids = run.grids()
        if grids and (strip := _first_row(grids[-1], variant.recipe)) is not None:
            strips[variant.label] = strip
    plot_sweep(curves, strips, path, title)


def _first_row(path: Path, recipe: Recipe) -> Image.Image | None:
    """The first row of a run's grid; None: there is no such file."""
    if not path.is_file():
        return None
    rows = next((rows for size, rows in GRID_ROWS.items() if recipe.data.resolution <= size), LARGE_GRID_ROWS)
    try:
        grid = image_grid.open_grid(path)
    except OSError:  # damaged: the strip is left out
        return None
    return grid.crop((0, 0, grid.width, (grid.height - GRID_PADDING) // rows + GRID_PADDING))
