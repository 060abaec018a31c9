"""Checkpoints: everything a run needs to continue exactly, in files that are complete or absent.

A checkpoint is ``nimg-<images seen>.pt``, written by ``torch.save`` and read with ``weights_only=True``, so that
loading runs no code; next to it is ``nimg-<images seen>.pt.sha256`` in the format of ``sha256sum -c``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file

_NAME = re.compile(r"nimg-[0-9]{12,}\.pt")


def save_checkpoint(folder: Path, nimg: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write ``state`` as the newest checkpoint and delete all but the newest ``keep``.

    Raises:
        ZooError: it could not be written (a full disk); earlier checkpoints are intact.
    """
    path = folder / f"nimg-{nimg:012d}.pt"
    if path.exists():
        if _is_whole(path):
            return path  # the state is a function of the images seen, so it is the same
        path.unlink()
    hashing = None
    try:
        with atomic_file(path) as file:
            hashing = _Hashing(file)
            torch.save(state, hashing)  # type: ignore[arg-type]
            # The hash is written before the checkpoint gets its name, so that no checkpoint is ever without it.
            with atomic_file(_sum(path), "w") as sum_file:
                sum_file.write(f"{hashing.hexdigest()}  {path.name}\n")
    except (OSError, RuntimeError) as error:
        cause = hashing.failure if hashing is not None and hashing.failure is not None else error
        with contextlib.suppress(OSError):
            _sum(path).unlink()
        before = newest_checkpoint(folder)
        kept = f"the previous checkpoint {before} is intact" if before else "there was no earlier checkpoint"
        raise ZooError(f"{path}: cannot write the checkpoint ({error_reason(cause)}); {kept}") from None
    for old in [other for other in _all(folder) if other != path][max(0, keep - 1) :]:
        old.unlink(missing_ok=True)
        _sum(old).unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """The file of the newest checkpoint, unverified."""
    return next(iter(_all(folder)), None)


def load_newest_checkpoint(
    folder: Path, warn: Callable[[str], None], check: Callable[[Path, Any], None] | None = None
) -> dict[str, Any] | None:
    """The newest intact checkpoint, on the CPU; damaged ones are skipped with a warning. None if there is none.

    Args:
        check: raises a :class:`ZooError` where the content is that of no run; such a file is renamed to
            ``unusable-...``. With it damaged ones become ``damaged-...`` where an older one is intact.

    Raises:
        ZooError: there are checkpoints, and all are damaged.
    """
    paths, damaged = _all(folder), []
    for path in paths:
        try:
            state = load_checkpoint(path)
        except ZooError as error:
            warn(str(error))
            damaged.append(path)
            continue
        try:
            if check is not None:
                check(path, state)
        except ZooError as error:
            warn(f"{error}; it is set aside")
            _set_aside(path, "unusable")
            continue
        if check is not None:  # the run is continued: as the newest, damaged ones would be kept instead of intact ones
            for other in damaged:
                _set_aside(other, "damaged")
        return state
    if paths:
        raise ZooError(
            f"{folder}: none of the {len(paths)} checkpoints can be read. Remove or rename the run to start anew"
        )
    return None


def _set_aside(path: Path, why: str) -> None:
    """Rename a checkpoint, so that the run can write one of this name again."""
    with contextlib.suppress(OSError):
        for file in (path, _sum(path)):
            file.rename(file.with_name(f"{why}-{file.name}"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint, verified against its hash, on the CPU.

    Raises:
        ZooError: damaged, unreadable, or with objects other than tensors and plain values (no code in it was run).
    """
    if not _is_whole(path):
        raise ZooError(f"{path}: is damaged: its SHA-256 differs from the .sha256 file next to it")
    return load_tensors(path)


def load_tensors(path: Path) -> dict[str, Any]:
    """A ``torch.save`` file of tensors and plain values, on the CPU.

    Raises:
        ZooError: another kind of file, or objects whose loading would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes make the unpickler raise anything from EOFError to IndexError
        code = isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower()
        why = "holds objects that would run code when loaded; refused" if code else "is no checkpoint, or damaged"
        raise ZooError(f"{path}: {why}") from None


class _Hashing(io.RawIOBase):
    """Hashes a file as it is written, and keeps the error of a failed write, which torch replaces by its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.hash.update(data)
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()

    def hexdigest(self) -> str:
        return self.hash.hexdigest()


def _all(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("nimg-*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def _sum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _is_whole(path: Path) -> bool:
    try:
        expected = _sum(path).read_text(encoding="utf-8").split()[0]
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == expected
    except (OSError, IndexError, ValueError):
        return False
