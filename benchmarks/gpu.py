"""Everything of this project that is measured on a GPU, in slices of a few minutes, by one command.

    python benchmarks/gpu.py --minutes 10                      # the same command goes on with what is not done
    python benchmarks/gpu.py --minutes 10 --wheels wheels      # where torch is installed and nothing can be fetched
    python benchmarks/gpu.py --list                            # jobs, minutes, what is done: works anywhere
    python benchmarks/gpu.py --wheels-for wheels               # what such a machine needs: works where PyPI is reached

Jobs stand in the order of their value, each a process of its own with a time limit. What does not fit into the rest of
the slice is left for the next one, what is cut by its end is started anew, and what fails is recorded and left alone
(--retry). In --out: a JSONL a job, ``environment.json``, ``state.json`` (what is done) and ``logs``.

It needs torch, torchvision and numpy; the small packages come from --wheels, installed once into ``site`` under --out
(a virtual environment that sees the machine's packages, or a folder on PYTHONPATH where that cannot be), and zoo comes
from this checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import zoo
from zoo.core.errors import Interrupted, ZooError, suggest
from zoo.core.files import atomic_file
from zoo.training.run_folder import find_runs as runs_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = HERE / "results" / "gpu"
DATA = "phantoms:16"
SPEED = ("multires-28", "dcgan-64", "dcgan-128", "dcgan-256", "lean-256", "stylegan-256", "multires-256")
MARGIN = 5.0  # seconds of a slice kept for writing results

# numbers: what is trained, twice with every switch off and once with them on
NUMBERS = {
    "dcgan-64": ("dcgan-64",),
    "multires-28": ("multires-28",),
    "dcgan-64-r1": ("dcgan-64", "penalties.r1.weight=1", "penalties.r1.every=4"),
}
STEPS = 20
WITHIN = 1e-2  # the largest relative difference of a loss
OFF = tuple(
    f"speed.{name}=false"
    for name in ("channels_last", "tf32", "fused", "compile", "cuda_graphs", "reuse_memory", "resident")
)
ON = ("speed.cuda_graphs=true", "speed.compile=true")

# schedules: images an original was trained on, and the hours its author said it took
PUBLISHED = {"dcgan-256": (1200 * 9664, 8.0), "lean-256": (200 * 11_328, 6.0)}

# train: what the leaderboard wants of a GPU, in this order, and minutes each; the same job again (--retry) goes on
TRAINED = {
    "r3gan-256": 6.0,
    "stylegan2-256": 6.0,
    "lean-256-stable": 6.0,
    "dcgan-256-stable": 6.0,
    "lean-256": 6.0,
    "dcgan-256": 6.0,
}

# wheels: for which machine, and what it has or is not asked for
PYTHON = "3.12"
PLATFORMS = [f"manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_17", "2014", "1")]
PEERS = ("lightweight-gan", "stylegan2-pytorch")
THERE = ("torch", "torchvision", "numpy")
NEVER_CALLED = ("aim", "contrastive-learner", "vector-quantize-pytorch")  # by the peers at their defaults

STARTED, SITE = "ZOO_GPU_STARTED", "ZOO_GPU_SITE"  # what a process that starts itself again says to itself

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A measurement.

    Attributes:
        name: of the job and of its files.
        kind: what --only may name it by, with others of its kind.
        minutes: about how long it takes.
        command: what the interpreter is given; the last JSON on stdout is the result.
        needs: jobs that must be done before.
        told: a row in a few words.
    """

    name: str
    kind: str
    minutes: float
    command: list[str]
    told: Callable[[Row], str]
    needs: tuple[str, ...] = ()

    @property
    def limit(self) -> float:
        """Minutes after which it is taken to hang."""
        return 3 * self.minutes + 2


def jobs(options: argparse.Namespace) -> list[Job]:
    """All of them, most valuable first."""
    device, data = ["--device", options.device], ["--data", options.data]
    me = [str(HERE / "gpu.py"), *device, *data, "--out", str(options.out), "--worker"]

    def of_script(script: str, name: str, minutes: float, told: Callable[[Row], str]) -> Job:
        command = [str(HERE / f"{script}.py"), name, *device, *data, "--json"]
        return Job(name=f"{script}-{name}", kind=script, minutes=minutes, command=command, told=told)

    speed = {"multires-28": 2.0, "dcgan-64": 2.0, "dcgan-128": 2.5, "stylegan-256": 4.0}
    peers = {"stylegan-256": 3.0, "dcgan-64": 1.5, "lightweight-gan-64": 1.5, "stylegan2-pytorch-64": 1.5}
    found = [
        Job(name=f"numbers-{name}", kind="numbers", minutes=2.0, command=[*me, "numbers", name], told=_told_numbers)
        for name in NUMBERS
    ]
    found += [of_script("train_speed", name, speed.get(name, 3.0), _told_speed) for name in SPEED]
    found += [
        Job(
            name=f"profile-{name}",
            kind="profile",
            minutes=minutes,
            command=["-m", "zoo", "train", name, *device, *data, "--profile", "--json"],
            told=_told_profile,
        )
        for name, minutes in (("multires-256", 2.5), ("multires-28", 1.5), ("stylegan-256", 3.0))
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found.append(
        Job(
            name="sync_norm",
            kind="sync_norm",
            minutes=1.0,
            command=[*torchrun, *me, "sync_norm"],
            told=_told_norm,
        )
    )
    found.append(
        Job(
            name="schedules",
            kind="schedules",
            minutes=0.1,
            command=[*me, "schedules"],
            told=_told_schedule,
            needs=tuple(f"train_speed-{name}" for name in PUBLISHED),
        )
    )
    found += [
        Job(
            name=f"train-{name}",
            kind="train",
            minutes=minutes + 1,
            command=[*me, "train", name, str(minutes)],
            told=_told_training,
        )
        for name, minutes in TRAINED.items()
    ]
    names = ["stylegan-256", "stylegan-64", "lean-256", "dcgan-64"]
    names += [f"{package}-{size}" for size in (256, 64) for package in PEERS]
    return found + [of_script("peers", name, peers.get(name, 2.5), _told_peer) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, metavar="M", help="the slice (default: 10)")
    add("--out", type=Path, default=OUT, metavar="DIR", help="results (default: benchmarks/results/gpu)")
    add("--data", default=DATA, metavar="PATH", help=f"what `zoo train` takes (default: {DATA})")
    add("--only", nargs="+", metavar="NAME", help="these jobs, or those of a kind")
    add("--retry", action="store_true", help="run again what has failed")
    add("--json", action="store_true", help="the summary, or the list, as JSON on stdout")
    add("--wheels", type=Path, metavar="DIR", help="install the wheels found here first, without a network")
    add("--list", action="store_true", help="print the jobs and what is done, and run none")
    add("--wheels-for", type=Path, metavar="DIR", help=f"fetch wheels for Python {PYTHON} on Linux x86-64")
    add("--without", nargs="+", default=[], metavar="PACKAGE", help="with --wheels-for: are there already")
    add("--device", default="cuda", help=argparse.SUPPRESS)
    add("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.resolve()
    if Path(options.data).exists():
        options.data = str(Path(options.data).resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.worker:
            WORKERS[options.worker[0]](options, *options.worker[1:])
        elif options.wheels_for:
            fetch_wheels(options.wheels_for, options.without)
        elif options.list:
            show(options)
        else:
            if options.wheels and SITE not in os.environ:
                start_again(options)
            measure(options)
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        sys.exit(130)


# Slices


class State:
    """What has become of each job, kept in ``state.json``."""

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / "state.json"
        try:
            self.jobs: dict[str, Row] = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.jobs = {}
        except (OSError, ValueError):
            raise ZooError(f"{self.path}: cannot be read; --out DIR begins another folder") from None

    def status(self, name: str) -> str | None:
        """done, failed or cut; None: never run."""
        return self.jobs.get(name, {}).get("status")

    def set(self, name: str, **facts: Any) -> None:
        self.jobs[name] = {**facts, "date": time.strftime("%Y-%m-%d %H:%M:%S")}
        with atomic_file(self.path, "w") as file:
            json.dump(self.jobs, file, indent=2)

    def minutes(self, job: Job) -> float:
        """About how long it takes; more than a slice's rest that it did not fit into."""
        cut = self.jobs[job.name]["seconds"] / 60 if self.status(job.name) == "cut" else 0.0
        return max(job.minutes, 1.5 * cut)

    def waits_for(self, job: Job) -> list[str]:
        return [name for name in job.needs if self.status(name) != "done"]

    def rows(self, name: str) -> list[Row]:
        path = self.out / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def measure(options: argparse.Namespace) -> None:
    """A slice: jobs until none is left that fits, then what is done and what is not."""
    deadline = float(os.environ.get(STARTED, time.time())) + 60 * options.minutes - MARGIN
    say = print_to_stderr if options.json else print
    chosen = choose(options)
    there = environment_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    number = remember(options.out / "environment.json", there)
    state = State(options.out)
    for job in chosen:
        if state.status(job.name) == "done" or (state.status(job.name) == "failed" and not options.retry):
            continue
        rest = deadline - time.time()
        if state.waits_for(job) or 60 * state.minutes(job) > rest:
            continue
        say(f"{job.name}: about {job.minutes:g} min, {rest / 60:.1f} left", flush=True)
        start = time.monotonic()
        rows, error = run(job, options, min(60 * job.limit, rest))
        took = time.monotonic() - start
        status = "done" if error is None else "failed"
        if error == "" and took < 60 * job.limit:
            status = "cut"
        facts: Row = {"status": status, "seconds": round(took, 1), "environment": number}
        if status == "failed":
            facts["error"] = error or f"took longer than {job.limit:g} minutes"
        if rows:
            with atomic_file(options.out / f"{job.name}.jsonl", "w") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in rows)
        state.set(job.name, **facts)
        say(f"{job.name}: {describe(job, state)}", flush=True)
    summary(options, chosen, state)


def choose(options: argparse.Namespace) -> list[Job]:
    """The jobs that --only names, by themselves or by their kinds.

    Raises:
        ZooError: there is no such job.
    """
    every = jobs(options)
    names = dict.fromkeys(name for job in every for name in (job.kind, job.name))
    for name in options.only or ():
        if name not in names:
            raise ZooError(f"--only {name}: no such job{suggest(name, names)}; --list shows those there are")
    return [job for job in every if not options.only or {job.name, job.kind} & set(options.only)]


def run(job: Job, options: argparse.Namespace, seconds: float) -> tuple[list[Row], str | None]:
    """A job's rows; and None, or what went wrong, or "" where its time was over."""
    logs = options.out / "logs"
    logs.mkdir(exist_ok=True)
    out, err = logs / f"{job.name}.out", logs / f"{job.name}.err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *job.command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=ROOT,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # with all that it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code is None:
        return [], ""
    if code:
        return [], last_line(err.read_text(errors="replace")) or f"exit code {code}"
    rows = document(out.read_text(errors="replace"))
    if rows is None:
        return [], "printed no JSON"
    return rows, next((str(row["error"]) for row in rows if "error" in row), None)


def child_environment() -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def document(text: str) -> list[Row] | None:
    """The JSON that ``text`` ends with, as rows."""
    lines = text.splitlines()
    for number in [*reversed(range(max(0, len(lines) - 1), len(lines))), *range(len(lines))]:
        if lines[number].startswith(("{", "[")):
            with contextlib.suppress(ValueError):
                found = json.loads("\n".join(lines[number:]))
                return found if isinstance(found, list) else [found]
    return None


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace(f"{ROOT}{os.sep}", "") if lines else ""


def environment_of(options: argparse.Namespace) -> Row:
    """What is measured on.

    Raises:
        ZooError: no such device, or packages are missing.
    """
    command = [sys.executable, str(HERE / "gpu.py"), "--device", options.device, "--worker", "environment"]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    if done.returncode:
        line = last_line(done.stderr)
        missing = "; --wheels DIR brings what is missing" if "ModuleNotFound" in line and not options.wheels else ""
        raise ZooError(f"{line or 'python does not start'}{missing}")
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def remember(path: Path, there: Row) -> int:
    """The place of an environment in the file of those there have been."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if there not in known:
        known.append(there)
        with atomic_file(path, "w") as file:
            json.dump(known, file, indent=2)
    return int(known.index(there))


# What is said


def show(options: argparse.Namespace) -> None:
    """The jobs, and what has become of them."""
    state, chosen = State(options.out), choose(options)
    if options.json:
        rows = [{"name": job.name, "minutes": job.minutes, **state.jobs.get(job.name, {})} for job in chosen]
        return print(json.dumps(rows, indent=2))
    for job in chosen:
        print(f"{job.minutes:5.1f} min  {job.name:34} {describe(job, state)}")
    left = sum(job.minutes for job in chosen if state.status(job.name) != "done")
    return print(f"{left:5.1f} min  left of {sum(job.minutes for job in chosen):.1f}")


def describe(job: Job, state: State) -> str:
    """A job's state in a line."""
    status, kept = state.status(job.name), state.jobs.get(job.name, {})
    if status == "done":
        with contextlib.suppress(KeyError, TypeError, IndexError):  # a row of another version
            return f"done in {kept['seconds']:.0f} s: {'; '.join(map(job.told, state.rows(job.name)))}"
        return "done"
    if status == "failed":
        return f"failed: {kept['error']}"
    if status == "cut":
        return f"cut after {kept['seconds']:.0f} s by the end of a slice"
    if waits := state.waits_for(job):
        return f"waits for {' and '.join(waits)}"
    return "not run"


def summary(options: argparse.Namespace, chosen: Sequence[Job], state: State) -> None:
    """What is done, what is left, and the command to go on."""
    groups: dict[str, list[Job]] = {"done": [], "failed": [], "left": []}
    for job in chosen:
        status = state.status(job.name)
        groups[status if status in ("done", "failed") else "left"].append(job)
    slice_ = options.minutes - MARGIN / 60
    long = [job for job in groups["left"] if state.minutes(job) > slice_]
    waiting = [job for job in groups["left"] if state.waits_for(job)]
    command = f"python {shlex.join([os.path.relpath(__file__), *sys.argv[1:]])}"
    if options.json:
        found = {name: [job.name for job in group] for name, group in groups.items()}
        found["too_long"] = [job.name for job in long]
        rows = {job.name: state.rows(job.name) for job in groups["done"]}
        errors = {job.name: state.jobs[job.name]["error"] for job in groups["failed"]}
        document = {**found, "errors": errors, "results": rows, "out": os.path.relpath(options.out), "command": command}
        return print(json.dumps(document, indent=2))
    print()
    for name, group in groups.items():
        minutes = f", about {sum(map(state.minutes, group)):.0f} minutes" if name == "left" and group else ""
        print(f"{len(group)} {name}{minutes}{':' if group else ''}")
        for job in group:
            print(f"  {job.name}: {describe(job, state)}")
    for job in long:
        print(f"{job.name} does not fit: it needs --minutes {math.ceil(state.minutes(job) + MARGIN / 60)}")
    print(f"results: {os.path.relpath(options.out)}")
    if groups["failed"]:
        print("--retry runs again what has failed")
    if len(groups["left"]) > len(set(map(id, [*long, *waiting]))):
        print(f"to go on: {command}")
    return None


def print_to_stderr(*words: Any, **how: Any) -> None:
    print(*words, file=sys.stderr, **how)


def _told_numbers(row: Row) -> str:
    verdict = "passes" if row["passes"] else "DOES NOT PASS"
    fell = f"; fell back: {', '.join(row['fell_back'])}" if row["fell_back"] else ""
    return f"{verdict}, {row['difference']} ({row['own_difference']} without switches){fell}"


def _told_speed(row: Row) -> str:
    rate = f"{row['ours_img_per_s']:,.0f} img/s"
    return f"{row['ratio']:.2f} times the plain loop, {rate}, {row['share_of_floor']:.0%} of the floor"


def _told_profile(row: Row) -> str:
    return f"{row['img_per_s']:,.0f} img/s, {row['share_of_floor']:.0%} of the floor"


def _told_training(row: Row) -> str:
    return f"{row['nimg'] / 1000:.0f} kimg, SSIM pairwise {row['ssim_pairwise']:.3f}, {len(row['alarms'])} alarms"


def _told_norm(row: Row) -> str:
    return f"{'passes' if row['passes'] else 'DOES NOT PASS'}, {row['difference']:.0e} over {row['backend']}"


def _told_schedule(row: Row) -> str:
    faster = f"{row['ratio']:.1f} times as fast as the {row['published_hours']:g} h published"
    return f"{row['name']} {row['hours']:.2f} h, {faster}"


def _told_peer(row: Row) -> str:
    return f"{row['img_per_s']:,.0f} img/s, {row['macs_per_s'] / 1e12:.1f} trillion multiply-adds a second"


# What runs in processes of its own


def write_environment(options: argparse.Namespace) -> None:
    import platform

    import torch
    import yaml  # noqa: F401  (of zoo's packages the first to be missed)

    from zoo.runtime.device import choose_device, describe_environment

    device = choose_device(options.device)
    if device.type not in ("cuda", "cpu"):
        raise ZooError(f"--device {options.device}: needs CUDA")
    found: Row = {**describe_environment(device, "auto"), "python": platform.python_version(), "cores": os.cpu_count()}
    for name in ("triton", "torchvision", "kornia"):
        with contextlib.suppress(ImportError):
            found[name] = importlib.metadata.version(name)
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        found |= {"gpus": torch.cuda.device_count(), "memory_gib": round(facts.total_memory / 2**30, 1)}
        found["driver"] = first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    found["commit"] = first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    print(json.dumps(found))


def first_line(*command: str) -> str | None:
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.splitlines()[0].strip()
    return None


def write_numbers(options: argparse.Namespace, name: str) -> None:
    """How far losses go apart in a few steps in fp32, with and without the switches."""
    from zoo import recipes
    from zoo.core.progress import RecordingReporter
    from zoo.data.dataset import load_dataset
    from zoo.runtime.device import choose_device, describe_environment
    from zoo.training.trainer import Trainer

    device = choose_device(options.device)
    source, *overrides = NUMBERS[name]
    losses: dict[str, list[dict[str, float]]] = {}
    for side, switches in (("off", OFF), ("again", OFF), ("on", ON)):
        fixed = ["train.precision=fp32", "train.seed=0"]
        resolved = recipes.load_recipe(source, [*overrides, *fixed, *switches])
        images = load_dataset(options.data, resolved.data)
        said = RecordingReporter()
        trainer = Trainer(resolved, images, device, reporter=said)
        terms = {term.name for term in trainer.objective.terms}
        losses[side] = []
        for _ in range(STEPS):
            trainer.step()
            means = trainer.meters.means()
            losses[side].append({key: means[key] for key in means if key in terms})
            trainer.meters.reset()
        trainer.feed.close()
    difference, where = apart(losses["off"], losses["on"])
    row = {
        "recipe": source,
        "overrides": overrides,
        "steps": STEPS,
        "difference": difference,
        "at": where,
        "own_difference": apart(losses["off"], losses["again"])[0],
        "passes": difference is not None and difference < WITHIN,
        "within": WITHIN,
        "fell_back": [line for line in said.lines if line.endswith("; off")],
        "said": said.lines,
        "speed": trainer.speed.to_json(),
        "losses": {side: losses[side] for side in ("off", "on")},
        "data": options.data,
        "environment": describe_environment(device, "fp32"),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(row))


def apart(a: list[dict[str, float]], b: list[dict[str, float]]) -> tuple[float | None, Row | None]:
    """The largest relative difference of two courses, and where it is; None: of something that is not finite."""
    worst, where = 0.0, None
    for step, (one, other) in enumerate(zip(a, b, strict=True)):
        for key in one.keys() | other.keys():
            x, y = one.get(key, math.nan), other.get(key, math.nan)
            if not (math.isfinite(x) and math.isfinite(y)):
                return None, {"step": step, "name": key}
            difference = abs(x - y) / max(abs(x), abs(y), 1e-12)
            if difference > worst:
                worst, where = difference, {"step": step, "name": key}
    return float(f"{worst:.2g}"), where


def write_sync_norm(options: argparse.Namespace) -> None:
    """One of two processes: the batch norm of halves beside torch's own of the whole, in fp64, to second derivatives.

    Two GPUs speak by NCCL; on one, which NCCL does not give to two processes, its tensors go by gloo.
    """
    import torch
    from torch import nn

    from zoo.models.batch_norm import synchronise_batch_norms
    from zoo.runtime import distributed

    cuda = options.device != "cpu"
    several = cuda and torch.cuda.device_count() > 1
    device = torch.device("cuda", distributed.local_rank() if several else 0) if cuda else torch.device("cpu")
    backend = "nccl" if several else "gloo"
    torch.distributed.init_process_group(backend, device_id=device if several else None)
    if several:
        torch.cuda.set_device(device)
    here, worst = distributed.current_world(), 0.0
    cut = here.cut(16)
    for kind, shape in ((nn.BatchNorm1d, (16, 5)), (nn.BatchNorm2d, (16, 5, 6, 7))):
        drawn = torch.Generator().manual_seed(0)
        whole, weights = (torch.randn(shape, generator=drawn, dtype=torch.float64).to(device) for _ in range(2))
        ours, theirs = (kind(5).double().to(device) for _ in range(2))
        synchronise_batch_norms(ours)
        found = []
        for module, x, w in ((ours, (3 * whole + 7)[cut], weights[cut]), (theirs, 3 * whole + 7, weights)):
            x = x.detach().requires_grad_()
            y = module(x)
            (first,) = torch.autograd.grad((y * w).tanh().sum(), x, create_graph=True)
            first.square().sum().backward()
            assert x.grad is not None
            found.append((y, first, x.grad, module.running_mean, module.running_var))
        for part, all_ in zip(*found, strict=True):
            worst = max(worst, (part - (all_ if all_.dim() == 1 else all_[cut])).abs().max().item())
    worst = max(distributed.all_gather(worst))
    torch.distributed.destroy_process_group()
    if here.first:
        passes = worst < 1e-10
        print(json.dumps({"difference": worst, "passes": passes, "processes": here.size, "backend": backend}))


def write_schedules(options: argparse.Namespace) -> None:
    """Hours of the originals' own schedules at the rates that were measured."""
    state, rows = State(options.out), []
    for name, (images, published) in PUBLISHED.items():
        row = state.rows(f"train_speed-{name}")[-1]
        hours = images / row["ours_img_per_s"] / 3600
        rows.append(
            {
                "name": name,
                "images": images,
                "img_per_s": row["ours_img_per_s"],
                "hours": hours,
                "plain_hours": images / row["plain_img_per_s"] / 3600,
                "published_hours": published,
                "ratio": published / hours,
                "batch": row["batch"],
                "hardware": row["environment"]["hardware"],
            }
        )
    print(json.dumps(rows))


def write_training(options: argparse.Namespace, name: str, minutes: str) -> None:
    """Train a recipe for some minutes in ``runs`` beside the results, from where an earlier slice had come to."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the loop listens itself
    timer = threading.Timer(60 * float(minutes), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    out = options.out / "runs"
    try:
        zoo.train(name, data=options.data, out=out, device=options.device, announce=sys.stderr)
    except Interrupted:  # everything is saved
        pass
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
    run = runs_of(out, name)[-1]
    rows = run.rows()
    judged: Row = next((row for row in reversed(rows) if "ssim_nearest" in row), {})
    print(
        json.dumps(
            {
                "recipe": name,
                "run": str(run.path),
                "nimg": run.info["nimg"],
                "seconds": rows[-1]["time"],
                **{key: judged.get(key) for key in ("ssim_nearest", "ssim_nearest_unseen", "ssim_pairwise")},
                "alarms": judged.get("alarms", []),
            }
        )
    )


WORKERS: dict[str, Callable[..., None]] = {
    "train": write_training,
    "environment": write_environment,
    "numbers": write_numbers,
    "sync_norm": write_sync_norm,
    "schedules": write_schedules,
}


# Machines that can fetch nothing


def start_again(options: argparse.Namespace) -> None:
    """Go on as a process that has the wheels' packages.

    Raises:
        ZooError: there are none, or they cannot be installed.
    """
    started = time.time()
    interpreter, path = site(options.wheels.resolve(), options.out / "site")
    environment = {**os.environ, STARTED: str(started), SITE: "1"}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.stdout.flush()
    os.execve(interpreter, [interpreter, str(HERE / "gpu.py"), *sys.argv[1:]], environment)


def site(wheels: Path, place: Path) -> tuple[str, Path | None]:
    """The interpreter that has the packages of ``wheels``, and what its PYTHONPATH must hold for it, installed once."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise ZooError(f"--wheels {wheels}: no wheel there; --wheels-for DIR fetches them")
    made, made_for = place / "made.json", [sys.executable, sys.version, *(file.name for file in files)]
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(made.read_text(encoding="utf-8"))
        if known["for"] == made_for:
            return known["interpreter"], Path(known["path"]) if known["path"] else None
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / ".gitignore").write_text("*\n")
    interpreter, path = _virtual(place / "venv"), None
    if interpreter is None:
        interpreter, path = sys.executable, place / "packages"
    pip = ["install", "--no-index", "--find-links", str(wheels), "--no-deps", "--disable-pip-version-check"]
    where = ["--target", str(path)] if path else []
    chosen = [] if path else ["--python", interpreter]
    _pip(*chosen, *pip, *where, *map(str, files))
    with atomic_file(made, "w") as file:
        json.dump({"for": made_for, "interpreter": interpreter, "path": str(path) if path else None}, file)
    return interpreter, path


def _virtual(place: Path) -> str | None:
    """The interpreter of a new environment on top of this one's packages; None where it would not see torch, as in one
    made from another.
    """
    try:
        venv.create(place, system_site_packages=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    interpreter = str(place / "bin" / "python")
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    if subprocess.run([interpreter, "-c", look], capture_output=True).returncode == 0:
        return interpreter
    shutil.rmtree(place)
    return None


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ZooError(f"pip: {last_line(done.stderr) or f'exit code {done.returncode}'}")


def fetch_wheels(folder: Path, without: Sequence[str]) -> None:
    """Wheels of zoo's packages and of the peers, and of all that these need, as far as it is not ``THERE``.

    Raises:
        ZooError: the folder holds wheels already, or something cannot be had as a wheel.
    """
    parsed = importlib.import_module("pip._vendor.packaging.requirements").Requirement
    anything = importlib.import_module("pip._vendor.packaging.specifiers").SpecifierSet
    canonical = importlib.import_module("pip._vendor.packaging.utils").canonicalize_name
    if any(folder.glob("*.whl")):
        raise ZooError(f"--wheels-for {folder}: holds wheels already; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    left_out = {canonical(name) for name in (*THERE, *NEVER_CALLED, *without)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    queue = [parsed(text) for text in (*project["dependencies"], *PEERS)]
    wanted: dict[str, Any] = {}
    files: dict[str, Path] = {}
    while queue:
        requirement = queue.pop(0)
        name = canonical(requirement.name)
        if name in left_out:
            continue
        wanted[name] = wanted.get(name, anything()) & requirement.specifier
        if name not in files or files[name].name.split("-")[1] not in wanted[name]:
            if name in files:
                files[name].unlink()
            files[name] = _download(f"{name}{wanted[name]}", folder)
        queue += [parsed(text) for text in _needs(files[name], requirement.extras, parsed)]
    total = 0
    for file in sorted(files.values()):
        total += file.stat().st_size
        print(f"{file.stat().st_size / 2**20:6.2f} MiB  {file.name}")
    print(f"{total / 2**20:6.2f} MiB  {len(files)} wheels in {folder}; left out: {', '.join(sorted(left_out))}")


def _download(requirement: str, folder: Path) -> Path:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _pip(
            *("download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"),
            *("--python-version", PYTHON, "--implementation", "cp", *platforms, "-d", place, requirement),
        )
        (file,) = Path(place).glob("*.whl")
        return file.rename(folder / file.name)


def _needs(wheel: Path, extras: set[str], parsed: Callable[[str], Any]) -> Iterator[str]:
    """What a wheel says it needs on the other machine."""
    machine = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{PYTHON}.0",
        "python_version": PYTHON,
        "sys_platform": "linux",
    }
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            name for name in archive.namelist() if Path(name).match("*.dist-info/METADATA") and name.count("/") == 1
        )
        head = archive.read(name).decode().split("\n\n")[0]
    for line in head.splitlines():
        key, _, text = line.partition(":")
        if key == "Requires-Dist":
            marker = parsed(text.strip()).marker
            if marker is None or any(marker.evaluate({**machine, "extra": extra}) for extra in ("", *extras)):
                yield text.strip()


if __name__ == "__main__":
    main()
