"""Images decoded once, into one uint8 file that every later start maps into memory.

    CACHE/index/<place>.json    of a path: signature, content digest and left-out files of its last reading
    CACHE/sets/<key>/           images.npy (N, C, R, R) uint8 and set.json; the key is content digest and settings

A path with an unchanged signature is recognised without opening a file, a changed or moved one by its content. A set is
written under a temporary name and renamed when it is complete and durable; of two that are built at once one is kept.
Checksums of pixels and facts are compared when a set is opened (about a second per GB).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy import ndarray

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError, error_message
from zoo.core.files import atomic_file, remove_leftovers, temporary_suffix
from zoo.core.plugins import code_version
from zoo.core.progress import Reporter
from zoo.core.wording import count_of
from zoo.data.decode import UnreadableError
from zoo.data.digest import hash_bytes
from zoo.data.near_duplicates import difference_hash, near_duplicates
from zoo.data.resize import IntensityWindow, resize_image, to_8_bit
from zoo.data.sources.source import Source
from zoo.data.subjects import are_folders, find_subjects, printable_name
from zoo.data.windowing import DeepError, dtype_window, mixed_depths_error, percentile_window

CACHE_FORMAT = 1  # increase it when the same files and settings would give other pixels or other facts
FACTS_FORMAT = 3  # of set.json; sets of an older one are built again where it matters (_is_outdated)
LISTING_FORMAT = 3  # increase it when other files of the same folder would be listed
MAX_VERIFIED_BYTES = 4 << 30  # a larger set is verified only if it was changed after it was built
VERIFY_CHUNK_BYTES = 1 << 22


@dataclass
class SetFacts:
    """What is known about a set apart from its pixels.

    Lists have one element per image unless said otherwise.

    Attributes:
        names: relative names.
        splits: "train", "validate" or "test", where the set has split folders.
        subjects: the subject of each image, where names contain one.
        groups: the first image in each image's group of near-duplicates, where there are neither splits nor subjects
            other than folders, which the recipe may call classes.
        duplicates: groups of images whose files are equal, by index.
        window: the intensities that became black and white, where images of more than 8 bits were windowed.
        problems: (name, reason) of everything that was left out; also with a count.
        notes: other warnings.
        revised: whether an image is decoded otherwise than in sets of format 1, whose digests differ therefore.
        format: of these facts.
        images_crc: CRC-32 of all pixels; None in older sets.
        built: mtime (ns) of the images when they were complete; None in older sets.
    """

    names: list[str] = field(default_factory=list)
    splits: list[str] | None = None
    subjects: list[str] | None = None
    groups: list[int] | None = None
    duplicates: list[list[int]] = field(default_factory=list)
    window: IntensityWindow | None = None
    problems: list[tuple[Any, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    revised: bool = False
    format: int = 1
    images_crc: int | None = None
    built: int | None = None


class Row(NamedTuple):
    """What is known about one image.

    Attributes:
        digest: of its bytes.
        problem: why it is left out, or "".
        image: uint8 (C, R, R), until it is written.
        near_hash: its difference hash.
        deep: whether it is windowed, because it is not of 8 unsigned bits.
        blank: whether the window left one grey level of several.
        revised: see :class:`SetFacts`.
    """

    digest: bytes
    problem: str = ""
    image: ndarray | None = None
    near_hash: ndarray | None = None
    deep: bool = False
    blank: bool = False
    revised: bool = False


def load_or_build_cache(
    source: Source, config: DataConfig, reporter: Reporter, root: Path
) -> tuple[np.memmap, SetFacts, str]:
    """Return a set's images (N, C, R, R) uint8, its facts and its key.

    It is built if it is missing or damaged.

    Raises:
        ZooError: the source cannot be read or has no images, or the cache cannot be written.
    """
    # Phantoms have no location: their signature is their content.
    index_file = root / "index" / f"{hash_bytes(os.fsencode(source.location))}.json" if source.location else None
    signature = source.signature() + ("" if config.files == "images" else f" {config.files}")
    signature += code_version(type(source).__module__)  # edited plug-ins may read the same files otherwise
    known = _look_up_content(index_file, signature)
    content, listed = known or (source.content_digest(reporter), None)
    settings = [CACHE_FORMAT, content, config.resolution, config.channels, config.fit, config.window]
    key = hash_bytes(json.dumps(settings))
    folder = root / "sets" / key
    try:
        remove_leftovers(root / "sets")
        cached = _read_set(folder, config) or _build_set(source, config, content, folder, reporter, index_file)
        if listed is None:
            listed = [astuple(problem) for problem in source.listing.problems]
        if index_file and not known and source.cacheable:
            entry = {"signature": signature, "content": content, "listing": LISTING_FORMAT, "listed": listed}
            with contextlib.suppress(OSError), atomic_file(index_file, "w") as file:
                json.dump({**entry, "checksum": _checksum(entry)}, file)
    except OSError as error:
        raise ZooError(
            f"{root}: the cache cannot be written ({error_message(error)}). "
            "Free some space, or set ZOO_CACHE to another folder"
        ) from error
    if cached is None:
        raise ZooError(f"{folder}: the cache was damaged while it was written. Run again")
    images, facts = cached
    # Those of the listing belong to the path, and the others to its content.
    facts.problems = list(dict.fromkeys([*map(tuple, listed), *map(tuple, facts.problems)]))
    return images, facts, key


def _look_up_content(index_file: Path | None, signature: str) -> tuple[str, list[Any]] | None:
    """Return content digest and listed problems of a path whose signature is unchanged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        entry = json.loads(index_file.read_text(encoding="utf-8")) if index_file else {}
        checksum = entry.pop("checksum")
        if (entry["signature"], entry["listing"], _checksum(entry)) == (signature, LISTING_FORMAT, checksum):
            return str(entry["content"]), list(entry["listed"])
    return None


def _checksum(document: dict[str, Any]) -> str:
    return hash_bytes(json.dumps(document, sort_keys=True))


def _read_set(folder: Path, config: DataConfig, *, verify: bool = True) -> tuple[np.memmap, SetFacts] | None:
    """Return the images and facts of a complete set, or None."""
    path = folder / "images.npy"
    try:
        document = json.loads((folder / "set.json").read_text(encoding="utf-8"))
        checksum = document.pop("checksum", None)
        if checksum not in (None, _checksum(document)):
            return None
        facts = SetFacts(**document)
        facts.window = tuple(facts.window) if facts.window else None  # type: ignore[assignment]
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        status = path.stat()
    except (OSError, ValueError, TypeError, EOFError, AttributeError):
        return None
    shape = (len(facts.names), config.channels, config.resolution, config.resolution)
    # A set that was cut short, extended or mixed up is built again.
    if images.shape != shape or images.dtype != np.uint8 or status.st_size != images.offset + images.nbytes:
        return None
    touched = images.nbytes <= MAX_VERIFIED_BYTES or status.st_mtime_ns != facts.built
    if verify and facts.images_crc is not None and touched and _file_crc(path, images.offset) != facts.images_crc:
        return None
    return None if _is_outdated(facts) else (images, facts)


def _is_outdated(facts: SetFacts) -> bool:
    """Return whether a set of an older version would be another one today."""
    if facts.format >= FACTS_FORMAT:
        return False
    if _needs_groups(facts) and facts.groups is None:
        return True
    if facts.format >= 2:
        return False
    tiffs = any(name.lower().endswith((".tif", ".tiff")) for name in facts.names)
    subjects = find_subjects(facts.names, split=facts.splits is not None)
    # What was left out may be readable now.
    return bool(facts.problems) or tiffs or subjects != facts.subjects


def _needs_groups(facts: SetFacts) -> bool:
    """Return whether near-duplicates may decide what is held out."""
    return facts.splits is None and (facts.subjects is None or are_folders(facts.names, facts.subjects))


def _file_crc(path: Path, offset: int) -> int:
    """Return the CRC-32 of a file from an offset on; it is read, since mapped pages would count as memory."""
    crc = 0
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(VERIFY_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


def _build_set(
    source: Source, config: DataConfig, content: str, folder: Path, reporter: Reporter, index_file: Path | None
) -> tuple[np.memmap, SetFacts] | None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    size = len(source.names) * config.channels * config.resolution**2
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise ZooError(
            f"{folder.parent}: the cache needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free. "
            "Free some space, or set ZOO_CACHE to another folder"
        )
    # In the same folder, so that the final rename stays on one file system and is atomic.
    temporary = folder.parent / f".building-{time.monotonic_ns()}{temporary_suffix()}"
    temporary.mkdir()
    try:
        with (temporary / "images.npy").open("wb") as file:
            facts, content_read = _decode_set(source, config, file, reporter)
            file.flush()
            os.fsync(file.fileno())
            facts.built = os.fstat(file.fileno()).st_mtime_ns
        if content_read != content:
            # Also reached if the index is wrong, because a file changed but kept its size and time: forget the entry.
            if index_file:
                index_file.unlink(missing_ok=True)
            raise ZooError(f"{source.label}: it changed while it was read. Run again when it no longer changes")
        with atomic_file(temporary / "set.json", "w") as file:
            document = dataclasses.asdict(facts)
            json.dump({**document, "checksum": _checksum(document)}, file)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster, or a damaged set is there
            if _read_set(folder, config) is None:
                reporter.say(f"{folder}: the cache was damaged, or written by an older version, and is replaced")
                shutil.rmtree(folder)
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    reporter.say(f"{source.label}: {count_of(len(facts.names), 'image')} cached in {folder}")
    return _read_set(folder, config, verify=False)


def _decode_set(source: Source, config: DataConfig, file: IO[bytes], reporter: Reporter) -> tuple[SetFacts, str]:
    """Write all readable images; return the facts and the content digest as read."""
    window: IntensityWindow | None = None
    dtype: str | None = None
    if isinstance(config.window, tuple | list):
        window = float(config.window[0]), float(config.window[1])
    try:
        rows, crc = _write_images(source, config, window, dtype, file, reporter)
    except DeepError as error:  # nearly all sets have 8 bits, so the depth is not measured first
        dtype = str(error)
        window = dtype_window(dtype) if config.window == "dtype" else percentile_window(source, reporter)[0]
        rows, crc = _write_images(source, config, window, dtype, file, reporter)
    facts = collect_facts(source, rows, reporter)
    if not facts.names:
        raise unusable_error(source, rows)
    if config.window is not None and all(row.blank for row in rows if not row.problem):
        raise ZooError(
            f"data.window: {source.label}: {window} makes each image one grey level. `zoo data check` shows intensities"
        )
    facts.window, facts.format, facts.images_crc = window, FACTS_FORMAT, crc
    facts.revised = any(row.revised for row in rows)
    deep = sum(row.deep for row in rows)
    shallow = len(facts.names) - deep
    if deep and shallow and dtype:
        facts.notes.append(f"{count_of(shallow, 'image')} of 8 bits left as stored, {deep:,} of more bits windowed")
    return facts, source.combine_digests(row.digest for row in rows)


def _write_images(
    source: Source,
    config: DataConfig,
    window: IntensityWindow | None,
    dtype: str | None,
    file: IO[bytes],
    reporter: Reporter,
) -> tuple[list[Row], int]:
    """Write an ``images.npy``; return a row for every image, and the CRC-32 of all pixels.

    Args:
        source: the images.
        config: how they are prepared.
        window: for images of more than 8 bits; None raises DeepError at the first of them.
        dtype: the type that the window was measured on; None for a window that the user set.
        file: open for writing.
        reporter: receives progress.
    """

    def prepare(index: int) -> Row:
        digest, image = source.read_and_decode(index)
        if isinstance(image, str):
            if source.strict:
                raise strict_error(source, source.names[index], image)
            return Row(digest, image)
        if image.deep and window is None:
            raise DeepError(image.pixels.dtype)
        if image.deep and dtype and dtype != image.pixels.dtype:
            raise mixed_depths_error(source.label, {dtype, str(image.pixels.dtype)})
        # 8 bits are taken as they are unless the user has set a window.
        values = to_8_bit(image.pixels, window if image.deep or dtype is None else None)
        try:
            resized = resize_image(values, resolution=config.resolution, channels=config.channels, fit=config.fit)
        except UnreadableError as error:
            return Row(digest, str(error))
        blank = window is not None and np.ptp(values) == 0 and np.ptp(image.pixels) != 0
        return Row(digest, "", resized, difference_hash(values), image.deep, blank, image.revised)

    rows: list[Row] = []
    crc = 0
    shape = (config.channels, config.resolution, config.resolution)
    header_size = _write_header(file, (len(source.names), *shape))
    for row in source.map_images(prepare, "decoding", reporter):
        if row.image is not None:
            file.write(row.image.data)
            crc = zlib.crc32(row.image.data, crc)
        rows.append(row._replace(image=None))  # memory must not grow with the pixels of the set
    count = sum(not row.problem for row in rows)
    # The header was written for all images: correct it for those that were left out.
    if _write_header(file, (count, *shape)) != header_size:
        raise AssertionError("numpy's header changed its length with the number of images")
    return rows, crc


def strict_error(source: Source, name: str, problem: str) -> ZooError:
    """Return the error for an image that cannot be used, in a set of which none may be left out."""
    return ZooError(f"{source.label}: image {printable_name(name)} {problem}. Replace it or leave it out")


def unusable_error(source: Source, rows: Sequence[Row]) -> ZooError:
    """Return the error for a set without any usable image."""
    example = f"{printable_name(source.names[0])}: {rows[0].problem}"
    return ZooError(f"{source.label}: none of its {len(rows)} image files is usable ({example})")


def collect_facts(source: Source, rows: Sequence[Row], reporter: Reporter, *, compare: bool = False) -> SetFacts:
    """Derive the facts of a set from the rows of all its images.

    Args:
        source: the images.
        rows: one per image.
        reporter: receives progress.
        compare: find near-duplicates in any case, not only where they decide what is held out.
    """
    listing = source.listing
    used = [index for index, row in enumerate(rows) if not row.problem]
    facts = SetFacts(
        names=[source.names[index] for index in used],
        splits=[listing.splits[index] for index in used] if listing.splits else None,
        duplicates=_group_equal(rows[index].digest for index in used),
    )
    facts.problems = [(name, row.problem) for name, row in zip(source.names, rows, strict=True) if row.problem]
    if listing.subjects is not None:
        facts.subjects = [listing.subjects[index] for index in used]
    else:
        facts.subjects = find_subjects(facts.names, split=facts.splits is not None)
    # To compare takes quadratic time.
    if used and (compare or _needs_groups(facts)):
        hashes = np.stack([row.near_hash for row in rows if row.near_hash is not None])
        facts.groups = near_duplicates(hashes, reporter).tolist()
    return facts


def _group_equal(digests: Iterable[bytes]) -> list[list[int]]:
    """Return the positions of each digest that occurs more than once."""
    positions: dict[bytes, list[int]] = {}
    for position, digest in enumerate(digests):
        positions.setdefault(digest, []).append(position)
    return [group for group in positions.values() if len(group) > 1]


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write the header of a uint8 ``.npy`` at the start; return its size in bytes."""
    file.seek(0)
    # numpy pads the header, so that the first axis can change later.
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()
