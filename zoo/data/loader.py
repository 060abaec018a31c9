"""Batches of images on their way to the device: from its own memory, or prefetched from the file on disk."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from zoo.core.progress import Reporter, SilentReporter
from zoo.data.dataset import Dataset

Positions = ndarray  # int64 (n,)
MAX_MAPPED_BYTES = 64 << 20  # read before the pages are released, so that memory does not grow with the set


class ImageLoader:
    """Returns the images at given positions, uint8, on a device.

    Where the whole training set fits into ``share`` of the device's free memory, it is kept there (resident).
    Elsewhere a thread reads the next batch into pinned memory while the current step runs.

    Args:
        data: the set.
        device: where batches are needed.
        resident: True, False, or "auto": if it fits. Always off on a CPU, which shares the memory of the file's pages.
        share: of free memory that a resident set may take.
        reporter: receives where the images lie; None: nothing is reported.

    Attributes:
        waited: seconds for which :meth:`take` waited for images.
        where: where the images are read from, in words.
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
        self.where = "read from the memory map, a batch ahead"
        self._bytes_read = 0
        self._prefetched: tuple[Positions, Future[Tensor]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="zoo-loader")
        self._resident: Tensor | None = None
        reporter = reporter or SilentReporter()
        if device.type != "cuda":
            if resident is True:
                reporter.say(f"speed.resident: off, because {device.type} shares the memory of the mapped file")
            return
        size = len(data.train) * data.images[0].nbytes
        free = torch.cuda.mem_get_info(device)[0]
        if resident is not False and size <= share * free:
            self._make_resident()
        text = f"{size / 2**30:.2f} GiB of images, {share:.0%} of {free / 2**30:.1f} GiB free on {device}"
        reporter.say(f"{text}: {self.where}")

    def take(self, positions: Positions, following: Positions | None = None) -> Tensor:
        """Return uint8 (n, C, R, R) on the device; ``following`` is prefetched."""
        if self._resident is not None:
            # Only the indices cross to the device; from pinned memory they do so while it computes.
            index = torch.from_numpy(self._rows[positions]).pin_memory().to(self.device, non_blocking=True)
            return self._resident[index]
        start = time.perf_counter()
        # The positions may differ from those announced, as when a run resumes.
        if self._prefetched is not None and np.array_equal(self._prefetched[0], positions):
            batch = self._prefetched[1].result()
        else:
            batch = self._read(positions)
        self.waited += time.perf_counter() - start
        self._prefetched = None if following is None else (following, self._pool.submit(self._read, following))
        return batch.to(self.device, non_blocking=True)

    def close(self) -> None:
        """Stop the thread."""
        self._prefetched = None
        self._pool.shutdown(cancel_futures=True)

    def _make_resident(self) -> None:
        data = self.data
        self._resident = torch.empty((len(data.train), *data.images.shape[1:]), dtype=torch.uint8, device=self.device)
        self._rows = np.full(len(data.images), -1, np.int64)  # of each image of the set in the resident tensor
        self._rows[data.train] = np.arange(len(data.train))
        # Copied in chunks whose pages are released, so that host memory never holds the whole set.
        chunk = max(1, MAX_MAPPED_BYTES // data.images[0].nbytes)
        for start in range(0, len(data.train), chunk):
            part = data.train[start : start + chunk]
            self._resident[start : start + len(part)].copy_(data.take(part))
            data.forget()
        self.where = f"resident on {self.device}"

    def _read(self, positions: Positions) -> Tensor:
        batch = self.data.take(positions)
        self._bytes_read += batch.nbytes
        if self._bytes_read > MAX_MAPPED_BYTES:
            self.data.forget()
            self._bytes_read = 0
        if self.device.type != "cuda":
            return batch
        with torch.cuda.device(self.device):  # the current device belongs to the thread
            return batch.pin_memory()
