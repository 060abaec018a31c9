"""A parallel map that keeps the order of its items and a bounded number of results in memory."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from zoo.core.progress import Reporter

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in order, computed by ``threads`` threads ahead of the consumer.

    Threads instead of processes: they share memory and open files, start at once, and need no ``__main__`` guard in
    the user's script. They run in parallel where ``function`` releases the GIL (Pillow, zlib, hashing, numpy, ctypes).

    Args:
        function: called from the threads; its exceptions are raised here, at the item's turn.
        items: taken by the calling thread, at most ``2 * threads + 1`` of them ahead of the consumer.
        threads: 1 calls ``function`` in the calling thread.
    """
    if threads == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="zoo")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * threads:  # bounds the memory that waiting results take
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def count_workers() -> int:
    """Return how many threads decode at once."""
    # The affinity mask counts the cores of a container or batch job, cpu_count those of the host.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def map_chunks(
    function: Callable[[range], Result], total: int, chunk: int, *, task: str, reporter: Reporter
) -> Iterator[tuple[range, Result]]:
    """Yield ``(part, function(part))`` for ``range(total)`` in parts of ``chunk``, in order, with a progress bar."""
    parts = [range(start, min(start + chunk, total)) for start in range(0, total, chunk)]
    reporter.start(task, total)
    try:
        with contextlib.closing(map_ahead(function, parts, count_workers())) as results:
            for part, result in zip(parts, results, strict=True):
                reporter.advance(len(part))
                yield part, result
    finally:
        reporter.stop()
