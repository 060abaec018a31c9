"""What the leaderboard's jobs came to: judged alike, as rows and in pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from budget import TUTORIAL, Job, Kept
from PIL import Image, ImageDraw, ImageFont
from standings import FLOORS, Row

from zoo import recipes
from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError, describe_error
from zoo.data.dataset import load_dataset
from zoo.data.image_set import ImageSet, train_and_heldout
from zoo.evaluation.evaluate_generators import EvaluatedGroup, GeneratorEvaluator
from zoo.evaluation.results import Target
from zoo.hub.load import load_generator
from zoo.metrics import registry
from zoo.metrics.evaluate_images import ImageEvaluator
from zoo.metrics.features.extractor import FeatureExtractor
from zoo.report import image_grid
from zoo.runtime.device import choose_device, describe_environment

GRID, STRIP = 36, 10  # generated slices in a run's picture, and in its row of the overview
SEED = 1  # of the latents of pictures


def judged(
    jobs: Sequence[Kept],
    *,
    data: str,
    runs: Path,
    spaces: Sequence[FeatureExtractor],
    samples: int,
    display: Display,
) -> list[Row]:
    """A row a job that came to its end, and rows of the floors of each size; all of a size share these."""
    device = choose_device("cpu")
    judging = GeneratorEvaluator(
        data=data,
        metrics=registry.choose_metrics(None),
        spaces=spaces,
        samples=samples,
        keep=runs / "judged",
        device=device,
        display=display,
        notes=[],
    )
    ended = [kept for kept in jobs if kept.ended is not None]
    entries = [_entry(kept) for kept in ended if kept.job.recipe != TUTORIAL and kept.made]
    groups, lost = judging.groups(entries) if entries else ([], [])
    results: dict[str, Row] = {row.name: row.to_json() for group in groups for row in group.rows}
    results |= {row.name: row.to_json() for row in lost}
    for kept in ended:
        if kept.job.recipe == TUTORIAL and kept.made:
            results[kept.job.key] = _tutorial(kept, judging, display)
    unseen = {group.shape[1]: _floor(group, "unseen subjects") for group in groups}
    names = [space.name for space in spaces]
    rows = [_row(kept, results.get(kept.job.key), unseen, names, samples, runs) for kept in ended]
    return [*rows, *(row for group in groups for row in _floors(group, names))]


def _entry(kept: Kept) -> Target:
    run = kept.run
    assert run is not None
    recipe = recipes.load_recipe(run.recipe_file)
    return Target(name=kept.job.key, kind="run", group=kept.job.key, weights=run.generator_file, recipe=recipe, run=run)


def _tutorial(kept: Kept, judging: GeneratorEvaluator, display: Display) -> Row:
    """The tutorial's fakes, judged as a generator's are, in the form that a bench's row has."""
    folder = kept.folder / TUTORIAL
    facts = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    try:
        reference = load_dataset(judging.data, DataConfig(resolution=64), reporter=display)
        reals, unseen = train_and_heldout(reference)
        judge = ImageEvaluator(reals, unseen, metrics=judging.metrics, spaces=judging.spaces, reporter=display)
        fakes = np.load(folder / "fakes.npz")["images"]
        display.say(f"judging {kept.job.key}: {len(fakes)} images")
        verdict = judge.judge(ImageSet(images=fakes, label=kept.job.key))
    except (ZooError, OSError, ValueError) as error:
        return {"error": describe_error(error)}
    return {
        "error": None,
        "figures": {name: figure.to_json() for name, figure in verdict.figures.items()},
        "alarms": [alarm.to_json() for alarm in verdict.alarms],
        "cost": {"parameters_g": facts["params_g"], "parameters_d": facts["params_d"]},
        "data_digest": reference.digest,
        "resolution": reals.shape[1],
    }


def _row(
    kept: Kept, result: Row | None, unseen: Mapping[int, Row], spaces: Sequence[str], samples: int, runs: Path
) -> Row:
    job, facts = kept.job, kept.facts
    result = result or {"error": facts["error"]}
    recipe = None if job.recipe == TUTORIAL else job.resolved()
    px = recipe.data.resolution if recipe else 64
    error = result["error"]
    row: Row = {
        "group": job.group,
        "name": job.name,
        "kind": "job",
        "error": None if error is None else error.replace(f"{runs}/", ""),
        "recipe": job.recipe,
        "overrides": list(job.overrides),
        "seed": recipe.train.seed if recipe else 0,
        "px": px,
        "kimg": kept.nimg / 1000,
        "ended_by": kept.ended,
        "stopped": facts["error"] and facts["error"].replace(f"{runs}/", ""),
        "core_seconds": facts["core_seconds"],
        "wall": facts["wall"],
        "adopted": bool(facts.get("adopted")),
        "continues": job.continues,
        "sees": job.sees,
        "spaces": list(spaces),
        "samples": samples,
        "digest": recipe.digest if recipe else None,
        "date": time.strftime("%Y-%m-%d"),
    }
    if error is not None:
        return {**row, "fid": None, "kid": None, "figures": {}, "alarms": []}
    figures, cost = result["figures"], result["cost"]
    floor = unseen.get(px, {}).get("figures", {})
    return {
        **row,
        "params_g": cost["parameters_g"],
        "params_d": cost["parameters_d"],
        "fid": _value(figures, "fid"),
        "kid": _value(figures, "kid"),
        "interval": {name: [figures[name]["low"], figures[name]["high"]] for name in ("fid", "kid") if name in figures},
        "ssim_nearest": _value(figures, "ssim_nearest"),
        "ssim_nearest_unseen": _value(floor, "ssim_nearest"),
        "figures": figures,
        "alarms": result["alarms"],
        "data_digest": result["data_digest"],
        "weights_sha256": result.get("weights_sha256"),
        "environment": result.get("environment") or describe_environment(choose_device("cpu"), "fp32"),
    }


def _floors(group: EvaluatedGroup, spaces: Sequence[str]) -> list[Row]:
    return [
        {"group": FLOORS, "px": group.shape[1], "spaces": list(spaces), "data_digest": group.data.digest, **row}
        for row in (baseline.to_json() for baseline in group.baselines)
    ]


def _floor(group: EvaluatedGroup, name: str) -> Row:
    return next((row.to_json() for row in group.baselines if row.name == name), {})


def _value(figures: Mapping[str, Any], name: str) -> float | None:
    return figures[name]["value"] if name in figures else None


def draw(kept: Kept, folder: Path) -> np.ndarray | None:
    """A grid of generated slices; returns the first of them for the overview, or None where there is nothing."""
    if not kept.made:
        return None
    if kept.job.recipe == TUTORIAL:
        images = np.load(kept.folder / TUTORIAL / "fakes.npz")["images"][:GRID]
    else:
        assert kept.run is not None
        images = load_generator(kept.run.path).sample(GRID, seed=SEED).numpy()
    facts = {"recipe": kept.job.recipe, "kimg": kept.nimg / 1000, "seed": SEED}
    image_grid.save_png(image_grid.make_grid(images), folder / f"leaderboard-{slug(kept.job)}.png", facts)
    return images[:STRIP]


def slug(job: Job) -> str:
    """A job's name in its picture's: the group where it says more than the size."""
    return job.name if job.group in ("64", "128") else f"{job.group}-{job.name}"


def overview(strips: Mapping[str, np.ndarray], path: Path, side: int = 64) -> None:
    """One picture: a row a run, best first, its name before it; every slice at the same size."""
    width, pad = 190, 2
    sheet = Image.new("L", (width + STRIP * (side + pad), len(strips) * (side + pad) + pad), image_grid.BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for line, (name, images) in enumerate(strips.items()):
        top = pad + line * (side + pad)
        pen.text((8, top + side / 2), name, fill=225, font=font, anchor="lm")
        for column, image in enumerate(images):
            cell = image_grid.tile_image(image).convert("L")
            if cell.size != (side, side):
                cell = cell.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(cell, (width + column * (side + pad), top))
    image_grid.save_png(sheet, path)
