"""Precision, recall, density and coverage: which images lie among the others' nearest neighbours.

T. Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", NeurIPS 2019, eq. 1
and 2: the manifold of a set is the union of balls around its images, each reaching to the image's k-th neighbour in
the set. M. F. Naeem et al., "Reliable fidelity and diversity metrics for generative models", ICML 2020, eq. 4 and 6:
density counts in how many reals' balls a fake lies, coverage how many reals have a fake in their ball. As in the
authors' code a ball holds its edge in the former two and does not in the latter, so that the density of the reals
themselves is 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

K_PRECISION, K_DENSITY = 3, 5  # the papers' own

_KEPT = 32  # neighbours remembered of each image: among them nearly always are the k nearest of a half
_CELLS = 2**24  # distances computed at once: 64 MB of float32
_TABLE = 2**28  # distances kept from one half-sample to the next: 1 GB


class PrecisionRecall(NamedTuple):
    """Attributes:
    precision: share of fakes in a ball of a real.
    recall: share of reals in a ball of a fake.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Attributes:
    density: balls of reals that a fake lies in, mean over fakes, divided by k; 1 for one distribution, 0 and more.
    coverage: share of reals with a fake in their ball.
    """

    density: float
    coverage: float


def precision_recall(reals: Array, fakes: Array, k: int = K_PRECISION) -> PrecisionRecall:
    """Of features (N, D) and (M, D), k + 1 of each or more; Euclidean distances, float32 inside.

    Raises:
        ValueError: fewer, or different D.
    """
    found = Neighbours(reals, fakes, precision=k, density=None).figures()
    return PrecisionRecall(found["precision"], found["recall"])


def density_coverage(reals: Array, fakes: Array, k: int = K_DENSITY) -> DensityCoverage:
    """Of features (N, D), k + 1 or more, and (M, D), one or more; as :func:`precision_recall` otherwise."""
    found = Neighbours(reals, fakes, precision=None, density=k).figures()
    return DensityCoverage(found["density"], found["coverage"])


class Neighbours:
    """The figures of two sets, and of subsets of them, from distances that are computed once.

    Args:
        reals: (N, D) features.
        fakes: (M, D) features.
        precision: k of precision and recall; None: without them.
        density: k of density and coverage; None: without them.

    Attributes:
        kept: whether the distances between the two sets fit into memory; a subset costs a second or more if not.
    """

    def __init__(
        self, reals: Array, fakes: Array, *, precision: int | None = K_PRECISION, density: int | None = K_DENSITY
    ) -> None:
        if reals.ndim != 2 or fakes.ndim != 2 or reals.shape[1] != fakes.shape[1] or not len(fakes):
            raise ValueError(
                f"neighbours are sought among features (N, D) and (M, D), not {reals.shape}, {fakes.shape}"
            )
        self.precision, self.density = precision, density
        # Distances are those of centred features, whose small norms cost fewer digits.
        middle = reals.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._reals, self._fakes = _Points(reals - middle), _Points(fakes - middle)
        self._real_lists = _Lists(self._reals, max(precision or 0, density or 0))
        self._fake_lists = _Lists(self._fakes, precision) if precision else None
        self.kept = len(reals) * len(fakes) <= _TABLE
        self._table = _between(self._fakes, self._reals) if self.kept else None

    def figures(self, real_mask: Array | None = None, fake_mask: Array | None = None) -> dict[str, float]:
        """``precision``, ``recall``, ``density``, ``coverage``: what was asked for, of all images or of those masked.

        Raises:
            ValueError: k or fewer images in a subset.
        """
        real = np.arange(len(self._reals.rows)) if real_mask is None else np.flatnonzero(real_mask)
        fake = np.arange(len(self._fakes.rows)) if fake_mask is None else np.flatnonzero(fake_mask)
        inside = np.zeros(len(fake), bool)  # fakes in a ball of a real
        reached = np.zeros(len(real), bool)  # reals in a ball of a fake
        covered = np.zeros(len(real), bool)  # reals with a fake in their ball
        balls = 0
        if self.precision:
            assert self._fake_lists is not None
            wide = self._real_lists.radii(real, self.precision)
            fake_wide = self._fake_lists.radii(fake, self.precision)
        if self.density:
            narrow = self._real_lists.radii(real, self.density)
        step = max(1, _CELLS // max(1, len(real)))
        for start in range(0, len(fake), step):
            rows = slice(start, start + step)
            distances = self._rows(fake[rows], real, whole=real_mask is None)
            if self.precision:
                inside[rows] = (distances <= wide).any(axis=1)
                reached |= (distances <= fake_wide[rows, None]).any(axis=0)
            if self.density:
                within = distances < narrow
                balls += int(np.count_nonzero(within))
                covered |= within.any(axis=0)
        found: dict[str, float] = {}
        if self.precision:
            found |= {"precision": float(inside.mean()), "recall": float(reached.mean())}
        if self.density:
            found |= {"density": balls / (self.density * len(fake)), "coverage": float(covered.mean())}
        return found

    def _rows(self, fake: Array, real: Array, *, whole: bool) -> Array:
        """Squared distances of some fakes to some (or the ``whole`` of the) reals."""
        if self._table is not None:
            return self._table[fake] if whole else self._table[fake[:, None], real]
        return _between(self._fakes.take(fake), self._reals if whole else self._reals.take(real))


class _Points:
    """Features and their squared lengths."""

    def __init__(self, rows: Array) -> None:
        self.rows = np.ascontiguousarray(rows, np.float32)
        self.squares = np.einsum("nd,nd->n", self.rows, self.rows, dtype=np.float64).astype(np.float32)

    def take(self, index: Array | slice) -> _Points:
        part = _Points.__new__(_Points)
        part.rows, part.squares = self.rows[index], self.squares[index]
        return part


def _between(a: _Points, b: _Points) -> Array:
    """(N, M) squared distances, float32."""
    table = np.empty((len(a.rows), len(b.rows)), np.float32)
    step = max(1, _CELLS // max(1, len(b.rows)))
    for start in range(0, len(a.rows), step):
        rows = slice(start, start + step)
        np.matmul(a.rows[rows], b.rows.T, out=table[rows])
        table[rows] *= -2
        table[rows] += a.squares[rows, None]
        table[rows] += b.squares
        np.maximum(table[rows], 0, out=table[rows])
    return table


class _Lists:
    """The nearest neighbours of each image in its own set, nearest first."""

    def __init__(self, points: _Points, k: int) -> None:
        count = len(points.rows)
        if count <= k:
            raise ValueError(f"{count} images have no {k} neighbours each")
        self._points = points
        kept = min(count - 1, max(_KEPT, 4 * k))
        self._index = np.empty((count, kept), np.int32)
        self._distance = np.empty((count, kept), np.float32)
        step = max(1, _CELLS // count)
        for start in range(0, count, step):
            rows = np.arange(start, min(start + step, count))
            distances = _between(points.take(rows), points)
            distances[rows - start, rows] = np.inf  # an image is no neighbour of its own
            index = np.argpartition(distances, kept - 1, axis=1)[:, :kept]
            found = np.take_along_axis(distances, index, axis=1)
            order = np.argsort(found, axis=1)
            self._index[rows] = np.take_along_axis(index, order, axis=1)
            self._distance[rows] = np.take_along_axis(found, order, axis=1)

    def radii(self, subset: Array, k: int) -> Array:
        """Squared distance of each image of the subset (positions, ascending) to its k-th neighbour in it."""
        count = len(self._index)
        if len(subset) <= k:
            raise ValueError(f"{len(subset)} images have no {k} neighbours each")
        if len(subset) == count:
            return self._distance[:, k - 1]
        chosen = np.zeros(count, bool)
        chosen[subset] = True
        rank = chosen[self._index[subset]].cumsum(axis=1, dtype=np.int32)
        radii = np.take_along_axis(self._distance[subset], (rank >= k).argmax(axis=1)[:, None], axis=1)[:, 0]
        short = np.flatnonzero(rank[:, -1] < k)  # too few of the remembered ones were drawn: look at all
        step = max(1, _CELLS // len(subset))
        for start in range(0, len(short), step):
            rows = short[start : start + step]
            distances = _between(self._points.take(subset[rows]), self._points.take(subset))
            distances[np.arange(len(rows)), rows] = np.inf
            radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
        return radii
