"""How a folder or an archive is organised: images, splits, masks, and what this package wrote there itself."""

from __future__ import annotations

import os
import re
import stat
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
# Formats of images that are not read; files that have them are counted, so that none is missed without a word.
VOLUME_SUFFIXES = (".dcm", ".dicom", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".mgz")  # read in folders of their own
UNREAD_SUFFIXES = (
    *(*VOLUME_SUFFIXES, ".img", ".svs", ".ndpi", ".czi", ".psd"),
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".tga", ".exr", ".hdr", ".ico", ".svg", ".apng", ".eps"),
)
_MASK = r"(?:masks?|seg|segmentations?|labels?|labelmap|annotations?|annot|gt|ground[ _-]?truth)"
MASK_STEM = re.compile(rf"(.+)[ _.-]{_MASK}(?:[ _-]?\d+)?|{_MASK}[ _.-](.+)", re.IGNORECASE)  # the image's stem
MASK_FOLDER = re.compile(_MASK, re.IGNORECASE)
RUN_FILES = {"run.json", "recipe.yaml"}  # by which a folder is recognised as a run of this package
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
        count: the number of files it stands for.
    """

    name: str
    reason: str
    count: int = 1


@dataclass
class Listing:
    """The images of a source.

    Attributes:
        names: relative names, equal wherever the set lies; sorted by split, then in natural order.
        entries: what each image is found by in a folder or zip.
        splits: the split of each ("train", "validate" or "test"), where the set has split folders.
        others: number of files that are not images, or are masks.
        problems: what the layout leaves out.
        subjects: the subject of each image, where the source knows them; None: they are read from names.
    """

    names: list[str]
    entries: list[Any] = field(default_factory=list)
    splits: list[str] | None = None
    others: int = 0
    problems: list[Problem] = field(default_factory=list)
    subjects: list[str] | None = None


def organise_files(
    files: Iterable[_File], label: str, *, everything: bool = False, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> Listing:
    """List the images among some files: without hidden files and masks, by split.

    Leading folders that all images share are cut, so that a nested archive, its inner folder and a zip of either are
    the same set.

    Args:
        files: relative paths, each with what its source finds the file by.
        label: the set, for messages.
        everything: use masks and this package's own output too.
        suffixes: of the files that are listed, in lower case.

    Raises:
        ZooError: there is no image.
    """
    visible: list[_File] = []
    for path, entry in files:
        name = str(PurePosixPath(path.replace("\\", "/")))
        if not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            visible.append((name, entry))
    # Masks have the suffix of images; OASIS' own ones count as other files.
    images = _without_oasis_masks([file for file in visible if file[0].lower().endswith(suffixes)])
    others = len(visible) - len(images)
    problems = _count_unread([file for file in visible if not file[0].lower().endswith(suffixes)])
    if not everything:
        images = _drop(images, find_own_output(name for name, _ in visible), OWN_OUTPUT, problems)
        images = _drop(images, _find_masks([name for name, _ in images], suffixes), MASKS, problems)
    if not images:
        raise _no_images_error(visible, label, problems, suffixes)
    # Cut the leading folder while it is common to all, as in an archive that holds one folder.
    while "/" in images[0][0] and len({_top_folder(name) for name, _ in images}) == 1:
        images = [(name.partition("/")[2], entry) for name, entry in images]

    split_of = _read_splits(images)
    if split_of:
        outside = Counter(_top_folder(name) for name, _ in images if _top_folder(name) not in split_of)
        # With splits, an image outside them belongs to none: to guess would risk training on test images.
        reason = f"images left out, because they are not in {', '.join(sorted(split_of))}"
        problems += [Problem(folder, f"{count} {reason}", count) for folder, count in sorted(outside.items())]
        images = [file for file in images if _top_folder(file[0]) in split_of]

    def order(file: _File) -> tuple[int, Any]:
        split = split_of.get(_top_folder(file[0]), "train")
        return SPLITS.index(split), natural_sort_key(file[0])

    images.sort(key=order)
    names = [name for name, _ in images]
    splits = [split_of[_top_folder(name)] for name in names] if split_of else None
    return Listing(names, [entry for _, entry in images], splits, others, problems)


OWN_OUTPUT = "written by zoo"
MASKS = "masks of other images"


def find_own_output(names: Iterable[str]) -> set[str]:
    """Return the folders that this package wrote, and single files next to them.

    They are run folders, those of ``zoo data check``, and the curves that ``zoo tune`` writes next to ``tune.json``.
    """
    own: set[str] = set()
    contents: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if file in RUN_FILES or file == "tune.json":
            contents.setdefault(folder, set()).add(file)
        parts = folder.split("/")
        for index, part in enumerate(parts):
            if part.startswith(CHECK_FOLDER_PREFIX):
                own.add("/".join(parts[: index + 1]))
    for folder, found in contents.items():
        if found >= RUN_FILES:
            own.add(folder)
        if "tune.json" in found:
            own.add(f"{folder}/tune.png".lstrip("/"))
    return own


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def holds_only(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether a folder and its subfolders hold files with one of these suffixes, and no ordinary image.

    Raises:
        ZooError: a folder cannot be read.
    """
    found = False
    for name, _ in walk_files(folder):
        if is_image_name(name) and not name.lower().endswith(suffixes):
            return False
        found = found or name.lower().endswith(suffixes)
    return found


def walk_files(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name and (bytes, mtime in ns) of all files outside hidden folders.

    Names are relative. Links are followed, but not in circles. What is not a regular file (pipes, devices, sockets,
    files of /proc and /sys) has -1 bytes: reading it may never end.

    Raises:
        ZooError: a folder cannot be read.
    """
    # A link to a folder that contains the set would read the whole disk.
    parents = (parent.stat() for parent in root.absolute().resolve().parents)
    visited = {(status.st_dev, status.st_ino) for status in parents}
    virtual = _virtual_devices()

    def refuse(error: OSError) -> None:
        raise ZooError(f"{error.filename}: {error_message(error)}") from error

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited or status.st_dev in virtual:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        for name in files:
            try:
                status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 (half the time of a warm start)
            except OSError:  # a broken link: reported as a problem when it is read
                yield prefix + name, (0, 0)
                continue
            regular = stat.S_ISREG(status.st_mode) and status.st_dev not in virtual
            yield prefix + name, (status.st_size if regular else -1, status.st_mtime_ns if regular else 0)


def _virtual_devices() -> set[int]:
    devices = set()
    for place in ("/proc", "/sys"):
        try:
            devices.add(os.stat(place).st_dev)  # noqa: PTH116
        except OSError:
            continue
    # Where /sys or /proc is only a folder of the root's own disk, everything would be on its device.
    return devices - {os.stat("/").st_dev}  # noqa: PTH116


def _drop(images: list[_File], dropped: set[str], reason: str, problems: list[Problem]) -> list[_File]:
    """Leave out images that are, or lie in, one of some paths; add a problem for each folder."""
    if not dropped:
        return images
    kept: list[_File] = []
    counts: Counter[str] = Counter()
    for name, entry in images:
        parts = name.split("/")
        parents = ("/".join(parts[:index]) for index in range(len(parts)))
        place = next((path for path in (*parents, name) if path in dropped), None)
        if place is None:
            kept.append((name, entry))
        else:
            counts["/".join(parts[:-1]) or name if place == name else place or "."] += 1
    for place, count in sorted(counts.items()):
        problems.append(Problem(place, f"{count} {reason}; data.files=all uses them", count))
    return kept


def _find_masks(names: list[str], suffixes: tuple[str, ...]) -> set[str]:
    """Return the images named like a mask of another one (x_mask.png; masks/x.png)."""
    stems = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        suffix = max((suffix for suffix in suffixes if file.lower().endswith(suffix)), key=len)
        stems[name] = folder, file[: -len(suffix)].removesuffix(".nii")
    in_mask_folder = {name for name in names if any(map(MASK_FOLDER.fullmatch, name.split("/")[:-1]))}
    images = {stem for name, stem in stems.items() if name not in in_mask_folder}
    image_stems = {stem for _, stem in images}
    masks = set()
    for name, (folder, stem) in stems.items():
        match = MASK_STEM.fullmatch(stem)
        original = (match[1] or match[2]) if match else stem
        beside = match is not None and (folder, original) in images
        if beside or (name in in_mask_folder and original in image_stems):
            masks.add(name)
    return masks


def _count_unread(files: list[_File]) -> list[Problem]:
    counts: Counter[str] = Counter()
    for name, _ in files:
        lower = name.lower()
        suffix = next((suffix for suffix in (".nii.gz", PurePosixPath(lower).suffix) if lower.endswith(suffix)), "")
        if suffix in UNREAD_SUFFIXES:
            counts[suffix] += 1
    reasons = {
        True: "a format that is not read next to other images; keep them in a folder of their own",
        False: "a format that is not read; convert them to PNG or TIFF",
    }
    return [
        Problem(f"{count} {suffix} files", reasons[suffix in VOLUME_SUFFIXES], count)
        for suffix, count in sorted(counts.items())
    ]


def _top_folder(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "."


def _without_oasis_masks(images: list[_File]) -> list[_File]:
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


def _no_images_error(files: list[_File], label: str, problems: list[Problem], supported: tuple[str, ...]) -> ZooError:
    own = [problem for problem in problems if OWN_OUTPUT in problem.reason]
    if own:
        return ZooError(
            f"{label}: no images except for those written by zoo ({own[0].name}); --set data.files=all uses them"
        )
    suffixes = Counter(PurePosixPath(name).suffix or "no suffix" for name, _ in files)
    common = ", ".join(suffix for suffix, _ in suffixes.most_common(3))
    content = f"only {len(files)} files of other kinds ({common})" if files else "it is empty"
    return ZooError(f"{label}: no images, {content}. Supported are {', '.join(supported)}")
