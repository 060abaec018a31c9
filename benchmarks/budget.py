"""Jobs that train unattended, each a process of its own under a budget, some side by side.

A budget is counted in core-seconds, CPU time of all threads, so that neither a neighbour nor a busy machine takes a
job's share; or in seconds of wall time, and then the job runs alone. The parent polls /proc, sends SIGTERM where the
budget is spent (``zoo train`` saves everything and exits with 143), and keeps what was spent in ``job.json``, so that a
job goes on with the rest of its budget, after a kill -9 too.

    <runs>/jobs/<group>.<name>/
        job.json            what was spent, how far it is
        train.log           what the process said
        <recipe>-000/       the run
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

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.core.files import atomic_file
from zoo.training import run_folder
from zoo.training.run_folder import Run

HERE = Path(__file__).resolve().parent
NOTHING: Plain = {"run": None, "core_seconds": 0.0, "wall": 0.0, "error": None}  # what a job has done at first
TUTORIAL = "tutorial"  # in a recipe's place: benchmarks/tutorial.py

POLL = 0.25  # seconds between looks at the children
NOTE = 2.0  # between notes of what was spent
SAY = 60.0  # between lines of how far they are
CADENCE = "train.checkpoint_minutes=5"  # what is lost at most with the machine
GRACE = 300.0  # for a child to save everything in
PATIENCE = 120.0  # for another process to let go of a run

Plain = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to train.

    Attributes:
        group: of the leaderboard.
        name: unlike any other in its group.
        recipe: a recipe's name.
        overrides: what is set in it.
        kimg: where it ends, if the budget lasts.
        core_seconds: its budget, what a run it continues has spent included; None: unlimited.
        wall: its budget in seconds; it then runs alone, on all cores.
        continues: key of the job whose run it copies and makes longer.
        sees: on what its networks were trained before.
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
    def alone(self) -> bool:
        return self.wall is not None

    def resolved(self) -> Recipe:
        """Its recipe.

        Raises:
            ZooError: there is none, or something set in it does not fit.
        """
        return recipes.load_recipe(self.recipe, [*self.overrides, f"train.kimg={self.kimg!r}"])


class Kept:
    """A job's folder and what ``job.json`` says of it."""

    def __init__(self, job: Job, runs: Path) -> None:
        self.job, self.runs = job, runs
        self.folder = runs / "jobs" / job.key
        self.facts: Plain = dict(NOTHING)
        with contextlib.suppress(FileNotFoundError):
            try:
                self.facts |= json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            except (ValueError, TypeError):
                raise ZooError(f"{self.folder / 'job.json'}: is damaged; without it the job begins anew") from None

    def write(self, **changes: Any) -> None:
        self.facts |= changes
        with atomic_file(self.folder / "job.json", "w") as file:
            json.dump(self.facts, file, indent=2)
            file.write("\n")

    @property
    def run(self) -> Run | None:
        """The run it trains, which may be one that was adopted."""
        if self.facts["run"]:
            return run_folder.open_run(self.runs / self.facts["run"])
        if self.job.recipe == TUTORIAL:
            return None
        for found in reversed(run_folder.find_runs(self.folder)):
            with contextlib.suppress(ZooError):  # killed before the folder said of itself what it is
                return run_folder.open_run(found.path)
        return None

    @property
    def nimg(self) -> int:
        if self.job.recipe == TUTORIAL:
            path = self.folder / TUTORIAL / "info.json"
            return int(json.loads(path.read_text(encoding="utf-8"))["nimg"]) if path.exists() else 0
        return int(self.run.info["nimg"]) if self.run else 0

    @property
    def made(self) -> bool:
        """Whether there is something to judge."""
        if self.job.recipe == TUTORIAL:
            return (self.folder / TUTORIAL / "fakes.npz").exists()
        return self.run is not None and self.run.generator_file.is_file()

    @property
    def ended(self) -> str | None:
        """By what it came to its end: ``kimg``, ``budget``, ``error``; None: it did not yet."""
        if self.facts["error"] is not None:
            return "error"
        if self.nimg >= 1000 * self.job.kimg and self.made:
            return "kimg"
        spent = [(self.job.core_seconds, self.facts["core_seconds"]), (self.job.wall, self.facts["wall"])]
        return "budget" if any(budget is not None and used >= budget for budget, used in spent) else None

    def locked(self) -> bool:
        return self.run is not None and self.run.locked()

    def adopt(self, digest: str, taken: set[str]) -> Run | None:
        """Take over a run ``<recipe>-<NNN>`` of the same numbers and images that lies in the runs' folder, if there is
        one no longer than the job; ``taken`` are those of other jobs. What it has spent is its time on all its threads.
        """
        if self.job.recipe == TUTORIAL or self.job.alone or self.job.continues or self.run is not None:
            return None
        # By their recipes' files, not by `run.alike`: what is told in run.json may be of an older zoo's digest.
        resolved = self.job.resolved()
        batch = resolved.train.batch
        longest = -(-round(1000 * self.job.kimg) // batch) * batch
        found: list[tuple[int, Run]] = []
        for old in run_folder.find_runs(self.runs, resolved.name):
            try:
                info, theirs = run_folder.open_run(old.path).info, recipes.load_recipe(old.recipe_file)
            except (ZooError, ValueError):
                continue
            same = theirs.digest == resolved.digest and info["data_digest"] == digest
            if same and old.name not in taken and info["nimg"] <= longest:
                found.append((info["nimg"], old))
        if not found:
            return None
        old = max(found, key=lambda pair: pair[0])[1]
        wall = float((old.rows() or [{}])[-1].get("time", 0.0))
        threads = old.info.get("environment", {}).get("threads", 1)
        self.write(run=old.name, wall=wall, core_seconds=wall * threads, adopted=True)
        return old

    @property
    def outdated(self) -> bool:
        """Whether its run was trained by another recipe than the job's is now."""
        run = self.run
        return run is not None and recipes.load_recipe(run.recipe_file).digest != self.job.resolved().digest

    def renew(self) -> Path | None:
        """Begin anew where the recipe is no longer that of the run; what was trained moves to the folder that is given
        back.
        """
        if self.locked() or not self.outdated:
            return None
        count = len(list(self.folder.parent.glob(f"{self.folder.name}-before-*")))
        aside = self.folder.with_name(f"{self.folder.name}-before-{count + 1}")
        self.folder.rename(aside)
        self.facts = dict(NOTHING)
        return aside

    def copy(self, source: Kept) -> None:
        """Begin with a copy of another job's run and of what it has spent; the copy is whole or not there."""
        if self.run is not None:
            return
        if source.run is None:
            raise ZooError(f"{self.job.key}: continues {source.job.key}, which has no run")
        temporary = self.folder / ".copy"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source.run.path, temporary, ignore=shutil.ignore_patterns("lock", ".*.tmp"))
        spent = {key: source.facts[key] for key in ("core_seconds", "wall")}
        self.write(**spent, continues=source.job.key)
        temporary.rename(self.folder / f"{self.job.resolved().name}-000")

    def command(self, data: str, samples: int, *, anew: bool = False) -> list[str]:
        """What the interpreter is given; ``anew``: as if nothing had been trained."""
        if self.job.recipe == TUTORIAL:
            what = [str(HERE / "tutorial.py"), "--out", str(self.folder / TUTORIAL), "--samples", str(samples)]
            return [*what, "--data", data, "--kimg", f"{self.job.kimg!r}"]
        run = None if anew else self.run
        what = ["--resume", str(run.path)] if run is not None else [self.job.recipe, "--out", str(self.folder)]
        # A run that goes on keeps its own recipe: what was set in it is not set again.
        texts = [CADENCE] if run is not None else [*self.job.overrides, CADENCE]
        sets = [part for text in texts for part in ("--set", text)]
        return ["-m", "zoo", "train", *what, "--data", data, "--kimg", f"{self.job.kimg!r}", *sets]


class Child:
    """The process of a job, from its start to its end."""

    def __init__(self, kept: Kept, command: Sequence[str], threads: int) -> None:
        self.kept, self.job = kept, kept.job
        self.before = (kept.facts["core_seconds"], kept.facts["wall"])
        self.used, self.started = 0.0, time.monotonic()
        self.stopped: float | None = None  # when it was told to end
        self.over = False  # whether because its budget is spent
        self.noted = self.started
        kept.folder.mkdir(parents=True, exist_ok=True)
        kept.write(error=None)
        self.log = kept.folder / "train.log"
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C is the parent's, which ends its children itself
                preexec_fn=_end_with_parent,
            )

    def poll(self) -> bool:
        """Whether it has ended; notes what was spent, and ends it where that is its budget."""
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            self.process.returncode = os.waitstatus_to_exitcode(status)
            self.used = max(self.used, usage.ru_utime + usage.ru_stime)
            self._end()
            return True
        self.used = max(self.used, core_seconds(self.process.pid))
        now = time.monotonic()
        spent, wall = self.spent
        limits = [(self.job.core_seconds, spent), (self.job.wall, wall)]
        if self.stopped is None and any(limit is not None and used >= limit for limit, used in limits):
            self.over = True
            self.stop()
        elif self.stopped is not None and now - self.stopped > GRACE:
            self._signal(signal.SIGKILL)
        if now - self.noted > NOTE:
            self.noted = now
            self._note()
        return False

    def stop(self) -> None:
        """Ask it to save everything and end."""
        if self.stopped is None:
            self.stopped = time.monotonic()
            self._signal(signal.SIGTERM)

    @property
    def spent(self) -> tuple[float, float]:
        """Core-seconds and seconds, those of earlier processes included."""
        return self.before[0] + self.used, self.before[1] + time.monotonic() - self.started

    def _end(self) -> None:
        code = self.process.returncode
        with contextlib.suppress(ProcessLookupError):  # workers it has left
            os.killpg(self.process.pid, signal.SIGKILL)
        self._note()
        if self.over:
            if not self.kept.made:
                self.kept.write(error="its budget was spent before there was anything to judge")
        elif code and self.stopped is None:
            self.kept.write(error=_last_line(self.log) or f"exit code {code}")

    def _note(self) -> None:
        spent, wall = self.spent
        self.kept.write(core_seconds=round(spent, 2), wall=round(wall, 2))

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signum)


def train(jobs: Sequence[Kept], *, data: str, samples: int, side_by_side: int, say: Say) -> None:
    """Train all that have not ended, in their order.

    Raises:
        SystemExit: SIGINT or SIGTERM came; every child has saved everything.
        ZooError: other processes are training some of them.
    """
    waiting, running = [kept for kept in jobs if kept.ended is None], list[Child]()
    cores = len(os.sched_getaffinity(0))
    said = idle = time.monotonic()
    with _signals() as received:
        while waiting or running:
            for child in list(running):
                if received:
                    child.stop()
                if child.poll():
                    running.remove(child)
                    say(told(child.kept))
            if received and not running:
                sys.exit(128 + received[0])
            lanes = 1 if any(child.job.alone for child in running) else side_by_side
            free = [kept for kept in waiting if not kept.locked()] if not received and len(running) < lanes else []
            if free and not (running and free[0].job.alone):
                kept = free[0]
                waiting.remove(kept)
                threads = cores if kept.job.alone else max(1, cores // side_by_side)
                running.append(Child(kept, kept.command(data, samples), threads))
                say(f"{kept.job.key}: from {kept.nimg / 1000:.1f} kimg, {budget(kept)}, {threads} threads")
                continue
            if running:
                idle = time.monotonic()
            elif time.monotonic() - idle > PATIENCE:
                names = ", ".join(kept.job.key for kept in waiting)
                raise ZooError(f"{names}: another process is training it; the same command goes on when it has ended")
            if time.monotonic() - said > SAY:
                said = time.monotonic()
                for child in running:
                    say(f"{child.job.key}: {child.kept.nimg / 1000:.1f} kimg, {budget(child.kept)}")
            time.sleep(POLL)


def core_seconds(session: int) -> float:
    """CPU time of a session's processes, and of those among their children that have ended."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # after the name, which may hold anything
        except OSError:  # it has gone meanwhile
            continue
        if int(fields[3]) == session:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def budget(kept: Kept) -> str:
    """``"300 of 1440 core-seconds"``."""
    job, facts = kept.job, kept.facts
    if job.wall is not None:
        return f"{facts['wall']:.0f} of {job.wall:.0f} s"
    of = "" if job.core_seconds is None else f" of {job.core_seconds:.0f}"
    return f"{facts['core_seconds']:.0f}{of} core-seconds"


def told(kept: Kept) -> str:
    """How a job stands, in a line."""
    ended = kept.ended
    if ended is None:
        stands = "in training" if kept.locked() else "stopped" if kept.facts["wall"] else "waits"
    else:
        stands = {"kimg": "done", "budget": "its budget is spent", "error": f"failed: {kept.facts['error']}"}[ended]
    return f"{kept.job.key}: {stands}; {kept.nimg / 1000:.1f} of {kept.job.kimg:g} kimg, {budget(kept)}"


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that children can be ended first."""
    received: list[int] = []
    before = {
        signum: signal.signal(signum, lambda signum, _: received.append(signum))
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the child: SIGTERM when the parent dies, however that comes about."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _path() -> str:
    return os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
