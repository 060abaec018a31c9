"""What commands print: lines, JSON, tables, and numbers in their cells."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.core.errors import printable


def print_line(text: str) -> None:
    """Print one line; control characters, which file names may hold, as escapes."""
    print(printable(text))


def print_json(document: Any) -> None:
    """Print one JSON document; null for infinite numbers and NaN, as of a loss that diverged: JSON has neither."""
    print(json.dumps(_without_nan(document), indent=2))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    return [_without_nan(each) for each in value] if isinstance(value, list | tuple) else value


def print_result(arguments: Namespace, document: Any, text: str) -> None:
    """Print ``document`` with ``--json``, else ``text``."""
    if arguments.json:
        print_json(document)
    else:
        print_line(text)


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Print a plain table, one line per row; columns are right-aligned where the heading ends in ``>``."""
    from rich import box
    from rich.table import Table

    from zoo.core.console import PlainConsole

    rows = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for index, column in enumerate(zip(headings, *rows, strict=True), 1):
        # Only the last column may shrink on a narrow terminal: it holds text, the others hold numbers and names.
        width = max(map(len, column)) if index < len(headings) else None
        heading = column[0]
        justify: Any = "right" if heading.endswith(">") else "left"
        table.add_column(heading.rstrip(">"), justify=justify, no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*row)
    console = PlainConsole()
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to cut lines to
    console.print(table)


def format_cell(value: float | None) -> str:
    """Format a number with three decimals; None is an empty cell."""
    return "" if value is None else f"{value:.3f}"


def join_alarms(alarms: Iterable[Mapping[str, Any]]) -> str:
    """Join the names of alarms, each once."""
    return ", ".join(dict.fromkeys(alarm["name"] for alarm in alarms))
