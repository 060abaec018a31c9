"""Which version of this package runs."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """As installed; ``unknown`` in a checkout that never was."""
    try:
        return metadata.version("gan-zoo")
    except metadata.PackageNotFoundError:
        return "unknown"
