"""A folder of images."""

from __future__ import annotations

from functools import cached_property

from zoo.data.decode import MAX_FILE_BYTES
from zoo.data.digest import hash_bytes
from zoo.data.files import NOT_REGULAR, read_file
from zoo.data.folder_layout import Listing, Problem, is_image_name, organise_files, walk_files
from zoo.data.own_images import HEAD_BYTES
from zoo.data.sources.files import FileSource, check_file_size, read_manifests
from zoo.data.sources.registry import register_source


class FolderSource(FileSource):
    """All images in a folder and its subfolders."""

    kind = "folder"

    @cached_property
    def _status(self) -> dict[str, tuple[int, int]]:
        return dict(sorted(walk_files(self.path)))

    @cached_property
    def layout(self) -> Listing:
        regular = [name for name, (size, _) in self._status.items() if size >= 0]
        special = [name for name, (size, _) in self._status.items() if size < 0 and is_image_name(name)]
        listing = organise_files(zip(regular, regular, strict=True), self.label, everything=self.options.everything)
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
        return read_file(self.path / name, MAX_FILE_BYTES, check_file_size)

    def read_head(self, entry: str) -> bytes:
        return read_file(self.path / entry, HEAD_BYTES)

    def manifests(self) -> list[tuple[str, bytes]]:
        return read_manifests(self.path)


register_source("folder", FolderSource, recognise=lambda path: path.is_dir())
