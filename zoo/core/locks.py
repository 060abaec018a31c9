"""Locks on folders: one process writes, others see that it does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from zoo.core.errors import ZooError, error_reason


@contextlib.contextmanager
def hold_lock(path: Path, message: str) -> Iterator[None]:
    """Hold the lock in the file ``path``; it ends with the process, however that ends.

    Raises:
        ZooError: another process holds it, which ``message`` explains; or the file cannot be written.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0.5)  # a process that asks whether it is held holds it for an instant
    except filelock.Timeout:
        raise ZooError(message) from None
    except OSError as error:
        raise ZooError(f"{path.parent}: cannot be written ({error_reason(error)})") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock in the file ``path``, without writing anything."""
    try:
        import fcntl
    except ImportError:  # Windows
        if not path.is_file():
            return False
        try:
            with hold_lock(path, ""):
                return False
        except ZooError:
            return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # there is none, or it cannot be read
        return False
    try:
        # The kind of lock that filelock takes; shared, since a folder that may only be read allows no other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False
