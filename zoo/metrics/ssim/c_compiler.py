"""C that is compiled where it runs, on first use, with the compiler that is there; without one, callers do without.

    CACHE/native/<stem>-<key>-<content>.so    key: source, flags, compiler and processor; content: a hash of the file

``$CC`` names the compiler, else the first of cc, gcc and clang that is found; ``ZOO_NATIVE=0`` wants none of this.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from zoo.core.files import atomic_file, cache_folder

FLAGS = ("-O3", "-shared", "-fPIC")
TUNING = (("-march=native",), ())  # the second where a compiler does not know the first
PATIENCE = 120  # seconds a compiler may take

_lock = threading.Lock()


@dataclass(frozen=True)
class Library:
    """Compiled C.

    Attributes:
        code: its functions.
        compiler: what made it, such as "gcc 12.2".
    """

    code: ctypes.CDLL
    compiler: str


def compile_and_load(source: Path) -> Library | None:
    """The functions of a C file; None where it cannot be compiled, for whatever reason, or ``ZOO_NATIVE`` is 0.

    A second or two the first time on a machine, milliseconds ever after. Processes may do this at the same time.
    """
    if os.environ.get("ZOO_NATIVE") == "0":
        return None
    with _lock:
        return _load(source, os.environ.get("CC", ""), os.environ.get("PATH", ""), cache_folder() / "native")


@functools.lru_cache(maxsize=8)
def _load(source: Path, wanted: str, path: str, folder: Path) -> Library | None:
    """The environment is spelt out in the arguments, so that another one is another answer."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        compiler = _compiler(wanted, path)
        if compiler is None:
            return None
        version = _output([*compiler, "--version"])
        key = _hash(source.read_bytes(), repr((compiler, FLAGS, TUNING)).encode(), version.encode(), _processor())
        stem = f"{source.stem}-{key}"
        made = _recall(folder, stem) or _remember(folder, stem, _build(compiler, source))
        return Library(made, _name(version))
    return None


def _compiler(wanted: str, path: str) -> list[str] | None:
    """A command, which may hold arguments or a wrapper, as in ``CC="ccache gcc"``."""
    for command in [shlex.split(wanted)] if wanted.strip() else [["cc"], ["gcc"], ["clang"]]:
        found = shutil.which(command[0], path=path)
        if found:
            return [found, *command[1:]]
    return None


def _output(command: list[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout


def _name(version: str) -> str:
    """``"gcc 12.2"``, of what ``--version`` prints."""
    first = re.sub(r"\(.*?\)", "", (version.splitlines() or [""])[0])  # distributions put theirs in parentheses
    family = next((name for name in ("clang", "gcc") if name in version.lower()), "")
    if not family:
        family = "gcc" if "Free Software Foundation" in version else "cc"
    number = re.search(r"\d+\.\d+", first)
    return f"{family} {number[0]}" if number else family


def _processor() -> bytes:
    """What ``-march=native`` looks at: a cache may be shared by machines that differ."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {line for line in lines if line.split("\t")[0].strip() in ("model name", "flags", "Features", "isa")}
        if told:
            return repr(sorted(told)).encode()
    return repr((platform.machine(), platform.processor(), platform.node())).encode()


def _hash(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(hashlib.blake2b(part).digest() for part in parts), digest_size=16).hexdigest()


def _build(compiler: list[str], source: Path) -> bytes:
    """The compiled file.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.so"
        for tuning in TUNING:
            with contextlib.suppress(subprocess.CalledProcessError):
                _output([*compiler, *FLAGS, *tuning, "-o", str(made), str(source)])
                return made.read_bytes()
    raise subprocess.SubprocessError(f"{compiler[0]} cannot compile {source}")


def _recall(folder: Path, stem: str) -> ctypes.CDLL | None:
    """A library of the cache: whole, for a damaged one may end the process when it is loaded, and nobody else's."""
    if not _ours(folder):
        return None
    for file in sorted(folder.glob(f"{stem}-*.so")):
        if file.stem.removeprefix(f"{stem}-") == _hash(file.read_bytes()) and _ours(file):
            return ctypes.CDLL(str(file))
        file.unlink(missing_ok=True)
    return None


def _remember(folder: Path, stem: str, content: bytes) -> ctypes.CDLL:
    """Put a library into the cache and load it; where the cache is no place for code, load it from elsewhere."""
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if _ours(folder):
            file = folder / f"{stem}-{_hash(content)}.so"
            with atomic_file(file) as out:
                out.write(content)
            return ctypes.CDLL(str(file))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as elsewhere:  # a loaded file may vanish
        file = Path(elsewhere) / "made.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


def _ours(path: Path) -> bool:
    """Whether nobody else could have written there: what is loaded runs with our rights."""
    if not hasattr(os, "getuid"):
        return path.exists()
    try:
        found = path.lstat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not stat.S_ISLNK(found.st_mode) and not found.st_mode & 0o022
