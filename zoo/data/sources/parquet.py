"""Parquet tables of encoded images, as the Hugging Face Hub keeps image data sets."""

from __future__ import annotations

import threading
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from zoo.core.errors import ZooError, error_message
from zoo.data.folder_layout import Listing
from zoo.data.labels import name_classes, write_labels
from zoo.data.sources.files import PathSource, are_numbered, check_file_size, find_shards, hash_shards, split_shards
from zoo.data.sources.registry import register_source
from zoo.data.sources.scans import require_extra
from zoo.data.sources.source import READ_ERRORS, SourceOptions

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "jpg", "png"), ("label", "class", "target")
ROW_GROUPS = 4  # kept in memory


class ParquetSource(PathSource):
    """A ``.parquet`` with a column of encoded images, or a folder of such files.

    Images are bytes, or ``{"bytes": ..., "path": ...}``. Files or folders called train, val and test are splits.
    """

    kind = "parquet"
    suffixes = (".parquet",)

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
        require_extra(self.label, "formats", ("pyarrow",))
        self._lock = threading.Lock()
        self._read_group = lru_cache(maxsize=ROW_GROUPS)(self._read)

    @cached_property
    def _places(self) -> list[Path]:
        return find_shards(self.path, self.suffixes)

    def signature(self) -> str:
        return hash_shards(self.path, self._places)

    @property
    def has_numbered_parts(self) -> bool:
        return are_numbered(self._places)

    @cached_property
    def _files(self) -> list[Any]:
        from pyarrow import ArrowException, parquet

        files = []
        for place in self._places:
            try:
                files.append(parquet.ParquetFile(place))
            except (*READ_ERRORS, ArrowException) as error:
                raise ZooError(f"{place}: not a readable parquet file ({error_message(error)})") from error
            self._column(len(files) - 1, files[-1], IMAGE_COLUMNS)
        return files

    def _column(self, number: int, file: Any, names: tuple[str, ...]) -> str:
        columns = file.schema_arrow.names
        found = next((name for name in names if name in columns), None)
        if found is None:
            raise ZooError(f"{self._places[number]}: has no column {' or '.join(names)}, only {', '.join(columns)}")
        return found

    @cached_property
    def layout(self) -> Listing:
        listing = Listing([])
        for number, file in enumerate(self._files):
            place = self._places[number]
            inner = Path(place.name) if place == self.path else place.relative_to(self.path)
            folder = inner.with_suffix("").as_posix()
            width = len(str(max(0, file.metadata.num_rows - 1)))
            row = 0
            for group in range(file.num_row_groups):
                for index in range(file.metadata.row_group(group).num_rows):
                    listing.names.append(f"{folder}/{row:0{width}d}")
                    listing.entries.append((number, group, index))
                    row += 1
        if not listing.names:
            raise ZooError(f"{self.label}: holds no image")
        if splits := split_shards(self.path, self._places):
            listing.splits = [splits[number] for number, _, _ in listing.entries]
        return listing

    def _read(self, number: int, group: int) -> list[Any]:
        file = self._files[number]
        column = self._column(number, file, IMAGE_COLUMNS)
        return file.read_row_group(group, columns=[column]).column(0).to_pylist()

    def raw(self, index: int) -> bytes:
        number, group, row = self.listing.entries[index]
        with self._lock:
            value = self._read_group(number, group)[row]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError("no encoded image in this row")
        check_file_size(len(content))
        return content

    def manifests(self) -> list[tuple[str, bytes]]:
        labels: list[Any] = []
        for file in self._files:
            name = next((name for name in LABEL_COLUMNS if name in file.schema_arrow.names), None)
            labels += (
                [None] * file.metadata.num_rows if name is None else file.read(columns=[name]).column(0).to_pylist()
            )
        known = [label for label in labels if label is not None]
        classes = iter(name_classes(known) if known else ())
        rows = zip(self.layout.names, labels, strict=True)
        return write_labels((name, next(classes)) for name, label in rows if label is not None)

    def close(self) -> None:
        for file in self.__dict__.get("_files", ()):
            file.close()


register_source("parquet", ParquetSource, suffixes=ParquetSource.suffixes, folders=True)
