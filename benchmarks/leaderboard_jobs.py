"""Jobs of the leaderboard: each trains unattended in its own process, within a budget.

A budget counts core-seconds, the CPU time of all threads, so that other programs do not take a job's share. It can
also count seconds of wall time; then the job runs alone. The parent polls /proc and sends SIGTERM when the budget is
spent (``zoo train`` saves everything and exits with 143). It notes the spent time in ``job.json``, so that a job
continues with the rest of its budget, even after kill -9. The folder ``<runs>/jobs/<group>.<name>/`` contains
``job.json``, ``train.log`` (output of the process) and the run ``<recipe>-000/``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import last_line

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.core.files import atomic_file
from zoo.core.wording import count_of
from zoo.training import run_folder
from zoo.training.run_folder import Run

HERE = Path(__file__).resolve().parent
TUTORIAL = "tutorial"  # takes the place of a recipe's name: benchmarks/pytorch_tutorial.py

POLL_SECONDS = 0.25
SAVE_SPENT_SECONDS = 2.0  # between updates of job.json
REPORT_SECONDS = 60.0  # between progress lines
CHECKPOINTS = "train.checkpoint_minutes=5"  # a crash of the machine loses at most five minutes
SHUTDOWN_SECONDS = 300.0  # a process may take this long to save everything before it is killed
RUN_LOCK_SECONDS = 120.0  # how long to wait for another process to release a run


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training of the leaderboard.

    Attributes:
        group: group of the leaderboard.
        name: unique within the group.
        recipe: name of a recipe, or ``TUTORIAL``.
        overrides: settings changed in the recipe, as ``section.key=value``.
        kimg: thousand images after which the job is complete.
        core_seconds: budget of CPU time, including that of a run it continues; None: unlimited.
        wall: budget in seconds; the job then runs alone, on all cores.
        continues: key of the job whose run is copied and trained for longer.
        sees: data on which its discriminator was trained before.
    """

    group: str
    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    kimg: float
    core_seconds: float | None = None
    wall: float | None = None
    continues: str | None = None
    sees: str = ""

    @property
    def key(self) -> str:
        return f"{self.group}.{self.name}"

    @property
    def needs_all_cores(self) -> bool:
        return self.wall is not None

    @property
    def is_tutorial(self) -> bool:
        return self.recipe == TUTORIAL

    def load_recipe(self) -> Recipe:
        """Return the recipe with the job's overrides.

        Raises:
            ZooError: there is no such recipe, or an override is not valid.
        """
        return recipes.load_recipe(self.recipe, [*self.overrides, f"train.kimg={self.kimg!r}"])


class JobFolder:
    """Folder of a job, with the state that ``job.json`` records.

    Attributes:
        state: ``run`` (name of an adopted run), ``core_seconds``, ``wall`` (seconds), ``error``.
    """

    def __init__(self, job: Job, runs: Path) -> None:
        self.job, self.runs = job, runs
        self.folder = runs / "jobs" / job.key
        self.state = _initial_state()
        with contextlib.suppress(FileNotFoundError):
            try:
                self.state |= json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            except (ValueError, TypeError):
                path = self.folder / "job.json"
                raise ZooError(f"{path}: the file is damaged. Delete it to restart the job.") from None

    def update_state(self, **changes: Any) -> None:
        """Change the state and write ``job.json``."""
        self.state |= changes
        with atomic_file(self.folder / "job.json", "w") as file:
            json.dump(self.state, file, indent=2)
            file.write("\n")

    @property
    def run(self) -> Run | None:
        """The job's run, which may be an adopted one; None before training and for the tutorial."""
        if self.state["run"]:
            return run_folder.open_run(self.runs / self.state["run"])
        if self.job.is_tutorial:
            return None
        for run in reversed(run_folder.find_runs(self.folder)):
            with contextlib.suppress(ZooError):  # killed before its run.json was written
                return run_folder.open_run(run.path)
        return None

    @property
    def nimg(self) -> int:
        """Images that training has seen."""
        if self.job.is_tutorial:
            path = self.folder / TUTORIAL / "info.json"
            return int(json.loads(path.read_text(encoding="utf-8"))["nimg"]) if path.exists() else 0
        return int(self.run.info["nimg"]) if self.run else 0

    @property
    def has_generator(self) -> bool:
        """Whether there are weights, or images of the tutorial, to evaluate."""
        if self.job.is_tutorial:
            return (self.folder / TUTORIAL / "fakes.npz").exists()
        return self.run is not None and self.run.generator_file.is_file()

    @property
    def end_reason(self) -> str | None:
        """Why the job ended: ``kimg``, ``budget`` or ``error``; None: it has not ended."""
        if self.state["error"] is not None:
            return "error"
        if self.nimg >= 1000 * self.job.kimg and self.has_generator:
            return "kimg"
        return "budget" if self.is_budget_spent(self.state["core_seconds"], self.state["wall"]) else None

    def is_budget_spent(self, core_seconds: float, wall: float) -> bool:
        """Return whether the used time reaches the job's budget of CPU or wall time."""
        limits = ((self.job.core_seconds, core_seconds), (self.job.wall, wall))
        return any(limit is not None and used >= limit for limit, used in limits)

    def locked(self) -> bool:
        """Return whether a process is training the run."""
        return self.run is not None and self.run.locked()

    def adopt_run(self, data_digest: str, adopted: set[str]) -> Run | None:
        """Adopt the longest finished or unfinished run ``<recipe>-<NNN>`` with this recipe and these images.

        Args:
            data_digest: digest of the images.
            adopted: names of the runs that other jobs have adopted.

        Returns:
            The adopted run; None if there is none that is at most as long as the job.
        """
        if self.job.is_tutorial or self.job.needs_all_cores or self.job.continues or self.run is not None:
            return None
        run = self._find_run_to_adopt(data_digest, adopted)
        if run is None:
            return None
        wall = float((run.rows() or [{}])[-1].get("time", 0.0))
        threads = run.info.get("environment", {}).get("threads", 1)
        # Its CPU time is not recorded; the time on all its threads is an upper bound.
        self.update_state(run=run.name, wall=wall, core_seconds=wall * threads, adopted=True)
        return run

    def _find_run_to_adopt(self, data_digest: str, adopted: set[str]) -> Run | None:
        recipe = self.job.load_recipe()
        max_nimg = recipe.train.batches.end(round(1000 * self.job.kimg))  # training ends after a whole batch
        candidates: list[tuple[int, Run]] = []
        for run in run_folder.find_runs(self.runs, recipe.name):
            try:
                # Digests are computed from the recipe files: run.json may hold a digest of an older version.
                info, digest = run_folder.open_run(run.path).info, recipes.load_recipe(run.recipe_file).digest
            except (ZooError, ValueError):
                continue
            equal = digest == recipe.digest and info["data_digest"] == data_digest
            if equal and run.name not in adopted and info["nimg"] <= max_nimg:
                candidates.append((info["nimg"], run))
        return max(candidates, key=lambda candidate: candidate[0])[1] if candidates else None

    @property
    def outdated(self) -> bool:
        """Whether the run was trained with a recipe that differs from the job's current one."""
        run = self.run
        return run is not None and recipes.load_recipe(run.recipe_file).digest != self.job.load_recipe().digest

    def set_aside_if_outdated(self) -> Path | None:
        """Move the folder of an outdated run aside, so that the job restarts; return where it went."""
        if self.locked() or not self.outdated:
            return None
        count = len(list(self.folder.parent.glob(f"{self.folder.name}-before-*")))
        aside = self.folder.with_name(f"{self.folder.name}-before-{count + 1}")
        self.folder.rename(aside)
        self.state = _initial_state()
        return aside

    def copy_run(self, source: JobFolder) -> None:
        """Start from a copy of another job's run and of the time it has spent, unless there is a run already.

        Raises:
            ZooError: the other job has no run.
        """
        if self.run is not None:
            return
        if source.run is None:
            raise ZooError(f"{self.job.key}: continues {source.job.key}, which has no run. Train that job first.")
        temporary = self.folder / ".copy"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source.run.path, temporary, ignore=shutil.ignore_patterns("lock", ".*.tmp"))
        spent = {key: source.state[key] for key in ("core_seconds", "wall")}
        self.update_state(**spent, continues=source.job.key)
        # Renamed last, so that a killed copy leaves no incomplete run.
        temporary.rename(self.folder / f"{self.job.load_recipe().name}-000")

    def command(self, data: str, num_samples: int, *, restart: bool = False) -> list[str]:
        """Return the arguments of the Python interpreter; ``restart``: ignore what is already trained."""
        kimg = ["--data", data, "--kimg", f"{self.job.kimg!r}"]
        if self.job.is_tutorial:
            out = ["--out", str(self.folder / TUTORIAL), "--samples", str(num_samples)]
            return [str(HERE / "pytorch_tutorial.py"), *out, *kimg]
        run = None if restart else self.run
        if run is not None:  # a resumed run keeps its own recipe, so its overrides are not set again
            return ["-m", "zoo", "train", "--resume", str(run.path), *kimg, "--set", CHECKPOINTS]
        overrides = [part for text in (*self.job.overrides, CHECKPOINTS) for part in ("--set", text)]
        return ["-m", "zoo", "train", self.job.recipe, "--out", str(self.folder), *kimg, *overrides]

    def describe_budget(self) -> str:
        """Return the spent budget, such as ``"300 of 1440 core-seconds"``."""
        if self.job.wall is not None:
            return f"{self.state['wall']:.0f} of {self.job.wall:.0f} s"
        limit = "" if self.job.core_seconds is None else f" of {self.job.core_seconds:.0f}"
        return f"{self.state['core_seconds']:.0f}{limit} core-seconds"

    def describe_state(self) -> str:
        """Return the state of the job in one line."""
        reason = self.end_reason
        if reason == "error":
            status = f"failed: {self.state['error']}"
        elif reason is not None:
            status = {"kimg": "done", "budget": "budget spent"}[reason]
        elif self.locked():
            status = "in training"
        else:
            status = "stopped" if self.state["wall"] else "waiting"
        kimg = f"{self.nimg / 1000:.1f} of {self.job.kimg:g} kimg"
        return f"{self.job.key}: {status}; {kimg}, {self.describe_budget()}"


def _initial_state() -> dict[str, Any]:
    return {"run": None, "core_seconds": 0.0, "wall": 0.0, "error": None}


class JobProcess:
    """Training process of a job, from its start to its end."""

    def __init__(self, folder: JobFolder, command: Sequence[str], threads: int) -> None:
        self.folder = folder
        self.spent_before = (folder.state["core_seconds"], folder.state["wall"])
        self.used_core_seconds, self.start_time = 0.0, time.monotonic()
        self.stop_time: float | None = None  # when SIGTERM was sent
        self.budget_spent = False  # whether that is why SIGTERM was sent
        self.save_time = self.start_time
        folder.folder.mkdir(parents=True, exist_ok=True)
        folder.update_state(error=None)
        self.log = folder.folder / "train.log"
        path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C goes to the parent alone, which stops its children itself
                preexec_fn=_end_with_parent,
            )

    def poll(self) -> bool:
        """Return whether the process has ended; record the spent time, and stop it when its budget is spent."""
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            self.process.returncode = os.waitstatus_to_exitcode(status)
            self.used_core_seconds = max(self.used_core_seconds, usage.ru_utime + usage.ru_stime)
            self._finish()
            return True
        # Never less than before: the CPU time of a subprocess vanishes from /proc until its parent waits for it.
        self.used_core_seconds = max(self.used_core_seconds, session_core_seconds(self.process.pid))
        now = time.monotonic()
        if self.stop_time is None and self.folder.is_budget_spent(*self.spent):
            self.budget_spent = True
            self.stop()
        elif self.stop_time is not None and now - self.stop_time > SHUTDOWN_SECONDS:
            self._signal(signal.SIGKILL)
        if now - self.save_time > SAVE_SPENT_SECONDS:
            self.save_time = now
            self._save_spent()
        return False

    def stop(self) -> None:
        """Send SIGTERM once: the process saves everything and ends."""
        if self.stop_time is None:
            self.stop_time = time.monotonic()
            self._signal(signal.SIGTERM)

    @property
    def spent(self) -> tuple[float, float]:
        """Core-seconds and seconds, including those of earlier processes."""
        core_seconds, wall = self.spent_before
        return core_seconds + self.used_core_seconds, wall + time.monotonic() - self.start_time

    def _finish(self) -> None:
        code = self.process.returncode
        with contextlib.suppress(ProcessLookupError):  # its workers may still be running
            os.killpg(self.process.pid, signal.SIGKILL)
        self._save_spent()
        if self.budget_spent:
            if not self.folder.has_generator:
                self.folder.update_state(error="the budget was spent before there were weights to evaluate")
        elif code and self.stop_time is None:
            message = last_line(self.log.read_text(encoding="utf-8", errors="replace"))
            self.folder.update_state(error=message or f"exit code {code}")

    def _save_spent(self) -> None:
        core_seconds, wall = self.spent
        self.folder.update_state(core_seconds=round(core_seconds, 2), wall=round(wall, 2))

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signum)


class JobQueue:
    """Jobs that wait and jobs that run.

    Attributes:
        parallel: jobs that run at once and share the cores; a job with a wall-time budget runs alone.
        print_line: receives progress lines.
    """

    def __init__(
        self,
        jobs: Sequence[JobFolder],
        *,
        data: str,
        num_samples: int,
        parallel: int,
        print_line: Callable[[str], None],
    ) -> None:
        self.waiting = [folder for folder in jobs if folder.end_reason is None]
        self.running: list[JobProcess] = []
        self.data, self.num_samples, self.parallel, self.print_line = data, num_samples, parallel, print_line
        self.cores = len(os.sched_getaffinity(0))

    def poll(self, *, stop: bool) -> None:
        """Remove the processes that have ended; ``stop``: ask all to end."""
        for process in list(self.running):
            if stop:
                process.stop()
            if process.poll():
                self.running.remove(process)
                self.print_line(process.folder.describe_state())

    def start_next(self) -> bool:
        """Start the next job that no other process is training; return False if none can start now."""
        exclusive = any(process.folder.job.needs_all_cores for process in self.running)
        if len(self.running) >= (1 if exclusive else self.parallel):
            return False
        folder = next((folder for folder in self.waiting if not folder.locked()), None)
        if folder is None or (self.running and folder.job.needs_all_cores):
            return False
        self.waiting.remove(folder)
        threads = self.cores if folder.job.needs_all_cores else max(1, self.cores // self.parallel)
        self.running.append(JobProcess(folder, folder.command(self.data, self.num_samples), threads))
        start = f"from {folder.nimg / 1000:.1f} kimg"
        self.print_line(f"{folder.job.key}: {start}, {folder.describe_budget()}, {count_of(threads, 'thread')}")
        return True

    def print_progress(self) -> None:
        for process in self.running:
            folder = process.folder
            self.print_line(f"{folder.job.key}: {folder.nimg / 1000:.1f} kimg, {folder.describe_budget()}")


def train_jobs(
    jobs: Sequence[JobFolder], *, data: str, num_samples: int, parallel: int, print_line: Callable[[str], None]
) -> None:
    """Train all jobs that have not ended, in their order; see :class:`JobQueue` for the arguments.

    Raises:
        SystemExit: SIGINT or SIGTERM arrived; every process has saved everything.
        ZooError: other processes are training some of the jobs.
    """
    queue = JobQueue(jobs, data=data, num_samples=num_samples, parallel=parallel, print_line=print_line)
    last_report = last_running = time.monotonic()
    with _collect_signals() as received:
        while queue.waiting or queue.running:
            queue.poll(stop=bool(received))
            if received and not queue.running:
                sys.exit(128 + received[0])
            if not received and queue.start_next():
                continue
            if queue.running:
                last_running = time.monotonic()
            elif time.monotonic() - last_running > RUN_LOCK_SECONDS:
                names = ", ".join(folder.job.key for folder in queue.waiting)
                raise ZooError(f"{names}: another process is training this. Run the same command when it has ended.")
            if time.monotonic() - last_report > REPORT_SECONDS:
                last_report = time.monotonic()
                queue.print_progress()
            time.sleep(POLL_SECONDS)


def session_core_seconds(session: int) -> float:
    """Return the CPU time of a session's processes and of their children that have ended (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The process name before ")" may contain spaces and brackets.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(fields[3]) == session:
            ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _collect_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending at once, so that children can save first."""
    received: list[int] = []
    handlers = {
        signum: signal.signal(signum, lambda signum, _: received.append(signum))
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


# Loaded before any fork, because preexec_fn must not import or load anything.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the child: receive SIGTERM when the parent dies, even by SIGKILL."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
