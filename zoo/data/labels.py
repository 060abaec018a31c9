"""Classes of pictures: from the folders they lie in, or from a column of the set's manifest."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from zoo.core.errors import ZooError, suggest

FOLDER = "folder"
MANIFEST = "manifest.csv"
FILE_COLUMNS = ("file", "filename", "path", "image", "name")


def read_labels(
    names: Sequence[str], source: str, manifest: str | None, label: str, *, split: bool = False
) -> list[str]:
    """The class of each picture.

    Args:
        names: relative paths.
        source: "folder", the name of the folder a picture lies in; or a column of ``manifest``.
        manifest: the text of the set's ``manifest.csv``, which has a column ``file`` of relative paths; None: none.
        label: the set, for messages.
        split: names begin with the folder of a split, which is no class.

    Raises:
        ZooError: there is no manifest, no such column, a picture it does not name, or not two classes.
    """
    inner = [name.partition("/")[2] for name in names] if split else names
    if source == FOLDER:
        found = [PurePosixPath(name).parent.name for name in inner]
    else:
        found = _of_manifest(names, inner, source, manifest, label)
    if len(set(found)) < 2:
        only = f"only {found[0]!r}" if found and found[0] else "none"
        where = "folders" if source == FOLDER else f"column {source!r} of {MANIFEST}"
        raise ZooError(f"data.labels: {label}: the {where} name {only}; classes want two or more")
    return found


def index_classes(
    found: Sequence[str], train: np.ndarray[Any, np.dtype[np.int64]], wanted: Sequence[str], label: str
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], dict[str, float]]:
    """Classes as numbers (N,), and the classes' names, sorted, with their shares of the pictures at ``train``.

    Args:
        found: the class of each picture.
        train: which of them are trained on.
        wanted: the classes there should be, where a recipe names them.
        label: the set, for messages.

    Raises:
        ZooError: there are others than wanted, or one of which nothing is trained on.
    """
    counts = Counter(found[index] for index in train)
    classes = sorted(set(found))
    for name in classes:
        if not counts[name]:
            raise ZooError(f"data.labels: {label}: no picture of class {name!r} is among those trained on")
    if wanted and classes != sorted(wanted):
        raise ZooError(f"data.classes: {label} has {', '.join(classes)}; the recipe says {', '.join(wanted)}")
    place = {name: index for index, name in enumerate(classes)}
    shares = {name: counts[name] / len(train) for name in classes}
    return np.array([place[name] for name in found], np.int64), shares


def _of_manifest(
    names: Sequence[str], inner: Sequence[str], column: str, manifest: str | None, label: str
) -> list[str]:
    """By whole names, else by those without the split's folder."""
    if manifest is None:
        raise ZooError(f"data.labels: {label} has no {MANIFEST} to take the column {column!r} from; or say folder")
    try:
        rows = list(csv.DictReader(io.StringIO(manifest)))
    except csv.Error as error:
        raise ZooError(f"data.labels: {label}: {MANIFEST} is no table ({error})") from None
    columns = list(rows[0]) if rows else []
    file = next((name for name in FILE_COLUMNS if name in columns), None)
    if file is None:
        raise ZooError(f"data.labels: {label}: {MANIFEST} has no column file, which names the pictures")
    if column not in columns:
        others = [name for name in columns if name != file]
        raise ZooError(f"data.labels: {label}: {MANIFEST} has no column {column!r}{suggest(column, others)}")
    known = {(row[file] or "").replace("\\", "/"): (row[column] or "").strip() for row in rows}
    found = [known.get(name) or known.get(short) or "" for name, short in zip(names, inner, strict=True)]
    missing = [name for name, value in zip(names, found, strict=True) if not value]
    if missing:
        raise ZooError(
            f"data.labels: {label}: {MANIFEST} gives {missing[0]} no {column} ({len(missing)} pictures in all)"
        )
    return found
