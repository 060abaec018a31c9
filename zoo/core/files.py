"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to: it takes its place, durably, when the block ends, and vanishes on an error.

    Makes the folder.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        with contextlib.suppress(OSError):  # not every file system lets a folder be synced
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """:func:`replacing` as an open file."""
    with (
        replace_file(path) as temporary,
        temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file,
    ):
        yield file


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """$ZOO_CACHE, else zoo in $XDG_CACHE_HOME, else ~/.cache/zoo."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zoo"
