"""Measure what validations, grids, checkpoints, curves and the animation take, and their share of an hour of training.

    python benchmarks/run_time.py [NAME ...] [--data PATH] [--device cpu] [--json] [--save]

Each recipe is trained for a few steps with a grid, a validation and a checkpoint after every second one, twice as long
again by resuming, and the second part counts: the first one imports what draws. The run itself records where its time
went (``seconds`` in run.json). An hour has as many of each as the recipe's cadences ask for, bounded by
``train.evaluate_share`` as in training. The values of real images, which a set needs once, are given in seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import Row, add_output_arguments, make_parser, measure_each

import zoo
from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.report.image_grid import GIF_MAX_FRAMES
from zoo.training.loop import MIN_SNAPSHOTS

RESULTS = Path(__file__).parent / "results" / "run_time.jsonl"
NAMES = ("multires-28", "fastgan-r3-64", "dcgan-64", "upscale-256")
EVENTS = 3  # grids, validations and checkpoints of each part
STEPS_PER_EVENT = 2
HOUR_S = 3600.0


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--data", default="phantoms:16", metavar="PATH", help="images, as `zoo train` takes them")
    parser.add_argument("--device", default="auto")
    add_output_arguments(parser, RESULTS)
    options = parser.parse_args()
    try:
        measure_each(
            options.names, lambda name: measure(name, options.data, options.device), describe_row, options, RESULTS
        )
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def measure(name: str, data: str, device: str) -> Row:
    """Return the seconds of a step and of each event, and the share of each in an hour."""
    recipe = recipes.load_recipe(name)
    step_kimg = recipe.train.batches.at(0) / 1000
    every = STEPS_PER_EVENT * step_kimg
    cadences = [f"train.{key}={every}" for key in ("sample_kimg", "checkpoint_kimg", "log_kimg")]
    display = Display(quiet=True)
    with tempfile.TemporaryDirectory() as out:
        overrides = [*cadences, "train.evaluate_share=1"]
        first = zoo.train(name, data=data, out=out, device=device, display=display, kimg=EVENTS * every, set=overrides)
        before = first.info["seconds"]
        run = zoo.train(resume=first.path, device=device, display=display, kimg=2 * EVENTS * every)
        info, num_grids = run.info, len(run.grids())
    after, description = info["seconds"], info["data_description"]
    seconds = {part: (after[part] - before.get(part, 0.0)) / EVENTS for part in after}
    seconds["steps"] /= STEPS_PER_EVENT
    # Frames are read again at every end, so all of them belong to the second animation.
    seconds["animation"] = (after["animation"] - before["animation"]) / (num_grids + 1)
    row: Row = {"name": name, "data": description, "batch": recipe.train.batches.at(0), "seconds": seconds}
    row |= {"reference_s": after["reference"], "evaluate_share": recipe.train.evaluate_share}
    row |= hour_shares(recipe, seconds)
    return {**row, "environment": info["environment"]}


def hour_shares(recipe: Recipe, seconds: dict[str, float]) -> Row:
    """Return how many events an hour of training has, and the share of the time of each kind."""
    config = recipe.train
    kimg = HOUR_S / seconds["steps"] * config.batches.at(0) / 1000
    snapshots, checkpoints = kimg / config.sample_kimg, kimg / config.checkpoint_kimg
    checkpoints = max(checkpoints, 60 / config.checkpoint_minutes)
    counts = {"validation": snapshots, "grids": snapshots, "checkpoints": checkpoints, "curves": checkpoints}
    counts["animation"] = min(snapshots + 1, GIF_MAX_FRAMES)
    shares = {part: count * seconds[part] / HOUR_S for part, count in counts.items()}
    # The first snapshots are taken whatever they cost, all later ones within `evaluate_share` (zoo.training.loop).
    first = min(1.0, MIN_SNAPSHOTS / snapshots)
    for part in ("validation", "curves"):
        shares[part] = min(shares[part], config.evaluate_share)
    cadences = sum(shares.values()) - shares["animation"]
    total = min(cadences, max(config.evaluate_share, first * cadences)) + shares["animation"]
    return {"kimg": kimg, "snapshots": snapshots, "checkpoints": checkpoints, "shares": shares, "share": total}


def describe_row(row: Row) -> str:
    shares = ", ".join(f"{part} {share:.2%}" for part, share in row["shares"].items())
    events = ", ".join(f"{part} {1000 * seconds:.0f}" for part, seconds in row["seconds"].items())
    return f"{row['name']}: in an hour {shares}; all {row['share']:.2%}; ms of each: {events}"


if __name__ == "__main__":
    main()
