"""Batches of images on their way to the device: from its own memory, or fetched ahead from the map on disk."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.progress import Reporter, SilentReporter
from zoo.data.dataset import Dataset

Positions = np.ndarray[Any, np.dtype[np.int64]]
MAPPED = "read from the memory map, a batch ahead"
FORGET = 64 << 20  # bytes read from the map before its pages are let go: a run's memory does not grow with its set


class ImageLoader:
    """Gives the images at given positions, uint8, on a device.

    Where the whole training set fits into ``share`` of the device's free memory, it lies there and batches are gathered
    there. Elsewhere a thread fetches the next batch from the memory map into pinned memory while the step runs.

    Args:
        data: the set.
        device: where batches are wanted.
        resident: "auto", or whether to; a CPU's memory is where the map is, so nothing is copied there.
        share: of free memory that a resident set may take.
        reporter: who is told where the images lie.

    Attributes:
        waited: seconds for which :meth:`take` had nothing to give.
        where: how the images come, in words.
    """

    def __init__(
        self,
        data: Dataset,
        device: torch.device,
        *,
        resident: bool | str = "auto",
        share: float = 0.5,
        reporter: Reporter | None = None,
    ) -> None:
        self.data, self.device = data, device
        self.waited = 0.0
        self._read = 0
        self._ahead: tuple[Positions, Future[Tensor]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="zoo-feed")
        self._resident: Tensor | None = None
        self.where = MAPPED
        self.reporter = reporter = reporter or SilentReporter()
        if device.type != "cuda":
            if resident is True:
                reporter.say(f"speed.resident: {device.type} shares the memory the images are mapped into; off")
            return
        size = len(data.train) * int(np.prod(data.images.shape[1:]))
        free = torch.cuda.mem_get_info(device)[0]
        text = f"{size / 2**30:.2f} GiB of images, {share:.0%} of {free / 2**30:.1f} GiB free on {device}"
        if resident is False or size > share * free:
            reporter.say(f"{text}: {self.where}")
            return
        self._resident = torch.empty((len(data.train), *data.images.shape[1:]), dtype=torch.uint8, device=device)
        self._place = np.full(len(data.images), -1, np.int64)
        self._place[data.train] = np.arange(len(data.train))
        rows = max(1, FORGET // max(1, int(np.prod(data.images.shape[1:]))))
        for start in range(0, len(data.train), rows):
            part = data.train[start : start + rows]
            self._resident[start : start + len(part)].copy_(data.take(part))
            data.forget()
        self.where = f"resident on {device}"
        reporter.say(f"{text}: {self.where}")

    def take(self, positions: Positions, following: Positions | None = None) -> Tensor:
        """uint8 (n, C, R, R) on the device; ``following`` will be asked for next."""
        if self._resident is not None:
            index = torch.from_numpy(self._place[positions]).pin_memory().to(self.device, non_blocking=True)
            return self._resident[index]
        start = time.perf_counter()
        if self._ahead is not None and np.array_equal(self._ahead[0], positions):
            batch = self._ahead[1].result()
        else:
            batch = self._fetch(positions)
        self.waited += time.perf_counter() - start
        self._ahead = (following, self._pool.submit(self._fetch, following)) if following is not None else None
        return batch.to(self.device, non_blocking=True)

    def release(self) -> bool:
        """Give the device's memory back, where the set lies there; whether it did."""
        if self._resident is None:
            return False
        self._resident = None
        self.where = MAPPED
        self.reporter.say(f"speed.resident: memory does not suffice for steps besides: off, {self.where}")
        return True

    def close(self) -> None:
        """Let the thread go."""
        self._ahead = None
        self._pool.shutdown(cancel_futures=True)

    def _fetch(self, positions: Positions) -> Tensor:
        batch = self.data.take(positions)
        self._read += batch.nbytes
        if self._read > FORGET:
            self.data.forget()
            self._read = 0
        if self.device.type != "cuda":
            return batch
        with torch.cuda.device(self.device):  # which is a thread's own matter
            return batch.pin_memory()
