"""The kernel distance between two sets of features (KID).

M. Binkowski, D. J. Sutherland, M. Arbel, A. Gretton, "Demystifying MMD GANs", ICLR 2018, section 4: the unbiased
estimate of the squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, meaned over subsets drawn from both
sets. The subsets are those of torch-fidelity 0.4 (its seed 2020, its order of drawing), and so is the figure.

Unlike FID it has no bias from the number of images; of two sets from one distribution it scatters around 0 and is as
often negative.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

SUBSET, SUBSETS, SEED = 1000, 100, 2020  # torch-fidelity's own
KID_MAX_IMAGES = 10_000  # images a side of which half-samples are taken

_ROWS = 1024


class KID(NamedTuple):
    """KID and its error.

    Attributes:
        mean: over the subsets.
        error: standard deviation over the subsets, which is that of one subset's figure: not of the mean.
    """

    mean: float
    error: float


def kernel_distance(x: Array, y: Array, subset: int | None = None, subsets: int = SUBSETS, seed: int = SEED) -> KID:
    """KID of two sets of features (N, D) and (M, D).

    Args:
        x: the fakes (torch-fidelity's input 1); the order matters for which subsets are drawn, and for nothing else.
        subset: images of each set in a subset; None: 1000, or as many as the smaller set has.

    Raises:
        ValueError: fewer than two rows, different D, or subsets larger than a set.
    """
    _check(x, y)
    size = min(SUBSET, len(x), len(y)) if subset is None else subset
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"subsets of {size} from {len(x)} and {len(y)} images")
    rng = np.random.RandomState(seed)
    draws = [[rng.choice(len(side), size, replace=False) for side in (x, y)] for _ in range(subsets)]
    if (
        len(x) ** 2 + len(y) ** 2 + len(x) * len(y) <= 3 * size**2 * subsets
    ):  # all kernels once, or those of each subset
        left, right = (_masks([draw[side] for draw in draws], len((x, y)[side])) for side in (0, 1))
        values = half_kids(x, y, left, right)
    else:
        every = np.ones((1, size), bool)
        values = np.concatenate([half_kids(x[left], y[right], every, every) for left, right in draws])
    return KID(float(values.mean()), float(values.std()))


def half_kids(x: Array, y: Array, x_masks: Array, y_masks: Array) -> Array:
    """The unbiased estimate of each pair of subsets (R,), all of its images at once instead of subsets of them.

    Args:
        x_masks, y_masks: (R, N) and (R, M) bool: the rows of each subset, two or more each.
    """
    _check(x, y)
    a, b = x_masks.astype(np.float64), y_masks.astype(np.float64)
    n, m = a.sum(axis=1), b.sum(axis=1)
    within = _sums(x, x, a, a, own=True) / (n * (n - 1)) + _sums(y, y, b, b, own=True) / (m * (m - 1))
    return within - 2 * _sums(x, y, a, b) / (n * m)


def _sums(x: Array, y: Array, a: Array, b: Array, *, own: bool = False) -> Array:
    """Sum over i, j of a[r, i] k(x[i], y[j]) b[r, j] for each r; without i = j where the sets are one (``own``).

    All weights in one pass over the kernel, of which no more than a strip is ever in memory.
    """
    total = np.zeros(len(a))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = (x[rows] @ y.T).astype(np.float64)
        kernel /= x.shape[1]
        kernel += 1
        kernel *= kernel * kernel
        if own:
            index = np.arange(len(kernel))
            kernel[index, start + index] = 0
        total += (a[:, rows] * (b @ kernel.T)).sum(axis=1)
    return total


def _masks(draws: list[Array], count: int) -> Array:
    masks = np.zeros((len(draws), count), bool)
    for row, draw in zip(masks, draws, strict=True):
        row[draw] = True
    return masks


def _check(x: Array, y: Array) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"KID takes features (N, D) and (M, D), N and M of 2 or more, not {x.shape} and {y.shape}")
