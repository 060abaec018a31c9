"""Measure the time from the command to the first training step, with a warm image cache.

    python benchmarks/startup.py [NAME ...] [--device cpu] [--save]

Each recipe is trained twice, each time in a new process, and the second run counts. The time covers the imports and
``zoo.train`` up to the first step: images are mapped, networks are built, and the grids of real images and of the
untrained generator are drawn.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from common import Row, append_row, check_recipes, make_parser, run_worker

RESULTS = Path(__file__).parent / "results" / "startup.jsonl"
NAMES = ("multires-28", "dcgan-64", "dcgan-256", "lean-256")
# A text, not a function of this file: the clock must start before anything of zoo is imported.
WORKER = """
import time
start = time.perf_counter()
import json, sys
import zoo, zoo.training.train
from zoo.runtime.device import describe_environment
from zoo.training.trainer import Trainer
imported = time.perf_counter()
name, device, out = sys.argv[1:]
untimed_step, times = Trainer.step, []

def timed_step(self):
    times.append(time.perf_counter())
    untimed_step(self)
    times.append(time.perf_counter())
    if len(times) == 6:  # begin and end of three steps
        row = {"recipe": name, "imports_s": imported - start, "to_first_step_s": times[0] - imported}
        row |= {"first_step_s": times[1] - times[0], "step_s": times[5] - times[4]}
        environment = describe_environment(self.device, self.speed.precision)
        print(json.dumps({**row, "environment": environment}), flush=True)
        raise KeyboardInterrupt

Trainer.step = timed_step
zoo.train(name, data="phantoms:16", out=out, device=device, new=True)
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save", action="store_true", help=f"append the results to {RESULTS.name}")
    options = parser.parse_args()
    check_recipes(parser, options.names)
    for name in options.names:
        measure_startup(name, options.device)  # fills the caches
        row = measure_startup(name, options.device)
        print(json.dumps(row), flush=True)
        if options.save:
            append_row(RESULTS, row)


def measure_startup(name: str, device: str) -> Row:
    """Return the seconds of imports, start and first steps of a new process."""
    with tempfile.TemporaryDirectory() as out:
        return run_worker(WORKER, name, device, out)


if __name__ == "__main__":
    main()
