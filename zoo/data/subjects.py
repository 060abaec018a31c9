"""Which pictures belong together, so that nobody is both learnt from and tested on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePosixPath

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


def natural_sort_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """A sort key with numbers by value: slice_2 before slice_10."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def find_subjects(names: Sequence[str], *, split: bool = False) -> list[str] | None:
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


def hold_out_subjects(groups: Sequence[str], share: float) -> frozenset[str]:
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


def subject_indices(groups: Iterable[Hashable]) -> list[int]:
    """The number of each one's group, in order of appearance: the same for the same division, whatever its names."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]
