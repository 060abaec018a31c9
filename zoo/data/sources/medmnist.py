"""MedMNIST archives: a ``.npz`` of images with labels in official splits."""

from __future__ import annotations

import zipfile
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError, error_message
from zoo.data.folder_layout import Listing
from zoo.data.labels import name_classes, write_labels
from zoo.data.sources.files import PathSource
from zoo.data.sources.source import READ_ERRORS
from zoo.data.sources.volumes import SLICE_MARK


class MedMnistSource(PathSource):
    """``train_images``, ``val_images`` and ``test_images`` (N, H, W), (N, H, W, 3) or volumes (N, D, H, W)."""

    kind = "MedMNIST"
    parts: ClassVar[dict[str, str]] = {"train": "train", "validate": "val", "test": "test"}

    @cached_property
    def _arrays(self) -> dict[str, ndarray]:
        """Images and labels by their names in the archive."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files if name.endswith(("_images", "_labels"))}
        except READ_ERRORS as error:
            raise ZooError(f"{self.path}: not a readable archive ({error_message(error)})") from error
        for part in self.parts.values():
            images, labels = arrays.get(f"{part}_images"), arrays.get(f"{part}_labels")
            if images is not None and (images.ndim not in (3, 4) or images.dtype.kind not in "biuf"):
                raise ZooError(f"{self.path}: {part}_images of shape {images.shape} and {images.dtype} are no images")
            if images is not None and labels is not None and len(labels) != len(images):
                raise ZooError(f"{self.path}: {len(labels)} {part}_labels for {len(images)} {part}_images")
        return arrays

    @cached_property
    def layout(self) -> Listing:
        listing = Listing([], splits=[])
        subjects: list[str] = []
        for split, part in self.parts.items():
            images = self._arrays.get(f"{part}_images", np.empty((0, 1, 1)))
            depth = images.shape[1] if images.ndim == 4 and images.shape[3] not in (1, 3, 4) else 0
            width = len(str(max(0, len(images) - 1)))
            for index in range(len(images)):
                name = f"{split}/{index:0{width}d}"
                slices = [f"{SLICE_MARK}{k:0{len(str(depth - 1))}d}" for k in range(depth)] or [""]
                listing.names += [name + mark for mark in slices]
                listing.entries += [(part, index, k if depth else None) for k in range(len(slices))]
                subjects += [name] * len(slices)
            listing.subjects = subjects if depth else listing.subjects
        listing.splits = [name.partition("/")[0] for name in listing.names]
        if len(set(listing.splits)) < 2:
            listing.splits = None
        return listing

    def raw(self, index: int) -> ndarray:
        part, number, place = self.listing.entries[index]
        image = self._arrays[f"{part}_images"][number]
        return np.asarray(image if place is None else image[place])

    def file_name(self, name: str) -> str:
        return name.partition(SLICE_MARK)[0]

    def manifests(self) -> list[tuple[str, bytes]]:
        names: list[str] = []
        classes: list[int] = []
        for split, part in self.parts.items():
            labels = self._arrays.get(f"{part}_labels")
            if labels is None:
                continue
            if labels.size != len(labels):
                raise ZooError(f"{self.path}: {labels.shape[1]} labels per image; data.labels needs one class for each")
            width = len(str(max(0, len(labels) - 1)))
            names += [f"{split}/{index:0{width}d}" for index in range(len(labels))]
            classes += map(int, labels.ravel().tolist())
        # Of all parts together: a number has one name, also where a part lacks the largest.
        return write_labels(zip(names, name_classes(classes), strict=True)) if classes else []


def is_medmnist(path: Path) -> bool:
    """Return whether a file is such an archive; by its table of contents alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "train_images.npy" in archive.namelist()
    except (*READ_ERRORS, OverflowError):
        return False
