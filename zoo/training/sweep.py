"""A short sweep: one number of a recipe multiplied by some factors, a short run each, and what became of them."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, describe_error, error_reason, suggest
from zoo.core.files import atomic_file
from zoo.data.dataset import load_dataset
from zoo.losses.penalties import PENALTIES
from zoo.recipes import override_recipe
from zoo.report.plots import plot_sweep
from zoo.training import run_folder
from zoo.training.run_folder import Run
from zoo.training.train import train, with_classes

FACTORS = (0.25, 1.0, 4.0)
KIMG = 10.0
OWN = ("train.kimg", "train.seed")  # the sweep's: lengths are equal, and a seed is no size
LOOKS, ROWS = 8, 40  # looks and log rows of a run, where the recipe has fewer
SQUARES = {64: 8, 128: 5}  # rows of a run's grids, by the largest size they are for; beyond: 4
PAD = 2  # pixels between and around their images
RECENT = 0.2  # share of the log's rows, the last ones, whose medians stand in the table

Plain = dict[str, Any]
Number = float | list[list[float]]  # or a schedule: [kimg, value] pairs


def tune(
    name: str | Path,
    *,
    param: str,
    factors: str | Sequence[float] = FACTORS,
    kimg: float = KIMG,
    data: str | Path | None = None,
    out: str | Path = "tune",
    device: str = "auto",
    set: Sequence[str] = (),
    display: Display | None = None,
) -> Plain:
    """Train a short run for each factor; the command ``zoo tune`` is a thin caller of this.

    The same call again goes on where it was, and trains nothing that has been trained.

    Args:
        name: a recipe's name or file.
        param: the dotted path of a number in it, or of a schedule, which is multiplied at all its points.
        factors: numbers of at least 0, or text with commas between them.
        kimg: thousands of images each run is trained for.
        data: the images; None: ``$ZOO_DATA``, else phantoms.
        out: ``<out>/<recipe>-<param>/x<factor>`` is where a factor's run lies, ``tune.json`` and ``tune.png`` beside.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        set: overrides of the recipe, made before anything is multiplied.
        display: where progress is shown; default: stderr.

    Returns:
        ``rows``, one a factor, and where the picture is. A run that failed says ``error`` in its row.

    Raises:
        ZooError: bad input, or the folder cannot be written.
    """
    display = display or Display()
    data = data or os.environ.get("ZOO_DATA") or None
    variants = _variants(name, param, _factors(factors), kimg, set)
    resolved = variants[0].recipe
    load_dataset(data, resolved.data, reporter=display).require(resolved.train.batch)
    folder = Path(out) / f"{resolved.name}-{param}"
    found = [_trained(variant, folder, data, device, display) for variant in variants]
    rows = [_row(variant, run, error) for variant, (run, error) in zip(variants, found, strict=True)]
    document = {
        "recipe": resolved.name,
        "param": param,
        "kimg": kimg,
        "rows": rows,
        "picture": str(folder / "tune.png"),
    }
    curves, strips = dict[str, list[Plain]](), dict[str, Image.Image]()
    for variant, (run, _) in zip(variants, found, strict=True):
        if run is not None:
            curves[f"x{variant.factor:g}"] = run.rows()
            if (strip := _strip(run, variant.recipe)) is not None:
                strips[f"x{variant.factor:g}"] = strip
    try:
        with atomic_file(folder / "tune.json", "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
        plot_sweep(curves, strips, folder / "tune.png", f"{resolved.name}: {param}")
    except OSError as error:
        raise ZooError(f"{folder}: cannot be written ({error_reason(error)})") from None
    return document


def best_factor(document: Plain) -> Plain | None:
    """The row whose best look was the best, where all that have one chose it by the same metric."""
    rows = [row for row in document["rows"] if row["best"] is not None and row["error"] is None]
    if len({row["best"]["metric"] for row in rows}) != 1:
        return None
    return min(rows, key=lambda row: row["best"]["value"])


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A recipe with one number multiplied."""

    factor: float
    value: Number
    recipe: Recipe


def _factors(given: str | Sequence[float]) -> list[float]:
    wrong = f"--factors {given}: must be different numbers of at least 0 with commas between them, such as 0.25,1,4"
    try:
        found = [float(part) for part in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError):
        raise ZooError(wrong) from None
    names = {f"{factor:g}" for factor in found}
    if not found or len(names) < len(found) or not all(math.isfinite(factor) and factor >= 0 for factor in found):
        raise ZooError(wrong)
    return found


def _variants(
    name: str | Path, param: str, factors: Sequence[float], kimg: float, set: Sequence[str]
) -> list[_Variant]:
    """All are resolved before one is trained: a slip is known at once."""
    if not kimg > 0:
        raise ZooError(f"--kimg {kimg:g}: must be above 0")
    if param in OWN:
        raise ZooError(f"--param {param}: is the sweep's own: --kimg N says the length, --set train.seed=1 the seed")
    if any(text.partition("=")[0].strip() == "train.kimg" for text in set):
        raise ZooError("--set train.kimg: is the sweep's own; --kimg N says it")
    before = recipes.load_recipe(name, set)
    value = _value(before, param)
    if not any(_numbers(value)):
        raise ZooError(f"--param {param}: is 0, which stays 0 by any factor; --set {param}=... gives it a size")
    found = []
    for factor in factors:
        scaled = _scaled(value, factor)
        overrides = [f"{param}={json.dumps(scaled)}", f"train.kimg={kimg!r}", *_cadences(before, kimg, set)]
        recipe = override_recipe(before, *overrides)
        if factor != 1 and recipe.digest == before.digest:
            raise ZooError(f"--param {param}: changes no number of training")
        found.append(_Variant(factor=factor, value=scaled, recipe=recipe))
    return found


def _value(recipe: Recipe, path: str) -> Number:
    """The number or the schedule at a dotted path.

    Raises:
        ZooError: there is none, or it is something else.
    """
    content = recipe.to_dict()
    found: Any = content
    for key in path.split("."):
        if not isinstance(found, dict) or key not in found:
            known = [known for known, value in _leaves(content) if _is_number(value)]
            raise ZooError(
                f"--param {path}: {recipe.name} has no such number{suggest(path, known)}; `zoo show {recipe.name}` "
                f"shows those it has, --set {path}=... gives it one"
            )
        found = found[key]
    _, _, name = path.removesuffix(".weight").partition("penalties.")
    if found is None and name in recipe.penalties:  # the penalty's own default
        found = PENALTIES[name].weight(recipe.data.resolution, recipe.train.batch)
    if not _is_number(found):
        raise ZooError(f"--param {path}: is no number but {json.dumps(found)}")
    return found


def _leaves(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _is_number(value: Any) -> bool:
    """Whether it is a number, or a schedule of such."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(point, list) and len(point) == 2 for point in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Number) -> list[float]:
    return [point[1] for point in value] if isinstance(value, list) else [value]


def _scaled(value: Number, factor: float) -> Number:
    """A schedule at all its points; a whole number stays one where it can, and else its recipe says what is allowed."""
    if isinstance(value, list):
        return [[at, one * factor] for at, one in value]
    product = value * factor
    return round(product) if isinstance(value, int) and float(product).is_integer() else product


def _cadences(recipe: Recipe, kimg: float, set: Sequence[str]) -> list[str]:
    """So many rows and looks that even a short run has curves; none of it changes a number."""
    wanted = {
        "log_kimg": min(recipe.train.log_kimg, kimg / ROWS),
        "sample_kimg": min(recipe.train.sample_kimg, kimg / LOOKS),
        "evaluate_share": max(recipe.train.evaluate_share, 0.25),
    }
    asked = {text.partition("=")[0].strip() for text in set}
    return [f"train.{key}={value!r}" for key, value in wanted.items() if f"train.{key}" not in asked]


def _trained(
    variant: _Variant, folder: Path, data: str | Path | None, device: str, display: Display
) -> tuple[Run | None, str | None]:
    """Its run, and why it failed if it did; of one that failed there may be a run."""
    recipe, out = variant.recipe, folder / f"x{variant.factor:g}"
    images = load_dataset(data, recipe.data, reporter=display)
    recipe = with_classes(recipe, images)
    batch = recipe.train.batch
    length = -(-round(1000 * recipe.train.kimg) // batch) * batch
    shorter, longer = None, False
    for old, info in run_folder.find_equal_runs(out, recipe.name, recipe.digest, images.digest):
        if info["status"] == "finished" and info["nimg"] == length:
            display.say(f"{old.path}: was trained before")
            return old, None
        if info["nimg"] > length:
            longer = longer or info["status"] != "finished"
        elif info["status"] == "finished":
            shorter = shorter or old
    display.say(f"x{variant.factor:g}: {json.dumps(variant.value)}")
    try:
        if shorter is not None:
            settings = [f"train.{key}={getattr(recipe.train, key)!r}" for key in ("kimg", "log_kimg", "sample_kimg")]
            return train(
                resume=shorter.path, data=data, device=device, display=display, announce=sys.stderr, set=settings
            ), None
        how: Plain = {"device": device, "display": display, "announce": sys.stderr}
        return train(recipe, data=data, out=out, new=longer, **how), None
    except Interrupted:
        raise
    except Exception as error:  # diverged, no memory: the others can still be trained
        why = describe_error(error)
        display.warn(f"x{variant.factor:g}: {why}")
        return next(iter(reversed(run_folder.find_runs(out, recipe.name))), None), why


def _row(variant: _Variant, run: Run | None, error: str | None) -> Plain:
    """Medians over the end of the log, and what the last look said."""
    row: Plain = {
        "factor": variant.factor,
        "value": variant.value,
        "error": error,
        "run": str(run.path) if run else None,
    }
    log = run.rows() if run is not None else []
    recent = [one for one in log if "loss_d" in one]
    recent = recent[-max(1, round(RECENT * len(recent))) :]
    look: Plain = next((one for one in reversed(log) if "ssim_nearest" in one), {})
    gaps = [one["d_real"] - one["d_fake"] for one in recent]
    return {
        **row,
        "nimg": log[-1]["nimg"] if log else 0,
        **{key: statistics.median(one[key] for one in recent) if recent else None for key in ("loss_d", "loss_g")},
        "gap": statistics.median(gaps) if gaps else None,
        **{
            key: look.get(key) for key in ("ssim_nearest", "ssim_nearest_unseen", "ssim_pairwise", "ssim_pairwise_real")
        },
        "best": run.info.get("best") if run is not None else None,
        "alarms": look.get("alarms", []),
    }


def _strip(run: Run, recipe: Recipe) -> Image.Image | None:
    """The first row of its last grid."""
    grids = sorted(run.samples.glob("fakes-*.png"))
    if not grids:
        return None
    rows = next((rows for size, rows in SQUARES.items() if recipe.data.resolution <= size), 4)
    with Image.open(grids[-1]) as grid:
        return grid.crop((0, 0, grid.width, (grid.height - PAD) // rows + PAD)).copy()
