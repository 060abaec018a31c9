"""Plug-ins: Python files and modules outside the package that register architectures, losses, metrics or sources."""

from __future__ import annotations


def load_installed_plugins() -> None:
    """Load the plug-ins that installed distributions name in the entry-point group ``gan_zoo.plugins``."""


def code_version(module: str) -> str:
    """Return a digest of a plug-in's file, or an empty string for a module of this package."""
    return ""
