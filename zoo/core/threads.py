"""A parallel map that keeps order and never runs far ahead of who consumes it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from zoo.core.progress import Reporter

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_chunks(
    function: Callable[[range], T], total: int, chunk: int, *, task: str, reporter: Reporter
) -> Iterator[tuple[range, T]]:
    """``(part, function(part))`` for ``range(total)`` in parts of ``chunk``, in order; errors come up where they fall.

    Threads, not processes: Pillow, zlib, hashing and numpy let go of the interpreter's lock where the time is spent,
    and threads start at once, share an open zip, import nothing twice and need no ``__main__`` guard in a script.
    """
    workers = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    reporter.start(task, total)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="zoo-data")
    pending: deque[tuple[range, Future[T]]] = deque()
    try:
        for start in range(0, total, chunk):
            part = range(start, min(start + chunk, total))
            pending.append((part, pool.submit(function, part)))
            if len(pending) > 2 * workers:  # what waits here is all that memory holds
                yield _next(pending, reporter)
        while pending:
            yield _next(pending, reporter)
    finally:
        pool.shutdown(cancel_futures=True)
        reporter.stop()


def _next(pending: deque[tuple[range, Future[T]]], reporter: Reporter) -> tuple[range, T]:
    part, future = pending.popleft()
    result = future.result()
    reporter.advance(len(part))
    return part, result


def map_ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """``map(work, items)`` by ``threads`` threads; items are drawn here, no more of them than keep the threads busy.

    Good for work that lets go of the interpreter's lock. One thread: done here, when it is asked for.
    """
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
