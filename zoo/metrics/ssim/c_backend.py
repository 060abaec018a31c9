"""SSIM of 8-bit images in compiled C (``kernel.c``): uniform window, on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.core.threads import map_ahead
from zoo.metrics.ssim import c_compiler
from zoo.metrics.ssim.local_statistics import K1, K2, WINDOWS, Images, Window, are_bytes

_BUDGET = 2**28  # bytes that the prepared images of one table may take
_SIZE = ctypes.c_ssize_t


def library() -> c_compiler.Library | None:
    """The compiled kernel, where there is one."""
    found = c_compiler.compile_and_load(Path(__file__).with_name("kernel.c"))
    if found is not None:
        address, constants, code = ctypes.c_void_p, (ctypes.c_double, ctypes.c_double, ctypes.c_int), found.code
        code.ssim_lanes.argtypes, code.ssim_lanes.restype = [], _SIZE
        code.ssim_bytes.argtypes, code.ssim_bytes.restype = [_SIZE] * 4, _SIZE
        code.ssim_prepare.argtypes, code.ssim_prepare.restype = [address, *[_SIZE] * 4, *constants, address], None
        code.ssim_table.argtypes = [address, _SIZE, address, *[_SIZE] * 4, *constants, address]
    return found


def possible(*images: Images, data_range: float, window: Window) -> bool:
    """Whether the kernel can compare these."""
    on_cpu = all(image.device.type == "cpu" for image in images if isinstance(image, Tensor))
    return are_bytes(*images) and on_cpu and window is WINDOWS["uniform"] and data_range <= 65535


class NativeTable:
    """Compiled C: exact integer sums, one rounding at the end; the same bits whatever the number of threads.

    Args:
        code: of `library`.
        x: (N, C, H, W) uint8, on the CPU.
        data_range: 255 to 65,535.
        level: a grey level that is frequent in the other images; any is correct, the background's is fast.
    """

    tile = 64  # images of the other set a job takes

    def __init__(self, code: ctypes.CDLL, x: Tensor, data_range: float, level: int) -> None:
        self.code, self.shape = code, tuple(x.shape[1:])
        self.constants = ((K1 * data_range) ** 2, (K2 * data_range) ** 2, level)
        self.prepared = torch.empty(code.ssim_bytes(len(x), *self.shape), dtype=torch.uint8)
        x = x.contiguous()
        code.ssim_prepare(x.data_ptr(), len(x), *self.shape, *self.constants, self.prepared.data_ptr())

    @staticmethod
    def capacity(code: ctypes.CDLL, shape: tuple[int, ...]) -> int:
        """How many images of (C, H, W) one table takes."""
        lanes = code.ssim_lanes()
        return int(lanes * max(1, _BUDGET // code.ssim_bytes(lanes, *shape)))

    def stream(self, tiles: Iterable[tuple[Images, int]], threads: int) -> Iterator[Tensor]:
        """For each (images, n): SSIM (len(images), n) of those images with the first n of mine, in order."""
        return map_ahead(self._compare, tiles, threads)

    def _compare(self, tile: tuple[Images, int]) -> Tensor:
        theirs, count = tile
        array = np.ascontiguousarray(theirs)
        out = torch.empty(len(array), count)
        failed = self.code.ssim_table(  # ctypes lets go of the interpreter's lock
            self.prepared.data_ptr(), count, array.ctypes.data, len(array), *self.shape, *self.constants, out.data_ptr()
        )
        if failed:
            raise MemoryError("no memory to compare images")
        return out
