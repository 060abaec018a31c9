"""A process that runs cases, one line of JSON in and one out; a case that hangs in Python is stopped by an alarm.

What the alarm cannot stop (a hang in C, a crash) ends the process, which the caller starts again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zoo
from tests.fuzz import data_cases, recipe_cases, run_cases
from tests.fuzz.case import FINE, HANG, LINE, NONSENSE, TRACEBACK, AcceptedNonsense, Case, UnexpectedError
from tests.fuzz.shared import build_shared

CPU_SECONDS = 40  # of a case, which takes about one
ALARM_SECONDS = 150  # of a case that waits; long, because a busy machine is no hang
MEMORY_BYTES = 4 * 2**30  # of addresses, beyond what torch reserves when it is imported
FILE_BYTES = 2**30

PACKAGE = Path(zoo.__file__).parent

# How often a kind is tried among the others.
KINDS: dict[str, tuple[Callable[[Case], None], int]] = {
    "set": (recipe_cases.overrides, 6),
    "recipe": (recipe_cases.recipe_file, 4),
    "arguments": (recipe_cases.arguments, 5),
    "train": (recipe_cases.training, 2),
    "run": (run_cases.run_folder, 4),
    "checkpoint": (run_cases.checkpoint, 3),
    "generator": (run_cases.generator_file, 3),
    "image": (data_cases.image_file, 8),
    "folder": (data_cases.folder, 3),
    "array": (data_cases.array, 4),
    "zip": (data_cases.archive, 4),
    "manifest": (data_cases.manifest, 4),
    "cache": (data_cases.cache, 3),
}


class _Alarm(BaseException):
    """The time of a case is over. No ``Exception``, so that no handler of the package takes it for an error."""


def _on_alarm(signum: int, frame: object) -> None:
    raise _Alarm


def main() -> None:
    """Answer each line ``{"kind", "index", "seed"}`` of stdin with its outcome, until stdin is closed."""
    answers, requests = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # what a case reads from /dev/stdin or writes past sys.stdout is none of these
        os.dup2(null, descriptor)
    os.environ |= {"ZOO_DEBUG": "1", "ZOO_OFFLINE": "1", "ZOO_MEASURE": "0"}
    import matplotlib.pyplot  # noqa: F401 (an alarm must not interrupt an import)
    import torch

    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, resource.RLIM_INFINITY))
    for signum in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(signum, _on_alarm)
    home = Path.cwd()
    for line in requests:
        request = json.loads(line)
        answer: dict[str, Any] = {"built": True}
        if "build" in request:
            build_shared(Path(request["build"]))
        else:
            answer = run_case(request["kind"], request["index"], request["seed"], Path(request["shared"]))
            os.chdir(home)
        print(json.dumps(answer), file=answers, flush=True)
        if answer.get("outcome") == HANG:  # whatever the alarm interrupted may be half done
            return


def run_case(kind: str, index: int, seed: int, shared: Path) -> dict[str, Any]:
    """Run one case in a new folder; the folder is kept where it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{index}-", dir=Path.cwd()))
    inputs = folder / "case"
    inputs.mkdir()
    os.chdir(inputs)
    case = Case(random.Random(f"{seed} {kind} {index}"), inputs, shared)
    detail, where = "", ""
    signal.setitimer(signal.ITIMER_REAL, ALARM_SECONDS)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        KINDS[kind][0](case)
        outcome = LINE if case.refused else FINE
    except AcceptedNonsense as error:
        outcome, detail = NONSENSE, str(error)
    except UnexpectedError as error:
        outcome, detail = TRACEBACK, str(error)
    except _Alarm:
        outcome, detail = HANG, f"over {CPU_SECONDS} s of work, or {ALARM_SECONDS} s of waiting"
        where = traceback.format_exc()
    except Exception as error:
        outcome, detail = TRACEBACK, f"{type(error).__name__}: {str(error)[:200]}"
        where = traceback.format_exc()
        if not any(f"{PACKAGE}/" in str(frame.filename) for frame in traceback.extract_tb(error.__traceback__)):
            detail = f"a fault of the fuzzer: {detail}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    failed = outcome not in (LINE, FINE)
    if not failed:
        os.chdir(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "outcome": outcome,
        "detail": detail,
        "traceback": where,
        "commands": case.commands,
        "folder": str(inputs) if failed else None,
    }


if __name__ == "__main__":
    main()
