"""Where results are written: names for them, and checks before the work, which takes minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import is_folder

HTML_SUFFIXES = (".html", ".htm")


def check_file(path: Path, suffixes: Sequence[str], what: str) -> None:
    """Check that a file can be written at ``path``, and make its folder.

    Args:
        suffixes: that it may have; the first one is advised.
        what: is written there, as in ``a page``.

    Raises:
        ZooError: another suffix, a folder of this name, or one that cannot be written.
    """
    if is_folder(path):
        raise ZooError(f"{path}: is a folder. Name a file that ends in {suffixes[0]}")
    if path.suffix.lower() not in suffixes:
        raise ZooError(f"{path}: {what} is written as {suffixes[0]}. Change the suffix.")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Make a folder, and check by a file in it that it can be written.

    Raises:
        ZooError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise ZooError(f"{folder}: cannot be written ({error_reason(error)})") from None


def name_result(source: str) -> str:
    """Return the name for results of a generator: that of its run, also of a file inside the run's folder."""
    path = Path(source)
    path = path.resolve() if is_folder(path) else path  # "." and ".." have no name
    return path.parent.name or path.stem if path.suffix == ".safetensors" else path.name
