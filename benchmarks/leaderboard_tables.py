"""Tables of the leaderboard's rows, and what the package states about recipes from them; `tables.py` writes both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import Row, read_rows
from leaderboard_rows import BASELINE_GROUP, rank_rows

from zoo.metrics.registry import METRICS, short_extractor_name
from zoo.report.table import NONE, format_alarms, format_value_cell, markdown_table

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parent / "recipes"


def saved_rows() -> list[Row]:
    return read_rows(HERE / "results" / "leaderboard.jsonl")


def leaderboard(*groups: str, smallest: int = 0) -> str:
    """Rows of the groups, ranked within each size from ``smallest`` on, followed by held-out subjects of that size."""
    every_row = saved_rows()
    rows = [row for row in every_row if row["group"] in groups and row["px"] >= smallest]
    # The first extractor ranks; of the others only KID is shown.
    extractors = dict.fromkeys(name for row in rows for name in row["spaces"][1:])
    fid, kid, *others = (
        METRICS[name] for name in ("fid", "kid", "precision", "recall", "ssim_nearest", "ssim_pairwise")
    )
    kids = [kid.for_extractor(name, f"kid_{short_extractor_name(name)}") for name in extractors]
    metrics = [fid, kid, *kids, *others]

    def cells(row: Row) -> list[str]:
        return [
            format_value_cell(row["figures"].get(metric.name), metric.decimals, interval=True) for metric in metrics
        ]

    lines = []
    for px in sorted({row["px"] for row in rows}):
        for row in rank_rows([row for row in rows if row["px"] == px]):
            lines.append([str(px), *training_cells(row), *cells(row), remarks(row)])
        for row in every_row:
            if (row["group"], row["px"], row["name"]) == (BASELINE_GROUP, px, "unseen subjects"):
                fakes = f"{row['figures']['fid']['n']:,}"
                lines.append([str(px), f"({row['name']})", "", "", "", "", "", fakes, *cells(row), ""])
    headings = ["px>", "", "recipe digest", "kimg>", "core-minutes>", "minutes>", "G / D parameters>", "n>"]
    return markdown_table([*headings, *(f"{metric.title}>" for metric in metrics), "alarms and remarks"], lines)


def variety() -> str:
    """Each switch of docs/variety.md alone, with every seed; the switch with the lowest mean FID first."""
    by_switch: dict[str, list[Row]] = {}
    for row in saved_rows():
        if row["group"] == "variety" and row["error"] is None:
            by_switch.setdefault(row["name"].rpartition("-seed")[0], []).append(row)
    ranked = sorted(by_switch.items(), key=lambda item: np.mean([row["fid"] for row in item[1]]))
    metrics = [METRICS[name] for name in ("fid", "kid", "precision", "recall", "coverage")]
    lines = []
    for switch, rows in ranked:
        for row in sorted(rows, key=lambda row: row["seed"]):
            cost = [str(row["seed"]), f"{row['core_seconds'] / 60:.0f}", f"{row['kimg']:.0f}", f"{row['samples']:,}"]
            cells = [
                format_value_cell(row["figures"][metric.name], metric.decimals, interval=True) for metric in metrics
            ]
            lines.append([f"`{switch}`", *cost, *cells, format_alarms(row)])
    headings = [
        "switch",
        "seed>",
        "core-minutes>",
        "kimg>",
        "n>",
        *(f"{metric.title}>" for metric in metrics),
        "alarms",
    ]
    return markdown_table(headings, lines)


def measurements() -> str:
    """Return the text of ``measurements.json``: runs of unchanged recipes, and the best recipe of each size."""
    every_row = saved_rows()
    heldout = {row["px"]: row["figures"]["fid"]["value"] for row in every_row if row["name"] == "unseen subjects"}
    recipes = {path.stem for path in RECIPES.glob("*.yaml")}
    runs = []
    for row in every_row:
        is_job = row["kind"] == "job" and row["recipe"] in recipes and row["overrides"] == ["train.seed=0"]
        if not is_job or row["error"] is not None or row["fid"] is None:
            continue
        seconds = _training_seconds(row)
        runs.append(
            {
                "recipe": row["recipe"],
                "resolution": row["px"],
                "kimg": round(row["kimg"], 1),
                "fid": round(row["fid"], 1),
                "samples": row["samples"],
                "alarms": sorted({alarm["name"] for alarm in row["alarms"]}),
                "device": "cuda" if _on_gpu(row) else "cpu",
                "minutes": None if seconds is None else round(seconds / 60, 1),
            }
        )
    runs.sort(key=lambda run: (run["resolution"], run["recipe"], run["kimg"]))
    starts = {}
    # The best comes last, and after all that were trained on a GPU: a beginner may have none.
    for row in sorted(filter(_may_start, every_row), key=lambda row: (not _on_gpu(row), -row["fid"])):
        if row["recipe"] in recipes:
            starts[row["px"]] = row["recipe"]
    parts = [f'"start_here": {json.dumps(dict(sorted(starts.items())))}']
    parts.append(f'"heldout_fid": {json.dumps({px: round(fid, 1) for px, fid in sorted(heldout.items())})}')
    lines = ",\n  ".join(json.dumps(run) for run in runs)
    return "{" + ",\n ".join([*parts, f'"runs": [\n  {lines}\n ]']) + "}\n"


def _may_start(row: Row) -> bool:
    """Return whether a row of the leaderboard may make its recipe the one to start with."""
    return _is_recommendable(row) and row["overrides"] == ["train.seed=0"]


def _is_recommendable(row: Row) -> bool:
    """Return whether a row is of an unchanged recipe, which may start from other weights, and did not collapse."""
    if row["kind"] != "job" or row.get("fid") is None:
        return False
    # Low recall and coverage are of a run that was too short; other signs of collapse exclude a recipe.
    collapsed = any(alarm["metric"] not in ("recall", "coverage") for alarm in row["alarms"])
    changes = {text for text in row["overrides"] if not text.startswith("train.init_from=")}
    return changes == {"train.seed=0"} and not collapsed


def _on_gpu(row: Row) -> bool:
    return row["environment"]["device"].startswith("cuda")


def _training_seconds(row: Row) -> float | None:
    """Return the core-seconds of a training, or its seconds on a GPU; None: unknown."""
    return row["wall"] if _on_gpu(row) else row["core_seconds"]


def training_cells(row: Row) -> list[str]:
    """Return name, recipe digest, kimg, core-minutes, minutes, parameters and number of fakes of a job."""
    name = f"`{row['name']}`{', longer' if row['group'] == 'long' else ''}"
    core_minutes = "" if row["core_seconds"] is None else f"{row['core_seconds'] / 60:.1f}"
    parameters = NONE
    if "params_g" in row:
        parameters = f"{row['params_g']:,} / {row['params_d']:,}"
    digest = NONE if row["digest"] is None else f"`{row['digest'][:8]}`"
    minutes, fakes = f"{row['wall'] / 60:.0f}", f"{row['samples']:,}"
    return [name, digest, f"{row['kimg']:.0f}", core_minutes, minutes, parameters, fakes]


def recommended() -> str:
    """The best run of each size on a CPU, and on a GPU where that is better; ``zoo list`` marks those to start with."""
    rows = sorted(filter(_is_recommendable, saved_rows()), key=lambda row: -row["fid"])
    best = {(row["px"], _on_gpu(row)): row for row in rows}
    for px, on_gpu in sorted(best):
        if on_gpu and (px, False) in best and best[px, False]["fid"] < best[px, True]["fid"]:
            del best[px, True]
    return _short_table([best[key] for key in sorted(best)])


def equal_budget(px: int) -> str:
    """Every recipe of one size under the same budget."""
    rows = [row for row in saved_rows() if row["px"] == px and row["group"] in {"64", "128"}]
    return _short_table(rank_rows(rows))


def _short_table(rows: Sequence[Row]) -> str:
    """One line per job with what a reader who chooses a recipe needs, next to the held-out images of its size."""
    heldout = {
        row["px"]: row["figures"]["fid"]
        for row in saved_rows()
        if row["group"] == BASELINE_GROUP and row["name"] == "unseen subjects"
    }
    lines = []
    for row in rows:
        digest = f"`{row['digest'][:8]}`"
        kimg, minutes = f"{row['kimg']:.0f}", f"{_training_seconds(row) / 60:.0f}{' on a GPU' if _on_gpu(row) else ''}"
        fid, unseen = (f"{value['value']:.1f}" for value in (row["figures"]["fid"], heldout[row["px"]]))
        name, fakes = f"`{row['recipe']}`", f"{row['samples']:,}"
        lines.append([str(row["px"]), name, digest, kimg, minutes, fakes, fid, unseen, format_alarms(row)])
    headings = ["pixels>", "recipe", "digest", "kimg>", "core-minutes>", "fakes>", "FID>", "FID of held-out images>"]
    return markdown_table([*headings, "alarm"], lines)


def remarks(row: Row) -> str:
    """Return alarms, errors, what D was trained on before, and whether there are too few seeds."""
    pretrained = f"D pretrained on {row['sees']}" if row["sees"] else ""
    parts = [format_alarms(row), row["error"], row["stopped"], pretrained, row["note"]]
    return "; ".join(part for part in parts if part)


LEADERBOARD_TABLES: dict[str, Callable[[], str]] = {
    "leaderboard": lambda: leaderboard("64", "long", "28"),
    "leaderboard_128": lambda: leaderboard("128"),
    "variety": variety,
    "leaderboard_hour": lambda: leaderboard("hour"),
    "leaderboard_gpu": lambda: leaderboard("gpu"),
    "leaderboard_originals": lambda: leaderboard("originals", "128", "gpu", smallest=128),
    "leaderboard_ablation": lambda: leaderboard("ablation"),
    "leaderboard_same": lambda: leaderboard("same"),
    "leaderboard_seeds": lambda: leaderboard("seeds"),
    "recommended": recommended,
    "equal_budget_64": lambda: equal_budget(64),
    "leaderboard_peer": lambda: leaderboard("peer"),
}
