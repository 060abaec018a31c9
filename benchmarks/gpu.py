"""Run everything that needs a GPU, in slices of a few minutes.

    python benchmarks/gpu.py --minutes 10            # the same command continues with the jobs that are not done
    python benchmarks/gpu.py --list                  # the jobs with their state; works without a GPU

A job is a command of another benchmark, which appends to its file in ``results``, or of `zoo train`; the most valuable
jobs come first. One that does not fit into the rest of a slice waits for the next. DIR of --out receives what each job
prints: ``NAME.done.txt`` or ``NAME.failed.txt``; without this file a job runs again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common import make_parser

HERE = Path(__file__).resolve().parent
TRAIN_MINUTES = 6.0
# Goals. Against the plain loop: 4 times at 28 and 64 pixels, 2.5 times at 256; the originals' schedules, 11.6 M images
# of dcgan-256 in 8 h and 2.3 M of lean-256 in 6 h, in a twentieth. Of the bf16 rate: 40 % for multires-256.
SPEED = ("multires-28", "dcgan-64", "dcgan-128", "dcgan-256", "lean-256", "stylegan-256", "multires-256")
PROFILES = ("multires-256", "multires-28", "stylegan-256")
TRAININGS = ("r3gan-256", "stylegan2-256", "lean-256-stable", "dcgan-256-stable", "lean-256", "dcgan-256")
PACKAGES = ("lightweight-gan-256", "stylegan2-pytorch-256", "lightweight-gan-64", "stylegan2-pytorch-64")
NETWORKS = ("stylegan-256", "stylegan-64", "lean-256", "dcgan-64", *PACKAGES)


@dataclass(frozen=True, kw_only=True)
class GpuJob:
    """Arguments of the Python interpreter, and the minutes that they are expected to take."""

    name: str
    minutes: float
    command: tuple[str, ...]


def list_jobs(out: Path, data: str, device: str) -> list[GpuJob]:
    """Return all jobs, the most valuable first."""
    train = ("-m", "zoo", "train")
    jobs = []

    def add(kind: str, name: str, minutes: float, *command: str) -> None:
        jobs.append(
            GpuJob(name=f"{kind}-{name}", minutes=minutes, command=(*command, "--device", device, "--data", data))
        )

    for name in SPEED:
        add("train_speed", name, 4.0, str(HERE / "train_speed.py"), name, "--save")
    for name in PROFILES:
        for mode in ("auto", "reduce-overhead"):  # the second replays CUDA graphs
            add("profile", f"{name}-{mode}", 3.0, *train, name, "--profile", "--set", f"speed.compile={mode}")
    for name in TRAININGS:
        length = ("--hours", str(TRAIN_MINUTES / 60), "--out", str(out / "runs"))
        add("train", name, TRAIN_MINUTES + 1, *train, name, *length)
    for name in NETWORKS:
        add("other_packages", name, 3.0, str(HERE / "other_packages.py"), name, "--save")
    return jobs


def find_state(job: GpuJob, out: Path) -> str:
    """Return ``done``, ``failed`` or ``waiting``."""
    return next((state for state in ("done", "failed") if (out / f"{job.name}.{state}.txt").exists()), "waiting")


def run_job(job: GpuJob, out: Path) -> str:
    """Run a job, keep what it prints, and return its state."""
    output = out / f"{job.name}.txt"
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with output.open("w") as file:
        command, environment = [sys.executable, *job.command], {**os.environ, "PYTHONPATH": path}
        process = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    state = "failed" if process.returncode else "done"
    output.rename(out / f"{job.name}.{state}.txt")
    return state


def main() -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, metavar="M", help="length of the slice (default: 10)")
    add("--out", type=Path, default=HERE / "results" / "gpu", metavar="DIR", help="(default: benchmarks/results/gpu)")
    add("--data", default="phantoms:16", metavar="PATH", help="images, as `zoo train` takes them")
    add("--device", default="cuda")
    add("--only", default="", metavar="TEXT", help="only the jobs with this text in their names")
    add("--list", action="store_true", help="print the jobs, and run none")
    options = parser.parse_args()
    out = options.out.resolve()
    deadline = time.monotonic() + 60 * options.minutes
    for job in list_jobs(out, options.data, options.device):
        state, rest = find_state(job, out), (deadline - time.monotonic()) / 60
        if options.only not in job.name or not (options.list or (state == "waiting" and job.minutes <= rest)):
            continue
        print(f"{job.minutes:4.0f} min  {job.name:36} {state:8} {shlex.join(['python', *job.command])}", flush=True)
        if not options.list:
            out.mkdir(parents=True, exist_ok=True)
            print(f"          {job.name}: {run_job(job, out)}", flush=True)


if __name__ == "__main__":
    main()
