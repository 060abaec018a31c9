"""Every picture decoded once, into one uint8 file that is mapped into memory ever after.

    CACHE/index/<place>.json    what a place held when it was last looked at: its stat signature and its content
    CACHE/sets/<key>/           images.npy (N, C, R, R) uint8 and set.json; the key is content and settings

An unchanged place is known by its signature, without a file being opened; a changed or moved one is read and known by
its content; only what is new is decoded. A set is written under a temporary name that nobody looks for and takes its
own, whole and durable, in one step: whoever comes second finds it there and throws its own away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from zoo.core.errors import ZooError, error_message
from zoo.core.files import atomic_file
from zoo.core.progress import Reporter
from zoo.core.threads import map_chunks
from zoo.data.decode import Array, UnreadableError, decode
from zoo.data.near_duplicates import HASH_SIDE, difference_hash, near_duplicates
from zoo.data.resize import Window, resize_image, thumbnail, to_8_bit, to_grey
from zoo.data.sources import Source, hash_bytes
from zoo.data.subjects import find_subjects
from zoo.data.windowing import DeepError, dtype_window, mixed_depths_error, percentile_window

if TYPE_CHECKING:
    from zoo.core.config import DataConfig

FORMAT = 1  # to be raised whenever the same files and settings would give other pixels or other facts
STALE = 24 * 3600  # seconds after which what a killed process left behind is swept away


@dataclass
class SetFacts:
    """What is known of a set beside its pixels; lists run along the images unless said otherwise.

    Attributes:
        names: relative names.
        splits: "train", "validate" or "test", where the set brings its own.
        subjects: whom each shows, where names tell.
        groups: the first image of each one's group of near-duplicates, where neither splits nor subjects are known.
        duplicates: groups of images whose files are equal, by index.
        window: what became black and white, where something deeper than 8 bits was windowed.
        problems: (name, reason) of all that was left out.
        notes: anything else to be warned of.
    """

    names: list[str] = field(default_factory=list)
    splits: list[str] | None = None
    subjects: list[str] | None = None
    groups: list[int] | None = None
    duplicates: list[list[int]] = field(default_factory=list)
    window: Window | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_or_build_cache(
    source: Source, config: DataConfig, reporter: Reporter, root: Path
) -> tuple[np.memmap, SetFacts, str]:
    """The set's images (N, C, R, R) uint8, its facts and its key; built if it is not there or damaged.

    Raises:
        ZooError: the source cannot be read or holds nothing, or the cache cannot be written.
    """
    place = root / "index" / f"{hash_bytes(os.fsencode(source.location))}.json" if source.location else None
    signature = source.signature()
    content = known = _recall(place, signature)
    if content is None:
        content = source.content(reporter)
    settings = [FORMAT, content, config.resolution, config.channels, config.fit, config.window]
    key = hash_bytes(json.dumps(settings))
    folder = root / "sets" / key
    try:
        found = _read(folder, config)
        if found is None:
            _build(source, config, content, folder, reporter, place)
            found = _read(folder, config)
        if place and not known and source.steady:
            with contextlib.suppress(OSError), atomic_file(place, "w") as file:  # a cache that is only read will do
                json.dump({"signature": signature, "content": content}, file)
    except OSError as error:
        raise ZooError(
            f"{root}: the cache cannot be written ({error_message(error)}); make room, or set ZOO_CACHE to another folder"
        ) from error
    if found is None:
        raise ZooError(f"{folder}: the cache was damaged while it was written; run again")
    return *found, key


def _recall(place: Path | None, signature: str) -> str | None:
    """The content of a place whose signature is still the same."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(place.read_text()) if place else {}
        if entry["signature"] == signature:
            return str(entry["content"])
    return None


def _read(folder: Path, config: DataConfig) -> tuple[np.memmap, SetFacts] | None:
    """A set that is there and whole, or None."""
    try:
        facts = SetFacts(**json.loads((folder / "set.json").read_text()))
        facts.window = tuple(facts.window) if facts.window else None  # type: ignore[assignment]
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        size = (folder / "images.npy").stat().st_size
    except (OSError, ValueError, TypeError, EOFError):
        return None
    shape = (len(facts.names), config.channels, config.resolution, config.resolution)
    whole = images.shape == shape and images.dtype == np.uint8 and size == images.offset + images.nbytes
    return (images, facts) if whole else None


def _build(
    source: Source, config: DataConfig, content: str, folder: Path, reporter: Reporter, place: Path | None
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    need = len(source.names) * config.channels * config.resolution**2
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise ZooError(
            f"{folder.parent}: the cache needs {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room, or set ZOO_CACHE to another folder"
        )
    temporary = folder.parent / f".building-{os.getpid()}-{time.monotonic_ns()}"
    temporary.mkdir()
    try:
        with (temporary / "images.npy").open("wb") as file:
            facts, found = _decode(source, config, file, reporter)
            file.flush()
            os.fsync(file.fileno())
        if found != content:  # also what a place remembers wrongly comes to
            if place:
                place.unlink(missing_ok=True)
            raise ZooError(f"{source.label}: it changed while it was read; run again when it is at rest")
        with atomic_file(temporary / "set.json", "w") as file:
            json.dump(dataclasses.asdict(facts), file)
        _take_place(temporary, folder, config, reporter)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    reporter.say(f"{source.label}: {len(facts.names)} images cached in {folder}")


def _take_place(temporary: Path, folder: Path, config: DataConfig, reporter: Reporter) -> None:
    try:
        temporary.rename(folder)
    except OSError:  # somebody was faster, or what stands there is damaged
        if _read(folder, config) is None:
            reporter.say(f"{folder}: the cache was damaged and is replaced")
            shutil.rmtree(folder)
            temporary.rename(folder)


class _Row(NamedTuple):
    digest: bytes
    reason: str  # why it is left out, or ""
    image: Array | None = None
    near: bytes = b""
    deep: bool = False


def _decode(source: Source, config: DataConfig, file: IO[bytes], reporter: Reporter) -> tuple[SetFacts, str]:
    """Write all images that can be read; the facts, and the content that was really met."""
    explicit = config.window if isinstance(config.window, tuple | list) else None
    window: Window | None = (float(explicit[0]), float(explicit[1])) if explicit else None
    try:
        return _write(source, config, window, None, file, reporter)
    except DeepError as error:  # nearly all sets are of 8 bits: it is not asked beforehand
        dtype = str(error)
    window = dtype_window(dtype) if config.window == "dtype" else percentile_window(source, reporter)
    return _write(source, config, window, dtype, file, reporter)


def _write(
    source: Source, config: DataConfig, window: Window | None, dtype: str | None, file: IO[bytes], reporter: Reporter
) -> tuple[SetFacts, str]:
    def row(index: int) -> _Row:
        digest, raw, reason = source.digest(index)
        try:
            if raw is None:
                raise UnreadableError(reason)
            picture = decode(raw)
            if picture.deep and window is None:
                raise DeepError(picture.pixels.dtype)
            if picture.deep and dtype and dtype != picture.pixels.dtype:
                raise mixed_depths_error(source.label, {dtype, str(picture.pixels.dtype)})
            # 8 bits are taken as they are unless people themselves have set a window.
            values = to_8_bit(picture.pixels, window if picture.deep or dtype is None else None)
            image = resize_image(values, resolution=config.resolution, channels=config.channels, fit=config.fit)
            near = difference_hash(thumbnail(to_grey(values), HASH_SIDE + 1, HASH_SIDE))
            return _Row(digest, "", image, near, picture.deep)
        except UnreadableError as error:
            if source.strict:
                raise ZooError(f"{source.label}: picture {source.names[index]} {error}") from error
            return _Row(digest, str(error))

    def rows(part: range) -> list[_Row]:
        return [row(index) for index in part]

    total, listing = len(source.names), source.listing
    facts = SetFacts(problems=[(problem.name, problem.reason) for problem in listing.problems])
    kept: list[int] = []
    digests: list[bytes] = []
    near: list[bytes] = []
    deep = 0
    file.seek(0)
    start = _header(file, (total, config.channels, config.resolution, config.resolution))
    for part, found in map_chunks(rows, total, source.chunk, task="decoding", reporter=reporter):
        for index, made in zip(part, found, strict=True):
            digests.append(made.digest)
            if made.image is None:
                facts.problems.append((source.names[index], made.reason))
                continue
            file.write(made.image.data)
            kept.append(index)
            near.append(made.near)
            deep += made.deep
    if not kept:
        names = f"{facts.problems[0][0]}: {facts.problems[0][1]}"
        raise ZooError(f"{source.label}: none of its {total} image files can be used ({names})")
    file.seek(0)
    if _header(file, (len(kept), config.channels, config.resolution, config.resolution)) != start:
        raise AssertionError("numpy's header changed its length with the number of images")

    facts.names = [source.names[index] for index in kept]
    facts.splits = [listing.splits[index] for index in kept] if listing.splits else None
    facts.subjects = find_subjects(facts.names, split=facts.splits is not None)
    if facts.splits is None and facts.subjects is None:
        facts.groups = near_duplicates(
            np.frombuffer(b"".join(near), np.uint8).reshape(len(near), -1), reporter
        ).tolist()
    facts.duplicates = group_equal(digests[index] for index in kept)
    facts.window = window
    if 0 < deep < len(kept) and dtype:
        facts.notes.append(
            f"{len(kept) - deep} images of 8 bits are taken as they are, {deep} of more bits are windowed"
        )
    return facts, source.combine(digests)


def group_equal(digests: Iterable[bytes]) -> list[list[int]]:
    """The positions at which the same digest stands more than once."""
    places: dict[bytes, list[int]] = {}
    for position, digest in enumerate(digests):
        places.setdefault(digest, []).append(position)
    return [found for found in places.values() if len(found) > 1]


def _header(file: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write what an uint8 ``.npy`` begins with; numpy leaves room for the first axis to change. The bytes it took."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for old in folder.glob(".building-*"):
        with contextlib.suppress(OSError):
            if time.time() - max(entry.stat().st_mtime for entry in [old, *old.iterdir()]) > STALE:
                shutil.rmtree(old, ignore_errors=True)
