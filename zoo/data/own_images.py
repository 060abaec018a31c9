"""Recognise images that this package wrote itself: grids, curves and samples."""

from __future__ import annotations

import re

HEAD_BYTES = 2048  # the mark is in the first of them
# Written by zoo.report: a PNG's text "zoo" with the kind, or a GIF's comment.
_PNG_MARK = re.compile(rb"tEXtzoo\0(grid|image)")
_GIF_MARK = b"zoo grid"
# Samples and grids of versions without the mark have a text "seed", and one of the generator's name.
_OLDER_MARKS = re.compile(rb"tEXt(?:recipe|model)\0.*tEXtseed\0", re.DOTALL)


def own_image_kind(head: bytes) -> str:
    """Return "grid" (or a curve), "image" (one sample), or "" for an image from elsewhere.

    Args:
        head: the first ``HEAD_BYTES`` of a file.
    """
    if head.startswith(b"\x89PNG"):
        mark = _PNG_MARK.search(head)
        if mark:
            return mark[1].decode()
        return "image" if _OLDER_MARKS.search(head) else ""
    return "grid" if head.startswith(b"GIF8") and _GIF_MARK in head else ""
