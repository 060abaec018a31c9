"""Check that the tests catch faults: each fault is put into a copy of the package, and its tests must fail.

    python benchmarks/seeded_faults.py [NAME ...] [--list FILE.yaml]

A fault is a line of ``seeded_faults.yaml``: a file, a text that stands in it once, what replaces it, and the tests that
should notice. Exit code 1 if a fault passes unnoticed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("seeded_faults.yaml")
COPIED = ("zoo", "tests", "recipes", "benchmarks", "pyproject.toml", "README.md", "docs")
FAILED_TESTS = 1  # pytest's exit code; 2 and more are errors of the call, and no sign that a fault was caught


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to try (default: all)")
    parser.add_argument("--list", type=Path, default=LIST, metavar="FILE.yaml")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="the checkout to copy")
    options = parser.parse_args()
    faults = yaml.safe_load(options.list.read_text(encoding="utf-8"))
    unnoticed = []
    for name, fault in faults.items():
        if options.names and name not in options.names:
            continue
        start = time.monotonic()
        result = try_fault(fault, options.root)
        print(f"{name}: {result} ({time.monotonic() - start:.0f} s)", flush=True)
        unnoticed += [name] if result != "caught" else []
    sys.exit(1 if unnoticed else 0)


def try_fault(fault: dict[str, Any], root: Path) -> str:
    """``caught``, ``unnoticed``, or why the fault could not be tried."""
    with tempfile.TemporaryDirectory(prefix="zoo-fault-") as name:
        folder = Path(name)
        for entry in COPIED:
            source = root / entry
            if source.is_dir():
                shutil.copytree(source, folder / entry, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, folder / entry)
        path = folder / fault["file"]
        text = path.read_text(encoding="utf-8")
        if text.count(fault["find"]) != 1:
            return f"{fault['file']} holds {fault['find']!r} {text.count(fault['find'])} times, not once"
        path.write_text(text.replace(fault["find"], fault["replace"]), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault["tests"].split()]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == FAILED_TESTS:
            return "caught"
        return "unnoticed" if done.returncode == 0 else f"pytest failed: {done.stdout[-500:]}{done.stderr[-500:]}"


if __name__ == "__main__":
    main()
