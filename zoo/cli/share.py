"""Commands that share trained generators: ``publish``, ``export``, ``explore``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from zoo.cli.options import Commands, add_command, add_generator, add_shared, call_keywords
from zoo.cli.output import print_result
from zoo.core.options import EvaluationOptions


def add_share_commands(commands: Commands) -> None:
    """Add ``publish``, ``export`` and ``explore``."""
    text = "evaluate a generator, and write its weights and model card for others"
    p = add_command(commands, _publish, "publish", text, "zoo publish runs/fastgan-r3-64-000 --to fastgan-brains")
    p.add_argument("target", metavar="RUN|FILE", help="a trained generator")
    p.add_argument("--to", required=True, metavar="FOLDER|hf:OWNER/NAME", help="the folder to make, or a repository")
    p.add_argument("--name", help="name of the model (default: its recipe's)")
    p.add_argument("--best", action="store_true", help="publish generator-best.safetensors of the run")
    p.add_argument("--force", action="store_true", help="replace what was published there before")
    p.add_argument("--private", action="store_true", help="make a new repository private")
    p.add_argument(
        "--data-statement", metavar="TEXT|FILE", help="statement on the training images (default: what the run knows)"
    )
    p.add_argument(
        "--training-statement", metavar="TEXT|FILE", help="what the training took (default: what the run knows)"
    )
    text = "terms under which the weights may be used"
    p.add_argument("--licence", "--license", dest="licence", metavar="TEXT|FILE", help=text)
    # Named, and not --force, so that copies of patient images are not published by accident.
    p.add_argument(
        "--despite-alarm",
        action="append",
        default=[],
        metavar="memorisation",
        help="publish a generator that copies training images nevertheless",
    )
    add_shared(p, "--data", "--samples", "--spaces", "--weights", "--runs", "--device")

    text = "write a generator as an ONNX file, and compare its images with torch's"
    p = add_command(commands, _export, "export", text, "zoo export brain-64 --to brain-64.onnx --fp16")
    add_generator(p, "source")
    p.add_argument("--to", required=True, metavar="FILE.onnx", help="the file to write")
    p.add_argument("--fp16", action="store_true", help="store weights with 16 bits, which halves the file")
    add_shared(p, "--runs")

    text = "write a page in which a generator runs, for people without Python"
    p = add_command(commands, _explore, "explore", text, "zoo explore brain-64 --out brains.html")
    add_generator(p, "source")
    p.add_argument("--out", metavar="FILE.html", help="the file to write (default: NAME-explorer.html)")
    add_shared(p, "--runs")


def _publish(arguments: Namespace) -> None:
    from zoo.evaluation.publish import publish

    place = publish(**call_keywords(arguments, evaluation=EvaluationOptions))
    print_result(arguments, {"published": place}, place)


def _export(arguments: Namespace) -> None:
    from zoo.hub.export import export

    result = export(**call_keywords(arguments))
    document = {**asdict(result), "path": str(result.path)}
    text = f"{result.path}: {result.size / 1e6:.1f} MB, ONNX opset {result.opset}; {result.parity}"
    print_result(arguments, document, text)


def _explore(arguments: Namespace) -> None:
    from zoo.hub.explorer import explore

    result = explore(**call_keywords(arguments))
    document = {**asdict(result), "path": str(result.path)}
    print_result(arguments, document, f"{result.path}: {result.size / 1e6:.1f} MB; {result.parity}")
