"""What commands print: JSON, tables, and numbers in their cells."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any


def print_json(document: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2))


def print_result(arguments: argparse.Namespace, document: Any, text: str) -> None:
    """Print ``document`` with ``--json``, else ``text``."""
    if arguments.json:
        print_json(document)
    else:
        print(text)


def print_table(headings: list[str], rows: list[list[str]], *, total: list[str] | None = None) -> None:
    """Print a plain table, one line per row.

    Args:
        headings: titles of the columns; those that end in ``>`` are right-aligned.
        rows: cells as text.
        total: a last row, set apart by a line.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    lines = [headings, *rows, *([total] if total else [])]
    for index, heading in enumerate(headings):
        # Only the last column may shrink on a narrow terminal: it holds text, the others hold numbers and names.
        width = max(len(line[index]) for line in lines) if index < len(headings) - 1 else None
        justify: Any = "right" if heading.endswith(">") else "left"
        table.add_column(heading.rstrip(">"), justify=justify, no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*row)
    if total:
        table.add_section()
        table.add_row(*total)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to cut lines to
    console.print(table)


def format_cell(value: float | None) -> str:
    """Format a number with three decimals; None is an empty cell."""
    return "" if value is None else f"{value:.3f}"


def join_alarms(alarms: Iterable[Mapping[str, Any]]) -> str:
    """Join the names of alarms, each once."""
    return ", ".join(dict.fromkeys(alarm["name"] for alarm in alarms))
