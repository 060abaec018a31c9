"""Classes of images: from the folders they lie in, or from a column of the set's manifest."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy import ndarray

from zoo.core.errors import ZooError, suggest
from zoo.core.wording import count_of
from zoo.data.decode import IMAGE_SUFFIXES

FOLDER = "folder"
MANIFEST = "manifest.csv"
MANIFESTS = (MANIFEST, "metadata.csv", "labels.csv")  # of which the first with the wanted column is read
MAX_MANIFEST_BYTES = 128 << 20  # a million images take less
FILE_COLUMNS = ("file", "filename", "file_name", "path", "image", "image_id", "name", "id")  # the first that exists
DELIMITERS = ",;\t|"
LABEL_COLUMN = "label"  # data.labels of classes that a source holds itself


def name_classes(labels: Sequence[Any]) -> list[str]:
    """Return the names of classes; whole numbers of equal width, so that they sort by value."""
    if all(isinstance(label, int) or (isinstance(label, float) and label.is_integer()) for label in labels):
        width = len(str(max(int(label) for label in labels)))
        return [f"{int(label):0{width}d}" for label in labels]
    return [str(label).strip() for label in labels]


def write_labels(rows: Iterable[tuple[str, str]]) -> list[tuple[str, bytes]]:
    """Return the table of classes that a source holds itself, as ``Source.manifests`` does; none without rows.

    Args:
        rows: names of images or their files, each with its class.
    """
    rows = list(rows)
    file = io.StringIO()
    csv.writer(file).writerows([("file", LABEL_COLUMN), *rows])
    return [("labels", file.getvalue().encode())] if rows else []


def read_labels(
    names: Sequence[str],
    column: str,
    manifest: str | None,
    label: str,
    *,
    split: bool = False,
    file: str = MANIFEST,
) -> list[str]:
    """Read the class of each image.

    Args:
        names: relative paths.
        column: "folder" for the name of the folder an image lies in, or a column of ``manifest``.
        manifest: the text of a table with a column ``file`` of paths; None: there is none.
        label: the set, for messages.
        split: whether the first folder of each path is a split, which is not a class.
        file: the name of the table, for messages.

    Raises:
        ZooError: there is no table, no such column, an image without a row, or fewer than two classes.
    """
    if column == FOLDER:
        inner = [name.partition("/")[2] for name in names] if split else names
        labels = [PurePosixPath(name).parent.name for name in inner]
        if "" in labels and any(labels):
            outside = f"{names[labels.index('')]} lies in no folder, which would be its class"
            raise ZooError(f"data.labels: {label}: {outside} ({count_of(labels.count(''), 'image')} in all). Move it")
    else:
        where = f"data.labels: {label}: {file}"
        if manifest is None:
            raise ZooError(f"data.labels: {label} has no {MANIFEST} with a column {column!r}. Add one, or use 'folder'")
        labels = _match_rows(names, _read_rows(column, manifest, where), where)
        if "" in labels:
            missing = names[labels.index("")]
            raise ZooError(f"{where} gives {missing} no {column} ({count_of(labels.count(''), 'image')} in all)")
    # One class carries no information, and most often means that the wrong column was named.
    if len(set(labels)) < 2:
        only = f"only {labels[0]!r}" if labels and labels[0] else "no class"
        where = "folders" if column == FOLDER else f"column {column!r} of {file}"
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


def choose_manifest(tables: Sequence[tuple[str, bytes]], column: str, label: str) -> tuple[str, str | None, str]:
    """Return name and text of the first table that has a column, else of the first.

    Args:
        tables: name and content of each.
        column: the column that is wanted.
        label: the set, for messages.

    Returns:
        The name, the text (None if there is no table), and a note on a guessed encoding, or "".

    Raises:
        ZooError: the text of a table cannot be read.
    """
    decoded = [(name, *_decode_text(content, f"data.labels: {label}: {name}")) for name, content in tables]
    for name, text, note in decoded:
        header = _split_header(text)[0]
        if _find_column(column, header) is not None and _find_file_column(header) is not None:
            return name, text, note and f"{name} {note}"
    if not decoded:
        return MANIFEST, None, ""
    name, text, note = decoded[0]
    return name, text, note and f"{name} {note}"


def _decode_text(content: bytes, where: str) -> tuple[str, str]:
    """Decode UTF-8, UTF-16 with a byte order mark, or Latin-1; return a note on a guess."""
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16"), ""
        if b"\0" in content:
            raise ZooError(f"{where} is not text in UTF-8. Save it as CSV in UTF-8")
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ZooError(f"{where} is damaged UTF-16. Save it as CSV in UTF-8") from None
        # Western Windows programs write this; any byte is a character of it, so that it cannot fail.
        return content.decode(
            "cp1252", "replace"
        ), "is not UTF-8: read as Windows-1252 (save it as UTF-8 if that is wrong)"


def _split_header(text: str) -> tuple[list[str], str, str]:
    """Return the headings of a table, its delimiter, and the text from the headings on."""
    text = text.lstrip("\ufeff\r\n")
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) <= 5:  # written by Excel
        text = rest
        first = text.partition("\n")[0]
    rows = {}
    for delimiter in DELIMITERS:
        try:
            rows[delimiter] = next(csv.reader([first.rstrip("\r")], delimiter=delimiter), [])
        except csv.Error:
            rows[delimiter] = []
    delimiter = max(DELIMITERS, key=lambda each: len(rows[each]))  # the first of equals
    return [heading.strip() for heading in rows[delimiter]], delimiter, text


def _find_column(name: str, header: Sequence[str]) -> int | None:
    """Find a heading, without regard to case unless two differ by it alone."""
    if name in header:
        return header.index(name)
    alike = [index for index, heading in enumerate(header) if heading.casefold() == name.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _find_file_column(header: Sequence[str]) -> int | None:
    return next((index for name in FILE_COLUMNS if (index := _find_column(name, header)) is not None), None)


def _read_rows(column: str, manifest: str, where: str) -> dict[str, str]:
    """Return the values of a column, by the path of the image."""
    header, delimiter, text = _split_header(manifest)
    file = _find_file_column(header)
    if file is None:
        raise ZooError(f"{where} needs a column 'file' with the paths of the images")
    wanted = _find_column(column, header)
    if wanted is None:
        others = [name for index, name in enumerate(header) if index != file]
        raise ZooError(f"{where} has no column {column!r}{suggest(column, others)}")
    if header.count(header[wanted]) > 1 or header.count(header[file]) > 1:
        raise ZooError(f"{where} has two columns {header[wanted if header.count(header[wanted]) > 1 else file]!r}")
    table: dict[str, str] = {}
    try:
        rows = csv.reader(io.StringIO(text), delimiter=delimiter)
        next(rows)
        for row in rows:
            if len(row) <= file or not row[file].strip():
                continue
            # Tables written on Windows may have backslashes in paths; PurePosixPath removes "./".
            path = str(PurePosixPath(row[file].strip().replace("\\", "/")))
            value = row[wanted].strip() if len(row) > wanted else ""
            if table.setdefault(path, value) != value:
                raise ZooError(f"{where} gives {path} both {table[path]!r} and {value!r}. Keep one row per image")
    except csv.Error as error:
        raise ZooError(f"{where} is not a table ({error})") from None
    return table


def _match_rows(names: Sequence[str], table: Mapping[str, str], where: str) -> list[str]:
    """Return the value of each image, "" where none is given.

    A row may name an image with more leading folders than the set has (an absolute path), with fewer (no split), or
    without its suffix.

    Raises:
        ZooError: a row without folders fits several images, or several rows fit one.
    """
    by_stem: dict[str, list[str]] = {}
    for path in table:
        by_stem.setdefault(_stem(path), []).append(path)
    labels = []
    used: dict[str, str] = {}
    for name in names:
        if name in table:
            labels.append(table[name])
            continue
        paths = [path for path in by_stem.get(_stem(name), []) if _is_same_file(path, name)]
        depth = max((path.count("/") for path in paths), default=0)
        longest = [path for path in paths if path.count("/") == depth]
        if len(longest) > 1:
            raise ZooError(
                f"{where}: both {longest[0]} and {longest[1]} fit the image {name}. Write its path in the set"
            )
        if longest and used.setdefault(longest[0], name) != name:
            raise ZooError(
                f"{where}: {longest[0]} fits both {used[longest[0]]} and {name}. Write their paths, with folders"
            )
        labels.append(table[longest[0]] if longest else "")
    return labels


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    lower = name.lower()
    return next((name[: -len(suffix)] for suffix in IMAGE_SUFFIXES if lower.endswith(suffix)), name)


def _is_same_file(path: str, name: str) -> bool:
    """Return whether the path in a table can mean an image of the same stem."""
    if _stem(path) == path.rpartition("/")[2]:  # without a suffix
        name = name[: len(name) - len(name.rpartition("/")[2])] + _stem(name)
    return path == name or path.endswith(f"/{name}") or name.endswith(f"/{path}")
