"""Measure how a step's time is divided."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Timer:
    """Adds up the seconds of named blocks: ``with timer("D forward"): ...``.

    Attributes:
        on: whether to measure. Then both ends of a block wait for the GPU, which makes a step slower.
        seconds: total duration of each name.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on = False
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if not self.on:
            yield
            return
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        synchronize(self.device)  # kernels run asynchronously: without this only their launch would be timed
        return time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
