"""Compile C on first use with the compiler of this machine, and cache the library.

    CACHE/native/<stem>-<key>-<content>.so    key: source, flags, compiler and processor; content: a hash of the file

``$CC`` names the compiler, else the first of cc, gcc and clang that exists; ``ZOO_NATIVE=0`` switches compiling off.
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
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from zoo.core.files import atomic_file, cache_folder, is_private, temporary_folder

COMPILER_FLAGS = ("-O3", "-shared", "-fPIC")
TUNING_FLAGS = (("-march=native",), ())  # the second if the compiler does not know the first
COMPILER_TIMEOUT_SECONDS = 120

_lock = threading.Lock()


@dataclass(frozen=True)
class CompiledLibrary:
    """Compiled C.

    Attributes:
        code: its functions.
        compiler: name and version, such as "gcc 12.2".
    """

    code: ctypes.CDLL
    compiler: str


def compile_and_load(source: Path, *flags: str) -> CompiledLibrary | None:
    """Return the functions of a C file; None if it cannot be compiled, or ``ZOO_NATIVE`` is 0.

    Takes a second or two the first time on a machine, later milliseconds. Several processes may do it at once.

    Args:
        source: the file.
        flags: more options of the compiler.
    """
    if os.environ.get("ZOO_NATIVE") == "0":
        return None
    with _lock:
        return _load(source, os.environ.get("CC", ""), os.environ.get("PATH", ""), cache_folder() / "native", flags)


@functools.lru_cache(maxsize=8)
def _load(source: Path, wanted: str, path: str, folder: Path, flags: tuple[str, ...] = ()) -> CompiledLibrary | None:
    """Compile and load; the environment is in the arguments, so that a changed one is not answered from the memory."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        compiler = _find_compiler(wanted, path)
        if compiler is None:
            return None
        version = _output([*compiler, "--version"])
        key = _hash(
            source.read_bytes(),
            repr((compiler, (*COMPILER_FLAGS, *flags), TUNING_FLAGS)).encode(),
            version.encode(),
            _processor(),
        )
        stem = f"{source.stem}-{key}"
        code = _load_cached(folder, stem) or _store(folder, stem, _build(compiler, source, flags))
        return CompiledLibrary(code, _compiler_name(version))
    return None


def _find_compiler(wanted: str, path: str) -> list[str] | None:
    """Return the compiler's command, which may have arguments or a wrapper, as in ``CC="ccache gcc"``."""
    for command in [shlex.split(wanted)] if wanted.strip() else [["cc"], ["gcc"], ["clang"]]:
        if program := shutil.which(command[0], path=path):
            return [program, *command[1:]]
    return None


def _output(command: list[str]) -> str:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=COMPILER_TIMEOUT_SECONDS,
        check=True,
    ).stdout


def _compiler_name(version: str) -> str:
    """Return "gcc 12.2" from what ``--version`` prints."""
    first = re.sub(r"\(.*?\)", "", (version.splitlines() or [""])[0])  # distributions add their version in parentheses
    family = next((name for name in ("clang", "gcc") if name in version.lower()), "")
    if not family:
        family = "gcc" if "Free Software Foundation" in version else "cc"
    number = re.search(r"\d+\.\d+", first)
    return f"{family} {number[0]}" if number else family


def _processor() -> bytes:
    """Identify the processor, on which ``-march=native`` depends: machines may share a cache."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts = {line for line in lines if line.split("\t")[0].strip() in ("model name", "flags", "Features", "isa")}
        if facts:
            return repr(sorted(facts)).encode()
    return repr((platform.machine(), platform.processor(), platform.node())).encode()


def _hash(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(hashlib.blake2b(part).digest() for part in parts), digest_size=16).hexdigest()


def _build(compiler: list[str], source: Path, flags: tuple[str, ...]) -> bytes:
    """Compile the file and return the library's bytes.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled.
    """
    with temporary_folder(".zoo-native-") as folder:
        library = Path(folder) / "library.so"
        for tuning in TUNING_FLAGS:
            with contextlib.suppress(subprocess.CalledProcessError):
                _output([*compiler, *COMPILER_FLAGS, *flags, *tuning, "-o", str(library), str(source)])
                return library.read_bytes()
    raise subprocess.SubprocessError(f"{compiler[0]} cannot compile {source}")


def _load_cached(folder: Path, stem: str) -> ctypes.CDLL | None:
    """Load a library of the cache, if it is whole (a damaged one may crash the process) and only we can write it."""
    if not is_private(folder):
        return None
    for file in sorted(folder.glob(f"{stem}-*.so")):
        if file.stem.removeprefix(f"{stem}-") == _hash(file.read_bytes()) and is_private(file):
            return ctypes.CDLL(str(file))
        file.unlink(missing_ok=True)  # damaged: compiled again
    return None


def _store(folder: Path, stem: str, content: bytes) -> ctypes.CDLL:
    """Put a library into the cache and load it; if others can write to the cache, load it from a temporary folder."""
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if is_private(folder):
            file = folder / f"{stem}-{_hash(content)}.so"
            with atomic_file(file) as out:
                out.write(content)
            return ctypes.CDLL(str(file))
    with temporary_folder(".zoo-native-") as elsewhere:  # a loaded file may be deleted
        file = Path(elsewhere) / "library.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))
