"""A set of pictures that is judged: as they are, or a part of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.threads import map_chunks
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.decode import UnreadableError, decode, silence_pillow
from zoo.data.sources import Source, is_phantoms, open_source
from zoo.data.subjects import enumerated, find_subjects, subject_indices

if TYPE_CHECKING:
    from zoo.core.config import DataConfig

Array = np.ndarray[Any, Any]


class Picked:
    """Some rows of an array of images, read when they are asked for: indexing gives copies, slices too."""

    dtype = np.dtype(np.uint8)

    def __init__(self, images: Array, positions: Array) -> None:
        self.images, self.positions = images, positions
        self.shape = (len(positions), *images.shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: Any) -> Array:
        return np.array(self.images[self.positions[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Pictures of one shape, and whom they show.

    Attributes:
        images: (N, C, H, W) uint8, C 1 or 3; an array, or what reads one piece by piece.
        label: one phrase for people.
        names: N names.
        subjects: N subjects, where names tell; None: each picture stands for itself.
        places: where its images stand in the set it is a half of; None: it is no half.
    """

    images: Array
    label: str
    names: list[str] = field(default_factory=list)
    subjects: list[str] | None = None
    places: Array | None = None
    window: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def part(self, positions: Sequence[int] | Array, label: str) -> ImageSet:
        """Some of them; their pixels are read when they are asked for."""
        positions = np.asarray(positions, np.int64)
        return ImageSet(
            images=_picked(self.images, positions),
            label=label,
            names=[self.names[i] for i in positions] if self.names else [],
            subjects=[self.subjects[i] for i in positions] if self.subjects else None,
        )

    def halves(self) -> tuple[ImageSet, ImageSet] | None:
        """Two halves without a common subject, or None where there is but one."""
        keys = self.subjects or [str(i) for i in range(len(self))]
        number = np.array(subject_indices(keys))
        if not number.any():
            return None
        odd = number % 2 == 1
        one, other = np.flatnonzero(~odd), np.flatnonzero(odd)
        return (
            replace(self.part(one, "even subjects"), places=one),
            replace(self.part(other, "odd subjects"), places=other),
        )


def _picked(images: Array, positions: Array) -> Array:
    whole: Any = images
    if isinstance(whole, Picked):
        images, positions = whole.images, whole.positions[positions]
    if len(positions) and (np.diff(positions) == 1).all():
        return images[positions[0] : positions[-1] + 1]  # a view, as fast as the array itself
    return cast(Array, Picked(images, positions))  # whoever reads images takes slices, which are arrays


def describe_shape(shape: tuple[int, int, int]) -> str:
    """(C, H, W) as ``"64 x 64 grey"``."""
    channels, height, width = shape
    return f"{height} x {width} {'grey' if channels == 1 else 'RGB' if channels == 3 else f'of {channels} channels'}"


def train_and_heldout(data: Dataset) -> tuple[ImageSet, ImageSet | None]:
    """The images of a set that are trained on, and those of unseen subjects, if there are any."""
    whole = ImageSet(images=data.images, label=data.description, names=data.names, subjects=data.subjects)
    unseen = whole.part(data.unseen, "unseen subjects") if len(data.unseen) else None
    return whole.part(data.train, "training images"), unseen


def read_images(
    path: str | Path, *, fit: DataConfig | None = None, reporter: Reporter | None = None, cache_dir: Path | None = None
) -> ImageSet:
    """All images of a folder, zip, ``.npy`` or ``.npz``, pixel for pixel as they are, or fitted as for training.

    Args:
        path: where they lie; ``phantoms[:N]`` for built-in ones (with ``fit`` only).
        fit: how they are made square and resized first; None: not at all.
        reporter: who is told of progress, and of files that cannot be read and are left out.

    Raises:
        ZooError: nothing there, or sizes or channels that differ, or more than 8 bits a channel.
    """
    reporter = reporter or SilentReporter()
    if fit is not None:
        data = load_dataset(path, fit, reporter=reporter, cache_dir=cache_dir)
        return ImageSet(
            images=data.images,
            label=data.description,
            names=data.names,
            subjects=data.subjects,
            window=data.window,
        )
    if isinstance(path, str) and is_phantoms(path):
        raise ZooError(f"{path}: phantoms are drawn at any size; say which, with --fit pad --resolution R")
    with closing(open_source(path, resolution=0, channels=None)) as source, silence_pillow():
        return _read(source, reporter)


def match_image_sets(sets: Sequence[ImageSet]) -> list[ImageSet]:
    """The same sets, of one channel if no picture in any of them has a colour: every figure is the same.

    A set that is grey by chance, as what a collapsed generator makes may be, stays as it is among coloured ones.
    """

    def grey(images: Array) -> bool:
        if images.shape[1] == 1:
            return True
        parts = (images[start : start + 256] for start in range(0, len(images), 256))
        return images.shape[1] == 3 and all((part == part[:, :1]).all() for part in parts)

    if not all(grey(some.images) for some in sets):
        return list(sets)
    return [replace(some, images=np.ascontiguousarray(some.images[:, :1])) for some in sets]


def _read(source: Source, reporter: Reporter) -> ImageSet:
    def decoded(part: range) -> list[Array | str]:
        return [_decoded(source, index) for index in part]

    images: list[Array] = []
    names: list[str] = []
    bad: list[str] = []
    for part, found in map_chunks(decoded, len(source.names), source.chunk, task="decoding", reporter=reporter):
        for index, picture in zip(part, found, strict=True):
            if isinstance(picture, str):
                bad.append(f"{source.names[index]} ({picture})")
                continue
            images.append(picture)
            names.append(source.names[index])
            if picture.shape != images[0].shape:
                _refuse(source, picture, names[-1], images[0], names[0])
    if bad and (source.strict or not images):
        raise ZooError(f"{source.label}: {bad[0]}")
    if bad:
        reporter.warn(f"{source.label}: {len(bad)} left out: {enumerated(bad)}")
    stacked = np.stack(images)
    split = source.listing.splits is not None
    return ImageSet(images=stacked, label=source.label, names=names, subjects=find_subjects(names, split=split))


def _decoded(source: Source, index: int) -> Array | str:
    """(C, H, W) uint8, or why it cannot be used."""
    _, raw, reason = source.digest(index)
    if raw is None:
        return reason
    try:
        picture = decode(raw)
    except UnreadableError as error:
        return str(error)
    if picture.deep:
        return f"{picture.bits} bits a channel of {picture.mode}; 8 are taken as they are, for more give --fit"
    pixels = picture.pixels
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _refuse(source: Source, picture: Array, name: str, first: Array, first_name: str) -> None:
    one, other = describe_shape(first.shape), describe_shape(picture.shape)
    raise ZooError(
        f"{source.label}: {first_name} is {one}, {name} is {other}; images are taken as they are and must share one "
        "shape, or be fitted with --fit pad --resolution R"
    )
