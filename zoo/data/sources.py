"""Where images come from: folders, zips, arrays, phantoms. A source lists and reads files; it decodes on request."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError, error_message, suggest
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.threads import map_chunks
from zoo.data.decode import MAX_FILE_BYTES, MAX_IMAGE_PIXELS, DecodedImage, UnreadableError, decode
from zoo.data.files import NOT_REGULAR, read_file, require_whole
from zoo.data.folder_layout import OWN_OUTPUT, Listing, Problem, is_image_name, organise_files, walk_files
from zoo.data.labels import MANIFESTS, MAX_MANIFEST_BYTES
from zoo.data.own_images import HEAD_BYTES, own_image_kind

_Result = TypeVar("_Result")

DEFAULT_PHANTOM_SUBJECTS = 64
# What reading a file or a member of a zip can raise, besides damage that only decoding discovers.
READ_ERRORS = (
    *(OSError, UnreadableError, RuntimeError, EOFError, MemoryError, ValueError, struct.error),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


class Source:
    """Images by index; opening one reads little, for a fast start from the cache.

    Attributes:
        label: for messages, such as "folder brain-mri/train".
        location: where it lies; None for what is generated.
        strict: whether one bad image is an error of the whole set (arrays) or is left out (files).
        chunk: number of images in one job of a worker thread.
        cacheable: False once a file could not be read for a reason that may pass, such as its permissions.
    """

    label: str
    location: Path | None = None
    cacheable = True
    strict = False
    chunk = 16

    @property
    def layout(self) -> Listing:
        """List the images by their names alone, in which no file is opened.

        Raises:
            ZooError: it cannot be read, or there is no image.
        """
        raise NotImplementedError

    @cached_property
    def listing(self) -> Listing:
        """List the images: the layout without grids, curves and samples of this package inside a larger set.

        Raises:
            ZooError: as :attr:`layout`.
        """
        return self.layout

    @property
    def names(self) -> list[str]:
        """Relative names of the images."""
        return self.listing.names

    def manifests(self) -> list[tuple[str, bytes]]:
        """Return name and content of the set's uppermost tables of labels, in the order of ``MANIFESTS``.

        Raises:
            OSError, UnreadableError and other READ_ERRORS: one cannot be read.
        """
        return []

    def signature(self) -> str:
        """Return a digest of sizes and times: cheap, changes when content may have."""
        raise NotImplementedError

    def raw(self, index: int) -> bytes | ndarray:
        """Read a file's bytes, or an array's image (H, W) or (H, W, C); thread-safe.

        Raises:
            OSError: it cannot be read.
            UnreadableError: it is too large to be read.
        """
        raise NotImplementedError

    def content_digest(self, reporter: Reporter) -> str:
        """Return a digest of names, splits and all bytes, wherever the set lies."""

        return self.combine_digests(self.map_images(lambda index: self.read_and_hash(index)[0], "reading", reporter))

    def combine_digests(self, digests: Iterable[bytes]) -> str:
        """Compute :meth:`content_digest` from the digests of all images."""
        return hash_bytes(*self.names, *(self.listing.splits or ()), *digests)

    def read_and_hash(self, index: int) -> tuple[bytes, bytes | ndarray | None, str]:
        """Return the digest of a file with its content, or with None and the reason."""
        try:
            raw = self.raw(index)
        except READ_ERRORS as error:
            self.cacheable = self.cacheable and not isinstance(error, OSError)
            reason = error_message(error)
            # The reason enters the content digest, so a changed text would make the caches of such sets unused.
            return hashlib.blake2b(f"unread: {reason}".encode(), digest_size=16).digest(), None, reason
        state = hashlib.blake2b(digest_size=16)
        # Bytes alone do not distinguish arrays of other types or shapes.
        if isinstance(raw, ndarray):
            state.update(f"{raw.dtype.str} {raw.shape}".encode())
            raw = np.ascontiguousarray(raw)
        state.update(raw)  # type: ignore[arg-type]  # a contiguous array is a buffer
        return state.digest(), raw, ""

    def read_and_decode(self, index: int) -> tuple[bytes, DecodedImage | str]:
        """Return the digest of a file with the image, or with why it is unreadable."""
        digest, raw, reason = self.read_and_hash(index)
        try:
            return digest, reason if raw is None else decode(raw)
        except UnreadableError as error:
            return digest, str(error)

    def map_images(self, function: Callable[[int], _Result], task: str, reporter: Reporter) -> Iterator[_Result]:
        """Yield ``function(index)`` of all images in order, computed by worker threads."""

        def map_part(part: range) -> list[_Result]:
            return [function(index) for index in part]

        for _, results in map_chunks(map_part, len(self.names), self.chunk, task=task, reporter=reporter):
            yield from results

    def close(self) -> None:
        """Close open files."""


class _PathSource(Source):
    """A source at a path."""

    kind: str

    def __init__(self, path: Path) -> None:
        self.location = self.path = path.resolve()
        self.label = f"{self.kind} {'/'.join(self.path.parts[-2:]).lstrip('/')}"

    def signature(self) -> str:
        status = self.path.stat()
        return hash_bytes(f"{status.st_size}\n{status.st_mtime_ns}")


class _FileSource(_PathSource):
    """A source of image files.

    Attributes:
        everything: whether masks and this package's own output are used too.
    """

    everything = False

    @cached_property
    def listing(self) -> Listing:
        if self.everything:
            return self.layout
        layout = self.layout

        def read_kinds(part: range) -> list[str]:
            return [self._own_kind(layout.names[index], layout.entries[index]) for index in part]

        parts = map_chunks(read_kinds, len(layout.names), 256, task="listing", reporter=SilentReporter())
        kinds = [kind for _, part in parts for kind in part]
        # A folder of single samples alone is what the user wants to see as data; a grid never is an image.
        dropped = {"grid"} if all(kinds) else {"grid", "image"}
        used = [index for index, kind in enumerate(kinds) if kind not in dropped]
        if len(used) == len(kinds):
            return layout
        if not used:
            raise ZooError(
                f"{self.label}: it holds only grids and curves written by zoo; --set data.files=all uses them"
            )
        left = sorted(set(range(len(kinds))) - set(used))
        reason = f"{OWN_OUTPUT}; data.files=all uses it"
        return Listing(
            [layout.names[index] for index in used],
            [layout.entries[index] for index in used],
            [layout.splits[index] for index in used] if layout.splits else None,
            layout.others,
            [*layout.problems, *(Problem(layout.names[index], reason) for index in left)],
        )

    def _own_kind(self, name: str, entry: Any) -> str:
        if not name.lower().endswith((".png", ".gif")):
            return ""
        try:
            return own_image_kind(self.read_head(entry))
        except READ_ERRORS:  # reported as a problem when the whole file is read
            return ""

    def read_head(self, entry: Any) -> bytes:
        """Read the first ``HEAD_BYTES`` of a file."""
        raise NotImplementedError


class FolderSource(_FileSource):
    """All images in a folder and its subfolders."""

    kind = "folder"

    @cached_property
    def _status(self) -> dict[str, tuple[int, int]]:
        return dict(sorted(walk_files(self.path)))

    @cached_property
    def layout(self) -> Listing:
        regular = [name for name, (size, _) in self._status.items() if size >= 0]
        special = [name for name, (size, _) in self._status.items() if size < 0 and is_image_name(name)]
        listing = organise_files(zip(regular, regular, strict=True), self.label, everything=self.everything)
        listing.problems += [Problem(name, NOT_REGULAR) for name in special]
        return listing

    def signature(self) -> str:
        # Other files may change: notes and tables next to the images do not affect them, nor do runs.
        names = self.layout.entries
        parts = [f"{name}\n{size}\n{mtime}" for name in sorted(names) for size, mtime in [self._status[name]]]
        problems = [f"{problem.name}\n{problem.reason}" for problem in self.layout.problems]
        return hash_bytes(*parts, *problems)

    def raw(self, index: int) -> bytes:
        name = self.listing.entries[index]
        return read_file(self.path / name, MAX_FILE_BYTES, _check_size)

    def read_head(self, entry: str) -> bytes:
        return read_file(self.path / entry, HEAD_BYTES)

    def manifests(self) -> list[tuple[str, bytes]]:
        places = {path.name.lower(): path for path in self.path.iterdir() if path.name.lower() in MANIFESTS}
        places = {name: path for name, path in places.items() if not path.is_dir()}
        return [
            (places[name].name, read_file(places[name], MAX_MANIFEST_BYTES, _check_manifest_size))
            for name in MANIFESTS
            if name in places
        ]


class ZipSource(_FileSource):
    """All images inside a zip, read in place."""

    kind = "zip"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (*READ_ERRORS, OverflowError) as error:
            raise ZooError(f"{self.path}: not a readable zip ({error_message(error)})") from error

    @cached_property
    def layout(self) -> Listing:
        files = ((info.filename, info) for info in self._zip.infolist() if not info.is_dir())
        return organise_files(files, self.label, everything=self.everything)

    def raw(self, index: int) -> bytes:
        info = self.listing.entries[index]
        _check_size(info.file_size)
        with self._lock:  # unpacking is short compared with decoding, which runs in parallel
            return self._zip.read(info)

    def read_head(self, entry: zipfile.ZipInfo) -> bytes:
        with self._lock, self._zip.open(entry) as file:
            return file.read(HEAD_BYTES)

    def manifests(self) -> list[tuple[str, bytes]]:
        tables = []
        for manifest in MANIFESTS:
            # An archive may hold the tables of several sets; the one closest to the top describes the whole.
            infos = [info for info in self._zip.infolist() if info.filename.rpartition("/")[2].lower() == manifest]
            uppermost = min(infos, key=lambda info: info.filename.count("/"), default=None)
            if uppermost is not None:
                _check_manifest_size(uppermost.file_size)
                tables.append((uppermost.filename.rpartition("/")[2], self._zip.read(uppermost)))
        return tables

    def close(self) -> None:
        if "_zip" in self.__dict__:  # opened
            self._zip.close()


class ArraySource(_PathSource):
    """A ``.npy`` (memory-mapped) or ``.npz`` (loaded) of images.

    Shapes: (N, H, W), (N, H, W, C), (N, C, H, W) or (H, W). Of several arrays in a ``.npz`` the one called "images",
    "arr_0" or "x" is taken.
    """

    kind = "array"
    strict = True

    def __init__(self, path: Path, channels: int | None) -> None:
        super().__init__(path)
        self.channels = channels

    @cached_property
    def _array(self) -> ndarray:
        try:
            if self.path.suffix.lower() == ".npy":
                array: ndarray = np.lib.format.open_memmap(self.path, mode="r")
            else:
                with self.path.open("rb") as file:  # given a path, numpy leaves a damaged file open
                    array = self._select_array(np.load(file, allow_pickle=False))
        except (*READ_ERRORS, OverflowError, KeyError, SyntaxError) as error:  # SyntaxError: tokenize's in old headers
            reason = "it holds Python objects" if "allow_pickle" in str(error) else error_message(error)
            raise ZooError(f"{self.path}: not a readable array ({reason})") from error
        if array.dtype.kind not in "biuf":
            raise ZooError(f"{self.path}: {array.dtype} values are not intensities; use bool, integers or floats")
        return self._channels_last(array)

    def _select_array(self, archive: Any) -> ndarray:
        names = getattr(archive, "files", None)
        if names is None:
            return np.asarray(archive)  # a .npy file named .npz
        known = [name for name in ("images", "arr_0", "x") if name in names]
        if len(names) != 1 and not known:
            raise ZooError(
                f"{self.path}: holds {', '.join(names) or 'no array'}; expected one array, or one called 'images'"
            )
        return np.asarray(archive[(known or names)[0]])

    def _channels_last(self, array: ndarray) -> ndarray:
        """Return a view (N, H, W) or (N, H, W, C)."""
        shape = array.shape
        if array.ndim == 2:
            array = array[None]
        # (H, W, 3) would otherwise be read as H images of W x 3 pixels.
        if array.ndim == 3 and array.shape[2] in (3, 4):
            raise self._shape_error(shape, f"looks like one colour image; save it with shape {(1, *shape)}")
        if array.ndim == 4:
            array = np.moveaxis(array, self._channel_axis(shape), 3)
        elif array.ndim != 3:
            raise self._shape_error(shape, "is not a set of images")
        elif self.channels not in (1, 3, None):
            raise self._shape_error(shape, f"has no axis of {self.channels} channels (data.channels)")
        if not array.size or array.shape[1] * array.shape[2] > MAX_IMAGE_PIXELS:
            raise self._shape_error(shape, f"has no images of 1 to {MAX_IMAGE_PIXELS} pixels")
        return array

    def _channel_axis(self, shape: tuple[int, ...]) -> int:
        counts = {1, 3} if self.channels in (1, 3, None) else {self.channels}
        # Without a wanted number, any small axis will do where none has 1 or 3 channels.
        for allowed in (counts, range(16) if self.channels is None else ()):
            for axis in (3, 1):
                if shape[axis] in allowed:
                    return axis
        raise self._shape_error(shape, f"has no axis of {' or '.join(map(str, counts))} channels (data.channels)")

    def _shape_error(self, shape: tuple[int, ...], reason: str) -> ZooError:
        return ZooError(f"{self.path}: shape {shape} {reason}. Use (N, H, W), (N, H, W, C), (N, C, H, W) or (H, W)")

    @cached_property
    def layout(self) -> Listing:
        count = len(self._array)
        width = len(str(count - 1))  # equal widths sort in the order of the array
        return Listing([f"{index:0{width}d}" for index in range(count)])

    def raw(self, index: int) -> ndarray:
        require_whole(self._array)
        return np.asarray(self._array[index])


class PhantomSource(Source):
    """The built-in phantoms, drawn at the requested resolution."""

    def __init__(self, subjects: int, resolution: int) -> None:
        from zoo.data import phantoms

        self.label = f"phantoms of {subjects} subjects"
        self.chunk = phantoms.SLICES_PER_SUBJECT
        self._count = subjects * self.chunk
        # Images are drawn by subject, and workers take one subject at a time.
        self._draw = lru_cache(maxsize=32)(lambda subject: phantoms.phantom_subject(subject, resolution))
        self._signature = hash_bytes("phantoms", str(subjects), str(resolution), str(phantoms.PHANTOM_VERSION))

    @cached_property
    def layout(self) -> Listing:
        return Listing([f"phantom_{i // self.chunk:04d}_slice_{i % self.chunk}" for i in range(self._count)])

    def signature(self) -> str:
        return self._signature

    def combine_digests(self, digests: Iterable[bytes]) -> str:
        return self._signature  # digests are computed when they are iterated: here nothing is drawn for them

    def raw(self, index: int) -> ndarray:
        return np.asarray(self._draw(index // self.chunk)[index % self.chunk])


def is_phantoms(path: str | Path | None) -> bool:
    """Return whether a data path names the built-in phantoms."""
    return path is None or (isinstance(path, str) and re.match(r"phantoms(:|$)", path) is not None)


def data_address(path: str | Path | None) -> str:
    """Return ``path`` in a form that :func:`open_source` accepts from any folder."""
    return str(path or "phantoms") if is_phantoms(path) else str(Path(path or "").expanduser().resolve())


def open_source(path: str | Path | None, *, resolution: int, channels: int | None, everything: bool = False) -> Source:
    """Open the data at a path: a folder, .zip, .npy, .npz, or "phantoms[:N]".

    Args:
        path: None stands for "phantoms", of 64 subjects.
        resolution: pixels per side of phantoms.
        channels: the number of channels an array should have; None: any.
        everything: use masks and this package's own output too.

    Raises:
        ZooError: nothing is there, or it is not one of these.
    """
    if is_phantoms(path):
        _, colon, count = str(path or "phantoms").partition(":")
        if colon and not (count.isdecimal() and int(count) > 0):
            raise ZooError(f"{path}: expected a number of subjects after 'phantoms:', as in phantoms:64")
        return PhantomSource(int(count or DEFAULT_PHANTOM_SUBJECTS), resolution)
    path = Path(path or "").expanduser()
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a null character, or one that no name can hold
        raise ZooError(f"{str(path)!a}: is no path ({error})") from None
    except OSError as error:
        # A path that exists but cannot be read needs the system's reason, not a suggestion.
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise ZooError(f"{path}: {_explain_missing(path) if missing else error_message(error)}") from error
    suffix = path.suffix.lower()
    if stat.S_ISDIR(mode) or (suffix == ".zip" and stat.S_ISREG(mode)):
        source = FolderSource(path) if stat.S_ISDIR(mode) else ZipSource(path)
        source.everything = everything
        return source
    if not stat.S_ISREG(mode):
        raise ZooError(f"{path}: {NOT_REGULAR}. Use a folder of images, a .zip of them, .npy, .npz or phantoms[:N]")
    if suffix in (".npy", ".npz"):
        return ArraySource(path, channels)
    reason = f"{path.suffix or 'a file without a suffix'} is not a supported kind of data"
    if is_image_name(path.name):
        reason = "a single image is not a set"
    raise ZooError(f"{path}: {reason}. Use a folder of images, a .zip of them, .npy, .npz or phantoms[:N]")


def hash_bytes(*parts: str | bytes) -> str:
    """Return a digest (32 hexadecimal digits) of a list of texts and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        # Lengths separate the parts: ("ab", "c") and ("a", "bc") differ.
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:  # this text enters the content digest: see Source.read_and_hash
        raise UnreadableError(f"absurdly large ({size / 1e9:.1f} GB, at most {MAX_FILE_BYTES / 1e9:.1f})")


def _check_manifest_size(size: int) -> None:
    if size > MAX_MANIFEST_BYTES:
        raise UnreadableError(f"{size / 1e6:.0f} MB, at most {MAX_MANIFEST_BYTES / 1e6:.0f}")


def _explain_missing(path: Path) -> str:
    """Return up to where a path exists, with a suggestion from what is there."""
    parent = path.parent
    # Report the first folder that is missing, not the last part of the path.
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        names = [*os.listdir(parent), "phantoms"]  # noqa: PTH208 (only names are needed)
    except OSError:
        names = []
    return f"there is no {path.name!r} in {parent.resolve()}{suggest(path.name, names)}"
