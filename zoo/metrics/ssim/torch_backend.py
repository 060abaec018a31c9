"""SSIM of any images in plain torch: either window, any type and device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.metrics.ssim.local_statistics import K1, K2, WINDOWS, Images, Window, local_moments

_BUDGET = 2**29  # bytes that the prepared images of one table may take
_CACHED = 2**16  # numbers worked on at once: three such buffers fit a cache
_SIDE = 4  # images of either set in a block: each is fetched from farther away once for as many pairs
_GRAIN = 8  # the box grows by so many pixels: growing costs as much as preparing all images did
_ON_DEVICE = 2**24  # numbers at once on an accelerator, where launching a kernel is what costs


class TorchTable:
    """Plain torch, in blocks that fit a cache.

    Windows that hold nothing but ``level`` in the other image are not compared: covariance and its variance are zero
    there, and what is left, a sum over windows of mine alone, is added up beforehand. Here that is what lies outside of
    one box around all other images so far.

    Args:
        x: (N, C, H, W) of any type; the arithmetic runs on its device, in ``dtype``.
        level: a pixel value that is frequent in the other images, in their units; any is correct.
        exact: all images are bytes.
    """

    def __init__(
        self, x: Tensor, data_range: float, level: float, window: Window, dtype: torch.dtype, exact: bool
    ) -> None:
        self.x, self.level, self.window = x, level, window
        self.units = _Units(window, data_range, dtype, exact and window is WINDOWS["uniform"])
        self.on_cpu = x.device.type == "cpu"  # elsewhere, looking for the box would wait for the device every time
        self.tile = 32 if self.on_cpu else 256
        self.outside = self._with_level() if self.on_cpu else None
        self.scratch: dict[tuple[int, ...], _Scratch] = {}
        channels, height, width = x.shape[1:]
        self.windows = channels * (height - window.halo) * (width - window.halo)
        self.box = Box(-1)
        self._crop(Box() if self.on_cpu else Box(0, height, 0, width))

    @staticmethod
    def capacity(shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """How many images of (C, H, W) one table takes."""
        return max(1, _BUDGET // (6 * dtype.itemsize * math.prod(shape)))

    def stream(self, tiles: Iterable[tuple[Images, int]], threads: int) -> Iterator[Tensor]:
        """For each (images, n): SSIM (len(images), n) of those images with the first n of mine, in order.

        One thread, whatever ``threads``: several would wait for one another at every operation, of which there are two
        dozen a block, and longest of all where other programs keep the processor busy.
        """
        return (self._compare(*tile) for tile in tiles)

    def _compare(self, images: Images, count: int) -> Tensor:
        theirs = (images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))).to(self.x.device)
        if self.on_cpu:
            self._crop(self.box.around(theirs != self.level, self.window.halo))
        sums = self.rest[:count].expand(len(theirs), -1).clone()
        if self.mine is not None:
            other = self.units.maps(self.box.cut(theirs)).as_theirs()
            for rows, j, i in self._blocks(other, count):
                self._add_up(other.part(j, rows), self.mine.part(i, rows), sums[j, i])
        return sums / self.windows

    def _blocks(self, theirs: _Maps, count: int) -> Iterator[tuple[slice, slice, slice]]:
        """Rows of windows, which of the others, and which of mine, of about as many numbers as a cache holds."""
        channels, height, width = theirs.sums.shape[1:]
        room = _CACHED if self.on_cpu else _ON_DEVICE
        rows = min(height, max(1, room // (_SIDE**2 * channels * width)))
        pairs = max(1, room // (channels * rows * width))
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

    def _with_level(self) -> Tensor:
        """SSIM of mine with an image of the one level, window by window, channels added: (N, H - halo, W - halo)."""
        units, found = self.units, []
        level = self.level / units.one
        for images in self.x.split(16):
            maps = units.maps(images)
            luminance = (2 * level * maps.mean + units.c1) / (maps.square + (level**2 + units.c1 / 2))
            found.append((luminance * (units.c2 / (maps.var + units.c2 / 2))).sum(1)[..., : -self.window.halo])
        return torch.cat(found)

    def _crop(self, box: Box) -> None:
        """Prepare my images inside the box, and add up what they have outside of it."""
        if box == self.box:
            return
        self.box = box
        height, width = self.x.shape[2:]
        halo = self.window.halo
        self.rest = torch.zeros(len(self.x), dtype=self.units.dtype, device=self.x.device)
        if self.outside is not None and box != (0, height, 0, width):
            within = self.outside[:, box.top : max(0, box.bottom - halo), box.left : max(0, box.right - halo)]
            rest = self.outside.sum((1, 2), dtype=torch.float64) - within.sum((1, 2), dtype=torch.float64)
            self.rest = rest.to(self.units.dtype)
        self.mine = self.units.maps(box.cut(self.x)).as_mine() if box.bottom else None
        self.scratch.clear()


class Box(NamedTuple):
    """Pixels of an image; all zeros: none."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def cut(self, x: Tensor) -> Tensor:
        return x[..., self.top : self.bottom, self.left : self.right]

    def around(self, marked: Tensor, halo: int) -> Box:
        """A little more than this box and all windows that hold a marked pixel of (N, C, H, W)."""
        plane = marked.flatten(0, 1).any(0)
        spans = []
        for line in (plane.any(1), plane.any(0)):
            where = line.nonzero()
            if not len(where):
                return self
            first, last = int(where[0]) - halo, int(where[-1]) + halo
            spans += [max(0, first // _GRAIN * _GRAIN), min(len(line), (last // _GRAIN + 1) * _GRAIN)]
        new = Box(*spans)
        if not self.bottom:
            return new
        return Box(
            min(self.top, new.top),
            max(self.bottom, new.bottom),
            min(self.left, new.left),
            max(self.right, new.right),
        )


@dataclass(frozen=True)
class _Units:
    """What the arithmetic is done in.

    Exact, for bytes under the uniform window: grey levels; covariances times 24, so that 2 cov is
    sum(xy) - sum(x) sum(y) / 49. Sums over windows are integers that float32 holds, and so is what cancels: with
    sum(y) = 49 p + q, p the rounded mean, 2 cov is (sum(xy) - p sum(x)) - (q / 49) sum(x), and of a flat patch, however
    bright, little is left in either part.

    Otherwise: parts of the range, less the mean of each image.
    """

    window: Window
    data_range: float
    dtype: torch.dtype
    exact: bool

    @property
    def one(self) -> float:
        """A unit, in those of the images."""
        return 1.0 if self.exact else self.data_range

    @property
    def c1(self) -> float:
        return (K1 * self.data_range / self.one) ** 2

    @property
    def c2(self) -> float:
        return (K2 * self.data_range / self.one) ** 2 * (24 if self.exact else 1)

    def maps(self, x: Tensor) -> _Maps:
        """Of images (N, C, H, W)."""
        if not self.exact:
            m = local_moments(x, self.data_range, self.window, self.dtype)
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
    """p, and q / 49."""
    whole = (sums / mass).round()
    return whole, (sums - whole * mass) / mass


@dataclass(frozen=True)
class _Maps:
    """What images bring to each pair, with rows as long as those of pixels: (N, C, H - halo, W).

    Mine bring the factors of 2 cov and 2 mean mean.
    """

    units: _Units
    pixels: Tensor  # (N, C, H, W)
    sums: Tensor  # over windows, or their means; theirs, exact: p
    rest: Tensor | None  # theirs, exact: q / 49
    mean: Tensor  # of the images themselves
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
        """Some rows of windows of some images."""
        pixels = slice(rows.start, rows.stop + self.units.window.halo)
        sums, mean, square, var = (values[images, :, rows] for values in (self.sums, self.mean, self.square, self.var))
        rest = None if self.rest is None else self.rest[images, :, rows]
        return _Maps(self.units, self.pixels[images, :, pixels], sums, rest, mean, square, var)


class _Scratch:
    """Buffers for blocks of one shape (theirs, mine, channels, rows, columns), allocated once.

    Rows lie behind one another, so that a shift by a column is reading all of them from one number on: the sums along
    rows are additions of long runs. Windows that leave their row on the right gather nonsense, and are left out.
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
        """Sums over windows, (theirs, mine), of the product of what `zoo.metrics.ssim.local_statistics.terms` gives."""
        pixels = theirs.pixels[:, None]
        if self.exact:
            torch.mul(pixels, mine.pixels, out=self.product)
        else:
            torch.addcmul(self.c2_each, pixels, mine.pixels, out=self.product)  # a window adds it up to C2
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
