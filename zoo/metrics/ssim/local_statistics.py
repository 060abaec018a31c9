"""Local means and variances of images, which every SSIM of an image shares, under either window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import ZooError, suggest


class ImageRows(Protocol):
    """An array of images (N, C, H, W) that is read in pieces, such as a memory map or a selection of one."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> np.ndarray: ...


Images = Tensor | np.ndarray | ImageRows

K1, K2 = 0.01, 0.03  # section 3 C of Wang et al. 2004
DEFINITIONS = {
    "uniform": "SSIM: uniform 7x7 window, K1 0.01, K2 0.03, sample covariance, interior mean, channel mean",
    "gaussian": "SSIM: Gaussian 11x11 window of sigma 1.5, K1 0.01, K2 0.03, population covariance, interior mean, "
    "channel mean",
}


@dataclass(frozen=True)
class SSIMWindow:
    """A separable window of weights.

    Attributes:
        weights: along one axis; their outer product is the window and sums to 1.
        correction: factor of covariances: n / (n - 1) for sample covariances, 1 for those of the population.
    """

    weights: tuple[float, ...]
    correction: float

    @property
    def side(self) -> int:
        return len(self.weights)

    @property
    def halo(self) -> int:
        """Number of pixels less number of windows, along an axis."""
        return self.side - 1

    @property
    def flat(self) -> bool:
        return len(set(self.weights)) == 1

    @property
    def mass(self) -> float:
        """What :meth:`slide` along both axes makes of ones: a flat window adds up without weights."""
        return float(self.side**2) if self.flat else 1.0

    @property
    def excess(self) -> int:
        """Values that :meth:`slide` needs as scratch along its axis besides one per window."""
        return 4 if self.flat else 0

    def mean(self, x: Tensor) -> Tensor:
        """Return the weighted mean in each window of (..., H, W): (..., H - halo, W - halo)."""
        return self.slide(self.slide(x, -2), -1) / self.mass

    def slide(self, x: Tensor, dim: int, out: Tensor | None = None, scratch: Tensor | None = None) -> Tensor:
        """Return weighted sums along one axis, by a few additions of shifted arrays: faster than pooling."""
        size = x.shape[dim] - self.halo
        if self.flat:  # seven values: three pairs, each added once, and the last one
            pairs = torch.add(x.narrow(dim, 0, size + 4), x.narrow(dim, 1, size + 4), out=scratch)
            out = torch.add(pairs.narrow(dim, 0, size), pairs.narrow(dim, 2, size), out=out)
            return out.add_(pairs.narrow(dim, 4, size)).add_(x.narrow(dim, 6, size))
        half = self.halo // 2
        out = torch.mul(x.narrow(dim, half, size), self.weights[half], out=out)
        for k in range(half):  # symmetric
            pair = torch.add(x.narrow(dim, k, size), x.narrow(dim, self.halo - k, size), out=scratch)
            out.add_(pair, alpha=self.weights[k])
        return out


def _gaussian(side: int, sigma: float) -> tuple[float, ...]:
    raw = [math.exp(-((i - side // 2) ** 2) / (2 * sigma**2)) for i in range(side)]
    return tuple(value / sum(raw) for value in raw)


WINDOWS = {"uniform": SSIMWindow((1 / 7,) * 7, 49 / 48), "gaussian": SSIMWindow(_gaussian(11, 1.5), 1.0)}


def find_window(kind: str) -> SSIMWindow:
    """Return the window of this kind.

    Raises:
        ZooError: unknown kind.
    """
    if kind not in WINDOWS:
        raise ZooError(f"SSIM {kind!r}: unknown kind{suggest(kind, WINDOWS)}. Choose from {', '.join(WINDOWS)}")
    return WINDOWS[kind]


@dataclass(frozen=True)
class LocalStatistics:
    """Statistics of images in units of ``data_range``, so that C1 is K1 squared and C2 is K2 squared.

    Attributes:
        centred: (N, C, H, W) minus the mean of each image and channel.
        local: (N, C, H - halo, W - halo) window means of ``centred``.
        mean: window means of the image itself.
        var: variances in the windows, corrected as the window says.
    """

    centred: Tensor
    local: Tensor
    mean: Tensor
    var: Tensor


def check_ssim_inputs(x: Images, data_range: float, window: SSIMWindow) -> None:
    """Make sure that images can be compared under a window.

    Raises:
        ZooError: images smaller than the window.
        ValueError: not (N, C, H, W), or a range that does not fit the images.
    """
    if len(x.shape) != 4:
        raise ValueError(f"SSIM takes images (N, C, H, W), not {tuple(x.shape)}")
    side = window.side
    if min(x.shape[2:]) < side:
        raise ZooError(f"SSIM needs images of at least {side}x{side} pixels, not {x.shape[2]}x{x.shape[3]}")
    if not data_range > 0 or (are_bytes(x) and data_range < 255):
        raise ValueError(f"data_range {data_range:g} is not the range of {x.dtype} images")


def compute_statistics(x: Tensor, data_range: float, window: SSIMWindow, dtype: torch.dtype) -> LocalStatistics:
    """Compute the local statistics of images (N, C, H, W)."""
    # Centred before anything is squared: E[xy] - E[x]E[y] of a bright flat patch would lose float32's digits.
    x = x.to(dtype) / data_range
    level = x.mean(dim=(2, 3), keepdim=True)
    centred = x - level
    local = window.mean(centred)
    return LocalStatistics(centred, local, local + level, covariance(centred, local, centred, local, window))


def covariance(x: Tensor, x_mean: Tensor, y: Tensor, y_mean: Tensor, window: SSIMWindow) -> Tensor:
    """Return the covariance in each window, from centred images and their window means."""
    return (window.mean(x * y) - x_mean * y_mean) * window.correction


def ssim_terms(a: LocalStatistics, b: LocalStatistics, window: SSIMWindow) -> tuple[Tensor, Tensor]:
    """Return luminance, and contrast times structure, in each window of each pair (N, C, H - halo, W - halo)."""
    # Equation 13 of Wang et al. 2004.
    cov = covariance(a.centred, a.local, b.centred, b.local, window)
    luminance = (2 * a.mean * b.mean + K1**2) / (a.mean**2 + b.mean**2 + K1**2)
    return luminance, (2 * cov + K2**2) / (a.var + b.var + K2**2)


def dtype_of(*images: Images) -> torch.dtype:
    """Return float64 if an image is float64, else float32."""
    wide = any(image.dtype in (torch.float64, np.float64) for image in images)
    return torch.float64 if wide else torch.float32


def are_bytes(*images: Images) -> bool:
    """Return whether all images are uint8."""
    return all(image.dtype in (torch.uint8, np.uint8) for image in images)
