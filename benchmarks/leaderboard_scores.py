"""Evaluate the jobs of the leaderboard: rows of results, and grids of generated images."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Row
from leaderboard_jobs import TUTORIAL, Job, JobFolder
from leaderboard_rows import BASELINE_GROUP
from PIL import Image, ImageDraw, ImageFont

from zoo import recipes
from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError, describe_error
from zoo.core.options import EvaluationOptions
from zoo.core.wording import count_of
from zoo.data.dataset import load_dataset
from zoo.data.image_set import ImageSet, train_and_heldout
from zoo.evaluation.evaluate_generators import (
    HEADLINE_METRICS,
    HEADLINE_SAMPLES,
    EvaluatedGroup,
    create_evaluator,
)
from zoo.evaluation.targets import Target
from zoo.hub.load import load_generator
from zoo.metrics.evaluate_images import ImageEvaluator
from zoo.metrics.registry import choose_metrics
from zoo.report import image_grid
from zoo.runtime.device import choose_device, describe_environment

TUTORIAL_RESOLUTION = 64
GRID_IMAGES = 36  # generated images in the grid of a run
OVERVIEW_IMAGES = 10  # generated images of a run in the overview
LATENT_SEED = 1  # of the images in grids


class ScoreTable:
    """Evaluates jobs that have ended, all with the same metrics, extractors and number of images.

    Args:
        data: training and held-out images.
        runs: folder of the leaderboard's runs.
        extractor: feature extractors that rank, separated by commas.
        num_samples: generated images per job.
        device: where images are made and compared.
    """

    def __init__(
        self,
        *,
        data: str,
        runs: Path,
        extractor: str,
        num_samples: int,
        device: str,
        display: Display,
    ) -> None:
        self.runs, self.num_samples, self.display = runs, num_samples, display
        metrics = [*choose_metrics(None), *HEADLINE_METRICS] if num_samples >= HEADLINE_SAMPLES else None
        options = EvaluationOptions(
            data=data, metrics=metrics, extractors=[extractor], num_samples=num_samples, device=device
        )
        cache = runs / "judged"  # where earlier versions kept results
        self.evaluator = create_evaluator(options, cache=cache, display=display)
        self.extractor_names = [extractor.name for extractor in self.evaluator.extractors]

    def evaluate(self, folders: Sequence[JobFolder]) -> list[Row]:
        """Return one row per job that has ended, and the rows of the baselines of each image size."""
        ended = [folder for folder in folders if folder.end_reason is not None]
        targets = [_target(folder) for folder in ended if not folder.job.is_tutorial and folder.has_generator]
        groups, failed = self.evaluator.groups(targets) if targets else ([], [])
        results: dict[str, Row] = {row.name: row.to_json() for group in groups for row in group.rows}
        results |= {row.name: row.to_json() for row in failed}
        for folder in ended:
            if folder.job.is_tutorial and folder.has_generator:
                results[folder.job.key] = self._evaluate_tutorial(folder)
        heldout = {group.shape[1]: _baseline(group, "unseen subjects") for group in groups}
        rows = [self._row(folder, results.get(folder.job.key), heldout) for folder in ended]
        for group in groups:
            rows += self._baseline_rows(group)
        return rows

    def _evaluate_tutorial(self, folder: JobFolder) -> Row:
        """Evaluate the tutorial's images like those of a generator; return the result in the form of a bench's row."""
        files, evaluator = folder.folder / TUTORIAL, self.evaluator
        info = json.loads((files / "info.json").read_text(encoding="utf-8"))
        try:
            data = load_dataset(evaluator.data, DataConfig(resolution=TUTORIAL_RESOLUTION), reporter=self.display)
            train_images, heldout_images = train_and_heldout(data)
            image_evaluator = ImageEvaluator(
                train_images,
                heldout_images,
                metrics=evaluator.metrics,
                spaces=evaluator.extractors,
                reporter=self.display,
            )
            images = np.load(files / "fakes.npz")["images"]
            self.display.say(f"evaluating {folder.job.key}: {count_of(len(images), 'image')}")
            evaluation = image_evaluator.evaluate(ImageSet(images=images, label=folder.job.key))
        except (ZooError, OSError, ValueError) as error:
            return {"error": describe_error(error)}
        return {
            "error": None,
            "figures": {name: value.to_json() for name, value in evaluation.figures.items()},
            "alarms": [alarm.to_json() for alarm in evaluation.alarms],
            "cost": {"parameters_g": info["params_g"], "parameters_d": info["params_d"]},
            "data_digest": data.digest,
            "resolution": train_images.shape[1],
        }

    def _row(self, folder: JobFolder, result: Row | None, heldout: Mapping[int, Row]) -> Row:
        """Return the row of a job; ``result``: None if there was nothing to evaluate."""
        result = result or {"error": folder.state["error"]}
        row = self._training_facts(folder, result["error"])
        # A failed job keeps its row, so that the table shows what was tried.
        if result["error"] is not None:
            return {**row, "fid": None, "kid": None, "figures": {}, "alarms": []}
        values, cost = result["figures"], result["cost"]
        heldout_values = heldout.get(row["px"], {}).get("figures", {})
        return {
            **row,
            "params_g": cost["parameters_g"],
            "params_d": cost["parameters_d"],
            "fid": _value(values, "fid"),
            "kid": _value(values, "kid"),
            "interval": {
                name: [values[name]["low"], values[name]["high"]] for name in ("fid", "kid") if name in values
            },
            "ssim_nearest": _value(values, "ssim_nearest"),
            "ssim_nearest_unseen": _value(heldout_values, "ssim_nearest"),
            "figures": values,
            "alarms": result["alarms"],
            "data_digest": result["data_digest"],
            "weights_sha256": result.get("weights_sha256"),
            "environment": result.get("environment") or describe_environment(choose_device("cpu"), "fp32"),
        }

    def _training_facts(self, folder: JobFolder, error: str | None) -> Row:
        """Return the part of a row that says what was trained and for how long."""
        job, state = folder.job, folder.state
        recipe = None if job.is_tutorial else job.load_recipe()
        return {
            "group": job.group,
            "name": job.name,
            "kind": "job",
            "error": self._without_folder(error),
            "recipe": job.recipe,
            "overrides": list(job.overrides),
            "seed": recipe.train.seed if recipe else 0,
            "px": recipe.data.resolution if recipe else TUTORIAL_RESOLUTION,
            "kimg": folder.nimg / 1000,
            "ended_by": folder.end_reason,
            "stopped": self._without_folder(state["error"]),
            "core_seconds": state["core_seconds"],
            "wall": state["wall"],
            "adopted": bool(state.get("adopted")),
            "continues": job.continues,
            "sees": job.sees,
            "spaces": self.extractor_names,
            "samples": self.num_samples,
            "digest": recipe.digest if recipe else None,
            "date": time.strftime("%Y-%m-%d"),
        }

    def _without_folder(self, message: str | None) -> str | None:
        # Rows are published, so they must not contain paths of this machine.
        return message and message.replace(f"{self.runs}/", "")

    def _baseline_rows(self, group: EvaluatedGroup) -> list[Row]:
        facts = {"px": group.shape[1], "spaces": self.extractor_names, "data_digest": group.data.digest}
        return [{"group": BASELINE_GROUP, **facts, **row.to_json()} for row in group.baselines]


def _target(folder: JobFolder) -> Target:
    run, key = folder.run, folder.job.key
    assert run is not None
    recipe = recipes.load_recipe(run.recipe_file)
    return Target(name=key, kind="run", group=key, weights=run.generator_file, recipe=recipe, run=run)


def _baseline(group: EvaluatedGroup, name: str) -> Row:
    return next((row.to_json() for row in group.baselines if row.name == name), {})


def _value(values: Mapping[str, Any], name: str) -> float | None:
    return values[name]["value"] if name in values else None


def draw_grid(folder: JobFolder, out: Path) -> np.ndarray | None:
    """Draw a grid of a job's generated images; return the first of them, or None if there are none."""
    if not folder.has_generator:
        return None
    if folder.job.is_tutorial:
        images = np.load(folder.folder / TUTORIAL / "fakes.npz")["images"][:GRID_IMAGES]
    else:
        assert folder.run is not None
        images = load_generator(folder.run.path).sample(GRID_IMAGES, seed=LATENT_SEED).numpy()
    metadata = {"recipe": folder.job.recipe, "kimg": folder.nimg / 1000, "seed": LATENT_SEED}
    image_grid.save_png(image_grid.make_grid(images), out / f"leaderboard-{grid_name(folder.job)}.png", metadata)
    return images[:OVERVIEW_IMAGES]


def grid_name(job: Job) -> str:
    """Return the job's name in file names; its group is left out where recipe names contain the image size."""
    return job.name if job.group in ("64", "128") else f"{job.group}-{job.name}"


def draw_overview(images_by_job: Mapping[str, np.ndarray], path: Path, tile_size: int = 64) -> None:
    """Draw one row of generated images per job, its name at the left; every tile has ``tile_size`` pixels a side."""
    label_width, gap = 190, 2
    pitch = tile_size + gap
    size = (label_width + OVERVIEW_IMAGES * pitch, len(images_by_job) * pitch + gap)
    sheet = Image.new("L", size, image_grid.BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, (name, images) in enumerate(images_by_job.items()):
        top = gap + row * pitch
        pen.text((8, top + tile_size / 2), name, fill=225, font=font, anchor="lm")
        for column, image in enumerate(images):
            tile = image_grid.tile_image(image).convert("L")
            if tile.size != (tile_size, tile_size):
                tile = tile.resize((tile_size, tile_size), Image.Resampling.LANCZOS)
            sheet.paste(tile, (label_width + column * pitch, top))
    image_grid.save_png(sheet, path)
