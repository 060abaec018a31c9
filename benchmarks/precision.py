"""Compare fp32 and bf16, each with and without channels_last, in the training step of every recipe.

    python benchmarks/precision.py [--recipes a,b] [--rounds 3] [--step-seconds 8] [--save] [--json]

All four take turns with one set of networks (A B C D A B C D), so that other programs affect each of them alike; a time
is the shortest of its turns, because other programs only lengthen them. ``auto`` is measured anew, as at the first use
on a machine. With ``--save``, a recipe that has a row of this CPU, thread count and version of torch in
``benchmarks/results/precision.jsonl`` is skipped: the same command resumes.
"""

from __future__ import annotations

import argparse
import os
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
    f"{precision} {layout}": (precision, layout == "NHWC")
    for precision in ("fp32", "bf16")
    for layout in ("NHWC", "NCHW")
}
TURN_SECONDS = 0.5  # shortest turn
SMALLEST_BATCH = 4


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--recipes", metavar="A,B", help="(default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting")
    parser.add_argument("--step-seconds", type=float, default=8.0, help="longest step; a larger batch is cut")
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
    batch = _affordable_batch(recipe, data, options.step_seconds)
    rounds = time_in_turns(build_trainer(recipe, data, batch), options.rounds)
    shortest = {setting: min(seconds) for setting, seconds in rounds.items()}
    choice = auto.choice
    chosen = f"{choice.precision} {'NHWC' if choice.channels_last else 'NCHW'}"
    layout = chosen.split()[1]
    better = min(shortest[f"{precision} {layout}"] for precision in ("fp32", "bf16"))
    return {
        "name": name,
        "auto": chosen,
        "auto_threads": choice.threads,
        "auto_ratio": shortest[chosen] / better,  # of the chosen precision to the better one, in the chosen layout
        "auto_ratio_all": shortest[chosen] / min(shortest.values()),
        "auto_s": auto.seconds,
        "bf16_ratio": shortest["bf16 NHWC"] / shortest["fp32 NHWC"],
        "step_s": shortest,
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


def _affordable_batch(recipe: Recipe, data: Dataset, longest: float) -> int:
    """Return the recipe's batch, halved until a step takes at most ``longest`` seconds."""
    batch = recipe.train.batch
    smallest = min(SMALLEST_BATCH, batch)
    trainer = build_trainer(recipe, data, smallest)
    _time_steps(trainer, 1)  # kernels are generated
    each = _time_steps(trainer, 1) / smallest
    while batch % 2 == 0 and batch > smallest and batch * each > longest:
        batch //= 2
    return batch


def build_trainer(recipe: Recipe, data: Dataset, batch: int) -> Trainer:
    train = replace(recipe.train, batch=batch, micro_batch=None, precision="fp32")
    return Trainer(
        replace(recipe, train=train, speed=replace(recipe.speed, channels_last=True, threads=torch.get_num_threads())),
        data,
        CPU,
    )


def time_in_turns(trainer: Trainer, rounds: int) -> dict[str, list[float]]:
    """Return the seconds per step of every turn of each setting."""
    repeats = {}
    for name, setting in SETTINGS.items():
        switch_settings(trainer, *setting)
        repeats[name] = max(1, round(TURN_SECONDS / _time_steps(trainer, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, setting in SETTINGS.items():
            switch_settings(trainer, *setting)
            seconds[name].append(_time_steps(trainer, repeats[name]))
    trainer.loader.close()
    return seconds


def switch_settings(trainer: Trainer, precision: str, channels_last: bool) -> None:
    """Change precision and memory layout of a trainer: of its networks and of the memory of its optimisers."""
    trainer.speed = replace(trainer.speed, precision=precision, channels_last=channels_last)  # type: ignore[arg-type]
    trainer._sampler.speed = trainer.speed
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for network in (trainer.G, trainer.D, trainer.ema.module):
        network.to(memory_format=layout)
    for optimizer in trainer.optimizers.values():
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim() == 4:
                    state[key] = value.contiguous(memory_format=layout)


def _time_steps(trainer: Trainer, repeats: int) -> float:
    """Return the mean seconds of a step: of one with lazy penalties and one without, in their proportion."""
    period, batch = trainer.objective.period, trainer.recipe.train.batch
    # The CPU time of a single thread does not depend on other programs.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    total = 0.0
    for _ in range(repeats):
        for step, weight in ((0, 1 / period), (1, 1 - 1 / period)):
            if weight:
                trainer.nimg = step * batch
                start = clock()
                trainer.step()
                total += weight * (clock() - start)
    return total / repeats


if __name__ == "__main__":
    main()
