"""Tar archives of images, such as the shards of webdataset."""

from __future__ import annotations

import tarfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from zoo.core.errors import ZooError, error_message
from zoo.data.folder_layout import Listing, organise_files
from zoo.data.labels import write_labels
from zoo.data.own_images import HEAD_BYTES
from zoo.data.sources.files import FileSource, are_numbered, check_file_size, find_shards, hash_shards, split_shards
from zoo.data.sources.registry import register_source
from zoo.data.sources.source import READ_ERRORS

CLASS_SUFFIX = ".cls"  # data.labels=label makes such members the classes
MAX_CLASS_BYTES = 1000


class _Member(NamedTuple):
    """Where a file lies in an uncompressed archive."""

    shard: Path
    key: str  # its path up to the first dot of its name: files of one key are one sample
    offset: int
    size: int

    def read(self, size: int | None = None) -> bytes:
        with self.shard.open("rb") as file:  # each call its own: threads share no position
            file.seek(self.offset)
            return file.read(self.size if size is None else min(size, self.size))


class TarSource(FileSource):
    """A ``.tar`` of images, or a folder of them; ``.cls`` members are classes, as webdataset writes them."""

    kind = "tar"
    suffixes = (".tar",)

    @cached_property
    def _shards(self) -> list[Path]:
        return find_shards(self.path, self.suffixes)

    def signature(self) -> str:
        return hash_shards(self.path, self._shards)

    @property
    def has_numbered_parts(self) -> bool:
        folders = any("/" in member.key.removeprefix("./") for _, member in self._members)
        return are_numbered(self._shards) and not folders

    @cached_property
    def _members(self) -> list[tuple[str, _Member]]:
        members = []
        splits = split_shards(self.path, self._shards)
        for number, shard in enumerate(self._shards):
            # One archive keeps its own names; of several, each is a folder, in that of its split.
            folder = "" if shard == self.path else f"{shard.relative_to(self.path).with_suffix('').as_posix()}/"
            if splits and shard.parent == self.path:
                folder = f"{splits[number]}/{folder}"
            try:
                with tarfile.open(shard, "r:") as archive:
                    files = [info for info in archive if info.isreg()]
            except (*READ_ERRORS, tarfile.TarError) as error:
                raise ZooError(
                    f"{shard}: not a readable, uncompressed tar ({error_message(error)}). Unpack it, or make it anew"
                ) from error
            for info in files:
                head, slash, name = info.name.rpartition("/")
                key = f"{head}{slash}{name.partition('.')[0]}"
                members.append((folder + info.name, _Member(shard, key, info.offset_data, info.size)))
        return members

    @cached_property
    def layout(self) -> Listing:
        files = [file for file in self._members if not file[0].lower().endswith(CLASS_SUFFIX)]
        return organise_files(files, self.label, everything=self.options.everything)

    def raw(self, index: int) -> bytes:
        member: _Member = self.listing.entries[index]
        check_file_size(member.size)
        return member.read()

    def read_head(self, entry: _Member) -> bytes:
        return entry.read(HEAD_BYTES)

    def manifests(self) -> list[tuple[str, bytes]]:
        classes = {
            (member.shard, member.key): member.read(MAX_CLASS_BYTES).decode("utf-8", "replace").strip()
            for name, member in self._members
            if name.lower().endswith(CLASS_SUFFIX)
        }
        # Numbers of one width sort by value.
        width = max(map(len, classes.values()), default=0) if all(map(str.isdecimal, classes.values())) else 0
        keys = [(member.shard, member.key) for member in self.listing.entries]
        rows = zip(self.listing.names, keys, strict=True)
        return write_labels((name, classes[key].zfill(width)) for name, key in rows if key in classes)


register_source("tar", TarSource, suffixes=TarSource.suffixes, folders=True)
