"""A set of images that is evaluated: with their own pixels, or a part of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy import ndarray

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.files import is_file, is_folder, temporary_folder
from zoo.core.progress import QuietReporter, Reporter, SilentReporter
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.decode import silence_pillow
from zoo.data.files import require_whole
from zoo.data.folder_layout import is_image_name
from zoo.data.resize import IntensityWindow, to_8_bit
from zoo.data.sources.files import ImageFiles
from zoo.data.sources.memory import MemorySource, as_source, open_data
from zoo.data.sources.registry import is_path, open_source
from zoo.data.sources.source import Source, SourceOptions
from zoo.data.subjects import abbreviate_list, find_subjects, subject_indices


class LazyRows:
    """Some rows of an array of images, copied when they are indexed or sliced."""

    dtype = np.dtype(np.uint8)

    def __init__(self, images: ndarray, positions: ndarray) -> None:
        self.images, self.positions = images, positions
        self.shape = (len(positions), *images.shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: Any) -> ndarray:
        require_whole(self.images)
        return np.array(self.images[self.positions[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one shape, and the subjects they show.

    Attributes:
        images: (N, C, H, W) uint8, C 1 or 3; an array, or :class:`LazyRows` of one.
        label: one phrase for messages.
        names: N names.
        subjects: N subjects; None where names contain none: each image is then a subject by itself.
        places: positions of its images in the set it is a half of; None: it is not a half.
        window: the intensities that became black and white; None where no window was applied.
    """

    images: ndarray
    label: str
    names: list[str] = field(default_factory=list)
    subjects: list[str] | None = None
    places: ndarray | None = None
    window: IntensityWindow | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def part(self, positions: Sequence[int] | ndarray, label: str) -> ImageSet:
        """Return some of the images; their pixels are read when they are needed."""
        positions = np.asarray(positions, np.int64)
        return ImageSet(
            images=_select_rows(self.images, positions),
            label=label,
            names=[self.names[i] for i in positions] if self.names else [],
            subjects=[self.subjects[i] for i in positions] if self.subjects else None,
        )

    def halves(self) -> tuple[ImageSet, ImageSet] | None:
        """Return two halves without a common subject, or None for one subject."""
        # Alternating subjects: both halves then follow the order of the set, whatever it is sorted by.
        indices = np.array(subject_indices(self.subjects or range(len(self))))
        if not indices.any():
            return None
        even, odd = np.flatnonzero(indices % 2 == 0), np.flatnonzero(indices % 2)
        return (
            replace(self.part(even, "even subjects"), places=even),
            replace(self.part(odd, "odd subjects"), places=odd),
        )


def _select_rows(images: ndarray, positions: ndarray) -> ndarray:
    if isinstance(images, LazyRows):  # a part of a part indexes the whole set directly
        images, positions = images.images, images.positions[positions]
    if len(positions) and (np.diff(positions) == 1).all():
        require_whole(images)
        return images[positions[0] : positions[-1] + 1]  # a view, as fast as the array itself
    return cast(ndarray, LazyRows(images, positions))  # consumers take slices, which are arrays


def describe_shape(shape: tuple[int, int, int]) -> str:
    """Describe (C, H, W), as in ``"64 x 64 grey"``."""
    channels, height, width = shape
    kind = {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
    return f"{height} x {width} {kind}"


def train_and_heldout(data: Dataset) -> tuple[ImageSet, ImageSet | None]:
    """Return the training images of a set, and the held-out ones if there are any."""
    # Parts of one mapped file: the whole set is never in memory.
    whole = _from_dataset(data)
    heldout = whole.part(data.unseen, "unseen subjects") if len(data.unseen) else None
    return whole.part(data.train, "training images"), heldout


def _from_dataset(data: Dataset) -> ImageSet:
    return ImageSet(
        images=data.images, label=data.description, names=data.names, subjects=data.subjects, window=data.window
    )


def read_images(
    path: str | Path | Source, *, fit: DataConfig | None = None, reporter: Reporter | None = None
) -> ImageSet:
    """Read all images of a folder, zip, ``.npy`` or ``.npz``.

    Args:
        path: where they lie; ``phantoms[:N]`` for built-in ones (with ``fit`` only); or an open source.
        fit: how they are made square and resized, as for training; None: their pixels are not changed.
        reporter: receives progress and warnings of unreadable files, which are left out; None: nothing is reported.

    Raises:
        ZooError: nothing is there, sizes or channels differ, or images have more than 8 bits per channel.
    """
    reporter = reporter or SilentReporter()
    if fit is not None:
        return _from_dataset(load_dataset(path, fit, reporter=reporter))
    if isinstance(path, str) and not is_path(path) and path.startswith("phantoms"):
        raise ZooError(f"{path}: phantoms have no size of themselves. Choose one with --fit pad --resolution R")
    with closing(open_data(path, SourceOptions())) as source, silence_pillow():
        return _read_unchanged(source, reporter)


def prepare_images(images: Any, config: DataConfig, reporter: Reporter) -> ImageSet:
    """Prepare all images of a set as for training by ``config``; no copy of them is kept on the disk.

    Args:
        images: an image file, a list of them, or any data (:func:`zoo.data.sources.memory.as_source`).
        config: of a recipe; what is held out, labels and subjects do not matter.
        reporter: receives progress and warnings of unreadable files, which are left out of a folder.

    Raises:
        ZooError: nothing is there, or a file, array or setting is invalid.
    """
    config = replace(config, holdout=0.0, labels=None, classes={}, subjects=None)
    paths = [images] if isinstance(images, str | Path) else images
    if isinstance(paths, list | tuple) and paths and all(isinstance(path, str | Path) for path in paths):
        images = _open_paths([Path(path) for path in paths]) or paths[0]
    with temporary_folder(".zoo-images-") as folder:
        data = load_dataset(as_source(images), config, reporter=QuietReporter(reporter), cache_dir=Path(folder))
        return replace(_from_dataset(data), images=np.array(data.images))


def _open_paths(paths: Sequence[Path]) -> Source | None:
    """Return a source of image files; None for one path of another kind, such as a folder."""
    for path in paths:
        if is_image_name(path.name) and is_file(path):
            continue
        if len(paths) > 1:
            open_source(path, SourceOptions()).close()  # its error says what is wrong with the path, or it is a set
            raise ZooError(f"{path}: is a set of images. Give it alone, or give image files")
        return None if not is_image_name(path.name) or is_folder(path) else open_source(path, SourceOptions())
    return ImageFiles(paths)


def match_image_sets(sets: Sequence[ImageSet]) -> list[ImageSet]:
    """Reduce sets to one channel if no image in any of them has a colour.

    A grey set stays as it is among coloured ones, because it may be grey by chance, as a collapsed generator's images
    may be.
    """

    def is_grey(images: ndarray) -> bool:
        if images.shape[1] != 3:
            return images.shape[1] == 1
        # In chunks: a mapped set need not fit into memory.
        parts = (images[start : start + 256] for start in range(0, len(images), 256))
        return all((part == part[:, :1]).all() for part in parts)

    if not all(is_grey(image_set.images) for image_set in sets):
        return list(sets)
    return [replace(image_set, images=np.ascontiguousarray(image_set.images[:, :1])) for image_set in sets]


def _read_unchanged(source: Source, reporter: Reporter) -> ImageSet:
    images: list[ndarray] = []
    names: list[str] = []
    unreadable = [f"{problem.name} ({problem.reason})" for problem in source.listing.problems]
    decoded = source.map_images(lambda index: _read_image(source, index), "decoding", reporter)
    for name, image in zip(source.names, decoded, strict=True):
        if isinstance(image, str):
            unreadable.append(f"{name} ({image})")
            continue
        images.append(image)
        names.append(name)
        # Checked at once: reading thousands of files before the error would waste minutes.
        if image.shape != images[0].shape:
            raise ZooError(
                f"{source.label}: {names[0]} is {describe_shape(images[0].shape)}, {name} is "
                f"{describe_shape(image.shape)}. Images must share one shape, unless they are resized with "
                "--fit pad --resolution R"
            )
    if unreadable and (source.strict or not images):
        # An array has no files that could be left out, and an empty set cannot be evaluated.
        raise ZooError(f"{source.label}: {unreadable[0]}")
    if unreadable:
        reporter.warn(f"{source.label}: {len(unreadable)} left out: {abbreviate_list(unreadable)}")
    listing = source.listing
    subjects = find_subjects(names, split=listing.splits is not None)
    if listing.subjects is not None:
        known = dict(zip(listing.names, listing.subjects, strict=True))
        subjects = [known[name] for name in names]
    return ImageSet(images=np.stack(images), label=source.label, names=names, subjects=subjects)


def _read_image(source: Source, index: int) -> ndarray | str:
    """Return (C, H, W) uint8, or why the image cannot be used."""
    _, image = source.read_and_decode(index)
    if isinstance(image, str):
        return image
    window = source.window if isinstance(source, MemorySource) else None
    if window is not None:  # floats in [0, 1] or [-1, 1]
        image = replace(image, pixels=np.rint(to_8_bit(image.pixels, window)).astype(np.uint8))
    if image.deep:
        return f"{image.bits} bits per channel ({image.mode}), only 8 can be used unchanged; for more use --fit"
    pixels = image.pixels
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
