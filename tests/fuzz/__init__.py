"""Hostile and odd input for every reader of the package; see ``__main__.py``."""
