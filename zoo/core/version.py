"""The version of the installed package."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Return the installed version, or ``unknown`` in a checkout that was never installed."""
    try:
        return metadata.version("gan-zoo")
    except metadata.PackageNotFoundError:
        return "unknown"
