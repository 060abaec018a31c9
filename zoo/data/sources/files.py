"""Sources at a path, and sources of image files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.core.errors import ZooError, error_reason
from zoo.core.progress import SilentReporter
from zoo.core.threads import map_chunks
from zoo.data.decode import MAX_FILE_BYTES, UnreadableError
from zoo.data.digest import hash_bytes
from zoo.data.files import read_file
from zoo.data.folder_layout import OWN_OUTPUT, SPLIT_FOLDERS, Listing, Problem
from zoo.data.labels import MANIFESTS, MAX_MANIFEST_BYTES
from zoo.data.own_images import own_image_kind
from zoo.data.sources.source import READ_ERRORS, Source, SourceOptions


class PathSource(Source):
    """A source at a path.

    Attributes:
        kind: what lies there, in a word.
    """

    kind: str

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.options = options
        self.location = self.path = path.resolve()
        self.unresolved_path = path  # its suffix says what it is, also where it is a link to a file without one
        self.label = f"{self.kind} {'/'.join(self.path.parts[-2:]).lstrip('/')}"

    def signature(self) -> str:
        return hash_bytes(size_and_time(self.path))


class FileSource(PathSource):
    """A source of image files."""

    @cached_property
    def listing(self) -> Listing:
        if self.options.everything:
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


class ImageFiles(Source):
    """Some image files, in the order in which they are given; one that cannot be read is an error."""

    strict = True

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.options = SourceOptions()
        self.label = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"

    @property
    def layout(self) -> Listing:
        return Listing([str(path) for path in self.paths])

    def signature(self) -> str:
        return self.content_digest(SilentReporter())

    def raw(self, index: int) -> bytes:
        return read_file(self.paths[index], MAX_FILE_BYTES, check_file_size)


def read_manifests(folder: Path) -> list[tuple[str, bytes]]:
    """Return name and content of the tables of labels in a folder (see :meth:`Source.manifests`)."""
    places = {path.name.lower(): path for path in folder.iterdir() if path.name.lower() in MANIFESTS}
    places = {name: path for name, path in places.items() if not path.is_dir()}
    return [
        (places[name].name, read_file(places[name], MAX_MANIFEST_BYTES, check_manifest_size))
        for name in MANIFESTS
        if name in places
    ]


def find_shards(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return a file, or the files in a folder with one of ``suffixes`` (in lower case), sorted; no hidden ones."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.suffix.lower() in suffixes)
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts))


def hash_shards(path: Path, shards: list[Path]) -> str:
    """Return the signature (see :meth:`Source.signature`) of a source of the files ``shards`` at ``path``.

    Raises:
        ZooError: one cannot be read, such as a link to nothing.
    """
    parts = []
    for shard in shards:
        try:
            parts.append(f"{shard.relative_to(path.parent)}\n{size_and_time(shard)}")
        except OSError as error:
            raise ZooError(f"{shard}: cannot be read ({error_reason(error)}). Remove it, or bring it back") from None
    return hash_bytes(*parts)


def size_and_time(path: Path) -> str:
    """Return what signatures hold of a file.

    Raises:
        OSError: it cannot be read.
    """
    status = path.stat()
    return f"{status.st_size}\n{status.st_mtime_ns}"


def are_numbered(shards: Sequence[Path]) -> bool:
    """Return whether some files are called as parts of a set (``000``, ``train-0``, ``test-00000-of-00002``)."""
    return any(re.search(r"(^|[-_.])\d+$", shard.stem) for shard in shards)


def split_shards(path: Path, shards: Sequence[Path]) -> list[str] | None:
    """Return the split of each shard, by the first folder or else the first word of its name; None: no splits.

    ``train/0000.parquet`` and ``train-00000.tar`` are of the split ``train``, if others are of another one.
    """
    splits = []
    for shard in shards:
        parts = shard.relative_to(path).parts if shard != path else (shard.name,)
        words = [parts[0].lower()] if len(parts) > 1 else re.findall("^[a-z]+", shard.stem.lower())
        splits.append(SPLIT_FOLDERS.get(words[0], "") if words else "")
    return splits if all(splits) and "train" in splits and len(set(splits)) > 1 else None


def check_file_size(size: int) -> None:
    """Raise UnreadableError for a file larger than any image."""
    if size > MAX_FILE_BYTES:  # this text enters the content digest: see Source.read_and_hash
        raise UnreadableError(f"absurdly large ({size / 1e9:.1f} GB, at most {MAX_FILE_BYTES / 1e9:.1f})")


def check_manifest_size(size: int) -> None:
    """Raise UnreadableError for a table of labels larger than any."""
    if size > MAX_MANIFEST_BYTES:
        raise UnreadableError(f"{size / 1e6:.0f} MB, at most {MAX_MANIFEST_BYTES / 1e6:.0f}")
