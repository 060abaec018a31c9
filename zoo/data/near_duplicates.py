"""Groups of near-duplicate images, by difference hashes."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from PIL import Image

from zoo.core.progress import Reporter
from zoo.data.resize import to_grey

# Difference hashes of 32 x 32 bits, and how many bits may differ between near-duplicates. Among 5472 brain slices of
# 171 people, neighbouring slices of one head differ in 35-63 bits and slices of two heads in 96 or more (98 % of each):
# a threshold of 80 finds exactly the 171 heads. The usual 8 x 8 bits cannot distinguish one head from another.
HASH_SIDE = 32
NEAR_DUPLICATE_BITS = 80
HASH_NOISE_LEVELS = 2  # of 255, by which a pixel must be brighter: the noise of a flat background sets no bit


def difference_hash(values: ndarray) -> ndarray:
    """Hash an image to uint8 (128,): where pixels are brighter than their left.

    Args:
        values: float32 in [0, 255], (H, W) or (H, W, C).
    """
    image = Image.fromarray(np.ascontiguousarray(to_grey(values)))
    small = np.asarray(image.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX))
    return np.packbits(small[:, 1:] > small[:, :-1] + HASH_NOISE_LEVELS)


def near_duplicates(hashes: ndarray, reporter: Reporter, tile: int = 2048) -> ndarray:
    """Group hashes uint8 (N, 128): int64 (N,), the lowest index in each image's group.

    Groups are chained: a is grouped with c if both are near b. Time is quadratic (a minute or two for 100,000 images),
    memory is not.
    """
    # Equal hashes are compared once; sorted by their number of set bits, near ones are close together.
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    weights = np.unpackbits(unique, axis=1).sum(axis=1, dtype=np.int64)
    order = np.argsort(weights, kind="stable")
    unique, weights = unique[order], weights[order]
    parent = np.arange(len(unique))
    reporter.start("comparing", len(unique))
    # Pairs are compared as matrix products of +-1 vectors, tile by tile: faster than look-up tables for hashes as
    # similar as those of medical images.
    for top in range(0, len(unique), tile):
        rows = _to_signs(unique[top : top + tile])
        # Two hashes differ in at least as many bits as their numbers of set bits: tiles beyond this cannot match.
        reach = np.searchsorted(weights, weights[min(top + tile, len(unique)) - 1] + NEAR_DUPLICATE_BITS, side="right")
        for left in range(top, int(reach), tile):
            # The product of two sign vectors is the number of equal bits minus the number of different ones.
            near = rows @ _to_signs(unique[left : left + tile]).T >= rows.shape[1] - 2 * NEAR_DUPLICATE_BITS
            one, other = np.nonzero(near)
            _join_groups(parent, one + top, other + left)
        reporter.advance(len(rows))
    reporter.stop()
    # From ranks among unique hashes back to the order of the images.
    lowest = np.full(len(unique), len(hashes), np.int64)
    np.minimum.at(lowest, parent, first[order])
    rank = np.empty(len(unique), np.int64)
    rank[order] = np.arange(len(unique))
    return lowest[parent[rank[inverse.reshape(-1)]]]


def _to_signs(hashes: ndarray) -> ndarray:
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _join_groups(parent: ndarray, one: ndarray, other: ndarray) -> None:
    """Join the groups of ``one[i]`` and ``other[i]`` under the lower root, in place."""
    while True:
        a, b = parent[one], parent[other]
        apart = a != b
        if not apart.any():
            return
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while (parent[parent] != parent).any():  # path compression: every element points to its root
            parent[:] = parent[parent]
