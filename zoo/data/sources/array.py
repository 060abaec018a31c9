"""A ``.npy`` or ``.npz`` file of images."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError, error_message
from zoo.data.decode import MAX_IMAGE_PIXELS
from zoo.data.files import require_whole
from zoo.data.folder_layout import Listing
from zoo.data.sources.files import PathSource
from zoo.data.sources.medmnist import MedMnistSource, is_medmnist
from zoo.data.sources.registry import register_source
from zoo.data.sources.source import READ_ERRORS, Source, SourceOptions


class ArraySource(PathSource):
    """A ``.npy`` (memory-mapped) or ``.npz`` (loaded) of images.

    Shapes: (N, H, W), (N, H, W, C), (N, C, H, W) or (H, W). Of several arrays in a ``.npz`` the one called "images",
    "arr_0" or "x" is taken.
    """

    kind = "array"
    strict = True
    any_channels = True

    @cached_property
    def _array(self) -> ndarray:
        try:
            if self.path.suffix.lower() == ".npy":
                array: ndarray = np.lib.format.open_memmap(self.path, mode="r")
            else:
                with self.path.open("rb") as file:  # given a path, numpy leaves a damaged file open
                    array = self._select_array(np.load(file, allow_pickle=False))
        except (*READ_ERRORS, OverflowError, KeyError, SyntaxError) as error:  # SyntaxError: tokenize's in old headers
            reason = "it holds Python objects" if "allow_pickle" in str(error) else error_message(error)
            raise ZooError(f"{self.path}: not a readable array ({reason})") from error
        if array.dtype.kind not in "biuf":
            raise ZooError(f"{self.path}: {array.dtype} values are not intensities; use bool, integers or floats")
        return self._channels_last(array)

    def _select_array(self, archive: Any) -> ndarray:
        names = getattr(archive, "files", None)
        if names is None:
            return np.asarray(archive)  # a .npy file named .npz
        known = [name for name in ("images", "arr_0", "x") if name in names]
        if len(names) != 1 and not known:
            raise ZooError(
                f"{self.path}: holds {', '.join(names) or 'no array'}; expected one array, or one called 'images'"
            )
        return np.asarray(archive[(known or names)[0]])

    def _channels_last(self, array: ndarray) -> ndarray:
        """Return a view (N, H, W) or (N, H, W, C)."""
        shape = array.shape
        if array.ndim == 2:
            array = array[None]
        # (H, W, 3) would otherwise be read as H images of W x 3 pixels.
        if array.ndim == 3 and array.shape[2] in (3, 4):
            raise self._shape_error(shape, f"looks like one colour image; save it with shape {(1, *shape)}")
        if array.ndim == 4:
            array = np.moveaxis(array, self._channel_axis(shape), 3)
        elif array.ndim != 3:
            raise self._shape_error(shape, "is not a set of images")
        elif self.options.channels not in (1, 3, None):
            raise self._shape_error(shape, f"has no axis of {self.options.channels} channels (data.channels)")
        if not array.size or array.shape[1] * array.shape[2] > MAX_IMAGE_PIXELS:
            raise self._shape_error(shape, f"has no images of 1 to {MAX_IMAGE_PIXELS} pixels")
        return array

    def _channel_axis(self, shape: tuple[int, ...]) -> int:
        counts = {1, 3} if self.options.channels in (1, 3, None) else {self.options.channels}
        # Without a wanted number, any small axis will do where none has 1 or 3 channels.
        for allowed in (counts, range(16) if self.options.channels is None else ()):
            for axis in (3, 1):
                if shape[axis] in allowed:
                    return axis
        raise self._shape_error(shape, f"has no axis of {' or '.join(map(str, counts))} channels (data.channels)")

    def _shape_error(self, shape: tuple[int, ...], reason: str) -> ZooError:
        return ZooError(f"{self.path}: shape {shape} {reason}. Use (N, H, W), (N, H, W, C), (N, C, H, W) or (H, W)")

    @cached_property
    def layout(self) -> Listing:
        count = len(self._array)
        width = len(str(count - 1))  # equal widths sort in the order of the array
        return Listing([f"{index:0{width}d}" for index in range(count)])

    def raw(self, index: int) -> ndarray:
        require_whole(self._array)
        return np.asarray(self._array[index])


def open_array(path: Path, options: SourceOptions) -> Source:
    """Open a file of images, or an archive of MedMNIST."""
    if path.suffix.lower() == ".npz" and is_medmnist(path):
        return MedMnistSource(path, options)
    return ArraySource(path, options)


register_source("array", open_array, suffixes=(".npy", ".npz"))
