"""Kinds of sources: by the suffix of a file, by a prefix, or by what a folder holds."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zoo.data.sources
from zoo.core.errors import ZooError, describe_error, error_message, suggest
from zoo.core.plugins import import_modules
from zoo.core.registry import Registry
from zoo.data.files import NOT_REGULAR
from zoo.data.folder_layout import holds_only, is_image_name
from zoo.data.sources.source import Source, SourceOptions

DEFAULT_DATA = "phantoms"
_ADDRESS = re.compile(r"([A-Za-z][\w.+-]+)(?::(.*))?", re.DOTALL)  # two characters or more: C: is a drive of Windows


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """A class of sources, and which addresses are its own.

    Attributes:
        name: of the kind.
        make: the class.
        suffixes: of its files, in lower case with the dot.
        prefix: of addresses ``PREFIX:REST`` that are no paths.
        folders: it reads folders of such files too.
        recognise: returns whether a folder, or a file whose suffix nothing is registered for, is its own.
    """

    name: str
    make: Callable[..., Source]
    suffixes: tuple[str, ...] = ()
    prefix: str = ""
    folders: bool = False
    recognise: Callable[[Path], bool] | None = None


def _discover() -> None:
    import_modules(zoo.data.sources)


SOURCES: Registry[SourceKind] = Registry("source", _discover)


def register_source(
    name: str,
    source: Callable[..., Source],
    *,
    suffixes: Sequence[str] = (),
    prefix: str = "",
    folders: bool = False,
    recognise: Callable[[Path], bool] | None = None,
) -> None:
    """Register a kind of source of images.

    Args:
        name: of the kind, such as "nifti".
        source: a subclass of :class:`~zoo.data.sources.source.Source`; called with a path, or with what follows the
            prefix, and a :class:`~zoo.data.sources.source.SourceOptions`.
        suffixes: of its files, such as ``(".nii", ".nii.gz")``; the longest that fits decides. None: the attribute
            ``suffixes`` of the class, if it has one.
        prefix: "pacs" makes ``--data pacs:REST`` its own.
        folders: whether it also reads folders that hold such files, and no ordinary image.
        recognise: is asked about folders, and about files whose suffix nothing is registered for; of several kinds
            the last registered is asked first.

    Raises:
        ValueError: another kind has the name, a suffix or the prefix; or nothing says which data is its own.
    """
    suffixes = suffixes or getattr(source, "suffixes", ())
    suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffix.lower() for suffix in suffixes)
    if not (suffixes or prefix or recognise):
        raise ValueError(f"the source {name!r} needs suffixes, a prefix or recognise: nothing says what it reads")
    for text in suffixes:
        if not text.startswith(".") or "/" in text:
            raise ValueError(f"the source {name!r}: suffix {text!r} must start with a dot, as '.nii.gz' does")
    if prefix and not _ADDRESS.fullmatch(prefix):
        raise ValueError(f"the source {name!r}: prefix {prefix!r} must be a word of two letters or more")
    for other in SOURCES.known():
        shared = set(suffixes) & set(other.suffixes) | ({prefix} & {other.prefix} - {""})
        if other.name != name and shared:
            raise ValueError(f"the sources {other.name!r} and {name!r} both read {sorted(shared)[0]!r}")
    kind = SourceKind(name=name, make=source, suffixes=suffixes, prefix=prefix, folders=folders, recognise=recognise)
    SOURCES.register(name, kind, source)


def split_prefix(path: str | Path | None) -> tuple[SourceKind, str] | None:
    """Return the kind of source that a data address names by its prefix, with the rest; None for a path."""
    if isinstance(path, str) and not path.strip():  # as of a variable that is not set
        raise ZooError(f"data: the path is empty. Name images, or {DEFAULT_DATA!r}")
    match = _ADDRESS.fullmatch(path or DEFAULT_DATA) if isinstance(path, str) or path is None else None
    if match is None:
        return None
    kinds = {kind.prefix: kind for kind in SOURCES.values() if kind.prefix}
    kind, rest = kinds.get(match[1]), match[2]
    # A word without a colon may as well be a folder: of these only the phantoms are known.
    if kind is None or (rest is None and kind.prefix != DEFAULT_DATA):
        return None
    if rest == "":
        raise ZooError(f"{path}: expected something after {match[1] + ':'!r}, as in {match[1]}:64")
    return kind, rest or ""


def is_path(path: str | Path | None) -> bool:
    """Return whether data is a file or folder, and not the phantoms or another address with a prefix."""
    return split_prefix(path) is None


def choose_data(data: str | Path | Source | None) -> str | Path | Source | None:
    """Return ``data``, or ``$ZOO_DATA`` where there are none; None stands for phantoms."""
    return data if data is not None else os.environ.get("ZOO_DATA") or None


def data_address(path: str | Path | None) -> str:
    """Return ``path`` in a form that :func:`open_source` accepts from any folder."""
    return str(Path(path or "").expanduser().resolve()) if is_path(path) else str(path or DEFAULT_DATA)


def open_source(path: str | Path | None, options: SourceOptions) -> Source:
    """Open the data at a path, or at an address with a prefix such as "phantoms[:N]".

    Args:
        path: None stands for "phantoms", of 64 subjects.
        options: how it is read.

    Raises:
        ZooError: nothing is there, or no registered source reads it.
    """
    if (address := split_prefix(path)) is not None:
        kind, rest = address
        return _make(kind, rest, options, str(path or DEFAULT_DATA))
    path = Path(path or "").expanduser()
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a null character, or one that no name can hold
        raise ZooError(f"{str(path)!a}: is no path ({error})") from None
    except OSError as error:
        # A path that exists but cannot be read needs the system's reason, not a suggestion.
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise ZooError(f"{path}: {_explain_missing(path) if missing else error_message(error)}") from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise ZooError(f"{path}: {NOT_REGULAR}. {_choices()}")
    found = _find_kind(path, is_folder=stat.S_ISDIR(mode))
    if found is not None:
        return _make(found, path, options, str(path))
    reason = f"{path.suffix or 'a file without a suffix'} is not a supported kind of data"
    if is_image_name(path.name):
        reason = "a single image is not a set"
    raise ZooError(f"{path}: {reason}. {_choices()}")


def _find_kind(path: Path, *, is_folder: bool) -> SourceKind | None:
    kinds = list(SOURCES.values())
    if not is_folder:
        matches = [(suffix, kind) for kind in kinds for suffix in kind.suffixes if path.name.lower().endswith(suffix)]
        if matches:
            return max(matches, key=lambda match: len(match[0]))[1]
    kinds.sort(key=lambda kind: kind.name != "folder")  # which reads any folder: asked last
    for kind in reversed(kinds):
        if is_folder and kind.folders and holds_only(path, kind.suffixes):
            return kind
        if kind.recognise is not None and kind.recognise(path):
            return kind
    return None


def _make(kind: SourceKind, place: Path | str, options: SourceOptions, label: str) -> Source:
    try:
        return kind.make(place, options)
    except (ZooError, OSError):
        raise
    except Exception as error:  # a plug-in's own class
        raise ZooError(f"{label}: the source {kind.name!r} cannot open it ({describe_error(error)})") from error


def _choices() -> str:
    own = {".zip", ".npy", ".npz"}
    others = [suffix for kind in SOURCES.values() for suffix in kind.suffixes if suffix not in own]
    prefixes = [f"{kind.prefix}:..." for kind in SOURCES.values() if kind.prefix not in ("", DEFAULT_DATA)]
    more = "".join(f", {text}" for text in (*others, *prefixes))
    return f"Use a folder of images, a .zip of them, .npy, .npz{more} or phantoms[:N]"


def _explain_missing(path: Path) -> str:
    """Return up to where a path exists, with a suggestion from what is there."""
    parent = path.parent
    # Report the first folder that is missing, not the last part of the path.
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        names = [*os.listdir(parent), "phantoms"]  # noqa: PTH208 (only names are needed)
    except OSError:
        names = []
    return f"there is no {path.name!r} in {parent.resolve()}{suggest(path.name, names)}"
