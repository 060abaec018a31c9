"""What the bits of a result depend on besides recipe and data."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.core.errors import ZooError
from zoo.core.version import version
from zoo.runtime import distributed


def describe_environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Device, threads, precision, processes and versions, as plain values."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {
        "zoo": version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,  # draws the order of the images
        "cuda": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if cuda else None,
        "device": device.type,
        "hardware": name,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "processes": distributed.current_world().size,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of :func:`peak_memory`, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes: of the device where it has its own memory, else of the process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a resumed run will not be bit-exact: one entry for each thing that changed."""
    changed = [f"{key} {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]]
    if now["device"] != "cpu" and not now["deterministic"]:
        changed.append(f"{now['device']} without --deterministic")
    return changed


def choose_device(name: str) -> torch.device:
    """``auto`` is the first of cuda, mps and cpu that is there; each of torchrun's processes takes a GPU of its own.

    Raises:
        ZooError: no such device on this machine.
    """
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    kind, _, index = (there[0] if name == "auto" else name).partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind == "cuda" and distributed.is_launched():
        if index:
            raise ZooError(f"--device {name}: torchrun's processes take a GPU each; --device cuda")
        if not distributed.local_rank() < count:
            raise ZooError(f"--nproc-per-node: {distributed.local_rank() + 1} or more, and this host has {count} GPUs")
        index = str(distributed.local_rank())
    if kind not in there or (index and not (index.isdigit() and int(index) < count)):
        raise ZooError(f"--device {name}: not on this machine, which has {', '.join(there)}")
    return torch.device(kind, int(index)) if index else torch.device(kind)


@contextlib.contextmanager
def single_threaded_torch() -> Iterator[int]:
    """How many there are. Torch itself is kept to one meanwhile: a pool of its own beside another is two for each core,
    and where cores are short they wait for one another a thousand times longer than the work takes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
