"""Where a step's time goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Timer:
    """Seconds by name, taken only when ``on``; then a GPU is waited for at both ends of each measurement."""

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
        synchronize(self.device)
        return time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
