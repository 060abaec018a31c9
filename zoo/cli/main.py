"""The command line: parse arguments, run a command, return an exit code.

Commands import the packages they need when they run, so that ``zoo --help`` and ``zoo list`` load no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn

from zoo.cli import evaluate, look, share, train, use
from zoo.cli.options import Parser
from zoo.core.errors import Interrupted, ZooError, suggest


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Returns:
        0; 2 for an error that the user can fix; 128 + N after signal N (130 after Ctrl-C, 143 after SIGTERM).
    """
    parsed, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        close = suggest(unknown[0].partition("=")[0], parsed.parser.flags())
        parsed.parser.error(f"unknown argument {unknown[0]}{close}")
    try:
        parsed.command(parsed)
        if sys.stdout is not None:  # a shell may have closed it
            sys.stdout.flush()
    except ZooError as error:
        rank = os.environ.get("RANK", "0")  # set by torchrun
        print(f"zoo: {f'process {rank}: ' if rank != '0' else ''}{error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"zoo: {stop}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone, as in `zoo list | head -1`: what Python flushes at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Version(argparse.Action):
    """Print the version; it is looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        from zoo.core.version import version

        print(f"zoo {version()}")
        raise SystemExit(0)


def build_parser() -> Parser:
    """Build the parser of all commands."""
    parser = Parser(prog="zoo", description="A model zoo of GANs for small, mostly grey, mostly medical image sets.")
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    look.add_look_commands(commands)
    train.add_train_commands(commands)
    use.add_use_commands(commands)
    evaluate.add_evaluate_commands(commands)
    share.add_share_commands(commands)
    return parser
