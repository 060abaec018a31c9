"""Whether the network may be used."""

from __future__ import annotations

import os


def offline_reason() -> str:
    """Return which environment variable forbids downloads, or an empty string."""
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off"):
            return f"{name} is set"
    return ""
