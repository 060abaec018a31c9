"""The command line: parse arguments, run a command, return an exit code.

Commands import the packages they need when they run, so that ``zoo --help`` and ``zoo list`` load no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from zoo.cli import doctor, evaluate, look, share, train, use
from zoo.cli.options import Commands, Parser
from zoo.core.errors import Interrupted, ZooError, error_reason, one_line, suggest
from zoo.core.files import cache_folder

COMMAND_GROUPS: Mapping[str, tuple[Callable[[Commands], None], ...]] = {
    "train": (train.add_train_commands,),
    "look": (look.add_look_commands, evaluate.add_evaluate_commands),
    "use": (use.add_use_commands,),
    "share": (share.add_share_commands, doctor.add_doctor_command),
}

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # what a full or broken disk answers, also behind stdout

# A thread of OpenMP that waits for another one runs in circles for 300,000 rounds before it sleeps. Beside other
# programs it may keep the other one from its core by that. With 10,000 rounds nothing is lost on an idle machine, where
# a thousand cost a tenth (benchmarks/busy.py).
SPIN_COUNT = "10000"
SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Returns:
        0; 1 for an error of the program, whose traceback is in a file; 2 for an error that the user can fix; 128 + N
        after signal N (130 after Ctrl-C, 143 after SIGTERM).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names that the terminal's encoding lacks are printed as escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        _run_command(arguments)
    except ZooError as error:
        rank = os.environ.get("RANK", "0")  # set by torchrun
        _print_error(f"{f'process {rank}: ' if rank != '0' else ''}{one_line(error)}")
        return 2
    except Interrupted as stop:
        _print_error(one_line(stop))
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _silence_stdout()  # the reader has gone, as in `zoo list | head -1`
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            _flush_or_silence_stdout()
            where = f"{error.filename}: " if error.filename else ""
            _print_error(f"{where}cannot {'read or ' if error.errno == errno.EIO else ''}write ({error_reason(error)})")
            return 2
        if os.environ.get("ZOO_DEBUG", "") not in ("", "0"):
            raise
        _report_unexpected(error)
        return 1
    return 0


def _run_command(arguments: list[str] | None) -> None:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # set by a shell that completes a line
        import argcomplete

        argcomplete.autocomplete(parser)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        close = suggest(unknown[0].partition("=")[0], parsed.parser.flags())
        parsed.parser.error(f"unknown argument {unknown[0]}{close}")
    _check_words(sys.argv[1:] if arguments is None else arguments)
    _limit_spinning()
    if plugins := getattr(parsed, "plugins", None):  # a bare `zoo` has none
        from zoo.core.plugins import load_plugins

        load_plugins(plugins)
    parsed.command(parsed)
    if sys.stdout is not None:  # a shell may have closed it
        sys.stdout.flush()


def _flush_or_silence_stdout() -> None:
    try:
        sys.stdout.flush()
    except OSError:  # the disk behind it is the full one
        _silence_stdout()
    except (AttributeError, ValueError):  # a shell or a caller has closed it
        pass


def _silence_stdout() -> None:
    """Send stdout nowhere: what Python flushes at exit must not fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a caller may have replaced it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _limit_spinning() -> None:
    """Let waiting threads sleep sooner, unless the user has decided on it; OpenMP reads this when torch is imported."""
    if "torch" not in sys.modules and not any(name in os.environ for name in SPIN_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def _check_words(words: Sequence[str]) -> None:
    """Refuse arguments that no file could be named after, before a command begins."""
    for word in words:
        with contextlib.suppress(UnicodeEncodeError):
            if b"\0" not in os.fsencode(word):
                continue
        raise ZooError(f"{word!a}: holds a character that no name can have")


def _print_error(text: str) -> None:
    """Print a line to stderr, unless its terminal was closed."""
    with contextlib.suppress(OSError):
        print(f"zoo: {text}", file=sys.stderr, flush=True)


def _report_unexpected(error: Exception) -> None:
    """Write the traceback of an unexpected exception to a file, and print one line that names it."""
    from zoo.core.version import version

    lines = [f"zoo {version()}, Python {sys.version.split()[0]}, {sys.platform}", f"command: {sys.argv}", ""]
    text = "\n".join(lines) + "\n" + "".join(traceback.format_exception(error))
    place = "it could not be written to a file; ZOO_DEBUG=1 prints it"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (cache_folder() / "errors", Path.cwd()):  # the second where the cache cannot be written
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / (name if folder.name == "errors" else f"zoo-error-{name}")
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            place = f"it is in {path}"
            break
    _print_error(
        f"unexpected error in version {version()}: {type(error).__name__}: {one_line(error)}. "
        f"Please report it with its traceback: {one_line(place)}"
    )


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
    for title, adders in COMMAND_GROUPS.items():
        before = len(commands._choices_actions)
        for add_commands in adders:
            add_commands(commands)
        listed = [f"  {action.dest:<12} {action.help}" for action in commands._choices_actions[before:]]
        lines += [f"{title}:", *listed, ""]
    hint = "`zoo COMMAND --help` shows an example. `zoo list` says which recipe to start with."
    parser.epilog = "\n".join([*lines, hint])
    return parser
