"""SSIM of 8-bit images in compiled C (``kernel.c``): uniform window, on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.core.threads import map_ahead
from zoo.metrics.ssim.local_statistics import K1, K2, WINDOWS, Images, SSIMWindow, are_bytes
from zoo.runtime.c_compiler import CompiledLibrary, compile_and_load

_TABLE_BYTES = 2**28  # of the prepared images of one table
_SIZE = ctypes.c_ssize_t


def load_kernel() -> CompiledLibrary | None:
    """Return the compiled kernel, or None if it cannot be compiled."""
    library = compile_and_load(Path(__file__).with_name("kernel.c"))
    if library is not None:
        address, constants, code = ctypes.c_void_p, (ctypes.c_double, ctypes.c_double, ctypes.c_int), library.code
        code.ssim_lanes.argtypes, code.ssim_lanes.restype = [], _SIZE
        code.ssim_bytes.argtypes, code.ssim_bytes.restype = [_SIZE] * 4, _SIZE
        code.ssim_prepare.argtypes, code.ssim_prepare.restype = [address, *[_SIZE] * 4, *constants, address], None
        code.ssim_table.argtypes = [address, _SIZE, address, *[_SIZE] * 4, *constants, address]
    return library


def supports_images(*images: Images, data_range: float, window: SSIMWindow) -> bool:
    """Return whether the kernel can compare these images."""
    on_cpu = all(image.device.type == "cpu" for image in images if isinstance(image, Tensor))
    return are_bytes(*images) and on_cpu and window is WINDOWS["uniform"] and data_range <= 65535


class CTable:
    """SSIM with prepared images in compiled C: exact integer sums, so the same bits with any number of threads.

    Args:
        code: of :func:`load_kernel`.
        x: (N, C, H, W) uint8, on the CPU.
        data_range: 255 to 65,535.
        level: a grey level; any is correct, the background of the other images is fastest.
    """

    tile = 64  # images of the other set per job

    def __init__(self, code: ctypes.CDLL, x: Tensor, data_range: float, level: int) -> None:
        self.code, self.shape = code, tuple(x.shape[1:])
        self.constants = ((K1 * data_range) ** 2, (K2 * data_range) ** 2, level)
        self.prepared = torch.empty(code.ssim_bytes(len(x), *self.shape), dtype=torch.uint8)
        x = x.contiguous()
        code.ssim_prepare(x.data_ptr(), len(x), *self.shape, *self.constants, self.prepared.data_ptr())

    @staticmethod
    def capacity(code: ctypes.CDLL, shape: tuple[int, ...]) -> int:
        """Return how many images of (C, H, W) one table holds."""
        lanes = code.ssim_lanes()
        return int(lanes * max(1, _TABLE_BYTES // code.ssim_bytes(lanes, *shape)))

    def stream(self, tiles: Iterable[tuple[Images, int]], threads: int) -> Iterator[Tensor]:
        """Yield, for each (images, n), the SSIM (len(images), n) of these images with the first n prepared ones."""
        return map_ahead(self._compare, tiles, threads)

    def _compare(self, tile: tuple[Images, int]) -> Tensor:
        images, count = tile
        array = np.ascontiguousarray(images)
        out = torch.empty(len(array), count)
        failed = self.code.ssim_table(  # ctypes releases the interpreter's lock meanwhile
            self.prepared.data_ptr(), count, array.ctypes.data, len(array), *self.shape, *self.constants, out.data_ptr()
        )
        if failed:
            raise MemoryError("SSIM: not enough memory to compare images")
        return out
