"""SSIM in torch: either window, images of any type on any device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.metrics.ssim.local_statistics import K1, K2, WINDOWS, Images, SSIMWindow, compute_statistics

_TABLE_BYTES = 2**29  # of the prepared images of one table
_CPU_BLOCK_VALUES = 2**16  # computed at once: three such buffers fit into the cache
_DEVICE_BLOCK_VALUES = 2**24  # on an accelerator, where starting a kernel is what takes time
_BLOCK_IMAGES = 4  # of either set: each image is loaded into the cache once for as many pairs


class TorchTable:
    """SSIM of prepared images ("mine") with other images ("theirs") in torch, in blocks that fit into the cache.

    Args:
        x: (N, C, H, W) of any type; computed on its device, in ``dtype``.
        exact: whether all images are bytes.
    """

    def __init__(self, x: Tensor, data_range: float, window: SSIMWindow, dtype: torch.dtype, exact: bool) -> None:
        self.units = _Units(window, data_range, dtype, exact and window is WINDOWS["uniform"])
        self.device, self.on_cpu = x.device, x.device.type == "cpu"
        self.tile = 32 if self.on_cpu else 256
        self.scratch: dict[tuple[int, ...], _Scratch] = {}
        channels, height, width = x.shape[1:]
        self.windows = channels * (height - window.halo) * (width - window.halo)
        self.mine = self.units.maps(x).as_mine()

    @staticmethod
    def capacity(shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Return how many images of (C, H, W) one table holds."""
        return max(1, _TABLE_BYTES // (6 * dtype.itemsize * math.prod(shape)))

    def stream(self, tiles: Iterable[tuple[Images, int]], threads: int) -> Iterator[Tensor]:
        """Yield, for each (images, n), the SSIM (len(images), n) of these images with the first n of mine.

        One thread, whatever ``threads``: several would wait for one another at each of two dozen operations a block.
        """
        return (self._compare(*tile) for tile in tiles)

    def _compare(self, images: Images, count: int) -> Tensor:
        theirs = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        other = self.units.maps(theirs.to(self.device)).as_theirs()
        sums = torch.zeros(len(theirs), count, dtype=self.units.dtype, device=self.device)
        for rows, j, i in self._blocks(other, count):
            self._add_up(other.part(j, rows), self.mine.part(i, rows), sums[j, i])
        return sums / self.windows

    def _blocks(self, theirs: _Maps, count: int) -> Iterator[tuple[slice, slice, slice]]:
        """Yield rows of windows, images of theirs and images of mine for blocks that fit into the cache."""
        channels, height, width = theirs.sums.shape[1:]
        block = _CPU_BLOCK_VALUES if self.on_cpu else _DEVICE_BLOCK_VALUES
        rows = min(height, max(1, block // (_BLOCK_IMAGES**2 * channels * width)))
        pairs = max(1, block // (channels * rows * width))
        columns = min(count, max(1, math.isqrt(pairs)))
        step = max(1, pairs // columns)
        for r in range(0, height, rows):
            for j in range(0, len(theirs.sums), step):
                for i in range(0, count, columns):
                    yield slice(r, min(r + rows, height)), slice(j, j + step), slice(i, min(i + columns, count))

    def _add_up(self, theirs: _Maps, mine: _Maps, out: Tensor) -> None:
        shape = (len(theirs.sums), *mine.sums.shape)
        if shape not in self.scratch:
            self.scratch[shape] = _Scratch(shape, mine)
        out += self.scratch[shape].compared(theirs, mine)


@dataclass(frozen=True)
class _Units:
    """The units of the computation.

    Exact, for bytes under the uniform window: grey levels; covariances times 24, so that 2 cov is
    sum(xy) - sum(x) sum(y) / 49. Sums over windows are integers that float32 represents exactly. With
    sum(y) = 49 p + q, p the rounded mean, 2 cov is (sum(xy) - p sum(x)) - (q / 49) sum(x): for a flat patch, however
    bright, both parts are small, so that nothing is lost when they are subtracted.

    Otherwise: fractions of the range, minus the mean of each image.
    """

    window: SSIMWindow
    data_range: float
    dtype: torch.dtype
    exact: bool

    @property
    def one(self) -> float:
        """One unit, in pixel values."""
        return 1.0 if self.exact else self.data_range

    @property
    def c1(self) -> float:
        return (K1 * self.data_range / self.one) ** 2

    @property
    def c2(self) -> float:
        return (K2 * self.data_range / self.one) ** 2 * (24 if self.exact else 1)

    def maps(self, x: Tensor) -> _Maps:
        """Prepare images (N, C, H, W)."""
        if not self.exact:
            m = compute_statistics(x, self.data_range, self.window, self.dtype)
            pixels, sums, mean, var = m.centred, m.local, m.mean, m.var
        else:
            pixels, mass = x.to(self.dtype), self.window.mass
            sums = self._sum(pixels)
            whole, rest = _split(sums, mass)
            mean, var = sums / mass, ((self._sum(pixels**2) - whole * sums) - rest * sums) / 2
        sums, mean, var = (F.pad(values, (0, self.window.halo)) for values in (sums, mean, var))
        return _Maps(self, pixels, sums, None, mean, mean**2 + self.c1 / 2, var + self.c2 / 2)

    def _sum(self, x: Tensor) -> Tensor:
        return self.window.slide(self.window.slide(x, -2), -1)


def _split(sums: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Return p and q / 49."""
    whole = (sums / mass).round()
    return whole, (sums - whole * mass) / mass


@dataclass(frozen=True)
class _Maps:
    """What pairs need of images, with rows as long as those of pixels: (N, C, H - halo, W).

    Mine include the factors of 2 of 2 cov and 2 mean mean.
    """

    units: _Units
    pixels: Tensor  # (N, C, H, W)
    sums: Tensor  # in windows, or their means; of theirs, if exact: p
    rest: Tensor | None  # of theirs, if exact: q / 49
    mean: Tensor  # of the images, not centred
    square: Tensor  # mean^2 + C1 / 2
    var: Tensor  # plus C2 / 2

    def as_mine(self) -> _Maps:
        if self.units.exact:
            return replace(self, mean=self.mean * 2)
        twice = 2 * self.units.window.correction
        pixels = self.pixels * (twice / self.units.window.mass)
        return replace(self, pixels=pixels, sums=self.sums * twice, mean=self.mean * 2)

    def as_theirs(self) -> _Maps:
        if not self.units.exact:
            return self
        whole, rest = _split(self.sums, self.units.window.mass)
        return replace(self, sums=whole, rest=rest)

    def part(self, images: slice, rows: slice) -> _Maps:
        """Select some rows of windows of some images."""
        pixels = slice(rows.start, rows.stop + self.units.window.halo)
        sums, mean, square, var = (values[images, :, rows] for values in (self.sums, self.mean, self.square, self.var))
        rest = None if self.rest is None else self.rest[images, :, rows]
        return _Maps(self.units, self.pixels[images, :, pixels], sums, rest, mean, square, var)


class _Scratch:
    """Buffers for blocks of one shape (theirs, mine, channels, rows, columns), allocated once.

    Rows lie one after the other, so that the sums along rows are additions of long arrays. Windows that reach over the
    right end of their row contain nonsense, and are left out.
    """

    def __init__(self, shape: tuple[int, ...], like: _Maps) -> None:
        units, size = like.units, math.prod(shape)
        self.window, self.exact = units.window, units.exact
        outer, rows, width, halo = shape[:3], shape[3], shape[4], self.window.halo
        tall = (*outer, rows + halo, width)
        a, b, c = (like.sums.new_zeros(math.prod(tall) + halo) for _ in range(3))
        self.product = a[: math.prod(tall)].view(tall)
        self.down_scratch = b[: size + math.prod(outer) * self.window.excess * width].view(*outer, -1, width)
        self.down = c[:size].view(shape)
        self.run, self.run_scratch, self.run_out = c[: size + halo], b[: size + self.window.excess], a[:size]
        self.a, self.b, self.c = (buffer[:size].view(shape) for buffer in (a, b, c))
        self.inside = self.a[..., : width - halo]
        self.c1, self.c2 = like.sums.new_tensor(units.c1), like.sums.new_tensor(units.c2)
        self.c2_each = self.c2 / self.window.mass

    def compared(self, theirs: _Maps, mine: _Maps) -> Tensor:
        """Return the sums over windows (theirs, mine) of the SSIM, as :func:`ssim_terms` defines it."""
        pixels = theirs.pixels[:, None]
        if self.exact:
            torch.mul(pixels, mine.pixels, out=self.product)
        else:
            torch.addcmul(self.c2_each, pixels, mine.pixels, out=self.product)  # whose sum over a window is C2
        self.window.slide(self.product, -2, self.down, self.down_scratch)
        self.window.slide(self.run, 0, self.run_out, self.run_scratch)
        self.a.addcmul_(theirs.sums[:, None], mine.sums, value=-1)
        if theirs.rest is not None:
            self.a.add_(torch.addcmul(self.c2, theirs.rest[:, None], mine.sums, value=-1, out=self.b))
        torch.addcmul(self.c1, theirs.mean[:, None], mine.mean, out=self.b)
        self.a.mul_(self.b)
        torch.add(theirs.square[:, None], mine.square, out=self.b)
        torch.add(theirs.var[:, None], mine.var, out=self.c)
        self.a.div_(self.b.mul_(self.c))
        return self.inside.sum((-3, -2, -1))
