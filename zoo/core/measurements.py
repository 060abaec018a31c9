"""Measured quality of recipes: what `zoo list` shows, and what `zoo train` expects of a length.

``measurements.json`` is written by ``python benchmarks/tables.py`` from ``benchmarks/results/leaderboard.jsonl``;
a test compares the two.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("measurements.json")


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """A run of a recipe that was evaluated.

    Attributes:
        recipe: its name.
        resolution: pixels a side.
        kimg: thousands of images it was trained for.
        fid: Frechet distance of ``samples`` fakes from the training images; it depends on their number.
        alarms: names of the alarms that were triggered.
        device: ``cpu`` or ``cuda``.
        minutes: core-minutes on a CPU, minutes on a GPU; None: unknown.
    """

    recipe: str
    resolution: int
    kimg: float
    fid: float
    samples: int
    alarms: tuple[str, ...]
    device: str
    minutes: float | None


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """All measured runs.

    Attributes:
        start_here: the recommended recipe of each resolution.
        heldout_fid: FID of held-out real images by resolution, the best to be expected.
    """

    start_here: dict[int, str]
    heldout_fid: dict[int, float]
    runs: tuple[MeasuredRun, ...]

    def best_run(self, recipe: str) -> MeasuredRun | None:
        """Return the recipe's run with the lowest FID; None: it was not measured."""
        return min((run for run in self.runs if run.recipe == recipe), key=lambda run: run.fid, default=None)

    def longest_run(self, recipe: str, kimg: float) -> MeasuredRun | None:
        """Return the recipe's longest run of at most ``kimg`` thousand images, with a tenth of tolerance."""
        runs = [run for run in self.runs if run.recipe == recipe and run.kimg <= 1.1 * kimg]
        return max(runs, key=lambda run: run.kimg, default=None)


@functools.cache
def load_measurements() -> Measurements:
    """Read the file of the package."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return Measurements(
        start_here={int(size): name for size, name in content["start_here"].items()},
        heldout_fid={int(size): value for size, value in content["heldout_fid"].items()},
        runs=tuple(MeasuredRun(**run | {"alarms": tuple(run["alarms"])}) for run in content["runs"]),
    )
