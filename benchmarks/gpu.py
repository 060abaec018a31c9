"""Run everything that needs a GPU, in slices of a few minutes.

    python benchmarks/gpu.py --minutes 10            # the same command continues with the jobs that are not done
    python benchmarks/gpu.py --list                  # jobs, their goals and their results; works without a GPU

A job is a command line of another benchmark or of `zoo train`; the most valuable jobs come first. A job that does not
fit into the rest of a slice waits for the next one, a training continues where it was, and a failed job is skipped
until --retry. DIR of --out receives ``state.json``, a JSONL file of rows per job, ``logs`` and ``runs``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import Row, last_line, make_parser, read_rows

from zoo.core.errors import ZooError, suggest
from zoo.core.files import atomic_file
from zoo.training.run_folder import find_runs

HERE = Path(__file__).resolve().parent
SAVE_SECONDS = 60.0  # of a slice, in which a training saves and ends after SIGTERM
MINUTES = {"train_speed": 4.0, "profile": 3.0, "train": 6.0, "other_packages": 3.0}  # expected; a training's length
GOALS = {
    "train_speed": "ratio: above 1 is faster than the plain loop; share_of_floor: 1 is the roofline. "
    "The originals' schedules: 11.6 M images in 8 h (dcgan-256), 2.3 M in 6 h (lean-256).",
    "profile": "share_of_floor: 1 is the roofline. Compare both compile modes.",
    "train": "no alarms, and ssim_pairwise near that of real images.",
    "other_packages": "macs_per_s compares different networks; img_per_s does not.",
}
SPEED = ("multires-28", "dcgan-64", "dcgan-128", "dcgan-256", "lean-256", "stylegan-256", "multires-256")
PROFILES = ("multires-256", "multires-28", "stylegan-256")
TRAININGS = ("r3gan-256", "stylegan2-256", "lean-256-stable", "dcgan-256-stable", "lean-256", "dcgan-256")
NETWORKS = ["stylegan-256", "stylegan-64", "lean-256", "dcgan-64"]
NETWORKS += [f"{package}-{size}" for size in (256, 64) for package in ("lightweight-gan", "stylegan2-pytorch")]


@dataclass(frozen=True, kw_only=True)
class GpuJob:
    """A command of the Python interpreter; its kind names its minutes and its goal."""

    name: str
    kind: str
    command: Sequence[str]

    @property
    def seconds(self) -> float:
        return 60 * MINUTES[self.kind]


def list_jobs(options: argparse.Namespace) -> list[GpuJob]:
    """Return all jobs, the most valuable first."""
    common = ["--device", options.device, "--data", options.data]
    jobs = []

    def add(kind: str, name: str, *command: str) -> None:
        jobs.append(GpuJob(name=f"{kind}-{name}", kind=kind, command=[*command, *common]))

    for name in SPEED:
        add("train_speed", name, str(HERE / "train_speed.py"), name, "--json")
    for name in PROFILES:
        for mode in ("auto", "reduce-overhead"):  # the second replays CUDA graphs
            compiled = ("--set", f"speed.compile={mode}")
            add("profile", f"{name}-{mode}", "-m", "zoo", "train", name, "--profile", "--json", *compiled)
    for name in TRAININGS:
        add("train", name, "-m", "zoo", "train", name, "--out", str(options.out / "runs"))
    for name in NETWORKS:
        add("other_packages", name, str(HERE / "other_packages.py"), name, "--json")
    return jobs


def select_jobs(options: argparse.Namespace) -> list[GpuJob]:
    """Return the jobs that --only names, by name or by kind; raise ZooError if there is no such job."""
    jobs = list_jobs(options)
    names = [name for job in jobs for name in (job.kind, job.name)]
    for name in options.only or ():
        if name not in names:
            raise ZooError(f"--only {name}: unknown job{suggest(name, names)}. See --list.")
    return [job for job in jobs if not options.only or {job.name, job.kind} & set(options.only)]


def run_slice(jobs: Sequence[GpuJob], options: argparse.Namespace, state: dict[str, Row]) -> None:
    """Run the jobs that are not done, until none of them fits into the rest of the slice."""
    deadline = time.monotonic() + 60 * options.minutes
    for job in jobs:
        entry = state.get(job.name, {"status": "waiting", "seconds": 0.0})
        if entry["status"] == "done" or (entry["status"] == "failed" and not options.retry):
            continue
        rest = deadline - time.monotonic()
        left = job.seconds - (entry["seconds"] if job.kind == "train" else 0.0)
        limit = min(left, rest - SAVE_SECONDS) if job.kind == "train" else rest
        # A training uses what is left of the slice; any other job starts anew, so it must fit as a whole.
        if limit < (min(left, SAVE_SECONDS) if job.kind == "train" else left):
            continue
        print(f"{job.name}: about {left / 60:.1f} min, {rest / 60:.1f} left", flush=True)
        start = time.monotonic()
        status, rows, error = run_job(job, options, limit)
        seconds = time.monotonic() - start + (entry["seconds"] if job.kind == "train" else 0.0)
        if job.kind == "train" and status == "cut" and seconds >= job.seconds:
            status = "done"
        state[job.name] = {"status": status, "seconds": round(seconds, 1), "error": error}
        with atomic_file(options.out / f"{job.name}.jsonl", "w") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
        with atomic_file(options.out / "state.json", "w") as file:
            json.dump(state, file, indent=2)
        print(f"{job.name}: {status}{f': {error}' if error else ''}", flush=True)


def run_job(job: GpuJob, options: argparse.Namespace, limit: float) -> tuple[str, list[Row], str | None]:
    """Run a job for at most ``limit`` seconds; return ``done``, ``cut`` or ``failed``, its rows and its error."""
    logs = options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    out, err = logs / f"{job.name}.out", logs / f"{job.name}.err"
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    cut = False
    with out.open("w") as stdout, err.open("w") as stderr:
        command, environment = [sys.executable, *job.command], {**os.environ, "PYTHONPATH": path}
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment, start_new_session=True)
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            cut = True
            process.send_signal(signal.SIGTERM)  # `zoo train` saves everything
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=SAVE_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the job and all its workers
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not cut and process.returncode:
        return "failed", [], last_line(err.read_text(errors="replace")) or f"exit code {process.returncode}"
    rows = parse_rows(out.read_text(errors="replace"))
    if job.kind == "train":
        runs = find_runs(options.out / "runs", job.name.removeprefix("train-"))
        rows = runs[-1].rows()[-1:] if runs else []
    error = next((str(row["error"]) for row in rows if row.get("error")), None)
    return "cut" if cut else "failed" if error else "done", rows, error


def parse_rows(text: str) -> list[Row]:
    """Return the JSON list or object that ends ``text``, which may begin with lines for people, as rows."""
    lines = text.splitlines()
    for start in reversed(range(len(lines))):
        if lines[start].startswith(("{", "[")):
            with contextlib.suppress(ValueError):
                value: Any = json.loads("\n".join(lines[start:]))
                return value if isinstance(value, list) else [value]
    return []


def print_jobs(jobs: Sequence[GpuJob], options: argparse.Namespace, state: dict[str, Row]) -> None:
    """Print each job with its state, command, goal and the numbers of its rows."""
    for job in jobs:
        status = state.get(job.name, {"status": "waiting"})["status"]
        print(f"{job.seconds / 60:5.1f} min  {job.name:36} {status}\n    {shlex.join(['python', *job.command])}")
        print(f"    {GOALS[job.kind]}")
        for row in read_rows(options.out / f"{job.name}.jsonl"):
            print(f"    {', '.join(f'{key} {value}' for key, value in row.items() if isinstance(value, int | float))}")


def main() -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, metavar="M", help="length of the slice (default: 10)")
    add("--out", type=Path, default=HERE / "results" / "gpu", metavar="DIR", help="(default: benchmarks/results/gpu)")
    add("--data", default="phantoms:16", metavar="PATH", help="images, as `zoo train` takes them")
    add("--only", nargs="+", metavar="NAME", help="only these jobs, or jobs of these kinds")
    add("--retry", action="store_true", help="run failed jobs again")
    add("--list", action="store_true", help="print the jobs and their results, and run none")
    add("--device", default="cuda", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    state_file = options.out / "state.json"
    state = json.loads(state_file.read_text(encoding="utf-8")) if state_file.exists() else {}
    try:
        jobs = select_jobs(options)
        if not options.list:
            run_slice(jobs, options, state)
        print_jobs(jobs, options, state)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
