"""Digests of lists of texts and bytes, by which sets and cached results are recognised."""

from __future__ import annotations

import hashlib


def hash_bytes(*parts: str | bytes) -> str:
    """Return a digest (32 hexadecimal digits) of a list of texts and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        # Lengths separate the parts: ("ab", "c") and ("a", "bc") differ.
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()
