"""The parser, arguments that commands share, and the options dataclasses built from them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from zoo.core.errors import one_line, suggest
from zoo.core.options import Options, field_names

PRECISIONS = ("auto", "fp32", "bf16")

TRAINING_DATA = "folder, zip, .npy, .npz, or phantoms[:SUBJECTS] (default: $ZOO_DATA)"

# Destinations are named like the parameters of the library, so that call_keywords() can pass them on.
_SHARED: dict[str, dict[str, Any]] = {
    "--data": {"help": "images to evaluate against (default: those of the training)"},
    "--device": {"default": "auto", "metavar": "auto|cpu|cuda|mps"},
    "--metrics": {
        "action": "append",
        "metavar": "NAME,...",
        "help": "fid, kid, ...; or groups: features, ssim, copies, all (default: nearly all)",
    },
    "--no-reals": {"action": "store_true", "help": "leave real images out of the page"},
    "--precision": {"choices": PRECISIONS, "help": "precision of forward passes in training"},
    "--runs": {"default": "runs", "help": "where runs are looked for (default: runs)"},
    "--samples": {
        "dest": "num_samples",
        "type": int,
        "metavar": "N",
        "help": "generated images per generator (default: 2000; FID depends on it)",
    },
    "--seed": {"type": int, "default": 0, "help": "seed of the latents (default: 0)"},
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "change the recipe: train.batch=32, discriminator=lean-256",
    },
    "--spaces": {
        "dest": "extractors",
        "action": "append",
        "metavar": "NAME,...",
        "help": "feature extractors: inception, dinov2, timm:MODEL, random; the first ranks "
        "(default: inception,dinov2)",
    },
    "--truncation": {
        "type": float,
        "metavar": "PSI",
        "help": "generators with styles: 0 is the mean image, 1 as trained",
    },
    "--weights": {
        "help": "weights of the feature extractors, a file or a folder (default: $ZOO_WEIGHTS)",
    },
}


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, with the nearest match."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"(.*): invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message)
        if wrong:
            argument, word, listed = wrong.groups()
            choices = re.findall(r"[\w-]+", listed)  # quoted or not, depending on the version of Python
            message = f"{argument}: unknown value {word!r}{suggest(word, choices)}. Choose from {', '.join(choices)}"
        self.exit(2, f"{one_line(f'{self.prog}: {message}; see `{self.prog} --help`')}\n")

    def flags(self) -> list[str]:
        """Return all flags that this parser accepts."""
        return [flag for action in self._actions for flag in action.option_strings]


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, run: Callable[[argparse.Namespace], None], name: str, text: str) -> Parser:
    """Add a command that calls ``run(arguments)``; ``text`` describes it. Every command has ``--json``."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=run, parser=parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return parser


def add_shared(parser: Parser, *flags: str) -> None:
    """Add arguments that mean the same in several commands."""
    for flag in flags:
        parser.add_argument(flag, **_SHARED[flag])


def call_keywords(arguments: argparse.Namespace, **kinds: type[Options]) -> dict[str, Any]:
    """Return the arguments as keywords of the library function that the command calls.

    Args:
        arguments: destinations are named like the function's parameters.
        kinds: options dataclasses by parameter; each takes the arguments that are named like its fields.
    """
    keywords = {name: value for name, value in vars(arguments).items() if name not in ("command", "json", "parser")}
    for parameter, kind in kinds.items():
        fields = [name for name in field_names(kind) if name in keywords]
        keywords[parameter] = kind(**{name: keywords.pop(name) for name in fields})
    return keywords
