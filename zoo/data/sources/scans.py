"""Scans: volumes that are cut into slices along an axis of the body, or of the file."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from PIL import Image

from zoo.core.errors import ZooError
from zoo.data.decode import MAX_IMAGE_PIXELS, UnreadableError
from zoo.data.resize import to_8_bit
from zoo.data.slices import SliceChoice
from zoo.data.sources.source import SourceOptions
from zoo.data.sources.volumes import VolumeSource
from zoo.data.windowing import WINDOW_PERCENTILES

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # of an array in RAS orientation
MAX_VOXELS = 1 << 30  # of one volume: 4 GB as float32; a header that claims more is a mistake or an attack
COLOURS = (1, 3, 4)  # lengths of an axis that is one of colours: grey, RGB, RGB and alpha
SQUARE_TOLERANCE = 0.01  # relative difference of a pixel's sides, below which it is square


@dataclass(frozen=True)
class Scan:
    """A volume, or a stack of images.

    Attributes:
        values: with ``affine``: (X, Y, Z), indices growing to the right, to the front and to the top of the body (RAS);
            without: (N, H, W) or (N, H, W, C) as stored.
        affine: (4, 4), from voxel indices to mm in RAS; None: the file says nothing about the body.
    """

    values: ndarray
    affine: ndarray | None = None


class ScanSource(VolumeSource):
    """A file that holds a scan, or a folder of such files; a kind defines ``kind``, ``suffixes`` and ``read_scan``.

    Attributes:
        extra: the optional dependencies that it needs, with the packages that are imported.
        oriented: whether its files say how they lie in the body.
    """

    cuts_volumes = True
    extra: tuple[str, tuple[str, ...]] | None = None
    oriented = True

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
        self.choice = SliceChoice.parse(options.slices)
        if self.extra:
            require_extra(self.label, *self.extra)
        if not self.oriented and options.axis != SourceOptions.axis:
            raise ZooError(f"data.axis: {self.label} has no orientation, so its slices are used as they are stored")
        if not self.oriented and self.choice.unit == "mm":
            raise ZooError(f"data.slices: {self.label} has no positions in mm; use indices or %")
        if self.oriented and options.window == "dtype":
            raise ZooError(f"data.window: the type of {self.label} says nothing about its range; use [low, high]")

    @abstractmethod
    def read_scan(self, path: Path) -> Scan:
        """Read a file; raises as :meth:`VolumeSource.read` does."""

    def settings(self) -> str:
        return f"{self.options.axis} {self.options.slices} {self.options.window == 'volume'}"

    def note(self) -> str:
        volume = self.options.window == "volume"
        window = "a window per volume" if volume else "8 bits as they are, else one window for the set"
        cut = "slices as stored"
        if self.oriented:
            cut = f"{self.options.axis} slices of square pixels, patient's right on the left (data.axis)"
        return f"{cut}; {self.choice.describe()} (data.slices); {window} (data.window); one subject per patient or file"

    def read(self, path: Path) -> ndarray:
        scan = self.read_scan(path)
        if scan.affine is None and self.options.axis != SourceOptions.axis:
            raise UnreadableError("it does not say how it lies in the body, so data.axis cannot be applied")
        slices, spacing, positions = cut_slices(scan, self.options.axis)
        if slices.size > MAX_VOXELS:
            raise too_large_error(slices.shape)
        check_real(slices.dtype)
        if slices.dtype.kind == "f" and not np.isfinite(slices).all():
            raise UnreadableError("holds NaN or infinite values")
        used = self.choice.select(slices, positions)
        if not used.any():
            raise UnreadableError(f"none of its {len(used)} slices is in data.slices={self.options.slices}")
        chosen = slices[used]
        if self.options.window == "volume" and slices.dtype not in (np.uint8, bool):
            chosen = window_volume(slices, chosen)
        return make_square(chosen, spacing)


def require_extra(label: str, extra: str, packages: tuple[str, ...]) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        ZooError: one is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ZooError(f"{label}: needs the package {' and '.join(missing)}: pip install 'gan-zoo[{extra}]'")


def cut_slices(scan: Scan, axis: str) -> tuple[ndarray, tuple[float, float], ndarray | None]:
    """Return slices (N, H, W[, C]), the height and width of their pixels in mm, and their positions in mm (N,).

    Slices follow each other from left to right, from back to front or from bottom to top. They are turned as DICOM
    stores them: the patient's right (sagittal: front) on the left, front or top of the body on top.
    """
    if scan.affine is None:
        return colours_last(scan.values), (1.0, 1.0), None
    along = AXES[axis]
    columns, rows = (other for other in range(3) if other != along)
    slices = scan.values.transpose(along, rows, columns)[:, ::-1, ::-1]
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
    centre = (np.array(scan.values.shape) - 1) / 2  # oblique slices lie where their centre does
    steps = np.arange(scan.values.shape[along]) - centre[along]
    positions = scan.affine[along, :3] @ centre + scan.affine[along, 3] + scan.affine[along, along] * steps
    return slices, (float(spacing[rows]), float(spacing[columns])), positions


def colours_last(images: ndarray) -> ndarray:
    """Return a stack of images as (N, H, W) or (N, H, W, 3), of (N, H, W), (N, H, W, C) or (N, C, H, W).

    Alpha of bytes is composed over black, as it is for files of images.

    Raises:
        UnreadableError: another shape, such as several volumes in one array, or alpha of other types.
    """
    if images.ndim == 4 and images.shape[-1] not in COLOURS and images.shape[1] in COLOURS:
        images = np.moveaxis(images, 1, -1)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in COLOURS):
        sides = " x ".join(map(str, images.shape))
        raise UnreadableError(f"an array of {sides} is no stack of grey or RGB images; save one volume per file")
    if images.ndim == 3 or images.shape[-1] == 3:
        return images
    if images.shape[-1] == 1:
        return images[..., 0]
    if images.dtype != np.uint8:
        raise UnreadableError(f"four channels of {images.dtype}; save grey or RGB")
    return np.rint(images[..., :3] * (images[..., 3:] / np.float32(255))).astype(np.uint8)


def window_volume(volume: ndarray, slices: ndarray) -> ndarray:
    """Map slices to uint8, the 0.5th and 99.5th percentile of their volume to black and white."""
    low, high = np.percentile(volume, WINDOW_PERCENTILES)
    if low == high:
        low, high = volume.min(), volume.max()
    window = float(low), float(high) if low < high else float(low) + 1
    return np.stack([np.rint(to_8_bit(image, window)).astype(np.uint8) for image in slices])


def make_square(slices: ndarray, spacing: tuple[float, float]) -> ndarray:
    """Enlarge slices (N, H, W) along the side of coarser pixels (linearly), so that pixels are square."""
    if not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise UnreadableError(f"pixels of {spacing[0]:g} x {spacing[1]:g} mm")
    if abs(spacing[0] / spacing[1] - 1) <= SQUARE_TOLERANCE:
        return slices
    height, width = (
        max(1, round(length * side / min(spacing))) for length, side in zip(slices.shape[1:], spacing, strict=True)
    )
    if height * width > MAX_IMAGE_PIXELS or height * width * len(slices) > MAX_VOXELS:
        raise UnreadableError(f"pixels of {spacing[0]:g} x {spacing[1]:g} mm, too far from square")
    square = np.empty((len(slices), height, width), slices.dtype)
    for index, image in enumerate(slices):
        plane = Image.fromarray(np.ascontiguousarray(image, np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        values = np.asarray(plane)
        square[index] = values if slices.dtype.kind == "f" else np.rint(values)
    return square


def check_real(dtype: np.dtype[Any]) -> None:
    """Raise UnreadableError for values that are no intensities, such as complex ones; casts would take a part."""
    if dtype.kind not in "biuf":
        raise UnreadableError(f"{dtype} values are not intensities")


def check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first three axes of a volume, of which later ones must have length 1.

    Raises:
        UnreadableError: it has more dimensions, is empty, or too large.
    """
    shape = tuple(map(int, shape))
    if len(shape) > 3 and max(shape[3:]) > 1:
        sides = " x ".join(map(str, shape))
        raise UnreadableError(f"a {len(shape)}-D volume ({sides}), such as a time series; save one 3-D volume per file")
    shape = (*shape[:3], *[1] * (3 - len(shape)))
    if min(shape) < 1:
        raise UnreadableError(f"an empty volume ({' x '.join(map(str, shape))})")
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise too_large_error(shape)
    return shape


def too_large_error(shape: tuple[int, ...]) -> UnreadableError:
    """Return the error for a volume of more than ``MAX_VOXELS``."""
    return UnreadableError(
        f"absurdly large ({' x '.join(map(str, shape))} voxels, at most {MAX_VOXELS / 1e9:.1f} billion)"
    )
