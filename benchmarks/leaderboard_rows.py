"""Rows of the leaderboard: merge, rank and select them. Imports no torch, so that tables.py starts quickly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from common import Row, read_rows

from zoo.core.files import atomic_file

BASELINE_GROUP = "floors"  # value of "group" in the rows of baselines; saved results contain it, so it stays
MIN_TRAINING_SEEDS = 3  # with fewer seeds a row is marked as not proven
UNPROVEN_NOTE = "not yet proven"


def merge_rows(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Write ``rows`` into the file, in place of earlier rows of the same jobs; return all rows of the file."""
    rows_by_job = {_job_key(row): row for row in [*read_rows(path), *rows]}
    merged = list(rows_by_job.values())
    # A new seed may prove rows that were already in the file, so the notes of all rows are computed again.
    for row in merged:
        if row["group"] != BASELINE_GROUP:
            row["note"] = "" if len(_evaluated_seeds(row, merged)) >= MIN_TRAINING_SEEDS else UNPROVEN_NOTE
    with atomic_file(path, "w") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in merged)
    return merged


def _job_key(row: Row) -> tuple[str, str, int | None]:
    # Baselines have the same names at every image size; jobs have unique names within their group.
    return row["group"], row["name"], row["px"] if row["group"] == BASELINE_GROUP else None


def _evaluated_seeds(row: Row, rows: Sequence[Row]) -> set[int]:
    """Return the training seeds with which the row's recipe was evaluated under the same budget."""
    # The groups "64" and "seeds" share one budget.
    groups = {"64", "seeds"} if row["group"] in {"64", "seeds"} else {row["group"]}
    seeds = set()
    for other in rows:
        if other["group"] not in groups or other["error"] is not None:
            continue
        if _training_setup(other) == _training_setup(row):
            seeds.add(other["seed"])
    return seeds


def _training_setup(row: Row) -> tuple[str, int, list[str]]:
    """Return what identifies a training apart from its seed."""
    overrides = [text for text in row["overrides"] if not text.startswith("train.seed=")]
    return row["recipe"], row["px"], overrides


def rank_rows(rows: Sequence[Row]) -> list[Row]:
    """Sort rows by image size, then by FID, the best first.

    Within a size, rows with an alarm follow those without, because FID alone does not detect collapse. Rows without
    FID come last.
    """
    worst = float("inf")

    def sort_key(row: Row) -> tuple[int, bool, bool, float]:
        return row["px"], row["fid"] is None, bool(row["alarms"]), worst if row["fid"] is None else row["fid"]

    return sorted(rows, key=sort_key)


def best_rows(rows: Sequence[Row], group: str, recipes: Sequence[str] = ()) -> list[Row]:
    """Return a group's rows with FID at its largest image size, the best first; ``recipes`` restricts them."""
    jobs = [row for row in rows if row["group"] == group and row["kind"] == "job"]
    largest = max((row["px"] for row in jobs), default=0)
    selected = [row for row in jobs if row["px"] == largest and (not recipes or row["recipe"] in recipes)]
    return [row for row in rank_rows(selected) if row["fid"] is not None]
