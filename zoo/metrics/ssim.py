"""Structural similarity (SSIM) of many pairs of images at once.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE Transactions on Image Processing 13 (2004) 600-612, in the variant that
``skimage.metrics.structural_similarity`` computes by default: a uniform 7x7 window instead of the Gaussian one, sample
(n - 1) variances and covariances, the mean over the windows that lie wholly inside the image, and over the channels.

Images are ``(N, C, H, W)``, of any floating type or uint8, and all of one call share their units: SSIM looks at
absolute brightness, so [-1, 1] with ``data_range`` 2 and [0, 255] with ``data_range`` 255 give different figures. The
arithmetic is float64 where an input is float64, else float32. One is the highest value, that of identical images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ZooError

WINDOW = 7
K1, K2 = 0.01, 0.03
DEFINITION = "SSIM: uniform 7x7 window, K1 0.01, K2 0.03, sample covariance, interior mean, channel mean"

_STEP = 2**20  # pixels of pairs compared at once: 4 MB of float32 an intermediate


def ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """SSIM of each ``x[i]`` with ``y[i]``, both (N, C, H, W); (N,) in [-1, 1].

    Args:
        data_range: the width of the range the pixels can take (255 for uint8, 2 for [-1, 1]).

    Raises:
        ZooError: images smaller than the window.
        ValueError: shapes that differ or are not (N, C, H, W), or a range that cannot be the images'.
    """
    if x.shape != y.shape:
        raise ValueError(f"ssim compares images of one shape, not {tuple(x.shape)} with {tuple(y.shape)}")
    dtype = _dtype(x, y)
    return _compare(_moments(x, data_range, dtype), _moments(y, data_range, dtype))


@torch.no_grad()
def pairwise_ssim(x: Tensor, data_range: float) -> Tensor:
    """SSIM of all distinct pairs of ``x`` (N, C, H, W): (N * (N - 1) / 2,), ordered (0, 1), (0, 2), ... (1, 2), ...

    The mean says how alike a set's images are (a collapsed generator nears 1). Raises as `ssim` does.
    """
    every = _moments(x, data_range, _dtype(x))
    step = max(1, _STEP // x[0].numel()) if len(x) else 1
    rows = [_compare(every[i : i + 1], every[j : j + step]) for i, j in _upper(len(x), step)]
    return torch.cat(rows) if rows else every.mean.new_empty(0)


@torch.no_grad()
def nearest_ssim(x: Tensor, reals: Tensor | np.ndarray, data_range: float, chunk: int = 256) -> tuple[Tensor, Tensor]:
    """The most similar of all ``reals`` for each of ``x``.

    Args:
        x: (N, C, H, W); the arithmetic runs on its device.
        reals: (M, C, H, W) tensor or array in the units of ``x``, such as a uint8 memory map; read once, ``chunk``
            images at a time, so that neither the set nor the (N, M) table is ever whole in memory.

    Returns:
        The SSIM (N,) with the nearest real and that real's index (N,) int64; the first of equals. NaN images stay NaN.

    Raises:
        ZooError: no reals, or images smaller than the window.
        ValueError: as `ssim` does.
    """
    if tuple(x.shape[1:]) != tuple(reals.shape[1:]):
        raise ValueError(f"nearest_ssim compares images of one shape, not {tuple(x.shape)} with {tuple(reals.shape)}")
    if len(reals) == 0:
        raise ZooError("no real images to search for the nearest")
    dtype = _dtype(x, reals)
    mine = _moments(x, data_range, dtype)
    best = mine.mean.new_full((len(x),), -torch.inf)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for start in range(0, len(reals), chunk):
        tile = reals[start : start + chunk]
        tile = torch.from_numpy(np.array(tile)) if isinstance(tile, np.ndarray) else tile
        theirs = _moments(tile.to(x.device), data_range, dtype)
        step = max(1, _STEP // tile.numel())
        for i in range(0, len(x), step):
            rows = slice(i, i + step)
            value, where = _compare(mine[rows, None], theirs[None, :]).max(dim=1)
            better = (value > best[rows]) | value.isnan()
            best[rows] = torch.where(better, value, best[rows])
            index[rows] = torch.where(better, where + start, index[rows])
    return best, index


@dataclass(frozen=True)
class _Moments:
    """What an image brings to each of its pairs, in units of ``data_range``: C1 is K1 squared and C2 is K2 squared."""

    centred: Tensor  # (N, C, H, W) less the mean of each image and channel
    local: Tensor  # (N, C, H - 6, W - 6) window means of `centred`
    mean: Tensor  # window means of the image itself
    var: Tensor  # sample variances in the windows

    def __getitem__(self, key: slice | tuple[slice | None, ...]) -> _Moments:
        return _Moments(self.centred[key], self.local[key], self.mean[key], self.var[key])


def _moments(x: Tensor, data_range: float, dtype: torch.dtype) -> _Moments:
    """Centred before anything is squared: E[xy] - E[x]E[y] of a bright flat patch would lose float32's digits."""
    if x.ndim != 4:
        raise ValueError(f"SSIM takes images (N, C, H, W), not {tuple(x.shape)}")
    if min(x.shape[2:]) < WINDOW:
        raise ZooError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, not {x.shape[2]}x{x.shape[3]}")
    if not data_range > 0 or (x.dtype == torch.uint8 and data_range < 255):
        raise ValueError(f"data_range {data_range:g} is not the range of {x.dtype} images")
    x = x.to(dtype) / data_range
    level = x.mean(dim=(2, 3), keepdim=True)
    centred = x - level
    local = _window_mean(centred)
    return _Moments(centred, local, local + level, _covariance(centred, local, centred, local))


def _compare(a: _Moments, b: _Moments) -> Tensor:
    """SSIM of two sets that broadcast over their leading dimensions; one figure an image pair."""
    cov = _covariance(a.centred, a.local, b.centred, b.local)
    luminance = (2 * a.mean * b.mean + K1**2) / (a.mean**2 + b.mean**2 + K1**2)
    structure = (2 * cov + K2**2) / (a.var + b.var + K2**2)
    return (luminance * structure).mean(dim=(-3, -2, -1))


def _covariance(x: Tensor, x_mean: Tensor, y: Tensor, y_mean: Tensor) -> Tensor:
    return (_window_mean(x * y) - x_mean * y_mean) * (WINDOW**2 / (WINDOW**2 - 1))


def _window_mean(x: Tensor) -> Tensor:
    """(..., C, H, W) to (..., C, H - 6, W - 6): the box filter, one axis at a time."""
    rows = F.avg_pool2d(x.flatten(0, -4), (WINDOW, 1), stride=1)
    both = F.avg_pool2d(rows, (1, WINDOW), stride=1)
    return both.reshape(*x.shape[:-2], *both.shape[-2:])


def _upper(count: int, step: int) -> Iterator[tuple[int, int]]:
    """(i, first j) of the runs of up to ``step`` images after ``i``, row by row of the upper triangle."""
    return ((i, j) for i in range(count) for j in range(i + 1, count, step))


def _dtype(*images: Tensor | np.ndarray) -> torch.dtype:
    wide = any(image.dtype in (torch.float64, np.float64) for image in images)
    return torch.float64 if wide else torch.float32
