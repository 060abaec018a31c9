"""Structural similarity (SSIM) of many pairs of images: Z. Wang et al., IEEE TIP 13 (2004) 600-612.

``uniform``: 7x7 window and sample covariances, the default of ``skimage.metrics.structural_similarity``; ``gaussian``:
the paper's 11x11 window. Both are means over the windows inside the image and over channels. Images are (N, C, H, W),
floating or uint8, in one unit per call, since SSIM depends on absolute brightness. uint8 images on the CPU, under the
uniform window, are compared by compiled C if there is a compiler, all others by torch. See docs/metrics.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.wording import count_of
from zoo.metrics.ssim.c_backend import CTable, load_kernel, supports_images
from zoo.metrics.ssim.local_statistics import (
    DEFINITIONS,
    WINDOWS,
    Images,
    LocalStatistics,
    are_bytes,
    check_ssim_inputs,
    compute_statistics,
    dtype_of,
    find_window,
    ssim_terms,
)
from zoo.metrics.ssim.torch_backend import TorchTable
from zoo.runtime.device import single_threaded_torch
from zoo.runtime.torch_defaults import torch_defaults

SSIM_DEFINITION = DEFINITIONS["uniform"]
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first: section 3.2 of Wang et al. 2003
MS_SSIM_SMALLEST = WINDOWS["gaussian"].halo * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # pixels a side, which are too few
MS_DEFINITION = (
    "MS-SSIM: 5 scales of weights 0.0448, 0.2856, 0.3001, 0.2363, 0.1333, each half the size of the one before by 2x2 "
    "means; Gaussian 11x11 window of sigma 1.5, K1 0.01, K2 0.03, interior mean, negative scales 0, channel mean"
)


@torch_defaults()
def ssim(x: Tensor, y: Tensor, data_range: float, kind: str = "uniform") -> Tensor:
    """Compute the SSIM (N,) in [-1, 1] of each ``x[i]`` with ``y[i]``, both (N, C, H, W). Differentiable.

    Args:
        data_range: width of the range of pixel values (255 for uint8, 2 for [-1, 1]).
        kind: "uniform" or "gaussian".

    Raises:
        ZooError: images smaller than the window, or an unknown kind.
        ValueError: shapes that differ or are not (N, C, H, W), or a range that does not fit the images.
    """
    luminance, structure = ssim_terms(*_both_statistics(x, y, data_range, kind), find_window(kind))
    return (luminance * structure).mean(dim=(-3, -2, -1))


@torch_defaults()
def ms_ssim(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """Compute the multi-scale SSIM (N,) in [0, 1] of each ``x[i]`` with ``y[i]``, both (N, C, H, W).

    Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar
    2003, equation 7; the means over the image are taken as in their code. An odd row or column is repeated before
    images are halved. A scale whose mean is negative (an image against its negative) counts as 0.

    Raises:
        ZooError: images of 160 pixels or less a side: fewer than one window at the coarsest scale.
        ValueError: as :func:`ssim` does.
    """
    window, dtype = WINDOWS["gaussian"], dtype_of(x, y)
    if x.ndim == 4 and min(x.shape[2:]) <= MS_SSIM_SMALLEST:
        raise ZooError(
            f"MS-SSIM needs images of more than {MS_SSIM_SMALLEST} pixels a side, not {x.shape[2]}x{x.shape[3]}. "
            "Use SSIM for smaller ones"
        )
    check_ssim_inputs(x, data_range, window)
    check_ssim_inputs(y, data_range, window)
    _check_shapes(x, y)
    x, y, factors = x.to(dtype) / data_range, y.to(dtype) / data_range, []
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            x, y = _half(x), _half(y)
        # Contrast and structure at every scale, luminance at the coarsest alone.
        luminance, structure = ssim_terms(
            compute_statistics(x, 1.0, window, dtype), compute_statistics(y, 1.0, window, dtype), window
        )
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        factors.append((luminance * structure if last else structure).mean(dim=(-2, -1)).clamp(min=0) ** weight)
    return torch.stack(factors).prod(0).mean(dim=-1)


@torch.no_grad()
@torch_defaults()
def pairwise_ssim(x: Tensor, data_range: float, kind: str = "uniform") -> Tensor:
    """Compute the SSIM of all pairs of ``x`` (N, C, H, W): (N (N - 1) / 2,), ordered (0, 1), (0, 2), ... (1, 2), ...

    The mean tells how alike images are: near 1 for a collapsed generator. Raises as :func:`ssim` does.
    """
    check_ssim_inputs(x, data_range, find_window(kind))
    count = len(x)
    table_values = torch.empty(count, count, dtype=dtype_of(x), device=x.device)
    with single_threaded_torch() as threads:
        for start, chunk, table in _tables(x, x, data_range, kind) if count else ():
            starts = range(start, count, table.tile)
            tiles = ((x[j : j + table.tile], min(j + table.tile - start, len(chunk))) for j in starts)
            for j, values in zip(starts, table.stream(tiles, threads), strict=True):
                table_values[start : start + values.shape[1], j : j + len(values)] = values.T
    return torch.cat([table_values[i, i + 1 :] for i in range(count)]) if count else table_values.flatten()


@torch.no_grad()
@torch_defaults()
def nearest_ssim(
    x: Tensor,
    reals: Images,
    data_range: float,
    chunk: int = 256,
    kind: str = "uniform",
    reporter: Reporter | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the most similar of all ``reals`` for each of ``x``.

    Args:
        x: (N, C, H, W); computed on its device, in float64 if an input is float64, else in float32.
        reals: (M, C, H, W) tensor or array in the units of ``x``, such as a uint8 memory map; at most ``chunk``
            images are read at a time, so that neither the set nor the (N, M) table must fit into memory.
        kind: "uniform" or "gaussian".
        reporter: shows how many of the N M pairs are compared.

    Returns:
        The SSIM (N,) with the nearest real and that real's index (N,) int64; the first of equals. NaN images stay NaN.

    Raises:
        ZooError: no reals, images smaller than the window, or an unknown kind.
        ValueError: as :func:`ssim` does.
    """
    reporter = reporter or SilentReporter()
    if tuple(x.shape[1:]) != tuple(reals.shape[1:]):
        raise ValueError(f"nearest_ssim compares images of one shape, not {tuple(x.shape)} with {tuple(reals.shape)}")
    if len(reals) == 0:
        raise ZooError("no real images to search for the nearest")
    check_ssim_inputs(x, data_range, find_window(kind))
    check_ssim_inputs(reals, data_range, find_window(kind))
    best = torch.full((len(x),), -torch.inf, dtype=dtype_of(x, reals), device=x.device)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    reporter.start("comparing", len(x) * len(reals))
    try:
        with single_threaded_torch() as threads:
            for start, images, table in _tables(x, reals, data_range, kind) if len(x) else ():
                step, rows = min(chunk, table.tile), slice(start, start + len(images))
                starts = range(0, len(reals), step)
                tiles = ((reals[j : j + step], len(images)) for j in starts)
                for j, values in zip(starts, table.stream(tiles, threads), strict=True):
                    value, where = values.max(dim=0)
                    better = (value > best[rows]) | value.isnan()
                    best[rows] = torch.where(better, value, best[rows])
                    index[rows] = torch.where(better, where + j, index[rows])
                    reporter.advance(values.numel())
    finally:
        reporter.stop()
    return best, index


def engine(device: torch.device | str = "cpu") -> str:
    """Describe what compares uint8 images on a device: "compiled C (gcc 12.2, 2 threads)" or "torch, eager"."""
    kind = torch.device(device).type
    kernel = load_kernel() if kind == "cpu" else None
    if kernel is not None:
        return f"compiled C ({kernel.compiler}, {count_of(torch.get_num_threads(), 'thread')})"
    return "torch, eager" if kind == "cpu" else f"torch, {kind}"


def _tables(
    x: Tensor, others: Images, data_range: float, kind: str
) -> Iterator[tuple[int, Tensor, CTable | TorchTable]]:
    """Yield (start, images, table) for as many images of ``x`` at a time as one table holds."""
    window, dtype = find_window(kind), dtype_of(x, others)
    kernel = load_kernel() if supports_images(x, others, data_range=data_range, window=window) else None
    level = int(_background(others)) if kernel else 0
    shape = tuple(x.shape[1:])
    step = CTable.capacity(kernel.code, shape) if kernel else TorchTable.capacity(shape, dtype)
    for start in range(0, len(x), step):
        images = x[start : start + step]
        if kernel:
            yield start, images, CTable(kernel.code, images, data_range, level)
        else:
            yield start, images, TorchTable(images, data_range, window, dtype, are_bytes(x, others))


def _background(images: Images) -> float:
    """Return the most frequent value of the corners of a few images."""
    few = images[:: max(1, len(images) // 16)][..., :: images.shape[2] - 1, :: images.shape[3] - 1]
    return float(Counter(few.flatten().tolist()).most_common(1)[0][0])


def _both_statistics(x: Tensor, y: Tensor, data_range: float, kind: str) -> tuple[LocalStatistics, LocalStatistics]:
    window, dtype = find_window(kind), dtype_of(x, y)
    _check_shapes(x, y)
    check_ssim_inputs(x, data_range, window)
    check_ssim_inputs(y, data_range, window)
    return compute_statistics(x, data_range, window, dtype), compute_statistics(y, data_range, window, dtype)


def _check_shapes(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ValueError(f"ssim compares images of one shape, not {tuple(x.shape)} with {tuple(y.shape)}")


def _half(x: Tensor) -> Tensor:
    """Halve (..., H, W) by 2x2 means, rounded up."""
    return F.avg_pool2d(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate"), 2)
