"""Whether the network may be used, and for how long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")

# How long a download may take: time-outs of sockets alone let a server send a byte now and then for ever.
DOWNLOAD_BASE_SECONDS = 120.0
SLOWEST_BYTES_PER_SECOND = 20_000


def offline_reason() -> str:
    """Return which environment variable forbids downloads, or an empty string."""
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off"):
            return f"{name} is set"
    return ""


def hub_endpoint() -> str:
    """Return the address of the Hugging Face Hub; read here, since its library reads it only when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def download_seconds(size: int) -> float:
    """Return the longest time that a download of ``size`` bytes may take."""
    return DOWNLOAD_BASE_SECONDS + size / SLOWEST_BYTES_PER_SECOND


def call_with_deadline(function: Callable[..., _Result], *arguments: Any, seconds: float, **keywords: Any) -> _Result:
    """Call a function that waits for the network; its result and its exceptions are passed on.

    Raises:
        TimeoutError: it takes longer than ``seconds``. It is left to itself in a thread that ends with the process.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*arguments, **keywords))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="zoo-download")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"not complete after {seconds:.0f} s; the connection is too slow")
    return results[0]
