"""Rows of the leaderboard: kept, and ranked. Without torch, so that tables are quick."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.core.files import atomic_file

FLOORS = "floors"  # the group of rows that nobody trained
PROVEN = 3  # training seeds after which a row is more than an anecdote
UNPROVEN = "not yet proven"

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def merge(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Rows take the places of those of the same jobs, the others follow; and what is said of them all is said anew."""
    every = {_key(row): row for row in [*read(path), *rows]}
    merged = list(every.values())
    for row in merged:
        if row["group"] != FLOORS:
            row["note"] = "" if len(_seeds(row, merged)) >= PROVEN else UNPROVEN
    with atomic_file(path, "w") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in merged)
    return merged


def _key(row: Row) -> tuple[Any, ...]:
    return row["group"], row["name"], row["px"] if row["group"] == FLOORS else None


def _seeds(row: Row, rows: Sequence[Row]) -> set[int]:
    """Training seeds of the same recipe that were judged, under the same budget: "64" and "seeds" share one."""
    alike = {"64", "seeds"} if row["group"] in {"64", "seeds"} else {row["group"]}
    return {
        other["seed"]
        for other in rows
        if other["group"] in alike
        and (other["recipe"], other["px"]) == (row["recipe"], row["px"])
        and _but_seed(other) == _but_seed(row)
        and other["error"] is None
    }


def _but_seed(row: Row) -> list[str]:
    return [text for text in row["overrides"] if not text.startswith("train.seed=")]


def ranking(rows: Sequence[Row]) -> list[Row]:
    """Size by size, best first by FID, which compares no sizes. One whose alarm rang comes behind all others of its
    size: FID alone does not tell collapse; broken rows come last.
    """
    worst = float("inf")

    def place(row: Row) -> tuple[int, bool, bool, float]:
        return row["px"], row["fid"] is None, bool(row["alarms"]), worst if row["fid"] is None else row["fid"]

    return sorted(rows, key=place)


def best(rows: Sequence[Row], group: str, recipes: Sequence[str] = ()) -> list[Row]:
    """A group's rows at its largest size, best first, of these recipes only or of all; none that is broken."""
    mine = [row for row in rows if row["group"] == group and row["kind"] == "job"]
    size = max((row["px"] for row in mine), default=0)
    fitting = [row for row in mine if row["px"] == size and (not recipes or row["recipe"] in recipes)]
    return [row for row in ranking(fitting) if row["fid"] is not None]
