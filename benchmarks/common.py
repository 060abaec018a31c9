"""Helpers that the benchmark scripts share: options, one measurement per name, files with one JSON object a line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo import recipes
from zoo.core.errors import ZooError

Row = dict[str, Any]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the script's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_output_arguments(parser: argparse.ArgumentParser, results: Path) -> None:
    """Add ``--json`` and ``--save``, which :func:`measure_each` obeys."""
    parser.add_argument("--json", action="store_true", help="print a JSON list as the last line")
    parser.add_argument("--save", action="store_true", help=f"append the results to {results.name}")


def measure_each(
    names: Iterable[str],
    measure: Callable[[str], Row],
    describe: Callable[[Row], str],
    options: argparse.Namespace,
    results: Path,
) -> list[Row]:
    """Measure one name after another; print and save each row as soon as it is there."""
    rows = []
    for name in names:
        row = measure(name)
        rows.append(row)
        print(describe(row), flush=True)
        if options.save:
            append_row(results, row)
    if options.json:
        print(json.dumps(rows))
    return rows


def check_recipes(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """End the script with exit code 2 and one line if a name is not that of a recipe."""
    try:
        for name in names:
            recipes.load_recipe(name)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def run_worker(code: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Row:
    """Run Python code in a new process and return the row, JSON, that it prints last.

    Its exit code says nothing: workers interrupt their training. Without a row the script ends with what it printed.

    Args:
        code: of the worker.
        arguments: its ``sys.argv[1:]``.
        variables: its environment; None: this process' own.
    """
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )
    if not process.stdout.strip():
        sys.exit(process.stderr)
    row: Row = json.loads(process.stdout.splitlines()[-1])
    return row


def append_row(path: Path, row: Row) -> None:
    """Append a row to a JSONL file, whose folder is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSONL file; an empty list if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def find_row(path: Path, identity: Row) -> Row | None:
    """Return the first row of a JSONL file that has these values; None if there is none."""
    return next((row for row in read_rows(path) if identity.items() <= row.items()), None)


def measure_once(path: Path, identity: Row, measure: Callable[[], Row]) -> Row:
    """Return the row of a file that has the values ``identity``; if there is none, measure it and append it."""
    row = find_row(path, identity)
    if row is None:
        row = identity | measure()
        append_row(path, row)
    return row


def last_common_length(rows: Iterable[Row]) -> float:
    """Return the greatest ``kimg`` at which every ``digest`` of trained networks has a row; 0 if there is none."""
    lengths: dict[str, set[float]] = {}
    for row in rows:
        if row["kimg"]:
            lengths.setdefault(row["digest"], set()).add(row["kimg"])
    return max(set.intersection(*lengths.values()), default=0) if lengths else 0


def last_line(text: str) -> str:
    """Return the last line that is not empty, without surrounding spaces; ``""`` if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
