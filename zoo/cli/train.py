"""Commands that train: ``train``, ``tune``, and ``runs``, which lists what was trained."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from zoo.cli.options import (
    TRAINING_DATA,
    Commands,
    add_command,
    add_recipe,
    add_shared,
    call_keywords,
    parse_kimg,
)
from zoo.cli.output import format_cell, join_alarms, print_json, print_line, print_table
from zoo.cli.signals import StopOnSignals
from zoo.core.errors import ZooError, describe_error
from zoo.core.files import is_file, is_folder
from zoo.core.options import TrainOptions
from zoo.core.wording import count_of


def add_train_commands(commands: Commands) -> None:
    """Add ``train``, ``tune`` and ``runs``."""
    example = "zoo train fastgan-r3-64 --data slices/ --hours 1"
    p = add_command(commands, _train, "train", "train a recipe, or continue a run", example)
    add_recipe(p, "recipe", "a recipe; the same command again continues its run", nargs="?")
    p.add_argument("--resume", metavar="RUN", help="continue this run")
    p.add_argument("--data", help=TRAINING_DATA)
    p.add_argument("--out", default="runs", help="where run folders are made")
    add_shared(p, "--kimg")
    p.add_argument("--epochs", type=float, metavar="N", help="the length as passes over the training images")
    p.add_argument("--hours", type=float, metavar="H", help="stop after so long with everything saved, to continue")
    p.add_argument(
        "--classes",
        nargs="?",
        const="folder",
        metavar="COLUMN",
        help="train with classes: names of folders, or a column of manifest.csv (data.labels)",
    )
    for flag, text in (
        ("--new", "start a new run even if one could be continued"),
        ("--deterministic", "use only algorithms that repeat bit for bit (CUDA: slower)"),
        ("--tensorboard", "short for --logger tensorboard"),
        ("--profile", "measure the parts of a step and compare with the roofline; trains and writes nothing"),
    ):
        p.add_argument(flag, action="store_true", help=text)
    text = "also write the log and sample grids for others: tensorboard, wandb, mlflow, csv"
    p.add_argument("--logger", dest="loggers", action="append", default=[], metavar="NAME,...", help=text)
    add_shared(p, "--device", "--precision", "--set")

    p = add_command(
        commands,
        _tune,
        "tune",
        "multiply one number of a recipe by factors, and train a short run of each",
        "zoo tune dcgan-64 --param optimizer.discriminator.lr --factors 0.25,1,4",
    )
    add_recipe(p, "name", "a recipe; the same command again continues, and repeats no run")
    p.add_argument("--param", required=True, help="such as penalties.r1.weight; schedules too")
    p.add_argument("--factors", default="0.25,1,4", metavar="F,...", help="what it is multiplied by")
    p.add_argument("--kimg", type=parse_kimg, default=10.0, metavar="N", help="thousands of images per run")
    p.add_argument("--data", help=TRAINING_DATA)
    p.add_argument("--out", default="tune", help="runs, curves and JSON")
    add_shared(p, "--device", "--set")

    p = add_command(commands, _runs, "runs", "list what was trained, how far, with the latest numbers", "zoo runs")
    p.add_argument("out", nargs="?", default="runs", help="folder of runs")


def _train(arguments: Namespace) -> None:
    from zoo.core.console import format_training_row
    from zoo.training.run_clock import describe_seconds
    from zoo.training.train import train

    labels = vars(arguments).pop("classes")
    if labels:
        arguments.set = [*arguments.set, _override_labels(arguments.recipe, arguments.resume, labels)]
    if vars(arguments).pop("profile"):
        return _profile(arguments)
    # With --json stdout holds nothing but the document.
    arguments.stop = StopOnSignals()
    announce = sys.stderr if arguments.json else sys.stdout
    run = train(**call_keywords(arguments, options=TrainOptions), announce=announce)
    last = (run.rows() or [{}])[-1]
    if arguments.json:
        return print_json({"run": str(run.path), **run.info, "last": last})
    print_line(f"{run.path}: {last.get('nimg', 0):,} images  {format_training_row(last)}")
    if seconds := describe_seconds(run.info.get("seconds")):
        print_line(f"  {seconds}")
    for name in ("training.gif", "losses.png", "d_accuracy.png", "samples", "generator.safetensors"):
        print_line(f"  {run.path / name}")
    return None


def _override_labels(recipe: str | None, resume: str | None, labels: str) -> str:
    """Return ``--classes`` as an override of ``data.labels``."""
    from zoo.recipes import list_models

    # COLUMN is optional, so argparse takes the recipe of `zoo train --classes NAME` as a column.
    if recipe is None and resume is None and labels in list_models():
        raise ZooError(
            f"--classes {labels}: this is a recipe; write it before the flag, `zoo train {labels} --classes`"
        )
    return f"data.labels={json.dumps(labels)}"  # quoted: YAML would read a column called `no` or `1` as another type


def _profile(arguments: Namespace) -> None:
    from zoo.training.profiling.profiler import PART_TITLES
    from zoo.training.train import profile_recipe

    training = ("resume", "new", "kimg", "epochs", "hours", "deterministic", "tensorboard", "loggers")
    if arguments.recipe is None or any(getattr(arguments, name) for name in training):
        flags = ", ".join(f"--{name.removesuffix('s') if name == 'loggers' else name}" for name in training)
        raise ZooError(f"--profile takes a recipe, and none of {flags}: it trains nothing")
    keywords = {name: getattr(arguments, name) for name in ("data", "device", "precision", "set")}
    profile, speed = profile_recipe(arguments.recipe, **keywords)
    settings = speed.to_json()
    if arguments.json:
        return print_json({"recipe": arguments.recipe, "speed": settings, **profile.to_json()})
    rows = []
    for key, seconds in sorted(profile.parts.items(), key=lambda item: -item[1]):
        rows.append([PART_TITLES[key], f"{1000 * seconds:.2f}", f"{seconds / profile.profiled:.1%}"])
    rows.append(["a step, sum of its parts", f"{1000 * profile.profiled:.2f}", "100.0%"])
    print_table(["part", "ms>", "share>"], rows)
    step, rates = profile.step, profile.rates
    batch = count_of(profile.batch, "image")
    print(f"a step without timers: {1000 * step:.2f} ms for {batch}, {profile.batch / step:,.1f} img/s")
    threads = settings.pop("threads")
    enabled = [value if name == "precision" else name for name, value in settings.items() if value]
    if threads is not None:
        enabled.append(count_of(threads, "thread"))
    print(f"speed settings: {', '.join(enabled)}")
    print(
        f"roofline: {1000 * profile.floor:.2f} ms, {profile.floor / step:.0%} of the step: "
        f"{profile.work.macs / 1e9:.2f} billion multiply-adds per image at {rates.fp32 / 1e9:,.0f} (fp32) or "
        f"{rates.bf16 / 1e9:,.0f} (bf16) billion per second, and bytes at {rates.copy / 1e9:.1f} GB/s, as measured now"
    )
    return None


def _tune(arguments: Namespace) -> None:
    from zoo.training.sweep import best_factors, have_not_learned, tune

    arguments.stop = StopOnSignals()
    document = tune(**call_keywords(arguments, options=TrainOptions))
    if arguments.json:
        return print_json(document)
    headings = ["factor>", f"{document['param']}>", "D loss>", "G loss>", "D(x) - D(G(z))>"]
    headings += ["SSIM nearest / real>", "SSIM pairwise / real>", f"{_score_title(document)}>", "alarms"]
    print_table(headings, [_tune_cells(row) for row in document["rows"]])
    best, mean = best_factors(document), document["mean_image"]
    if len(best) == 1:
        print(f"nearest to real images: x{best[0]['factor']:g}")
    elif best:
        factors = ", ".join(f"x{row['factor']:g}" for row in best)
        print(f"no difference between {factors}: within what two training seeds differ by")
    elif have_not_learned(document):
        print(f"none has learned after {document['kimg']:g} kimg: all are untrained. Give more with --kimg.")
    if best and best[0]["best"]["metric"] == "ssim" and mean is not None and mean < best[0]["best"]["value"]:
        print(f"none has learned much yet: the mean image is nearer ({mean:.3f}). Give more with --kimg.")
    print_line(f"  {document['picture']}")
    return None


def _score_title(document: dict[str, Any]) -> str:
    """Return what the best validations of a sweep are measured by; lower is better."""
    titles = {"ssim": "SSIM distance from real", "fid": "FID", "kid": "KID"}
    metrics = dict.fromkeys(row["best"]["metric"] for row in document["rows"] if row["best"])
    return " / ".join(titles.get(metric, metric) for metric in metrics) or titles["ssim"]


def _tune_cells(row: dict[str, Any]) -> list[str]:
    value = row["value"] if isinstance(row["value"], list) else f"{row['value']:g}"  # a list is a schedule
    cells = [f"x{row['factor']:g}", str(value), *(format_cell(row[key]) for key in ("loss_d", "loss_g", "gap"))]
    for fake, real in (("ssim_nearest", "ssim_nearest_unseen"), ("ssim_pairwise", "ssim_pairwise_real")):
        cells.append(f"{format_cell(row[fake])} / {format_cell(row[real])}")
    cells.append(f"{row['best']['value']:.3f}" if row["best"] else "")
    return [*cells, row["error"] or join_alarms(row["alarms"])]


def _runs(arguments: Namespace) -> None:
    from zoo.training.run_folder import INFO_NAME, Run, find_runs

    if not is_folder(Path(arguments.out)):
        raise ZooError(f"no folder {arguments.out}; `zoo train NAME` makes runs in ./runs")
    folder = Path(arguments.out)
    runs = [Run(folder)] if is_file(folder / INFO_NAME) else find_runs(folder)
    rows = [_summarise_run(run.path) for run in runs]
    if not rows and not arguments.json:
        return print_line(f"no runs in {folder}; `zoo train NAME` makes them")
    if arguments.json:
        return print_json(rows)
    headings = ["run", "status", "kimg>", "of>", "loss D>", "loss G>", "SSIM nearest>", "SSIM pairwise>", "hours>"]
    return print_table([*headings, "alarms"], [_run_cells(row) for row in rows])


def _summarise_run(path: Path) -> dict[str, Any]:
    """Return what ``zoo runs --json`` lists of one run; a damaged one has only a status."""
    from zoo.training.run_folder import open_run

    try:
        run = open_run(path)
        info, log = run.info, run.rows()
    except (ZooError, OSError) as error:
        return {"run": str(path), "status": f"unreadable: {describe_error(error)}"}
    # A run that was killed still says "running"; no process holds its lock.
    status = "stopped" if info["status"] == "running" and not run.locked() else info["status"]
    # Validation runs more rarely than rows are logged: its latest values stand in an earlier row.
    validated: dict[str, Any] = next((row for row in reversed(log) if "ssim_nearest" in row), {})
    last = {**validated, **log[-1]} if log else {}
    keys = ("recipe", "nimg", "kimg", "data_description", "device")
    return {"run": str(path), "status": status, **{key: info.get(key) for key in keys}, "last": last}


def _run_cells(row: dict[str, Any]) -> list[str]:
    last = row.get("last", {})
    # The log can be ahead of run.json, which is written with checkpoints.
    kimg = max(last.get("nimg", 0), row.get("nimg") or 0) / 1000
    cells = [row["run"], row["status"], f"{kimg:.1f}", f"{row.get('kimg') or 0:g}"]
    cells += [format_cell(last.get(key)) for key in ("loss_d", "loss_g", "ssim_nearest", "ssim_pairwise")]
    return [*cells, f"{last['time'] / 3600:.2f}" if "time" in last else "", join_alarms(last.get("alarms", []))]
