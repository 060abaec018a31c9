"""A set of pictures that is ready to be trained on."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.core.errors import ZooError, error_message
from zoo.core.files import cache_folder
from zoo.core.progress import Reporter, SilentReporter
from zoo.data.cache import SetFacts, load_or_build_cache
from zoo.data.decode import silence_pillow
from zoo.data.labels import MANIFEST, index_classes, read_labels
from zoo.data.resize import Window
from zoo.data.sources import ArraySource, PhantomSource, Problem, Source, hash_bytes, open_source
from zoo.data.subjects import enumerated, hold_out_subjects

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.core.config import DataConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Square pictures, what is known of them, and which of them are for training.

    Attributes:
        images: (N, C, R, R) uint8, mapped from the cache: pages are read when they are touched.
        names: N names, relative to the set.
        subjects: N subjects, where names tell.
        labels: N classes, int64, where the settings ask for them: positions in ``classes``.
        classes: their names and shares of the training images.
        train: int64 positions of the images to train on.
        unseen: int64 positions of those never trained on; may be empty.
        digest: equal for equal content, settings and split, wherever the files lie.
        window: the intensities that became 0 and 255, where a window was applied.
        problems: all that was left out, and what else is doubtful.
        description: one line for people.
    """

    images: np.memmap
    names: list[str]
    subjects: list[str] | None
    train: np.ndarray[Any, np.dtype[np.int64]]
    unseen: np.ndarray[Any, np.dtype[np.int64]]
    digest: str
    window: Window | None
    problems: list[Problem]
    description: str
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    classes: dict[str, float] = field(default_factory=dict)

    def take(self, indices: Sequence[int] | np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Positions (n,) to uint8 (n, C, R, R), copied."""
        import torch

        return torch.from_numpy(np.array(self.images[np.asarray(indices)]))

    def forget(self) -> None:
        """Let go of the pages that have been read: they stay in the system's cache and leave this process's memory."""
        mapped = getattr(self.images, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def require(self, batch: int) -> None:
        """Make sure that a batch can be filled.

        Raises:
            ZooError: there are fewer images to train on.
        """
        if len(self.train) < batch:
            raise ZooError(
                f"{self.description}: {len(self.train)} images to train on, fewer than a batch of {batch}; "
                f"lower train.batch or add images{_left_out(self.problems)}"
            )


def load_dataset(
    path: str | Path | None,
    config: DataConfig,
    *,
    reporter: Reporter | None = None,
    cache_dir: Path | None = None,
) -> Dataset:
    """The set at ``path``, from the cache if it has been there before.

    Args:
        path: a folder or a ``.zip`` of images (plain, with train and validate or test folders, or OASIS), a ``.npy`` or
            ``.npz``, or None, "phantoms" or "phantoms:N" for the built-in ones of 64 or N subjects.
        config: what pictures are made into.
        reporter: who is told of progress and problems; None: nobody.
        cache_dir: None: $ZOO_CACHE, else zoo in $XDG_CACHE_HOME, else ~/.cache/zoo.

    Raises:
        ZooError: the path, the pictures or the settings will not do, or the cache cannot be written.
    """
    reporter = reporter or SilentReporter()
    _check(config)
    with closing(open_source(path, resolution=config.resolution, channels=config.channels)) as source, silence_pillow():
        if config.channels not in (1, 3) and not isinstance(source, ArraySource):
            raise ZooError(
                f"data.channels: {source.label} gives pictures of 1 or 3 channels, not {config.channels}; "
                "other numbers come from .npy and .npz files that have them"
            )
        images, facts, key = load_or_build_cache(source, config, reporter, cache_dir or cache_folder())
        return _assembled(source, config, images, facts, key, reporter)


def _check(config: DataConfig) -> None:
    if isinstance(config.window, tuple | list):
        low, high = config.window
        if not (np.isfinite([low, high]).all() and low < high):
            raise ZooError(f"data.window: [{low}, {high}] is no range from black to white")


def _assembled(
    source: Source, config: DataConfig, images: np.memmap, facts: SetFacts, key: str, reporter: Reporter
) -> Dataset:
    label, count = source.label, len(facts.names)
    problems = [Problem(*problem) for problem in facts.problems]
    if problems:
        reporter.warn(f"{label}: {len(problems)} left out: {_listed(problems)}")
    description = f"{label}: {count} images"
    subjects = f"{len(set(facts.subjects))} subjects" if facts.subjects else ""
    if subjects:
        description += "" if isinstance(source, PhantomSource) else f" of {subjects}"
    groups = facts.subjects or [facts.names[first] for first in facts.groups or range(count)]
    if facts.splits and config.holdout == 0:
        seen = np.ones(count, bool)
        description += ", none held out"
    elif facts.splits:
        seen = np.array([split == "train" for split in facts.splits])
        others = " and ".join(sorted({split for split in facts.splits if split != "train"}, reverse=True))
        description += f", {count - seen.sum()} ({others}) held out"
    else:
        held = hold_out_subjects(groups, config.holdout)
        seen = np.array([group not in held for group in groups])
        kind = "subject" if subjects else "group"
        if not subjects and held:
            description += f" in {len(set(groups))} groups of look-alikes"
        plural = "s" if len(held) > 1 else ""
        description += (
            f", {len(held)} {kind}{plural} ({count - seen.sum()} images) held out" if held else ", none held out"
        )
    train, unseen = np.flatnonzero(seen), np.flatnonzero(~seen)
    if not len(train):
        raise ZooError(f"{description}: nothing is left to train on{_left_out(problems)}")
    labels = None
    classes: dict[str, float] = {}
    if config.labels is not None:
        try:
            found = read_labels(facts.names, config.labels, source.manifest(), label, split=bool(facts.splits))
        except (OSError, UnicodeDecodeError) as error:
            raise ZooError(f"{label}: {MANIFEST} cannot be read ({error_message(error)})") from None
        labels, classes = index_classes(found, train, list(config.classes), label)
        description += f", {len(classes)} classes"

    # What a set's own splits share is left out of the unseen ones: whatever judges by them must be able to trust them.
    leaks = set()
    for group in facts.duplicates:
        learnt = [index for index in group if seen[index]]
        for index in (index for index in group if learnt and not seen[index]):
            problems.append(
                Problem(facts.names[index], f"the same file as {facts.names[learnt[0]]}, which is trained on")
            )
            leaks.add(index)
    shared = {groups[i] for i in train} & {groups[i] for i in unseen} if facts.subjects else set()
    problems += [Problem(subject, "a subject both trained on and held out") for subject in sorted(shared)]
    for number, what in ((len(leaks), "images"), (len(shared), "subjects")):
        if number:
            reporter.warn(f"{label}: {number} held-out {what} are trained on as well: not taken for unseen")
    unseen = np.array([i for i in unseen if i not in leaks and groups[i] not in shared], np.int64)
    for note in facts.notes:
        reporter.warn(f"{label}: {note}")
    problems += [Problem(label, note) for note in facts.notes]

    return Dataset(
        images=images,
        names=facts.names,
        subjects=facts.subjects,
        train=train.astype(np.int64),
        unseen=unseen.astype(np.int64),
        digest=hash_bytes(
            key, train.astype("<i8").tobytes(), *(() if labels is None else (labels.astype("<i8").tobytes(),))
        ),
        window=facts.window,
        problems=problems,
        description=description,
        labels=labels,
        classes=classes,
    )


def _listed(problems: Sequence[Problem]) -> str:
    return enumerated(f"{problem.name} ({problem.reason})" for problem in problems)


def _left_out(problems: Sequence[Problem]) -> str:
    return f" ({len(problems)} problems, such as {problems[0].name}: {problems[0].reason})" if problems else ""
