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
# Vectors of +-1 that differ in n bits have a squared distance of 4 n; one more for rounding in float32.
MAX_SQUARED_DISTANCE = 4 * NEAR_DUPLICATE_BITS + 1
MIN_PROJECTED = 4096  # hashes; fewer are compared in full at once
PROJECTION_SAMPLE = 8192  # hashes, by which coordinates are chosen
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

    Groups are chained: a is grouped with c if both are near b. Pairs are compared in a few coordinates first, which
    never separate near ones, and the rest in full. Time is quadratic, memory is not.
    """
    # Equal hashes are compared once; sorted by their first coordinate, near ones are close together.
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    points = _project(unique)
    order = np.argsort(points[:, 0], kind="stable")
    unique, points = unique[order], points[order]
    # Rows and columns such that their product is half the squared distance, negated: one comparison per pair.
    half = 0.5 * np.einsum("ij,ij->i", points, points)[:, None]
    one = np.ones_like(half)
    rows, columns = np.hstack([points, -half, one]), np.hstack([points, one, -half])
    parent = np.arange(len(unique))
    reporter.start("comparing", len(unique))
    for top in range(0, len(unique), tile):
        bottom = min(top + tile, len(unique))
        # The distance is at least that along the first coordinate.
        reach = np.searchsorted(points[:, 0], points[bottom - 1, 0] + MAX_SQUARED_DISTANCE**0.5, side="right")
        for left in range(top, int(reach), tile):
            near = rows[top:bottom] @ columns[left : left + tile].T >= -MAX_SQUARED_DISTANCE / 2
            a, b = np.divmod(np.flatnonzero(near), near.shape[1])
            _join_near(parent, unique, a + top, b + left)
        reporter.advance(bottom - top)
    reporter.stop()
    # From ranks among unique hashes back to the order of the images.
    lowest = np.full(len(unique), len(hashes), np.int64)
    np.minimum.at(lowest, parent, first[order])
    rank = np.empty(len(unique), np.int64)
    rank[order] = np.arange(len(unique))
    return lowest[parent[rank[inverse.reshape(-1)]]]


def _project(hashes: ndarray) -> ndarray:
    """Return coordinates float32 (N, k) whose squared distances are at most 4 times the numbers of different bits.

    They are the leading principal components of the hashes as vectors of +-1: an orthonormal projection shortens
    distances only. As many are taken as make the comparison of all pairs cheapest, measured on some of them.
    """
    if len(hashes) < MIN_PROJECTED:
        return _to_signs(hashes)
    sample = _to_signs(hashes[:: max(1, len(hashes) // PROJECTION_SAMPLE)])
    _, basis = np.linalg.eigh(np.cov(sample, rowvar=False))
    basis = np.ascontiguousarray(basis[:, ::-1].astype(np.float32))
    some = sample[::4] @ basis
    costs = {}
    for count in (32, 64, 96, 128, 192, 256, 384, 512):
        squares = (some[:, :count] ** 2).sum(1)
        distances = squares[:, None] + squares - 2 * some[:, :count] @ some[:, :count].T
        # In units of one multiplication per pair: a product, its comparison, and the pairs compared in full.
        costs[count] = count + 100 + 3000 * (distances <= MAX_SQUARED_DISTANCE).mean()
    best = min(costs, key=lambda count: costs[count])
    blocks = [_to_signs(hashes[start : start + 8192]) @ basis[:, :best] for start in range(0, len(hashes), 8192)]
    return np.concatenate(blocks)


def _join_near(parent: ndarray, hashes: ndarray, one: ndarray, other: ndarray, chunk: int = 1 << 18) -> None:
    """Join those of some pairs that differ in few enough bits."""
    for start in range(0, len(one), chunk):
        a, b = one[start : start + chunk], other[start : start + chunk]
        apart = parent[a] != parent[b]  # pairs that are already in one group need no comparison
        a, b = a[apart], b[apart]
        bits = _count_bits(hashes[a] ^ hashes[b])
        near = bits <= NEAR_DUPLICATE_BITS
        _join_groups(parent, a[near], b[near])


def _count_bits(values: ndarray) -> ndarray:
    """Count the set bits of each row of uint8 (N, 128)."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(values.view(np.uint64)).sum(axis=1, dtype=np.int64)
    return np.unpackbits(values, axis=1).sum(axis=1, dtype=np.int64)


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
