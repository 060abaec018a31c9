"""Stacks of images without an orientation: folders of ``.npy`` files, TIFFs of several pages, HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError
from zoo.data.decode import UnreadableError
from zoo.data.folder_layout import VOLUME_SUFFIXES, holds_only, walk_files
from zoo.data.sources.registry import register_source
from zoo.data.sources.scans import COLOURS, Scan, ScanSource
from zoo.data.sources.source import READ_ERRORS, SourceOptions
from zoo.data.subjects import find_subjects

PALETTE = 3  # of a TIFF's photometric interpretation: values are places in a table of colours
# Arrays of HDF5 files that are taken where there are several, first match first.
HDF5_NAMES = ("images", "image", "volume", "data", "reconstruction_rss", "reconstruction_esc", "x")


class NpySource(ScanSource):
    """A folder of ``.npy`` files: images (H, W) or (H, W, 3), or volumes (N, H, W)."""

    kind = "folder of arrays"
    suffixes = (".npy",)
    oriented = False

    def read_scan(self, path: Path) -> Scan:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        values = np.asarray(array)
        return Scan(values[None] if _is_image(values.shape) else values)

    def subjects(self, files: Sequence[str], splits: bool) -> list[str] | None:
        # A file of one image is no person: without subjects in the names, near-duplicates are held out together.
        return find_subjects(files, split=splits) or (None if all(map(self._holds_image, files)) else list(files))

    def _holds_image(self, name: str) -> bool:
        try:
            return _is_image(np.load(self._place(name), mmap_mode="r", allow_pickle=False).shape)
        except READ_ERRORS:  # left out
            return True


class TiffSource(ScanSource):
    """A TIFF of several pages, or a folder of them."""

    kind = "TIFF"
    suffixes = (".tif", ".tiff")
    oriented = False

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
        if not path.is_dir() and count_pages(path) == 1:
            raise ZooError(f"{path}: a single image is not a set. Use a folder of images, or a TIFF of several pages")

    def read_scan(self, path: Path) -> Scan:
        import tifffile

        with tifffile.TiffFile(path) as file:
            pages = [_read_page(page) for page in file.pages]
            white_is_zero = file.pages.first.photometric == 0
        shapes = sorted({page.shape for page in pages})
        if len(shapes) > 1:
            raise UnreadableError(f"pages of several sizes ({', '.join(f'{s[1]}x{s[0]}' for s in shapes)})")
        values = np.stack(pages)
        if white_is_zero:
            if values.dtype.kind not in "bu":
                raise UnreadableError("values of which the lowest is white (save it with black as the lowest)")
            values = ~values  # bits inverted: the largest value of the type minus the value
        return Scan(values)


def _read_page(page: Any) -> ndarray:
    """Return intensities (H, W[, C]); of a page with a table of colours, these."""
    values: ndarray = page.asarray()
    first = page.keyframe  # that has what several pages share
    if first.photometric != PALETTE:
        return values
    return np.moveaxis(first.colormap[:, values] >> 8, 0, -1).astype(np.uint8)


class Hdf5Source(ScanSource):
    """An HDF5 file of images (N, H, W) or (N, H, W, C), or a folder of them."""

    kind = "HDF5"
    suffixes = (".h5", ".hdf5", ".hdf")
    extra = ("formats", ("h5py",))
    oriented = False

    def read_scan(self, path: Path) -> Scan:
        import h5py

        with h5py.File(path, "r") as file:
            found: dict[str, Any] = {}
            file.visititems(lambda name, item: found.update({name: item}) if _is_stack(item) else None)
            named = [name for known in HDF5_NAMES for name in found if name.rpartition("/")[2].lower() == known]
            if not found or (len(found) > 1 and not named):
                listed = ", ".join(found) or "no array of images"
                raise UnreadableError(f"holds {listed}; expected one array (N, H, W), or one called 'images'")
            values = np.asarray(found[named[0] if named else next(iter(found))])
        return Scan(values[None] if _is_image(values.shape) else values)


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in COLOURS[1:])


def _is_stack(item: Any) -> bool:
    shape = getattr(item, "shape", ())
    if not hasattr(item, "dtype") or item.dtype.kind not in "biuf" or len(shape) not in (2, 3, 4):
        return False
    # One image of a stack, or one channel, is an axis of 1; rows and columns are not.
    return min(shape[-2:]) > 1 or (len(shape) == 4 and min(shape[1:3]) > 1)


def count_pages(path: Path) -> int:
    """Return the number of pages of a TIFF; 0 if it cannot be read."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return len(file.pages)
    except Exception:  # damaged: reported when it is read
        return 0


def _is_folder_of_stacks(path: Path) -> bool:
    """Return whether a folder holds no other images than TIFFs, all of several pages."""
    if not path.is_dir() or not holds_only(path, TiffSource.suffixes):
        return False
    counts = (count_pages(path / name) for name, _ in walk_files(path) if name.lower().endswith(TiffSource.suffixes))
    several = False
    for count in counts:
        if count == 1:  # an ordinary folder of images
            return False
        several = several or count > 1
    return several


def _open_npy_folder(path: Path, options: SourceOptions) -> NpySource:
    return NpySource(path, options)  # not the class: a single .npy is an array, of the source in array.py


def _is_folder_of_arrays(path: Path) -> bool:
    # Next to volumes of a known format, arrays are rather something derived from them.
    volumes = path.is_dir() and any(name.lower().endswith(VOLUME_SUFFIXES) for name, _ in walk_files(path))
    return path.is_dir() and not volumes and holds_only(path, NpySource.suffixes)


register_source("npy-folder", _open_npy_folder, recognise=_is_folder_of_arrays)
register_source("tiff", TiffSource, suffixes=TiffSource.suffixes, recognise=_is_folder_of_stacks)
register_source("hdf5", Hdf5Source, folders=True)
