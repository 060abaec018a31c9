"""Sources of files that each hold several images: volumes, stacks, pages."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

from numpy import ndarray

from zoo.core.errors import ZooError, describe_error
from zoo.core.progress import SilentReporter
from zoo.core.threads import count_workers, map_chunks
from zoo.data.decode import UnreadableError
from zoo.data.digest import hash_bytes
from zoo.data.folder_layout import Listing, Problem, organise_files, walk_files
from zoo.data.sources.files import PathSource, read_manifests
from zoo.data.sources.source import READ_ERRORS, SourceOptions
from zoo.data.subjects import find_subjects

SLICE_MARK = "#"  # between the name of a file and the number of an image in it: "sub-01.nii.gz#017"


class VolumeSource(PathSource):
    """A file that holds several images, or a folder of such files.

    A kind of volumes defines ``kind``, ``suffixes`` and :meth:`read`; all else has a default. Subfolders train,
    validate and test are splits, masks are left out, and tables of labels name files, as in a folder of images.

    Attributes:
        suffixes: of the files, in lower case.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        # One volume per worker, and one from which the next worker takes the first images.
        self._read_once = lru_cache(maxsize=count_workers() + 1)(self._read)

    def read(self, path: Path) -> ndarray:
        """Return the images of a file, (N, H, W) or (N, H, W, C), in their stored type.

        Any exception leaves the file out, with its text as the reason. Called from several threads.
        """
        raise NotImplementedError

    def count(self, path: Path) -> int:
        """Return the number of images in a file; by its header where that is quicker than reading it."""
        return len(self.read(path))

    def subjects(self, files: Sequence[str], splits: bool) -> list[str] | None:
        """Return the subject of each file; None: each image is read for itself.

        Args:
            files: relative names.
            splits: whether the first folder of each is a split.
        """
        return find_subjects(files, split=splits) or list(files)

    def settings(self) -> str:
        """Return the options that change the images, for the signature."""
        return ""

    @cached_property
    def files(self) -> Listing:
        """The files, by their names alone."""
        if not self.path.is_dir():
            return Listing([self.path.name], [self.path.name])
        regular = [name for name, (size, _) in self._status.items() if size >= 0]
        everything = self.options.everything
        return organise_files(
            zip(regular, regular, strict=True), self.label, everything=everything, suffixes=self.suffixes
        )

    @cached_property
    def layout(self) -> Listing:
        files = self.files
        everything = zip(files.names, self._count_all(files.entries), strict=True)
        names: list[str] = []
        entries: list[tuple[str, int]] = []
        places: list[int] = []
        problems = list(files.problems)
        for place, (name, count) in enumerate(everything):
            if isinstance(count, str):
                problems.append(Problem(name, count))
                continue
            width = len(str(count - 1))  # equal widths sort in the order of the file
            names += [f"{name}{SLICE_MARK}{index:0{width}d}" for index in range(count)]
            entries += [(files.entries[place], index) for index in range(count)]
            places += [place] * count
        if not names:
            example = f"{problems[0].name}: {problems[0].reason}" if problems else "they are empty"
            raise ZooError(f"{self.label}: none of its {len(files.names)} files is usable ({example})")
        self.chunk = max(places.count(place) for place in set(places))  # so that a worker takes whole files
        subjects = self.subjects(files.names, files.splits is not None)
        return Listing(
            names,
            entries,
            [files.splits[place] for place in places] if files.splits else None,
            files.others,
            problems,
            [subjects[place] for place in places] if subjects else None,
        )

    def signature(self) -> str:
        if not self.path.is_dir():
            return hash_bytes(super().signature(), self.settings())
        parts = ["{}\n{}\n{}".format(name, *self._status[name]) for name in sorted(self.files.entries)]
        problems = [f"{problem.name}\n{problem.reason}" for problem in self.files.problems]
        return hash_bytes(*parts, *problems, self.settings())

    def raw(self, index: int) -> ndarray:
        name, place = self.listing.entries[index]
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:  # of several workers that need a file, one reads it
            image: ndarray = self._read_once(name)[place]
        return image

    def file_name(self, name: str) -> str:
        return name.rpartition(SLICE_MARK)[0]

    def manifests(self) -> list[tuple[str, bytes]]:
        return read_manifests(self.path) if self.path.is_dir() else []

    @cached_property
    def _status(self) -> dict[str, tuple[int, int]]:
        return dict(sorted(walk_files(self.path)))

    def _place(self, name: str) -> Path:
        if self.path.is_dir():
            return self.path / name
        return self.path if self.path.name.lower().endswith(self.suffixes) else self.unresolved_path

    def _read(self, name: str) -> ndarray:
        try:
            volume = self.read(self._place(name))
        except READ_ERRORS:
            raise
        except Exception as error:  # readers of formats raise errors of their own
            raise UnreadableError(describe_error(error)) from error
        if volume.ndim not in (3, 4):
            raise UnreadableError(f"shape {volume.shape}, not (N, H, W) or (N, H, W, C)")
        return volume

    def _count_all(self, entries: Sequence[str]) -> list[int | str]:
        """Return the number of images of each file, or why it is unreadable."""

        def count(part: range) -> list[int | str]:
            counts: list[int | str] = []
            for index in part:
                try:
                    number = self.count(self._place(entries[index]))
                    counts.append(number if number > 0 else "it holds no image")
                except Exception as error:  # as in _read
                    self.cacheable = self.cacheable and not isinstance(error, OSError)
                    counts.append(str(error) if isinstance(error, UnreadableError) else describe_error(error))
            return counts

        parts = map_chunks(count, len(entries), 1, task="listing", reporter=SilentReporter())
        return [number for _, counts in parts for number in counts]
