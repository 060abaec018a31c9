"""Commands that evaluate generators and images: ``bench``, ``compare``, ``report``."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.cli.options import (
    Commands,
    add_command,
    add_generator,
    add_shared,
    call_keywords,
    complete_generators,
    parse_kimg,
)
from zoo.cli.output import print_json, print_line, print_result, print_table
from zoo.cli.signals import StopOnSignals
from zoo.core.errors import ZooError, one_line
from zoo.core.options import EvaluationOptions, TrainOptions

TABLE_WIDTH = 100  # characters; wider tables are printed in parts


def add_evaluate_commands(commands: Commands) -> None:
    """Add ``bench``, ``compare`` and ``report``."""
    extractors, generators = ("--metrics", "--spaces", "--weights", "--device"), ("--data", "--samples", "--runs")
    p = add_command(
        commands,
        _bench,
        "bench",
        "evaluate generators, and train recipes first: table, JSONL, one HTML page",
        "zoo bench dcgan-64 fastgan-r3-64 --kimg 20 --data slices/",
    )
    targets = p.add_argument("targets", nargs="*", metavar="RUN|NAME|FILE", help="what to evaluate; none: all in runs")
    targets.completer = complete_generators  # type: ignore[attr-defined]
    p.add_argument("--demo", action="store_true", help="train and compare two small recipes on phantoms, ten minutes")
    text = "thousands of images each NAME is trained for (default: 10)"
    p.add_argument("--kimg", "--train-kimg", dest="kimg", type=parse_kimg, metavar="N", help=text)
    p.add_argument("--seeds", type=int, default=1, help="training seeds of each NAME")
    p.add_argument("--out", default="bench", help="table, JSONL and page")
    add_shared(p, *generators, *extractors, "--precision", "--no-reals", "--set")

    text = "evaluate any images against real ones: metrics, baselines, alarms"
    p = add_command(commands, _compare, "compare", text, "zoo compare fakes/ reals/ --unseen others/")
    p.add_argument("fakes", help="folder, zip, .npy or .npz")
    p.add_argument("reals", help="the same, of real images")
    p.add_argument("--unseen", help="held-out images of other subjects: a baseline for copies")
    p.add_argument("--fit", choices=("pad", "crop", "stretch"), help="make images square first, with --resolution")
    p.add_argument("--resolution", type=int, help="pixels per side, with --fit")
    p.add_argument("--channels", type=int, choices=(1, 3), help="grey or RGB, with --fit (default: as images are)")
    p.add_argument(
        "--window",
        nargs=2,
        type=float,
        metavar=("BLACK", "WHITE"),
        help="values of black and white in sets that are not of 8 bits, with --fit (default: a line says them)",
    )
    p.add_argument(
        "--no-floors", dest="floors", action="store_false", help="leave out the baselines: unseen, mean, black, noise"
    )
    p.add_argument("--no-intervals", dest="intervals", action="store_false", help="point estimates only: faster")
    add_shared(p, *extractors)

    text = "write one page of one run: samples, nearest training images, curves, alarms"
    p = add_command(commands, _report, "report", text, "zoo report runs/fastgan-r3-64-000")
    add_generator(p, "target")
    p.add_argument("--out", metavar="FILE.html", help="default: report.html next to the generator")
    add_shared(p, *generators, *extractors, "--no-reals")


def _bench(arguments: Namespace) -> None:
    from zoo.evaluation.bench import bench, failed_rows

    keywords = call_keywords(arguments, evaluation=EvaluationOptions)
    trained = {name: keywords.pop(name) for name in ("kimg", "precision", "set")}
    training = TrainOptions(**trained, stop=StopOnSignals())  # its data and device are those of the evaluation
    document = bench(**keywords, training=training)
    if arguments.json:
        print_json(document)
    else:
        for group in document["groups"]:
            _print_group(group, document["metrics"])
        for name in ("report.html", "table.md", "results.jsonl"):
            print_line(f"  {Path(arguments.out) / name}")
    if failures := failed_rows(document):
        sys.stdout.flush()  # the table, which names the reasons, comes before the error where both go to one file
        for line in failures if arguments.json else []:
            print(f"zoo: {one_line(line)}", file=sys.stderr)
        raise ZooError(f"{len(failures)} could not be trained or evaluated; all other results are in {arguments.out}")


def _compare(arguments: Namespace) -> None:
    from zoo.evaluation.compare import as_group, compare

    document = compare(**call_keywords(arguments, evaluation=EvaluationOptions))
    if arguments.json:
        print_json(document)
    else:
        _print_group(as_group(document), document["metrics"])


def _print_group(group: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> None:
    """Print generators of one image shape as a table, then each alarm as a sentence."""
    import shutil

    from zoo.report import table

    width = min(
        shutil.get_terminal_size((TABLE_WIDTH, 24)).columns if sys.stdout.isatty() else TABLE_WIDTH, TABLE_WIDTH
    )
    print_line(group["name"])
    for headings, rows in table.quality_tables(group, metrics, width):
        print_table(headings, rows)
    for line in [table.describe_signs(group), *table.describe_notes(group, metrics)]:
        print_line(line)
    for row in group["rows"]:
        if row["error"]:
            print_line(f"{row['name']}: broken: {row['error']}")
        for reason in row.get("failed", []):
            print_line(f"{row['name']}: a training seed failed: {reason}")
        for alarm in row["alarms"]:
            print_line(f"{row['name']}: {alarm['name']}: {alarm['text']}")
    if not any(row["alarms"] for row in group["rows"]):
        print_line(table.describe_no_alarm(group["rows"]))


def _report(arguments: Namespace) -> None:
    from zoo.evaluation.bench import report

    page = report(**call_keywords(arguments, evaluation=EvaluationOptions))
    print_result(arguments, {"report": str(page)}, str(page))
