"""NIfTI volumes, and FreeSurfer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from zoo.data.decode import UnreadableError
from zoo.data.sources.registry import register_source
from zoo.data.sources.scans import Scan, ScanSource, check_real, check_shape


class NiftiSource(ScanSource):
    """A ``.nii``, ``.nii.gz``, ``.mgz`` or ``.mgh``, or a folder of them."""

    kind = "NIfTI"
    suffixes = (".nii", ".nii.gz", ".mgz", ".mgh")
    extra = ("medical", ("nibabel",))

    def read_scan(self, path: Path) -> Scan:
        import nibabel

        try:
            image: Any = nibabel.load(path)
        except nibabel.filebasedimages.ImageFileError:  # its text holds the whole path
            raise UnreadableError("damaged, or no NIfTI or MGH file") from None
        shape = check_shape(image.shape)
        check_real(image.get_data_dtype())
        upright = nibabel.as_closest_canonical(nibabel.Nifti1Image(_read_values(image).reshape(shape), image.affine))
        return Scan(np.asarray(upright.dataobj), upright.affine)


def _read_values(image: Any) -> ndarray:
    """Return bytes that have no scale as they are, and anything else as float32, scaled."""
    plain = getattr(image.dataobj, "slope", 1) == 1 and getattr(image.dataobj, "inter", 0) == 0
    if plain and image.get_data_dtype() == np.uint8:
        return np.asarray(image.dataobj)
    values: ndarray = image.get_fdata(caching="unchanged", dtype=np.float32)
    return values


register_source("nifti", NiftiSource, folders=True)
