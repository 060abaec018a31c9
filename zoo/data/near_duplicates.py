"""Groups of near-duplicate images, by difference hashes."""

from __future__ import annotations

import numpy as np

from zoo.core.progress import Reporter
from zoo.data.decode import Array

# Difference hashes of 32 x 32 bits, and how many may differ between near-duplicates. Among 5472 brain slices of 171
# people, neighbours in one head differ in 35-63 bits and slices of two heads in 96 or more (98 % of each): 80 finds
# exactly the 171 heads. The usual 8 x 8 bits cannot tell one head from another.
HASH_SIDE = 32


NEAR_DUPLICATE_BITS = 80


def difference_hash(small: Array) -> bytes:
    """Float32 levels (HASH_SIDE, HASH_SIDE + 1) to 128 bytes: where a pixel is brighter than its left neighbour.

    Brighter by two levels, so that the noise of a flat background says nothing.
    """
    return np.packbits(small[:, 1:] > small[:, :-1] + 2).tobytes()


def near_duplicates(hashes: Array, reporter: Reporter, tile: int = 2048) -> Array:
    """Hashes uint8 (N, 128) to int64 (N,): the lowest index in each picture's group.

    Groups are chained: a is with c if both are near b. Pairs are compared as matrix products of +-1 vectors, tile by
    tile, which beats look-up tables for hashes as much alike as those of medical pictures; tiles whose numbers of set
    bits are too far apart are skipped. Time is quadratic (a minute or two for 100,000 pictures), memory is not.
    """
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    weights = np.unpackbits(unique, axis=1).sum(axis=1, dtype=np.int64)
    order = np.argsort(weights, kind="stable")
    unique, weights = unique[order], weights[order]
    parent = np.arange(len(unique))
    reporter.start("comparing", len(unique))
    for top in range(0, len(unique), tile):
        rows = _signs(unique[top : top + tile])
        reach = np.searchsorted(weights, weights[min(top + tile, len(unique)) - 1] + NEAR_DUPLICATE_BITS, side="right")
        for left in range(top, int(reach), tile):
            alike = rows @ _signs(unique[left : left + tile]).T >= rows.shape[1] - 2 * NEAR_DUPLICATE_BITS
            one, other = np.nonzero(alike)
            _join(parent, one + top, other + left)
        reporter.advance(len(rows))
    reporter.stop()
    lowest = np.full(len(unique), len(hashes), np.int64)
    np.minimum.at(lowest, parent, first[order])
    place = np.empty(len(unique), np.int64)
    place[order] = np.arange(len(unique))
    return lowest[parent[place[inverse.reshape(-1)]]]


def _signs(hashes: Array) -> Array:
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _join(parent: Array, one: Array, other: Array) -> None:
    """Hang the root of each ``one[i]`` or ``other[i]`` below the lower of the two; all then point to their roots."""
    while True:
        a, b = parent[one], parent[other]
        apart = a != b
        if not apart.any():
            return
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while (parent[parent] != parent).any():
            parent[:] = parent[parent]
