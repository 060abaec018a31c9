"""Compare fp32 and bf16, each with and without channels_last, in the training step of every recipe.

    python benchmarks/precision.py [--recipes a,b] [--rounds 3] [--save] [--json]

All four take turns within one process (A B C D A B C D), so that other programs affect each of them alike; a time is
the median over the rounds. ``auto`` is measured anew, as at the first use on a machine. A recipe that has a row of this
CPU and version of torch in ``benchmarks/results/precision.jsonl`` is skipped with ``--save``: the command resumes.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import Row, add_output_arguments, make_parser, measure_each, read_rows

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.data.dataset import Dataset, load_dataset
from zoo.recipes import load_recipe
from zoo.runtime.device import describe_environment
from zoo.training.auto_speed import choose_auto
from zoo.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "precision.jsonl"
CPU = torch.device("cpu")
SETTINGS = {
    f"{precision} {layout}": (precision, layout == "NHWC") for precision in ("fp32", "bf16") for layout in ("NHWC", "NCHW")
}
STEP_SECONDS = 8.0  # of a step in fp32; a larger batch is cut, which shortens all four alike


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--recipes", metavar="A,B", help="(default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting")
    parser.add_argument("--data", default="phantoms:16", metavar="PATH")
    add_output_arguments(parser, RESULTS)
    options = parser.parse_args()
    names = options.recipes.split(",") if options.recipes else recipes.list_models()
    try:
        for name in names:
            load_recipe(name)
        environment = describe_environment(CPU, "auto")
        done = {row["name"] for row in read_rows(RESULTS) if _same(row["environment"], environment)}
        remaining = [name for name in names if not (options.save and name in done)]
        measure_each(remaining, lambda name: measure(name, options), describe_row, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return all(before[key] == now[key] for key in ("cpu", "torch", "threads"))


def describe_row(row: Row) -> str:
    times = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in row["step_s"].items())
    return f"{row['name']}: {times}; auto: {row['auto']}, {row['auto_ratio']:.2f} times the better precision"


def measure(name: str, options: argparse.Namespace) -> Row:
    """Return one recipe's row."""
    recipe = load_recipe(name)
    with tempfile.TemporaryDirectory() as folder:
        auto = _choose_in_empty_cache(recipe, folder)
    data = load_dataset(options.data, recipe.data)
    batch = _affordable_batch(recipe, data)
    rounds = time_in_turns(recipe, data, batch, options.rounds)
    medians = {setting: statistics.median(seconds) for setting, seconds in rounds.items()}
    choice = auto.choice
    chosen = f"{choice.precision} {'NHWC' if choice.channels_last else 'NCHW'}"
    layout = chosen.split()[1]
    better = min(medians[f"{precision} {layout}"] for precision in ("fp32", "bf16"))
    return {
        "name": name,
        "auto": chosen,
        "auto_threads": choice.threads,
        "auto_ratio": medians[chosen] / better,  # of the chosen precision to the better one, in the chosen layout
        "auto_ratio_all": medians[chosen] / min(medians.values()),
        "auto_s": auto.seconds,
        "bf16_ratio": medians["bf16 NHWC"] / medians["fp32 NHWC"],
        "step_s": medians,
        "rounds_s": rounds,
        "batch": batch,
        "recipe_batch": recipe.train.batch,
        "load": os.getloadavg()[0],
        "data": options.data,
        "environment": describe_environment(CPU, "auto"),
        "date": time.strftime("%Y-%m-%d"),
    }


def _choose_in_empty_cache(recipe: Recipe, folder: str) -> Any:
    before = os.environ.get("ZOO_CACHE")
    os.environ["ZOO_CACHE"] = folder
    try:
        result = choose_auto(recipe, CPU)
    finally:
        os.environ.pop("ZOO_CACHE")
        if before is not None:
            os.environ["ZOO_CACHE"] = before
    if result is None:
        raise ZooError("ZOO_MEASURE=0 turns off what this benchmark measures; unset it")
    return result


def _affordable_batch(recipe: Recipe, data: Dataset) -> int:
    """Return the recipe's batch, halved until a step takes at most ``STEP_SECONDS``."""
    smallest = 4
    start = time.perf_counter()
    _build_trainer(recipe, data, min(smallest, recipe.train.batch), "fp32", channels_last=True).step()
    each, batch = (time.perf_counter() - start) / smallest, recipe.train.batch
    while batch % 2 == 0 and batch > smallest and batch * each > STEP_SECONDS:
        batch //= 2
    return batch


def time_in_turns(recipe: Recipe, data: Dataset, batch: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds per step of every turn of each setting; a turn is a whole period of lazy penalties."""
    trainers = {name: _build_trainer(recipe, data, batch, *setting) for name, setting in SETTINGS.items()}
    for trainer in trainers.values():
        _time_steps(trainer, 1)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            seconds[name].append(_time_steps(trainer, trainer.objective.period))
    for trainer in trainers.values():
        trainer.loader.close()
    gc.collect()
    return seconds


def _time_steps(trainer: Trainer, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    return (time.perf_counter() - start) / steps


def _build_trainer(recipe: Recipe, data: Dataset, batch: int, precision: str, channels_last: bool) -> Trainer:
    train = replace(recipe.train, batch=batch, micro_batch=None, precision=precision)  # type: ignore[arg-type]
    speed = replace(recipe.speed, channels_last=channels_last)
    return Trainer(replace(recipe, train=train, speed=speed), data, CPU)


if __name__ == "__main__":
    main()
