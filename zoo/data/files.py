"""Read files that may be pipes or devices, or may change while they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from numpy import ndarray

from zoo.core.errors import ZooError
from zoo.data.decode import UnreadableError

NOT_REGULAR = "not a regular file, but a pipe, a device, a socket or a file of the system"


def read_file(path: Path, limit: int, check: Callable[[int], None] | None = None) -> bytes:
    """Read at most ``limit`` bytes of a regular file, at once or not at all.

    Args:
        path: the file.
        limit: in bytes; more are not read, whatever size the file claims.
        check: called with the size of the file.

    Raises:
        OSError: it cannot be read.
        UnreadableError: it is no regular file, or ``check`` raised it.
    """
    # A pipe or a device may have taken the file's place since it was listed: opening must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(NOT_REGULAR)
        if check is not None:
            check(status.st_size)
        # Not read(limit), which takes that much memory at once.
        return file.read(min(limit, status.st_size))


def require_whole(images: ndarray) -> None:
    """Check that the file under mapped images is as long as the map.

    Raises:
        ZooError: it was cut short; reading its pages would end the process (SIGBUS).
    """
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and mapped.size() < images.offset + images.nbytes:  # type: ignore[attr-defined]
        name = getattr(images, "filename", "")
        raise ZooError(f"{name}: it was cut short while it was in use. Run again (a damaged cache is built again)")
