"""What every source of images promises: it lists and reads files, and decodes on request."""

from __future__ import annotations

import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy import ndarray

from zoo.core.config import DataConfig
from zoo.core.errors import error_message
from zoo.core.progress import Reporter
from zoo.core.threads import map_chunks
from zoo.data.decode import DecodedImage, UnreadableError, decode
from zoo.data.digest import hash_bytes
from zoo.data.folder_layout import Listing

_Result = TypeVar("_Result")

# What reading a file or a member of a zip can raise, besides damage that only decoding discovers.
READ_ERRORS = (
    *(OSError, UnreadableError, RuntimeError, EOFError, MemoryError, ValueError, struct.error),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        resolution: pixels per side of images that are drawn at any size, such as phantoms.
        channels: the number of channels an array should have; None: any.
        everything: use masks and this package's own output too.
        axis, slices: how volumes are cut, as ``data.axis`` and ``data.slices`` say.
        window: "volume": windows volumes one by one; anything else is left to the set.
    """

    resolution: int = 64
    channels: int | None = None
    everything: bool = False
    axis: str = "axial"
    slices: str | None = None
    window: str | None = None

    @classmethod
    def from_config(cls, config: DataConfig) -> SourceOptions:
        """Return the options of a ``data:`` section."""
        return cls(
            resolution=config.resolution,
            channels=config.channels,
            everything=config.files == "all",
            axis=config.axis,
            slices=config.slices,
            window=config.window if isinstance(config.window, str) else None,
        )

    def volume_keys(self) -> list[str]:
        """Return the keys of the recipe that were set and are for volumes alone."""
        values = {"axis": self.axis != "axial", "slices": self.slices, "window=volume": self.window == "volume"}
        return [f"data.{name}" for name, used in values.items() if used]


class Source:
    """Images by index; opening one reads little, for a fast start from the cache.

    A kind of source derives from this class, from :class:`zoo.data.sources.files.PathSource` or, for files of several
    images each, from :class:`zoo.data.sources.volumes.VolumeSource`, and is registered with
    :func:`zoo.data.sources.registry.register_source`. Its constructor takes the place and the options:
    ``Class(place, options)``.

    Attributes:
        label: for messages, such as "folder brain-mri/train".
        options: how it is read.
        location: where it lies: what the index of the cache knows it by; None: its content is computed at every start.
        strict: whether one bad image is an error of the whole set (arrays) or is left out (files).
        any_channels: whether images may have other numbers of channels than 1 and 3.
        cuts_volumes: whether ``data.axis``, ``data.slices`` and ``data.window=volume`` apply to it.
        chunk: number of images in one job of a worker thread.
        cacheable: False once a file could not be read for a reason that may pass, such as its permissions.
    """

    label: str
    options: SourceOptions
    location: Path | None = None
    cacheable = True
    strict = False
    any_channels = False
    cuts_volumes = False
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

    @property
    def has_numbered_parts(self) -> bool:
        """Whether images lie in no folders but those called after numbered files, which are no classes."""
        return False

    def adapt(self, config: DataConfig, reporter: Reporter) -> DataConfig:
        """Return ``config`` with what the images say about themselves; most sources say nothing."""
        return config

    def manifests(self) -> list[tuple[str, bytes]]:
        """Return name and content of the set's uppermost tables of labels, in the order of ``MANIFESTS``.

        Raises:
            OSError, UnreadableError and other READ_ERRORS: one cannot be read.
        """
        return []

    def file_name(self, name: str) -> str:
        """Return the file that an image lies in, by which the rows of a table of labels call it."""
        return name

    def note(self) -> str:
        """Return in one line what was decided on how it is read, and by which keys; empty: nothing to decide."""
        return ""

    def signature(self) -> str:
        """Return a digest of sizes and times (and options that change images): cheap, changes when content may have."""
        raise NotImplementedError

    def raw(self, index: int) -> bytes | ndarray:
        """Read a file's bytes, or an array's image (H, W) or (H, W, C); thread-safe.

        Raises:
            OSError: it cannot be read.
            UnreadableError: it is too large to be read.
        """
        raise NotImplementedError

    def content_digest(self, reporter: Reporter) -> str:
        """Return a digest of names, splits, subjects and all bytes, wherever the set lies."""
        return self.combine_digests(self.map_images(lambda index: self.read_and_hash(index)[0], "reading", reporter))

    def combine_digests(self, digests: Iterable[bytes]) -> str:
        """Compute :meth:`content_digest` from the digests of all images."""
        listing = self.listing
        return hash_bytes(*self.names, *(listing.splits or ()), *(listing.subjects or ()), *digests)

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
