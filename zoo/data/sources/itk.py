"""Volumes that SimpleITK reads: NRRD and MetaImage."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np

from zoo.data.decode import UnreadableError
from zoo.data.digest import hash_bytes
from zoo.data.sources.files import size_and_time
from zoo.data.sources.registry import register_source
from zoo.data.sources.scans import Scan, ScanSource, check_real, check_shape

HEADERS = (".nhdr", ".mhd")  # suffixes of files whose voxels lie in others
MAX_HEADER_BYTES = 1 << 16


class ItkSource(ScanSource):
    """A ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``, or a folder of them."""

    kind = "NRRD/MHA"
    suffixes = (".nrrd", ".nhdr", ".mha", ".mhd")
    extra = ("formats", ("SimpleITK",))

    def signature(self) -> str:
        # Voxels may lie in another file, which changes without its header.
        headers = [self._place(name) for name in self.files.names if name.lower().endswith(HEADERS)]
        parts = [super().signature()]
        for path in (path for header in headers for path in _voxel_files(header)):
            with contextlib.suppress(OSError, ValueError):  # a missing one is reported when it is read
                parts.append(f"{path.name}\n{size_and_time(path)}")
        return hash_bytes(*parts) if headers else parts[0]

    def read_scan(self, path: Path) -> Scan:
        import SimpleITK

        SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            check_shape(reader.GetSize())
            image = reader.Execute()
        except RuntimeError as error:  # of many lines, with paths of the machine it was built on
            raise UnreadableError(f"damaged, or no {path.suffix[1:].upper()} file") from error
        if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() < 3:
            raise UnreadableError(
                f"{image.GetDimension()}-D with {image.GetNumberOfComponentsPerPixel()} values a voxel"
            )
        if image.GetDimension() > 3:
            image = image[:, :, :, 0]
        image = SimpleITK.DICOMOrient(image, "LPS")  # axes that grow to the left, to the back and to the top
        values = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
        check_real(values.dtype)
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        # To RAS: the first two axes change their sign, in space and in the array.
        last = np.array([values.shape[0] - 1, values.shape[1] - 1, 0])
        affine[:3, 3] += affine[:3, :3] @ last
        affine[:, :2] *= -1
        affine[:2] *= -1
        values = values[::-1, ::-1]
        return Scan(values if values.dtype == np.uint8 else values.astype(np.float32), affine)


def _voxel_files(header: Path) -> list[Path]:
    """Return the files that a header names; for a list or a pattern all in its folder."""
    try:
        with header.open("rb") as file:
            text = file.read(MAX_HEADER_BYTES).decode("latin-1")
        name = (re.findall(r"(?im)^(?:ElementDataFile *=|data ?file *:)[ \t]*(.*?)[ \t\r]*$", text) or [""])[0]
        if name and not re.search(r"%|^LIST|^LOCAL", name):
            return [header.parent / name]
        return sorted(path for path in header.parent.iterdir() if path.is_file())
    except (OSError, ValueError):  # reported when it is read
        return []


register_source("itk", ItkSource, folders=True)
