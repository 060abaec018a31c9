"""Images that a program holds: an array, a tensor, a torch data set, or a table of paths.

Values: uint8 and bool are taken as they are; floats must lie in [0, 1] or [-1, 1] (any value below 0 means the second),
unless data.window names black and white; other integers are windowed by percentiles, like files of more than 8 bits.
The content is the identity: the same images give the same digest, and a run of them continues. Its run.json names them
``memory:DIGEST``, which is read from the cache of prepared sets for as long as that exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError, describe_error, suggest
from zoo.core.files import atomic_file, cache_folder
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.threads import map_chunks
from zoo.data.decode import MAX_FILE_BYTES
from zoo.data.files import read_file
from zoo.data.folder_layout import Listing
from zoo.data.labels import FILE_COLUMNS, LABEL_COLUMN, name_classes, write_labels
from zoo.data.resize import IntensityWindow
from zoo.data.sources.array import ArraySource
from zoo.data.sources.registry import data_address, open_source, register_source
from zoo.data.sources.source import Source, SourceOptions
from zoo.data.subjects import hash_subject

PREFIX = "memory"  # of addresses
SUBJECT_COLUMNS = ("subject", "subject_id", "patient", "patient_id")
IMAGE_KEYS, LABEL_KEYS = ("image", "img", "images"), ("label", "class", "target")  # of an item that is a mapping
UNIT_RANGES = ((0.0, 1.0), (-1.0, 1.0))  # conventions of float images, in the order in which they are tried

Data = Any  # a path, or what as_source() takes


class _Item(NamedTuple):
    """One image with its class and subject, where the data set returns them."""

    image: ndarray
    label: Any = None
    subject: Any = None


class _Look(NamedTuple):
    """What is known about one image: digest, class and subject, and type and range of its values (None: a file)."""

    digest: bytes
    label: Any = None
    subject: Any = None
    dtype: np.dtype[Any] | None = None
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What one pass over all images finds; digests are of the single images."""

    digests: list[bytes]
    names: list[str]
    labels: list[str] | None
    grouped: bool  # whether the names start with a subject
    window: IntensityWindow | None


class MemorySource(ArraySource):
    """Images of a running program; see the module. Nothing is read before :meth:`adapt`."""

    def __init__(self, images: Any, *, subjects: Any = None, labels: Any = None) -> None:
        self.label, self._items, self._count = _open_items(images, subjects, labels)
        self.path = Path(self.label)  # for messages of ArraySource
        self.location, self.options = None, SourceOptions()
        self.strict = not isinstance(self._items, _Table)  # one unreadable file of a table is left out
        self._subjects = _check_column("subjects", subjects, self._count)
        self._labels = _check_column("labels", labels, self._count)
        self._facts: _Facts | None = None

    @property
    def window(self) -> IntensityWindow | None:
        """Values of black and white of float images; None: they need no window, or one of the recipe."""
        return self._scanned.window

    def adapt(self, config: DataConfig, reporter: Reporter) -> DataConfig:
        """Check all images once, and return ``config`` with what they say about themselves.

        Raises:
            ZooError: shapes, types, ranges, subjects or labels that do not fit.
        """
        self.options = SourceOptions.from_config(config)
        if self._facts is None:
            self._facts = self._scan(reporter, has_window=config.window is not None)
            _remember(self.signature(), self.label, self._facts)
        return _adapt(config, self._facts)

    @property
    def _scanned(self) -> _Facts:
        self._facts = self._facts or self._scan(SilentReporter(), has_window=False)
        return self._facts

    @property
    def layout(self) -> Listing:
        return Listing(self._scanned.names)

    def signature(self) -> str:
        return self.combine_digests(self._scanned.digests)

    def content_digest(self, reporter: Reporter) -> str:
        return self.signature()

    def manifests(self) -> list[tuple[str, bytes]]:
        return _write_manifest(self._scanned)

    def raw(self, index: int) -> bytes | ndarray:  # type: ignore[override]
        if isinstance(self._items, _Table):
            return read_file(self._items.paths[index], MAX_FILE_BYTES)
        return self._channels_last(self._items.read(index).image[None])[0]

    def _scan(self, reporter: Reporter, *, has_window: bool) -> _Facts:
        if not self._count:
            raise ZooError(f"{self.label}: holds no image")
        if isinstance(self._items, _Array):
            self._channels_last(self._items.images)  # an error names the shape of all

        def look(part: range) -> list[_Look]:
            return [self._look(index) for index in part]

        parts = map_chunks(look, self._count, self.chunk, task="reading", reporter=reporter)
        looks = [each for _, part in parts for each in part]
        labels = self._labels or _item_column("label", [look.label for look in looks])
        subjects = self._subjects or _item_column("subject", [look.subject for look in looks])
        width = len(str(self._count - 1))  # equal widths sort in the order of the images
        names = [f"{index:0{width}d}" for index in range(self._count)]
        if subjects is not None:
            names = [f"{hash_subject(subject)}/{name}" for subject, name in zip(subjects, names, strict=True)]
        return _Facts(
            digests=[look.digest for look in looks],
            names=names,
            labels=None if labels is None else name_classes(labels),
            grouped=subjects is not None,
            window=None if has_window else _find_window(self.label, looks),
        )

    def _look(self, index: int) -> _Look:
        if isinstance(self._items, _Table):
            digest, _, _ = self.read_and_hash(index)
            return _Look(digest, *self._items.columns(index))
        item = self._items.read(index)
        image = self._channels_last(item.image[None])[0]
        if image.dtype.kind not in "biuf":
            raise _type_error(self.label, image)
        low, high = float(image.min()), float(image.max())
        if not np.isfinite([low, high]).all():
            raise ZooError(f"{self.label}: image {index} holds NaN or infinite values. Replace or leave them out")
        # The digest that read_and_hash() returns, without reading the image again: a data set may take its time.
        head = f"{image.dtype.str} {image.shape}".encode()
        state = hashlib.blake2b(head, digest_size=16)
        state.update(np.ascontiguousarray(image).data)
        return _Look(state.digest(), item.label, item.subject, image.dtype, low, high)


class StoredSource(ArraySource):
    """Images of a program that has ended, by the digest of their content: only the cache knows their pixels."""

    def __init__(self, digest: str, options: SourceOptions) -> None:
        self._digest, self.options = digest, options
        self.location, self.label, self.path = None, "array", Path(f"{PREFIX}:{digest}")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(_facts_file(self._digest).read_text(encoding="utf-8"))
            self.label = str(document.pop("description"))
            window = document.pop("window")
            self._facts = _Facts(digests=[], window=window and (window[0], window[1]), **document)
            return
        raise self._lost()

    def adapt(self, config: DataConfig, reporter: Reporter) -> DataConfig:
        """Return ``config`` with what the images said about themselves."""
        return _adapt(config, self._facts)

    @property
    def layout(self) -> Listing:
        return Listing(self._facts.names)

    def signature(self) -> str:
        return self._digest

    def content_digest(self, reporter: Reporter) -> str:
        return self._digest

    def manifests(self) -> list[tuple[str, bytes]]:
        return _write_manifest(self._facts)

    def raw(self, index: int) -> ndarray:
        raise self._lost()

    def _lost(self) -> ZooError:
        return ZooError(f"{self.path}: images of a program's memory, which are not in the cache. Give them again")


class _Array:
    def __init__(self, images: ndarray) -> None:
        self.images = images

    def read(self, index: int) -> _Item:
        return _Item(np.asarray(self.images[index]))


class _Items:
    """A map-style data set, which need not be safe for threads."""

    def __init__(self, dataset: Any, label: str) -> None:
        self.dataset, self.label, self._lock = dataset, label, threading.Lock()

    def read(self, index: int) -> _Item:
        try:
            with self._lock:
                item = self.dataset[index]
        except Exception as error:  # the user's code
            raise ZooError(f"{self.label}: item {index} cannot be read ({describe_error(error)})") from error
        if isinstance(item, Mapping):
            image = _first(item, IMAGE_KEYS)
            if image is None:
                raise ZooError(f"{self.label}: item {index} has no key 'image', only {', '.join(map(str, item))}")
            return _Item(_to_array(image), _scalar(_first(item, LABEL_KEYS)), _scalar(_first(item, SUBJECT_COLUMNS)))
        if isinstance(item, tuple | list):
            return _Item(_to_array(item[0]), _scalar(item[1]) if len(item) > 1 else None)
        return _Item(_to_array(item))


class _Table:
    """A data frame with a column of paths."""

    def __init__(self, table: Any, subjects: Any, labels: Any) -> None:
        columns = [str(column) for column in table.columns]
        file = next((name for name in FILE_COLUMNS if name in columns), None)
        if file is None:
            raise ZooError(f"table: has no column of paths called 'path' or 'file', only {', '.join(columns)}")
        self.paths = [Path(str(path)).expanduser() for path in table[file]]
        self.labels = self._column(table, labels, (LABEL_COLUMN,), "labels", columns)
        self.subjects = self._column(table, subjects, SUBJECT_COLUMNS, "subjects", columns)

    @staticmethod
    def _column(table: Any, choice: Any, usual: Sequence[str], keyword: str, columns: list[str]) -> list[Any] | None:
        if isinstance(choice, str) and choice not in columns:
            raise ZooError(f"{keyword}={choice!r}: the table has no such column{suggest(choice, columns)}")
        name = choice if isinstance(choice, str) else next((name for name in usual if name in columns), None)
        return list(table[name]) if name is not None else None

    def columns(self, index: int) -> tuple[Any, Any]:
        """Return class and subject of one image."""
        columns = (self.labels, self.subjects)
        return tuple(None if column is None else column[index] for column in columns)  # type: ignore[return-value]


def as_source(data: Data, *, subjects: Any = None, labels: Any = None) -> str | Path | Source | None:
    """Return a path as it is, and anything else as a source of images.

    Args:
        data: a path; an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W), or a list of images; a torch data set
            whose items are images, pairs of image and label, or mappings; or a pandas table with a column of paths.
        subjects: one per image, or the name of a column; those of one subject are held out together.
        labels: one class per image, the name of a column, or True for those of the data set or table.

    Raises:
        ZooError: no kind of data, shapes that are no images, or lists of another length.
    """
    if data is None or isinstance(data, str | Path | Source):
        if subjects is not None or labels is not None:
            raise ZooError("subjects=, labels=: go with an array, a data set or a table; for files set data.labels")
        return data
    return MemorySource(data, subjects=subjects, labels=labels)


def open_data(data: str | Path | Source | None, options: SourceOptions) -> Source:
    """Open a path, or make a source read as ``options`` say; see :func:`zoo.data.sources.registry.open_source`."""
    if not isinstance(data, Source):
        return open_source(data, options)
    data.options = options
    return data


def address_of(data: str | Path | Source | None) -> str:
    """Return how a run names its data, so that they are found from any folder."""
    return f"{PREFIX}:{data.signature()}" if isinstance(data, Source) else data_address(data)


def _open_items(data: Any, subjects: Any, labels: Any) -> tuple[str, Any, int]:
    """Return the label of some data, what reads one item, and their number."""
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        table = _Table(data, subjects, labels)
        return "table", table, len(table.paths)
    if hasattr(data, "shape") or isinstance(data, list | tuple):
        try:
            images = _to_array(data)
        except ValueError:
            raise ZooError("array: the images of a list must have one shape. Give a torch data set, or files") from None
        if images.ndim not in (3, 4):
            raise ZooError(f"array: shape {images.shape} is not a set of images; use (N, H, W) or (N, C, H, W)")
        if images.ndim == 3 and images.shape[2] in (3, 4):  # ArraySource would take it for H images of W x 3 pixels
            raise ZooError(f"array: shape {images.shape} looks like one colour image; use {(1, *images.shape)}")
        if images.dtype.kind not in "biuf":
            raise _type_error("array", images)
        return "array", _Array(images), len(images)
    label = type(data).__name__
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise ZooError(f"data: {label} is no path, array, tensor, torch data set with a length, or table of paths")
    return label, _Items(data, label), len(data)


def _type_error(label: str, images: ndarray) -> ZooError:
    return ZooError(f"{label}: {images.dtype} values are not intensities; use uint8, or floats in [0, 1] or [-1, 1]")


def _to_array(image: Any) -> ndarray:
    if hasattr(image, "detach"):  # a tensor, of any device; numpy has no bfloat16
        image = image.detach().cpu()
        image = image.float() if str(image.dtype) == "torch.bfloat16" else image
    elif isinstance(image, list | tuple):
        image = [_to_array(each) for each in image]
    return np.asarray(image)


def _first(item: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    return next((item[key] for key in keys if key in item), None)


def _scalar(value: Any) -> Any:
    """Return a number or text of any library as Python's; None for anything else."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, bool | int | float | str) else None


def _check_column(name: str, values: Any, count: int) -> list[Any] | None:
    """Return subjects or labels as a list of Python's values; None: they are those of the items."""
    if values is None or isinstance(values, str | bool):
        return None
    column = [_scalar(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]
    if len(column) != count:
        raise ZooError(f"{name}: {len(column)} for {count} images. Give one per image")
    return _require_all(name, column)


def _item_column(name: str, values: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else _require_all(f"{name}s", [_scalar(v) for v in values])


def _require_all(name: str, column: list[Any]) -> list[Any]:
    for index, value in enumerate(column):
        if value is None or value == "" or value != value:
            raise ZooError(f"{name}: that of image {index} is missing, or no number or text")
    return column


def _find_window(label: str, looks: Sequence[_Look]) -> IntensityWindow | None:
    """Return the values of black and white of float images, which have one of two conventional ranges."""
    kinds = {look.dtype.kind if look.dtype is not None else "file" for look in looks}
    if "f" not in kinds:
        return None
    if len(kinds) > 1:
        raise ZooError(f"{label}: some images are floats, others integers. Convert them to one type")
    low, high = min(look.low for look in looks), max(look.high for look in looks)
    for black, white in UNIT_RANGES:
        if black <= low and high <= white:
            return black, white
    raise ZooError(
        f"{label}: floats from {low:g} to {high:g} lie neither in [0, 1] nor in [-1, 1]. Give the values of black and "
        "white, as in data__window=[0, 255]"
    )


def _adapt(config: DataConfig, facts: _Facts) -> DataConfig:
    if facts.window is not None and config.window is None:
        config = replace(config, window=facts.window)
    return replace(config, subjects="folder") if facts.grouped and config.subjects is None else config


def _write_manifest(facts: _Facts) -> list[tuple[str, bytes]]:
    return [] if facts.labels is None else write_labels(zip(facts.names, facts.labels, strict=True))


def _facts_file(digest: str) -> Path:
    return cache_folder() / "arrays" / f"{digest}.json"


def _remember(digest: str, description: str, facts: _Facts) -> None:
    """Keep what else is known about the images, for commands that are given ``memory:DIGEST``."""
    content = {**vars(facts), "description": description}
    del content["digests"]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        before = json.loads(_facts_file(digest).read_text(encoding="utf-8"))
        # Another call may have given the same images labels, which a run of it still needs.
        content |= {key: value for key, value in before.items() if key in content and content[key] is None}
    with contextlib.suppress(OSError), atomic_file(_facts_file(digest), "w") as file:
        json.dump(content, file)


register_source("memory", StoredSource, prefix=PREFIX)
