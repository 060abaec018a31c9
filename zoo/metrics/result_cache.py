"""A cache of features and of small results, identified by their content and never by a name.

CACHE/features/<key>.npy    features of a set of images; the key is their pixels and the extractor's identity
CACHE/figures/<key>.json    results that depend on nothing but their key
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

_Array = np.ndarray

RESULT_CACHE_FORMAT = 1  # raise it when something else would be stored under the same key
MAX_FEATURE_BYTES = 4 * 10**9  # in the cache; beyond, the least recently used are deleted

_CHECKSUM_BYTES = 16  # after an array: the hash of its values
_PROGRESS_IMAGES = 256  # between two reports of progress
_DIGEST_BYTES = 2**25  # of an array hashed at once


def digest_images(images: _Array) -> str:
    """Hash uint8 images (N, C, H, W): equal for equal pixels and shape. A memory map is read in pieces."""
    if images.dtype != np.uint8:
        raise ValueError(f"digest_images takes uint8 images, not {images.dtype}")
    return digest_array(images)


def digest_array(array: _Array) -> str:
    """Hash any array: equal for equal values, shape and type. A memory map is read in pieces."""
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    _hash_values(digest, array, max(1, _DIGEST_BYTES // max(1, array[:1].nbytes)))
    return digest.hexdigest()


def cached_features(
    images: _Array, extractor: FeatureExtractor, *, folder: Path | None = None, reporter: Reporter | None = None
) -> _Array:
    """Return features float32 (N, dim) of uint8 images (N, C, H, W), from the cache if they were computed before.

    Args:
        images: an array or a memory map, which is read in pieces.
        extractor: computes the features.
        folder: of the cache; None: the usual one.

    Returns:
        A read-only memory map; an array if the folder cannot be written.

    Raises:
        ZooError: as the extractor does.
    """
    reporter = reporter or SilentReporter()
    folder = folder or cache_folder() / "features"
    path = folder / f"{_key([RESULT_CACHE_FORMAT, digest_images(images), extractor.identity])}.npy"
    cached = _read_features(path, len(images))
    if cached is not None:
        return cached
    if path.exists():
        reporter.warn(f"{path}: the cache file is damaged; these features are computed again")
    features = _compute_features(images, extractor, reporter)
    try:
        with replace_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, features)
            file.write(_checksum(features))
    except OSError as error:
        reporter.warn(f"{folder}: cannot be written, so features are not cached ({error_message(error)})")
        return features
    _delete_least_recent(folder, path)
    cached = _read_features(path, len(images))
    return features if cached is None else cached


def cached_result(
    key_parts: Sequence[Any],
    compute: Callable[[], dict[str, Any]],
    *,
    folder: Path | None = None,
    is_cacheable: Callable[[dict[str, Any]], bool] | None = None,
) -> dict[str, Any]:
    """Return ``compute()``, or what it returned when it was last called with this key.

    Args:
        key_parts: plain values (text, numbers, lists, None, dicts): everything that the result depends on.
        compute: returns plain values too, which are always returned as JSON reads them (tuples as lists).
        folder: of the cache; None: the usual one.
        is_cacheable: whether a result is kept; None: every one is.
    """
    path = (folder or cache_folder() / "figures") / f"{_key([RESULT_CACHE_FORMAT, *key_parts])}.json"
    with contextlib.suppress(OSError, ValueError):  # missing or damaged: computed below
        cached = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(cached, dict):
            return cached
    text = json.dumps(compute())
    result: dict[str, Any] = json.loads(text)
    if is_cacheable is None or is_cacheable(result):
        with contextlib.suppress(OSError), atomic_file(path, "w") as file:  # a read-only cache is no error
            file.write(text)
    return result


def _compute_features(images: _Array, extractor: FeatureExtractor, reporter: Reporter) -> _Array:
    parts = [np.empty((0, extractor.dim), np.float32)] if not len(images) else []
    reporter.start(f"features ({extractor.name})", len(images))
    try:
        for start in range(0, len(images), _PROGRESS_IMAGES):
            part = np.asarray(images[start : start + _PROGRESS_IMAGES])
            parts.append(extractor(part))
            reporter.advance(len(part))
    finally:
        reporter.stop()
    return np.concatenate(parts)


def _read_features(path: Path, count: int) -> _Array | None:
    """Return cached features, or None if they are missing or damaged."""
    try:
        features: _Array = np.load(path, mmap_mode="r", allow_pickle=False)
        if features.dtype != np.float32 or features.ndim != 2 or len(features) != count:
            return None
        with path.open("rb") as file:
            file.seek(-_CHECKSUM_BYTES, os.SEEK_END)
            if file.read() != _checksum(features):
                return None
    except (OSError, ValueError, EOFError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the time of last use, by which old files are deleted
    return features


def _checksum(array: _Array) -> bytes:
    digest = hashlib.blake2b(digest_size=_CHECKSUM_BYTES)
    _hash_values(digest, array, 4096)
    return digest.digest()


def _hash_values(digest: Any, array: _Array, step: int) -> None:
    for start in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[start : start + step]).data)


def _delete_least_recent(folder: Path, newest: Path) -> None:
    """Delete the least recently used files until the others are below the limit."""
    with contextlib.suppress(OSError):
        entries = [(path.stat(), path) for path in folder.glob("*.npy")]
        size = sum(status.st_size for status, _ in entries)
        for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime):
            if size > MAX_FEATURE_BYTES and path != newest:
                path.unlink(missing_ok=True)
                size -= status.st_size


def _key(parts: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
