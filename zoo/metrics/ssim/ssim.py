"""Structural similarity (SSIM) of many pairs of images at once.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE Transactions on Image Processing 13 (2004) 600-612, in two variants:

- ``uniform``: what ``skimage.metrics.structural_similarity`` computes by default: a uniform 7x7 window, sample
  (n - 1) variances and covariances.
- ``gaussian``: the paper's: an 11x11 Gaussian window of sigma 1.5, population variances and covariances
  (scikit-image's ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``).

Either is the mean over the windows that lie wholly inside the image, and over the channels. `ms_ssim` is the
multi-scale one of Wang, Simoncelli and Bovik (2003).

Images are ``(N, C, H, W)``, of any floating type or uint8, and all of one call share their units: SSIM looks at
absolute brightness, so [-1, 1] with ``data_range`` 2 and [0, 255] with ``data_range`` 255 give different figures. The
arithmetic is float64 where an input is float64, else float32. One is the highest value, that of identical images.

`nearest_ssim` and `pairwise_ssim` compare every image with every other. For uint8 images on the CPU, under the uniform
window, they run as compiled C where there is a compiler, else, and for everything else, as plain torch; `engine` says
which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter, SilentReporter
from zoo.metrics.ssim.c_backend import NativeTable, library, possible
from zoo.metrics.ssim.local_statistics import (
    DEFINITIONS,
    WINDOWS,
    Images,
    Moments,
    are_bytes,
    check,
    dtype_of,
    local_moments,
    terms,
    window_of,
)
from zoo.metrics.ssim.torch_backend import TorchTable
from zoo.runtime.device import single_threaded_torch

__all__ = [
    "DEFINITION",
    "DEFINITIONS",
    "MS_DEFINITION",
    "MS_SSIM_SMALLEST",
    "engine",
    "ms_ssim",
    "nearest_ssim",
    "pairwise_ssim",
    "ssim",
]

DEFINITION = DEFINITIONS["uniform"]
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights, finest first: section 3.2 of the paper of 2003
MS_SSIM_SMALLEST = WINDOWS["gaussian"].halo * 2 ** (len(SCALES) - 1)  # pixels a side that `ms_ssim` still refuses
MS_DEFINITION = (
    "MS-SSIM: 5 scales of weights 0.0448, 0.2856, 0.3001, 0.2363, 0.1333, each half the size of the one before by 2x2 "
    "means; Gaussian 11x11 window of sigma 1.5, K1 0.01, K2 0.03, interior mean, negative scales 0, channel mean"
)


def ssim(x: Tensor, y: Tensor, data_range: float, kind: str = "uniform") -> Tensor:
    """SSIM of each ``x[i]`` with ``y[i]``, both (N, C, H, W); (N,) in [-1, 1]. Differentiable.

    Args:
        data_range: the width of the range the pixels can take (255 for uint8, 2 for [-1, 1]).
        kind: "uniform" or "gaussian".

    Raises:
        ZooError: images smaller than the window, or no such kind.
        ValueError: shapes that differ or are not (N, C, H, W), or a range that cannot be the images'.
    """
    luminance, structure = terms(*_both(x, y, data_range, kind), window_of(kind))
    return (luminance * structure).mean(dim=(-3, -2, -1))


def ms_ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """Multi-scale SSIM of each ``x[i]`` with ``y[i]``, both (N, C, H, W); (N,) in [0, 1].

    Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar
    2003, equation 7. As in their code, contrast and structure are averaged over the image at each scale, luminance
    times both at the coarsest, before the weights become exponents; an odd row or column is repeated before images are
    halved. A scale whose mean is negative (an image against its negative) counts as 0.

    Raises:
        ZooError: images of 160 pixels or less a side: fewer than one window at the coarsest scale.
        ValueError: as `ssim` does.
    """
    window, dtype = WINDOWS["gaussian"], dtype_of(x, y)
    if x.ndim == 4 and min(x.shape[2:]) <= MS_SSIM_SMALLEST:
        raise ZooError(
            f"MS-SSIM needs images of more than {MS_SSIM_SMALLEST} pixels a side, not {x.shape[2]}x{x.shape[3]}; "
            "use SSIM for smaller ones"
        )
    check(x, data_range, window)
    check(y, data_range, window)
    _same(x, y)
    x, y, factors = x.to(dtype) / data_range, y.to(dtype) / data_range, []
    for scale, weight in enumerate(SCALES):
        if scale:
            x, y = _half(x), _half(y)
        luminance, structure = terms(local_moments(x, 1.0, window, dtype), local_moments(y, 1.0, window, dtype), window)
        last = scale == len(SCALES) - 1
        factors.append((luminance * structure if last else structure).mean(dim=(-2, -1)).clamp(min=0) ** weight)
    return torch.stack(factors).prod(0).mean(dim=-1)


@torch.no_grad()
def pairwise_ssim(x: Tensor, data_range: float, kind: str = "uniform") -> Tensor:
    """SSIM of all distinct pairs of ``x`` (N, C, H, W): (N * (N - 1) / 2,), ordered (0, 1), (0, 2), ... (1, 2), ...

    The mean says how alike a set's images are (a collapsed generator nears 1). Raises as `ssim` does.
    """
    check(x, data_range, window_of(kind))
    count = len(x)
    every = torch.empty(count, count, dtype=dtype_of(x), device=x.device)
    with single_threaded_torch() as threads:
        for start, chunk, table in _tables(x, x, data_range, kind) if count else ():
            begins = range(start, count, table.tile)
            tiles = ((x[j : j + table.tile], min(j + table.tile - start, len(chunk))) for j in begins)
            for j, values in zip(begins, table.stream(tiles, threads), strict=True):
                every[start : start + values.shape[1], j : j + len(values)] = values.T
    return torch.cat([every[i, i + 1 :] for i in range(count)]) if count else every.flatten()


@torch.no_grad()
def nearest_ssim(
    x: Tensor,
    reals: Images,
    data_range: float,
    chunk: int = 256,
    kind: str = "uniform",
    reporter: Reporter | None = None,
) -> tuple[Tensor, Tensor]:
    """The most similar of all ``reals`` for each of ``x``.

    Args:
        x: (N, C, H, W); the arithmetic runs on its device.
        reals: (M, C, H, W) tensor or array in the units of ``x``, such as a uint8 memory map; read at most ``chunk``
            images at a time, so that neither the set nor the (N, M) table is ever whole in memory.
        kind: "uniform" or "gaussian".
        reporter: who is told how many of the N * M pairs are compared.

    Returns:
        The SSIM (N,) with the nearest real and that real's index (N,) int64; the first of equals. NaN images stay NaN.

    Raises:
        ZooError: no reals, images smaller than the window, or no such kind.
        ValueError: as `ssim` does.
    """
    reporter = reporter or SilentReporter()
    if tuple(x.shape[1:]) != tuple(reals.shape[1:]):
        raise ValueError(f"nearest_ssim compares images of one shape, not {tuple(x.shape)} with {tuple(reals.shape)}")
    if len(reals) == 0:
        raise ZooError("no real images to search for the nearest")
    check(x, data_range, window_of(kind))
    check(reals, data_range, window_of(kind))
    best = torch.full((len(x),), -torch.inf, dtype=dtype_of(x, reals), device=x.device)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    reporter.start("comparing", len(x) * len(reals))
    try:
        with single_threaded_torch() as threads:
            for start, images, table in _tables(x, reals, data_range, kind) if len(x) else ():
                step, rows = min(chunk, table.tile), slice(start, start + len(images))
                begins = range(0, len(reals), step)
                tiles = ((reals[j : j + step], len(images)) for j in begins)
                for j, values in zip(begins, table.stream(tiles, threads), strict=True):
                    value, where = values.max(dim=0)
                    better = (value > best[rows]) | value.isnan()
                    best[rows] = torch.where(better, value, best[rows])
                    index[rows] = torch.where(better, where + j, index[rows])
                    reporter.advance(values.numel())
    finally:
        reporter.stop()
    return best, index


def engine(device: torch.device | str = "cpu") -> str:
    """What compares uint8 images on a device, such as "compiled C (gcc 12.2, 2 threads)" or "torch, eager"."""
    kind = torch.device(device).type
    found = library() if kind == "cpu" else None
    if found is not None:
        threads = torch.get_num_threads()
        return f"compiled C ({found.compiler}, {threads} thread{'s' if threads > 1 else ''})"
    return "torch, eager" if kind == "cpu" else f"torch, {kind}"


def _tables(
    x: Tensor, others: Images, data_range: float, kind: str
) -> Iterator[tuple[int, Tensor, NativeTable | TorchTable]]:
    """(first, images, their table) of as many of ``x`` at a time as one table takes."""
    window, level, dtype = window_of(kind), _background(others), dtype_of(x, others)
    kernel = library() if possible(x, others, data_range=data_range, window=window) else None
    shape = tuple(x.shape[1:])
    step = NativeTable.capacity(kernel.code, shape) if kernel else TorchTable.capacity(shape, dtype)
    for start in range(0, len(x), step):
        images = x[start : start + step]
        if kernel:
            yield start, images, NativeTable(kernel.code, images, data_range, int(level))
        else:
            yield start, images, TorchTable(images, data_range, level, window, dtype, are_bytes(x, others))


def _background(images: Images) -> float:
    """The value that most corners have, of a few images."""
    some = images[:: max(1, len(images) // 16)][..., :: images.shape[2] - 1, :: images.shape[3] - 1]
    return float(Counter(some.flatten().tolist()).most_common(1)[0][0])


def _both(x: Tensor, y: Tensor, data_range: float, kind: str) -> tuple[Moments, Moments]:
    window, dtype = window_of(kind), dtype_of(x, y)
    _same(x, y)
    check(x, data_range, window)
    check(y, data_range, window)
    return local_moments(x, data_range, window, dtype), local_moments(y, data_range, window, dtype)


def _same(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ValueError(f"ssim compares images of one shape, not {tuple(x.shape)} with {tuple(y.shape)}")


def _half(x: Tensor) -> Tensor:
    """(..., H, W) to half of either, rounded up."""
    return F.avg_pool2d(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate"), 2)
