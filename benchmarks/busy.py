"""Compare training beside other programs with and without the limit that `zoo` sets on waiting threads.

    python benchmarks/busy.py [NAME ...] [--busy 0,2] [--rounds 3] [--seconds 8] [--save]

A thread of OpenMP that waits for another one runs in circles for a while before it sleeps. Where other programs use the
cores, the other thread may be waiting for that very core. Each recipe is trained on all cores beside as many busy
loops as --busy says. The two settings take turns, each in a new process; the ratio is that of their medians.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import Row, append_row, check_recipes, make_parser, run_worker

from zoo.cli.main import SPIN_COUNT, SPIN_VARIABLES

RESULTS = Path(__file__).parent / "results" / "busy.jsonl"
NAMES = ("multires-28", "dcgan-64", "fastgan-r3-64")
# Steps are counted from the third on: the first two allocate.
WORKER = """
import json, sys, time
import zoo
from zoo.runtime.device import describe_environment
from zoo.training.trainer import Trainer
name, seconds, out = sys.argv[1], float(sys.argv[2]), sys.argv[3]
untimed_step, ends = Trainer.step, []

def timed_step(self):
    untimed_step(self)
    ends.append(time.perf_counter())
    if len(ends) > 3 and ends[-1] - ends[1] > seconds:
        row = {"steps_per_second": (len(ends) - 2) / (ends[-1] - ends[1])}
        print(json.dumps({**row, "environment": describe_environment(self.device, self.speed.precision)}), flush=True)
        raise KeyboardInterrupt

Trainer.step = timed_step
threads = ["speed.threads=" + sys.argv[4]]
zoo.train(name, data="phantoms:16", out=out, device="cpu", new=True, set=threads)
"""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--busy", default=f"0,{os.cpu_count()}", metavar="N,...", help="busy loops beside the training")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each setting (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="length of a turn (default: 8)")
    parser.add_argument("--save", action="store_true", help=f"append the results to {RESULTS.name}")
    options = parser.parse_args()
    check_recipes(parser, options.names)
    for busy in map(int, options.busy.split(",")):
        for name in options.names:
            row = compare_settings(name, busy, options.rounds, options.seconds)
            print(json.dumps(row), flush=True)
            if options.save:
                append_row(RESULTS, row)


def compare_settings(name: str, busy: int, rounds: int, seconds: float) -> Row:
    """Return steps a second with torch's default and with the limit, and by how much the limit is faster."""
    rates: dict[str, list[float]] = {"default": [], "limited": []}
    environment = {}
    with _busy_loops(busy):
        for _ in range(rounds):
            for setting, values in rates.items():
                row = measure_steps(name, seconds, limited=setting == "limited")
                values.append(row["steps_per_second"])
                environment = row["environment"]
    default, limited = (statistics.median(values) for values in rates.values())
    row = {"recipe": name, "busy": busy, "default": default, "limited": limited, "ratio": limited / default}
    return {**row, "rates": rates, "environment": environment}


def measure_steps(name: str, seconds: float, *, limited: bool) -> Row:
    """Return the steps a second of a new process that trains on all cores."""
    variables = {key: value for key, value in os.environ.items() if key not in (*SPIN_VARIABLES, "OMP_NUM_THREADS")}
    if limited:
        variables["GOMP_SPINCOUNT"] = SPIN_COUNT
    with tempfile.TemporaryDirectory() as out:
        return run_worker(WORKER, name, str(seconds), out, str(os.cpu_count()), variables=variables)


@contextlib.contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    main()
