"""Where pictures come from: folders, zips, arrays, phantoms. A source lists and hands out; it decodes nothing."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zoo.core.errors import ZooError, error_message, suggest
from zoo.core.progress import Reporter
from zoo.core.threads import map_chunks
from zoo.data.decode import MAX_BYTES, MAX_PIXELS, SUFFIXES, Array, UnreadableError
from zoo.data.labels import MANIFEST
from zoo.data.subjects import natural_sort_key

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validate",
    "valid": "validate",
    "validate": "validate",
    "validation": "validate",
    "test": "test",
    "testing": "test",
}
CHECKED = "data-check-"  # how the folders begin that `zoo data check` writes
OASIS = re.compile(r"keras_png_slices_(train|validate|test)", re.IGNORECASE)
OASIS_MASKS = re.compile(r"keras_png_slices_seg_\w+", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """Something in a set that people should know of: most often a picture that was left out.

    Attributes:
        name: the picture (or folder), relative to the set.
        reason: what is wrong with it, in a few words.
    """

    name: str
    reason: str


@dataclass
class Listing:
    """What a source holds.

    Attributes:
        entries: where each picture lies, as its source understands it.
        names: what each is called, the same wherever the set lies; by split, then in natural order.
        splits: the split of each ("train", "validate" or "test"), where the set brings splits of its own.
        others: how many files are no pictures, or masks.
        problems: what the layout leaves out.
    """

    entries: list[Any]
    names: list[str]
    splits: list[str] | None = None
    others: int = 0
    problems: list[Problem] = field(default_factory=list)


class Source:
    """Pictures by index. Opening one reads as little as it can: a warm start asks for the label and the signature only.

    Attributes:
        label: "folder brain-mri/train", for people.
        location: where it lies, if it can change there; None for what is made on the spot.
        strict: whether one bad picture spoils the set (arrays) or is left out (files).
        chunk: how many pictures one job of a worker takes.
        steady: False once a file could not be read, which may pass: nothing may be remembered of it.
    """

    label: str
    location: Path | None = None
    steady = True
    strict = False
    chunk = 16

    @cached_property
    def listing(self) -> Listing:
        """Read on first use.

        Raises:
            ZooError: it cannot be read, or there is not one picture.
        """
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        return self.listing.names

    def manifest(self) -> str | None:
        """The text of the set's uppermost ``manifest.csv``; None: there is none.

        Raises:
            OSError, UnicodeDecodeError: it cannot be read.
        """
        return None

    def signature(self) -> str:
        """Changes whenever the content may have changed; cheap."""
        raise NotImplementedError

    def raw(self, index: int) -> bytes | Array:
        """A file's bytes, or one picture (H, W) or (H, W, C) of an array; called from many threads.

        Raises:
            OSError: it cannot be read.
            UnreadableError: it is too large to be read.
        """
        raise NotImplementedError

    def content(self, reporter: Reporter) -> str:
        """A digest of names, splits and every byte, wherever the set lies."""

        def digests(part: range) -> list[bytes]:
            return [self.digest(index)[0] for index in part]

        jobs = map_chunks(digests, len(self.names), self.chunk, task="reading", reporter=reporter)
        return self.combine(digest for _, found in jobs for digest in found)

    def combine(self, digests: Iterable[bytes]) -> str:
        """What :meth:`content` is, from the digests of all pictures."""
        return hash_bytes(*self.names, *(self.listing.splits or ()), *digests)

    def digest(self, index: int) -> tuple[bytes, bytes | Array | None, str]:
        """A picture's digest with what was read, or with None and why it was not."""
        try:
            raw = self.raw(index)
        except (
            OSError,
            UnreadableError,
            RuntimeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
        ) as error:
            self.steady = self.steady and not isinstance(error, OSError)
            reason = error_message(error)
            return hashlib.blake2b(f"unread: {reason}".encode(), digest_size=16).digest(), None, reason
        state = hashlib.blake2b(digest_size=16)
        if isinstance(raw, np.ndarray):
            state.update(f"{raw.dtype.str} {raw.shape}".encode())
            raw = np.ascontiguousarray(raw)
        state.update(raw)  # type: ignore[arg-type]  # a contiguous array is a buffer
        return state.digest(), raw, ""

    def close(self) -> None:
        """Let go of open files."""


class FolderSource(Source):
    """All pictures below a folder."""

    def __init__(self, path: Path) -> None:
        self.location = self.path = path.resolve()
        self.label = f"folder {_short(path)}"
        self._stats = dict(sorted(_walk(self.path)))

    @cached_property
    def listing(self) -> Listing:
        return organise_files(list(self._stats), list(self._stats), self.label)

    def signature(self) -> str:
        return hash_bytes(
            *(f"{name}\n{size}\n{mtime}" for name, (size, mtime) in self._stats.items() if _is_picture(name))
        )

    def raw(self, index: int) -> bytes:
        name = self.listing.entries[index]
        _check_bytes(self._stats[name][0])
        return (self.path / name).read_bytes()

    def manifest(self) -> str | None:
        path = self.path / MANIFEST
        return path.read_text(encoding="utf-8-sig") if path.is_file() else None


class ZipSource(Source):
    """All pictures inside a zip, read in place."""

    def __init__(self, path: Path) -> None:
        self.location = self.path = path.resolve()
        self.label = f"zip {_short(path)}"
        self._lock = threading.Lock()

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ZooError(f"{self.path}: not a zip that can be read ({error_message(error)})") from error

    @cached_property
    def listing(self) -> Listing:
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        return organise_files([info.filename for info in infos], infos, self.label)

    def signature(self) -> str:
        return _stat_signature(self.path)

    def raw(self, index: int) -> bytes:
        info = self.listing.entries[index]
        _check_bytes(info.file_size)
        with self._lock:  # decoding takes far longer than unpacking, and that runs side by side
            return self._zip.read(info)

    def manifest(self) -> str | None:
        tables = [name for name in self._zip.namelist() if name.rpartition("/")[2] == MANIFEST]
        inside = min(tables, key=lambda name: name.count("/"), default=None)
        return self._zip.read(inside).decode("utf-8-sig") if inside else None

    def close(self) -> None:
        if "_zip" in self.__dict__:
            self._zip.close()


class ArraySource(Source):
    """A ``.npy`` (memory-mapped) or ``.npz`` (one array, loaded) of (N, H, W), (N, H, W, C), (N, C, H, W) or (H, W)."""

    strict = True

    def __init__(self, path: Path, channels: int | None) -> None:
        self.location = self.path = path.resolve()
        self.label, self.channels = f"array {_short(path)}", channels

    @cached_property
    def _array(self) -> Array:
        try:
            if self.path.suffix.lower() == ".npy":
                array: Array = np.lib.format.open_memmap(self.path, mode="r")
            else:
                with self.path.open("rb") as file:  # numpy itself would leave a damaged one open
                    array = self._chosen(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = "it holds Python objects" if "allow_pickle" in str(error) else error_message(error)
            raise ZooError(f"{self.path}: not an array that can be read ({reason})") from error
        if array.dtype.kind not in "biuf":
            raise ZooError(f"{self.path}: {array.dtype} are no intensities; it takes bool, integers and floats")
        return self._channels_last(array)

    def _chosen(self, archive: Any) -> Array:
        names = getattr(archive, "files", None)
        if names is None:
            return np.asarray(archive)  # a .npy by the wrong name
        known = [name for name in ("images", "arr_0", "x") if name in names]
        if len(names) != 1 and not known:
            raise ZooError(
                f"{self.path}: holds {', '.join(names) or 'no array'}; it takes one array, or one called 'images'"
            )
        return np.asarray(archive[(known or names)[0]])

    def _channels_last(self, array: Array) -> Array:
        shape = array.shape
        wanted = "it takes (N, H, W), (N, H, W, C), (N, C, H, W) or (H, W)"
        if array.ndim == 2:
            array = array[None]
        if array.ndim == 3 and array.shape[2] in (3, 4):
            raise ZooError(f"{self.path}: shape {shape} looks like one colour picture; give it as {(1, *shape)}")
        if array.ndim == 4:
            known = {1, 3} if self.channels in (1, 3, None) else {self.channels}
            for counts in (known, set(range(16))) if self.channels is None else (known,):
                axis = next((axis for axis in (3, 1) if array.shape[axis] in counts), None)
                if axis:
                    break
            else:
                allowed = " or ".join(map(str, sorted(known)))
                raise ZooError(
                    f"{self.path}: shape {shape} has no axis of {allowed} channels (data.channels); {wanted}"
                )
            array = np.moveaxis(array, axis, 3)
        elif array.ndim != 3:
            raise ZooError(f"{self.path}: shape {shape} is no set of pictures; {wanted}")
        elif self.channels not in (1, 3, None):
            raise ZooError(f"{self.path}: shape {shape} has no axis of {self.channels} channels (data.channels)")
        if not array.size or array.shape[1] * array.shape[2] > MAX_PIXELS:
            raise ZooError(f"{self.path}: shape {shape} holds no pictures of 1 to {MAX_PIXELS} pixels; {wanted}")
        return array

    @cached_property
    def listing(self) -> Listing:
        width = len(str(len(self._array) - 1))
        return Listing(list(range(len(self._array))), [f"{index:0{width}d}" for index in range(len(self._array))])

    def signature(self) -> str:
        return _stat_signature(self.path)

    def raw(self, index: int) -> Array:
        return np.asarray(self._array[index])


class PhantomSource(Source):
    """The built-in phantoms, drawn at the resolution that is asked for."""

    def __init__(self, subjects: int, resolution: int) -> None:
        from zoo.data import phantoms

        self.label, self.subjects, self.resolution = f"phantoms of {subjects} subjects", subjects, resolution
        self.chunk = phantoms.SLICES_PER_SUBJECT
        self._draw = lru_cache(maxsize=32)(lambda subject: phantoms.phantom_subject(subject, resolution))
        self._version = phantoms.VERSION

    @cached_property
    def listing(self) -> Listing:
        total = self.subjects * self.chunk
        names = [f"phantom_{i // self.chunk:04d}_slice_{i % self.chunk}" for i in range(total)]
        return Listing(list(range(total)), names)

    def signature(self) -> str:
        return hash_bytes("phantoms", str(self.subjects), str(self.resolution), str(self._version))

    def content(self, reporter: Reporter) -> str:
        return self.signature()

    def combine(self, digests: Iterable[bytes]) -> str:
        return self.signature()

    def raw(self, index: int) -> Array:
        return np.asarray(self._draw(index // self.chunk)[index % self.chunk])


def is_phantoms(path: str | Path | None) -> bool:
    return path is None or (isinstance(path, str) and re.match(r"phantoms(:|$)", path) is not None)


def data_address(path: str | Path | None) -> str:
    """``path`` in a form that :func:`open_source` takes from any folder."""
    return str(path or "phantoms") if is_phantoms(path) else str(Path(path or "").expanduser().resolve())


def open_source(path: str | Path | None, *, resolution: int, channels: int | None) -> Source:
    """The source that ``path`` names: None or "phantoms[:N]", a folder, a .zip, a .npy or a .npz.

    Raises:
        ZooError: it is not there, or of no such kind.
    """
    if path is None or is_phantoms(path):
        count = str(path or "phantoms").partition(":")
        if count[1] and not (count[2].isdecimal() and int(count[2]) > 0):
            raise ZooError(f"{path}: phantoms:N takes a number of subjects, as in phantoms:64")
        return PhantomSource(int(count[2] or 64), resolution)
    path = Path(path).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ZooError(f"{path}: {_missing(path)}") from error
        raise ZooError(f"{path}: {error_message(error)}") from error
    if not stat.S_ISDIR(mode):
        kinds: dict[str, Callable[[Path], Source]] = {
            ".zip": ZipSource,
            ".npy": lambda path: ArraySource(path, channels),
            ".npz": lambda path: ArraySource(path, channels),
        }
        if path.suffix.lower() not in kinds:
            kind = (
                "one picture is no set"
                if _is_picture(path.name)
                else f"{path.suffix or 'a file without a suffix'} is no kind of data"
            )
            raise ZooError(f"{path}: {kind}; it takes a folder of images, a .zip of them, .npy, .npz or phantoms[:N]")
        return kinds[path.suffix.lower()](path)
    return FolderSource(path)


def organise_files(paths: Sequence[str], entries: Sequence[Any], label: str) -> Listing:
    """Relative paths to a :class:`Listing`: hidden files and masks dropped, shared leading folders cut, splits read.

    Cutting shared folders is what makes a nested archive, its inner folder and a zip of either the same set.

    Raises:
        ZooError: there is no picture.
    """
    seen = [(PurePosixPath(path.replace("\\", "/")).parts, entry) for path, entry in zip(paths, entries, strict=True)]
    seen = [(parts, entry) for parts, entry in seen if not any(p.startswith(".") or p == "__MACOSX" for p in parts)]
    kept = [(parts, entry) for parts, entry in seen if _is_picture(parts[-1])]
    if any(OASIS.fullmatch(folder) for parts, _ in kept for folder in parts[:-1]):
        kept = [(parts, entry) for parts, entry in kept if not any(OASIS_MASKS.fullmatch(p) for p in parts[:-1])]
    if not kept:
        suffixes = Counter(PurePosixPath(parts[-1]).suffix or "no suffix" for parts, _ in seen)
        found = (
            f"{len(seen)} files of other kinds ({', '.join(s for s, _ in suffixes.most_common(3))})"
            if seen
            else "it is empty"
        )
        raise ZooError(f"{label}: no images, {found}; it takes {', '.join(SUFFIXES)}")
    others = len(seen) - len(kept)
    while len(kept[0][0]) > 1 and len({parts[0] if len(parts) > 1 else "" for parts, _ in kept}) == 1:
        kept = [(parts[1:], entry) for parts, entry in kept]

    folders = {parts[0] for parts, _ in kept if len(parts) > 1}
    split_of = {folder: split for folder in folders if (split := _split(folder))}
    splits = None
    problems = []
    if "train" in split_of.values() and len(set(split_of.values())) > 1:
        strays = Counter(parts[0] if len(parts) > 1 else "." for parts, _ in kept if parts[0] not in split_of)
        problems = [
            Problem(folder, f"{count} images beside {', '.join(sorted(split_of))} left out")
            for folder, count in sorted(strays.items())
        ]
        kept = [(parts, entry) for parts, entry in kept if parts[0] in split_of]
        order = list(SPLITS.values())
        kept.sort(key=lambda item: (order.index(split_of[item[0][0]]), natural_sort_key("/".join(item[0]))))
        splits = [split_of[parts[0]] for parts, _ in kept]
    else:
        kept.sort(key=lambda item: natural_sort_key("/".join(item[0])))
    return Listing([entry for _, entry in kept], ["/".join(parts) for parts, _ in kept], splits, others, problems)


def hash_bytes(*parts: str | bytes) -> str:
    """A digest of 32 hexadecimal digits of a list of texts and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()


def _split(folder: str) -> str | None:
    found = OASIS.fullmatch(folder)
    return SPLITS.get(found[1].lower() if found else folder.lower())


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _walk(root: Path) -> Iterable[tuple[str, tuple[int, int]]]:
    """Relative name, size in bytes and mtime in ns of all files in no hidden folder. Follows links, not in circles."""
    seen = set()

    def refuse(error: OSError) -> None:
        raise ZooError(f"{error.filename}: {error_message(error)}") from error

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        # What `zoo data check` wrote into a set it was called in is no part of the set.
        folders[:] = sorted(name for name in folders if not name.startswith((".", CHECKED)))
        prefix = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        for name in files:
            try:
                found = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 (half the time of a warm start)
                yield prefix + name, (found.st_size, found.st_mtime_ns)
            except OSError:  # a link to nowhere: named when it is read
                yield prefix + name, (0, 0)


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise UnreadableError(f"absurdly large ({size / 1e9:.1f} GB, at most {MAX_BYTES / 1e9:.1f})")


def _stat_signature(path: Path) -> str:
    found = path.stat()
    return hash_bytes(f"{found.st_size}\n{found.st_mtime_ns}")


def _short(path: Path) -> str:
    return "/".join(path.resolve().parts[-2:]).lstrip("/")


def _missing(path: Path) -> str:
    """How far a path exists, and what stands there that resembles the rest."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        there = [*os.listdir(parent), "phantoms"]  # noqa: PTH208 (names are what is wanted)
    except OSError:
        there = []
    return f"there is no {path.name!r} in {parent.resolve()}{suggest(path.name, there)}"
