"""DICOM: series of slices, single images and files of several frames, with or without a suffix.

What is passed on of a file is its pixels and its geometry. Patients, studies and series appear as hashes: pseudonyms,
since who knows the numbers can compute them. Files that cannot be used are called by their place in the sorted list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy import ndarray

from zoo.core.progress import SilentReporter
from zoo.core.threads import map_chunks
from zoo.data.decode import UnreadableError
from zoo.data.digest import hash_bytes
from zoo.data.folder_layout import Listing, Problem, holds_only, is_image_name, organise_files, walk_files
from zoo.data.resize import to_grey
from zoo.data.sources.files import PathSource
from zoo.data.sources.registry import register_source
from zoo.data.sources.scans import Scan, ScanSource, check_shape
from zoo.data.sources.source import SourceOptions
from zoo.data.subjects import hash_subject

MAGIC, MAGIC_OFFSET = b"DICM", 128
SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_SPACING_ERROR = 0.1  # of the distance of neighbouring slices, beyond which some are missing
MAX_PROBED_FILES = 64  # of a folder without suffixes
_TAGS = (
    *("PatientID", "PatientName", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns"),
    *("ImageOrientationPatient", "ImagePositionPatient", "NumberOfFrames"),
)

# How header values are read that tell files and slices apart; malformed ones raise anything.
_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "InstanceNumber": lambda value: float(value or 0),
    "NumberOfFrames": lambda value: int(value or 1),
    "ImageOrientationPatient": lambda value: np.array(value, float).reshape(2, 3),
    "ImagePositionPatient": lambda value: np.array(value, float).reshape(3),
}
SAME_ORIENTATION = 0.01  # largest difference of direction cosines in one volume


@dataclass
class _Series:
    """Files that form one volume, in any order, and what their headers share."""

    subject: str
    files: list[str] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)


class DicomSource(ScanSource):
    """A DICOM file, or a folder of series."""

    kind = "DICOM"
    suffixes = SUFFIXES
    extra = ("medical", ("pydicom", "nibabel"))

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
        if not path.is_dir():  # whose name may hold the patient's
            self.label = f"{self.kind} {hash_subject(path.name)}"

    @cached_property
    def _series(self) -> dict[str, _Series]:
        return {}

    @cached_property
    def files(self) -> Listing:
        paths = [self.path.name]
        splits, others, problems = None, 0, []
        if self.path.is_dir():
            regular = [name for name, (size, _) in self._status.items() if size >= 0 and not _is_other(name)]
            listing = organise_files(zip(regular, regular, strict=True), self.label, everything=True, suffixes=("",))
            paths, splits = listing.entries, listing.splits
            others = len(self._status) - len(regular)
        headers = self._read_headers(paths)
        names: dict[str, str | None] = {}
        orientations: dict[str, list[ndarray]] = {}
        for place, (path, header) in enumerate(zip(paths, headers, strict=True)):
            if header is None:
                others += 1
            elif isinstance(header, str):
                problems.append(Problem(f"file {place + 1} of {len(paths)} by name", header))
            else:
                split = splits[place] if splits else None
                volume = _volume_name(header, orientations)
                name = f"{split}/{volume}" if split else volume
                names[name] = split
                series = self._series.setdefault(name, _Series(_subject(header)))
                series.files.append(path)
                series.numbers.append(float(header.get("InstanceNumber") or 0))
        ordered = list(names)  # that of splits, then of files
        return Listing(ordered, ordered, [str(names[name]) for name in ordered] if splits else None, others, problems)

    def _read_headers(self, paths: Sequence[str]) -> list[Any]:
        """Return the header of each file, why it is unreadable, or None for what is no DICOM image."""

        def read(part: range) -> list[Any]:
            return [_read_header(self._place(paths[index])) for index in part]

        parts = map_chunks(read, len(paths), 16, task="listing", reporter=SilentReporter())
        return [header for _, headers in parts for header in headers]

    def subjects(self, files: Sequence[str], splits: bool) -> list[str]:
        return [self._series[name].subject for name in files]

    def signature(self) -> str:
        status = self._status if self.path.is_dir() else {}
        parts = [f"{name}\n{size}\n{mtime}" for name, (size, mtime) in status.items()]
        return hash_bytes(PathSource.signature(self), *parts, self.settings())

    def file_name(self, name: str) -> str:
        volume = super().file_name(name)
        return min(self._series[volume].files) if self.files and volume in self._series else volume

    def read_scan(self, path: Path) -> Scan:
        name = path.relative_to(self.path).as_posix() if self.path.is_dir() else self.files.names[0]
        series = self._series[name]
        order = np.argsort(series.numbers, kind="stable")
        slices = [_read_file(self._place(series.files[index])) for index in order]
        return _stack(slices)


@dataclass(frozen=True)
class _Slice:
    """Values (H, W), and the geometry in LPS where the header has it."""

    values: ndarray
    directions: ndarray | None = None  # (2, 3): along a row, along a column
    position: ndarray | None = None  # (3,) of the first pixel in mm
    spacing: tuple[float, float] = (1.0, 1.0)  # of rows and columns in mm
    thickness: float = 1.0


def _is_other(name: str) -> bool:
    return is_image_name(name) or PurePosixPath(name).name.upper() == "DICOMDIR"


def has_magic(path: Path) -> bool:
    """Return whether a file says that it is DICOM."""
    try:
        with path.open("rb") as file:
            file.seek(MAGIC_OFFSET)
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _is_dicom(path: Path) -> bool:
    """Return whether a file without a known suffix is DICOM, or a folder that holds such and no ordinary image."""
    if not path.is_dir():
        return has_magic(path)
    probed: list[str] = []
    for name, (size, _) in walk_files(path):
        if is_image_name(name):
            return False
        if size > MAGIC_OFFSET and len(probed) < MAX_PROBED_FILES and not _is_other(name):
            probed.append(name)
    return any(has_magic(path / name) for name in probed)


def _read_header(path: Path) -> Any:
    import pydicom

    named = path.name.lower().endswith(SUFFIXES)
    if not named and not has_magic(path):
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=False)
    except Exception as error:  # whose text may hold values of the file
        return f"not a readable DICOM file ({type(error).__name__})"
    if "Rows" not in header or "Columns" not in header:
        return "a DICOM file without pixels"
    for key, read in _NUMBERS.items():
        try:
            if header.get(key) is not None:
                read(header.get(key))
        except Exception:  # whose text may hold the value
            return f"a DICOM file with a malformed {key}"
    return header


def _volume_name(header: Any, orientations: dict[str, list[ndarray]]) -> str:
    """Return the hashed name of the volume that a file belongs to.

    Slices of one series and one orientation (a localiser has several) are a volume; images without one are each.

    Args:
        orientations: those that each series has had so far; scanners write one with slightly different digits.
    """
    orientation = header.get("ImageOrientationPatient")
    frames = int(header.get("NumberOfFrames") or 1)
    series = str(header.get("SeriesInstanceUID", ""))
    if orientation is None or frames > 1:
        part = str(header.get("SOPInstanceUID", ""))
    else:
        own, known = np.array(orientation, float), orientations.setdefault(series, [])
        first = next((other for other in known if abs(own - other).max() <= SAME_ORIENTATION), None)
        if first is None:
            known.append(own)
            first = own
        part = " ".join(f"{value + 0.0:.2f}" for value in first)
    return f"{_subject(header)}/{hash_subject(f'{series} {part}')}"


def _subject(header: Any) -> str:
    keys = ("PatientID", "PatientName", "SeriesInstanceUID", "SOPInstanceUID")
    return hash_subject(next((str(header.get(key)) for key in keys if str(header.get(key) or "").strip()), ""))


def _read_file(path: Path) -> list[_Slice]:
    import pydicom

    try:
        data = pydicom.dcmread(path)
    except Exception as error:
        raise UnreadableError(f"not a readable DICOM file ({type(error).__name__})") from None
    frames = int(data.get("NumberOfFrames") or 1)
    check_shape((frames, data.Rows, data.Columns))
    pixels = _read_pixels(data)
    if data.get("PhotometricInterpretation") == "PALETTE COLOR" or int(data.get("SamplesPerPixel", 1)) > 1:
        values = to_grey(pixels.reshape(-1, *pixels.shape[-2:]))
        # Bytes stay bytes, so that they are left as they are like grey ones.
        values = np.rint(values).astype(pixels.dtype).reshape(pixels.shape[:-1])
    else:
        values = _rescale(data, pixels.reshape(frames, *pixels.shape[-2:]))
    values = values.reshape(frames, *values.shape[-2:])
    try:
        return [_Slice(image, **_geometry(data, index)) for index, image in enumerate(values)]
    except (ValueError, TypeError, ArithmeticError):  # whose text may hold values of the file
        raise UnreadableError("a DICOM file with a malformed geometry") from None


def _read_pixels(data: Any) -> ndarray:
    from pydicom.pixels import apply_color_lut, convert_color_space

    syntax = getattr(data.file_meta, "TransferSyntaxUID", None)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableError("a DICOM file without pixels")
    try:
        pixels: ndarray = data.pixel_array
        if str(data.get("PhotometricInterpretation", "")).startswith("YBR") and data.SamplesPerPixel == 3:
            pixels = convert_color_space(pixels, data.PhotometricInterpretation, "RGB")
        if data.get("PhotometricInterpretation") == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, data)
        return pixels
    except Exception as error:
        if syntax is not None and syntax.is_compressed and "missing dependencies" in str(error):
            reason = f"compressed ({syntax.name}), and no decoder is installed: pip install 'gan-zoo[medical]'"
            raise UnreadableError(reason) from None
        raise UnreadableError(f"truncated or damaged ({type(error).__name__})") from None


def _rescale(data: Any, pixels: ndarray) -> ndarray:
    """Return float32 (frames, H, W) with slope, intercept and table applied, black lowest; plain bytes as they are."""
    from pydicom.pixels import apply_modality_lut

    inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
    # The ends of the range that the stored bits can hold: inverted about its middle, which is equal for all slices.
    bits, signed = int(data.get("BitsStored", 16)), int(data.get("PixelRepresentation", 0))
    ends = np.array([-(1 << (bits - 1)), (1 << (bits - 1)) - 1] if signed else [0, (1 << bits) - 1])
    scales = _frame_scales(data, len(pixels))
    plain = all(name not in data for name in ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"))
    if scales is None and plain and pixels.dtype == np.uint8:
        return (1 << bits) - 1 - pixels if inverted else pixels
    if scales is not None:
        slopes, intercepts = scales
        values = pixels.astype(np.float32) * slopes[:, None, None] + intercepts[:, None, None]
        low, high = (end * slopes[:, None, None] + intercepts[:, None, None] for end in ends)
    else:
        values = np.asarray(apply_modality_lut(pixels, data), np.float32)
        low, high = np.asarray(apply_modality_lut(ends, data) if not plain else ends, np.float32)
    return np.asarray(low + high, np.float32) - values if inverted else values


def _frame_scales(data: Any, frames: int) -> tuple[ndarray, ndarray] | None:
    """Return slopes and intercepts (frames,) of the functional groups of an enhanced file; None: it has none."""
    shared = [*data.get("SharedFunctionalGroupsSequence", [])]
    own = [*data.get("PerFrameFunctionalGroupsSequence", [])]
    scales = []
    for index in range(frames):
        groups = [*(own[index : index + 1]), *shared]
        found = [item for group in groups for item in group.get("PixelValueTransformationSequence", [])]
        if not found:
            return None
        scales.append((float(found[0].get("RescaleSlope", 1)), float(found[0].get("RescaleIntercept", 0))))
    slopes, intercepts = np.array(scales, np.float32).T
    return slopes, intercepts


def _geometry(data: Any, index: int) -> dict[str, Any]:
    """Return orientation, position and spacing of a frame, as far as the file has them."""

    def find(sequence: str, key: str) -> Any:
        groups = [*data.get("SharedFunctionalGroupsSequence", [])]
        frames = data.get("PerFrameFunctionalGroupsSequence", [])
        groups += [frames[index]] if index < len(frames) else []
        found = [item.get(key) for group in groups for item in group.get(sequence, [])]
        return next((value for value in (*found, data.get(key)) if value is not None), None)

    orientation = find("PlaneOrientationSequence", "ImageOrientationPatient")
    position = find("PlanePositionSequence", "ImagePositionPatient")
    spacing = find("PixelMeasuresSequence", "PixelSpacing") or data.get("ImagerPixelSpacing")
    thickness = find("PixelMeasuresSequence", "SpacingBetweenSlices") or find("PixelMeasuresSequence", "SliceThickness")
    several = int(data.get("NumberOfFrames") or 1) > 1
    if several and len(data.get("PerFrameFunctionalGroupsSequence", [])) == 0:
        position = None  # that of the first frame alone
    return {
        "directions": None if orientation is None else np.array(orientation, float).reshape(2, 3),
        "position": None if position is None else np.array(position, float),
        "spacing": tuple(map(float, spacing)) if spacing else (1.0, 1.0),
        "thickness": float(thickness or 1),
    }


def _stack(files: Sequence[Sequence[_Slice]]) -> Scan:
    """Make a volume in RAS of slices with a geometry, and a stack of images of others."""
    import nibabel

    slices = [image for file in files for image in file]
    sizes = sorted({image.values.shape for image in slices})
    if len(sizes) > 1:
        raise UnreadableError(f"slices of several sizes ({', '.join(f'{w}x{h}' for h, w in sizes)})")
    first = slices[0]
    if first.directions is None or any(image.position is None for image in slices):
        return Scan(np.stack([image.values for image in slices]))
    normal = np.cross(*first.directions)
    places = np.array([image.position @ normal for image in slices])
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    step = float(np.median(steps)) if len(steps) else first.thickness
    if len(steps) and steps.min() < 1e-3:
        raise UnreadableError("several slices at one place, such as a time series")
    if len(steps) and abs(steps - step).max() > MAX_SPACING_ERROR * step:
        raise UnreadableError(f"slices are missing, or not evenly spaced ({steps.min():g} to {steps.max():g} mm)")
    volume = np.stack([slices[index].values.T for index in order], axis=-1)  # (columns, rows, slices)
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = normal * step
    affine[:3, 3] = slices[order[0]].position
    affine[:2] *= -1  # LPS to RAS
    upright = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume, affine))
    return Scan(np.asarray(upright.dataobj), upright.affine)


def _recognise(path: Path) -> bool:
    return (path.is_dir() and holds_only(path, SUFFIXES)) or _is_dicom(path)


register_source("dicom", DicomSource, recognise=_recognise)
