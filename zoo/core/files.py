"""Atomic file writes, and the folder of the package's caches."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` atomically when the block ends.

    Missing parent folders are created. The content is on the disk when the function returns. On an exception the
    temporary file is deleted and ``path`` stays as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename is atomic only within one file system; the process id keeps writers apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        # Content before name: after a power cut the new name must not point to an empty file.
        _sync(temporary)
        temporary.replace(path)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a file that replaces ``path`` atomically when the block ends; see :func:`replace_file`."""
    encoding = None if "b" in mode else "utf-8"
    with replace_file(path) as temporary, temporary.open(mode, encoding=encoding) as file:
        yield file


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_file(path: Path) -> bool:
    """Return whether ``path`` is a file; a name that no file can have, or in a closed folder, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name of 5000 characters, or one with a null character
        return False


def is_folder(path: Path) -> bool:
    """Return whether ``path`` is a folder; see :func:`is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_private(path: Path) -> bool:
    """Return whether only this user can have written there; code that is loaded runs with the user's rights."""
    if not hasattr(os, "getuid"):
        return path.exists()
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not stat.S_ISLNK(status.st_mode) and not status.st_mode & 0o022


def cache_folder() -> Path:
    """Return ``$ZOO_CACHE``, else ``$XDG_CACHE_HOME/zoo``, else ``~/.cache/zoo``."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zoo"
