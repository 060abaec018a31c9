"""Features and small results that need not be computed twice, known by content and never by name.

CACHE/features/<key>.npy    features of a set of images; the key is their pixels and the space's identity
CACHE/figures/<key>.json    figures that depend on nothing but their key
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.errors import error_message
from zoo.core.files import atomic_file, cache_folder, replace_file
from zoo.core.progress import Reporter, SilentReporter
from zoo.metrics.features.extractor import FeatureExtractor

Array = np.ndarray[Any, Any]

FORMAT = 1  # to be raised whenever what is stored would be something else under the same key
MOST = 4 * 10**9  # bytes of features; what has lain longest is dropped beyond

_SEAL = 16  # bytes after an array: the hash of its numbers
_CHUNK = 256  # images looked at between two words of progress
_BYTES = 2**25  # of images hashed at once


def digest_images(images: Array) -> str:
    """A hash of uint8 images (N, C, H, W): equal for equal pixels and shape. A memory map is read in pieces."""
    if images.dtype != np.uint8:
        raise ValueError(f"content_digest takes uint8 images, not {images.dtype}")
    return digest_array(images)


def digest_array(array: Array) -> str:
    """A hash of any array: equal for equal values, shape and type. A memory map is read in pieces."""
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    step = max(1, _BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[start : start + step]).data)
    return digest.hexdigest()


def cached_features(
    images: Array, space: FeatureExtractor, *, folder: Path | None = None, reporter: Reporter | None = None
) -> Array:
    """Features float32 (N, dim) of uint8 images (N, C, H, W), from the cache if they have been looked at before.

    Args:
        images: an array or a memory map, which is read in pieces.
        folder: where they are kept; None: features in the cache.

    Returns:
        A memory map that is only read; an array where the folder cannot be written.

    Raises:
        ZooError: as the space does.
    """
    reporter = reporter or SilentReporter()
    folder = folder or cache_folder() / "features"
    path = folder / f"{_key([FORMAT, digest_images(images), space.identity])}.npy"
    found = _read(path, len(images))
    if found is not None:
        return found
    if path.exists():
        reporter.warn(f"{path}: the cache was damaged; these features are computed again")
    made = _computed(images, space, reporter)
    try:
        with replace_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, made)
            file.write(_seal(made))
    except OSError as error:
        reporter.warn(f"{folder}: features cannot be kept for the next time ({error_message(error)})")
        return made
    _trim(folder, path)
    found = _read(path, len(images))
    return made if found is None else found


def cached_result(
    key_parts: Sequence[Any], compute: Callable[[], dict[str, Any]], *, folder: Path | None = None
) -> dict[str, Any]:
    """``compute()``, or what it returned when it was last called with this key.

    Args:
        key_parts: plain values (text, numbers, lists, None, dicts): everything that the result depends on.
        compute: returns plain values too. What is returned is always what JSON makes of them (tuples are lists).
        folder: where results are kept; None: figures in the cache.
    """
    path = (folder or cache_folder() / "figures") / f"{_key([FORMAT, *key_parts])}.json"
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    text = json.dumps(compute())
    with contextlib.suppress(OSError), atomic_file(path, "w") as file:  # a cache that is only read will do
        file.write(text)
    result: dict[str, Any] = json.loads(text)
    return result


def _computed(images: Array, space: FeatureExtractor, reporter: Reporter) -> Array:
    if not len(images):
        return np.empty((0, space.dim), np.float32)
    parts = []
    reporter.start(f"features ({space.name})", len(images))
    try:
        for start in range(0, len(images), _CHUNK):
            part = np.asarray(images[start : start + _CHUNK])
            parts.append(space(part))
            reporter.advance(len(part))
    finally:
        reporter.stop()
    return np.concatenate(parts)


def _read(path: Path, count: int) -> Array | None:
    """Features that are there and whole, or None."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.dtype != np.float32 or found.ndim != 2 or len(found) != count:
            return None
        with path.open("rb") as file:
            file.seek(-_SEAL, os.SEEK_END)
            if file.read() != _seal(found):
                return None
    except (OSError, ValueError, EOFError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # it has not lain longest
    return found


def _seal(array: Array) -> bytes:
    digest = hashlib.blake2b(digest_size=_SEAL)
    for start in range(0, len(array), 4096):
        digest.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return digest.digest()


def _trim(folder: Path, newest: Path) -> None:
    """Drop what has lain longest, until the rest is below the limit."""
    with contextlib.suppress(OSError):
        entries = [(path.stat(), path) for path in folder.glob("*.npy")]
        size = sum(status.st_size for status, _ in entries)
        for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime):
            if size <= MOST:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                size -= status.st_size


def _key(parts: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
