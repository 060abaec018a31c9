"""Words of messages that depend on a number."""

from __future__ import annotations


def count_of(number: int, noun: str) -> str:
    """Write a number and its noun, whose plural ends in ``s``: ``1 image``, ``12,000 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
