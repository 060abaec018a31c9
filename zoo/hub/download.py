"""One file from the network: gone on with where it broke off, and whole and known by its hash or not there."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

import filelock

from zoo.core.errors import ZooError, error_message, error_reason
from zoo.core.progress import Reporter

CHUNK = 1 << 16  # bytes
PATIENCE = 30  # seconds without a byte
TRIES = 4  # in one call, as long as each brings some bytes


def offline_reason() -> str:
    """Which switch forbids downloads, or nothing."""
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off"):
            return f"{name} is set"
    return ""


def download_url(url: str) -> str:
    """``hf:owner/name/file`` as the address it stands for; others as they are."""
    match = re.fullmatch(r"hf:([^/]+/[^/]+)/(.+)", url)
    if match is None:
        return url
    home = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    return f"{home}/{match[1]}/resolve/main/{match[2]}"


def has_hash(path: Path, size: int, sha256: str) -> bool:
    """Whether ``path`` is the file of ``size`` bytes and that hash."""
    return path.is_file() and path.stat().st_size == size and _digest(path) == sha256


def download_file(url: str, path: Path, *, size: int, sha256: str, reporter: Reporter) -> None:
    """Make ``path`` the file at ``url``, unless it is that already.

    Until it is whole it lies beside as ``<name>.part``, which the next call goes on with. Several processes take turns.

    Args:
        url: as :func:`address` takes it.
        size: in bytes.
        sha256: of the file.

    Raises:
        ZooError: no answer, another file there, or the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if has_hash(path, size, sha256):
                return
            reporter.say(f"downloading {download_url(url)} ({size / 1e6:.1f} MB) into {path.parent}")
            reporter.start(f"{path.name} (kB)", size // 1000)
            try:
                _fill(download_url(url), part, size, reporter)
            finally:
                reporter.stop()
            if not has_hash(part, size, sha256):
                part.unlink()
                raise ZooError(f"{download_url(url)}: is another file than the one expected (wrong hash)")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error_reason(error)})") from None


def _fill(url: str, part: Path, size: int, reporter: Reporter) -> None:
    """Append to ``part`` until it has ``size`` bytes."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    reporter.advance(have // 1000)
    for left in reversed(range(TRIES)):
        before = have
        why = "the connection broke off"
        try:
            have = _append(url, part, have, size, reporter)
        except urllib.error.HTTPError as error:
            raise ZooError(f"{url}: {error.code} {error.reason}") from None
        except _NetworkError as error:
            have, why = part.stat().st_size if part.exists() else 0, str(error)
        if have == size:
            return
        if not left or have <= before:
            break
    raise ZooError(f"{url}: {have:,} of {size:,} bytes ({why}); the same call again goes on from there")


class _NetworkError(Exception):
    """The other side's fault, not the disk's."""


def _append(url: str, part: Path, have: int, size: int, reporter: Reporter) -> int:
    """One answer of the server's; returns how many bytes ``part`` then has."""
    if have == size:
        return have
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "User-Agent": "gan-zoo"})
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # shorter than what is here already
            raise _other(url, part) from None
        raise
    except Exception as error:  # of many kinds: names, routes, certificates
        raise _NetworkError(error_message(getattr(error, "reason", None) or error)) from None
    with answer:
        ranged = answer.status == 206
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if ranged and (said is None or int(said[1]) != have or said[2] not in ("*", str(size))):
            raise _other(url, part)
        if not ranged:  # a server that knows no ranges begins anew
            reporter.advance(-(have // 1000))
            have = 0
        with part.open("ab" if ranged else "wb") as file:
            while True:
                try:
                    data = answer.read(CHUNK)
                except Exception as error:
                    raise _NetworkError(error_message(error)) from None
                if not data:
                    return have
                file.write(data)
                reporter.advance((have + len(data)) // 1000 - have // 1000)
                have += len(data)
                if have > size:
                    raise _other(url, part)


def _other(url: str, part: Path) -> ZooError:
    part.unlink(missing_ok=True)
    return ZooError(f"{url}: is another file than the one expected (wrong size)")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
