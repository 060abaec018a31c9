"""Subjects read from file names, and which of them are held out of training."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePosixPath

# Most specific first; the first group is the subject. Searched in file names, then in whole relative paths.
SUBJECT_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![a-z0-9])(OAS\d_\d+)",  # OASIS: the sessions MR1 and MR2 belong to one subject
        r"(?<![a-z0-9])(sub-[a-z0-9]+)",  # BIDS
        r"(?<![a-z])((?:case|patient|pat|pid|subject|subj|sub|person|volunteer|volume|vol)[ _-]?\d+)",
        r"^(.*[^ _-])[ _-]+(?:slice|slc|sl)[ _-]?\d+",
    )
)
MIN_MATCHING_SHARE = 0.98  # of the names that a pattern must match; each other name is then a subject by itself
MIN_NAMED_SHARE = 0.5  # from which on a pattern names subjects, and the files that it does not match are strays
# Few folders of many images each are rather classes (0/, 1/, 2/) than subjects, and to hold out a class tests nothing.
MAX_CLASS_FOLDERS = 20
MIN_CLASS_IMAGES = 10  # on average, and at least twice the number of folders
# Folders that name a subject by themselves: P1, s01, 007.
SUBJECT_FOLDER = re.compile(r"(?:p|s|pt|id)[ _-]?\d+|\d{3,}", re.IGNORECASE)
MAX_HELDOUT_SHARE = 0.5  # of the images, unless a larger share of the subjects is asked for


def natural_sort_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key with numbers by value: slice_2 before slice_10."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def find_subjects(names: Sequence[str], *, split: bool = False) -> list[str] | None:
    """Read the subject of each image from its relative path, or None.

    A pattern counts only if it matches (nearly) all names and finds more than one subject. Where whole names repeat
    from folder to folder (``P1/slice_1``, ``P2/slice_1``), the folder is the subject.

    Args:
        names: relative paths.
        split: whether the first folder of each path is a split (train, test, ...).
    """
    names = [name.partition("/")[2] for name in names] if split else names
    paths = [PurePosixPath(name) for name in names]
    bases = [path.name for path in paths]
    enough = MIN_MATCHING_SHARE * len(names)
    # File names first: a folder such as "patients_2019" must not hide the subject in them.
    for texts in (bases, names):
        for pattern in SUBJECT_PATTERNS:
            matches = [pattern.search(text) for text in texts]
            # The same number in two folders (t1/case_1, t2/case_1) is one subject: to join too many subjects never
            # leaks one into the held-out images, to separate too many does.
            subjects = {match[1].casefold() for match in matches if match}
            if len(subjects) > 1 and sum(map(bool, matches)) >= enough:
                # brain_slice_1 in the folders a, b and c: the folder is all that distinguishes these "subjects".
                if pattern is SUBJECT_PATTERNS[-1] and texts is names and len(subjects) == len({*_parents(names)}):
                    break
                return [match[1].casefold() if match else name for match, name in zip(matches, names, strict=True)]
    folders = _parents(names)
    # Folders without a number are more likely classes, and to hold out a class would test nothing.
    numbered = sum(bool(re.search(r"\d", folder)) for folder in folders)
    repeated = len(set(bases)) < len(bases) and len(set(folders)) > 1 and numbered >= enough
    return folders if repeated and not are_classes(folders) else None


def describe_missing_subjects(names: Sequence[str], subjects: Sequence[str] | None, *, split: bool = False) -> str:
    """Name the files in whose path no subject was found, and say what that means; empty if there are none.

    Args:
        names: relative paths.
        subjects: as :func:`find_subjects` read them.
        split: whether the first folder of each path is a split.
    """
    paths = [name.partition("/")[2] for name in names] if split else [*names]
    for texts in ([PurePosixPath(path).name for path in paths], paths):
        for pattern in SUBJECT_PATTERNS:
            matches = [pattern.search(text) for text in texts]
            count = sum(map(bool, matches))
            if len({match[1].casefold() for match in matches if match}) < 2 or count < MIN_NAMED_SHARE * len(names):
                continue
            strays = [name for name, match in zip(names, matches, strict=True) if not match]
            if not strays:
                return ""
            if subjects is not None:
                return f"{abbreviate_list(strays)}: no subject in the name, so each is a subject by itself"
            return (
                f"subjects are named by {count} of {len(names)} files, too few to use them. Rename or move the others, "
                f"and each subject is held out or trained on as a whole: {abbreviate_list(strays)}"
            )
    return ""


def are_folders(names: Sequence[str], subjects: Sequence[str], *, split: bool = False) -> bool:
    """Return whether the subject of each image is the folder it lies in."""
    return list(subjects) == _folders(names, split)


def are_classes(folders: Sequence[str]) -> bool:
    """Return whether the folders of the images are more likely classes than subjects."""
    names = {PurePosixPath(folder).name for folder in folders}
    if all(SUBJECT_FOLDER.fullmatch(name) for name in names):
        return False
    count = len(set(folders))
    return count <= MAX_CLASS_FOLDERS and len(folders) >= count * max(MIN_CLASS_IMAGES, 2 * count)


def assign_subjects(
    names: Sequence[str],
    guess: list[str] | None,
    choice: str | None,
    *,
    split: bool,
    classes: Sequence[str] | None = None,
) -> tuple[list[str] | None, str]:
    """Return the subject of each image, and one line where folders decide it.

    Args:
        names: relative paths.
        guess: as :func:`find_subjects` read them, or as the source states them.
        choice: "folder" or "none", as the user said; None: as guessed.
        split: whether the first folder of each path is a split.
        classes: the file of each image, whose folder is its class by the user's word; None: folders are not classes.
    """
    folders = _folders(names, split)
    if choice is not None:
        return (folders if choice == "folder" else None), ""
    if classes is not None:
        if guess != _folders(classes, split):
            return guess, ""
        # Folders are no subjects then. Images of one file are of one person at least.
        return (list(classes) if len(set(classes)) < len(classes) else None), ""
    kinds = abbreviate_list(sorted(set(folders), key=natural_sort_key))
    if guess == folders:
        return guess, f"the folders {kinds} are taken for subjects; data.subjects=none changes that"
    numbered = any(re.search(r"\d", folder) for folder in folders)
    if guess is None and numbered and len(set(folders)) > 1 and are_classes(folders):
        return None, f"the folders {kinds} are taken for classes, not for subjects; data.subjects=folder changes that"
    return guess, ""


def _folders(names: Sequence[str], split: bool) -> list[str]:
    return _parents([name.partition("/")[2] for name in names] if split else names)


def _parents(names: Sequence[str]) -> list[str]:
    return [str(PurePosixPath(name).parent) for name in names]


def hold_out_subjects(groups: Sequence[str], share: float) -> frozenset[str]:
    """Choose the groups never trained on, in the order of a hash of their names.

    A group's position in that order does not depend on which others there are, so that a set that grows keeps most of
    its held-out groups. Where there are two groups, at least one is held out.

    Args:
        groups: the group (subject) of each image.
        share: how many of the groups to hold out, 0 to 1.
    """
    sizes = Counter(groups)
    if share <= 0 or len(sizes) < 2:
        return frozenset()
    count = min(len(sizes) - 1, max(1, round(share * len(sizes))))
    max_images = max(MAX_HELDOUT_SHARE, share) * len(groups)
    heldout: set[str] = set()
    images = 0
    for group in sorted(sizes, key=_hash_name):
        # A group so large that training would lose most of its images is skipped.
        if len(heldout) < count and images + sizes[group] <= max_images:
            heldout.add(group)
            images += sizes[group]
    return frozenset(heldout or {min(sizes, key=lambda group: (sizes[group], _hash_name(group)))})


def _hash_name(group: str) -> bytes:
    return hashlib.blake2b(group.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def printable_name(name: str) -> str:
    """Return a file name as one line without control characters."""
    # File names may hold bytes that are not text, line breaks, and commands to the terminal.
    text = " ".join(name.encode("utf-8", "replace").decode().split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def abbreviate_list(items: Iterable[str], count: int = 3) -> str:
    """Join the first items: ``"a, b, c and 9 more"``."""
    texts = [printable_name(item) for item in items]
    return ", ".join(texts[:count]) + (f" and {len(texts) - count} more" if len(texts) > count else "")


def hash_subject(subject: object) -> str:
    """Return a name for a subject that does not show who it is."""
    return f"s{hashlib.blake2b(str(subject).encode('utf-8', 'surrogateescape'), digest_size=6).hexdigest()}"


def subject_indices(groups: Iterable[Hashable]) -> list[int]:
    """Number the groups in order of appearance, so that names do not matter."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]
