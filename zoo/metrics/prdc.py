"""Precision, recall, density and coverage: which images lie among the others' nearest neighbours.

T. Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", NeurIPS 2019, eq. 1
and 2; M. F. Naeem et al., "Reliable fidelity and diversity metrics for generative models", ICML 2020, eq. 4 and 6.
The ball of an image reaches to its k-th neighbour in its own set. See docs/metrics.md.
"""

from __future__ import annotations

import numpy as np

_Array = np.ndarray

K_PRECISION, K_DENSITY = 3, 5  # neighbours, as in the papers

_LISTED_NEIGHBOURS = 32  # per image: they nearly always include the k nearest in a half-sample
_CHUNK_DISTANCES = 2**24  # computed at once: 64 MB of float32
_MAX_TABLE_DISTANCES = 2**28  # kept from one half-sample to the next: 1 GB


class Neighbours:
    """Precision, recall, density and coverage of two sets and their subsets, from distances computed once.

    Euclidean distances, float32.

    Args:
        reals: (N, D) features.
        fakes: (M, D) features.
        precision: k of precision and recall; 0: without them.
        density: k of density and coverage; 0: without them.

    Attributes:
        in_memory: whether the distances between the sets fit into memory; otherwise a subset takes a second or more.

    Raises:
        ValueError: different D, no fakes, or too few images to have k neighbours each.
    """

    def __init__(self, reals: _Array, fakes: _Array, *, precision: int = K_PRECISION, density: int = K_DENSITY) -> None:
        if reals.ndim != 2 or fakes.ndim != 2 or reals.shape[1] != fakes.shape[1] or not len(fakes):
            raise ValueError(f"Neighbours takes features (N, D) and (M, D), not {reals.shape} and {fakes.shape}")
        self.precision, self.density = precision, density
        # Distances do not change with the origin, and small norms lose fewer digits in |a|^2 - 2 a.b + |b|^2.
        middle = reals.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._reals, self._fakes = _Points(reals - middle), _Points(fakes - middle)
        self._real_neighbours = _NeighbourLists(self._reals, max(precision, density))
        if precision:
            self._fake_neighbours = _NeighbourLists(self._fakes, precision)
        self.in_memory = len(reals) * len(fakes) <= _MAX_TABLE_DISTANCES
        self._table = self._fakes.distances(self._reals) if self.in_memory else None

    def values(self, real_mask: _Array | None = None, fake_mask: _Array | None = None) -> dict[str, float]:
        """Return the metrics by name, of all images or of those in the masks.

        Raises:
            ValueError: k or fewer images in a subset.
        """
        real = np.arange(len(self._reals.rows)) if real_mask is None else np.flatnonzero(real_mask)
        fake = np.arange(len(self._fakes.rows)) if fake_mask is None else np.flatnonzero(fake_mask)
        fake_in_ball = np.zeros(len(fake), bool)
        real_in_ball = np.zeros(len(real), bool)
        covered = np.zeros(len(real), bool)
        balls = 0
        if self.precision:
            real_radii = self._real_neighbours.radii(real, self.precision)
            fake_radii = self._fake_neighbours.radii(fake, self.precision)
        if self.density:
            density_radii = self._real_neighbours.radii(real, self.density)
        for rows in _chunks(len(fake), len(real)):
            distances = self._distances(fake[rows], real, whole=real_mask is None)
            if self.precision:
                fake_in_ball[rows] = (distances <= real_radii).any(axis=1)
                real_in_ball |= (distances <= fake_radii[rows, None]).any(axis=0)
            if self.density:
                # As in the authors' code the edge belongs to the ball above and not here: density of the reals is 1.
                within = distances < density_radii
                balls += int(np.count_nonzero(within))
                covered |= within.any(axis=0)
        values: dict[str, float] = {}
        if self.precision:
            values |= {"precision": float(fake_in_ball.mean()), "recall": float(real_in_ball.mean())}
        if self.density:
            values |= {"density": balls / (self.density * len(fake)), "coverage": float(covered.mean())}
        return values

    def _distances(self, fake: _Array, real: _Array, *, whole: bool) -> _Array:
        """Return the squared distances of some fakes to some (or the ``whole`` of the) reals."""
        if self._table is not None:
            return self._table[fake] if whole else self._table[fake[:, None], real]
        return self._fakes[fake].distances(self._reals if whole else self._reals[real])


class _Points:
    """Features and their squared lengths."""

    def __init__(self, rows: _Array, squares: _Array | None = None) -> None:
        self.rows = np.ascontiguousarray(rows, np.float32)
        if squares is None:  # summed in float64, since |a|^2 - 2 a.b + |b|^2 cancels
            squares = np.einsum("nd,nd->n", self.rows, self.rows, dtype=np.float64).astype(np.float32)
        self.squares = squares

    def __getitem__(self, index: _Array) -> _Points:
        return _Points(self.rows[index], self.squares[index])

    def distances(self, others: _Points) -> _Array:
        """Return the squared distances (N, M), float32."""
        table = np.empty((len(self.rows), len(others.rows)), np.float32)
        for rows in _chunks(*table.shape):
            np.matmul(self.rows[rows], others.rows.T, out=table[rows])
            table[rows] *= -2
            table[rows] += self.squares[rows, None]
            table[rows] += others.squares
            np.maximum(table[rows], 0, out=table[rows])  # rounding may make them negative
        return table


class _NeighbourLists:
    """The nearest neighbours of each image in its own set, nearest first."""

    def __init__(self, points: _Points, k: int) -> None:
        count = len(points.rows)
        _check_neighbours(count, k)
        self._points = points
        listed = min(count - 1, max(_LISTED_NEIGHBOURS, 4 * k))
        self._index = np.empty((count, listed), np.int32)
        self._distance = np.empty((count, listed), np.float32)
        for chunk in _chunks(count, count):
            rows = np.arange(count)[chunk]
            distances = points[rows].distances(points)
            distances[rows - rows[0], rows] = np.inf  # an image is no neighbour of itself
            index = np.argpartition(distances, listed - 1, axis=1)[:, :listed]
            nearest = np.take_along_axis(distances, index, axis=1)
            order = np.argsort(nearest, axis=1)
            self._index[rows] = np.take_along_axis(index, order, axis=1)
            self._distance[rows] = np.take_along_axis(nearest, order, axis=1)

    def radii(self, subset: _Array, k: int) -> _Array:
        """Return the squared distance of each image of a subset (ascending indices) to its k-th neighbour in it."""
        count = len(self._index)
        _check_neighbours(len(subset), k)
        if len(subset) == count:
            return self._distance[:, k - 1]
        chosen = np.zeros(count, bool)
        chosen[subset] = True
        rank = chosen[self._index[subset]].cumsum(axis=1, dtype=np.int32)
        radii = np.take_along_axis(self._distance[subset], (rank >= k).argmax(axis=1)[:, None], axis=1)[:, 0]
        short = np.flatnonzero(rank[:, -1] < k)  # too few of the listed neighbours are in the subset: search all of it
        for chunk in _chunks(len(short), len(subset)):
            rows = short[chunk]
            distances = self._points[subset[rows]].distances(self._points[subset])
            distances[np.arange(len(rows)), rows] = np.inf
            radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
        return radii


def _chunks(count: int, width: int) -> list[slice]:
    """Split ``count`` rows of a table of this width into chunks that are computed at once."""
    step = max(1, _CHUNK_DISTANCES // max(1, width))
    return [slice(start, start + step) for start in range(0, count, step)]


def _check_neighbours(count: int, k: int) -> None:
    if count <= k:
        raise ValueError(f"{count} images have no {k} neighbours each")
