"""The kernel distance between two sets of features (KID).

M. Binkowski, D. J. Sutherland, M. Arbel, A. Gretton, "Demystifying MMD GANs", ICLR 2018, section 4: the unbiased
estimate of the squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, averaged over subsets of both sets.
Subsets (seed, order of drawing) and values are those of torch-fidelity 0.4. Unlike FID it has no bias from the number
of images; for two sets from one distribution it scatters around 0, and is negative half of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zoo.metrics.fid import check_features

_Array = np.ndarray

KID_SUBSET_SIZE, KID_SUBSETS, KID_SEED = 1000, 100, 2020  # torch-fidelity's
KID_MIN_IMAGES = 50  # of each set, below which a value gets a note
KID_MAX_IMAGES = 10_000  # images of each set that half-samples are taken of

_STRIP_ROWS = 1024  # rows of the kernel matrix in memory at once


class KID(NamedTuple):
    """KID and its error.

    Attributes:
        mean: over the subsets.
        error: standard deviation over the subsets: the error of one subset's value, not of the mean.
    """

    mean: float
    error: float


def kernel_distance(
    x: _Array, y: _Array, subset: int | None = None, subsets: int = KID_SUBSETS, seed: int = KID_SEED
) -> KID:
    """Return the KID of two sets of features (N, D) and (M, D).

    Args:
        x: the fakes (torch-fidelity's input 1); the order decides which subsets are drawn, and nothing else.
        subset: images of each set in a subset; None: 1000, or as many as the smaller set has.

    Raises:
        ValueError: fewer than two rows, different D, or subsets larger than a set.
    """
    check_features(x, y, "KID")
    size = min(KID_SUBSET_SIZE, len(x), len(y)) if subset is None else subset
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"subsets of {size} from {len(x)} and {len(y)} images")
    rng = np.random.RandomState(seed)
    draws = [[rng.choice(len(side), size, replace=False) for side in (x, y)] for _ in range(subsets)]
    # The cheaper of all kernel values once, or those of each subset.
    if len(x) ** 2 + len(y) ** 2 + len(x) * len(y) <= 3 * size**2 * subsets:
        left, right = (_masks([draw[side] for draw in draws], len((x, y)[side])) for side in (0, 1))
        values = half_kids(x, y, left, right)
    else:
        whole = np.ones((1, size), bool)
        values = np.concatenate([half_kids(x[left], y[right], whole, whole) for left, right in draws])
    return KID(float(values.mean()), float(values.std()))


def half_kids(x: _Array, y: _Array, x_masks: _Array, y_masks: _Array) -> _Array:
    """Return the unbiased estimate (R,) of each pair of subsets, from all images of a subset at once.

    Args:
        x_masks, y_masks: (R, N) and (R, M) bool: the rows of each subset, two or more each.
    """
    check_features(x, y, "KID")
    a, b = x_masks.astype(np.float64), y_masks.astype(np.float64)
    n, m = a.sum(axis=1), b.sum(axis=1)
    within = _kernel_sums(x, x, a, a, own=True) / (n * (n - 1)) + _kernel_sums(y, y, b, b, own=True) / (m * (m - 1))
    return within - 2 * _kernel_sums(x, y, a, b) / (n * m)


def _kernel_sums(x: _Array, y: _Array, a: _Array, b: _Array, *, own: bool = False) -> _Array:
    """Sum a[r, i] k(x[i], y[j]) b[r, j] over i and j for each r; without i = j where the sets are one (``own``).

    All weights in one pass over the kernel matrix, of which only a strip is ever in memory.
    """
    total = np.zeros(len(a))
    for start in range(0, len(x), _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        kernel = (x[rows] @ y.T).astype(np.float64)
        kernel /= x.shape[1]
        kernel += 1
        kernel *= kernel * kernel
        if own:  # the estimate is unbiased only without the kernel of an image with itself
            index = np.arange(len(kernel))
            kernel[index, start + index] = 0
        total += (a[:, rows] * (b @ kernel.T)).sum(axis=1)
    return total


def _masks(draws: list[_Array], count: int) -> _Array:
    masks = np.zeros((len(draws), count), bool)
    for row, draw in zip(masks, draws, strict=True):
        row[draw] = True
    return masks
