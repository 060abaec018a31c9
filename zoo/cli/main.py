"""The command line: parse arguments, run a command, return an exit code.

Commands import the packages they need when they run, so that ``zoo --help`` and ``zoo list`` load no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from zoo.cli import evaluate, look, share, train, use
from zoo.cli.options import Commands, Parser
from zoo.core.errors import Interrupted, ZooError, suggest

GROUPS: Mapping[str, tuple[Callable[[Commands], None], ...]] = {
    "train": (train.add_train_commands,),
    "look": (look.add_look_commands, evaluate.add_evaluate_commands),
    "use": (use.add_use_commands,),
    "share": (share.add_share_commands,),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Returns:
        0; 2 for an error that the user can fix; 128 + N after signal N (130 after Ctrl-C, 143 after SIGTERM).
    """
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # set by a shell that completes a line
        import argcomplete

        argcomplete.autocomplete(parser)
    parsed, unknown = parser.parse_known_args(arguments)
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
    text = "A model zoo of GANs for small, mostly grey, mostly medical image sets."
    parser = Parser(prog="zoo", usage="zoo [-h] [--version] COMMAND ...", description=text)
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version")
    # Not in argparse's help, which knows no groups of commands: the epilog lists them.
    commands = parser.add_subparsers(metavar="COMMAND", help=argparse.SUPPRESS, prog="zoo")
    parser.set_defaults(command=lambda arguments: parser.print_help(), parser=parser)
    lines = []
    for title, adders in GROUPS.items():
        before = len(commands._choices_actions)
        for add_commands in adders:
            add_commands(commands)
        listed = [f"  {action.dest:<12} {action.help}" for action in commands._choices_actions[before:]]
        lines += [f"{title}:", *listed, ""]
    hint = "`zoo COMMAND --help` shows an example. `zoo list` says which recipe to start with."
    parser.epilog = "\n".join([*lines, hint])
    return parser
