"""The Frechet distance between two sets of features (FID).

M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017,
eq. 6, after D. C. Dowson and B. V. Landau, "The Frechet distance between multivariate normal distributions", Journal of
Multivariate Analysis 12 (1982) 450-455:

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))

with sample (n - 1) covariances. Where C1 = A'A and C2 = B'B, the eigenvalues of C1 C2 are the squared singular values
of A B', and the last trace is their sum, the nuclear norm of A B'. Of n images the centred features, divided by
sqrt(n - 1), are such a factor, n rows high: for fewer images than dimensions no matrix of the dimensions' size is ever
decomposed. For more the Cholesky factor is. Neither is a general matrix, and no square root of one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_ROWS = 8192  # features turned into float64 at once


def frechet_distance(x: Array, y: Array) -> float:
    """FID of two sets of features (N, D) and (M, D), of any floating type; float64 inside, exact to about 1e-10.

    It depends on N and M: fewer images, higher FID. With fewer than D + 1 of them a covariance has not its full rank.

    Raises:
        ValueError: fewer than two rows, or different D.
    """
    _check(x, y)
    return _distance(_Normal(x), _Normal(y), exact=True)


def half_fids(x: Array, y: Array, x_masks: Array, y_masks: Array) -> list[float]:
    """FID of each pair of subsets, for intervals: good to about 1e-6 of the covariances' traces, and faster.

    Args:
        x_masks, y_masks: (R, N) and (R, M) bool: the rows of each subset, two or more each.
    """
    _check(x, y)
    if min(x_masks.sum(axis=1).mean(), y_masks.sum(axis=1).mean()) > 1.25 * x.shape[1]:
        pairs: Sequence[tuple[Array, Array]] = list(zip(x_masks, y_masks, strict=True))
        return [_distance(_Normal(x[left]), _Normal(y[right]), exact=False) for left, right in pairs]
    # Few images: the scalar products of all pairs, computed once, hold those of the centred features of any subset.
    middle = y.mean(axis=0, dtype=np.float64)
    x, y = x - middle, y - middle
    products = x @ y.T
    found = []
    for left, right in zip(x_masks, y_masks, strict=True):
        (x_mean, x_variance), (y_mean, y_variance) = _spread(x, left), _spread(y, right)
        block = products[np.ix_(left, right)]
        block -= block.mean(axis=0)
        block -= block.mean(axis=1, keepdims=True)
        overlap = _nuclear(block) / np.sqrt((left.sum() - 1) * (right.sum() - 1))
        found.append(_frechet(x_mean - y_mean, x_variance + y_variance, overlap))
    return found


def _spread(features: Array, mask: Array) -> tuple[Array, float]:
    """Mean and total variance of a subset."""
    part = features[mask]
    mean = part.mean(axis=0)
    return mean, float((np.einsum("nd,nd->", part, part) - len(part) * mean @ mean) / (len(part) - 1))


class _Normal:
    """Mean, total variance, and a factor A of the covariance A'A with no more rows than columns."""

    def __init__(self, features: Array) -> None:
        count, width = features.shape
        self.mean = features.mean(axis=0, dtype=np.float64)
        if count <= width:
            self.factor = (features - self.mean) / np.sqrt(count - 1)
            self.variance = float((self.factor**2).sum())
            return
        covariance = np.zeros((width, width))
        for start in range(0, count, _ROWS):
            centred = features[start : start + _ROWS] - self.mean
            covariance += centred.T @ centred
        covariance /= count - 1
        self.variance = float(np.trace(covariance))
        try:
            self.factor = np.linalg.cholesky(covariance).T
        except np.linalg.LinAlgError:  # features that are always zero, or copies of others
            values, vectors = np.linalg.eigh(covariance)
            self.factor = np.sqrt(values.clip(min=0))[:, None] * vectors.T


def _distance(a: _Normal, b: _Normal, *, exact: bool) -> float:
    product = a.factor @ b.factor.T
    overlap = float(np.linalg.svd(product, compute_uv=False).sum()) if exact else _nuclear(product)
    return _frechet(a.mean - b.mean, a.variance + b.variance, overlap)


def _nuclear(matrix: Array) -> float:
    """The sum of the singular values in a quarter of an SVD's time; s is off by 1e-16 S^2 / s, S the largest."""
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return float(np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T).clip(min=0)).sum())


def _frechet(apart: Array, variance: float, overlap: float) -> float:
    return max(0.0, float(apart @ apart + variance - 2 * overlap))


def _check(x: Array, y: Array) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"FID takes features (N, D) and (M, D), N and M of 2 or more, not {x.shape} and {y.shape}")
