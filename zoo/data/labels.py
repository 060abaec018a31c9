"""Classes of images: from the folders they lie in, or from a column of the set's manifest."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError, suggest

FOLDER = "folder"
MANIFEST = "manifest.csv"
FILE_COLUMNS = ("file", "filename", "path", "image", "name")  # of which the first that exists names the images


def read_labels(
    names: Sequence[str], column: str, manifest: str | None, label: str, *, split: bool = False
) -> list[str]:
    """Read the class of each image.

    Args:
        names: relative paths.
        column: "folder" for the name of the folder an image lies in, or a column of ``manifest``.
        manifest: the text of the set's ``manifest.csv``, with a column ``file`` of relative paths; None: it has none.
        label: the set, for messages.
        split: whether the first folder of each path is a split, which is not a class.

    Raises:
        ZooError: there is no manifest, no such column, an image without a row, or fewer than two classes.
    """
    inner = [name.partition("/")[2] for name in names] if split else names
    if column == FOLDER:
        labels = [PurePosixPath(name).parent.name for name in inner]
    else:
        table = _read_manifest(column, manifest, label)
        # A manifest may name files with or without the folder of their split.
        labels = [table.get(name) or table.get(short) or "" for name, short in zip(names, inner, strict=True)]
        if "" in labels:
            missing = names[labels.index("")]
            raise ZooError(
                f"data.labels: {label}: {MANIFEST} gives {missing} no {column} ({labels.count('')} images in all)"
            )
    # One class carries no information, and most often means that the wrong column was named.
    if len(set(labels)) < 2:
        only = f"only {labels[0]!r}" if labels and labels[0] else "no class"
        where = "folders" if column == FOLDER else f"column {column!r} of {MANIFEST}"
        raise ZooError(f"data.labels: {label}: the {where} name {only}. At least two classes are needed")
    return labels


def index_classes(
    labels: Sequence[str], train: ndarray, expected: Sequence[str], label: str
) -> tuple[ndarray, dict[str, float]]:
    """Number the classes (N,), with their shares of the training images by name.

    Args:
        labels: the class of each image.
        train: indices of the training images.
        expected: the classes that a recipe names; empty: any.
        label: the set, for messages.

    Raises:
        ZooError: classes other than expected, or one without a training image.
    """
    counts = Counter(labels[index] for index in train)
    classes = sorted(set(labels))  # the order of the networks' class indices: it must not depend on the files
    # A class without training images would be sampled with share 0 and never learned.
    for name in classes:
        if not counts[name]:
            raise ZooError(f"data.labels: {label}: no training image is of class {name!r}")
    if expected and classes != sorted(expected):
        raise ZooError(f"data.classes: {label} has {', '.join(classes)}, but the recipe names {', '.join(expected)}")
    shares = {name: counts[name] / len(train) for name in classes}
    return np.array([classes.index(name) for name in labels], np.int64), shares


def _read_manifest(column: str, manifest: str | None, label: str) -> dict[str, str]:
    """Return the values of a column, by the path of the image."""
    if manifest is None:
        raise ZooError(f"data.labels: {label} has no {MANIFEST} with a column {column!r}. Add one, or use 'folder'")
    try:
        rows = list(csv.DictReader(io.StringIO(manifest)))
    except csv.Error as error:
        raise ZooError(f"data.labels: {label}: {MANIFEST} is not a table ({error})") from None
    columns = list(rows[0]) if rows else []
    file = next((name for name in FILE_COLUMNS if name in columns), None)
    if file is None:
        raise ZooError(f"data.labels: {label}: {MANIFEST} needs a column 'file' with the paths of the images")
    if column not in columns:
        others = [name for name in columns if name != file]
        raise ZooError(f"data.labels: {label}: {MANIFEST} has no column {column!r}{suggest(column, others)}")
    # Values of short lines are None; tables written on Windows may have backslashes in paths.
    return {(row[file] or "").replace("\\", "/"): (row[column] or "").strip() for row in rows}
