"""Which pictures belong together, so that nobody is both learnt from and tested on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from zoo.core.progress import Reporter
from zoo.data.decode import Array

# Most telling first; the first group is the subject. Searched in a name's own part, then in its whole path.
PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![a-z0-9])(OAS\d_\d+)",  # OASIS: the sessions MR1, MR2 are one person's
        r"(?<![a-z0-9])(sub-[a-z0-9]+)",  # BIDS
        r"(?<![a-z])((?:case|patient|pat|pid|subject|subj|sub|person|volunteer|volume|vol)[ _-]?\d+)",
        r"^(.*[^ _-])[ _-]+(?:slice|slc|sl)[ _-]?\d+",
    )
)
ENOUGH = 0.98  # the share of names a pattern must fit; each of the others is then a subject of its own

# Difference hashes of 32 x 32 bits, and how many may differ between near-duplicates. Among 5472 brain slices of 171
# people, neighbours in one head differ in 35-63 bits and slices of two heads in 96 or more (98 % of each): 80 finds
# exactly the 171 heads. The usual 8 x 8 bits cannot tell one head from another.
HASH_SIDE = 32
NEAR = 80


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """A sort key with numbers by value: slice_2 before slice_10."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def subjects_of(names: Sequence[str], *, split: bool = False) -> list[str] | None:
    """A subject for each relative path (its first folder a split, if ``split``), or None where names do not tell.

    A rule counts only if it fits (nearly) all names and finds more than one subject. Where one number stands in two
    folders (``t1/case_1``, ``t2/case_1``), it is taken for one subject: too coarse never leaks, too fine does. Where
    whole names repeat from folder to folder (``P1/slice_1``, ``P2/slice_1``), the folder is the subject, if it has a
    number: folders without are more likely classes, and to hold out a class is no test of anything.
    """
    names = [name.partition("/")[2] for name in names] if split else names
    paths = [PurePosixPath(name) for name in names]
    bases = [path.name for path in paths]
    for texts in (bases, names):
        for pattern in PATTERNS:
            found = [match[1].casefold() if (match := pattern.search(text)) else None for text in texts]
            fitting = [subject for subject in found if subject is not None]
            if len(fitting) >= ENOUGH * len(names) and len(set(fitting)) > 1:
                return [subject or name for subject, name in zip(found, names, strict=True)]
    folders = [str(path.parent) for path in paths]
    numbered = sum(bool(re.search(r"\d", folder)) for folder in folders)
    if len(set(bases)) < len(bases) and len(set(folders)) > 1 and numbered >= ENOUGH * len(names):
        return folders
    return None


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
        reach = np.searchsorted(weights, weights[min(top + tile, len(unique)) - 1] + NEAR, side="right")
        for left in range(top, int(reach), tile):
            alike = rows @ _signs(unique[left : left + tile]).T >= rows.shape[1] - 2 * NEAR
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


def hold_out(groups: Sequence[str], share: float) -> frozenset[str]:
    """The groups never trained on: ``share`` of them, one at least where there are two, first by a hash of their names.

    A subject's place in that order does not depend on who else is there. A group is passed over if with it more than
    half of the pictures (or ``share``, if that is more) would be held out.
    """
    sizes = Counter(groups)
    if share <= 0 or len(sizes) < 2:
        return frozenset()
    wanted = min(len(sizes) - 1, max(1, round(share * len(sizes))))
    limit = max(0.5, share) * len(groups)
    chosen: set[str] = set()
    taken = 0
    for group in sorted(sizes, key=_rank):
        if len(chosen) < wanted and taken + sizes[group] <= limit:
            chosen.add(group)
            taken += sizes[group]
    return frozenset(chosen or {min(sizes, key=lambda group: (sizes[group], _rank(group)))})


def _rank(group: str) -> bytes:
    return hashlib.blake2b(group.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def enumerated(items: Iterable[str], most: int = 3) -> str:
    """``"a, b, c and 9 more"``."""
    listed = [" ".join(item.encode("utf-8", "replace").decode().split()) for item in items]  # names may hold anything
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def numbered(groups: Iterable[Hashable]) -> list[int]:
    """The number of each one's group, in order of appearance: the same for the same division, whatever its names."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]
