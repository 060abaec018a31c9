"""From the command to the first step: seconds beyond the imports, from a warm cache.

    python benchmarks/startup.py [NAME ...] [--device cpu] [--save]

Each recipe is trained in a process of its own, twice; the second time counts. What is timed is ``zoo.train`` up to the
first step: images mapped, networks built, the grids of real images and of the untrained generator drawn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import append

from zoo import recipes
from zoo.core.errors import ZooError

RESULTS = Path(__file__).parent / "results" / "startup.jsonl"
NAMES = ("multires-28", "dcgan-64", "dcgan-256", "lean-256")
WORKER = """
import time
start = time.perf_counter()
import json, sys
import zoo, zoo.training.train
from zoo.runtime.device import environment
from zoo.training.trainer import Trainer
imported = time.perf_counter()
name, device, out = sys.argv[1:]
step, times = Trainer.step, []
def timed(self):
    times.append(time.perf_counter())
    step(self)
    times.append(time.perf_counter())
    if len(times) == 6:
        row = {"recipe": name, "imports_s": imported - start, "to_first_step_s": times[0] - imported}
        row |= {"first_step_s": times[1] - times[0], "step_s": times[5] - times[4]}
        print(json.dumps({**row, "environment": environment(self.device, self.speed.precision)}), flush=True)
        raise KeyboardInterrupt
Trainer.step = timed
zoo.train(name, data="phantoms:16", out=out, device=device, new=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save", action="store_true", help=f"append the results to {RESULTS.name}")
    options = parser.parse_args()
    try:
        for name in options.names:
            recipes.load_recipe(name)
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    for name in options.names:
        started(name, options.device)
        row = started(name, options.device)
        print(json.dumps(row), flush=True)
        if options.save:
            append(RESULTS, row)


def started(name: str, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", WORKER, name, device, out]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
