"""How a folder or an archive is organised: its images, its split folders, and the masks of OASIS."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from zoo.core.errors import ZooError, error_message
from zoo.data.decode import IMAGE_SUFFIXES
from zoo.data.subjects import natural_sort_key

SPLITS = ("train", "validate", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validate",
    "valid": "validate",
    "validate": "validate",
    "validation": "validate",
    "test": "test",
    "testing": "test",
}
CHECK_FOLDER_PREFIX = "data-check-"  # of the folders that `zoo data check` writes
OASIS_IMAGES = re.compile(r"keras_png_slices_(train|validate|test)", re.IGNORECASE)
OASIS_MASKS = re.compile(r"keras_png_slices_seg_\w+", re.IGNORECASE)

_File = tuple[str, Any]  # a relative path, and where its source finds the file


@dataclass(frozen=True)
class Problem:
    """Something a user should know about a set, most often an image that was left out.

    Attributes:
        name: the image (or folder), relative to the set.
        reason: what is wrong with it, in a few words.
    """

    name: str
    reason: str


@dataclass
class Listing:
    """The images of a source.

    Attributes:
        names: relative names, equal wherever the set lies; sorted by split, then in natural order.
        entries: what each image is found by in a folder or zip.
        splits: the split of each ("train", "validate" or "test"), where the set has split folders.
        others: number of files that are not images, or are masks.
        problems: what the layout leaves out.
    """

    names: list[str]
    entries: list[Any] = field(default_factory=list)
    splits: list[str] | None = None
    others: int = 0
    problems: list[Problem] = field(default_factory=list)


def organise_files(files: Iterable[_File], label: str) -> Listing:
    """List the images among some files: without hidden files and masks, by split.

    Leading folders that all images share are cut, so that a nested archive, its inner folder and a zip of either are
    the same set.

    Args:
        files: relative paths, each with what its source finds the file by.
        label: the set, for messages.

    Raises:
        ZooError: there is no image.
    """
    visible: list[_File] = []
    for path, entry in files:
        name = str(PurePosixPath(path.replace("\\", "/")))
        if not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            visible.append((name, entry))
    # Masks have the suffix of images; they count as other files.
    images = _without_masks([file for file in visible if is_image_name(file[0])])
    if not images:
        raise _no_images_error(visible, label)
    others = len(visible) - len(images)
    # Cut the leading folder while it is common to all, as in an archive that holds one folder.
    while "/" in images[0][0] and len({_top_folder(name) for name, _ in images}) == 1:
        images = [(name.partition("/")[2], entry) for name, entry in images]

    split_of = _read_splits(images)
    problems = []
    if split_of:
        outside = Counter(_top_folder(name) for name, _ in images if _top_folder(name) not in split_of)
        # With splits, an image outside them belongs to none: to guess would risk training on test images.
        reason = f"images left out, because they are not in {', '.join(sorted(split_of))}"
        problems = [Problem(folder, f"{count} {reason}") for folder, count in sorted(outside.items())]
        images = [file for file in images if _top_folder(file[0]) in split_of]

    def order(file: _File) -> tuple[int, Any]:
        split = split_of.get(_top_folder(file[0]), "train")
        return SPLITS.index(split), natural_sort_key(file[0])

    images.sort(key=order)
    names = [name for name, _ in images]
    splits = [split_of[_top_folder(name)] for name in names] if split_of else None
    return Listing(names, [entry for _, entry in images], splits, others, problems)


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def walk_files(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name and (bytes, mtime in ns) of all files outside hidden folders.

    Names are relative. Links are followed, but not in circles.

    Raises:
        ZooError: a folder cannot be read.
    """
    visited = set()

    def refuse(error: OSError) -> None:
        raise ZooError(f"{error.filename}: {error_message(error)}") from error

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        # The contact sheet that `zoo data check` wrote into a set is not an image of the set.
        folders[:] = sorted(name for name in folders if not name.startswith((".", CHECK_FOLDER_PREFIX)))
        prefix = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        for name in files:
            try:
                status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 (half the time of a warm start)
                yield prefix + name, (status.st_size, status.st_mtime_ns)
            except OSError:  # a broken link: reported as a problem when it is read
                yield prefix + name, (0, 0)


def _top_folder(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "."


def _without_masks(images: list[_File]) -> list[_File]:
    """Drop OASIS masks, unless a folder of masks alone was given."""

    def in_folder(pattern: re.Pattern[str], file: _File) -> bool:
        return any(pattern.fullmatch(folder) for folder in file[0].split("/")[:-1])

    if not any(in_folder(OASIS_IMAGES, file) for file in images):
        return images
    return [file for file in images if not in_folder(OASIS_MASKS, file)]


def _read_splits(images: list[_File]) -> dict[str, str]:
    """Return the split of each split folder; {} unless there are train and another."""
    split_of = {}
    for folder in {_top_folder(name) for name, _ in images}:
        oasis = OASIS_IMAGES.fullmatch(folder)
        split = SPLIT_FOLDERS.get(oasis[1].lower() if oasis else folder.lower())
        if split:
            split_of[folder] = split
    # A folder "train" alone, or "val" next to classes, is not a split.
    found = set(split_of.values())
    return split_of if "train" in found and len(found) > 1 else {}


def _no_images_error(files: list[_File], label: str) -> ZooError:
    suffixes = Counter(PurePosixPath(name).suffix or "no suffix" for name, _ in files)
    common = ", ".join(suffix for suffix, _ in suffixes.most_common(3))
    content = f"only {len(files)} files of other kinds ({common})" if files else "it is empty"
    return ZooError(f"{label}: no images, {content}. Supported are {', '.join(IMAGE_SUFFIXES)}")
