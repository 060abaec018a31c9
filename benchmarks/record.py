"""What the scripts here have in common: a row measured, a line printed, a line of JSON kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser, results: Path) -> None:
    """``--json`` and ``--save``, as :func:`each` heeds them."""
    parser.add_argument("--json", action="store_true", help="the last line is a JSON list")
    parser.add_argument("--save", action="store_true", help=f"append the results to {results.name}")


def each(
    names: Iterable[str],
    measure: Callable[[str], Row],
    line: Callable[[Row], str],
    options: argparse.Namespace,
    results: Path,
) -> list[Row]:
    """Measure one after another, and keep each as soon as it is there."""
    rows = []
    for name in names:
        row = measure(name)
        rows.append(row)
        print(line(row), flush=True)
        if options.save:
            append(results, row)
    if options.json:
        print(json.dumps(rows))
    return rows


def append(results: Path, row: Row) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
