"""A set of images that is ready for training."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError, error_message
from zoo.core.files import cache_folder
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.wording import count_of
from zoo.data.cache import SetFacts, load_or_build_cache
from zoo.data.decode import silence_pillow
from zoo.data.digest import hash_bytes
from zoo.data.files import require_whole
from zoo.data.folder_layout import Problem
from zoo.data.labels import FOLDER, choose_manifest, index_classes, read_labels
from zoo.data.resize import IntensityWindow
from zoo.data.sources.memory import open_data
from zoo.data.sources.source import READ_ERRORS, Source, SourceOptions
from zoo.data.subjects import abbreviate_list, assign_subjects, describe_missing_subjects, hold_out_subjects

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Square images, what is known about them, and which of them are for training.

    Attributes:
        images: (N, C, R, R) uint8, mapped from the cache: pages are read when they are used.
        names: N names, relative to the set.
        subjects: N subjects, or None where names contain none.
        labels: N classes, int64 positions in ``classes``; None without data.labels.
        classes: their names and shares of the training images.
        train: int64 positions of the training images.
        unseen: int64 positions of the held-out images; may be empty.
        digest: equal for equal content, settings and split, wherever the files lie.
        window: the intensities that became 0 and 255; None where no window was applied.
        problems: images that were left out, and other warnings.
        description: one line for messages.
    """

    images: np.memmap
    names: list[str]
    subjects: list[str] | None
    train: ndarray
    unseen: ndarray
    digest: str
    window: IntensityWindow | None
    problems: list[Problem]
    description: str
    labels: ndarray | None = None
    classes: dict[str, float] = field(default_factory=dict)

    def take(self, indices: Sequence[int] | ndarray | Tensor) -> Tensor:
        """Copy the images at positions (n,) to uint8 (n, C, R, R)."""
        import torch

        require_whole(self.images)
        # A copy: the mapped file is read-only, which torch does not support.
        return torch.from_numpy(np.array(self.images[np.asarray(indices)]))

    def forget(self) -> None:
        """Release the pages read so far; they stay in the system's cache."""
        # madvise is not available on every system.
        mapped = getattr(self.images, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def require(self, batch: int) -> None:
        """Check that there are enough training images for a batch.

        Raises:
            ZooError: there are fewer.
        """
        if len(self.train) < batch:
            raise ZooError(
                f"{self.description}: {count_of(len(self.train), 'image')} to train on, fewer than a batch of {batch}. "
                f"Lower train.batch or add images{_example_problem(self.problems)}"
            )


def load_dataset(
    path: str | Path | Source | None,
    config: DataConfig,
    *,
    reporter: Reporter | None = None,
    cache_dir: Path | None = None,
) -> Dataset:
    """Load the set at a path, from the cache if it was loaded before.

    Args:
        path: a folder or a ``.zip`` of images (plain, with train and validate or test folders, or OASIS), a ``.npy`` or
            ``.npz``, or None, "phantoms" or "phantoms:N" for the built-in ones of 64 or N subjects; or an open source.
        config: how images are prepared.
        reporter: receives progress and warnings; None: nothing is reported.
        cache_dir: None: $ZOO_CACHE, else zoo in $XDG_CACHE_HOME, else ~/.cache/zoo.

    Raises:
        ZooError: the path, the images or the settings are invalid, or the cache cannot be written.
    """
    reporter = reporter or SilentReporter()
    if isinstance(config.window, tuple | list):
        low, high = config.window
        if not (np.isfinite([low, high]).all() and low < high):
            raise ZooError(f"data.window: [{low}, {high}] is not a range from black to white")
    with closing(open_data(path, SourceOptions.from_config(config))) as source, silence_pillow():
        config = source.adapt(config, reporter)
        if config.channels not in (1, 3) and not source.any_channels:
            raise ZooError(
                f"data.channels: {source.label} has images of 1 or 3 channels, not {config.channels}. "
                "Other numbers are supported for .npy and .npz files"
            )
        if not source.cuts_volumes and (unused := SourceOptions.from_config(config).volume_keys()):
            raise ZooError(f"{' and '.join(unused)}: {source.label} has no volumes that could be cut or windowed")
        if note := source.note():
            reporter.say(f"{source.label}: {note}")
        images, facts, key = load_or_build_cache(source, config, reporter, cache_dir or cache_folder())
        problems = [Problem(*problem) for problem in facts.problems]
        if problems:
            summary = abbreviate_list(f"{problem.name} ({problem.reason})" for problem in problems)
            reporter.warn(f"{source.label}: {sum(problem.count for problem in problems)} left out: {summary}")
        if facts.window and config.window is None:
            low, high = facts.window
            span = "the 0.5th and 99.5th percentile"
            reporter.say(f"{source.label}: {low:g} becomes black, {high:g} white ({span}); data.window changes this")
        return _build_dataset(source, config, images, facts, problems, key, reporter)


def _build_dataset(
    source: Source,
    config: DataConfig,
    images: np.memmap,
    facts: SetFacts,
    problems: list[Problem],
    key: str,
    reporter: Reporter,
) -> Dataset:
    files = [source.file_name(name) for name in facts.names] if config.labels is not None else []
    facts.subjects, note = assign_subjects(
        facts.names,
        facts.subjects,
        config.subjects,
        split=facts.splits is not None,
        classes=files if config.labels == FOLDER else None,
    )
    if note:
        reporter.say(f"{source.label}: {note}")
    elif (
        facts.subjects is None
        and config.subjects is None
        and (strays := describe_missing_subjects(facts.names, None, split=facts.splits is not None))
    ):
        reporter.warn(f"{source.label}: {strays}")
    # Without subjects, near-duplicates are held out together; without those either, each image is a group.
    groups = facts.subjects or [facts.names[first] for first in facts.groups or range(len(facts.names))]
    trained, description = _split(source, config, facts, groups)
    train = np.flatnonzero(trained).astype(np.int64)
    if not len(train):
        raise ZooError(f"{description}: nothing is left to train on{_example_problem(problems)}")
    # Without labels nothing is added: runs of versions that had no labels are still recognised by this digest.
    digest_parts: list[str | bytes] = [key, train.astype("<i8").tobytes(), *(["revised"] if facts.revised else [])]
    labels: ndarray | None = None
    classes: dict[str, float] = {}
    if config.labels is not None:
        labels, classes = _load_labels(source, config, files, train, split=bool(facts.splits), reporter=reporter)
        description += f", {len(classes)} classes"
        digest_parts.append(labels.astype("<i8").tobytes())
    leaks = _find_leaks(facts, groups, trained, source.label, problems, reporter)
    for note in facts.notes:
        reporter.warn(f"{source.label}: {note}")
        problems.append(Problem(source.label, note))
    return Dataset(
        images=images,
        names=facts.names,
        subjects=facts.subjects,
        train=train,
        unseen=np.flatnonzero(~(trained | leaks)).astype(np.int64),
        digest=hash_bytes(*digest_parts),
        window=facts.window,
        problems=problems,
        description=description,
        labels=labels,
        classes=classes,
    )


def _split(source: Source, config: DataConfig, facts: SetFacts, groups: Sequence[str]) -> tuple[ndarray, str]:
    """Choose the training images: a mask (N,), and the description of the set."""
    count = len(groups)
    description = f"{source.label}: {count_of(count, 'image')}"
    if facts.subjects and not source.label.endswith((" subject", " subjects")):  # as that of phantoms
        description += f" of {count_of(len(set(groups)), 'subject')}"
    if facts.splits and config.holdout > 0:
        trained = np.array([split == "train" for split in facts.splits])
        others = " and ".join(sorted({*facts.splits} - {"train"}, reverse=True))
        return trained, f"{description}, {count - trained.sum()} ({others}) held out"
    # With split folders, holdout 0 trains on all of them.
    heldout = frozenset() if facts.splits else hold_out_subjects(groups, config.holdout)
    trained = np.array([group not in heldout for group in groups])
    if not heldout:
        return trained, f"{description}, none held out"
    kind = "subject" if facts.subjects else "image" if facts.groups is None else "group"
    if kind == "group":
        description += f" in {count_of(len(set(groups)), 'group')} of near-duplicates"
    kept = str(len(heldout))
    if kind != "image":
        kept = f"{count_of(len(heldout), kind)} ({count_of(count - trained.sum(), 'image')})"
    return trained, f"{description}, {kept} held out"


def _load_labels(
    source: Source, config: DataConfig, files: Sequence[str], train: ndarray, *, split: bool, reporter: Reporter
) -> tuple[ndarray, dict[str, float]]:
    """Return the class of each image, by its file or the table of labels, and each class's share of the training."""
    assert config.labels is not None
    try:
        tables = source.manifests() if config.labels != FOLDER else []
    except READ_ERRORS as error:
        raise ZooError(f"{source.label}: the table of labels cannot be read ({error_message(error)})") from None
    file, manifest, note = choose_manifest(tables, config.labels, source.label)
    if note:
        reporter.say(f"{source.label}: {note}")
    if config.labels == FOLDER and source.has_numbered_parts:
        raise ZooError(
            f"data.labels: {source.label}: its images lie in no folders, and its files are numbered parts. "
            "data.labels=label takes the classes that they hold"
        )
    names = read_labels(files, config.labels, manifest, source.label, split=split, file=file)
    return index_classes(names, train, list(config.classes), source.label)


def _find_leaks(
    facts: SetFacts,
    groups: Sequence[str],
    trained: ndarray,
    label: str,
    problems: list[Problem],
    reporter: Reporter,
) -> ndarray:
    """Find held-out images that split folders share with training: a mask (N,).

    They are not used as held-out images, since metrics on those must be independent of training. Each is added to the
    problems.
    """
    leaks = np.zeros(len(groups), bool)
    for group in facts.duplicates:
        # Only an exact copy of a training image is a leak; copies within the held-out images are not.
        originals = [index for index in group if trained[index]]
        for index in group:
            if originals and not trained[index]:
                reason = f"the same file as {facts.names[originals[0]]}, which is a training image"
                problems.append(Problem(facts.names[index], reason))
                leaks[index] = True
    shared: set[str] = set()
    if facts.subjects:
        shared = set(compress(groups, trained)) & set(compress(groups, ~trained))
        problems += [Problem(subject, "a subject both trained on and held out") for subject in sorted(shared)]
    for number, kind in ((leaks.sum(), "images"), (len(shared), "subjects")):
        if number:
            reporter.warn(f"{label}: {number} held-out {kind} are also trained on, so they are not used as held out")
    return leaks | np.array([group in shared for group in groups])


def _example_problem(problems: Sequence[Problem]) -> str:
    return f" ({len(problems)} problems, such as {problems[0].name}: {problems[0].reason})" if problems else ""
