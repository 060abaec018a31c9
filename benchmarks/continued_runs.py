"""Train a run in a folder that a benchmark keeps for it, or continue it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import zoo
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.training.loop import DivergedError


def train_or_continue(recipe: zoo.Recipe, folder: Path, kimg: float, **keywords: Any) -> zoo.Run:
    """Train the only run of a folder up to a length, from where it stopped.

    Args:
        folder: of this run alone.
        **keywords: as of :func:`zoo.train`, for a new run.

    Raises:
        DivergedError: it has diverged, now or earlier.
        ZooError: it is longer already.
    """
    quiet = Display(quiet=True)
    files = sorted(folder.glob("*/run.json"))
    if not files:
        return zoo.train(recipe, out=folder, kimg=kimg, display=quiet, **keywords)
    run = zoo.Run(files[0].parent)
    if run.info["status"] == "failed":
        raise DivergedError(run.info["reason"])
    batch = max(recipe.train.batches.sizes)
    if run.info["nimg"] >= 1000 * kimg + batch:
        raise ZooError(f"{run.path}: was trained for {run.info['nimg'] / 1000:g} kimg, beyond {kimg:g}. Delete it")
    return zoo.train(resume=run.path, kimg=kimg, display=quiet, announce=io.StringIO())
