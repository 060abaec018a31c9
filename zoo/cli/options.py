"""The parser, arguments that commands share, and the options dataclasses built from them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from zoo.core.errors import one_line, suggest
from zoo.core.options import Options, field_names

PRECISIONS = ("auto", "fp32", "bf16")

TRAINING_DATA = "folder, zip, .npy, .npz, or phantoms[:SUBJECTS] (default: $ZOO_DATA)"

GENERATOR = "a run, a file of weights, a pretrained name, or a repository on Hugging Face"


def parse_kimg(text: str) -> float:
    """Parse a length in thousands of images; ``40k`` and ``1.2M`` are 40 and 1200 of these.

    Raises:
        argparse.ArgumentTypeError: the text is no length.
    """
    number, thousands = text.strip(), 1.0
    if number and number[-1] in "kKmM":
        thousands, number = (1.0 if number[-1] in "kK" else 1000.0), number[:-1]
    try:
        return float(number) * thousands
    except ValueError:
        message = f"{text!r} is no length: give thousands of images, such as 40, or images, such as 40k"
        raise argparse.ArgumentTypeError(message) from None


# Destinations are named like the parameters of the library, so that call_keywords() can pass them on.
_SHARED: dict[str, dict[str, Any]] = {
    "--data": {"help": "images to evaluate against (default: those of the training)"},
    "--device": {"default": "auto", "metavar": "auto|cpu|cuda|mps", "help": "where networks run"},
    "--kimg": {"type": parse_kimg, "metavar": "N", "help": "thousands of images to train for; 40k images is 40"},
    "--metrics": {
        "action": "append",
        "metavar": "NAME,...",
        "help": "fid, kid, ...; or groups: features, ssim, copies, all (default: nearly all)",
    },
    "--no-reals": {"action": "store_true", "help": "leave real images out of the page"},
    "--precision": {"choices": PRECISIONS, "help": "precision of forward passes in training"},
    "--runs": {"default": "runs", "help": "where runs are looked for"},
    "--samples": {
        "dest": "num_samples",
        "type": int,
        "metavar": "N",
        "help": "generated images per generator (default: 2000; FID depends on it)",
    },
    "--seed": {"type": int, "default": 0, "help": "seed of the latents"},
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


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, unless they are None, off or empty, and examples as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        off = action.default is None or action.default is False or action.default in ([], "")  # 0 is a default
        if off or action.nargs == 0:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, with the nearest match."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _HelpFormatter, **options})

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


def add_command(
    commands: Commands, run: Callable[[argparse.Namespace], None], name: str, text: str, example: str
) -> Parser:
    """Add a command that calls ``run(arguments)``. Every command has ``--json`` and ``--plugin``.

    Args:
        text: describes it.
        example: a command line that its help shows.
    """
    description = f"{text[0].upper()}{text[1:]}."
    parser = commands.add_parser(name, help=text, description=description, epilog=f"example: {example}")
    parser.set_defaults(command=run, parser=parser)
    parser.add_argument(
        "--plugin",
        dest="plugins",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="run this Python code first: it registers networks, losses, metrics or sources",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return parser


def complete_recipes(**_: Any) -> list[str]:
    """Return names of recipes, for a shell that completes a line."""
    from zoo.recipes import list_models

    return list_models()


def complete_generators(**_: Any) -> list[str]:
    """Return names of pretrained generators and recipes, and runs in the usual folder."""
    from zoo.hub.pretrained import load_catalogue

    return [*load_catalogue(), *complete_recipes(), *(str(path) for path in Path("runs").glob("*/"))]


def add_recipe(parser: Parser, name: str, text: str, **options: Any) -> None:
    """Add the argument that names a recipe."""
    action = parser.add_argument(name, metavar="NAME|FILE", help=text, **options)
    action.completer = complete_recipes  # type: ignore[attr-defined]  # of argcomplete


def add_generator(parser: Parser, name: str) -> None:
    """Add the argument that names a trained generator."""
    action = parser.add_argument(name, metavar="RUN|FILE|NAME|hf:OWNER/NAME", help=GENERATOR)
    action.completer = complete_generators  # type: ignore[attr-defined]


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
    keywords = {
        name: value for name, value in vars(arguments).items() if name not in ("command", "json", "parser", "plugins")
    }
    for parameter, kind in kinds.items():
        fields = [name for name in field_names(kind) if name in keywords]
        keywords[parameter] = kind(**{name: keywords.pop(name) for name in fields})
    return keywords
