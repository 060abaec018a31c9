"""The Frechet distance between two sets of features (FID): M. Heusel et al., NeurIPS 2017, eq. 6.

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))

with sample (n - 1) covariances. With factors C1 = A'A and C2 = B'B the last trace is the nuclear norm of A B', so no
square root of a matrix is computed; see docs/metrics.md.
"""

from __future__ import annotations

import numpy as np

_Array = np.ndarray

FID_INFINITY_SMALLEST = 1000  # images of the smallest subset
FID_INFINITY_POINTS = 15  # subsets

_CHUNK_ROWS = 8192  # features converted to float64 at once


def frechet_distance(x: _Array, y: _Array) -> float:
    """Return the FID of two sets of features (N, D) and (M, D), of any floating type.

    Computed in float64, exact to about 1e-10. It depends on N and M: fewer images, higher FID.

    Raises:
        ValueError: fewer than two rows, or different D.
    """
    check_features(x, y, "FID")
    return _distance(_Normal(x), _Normal(y), exact=True)


def fid_infinity(x: _Array, y: _Array, *, smallest: int = FID_INFINITY_SMALLEST, seed: int = 0) -> float:
    """Return the FID that infinitely many fakes would have, by extrapolation.

    FID has a bias linear in 1 / N that depends on the generator. Subsets of ``smallest`` to all fakes, in equal steps,
    are fitted by a line in 1 / N (M. J. Chong, D. Forsyth, "Effectively unbiased FID and Inception Score", CVPR 2020,
    arXiv:1911.07023, section 3). The bias from the number M of reals remains. May be slightly negative.

    Args:
        x: the fakes (N, D).
        y: the reals (M, D).
        smallest: images of the smallest subset, fewer than N.
        seed: of the subsets.

    Raises:
        ValueError: fewer than two rows, different D, or N not above ``smallest``.
    """
    check_features(x, y, "FID")
    if not 2 <= smallest < len(x):
        raise ValueError(f"subsets from {smallest} of {len(x)} images")
    reference, rng = _Normal(y), np.random.default_rng(seed)
    sizes = np.linspace(smallest, len(x), FID_INFINITY_POINTS).astype(int)
    # Sorted rows: the order of images must not matter to rounding.
    subsets = [x[np.sort(rng.permutation(len(x))[:size])] for size in sizes]
    distances = [_distance(_Normal(subset), reference, exact=False) for subset in subsets]
    return float(np.polyfit(1 / sizes, distances, 1)[1])  # the intercept


def half_fids(x: _Array, y: _Array, x_masks: _Array, y_masks: _Array) -> list[float]:
    """Return the FID of each pair of subsets, for intervals.

    Faster than :func:`frechet_distance`, and accurate to about 1e-6 of the covariances' traces.

    Args:
        x_masks, y_masks: (R, N) and (R, M) bool: the rows of each subset, two or more each.
    """
    check_features(x, y, "FID")
    pairs = list(zip(x_masks, y_masks, strict=True))
    if min(x_masks.sum(axis=1).mean(), y_masks.sum(axis=1).mean()) > 1.25 * x.shape[1]:
        return [_distance(_Normal(x[left]), _Normal(y[right]), exact=False) for left, right in pairs]
    # Few images: the scalar products of all pairs, computed once, contain those of the centred features of any subset.
    middle = y.mean(axis=0, dtype=np.float64)
    x, y = x - middle, y - middle
    products = x @ y.T
    distances = []
    for left, right in pairs:
        (x_mean, x_variance), (y_mean, y_variance) = _mean_and_variance(x[left]), _mean_and_variance(y[right])
        block = products[np.ix_(left, right)]
        block -= block.mean(axis=0)
        block -= block.mean(axis=1, keepdims=True)
        overlap = _nuclear_norm(block) / np.sqrt((left.sum() - 1) * (right.sum() - 1))
        distances.append(_frechet(x_mean - y_mean, x_variance + y_variance, overlap))
    return distances


def check_features(x: _Array, y: _Array, metric: str) -> None:
    """Raise a ValueError unless ``x`` and ``y`` are (N, D) and (M, D) with two rows or more."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"{metric} takes features (N, D) and (M, D), N and M of 2 or more, not {x.shape} and {y.shape}"
        )


def _mean_and_variance(rows: _Array) -> tuple[_Array, float]:
    """Return the mean and the total variance of some features."""
    mean = rows.mean(axis=0)
    return mean, float((np.einsum("nd,nd->", rows, rows) - len(rows) * mean @ mean) / (len(rows) - 1))


class _Normal:
    """Mean, total variance, and a factor A of the covariance A'A with no more rows than columns."""

    def __init__(self, features: _Array) -> None:
        count, width = features.shape
        self.mean = features.mean(axis=0, dtype=np.float64)
        if count <= width:  # the centred features are a factor already, smaller than the covariance
            self.factor = (features - self.mean) / np.sqrt(count - 1)
            self.variance = float((self.factor**2).sum())
            return
        covariance = np.zeros((width, width))
        for start in range(0, count, _CHUNK_ROWS):
            centred = features[start : start + _CHUNK_ROWS] - self.mean
            covariance += centred.T @ centred
        covariance /= count - 1
        self.variance = float(np.trace(covariance))
        try:
            self.factor = np.linalg.cholesky(covariance).T
        except np.linalg.LinAlgError:  # singular: features that are always zero, or equal to others
            values, vectors = np.linalg.eigh(covariance)
            self.factor = np.sqrt(values.clip(min=0))[:, None] * vectors.T


def _distance(a: _Normal, b: _Normal, *, exact: bool) -> float:
    product = a.factor @ b.factor.T
    overlap = float(np.linalg.svd(product, compute_uv=False).sum()) if exact else _nuclear_norm(product)
    return _frechet(a.mean - b.mean, a.variance + b.variance, overlap)


def _nuclear_norm(matrix: _Array) -> float:
    """Return the sum of the singular values, in a quarter of an SVD's time.

    A singular value s is off by 1e-16 S^2 / s, S the largest.
    """
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return float(np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T).clip(min=0)).sum())


def _frechet(apart: _Array, variance: float, overlap: float) -> float:
    return max(0.0, float(apart @ apart + variance - 2 * overlap))  # eq. 6; rounding may make it negative
