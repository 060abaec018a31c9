"""Atomic file writes, what killed writers leave, and the folder of the package's caches."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import platform
import re
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ABANDONED_AFTER_SECONDS = 24 * 3600  # since the last write to a temporary file whose writer cannot be looked up
KILL_VARIABLE = "ZOO_TEST_KILL_AT_WRITE"  # set by benchmarks/kill.py alone

_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d{1,7})\.tmp")  # what follows is added by libraries that download
_swept: set[Path] = set()  # folders in which this process has looked for leftovers
_stages = itertools.count(1)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` atomically when the block ends.

    Missing parent folders are created. The content is on the disk when the function returns. On an exception the
    temporary file is deleted and ``path`` stays as it was.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _swept:
        _swept.add(path.parent)
        remove_leftovers(path.parent)
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}{temporary_suffix()}")
    try:
        _count_stage()
        yield temporary
        _count_stage(torn=temporary)
        # Content before name: after a power cut the new name must not point to an empty file.
        _sync(temporary)
        _count_stage()
        temporary.replace(path)
        _count_stage()
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
    # Windows flushes only what is open for writing, and opens no folders.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
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


def temporary_folder(prefix: str, parent: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """Make a folder that is deleted at the end of a ``with`` block; delete those that killed processes left.

    Args:
        prefix: of its name; starts with a dot.
        parent: None: the system's temporary folder.
    """
    remove_leftovers(parent or Path(tempfile.gettempdir()), prefix)
    return tempfile.TemporaryDirectory(temporary_suffix(), prefix, parent, ignore_cleanup_errors=True)


def temporary_suffix() -> str:
    """Return the end of this process's temporary names, which start with a dot; it says who writes."""
    return f".{_machine()}-{os.getpid()}.tmp"


def remove_leftovers(folder: Path, prefix: str = ".") -> None:
    """Delete temporary files and folders that start with ``prefix`` and whose writers were killed."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _TEMPORARY.match(path.name)
            if match is None or not path.name.startswith(prefix) or not _is_abandoned(path, match[1], int(match[2])):
                continue
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_abandoned(path: Path, machine: str, process: int) -> bool:
    if machine == _machine() and os.name != "nt":  # where signal 0 is Ctrl-C; the age decides there
        try:
            os.kill(process, 0)  # sends nothing
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
    # Of another machine, or the number was given to another process: its newest file counts: a long write continues.
    with contextlib.suppress(OSError):
        entries = [path, *path.iterdir()] if path.is_dir() else [path]
        return time.time() - max(entry.stat().st_mtime for entry in entries) > ABANDONED_AFTER_SECONDS
    return False


@functools.cache
def _machine() -> str:
    """Identify the machine or container: the numbers of its processes mean nothing elsewhere."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.blake2b(f"{platform.node()} {namespace}".encode(), digest_size=4).hexdigest()


def _count_stage(*, torn: Path | None = None) -> None:
    """End the process at the stage of its writes that a kill test asks for, with half of ``torn`` on the disk."""
    wanted = os.environ.get(KILL_VARIABLE)
    if wanted is None or next(_stages) != int(wanted):
        return
    if torn is not None and torn.exists():
        os.truncate(torn, torn.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def cache_folder() -> Path:
    """Return ``$ZOO_CACHE``, else ``$XDG_CACHE_HOME/zoo``, else ``~/.cache/zoo``."""
    if os.environ.get("ZOO_CACHE"):
        return Path(os.environ["ZOO_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zoo"


def hide_home(text: str) -> str:
    """Return a text with the home folder as ``~``: its name is mostly a person's."""
    with contextlib.suppress(RuntimeError):  # a container may have no home for the user
        for home in {str(Path.home()), str(Path.home().resolve())} - {os.sep}:
            text = text.replace(home, "~")
    return text
