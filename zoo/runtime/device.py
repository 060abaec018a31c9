"""The device, and the environment that results depend on besides recipe and data."""

from __future__ import annotations

import contextlib
import functools
import platform
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
    """Return versions, hardware, threads, precision and processes as plain values for ``run.json``."""
    cuda = device.type == "cuda"
    return {
        "zoo": version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,  # draws the order of the images
        "cuda": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if cuda else None,
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "cpu": None if cuda else cpu_model(),
        "threads": torch.get_num_threads(),  # changes the order of sums
        "precision": precision,
        "processes": distributed.current_world().size,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@functools.cache
def cpu_model() -> str:
    """Return the name of the CPU, on Linux with family and model: a virtual machine may hide its full name."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if "model name" in values:
            return f"{values['model name']} (family {values.get('cpu family')}, model {values.get('model')})"
    return platform.processor() or platform.machine()


def environment_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List the changes since :func:`describe_environment` that keep a resumed run from being bit-exact."""
    changes = [f"{key} {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]]
    if now["device"] != "cpu" and not now["deterministic"]:
        changes.append(f"{now['device']} without --deterministic")
    return changes


def is_same_machine(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether two environments name the same device and CPU, as far as the older one names them."""
    return all(before[key] == now[key] for key in ("device", "hardware", "cpu") if key in before)


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of :func:`peak_memory`, if the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(
            "5", encoding="utf-8"
        )  # Linux: sets VmHWM to the current use, see proc(5)


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory of a CUDA device, else of the process.

    Returns:
        bytes; None if the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device called ``name``, or the same one; ``auto`` is the first of cuda, mps and cpu that exists.

    Under torchrun each process takes the GPU of its local rank.

    Raises:
        ZooError: this machine has no such device.
    """
    exists = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind in exists if exists[kind]]
    name = str(name)
    kind, _, index = (available[0] if name == "auto" else name).partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind == "cuda" and distributed.is_launched():
        rank = distributed.local_rank()
        if index:
            raise ZooError(f"--device {name}: each of torchrun's processes takes its own GPU; use --device cuda")
        if rank >= count:
            raise ZooError(f"--nproc-per-node: {rank + 1} or more, but this host has {count} GPUs; start fewer")
        index = str(rank)
    if kind not in available or (index and not (index.isdecimal() and int(index[:9]) < count)):
        raise ZooError(f"--device {name[:100]}: not on this machine, which has {', '.join(available)}")
    return number_device(torch.device(kind, int(index)) if index else torch.device(kind))


def number_device(device: torch.device) -> torch.device:
    """Return ``device``, a plain ``cuda`` with the number of the current GPU.

    Torch accepts a plain ``cuda`` in most of its functions, but not in all: not in ``torch.cuda.set_device``.
    """
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


@contextlib.contextmanager
def keep_thread_count() -> Iterator[None]:
    """Set torch's thread count back to what it was when the block ends."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def single_threaded_torch() -> Iterator[int]:
    """Keep torch to one thread in the block; yields the number of threads the caller may start instead.

    Torch's pool next to another one means two threads per core, which wait for each other a thousand times longer than
    the work takes.
    """
    threads = torch.get_num_threads()
    with keep_thread_count():
        torch.set_num_threads(1)
        yield threads
