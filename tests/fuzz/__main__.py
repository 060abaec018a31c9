"""Give the package hostile and odd input, and count what comes out.

    python -m tests.fuzz                                  # 400 cases, about a minute on 2 cores
    python -m tests.fuzz --cases 20000 --seed 7           # a long run
    python -m tests.fuzz --repeat checkpoint:12 --seed 7  # one case again, with its traceback

Outcomes: ``one line`` (an error as promised, exit code 2), ``fine`` (used, and the result is right by an independent
reading), and three that must not be: ``traceback`` (also an error of several lines, another exit code, a crash),
``hang`` and ``accepted nonsense`` (a wrong value was used). Exit code 1 if there is one of these; they are kept in
``--save`` with their inputs. A case depends on its kind, number and seed alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.case import FAILURES, HANG, OUTCOMES, TRACEBACK
from tests.fuzz.worker import ALARM_SECONDS, KINDS

HARD_SECONDS = ALARM_SECONDS + 30  # the alarm reaches Python only; after this the process is killed
BUILD_SECONDS = 300
KEPT_BYTES = 20_000_000  # of the inputs of a failed case
ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """A process that runs cases; it is started again when it hangs or crashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any], seconds: float = HARD_SECONDS) -> dict[str, Any]:
        """Return the answer; a crash and a hang are answers too."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        if select.select([process.stdout], [], [], seconds)[0]:
            line = process.stdout.readline()
            if line:
                answer = json.loads(line)
                if answer.get("outcome") == HANG:  # the process ends after this
                    self.close()
                return answer
            outcome, detail = TRACEBACK, f"the process ended with {process.wait()}"
        else:
            outcome, detail = HANG, f"over {seconds} s, not stopped by an alarm"
        self.close()
        folders = sorted(self.folder.glob(f"{request.get('kind')}-{request.get('index')}-*/case"))
        folder = str(folders[-1]) if folders else None
        return {"outcome": outcome, "detail": detail, "traceback": "", "commands": [], "folder": folder}

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
            environment["ZOO_CACHE"] = str(self.folder.parent / "cache")  # of all workers: one of them compiles
            command = [sys.executable, "-m", "tests.fuzz.worker"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, **pipes)
        return self.process

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self.process = None


def plan(cases: int) -> list[tuple[str, int]]:
    """Return kind and number of each case: kinds in turns, by their weights, so that a short run has all of them."""
    turn = [kind for kind, (_, weight) in KINDS.items() for _ in range(weight)]
    numbers: Counter[str] = Counter()
    planned = []
    # The golden ratio spreads equal kinds over a turn.
    order = sorted(range(len(turn)), key=lambda index: index * 0.6180339887 % 1)
    for position in range(cases):
        kind = turn[order[position % len(turn)]]
        planned.append((kind, numbers[kind]))
        numbers[kind] += 1
    return planned


def fuzz(planned: list[tuple[str, int]], seed: int, processes: int, save: Path) -> list[dict[str, Any]]:
    """Run cases; return those that failed, and one row per kind with the counts of outcomes."""
    work: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for item in planned:
        work.put(item)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="zoo-fuzz-", ignore_cleanup_errors=True) as name:
        shared = Path(name) / "shared"
        shared.mkdir()
        workers = [Worker(Path(tempfile.mkdtemp(dir=name))) for _ in range(processes)]
        if not workers[0].ask({"build": str(shared)}, BUILD_SECONDS).get("built"):
            sys.exit("the run that cases start from could not be trained; see tests/fuzz/shared.py")

        def run_all(worker: Worker) -> None:
            while True:
                try:
                    kind, index = work.get_nowait()
                except queue.Empty:
                    return
                answer = worker.ask({"kind": kind, "index": index, "seed": seed, "shared": str(shared)})
                row = {"kind": kind, "index": index, "seed": seed, **answer}
                if row["outcome"] in FAILURES:
                    _keep(row, save)
                rows.append(row)

        threads = [threading.Thread(target=run_all, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()
    return rows


def _keep(row: dict[str, Any], save: Path) -> None:
    """Keep the inputs of a failed case, and a line that says how to repeat it."""
    save.mkdir(parents=True, exist_ok=True)
    name = f"{row['kind']}-{row['seed']}-{row['index']}"
    row["repeat"] = f"python -m tests.fuzz --seed {row['seed']} --repeat {row['kind']}:{row['index']}"
    folder = Path(row.pop("folder") or "missing")
    if folder.is_dir():
        # Links as links, and no special files: copying must not hang as the package did.
        size = 0
        for path in folder.rglob("*"):
            if path.is_symlink() or not path.is_file():
                continue
            size += path.stat().st_size
            target = save / name / path.relative_to(folder)
            if size < KEPT_BYTES and "cache" not in path.relative_to(folder).parts:
                with contextlib.suppress(OSError):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
        shutil.rmtree(folder.parent, ignore_errors=True)
    with (save / "failures.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the counts of outcomes per kind, with a heading and a last line of sums."""
    counts = Counter((row["kind"], row["outcome"]) for row in rows)
    lines = [["kind", "tried", *OUTCOMES]]
    for kind in (kind for kind in KINDS if any(counts[kind, outcome] for outcome in OUTCOMES)):
        numbers = [counts[kind, outcome] for outcome in OUTCOMES]
        lines.append([kind, str(sum(numbers)), *map(str, numbers)])
    totals = [sum(count for (_, other), count in counts.items() if other == outcome) for outcome in OUTCOMES]
    return [*lines, ["all", str(sum(totals)), *map(str, totals)]]


def digest(commands: list[str]) -> str:
    """Hash what a case did; equal for the same kind, number and seed."""
    return hashlib.sha256("\n".join(commands).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=400, help="(default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--kinds", default="", metavar="NAME,...", help=f"only these of {', '.join(KINDS)}")
    parser.add_argument("--repeat", metavar="KIND:NUMBER", help="run this one case")
    parser.add_argument("--processes", type=int, default=2, help="(default: 2)")
    parser.add_argument("--save", type=Path, default=Path("fuzz-failures"), help="where failed cases are kept")
    parser.add_argument("--json", action="store_true", help="print counts and failures as one JSON document")
    options = parser.parse_args()
    planned = plan(options.cases)
    if options.kinds:
        planned = [item for item in plan(20 * options.cases) if item[0] in options.kinds.split(",")][: options.cases]
    if options.repeat:
        kind, _, number = options.repeat.partition(":")
        planned = [(kind, int(number))]
    rows = fuzz(planned, options.seed, min(options.processes, len(planned)), options.save)
    failures = sorted((row for row in rows if row["outcome"] in FAILURES), key=lambda row: (row["kind"], row["index"]))
    lines = table(rows)
    if options.json:
        counts = {line[0]: dict(zip(lines[0][1:], map(int, line[1:]), strict=True)) for line in lines[1:]}
        cases = sorted([row["kind"], row["index"], row["outcome"], digest(row["commands"])] for row in rows)
        print(json.dumps({"seed": options.seed, "counts": counts, "failures": failures, "cases": cases}))
    else:
        for row in failures:
            print(f"{row['kind']}:{row['index']} {row['outcome']}: {ascii(row['detail'])[1:-1][:200]}")
            if options.repeat:
                print("\n".join(row["commands"]), row["traceback"], sep="\n")
        for line in lines:
            print(
                f"{line[0]:<12}"
                + "".join(
                    f"{cell:>{max(10, len(head) + 2)}}" for head, cell in zip(lines[0][1:], line[1:], strict=True)
                )
            )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
