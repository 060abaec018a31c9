"""A zip of images."""

from __future__ import annotations

import threading
import zipfile
from functools import cached_property
from pathlib import Path

from zoo.core.errors import ZooError, error_message
from zoo.data.folder_layout import Listing, organise_files
from zoo.data.labels import MANIFESTS
from zoo.data.own_images import HEAD_BYTES
from zoo.data.sources.files import FileSource, check_file_size, check_manifest_size
from zoo.data.sources.registry import register_source
from zoo.data.sources.source import READ_ERRORS, SourceOptions


class ZipSource(FileSource):
    """All images inside a zip, read in place."""

    kind = "zip"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
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
        return organise_files(files, self.label, everything=self.options.everything)

    def raw(self, index: int) -> bytes:
        info = self.listing.entries[index]
        check_file_size(info.file_size)
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
                check_manifest_size(uppermost.file_size)
                tables.append((uppermost.filename.rpartition("/")[2], self._zip.read(uppermost)))
        return tables

    def close(self) -> None:
        if "_zip" in self.__dict__:  # opened
            self._zip.close()


register_source("zip", ZipSource, suffixes=(".zip",))
