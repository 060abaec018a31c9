"""The reference of the command line, from its argparse parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from zoo.cli.main import COMMAND_GROUPS, build_parser
from zoo.cli.options import Parser

USAGE_WIDTH = 100  # characters
INTRODUCTION = """# Command line

`zoo COMMAND --help` prints what stands here. Exit codes: 0; 1 for an error of the program, whose traceback is in a file
that the message names; 2 for an error that you can fix; 128 + N after signal N (130 after Ctrl-C).

| variable | meaning |
|---|---|
| `ZOO_DATA` | training images of `zoo train`, where `--data` is not given |
| `ZOO_WEIGHTS` | weights of the feature extractors, a file or a folder |
| `ZOO_CACHE` | folder of decoded images, downloads and measurements |
| `ZOO_OFFLINE` | `1`: download nothing |
| `ZOO_MEASURE` | `0`: choose speed settings without measuring them |
| `ZOO_NATIVE` | `0`: compile no C code (small convolutions, SSIM) |
| `ZOO_DEBUG` | `1`: show tracebacks |"""


def command_page() -> str:
    """Return the page as Markdown: one section per command, grouped as `zoo --help` does."""
    parts = [INTRODUCTION]
    for title, adders in COMMAND_GROUPS.items():
        parser = Parser(prog="zoo")
        commands = parser.add_subparsers(prog="zoo")
        for add_commands in adders:
            add_commands(commands)
        parts.append(f"## {title.capitalize()}")
        parts += [_section(command) for command in walk_commands(parser)]
    return "\n\n".join(parts) + "\n"


def walk_commands(parser: argparse.ArgumentParser | None = None) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of all commands, or of those below ``parser``; not of names that only group others."""
    groups = [
        action for action in (parser or build_parser())._actions if isinstance(action, argparse._SubParsersAction)
    ]
    for group in groups:
        yield from (leaf for child in group.choices.values() for leaf in walk_commands(child))
    if parser is not None and not groups:
        yield parser


def _section(parser: argparse.ArgumentParser) -> str:
    formatter = parser.formatter_class(prog=parser.prog, width=USAGE_WIDTH)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    example = (parser.epilog or "").removeprefix("example: ")
    lines = ["| argument | meaning |", "|---|---|"]
    for action in sorted(parser._actions, key=_rank):
        if not isinstance(action, argparse._HelpAction):
            lines.append(f"| {_name(action)} | {_escape(formatter._expand_help(action))} |")
    usage = formatter.format_help().strip()
    parts = [f"### {parser.prog}", parser.description or "", f"```sh\n{example}\n```", "\n".join(lines)]
    return "\n\n".join([*parts, f'??? note "Usage"\n\n    ```text\n{_indent(usage)}\n    ```'])


def _rank(action: argparse.Action) -> int:
    """Order positional arguments before flags, and flags of every command last."""
    return 0 if not action.option_strings else 2 if action.option_strings[0] in ("--plugin", "--json") else 1


def _name(action: argparse.Action) -> str:
    """Return how an argument is written: its flags, or what stands in its place, as code."""
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest)
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value if action.metavar else action.dest}`"
    if action.nargs == 0:
        return ", ".join(f"`{flag}`" for flag in action.option_strings)
    shown = value if action.metavar or action.choices else action.dest.upper()
    shown = f"[{shown}]" if action.nargs == "?" else shown
    return ", ".join(f"`{flag} {shown}`" for flag in action.option_strings)


def _escape(text: str) -> str:
    for character in "\\|*_<":
        text = text.replace(character, f"\\{character}")
    return text


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
