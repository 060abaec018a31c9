"""The command line: a thin caller of the package. Only what a command needs is imported, when it runs."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for what the user can mend, 130 or 143 after a signal."""
    from zoo.core.errors import Interrupted, ZooError, suggest

    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unknown {unknown[0]}{suggest(unknown[0].partition('=')[0], options.parser.flags())}")
    try:
        options.command(options)
        if sys.stdout is not None:  # which a shell may have closed
            sys.stdout.flush()
    except ZooError as error:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"
        print(f"zoo: {'process ' + os.environ['RANK'] + ': ' if several else ''}{error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"zoo: {stop}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `zoo list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still holds goes nowhere
    return 0


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest match."""

    def error(self, message: str) -> NoReturn:
        from zoo.core.errors import suggest

        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            choices = re.findall(r"[\w-]+", wrong[2])
            message = f"no {wrong[1]!r}{suggest(wrong[1], choices)}; one of {', '.join(choices)}"
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)

    def flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]


class _Version(argparse.Action):
    """Prints the version, looking it up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        from zoo.core.version import version

        print(f"zoo {version()}")
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="zoo", description="A model zoo of GANs for small, mostly grey, mostly medical image sets.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(function: Callable[[argparse.Namespace], None], name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(command=function, parser=made)
        return made

    p = command(_list, "list", "the recipes there are")
    p.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="a shell pattern, such as 'dcgan*'")
    _json(p)

    p = command(_show, "show", "a resolved recipe and what its networks are made of")
    p.add_argument("name", metavar="NAME|FILE")
    _set(p)
    _json(p)

    p = command(_train, "train", "train a recipe, or go on with a run")
    p.add_argument("name", nargs="?", metavar="NAME|FILE", help="a recipe; the same command again continues its run")
    p.add_argument("--resume", metavar="RUN", help="go on with this run")
    p.add_argument(
        "--data", metavar="PATH", help="folder, zip, .npy, .npz, or phantoms[:SUBJECTS] (default: $ZOO_DATA)"
    )
    p.add_argument("--out", default="runs", metavar="DIR", help="where run folders are made (default: runs)")
    p.add_argument("--kimg", type=float, metavar="N", help="thousands of images to train for")
    p.add_argument(
        "--classes",
        nargs="?",
        const="folder",
        metavar="COLUMN",
        help="tell networks classes: folders' names, or a column of manifest.csv (data.labels)",
    )
    _device(p)
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"))
    p.add_argument("--new", action="store_true", help="start afresh even if a run could be continued")
    p.add_argument(
        "--deterministic", action="store_true", help="only algorithms that repeat bit for bit (CUDA: slower)"
    )
    p.add_argument("--tensorboard", action="store_true", help="write scalars for TensorBoard too")
    p.add_argument(
        "--profile",
        action="store_true",
        help="say where a step's time goes, and its floor; trains nothing, writes nothing",
    )
    _set(p)
    _json(p)

    p = command(_tune, "tune", "multiply one number of a recipe by some factors, and train a short run each")
    p.add_argument(
        "name", metavar="NAME|FILE", help="a recipe; the same command again goes on, and trains nothing twice"
    )
    p.add_argument("--param", required=True, metavar="PATH", help="such as penalties.r1.weight; schedules too")
    p.add_argument("--factors", default="0.25,1,4", metavar="F,...", help="(default: 0.25,1,4)")
    p.add_argument("--kimg", type=float, default=10.0, metavar="N", help="thousands of images a run (default: 10)")
    p.add_argument(
        "--data", metavar="PATH", help="folder, zip, .npy, .npz, or phantoms[:SUBJECTS] (default: $ZOO_DATA)"
    )
    p.add_argument("--out", default="tune", metavar="DIR", help="runs, curves and JSON (default: tune)")
    _device(p)
    _set(p)
    _json(p)

    p = command(_runs, "runs", "what was trained, how far, with the last numbers")
    p.add_argument("out", nargs="?", default="runs", metavar="DIR")
    _json(p)

    p = command(_sample, "sample", "images from a trained generator")
    p.add_argument("source", metavar="RUN|FILE|NAME")
    p.add_argument("-n", type=int, help="how many (default: 64)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", metavar="PATH", help="grid.png, x.npz or a folder (default: <run>-samples.png)")
    p.add_argument(
        "--truncation", type=float, metavar="PSI", help="style generators: 0 is the mean image, 1 as trained"
    )
    p.add_argument("--mix", metavar="ROWSxCOLUMNS", help="style generators: a table of coarse by fine styles")
    p.add_argument("--class", dest="label", metavar="NAME", help="of generators trained with classes: one of them")
    _device(p)
    _json(p)

    p = command(_interpolate, "interpolate", "a walk through latent space as a GIF")
    p.add_argument("source", metavar="RUN|FILE|NAME")
    p.add_argument("--out", default="walk.gif", metavar="FILE.gif")
    p.add_argument("-n", type=int, default=9, help="walks shown side by side (default: 9)")
    p.add_argument("--points", type=int, default=5, help="latents each walk visits before it returns (default: 5)")
    p.add_argument("--frames", type=int, default=16, help="frames from one latent to the next (default: 16)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--truncation", type=float, metavar="PSI")
    _device(p)
    _json(p)

    p = command(_bench, "bench", "train what is not trained, and compare generators: table, JSONL, one HTML page")
    p.add_argument("targets", nargs="*", metavar="RUN|NAME|FILE", help="default: all in runs, else a small set")
    p.add_argument("--data", metavar="PATH", help="images to judge by (default: those the runs were trained on)")
    p.add_argument("--train-kimg", type=float, metavar="N", help="thousands of images each NAME is trained for")
    p.add_argument("--seeds", type=int, default=1, metavar="K", help="training seeds of each NAME (default: 1)")
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="of training")
    _judged(p)
    p.add_argument("--samples", type=int, metavar="N", help="fakes a generator (default: 2000; FID depends on it)")
    p.add_argument("--runs", default="runs", metavar="DIR", help="where runs are looked for (default: runs)")
    p.add_argument("--out", default="bench", metavar="DIR", help="table, JSONL and page (default: bench)")
    p.add_argument("--no-reals", action="store_true", help="leave real images out of the page")
    _device(p)
    _set(p)
    _json(p)

    p = command(_report, "report", "one page of one run: samples, nearest training images, curves, figures, alarms")
    p.add_argument("source", metavar="RUN|FILE|NAME")
    p.add_argument("--data", metavar="PATH", help="images to judge by (default: those it was trained on)")
    _judged(p)
    p.add_argument("--samples", type=int, metavar="N", help="fakes to judge (default: 2000; FID depends on it)")
    p.add_argument("--runs", default="runs", metavar="DIR", help="where runs are looked for (default: runs)")
    p.add_argument("--out", metavar="FILE.html", help="default: report.html beside the generator")
    p.add_argument("--no-reals", action="store_true", help="leave real images out of the page")
    _device(p)
    _json(p)

    p = command(_weights, "weights", "trained generators that load by name, and where they are")
    _json(p)

    p = command(_publish, "publish", "judge a generator and write its weights, model card and figures for others")
    p.add_argument("source", metavar="RUN|FILE")
    p.add_argument("--to", required=True, metavar="FOLDER|hf:OWNER/NAME", help="the folder to make, or a repository")
    p.add_argument("--name", metavar="NAME", help="of the model (default: its recipe's)")
    p.add_argument("--best", action="store_true", help="take generator-best.safetensors of the run")
    p.add_argument("--force", action="store_true", help="replace what was published there before")
    p.add_argument("--data", metavar="PATH", help="images to judge by (default: those it was trained on)")
    p.add_argument("--samples", type=int, metavar="N", help="fakes to judge (default: 2000; FID depends on it)")
    _spaces(p)
    p.add_argument(
        "--data-statement", metavar="TEXT|FILE", help="on the training images (default: what the run says of them)"
    )
    p.add_argument("--licence", metavar="TEXT|FILE", help="under which terms the weights may be used")
    p.add_argument(
        "--despite-alarm",
        action="append",
        default=[],
        metavar="memorisation",
        help="publish a generator that copies training images all the same",
    )
    p.add_argument("--runs", default="runs", metavar="DIR", help="where runs are looked for (default: runs)")
    _device(p)
    _json(p)

    p = command(_compare, "compare", "judge any set of images against real ones: figures, floors, alarms")
    p.add_argument("fakes", metavar="FAKES", help="folder, zip, .npy or .npz")
    p.add_argument("reals", metavar="REALS")
    p.add_argument("--unseen", metavar="MORE_REALS", help="real images of other subjects: what copies are told from")
    _judged(p)
    p.add_argument("--fit", choices=("pad", "crop", "stretch"), help="make images square first, with --resolution")
    p.add_argument("--resolution", type=int, metavar="R", help="pixels a side, with --fit")
    p.add_argument("--channels", type=int, choices=(1, 3), help="grey or RGB, with --fit (default: as images are)")
    p.add_argument("--no-floors", action="store_true", help="leave out unseen, mean, black and noise images")
    p.add_argument("--no-intervals", action="store_true", help="point estimates only: faster")
    _device(p)
    _json(p)

    p = command(_nothing, "data", "look at images before training on them")
    data = p.add_subparsers(metavar="check", required=True)
    p = data.add_parser("check", help="counts, sizes, intensities, duplicates, unreadable files, a contact sheet")
    p.set_defaults(command=_data_check, parser=p)
    p.add_argument("path", metavar="PATH", help="folder, zip, .npy or .npz")
    p.add_argument("--out", metavar="DIR", help="where pictures are written (default: data-check-<name>)")
    p.add_argument("--resolution", type=int, default=64, metavar="R", help="pixels a side on the contact sheet")
    _json(p)
    return parser


def _list(options: argparse.Namespace) -> None:
    from zoo.core.errors import ZooError, suggest
    from zoo.recipes import list_models, summarise_recipes

    rows = list(summarise_recipes(options.pattern))
    if not rows:
        raise ZooError(f"no recipe matches {options.pattern!r}{suggest(options.pattern, list_models())}")
    if options.json:
        return _print_json(rows)
    lines = []
    for row in rows:
        counts = (f"{row[key]:,}" if row[key] else "" for key in ("params_g", "params_d"))
        shape = (str(row[key]) for key in ("resolution", "channels", "latent"))
        lines.append([row["name"], row["arch"], *shape, *counts, row["source"]])
    return _print_table(["recipe", "architecture", "pixels>", "channels>", "latent>", "G>", "D>", "source"], lines)


def _show(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from zoo import recipes
    from zoo.recipes import summarise_recipe

    resolved = recipes.load_recipe(options.name, options.set)
    networks = dict(zip(("generator", "discriminator"), summarise_recipe(resolved), strict=True))
    if options.json:
        layers = {side: asdict(network) for side, network in networks.items()}
        return _print_json({"recipe": resolved.to_dict(), "digest": resolved.digest, **layers})
    print(f"# {resolved.name}, digest {resolved.digest}\n{resolved.to_yaml()}")
    for side, network in networks.items():
        lines = [
            [x.name, x.kind, " x ".join(map(str, x.output)), f"{x.parameters:,}", f"{x.macs:,}"] for x in network.layers
        ]
        total = ["all, for one image", "", "", f"{network.parameters:,}", f"{network.macs:,}"]
        _print_table([f"{side} layer", "kind", "output", "parameters>", "multiply-adds>"], lines, total=total)
    return None


def _train(options: argparse.Namespace) -> None:
    from zoo.core.console import format_training_row
    from zoo.training.train import train

    if options.classes:
        import json

        from zoo.core.errors import ZooError
        from zoo.recipes import list_models

        if options.name is None and options.resume is None and options.classes in list_models():
            raise ZooError(f"--classes {options.classes}: is a recipe, which stands before: zoo train NAME --classes")
        options.set = [*options.set, f"data.labels={json.dumps(options.classes)}"]
    if options.profile:
        return _profile(options)

    run = train(
        options.name,
        data=options.data,
        resume=options.resume,
        out=options.out,
        kimg=options.kimg,
        device=options.device,
        precision=options.precision,
        new=options.new,
        deterministic=options.deterministic,
        tensorboard=options.tensorboard,
        set=options.set,
        announce=sys.stderr if options.json else sys.stdout,
    )
    last = (run.rows() or [{}])[-1]
    if options.json:
        return _print_json({"run": str(run.path), **run.info, "last": last})
    print(f"{run.path}: {last.get('nimg', 0):,} images  {format_training_row(last)}")
    for name in ("training.gif", "losses.png", "d_accuracy.png", "samples", "generator.safetensors"):
        print(f"  {run.path / name}")
    return None


def _profile(options: argparse.Namespace) -> None:
    from zoo.core.errors import ZooError
    from zoo.training.profiling.profiler import PART_TITLES
    from zoo.training.train import profile_recipe

    if options.name is None or options.resume or options.new or options.kimg:
        raise ZooError("--profile takes a recipe, and neither --resume, --new nor --kimg: it trains nothing")
    if options.deterministic or options.tensorboard:
        raise ZooError("--profile: takes neither --deterministic nor --tensorboard")
    found, speed = profile_recipe(
        options.name, data=options.data, device=options.device, precision=options.precision, set=options.set
    )
    if options.json:
        return _print_json({"recipe": options.name, "speed": speed.to_json(), **found.to_json()})
    lines = [
        [PART_TITLES[key], f"{1000 * took:.2f}", f"{took / found.profiled:.1%}"]
        for key, took in sorted(found.parts.items(), key=lambda item: -item[1])
    ]
    total = ["a step, part by part", f"{1000 * found.profiled:.2f}", "100.0%"]
    _print_table(["part", "ms>", "share>"], lines, total=total)
    on = [name for name, value in speed.to_json().items() if value is True]
    print(f"left alone: {1000 * found.step:.2f} ms a step of {found.batch}, {found.batch / found.step:,.1f} img/s")
    print(f"switches: {speed.precision}, {', '.join(on)}")
    rate = found.rates
    print(
        f"floor: {1000 * found.floor:.2f} ms, {found.floor / found.step:.0%} of the step: {found.work.macs / 1e9:.2f} "
        f"billion multiply-adds an image at {rate.fp32 / 1e9:,.0f} (fp32) or {rate.bf16 / 1e9:,.0f} (bf16) billion a "
        f"second, and bytes at {rate.copy / 1e9:.1f} GB/s, as measured now"
    )
    return None


def _tune(options: argparse.Namespace) -> None:
    from zoo.training.sweep import best_factor, tune

    document = tune(
        options.name,
        param=options.param,
        factors=options.factors,
        kimg=options.kimg,
        data=options.data,
        out=options.out,
        device=options.device,
        set=options.set,
    )
    if options.json:
        return _print_json(document)
    lines = []
    for row in document["rows"]:
        value = row["value"] if isinstance(row["value"], list) else f"{row['value']:g}"
        figures = [_figure(row[key]) for key in ("loss_d", "loss_g", "gap")]
        pairs = [("ssim_nearest", "ssim_nearest_unseen"), ("ssim_pairwise", "ssim_pairwise_real")]
        figures += [" / ".join(_figure(row[key]) for key in pair) for pair in pairs]
        kept = f"{row['best']['metric']} {row['best']['value']:.3f}" if row["best"] else ""
        rang = ", ".join(dict.fromkeys(alarm["name"] for alarm in row["alarms"]))
        lines.append([f"x{row['factor']:g}", str(value), *figures, kept, row["error"] or rang])
    headings = ["factor>", f"{document['param']}>", "D loss>", "G loss>", "D(x) - D(G(z))>"]
    headings += ["SSIM nearest / real>", "SSIM pairwise / real>", "best look>", "alarms"]
    _print_table(headings, lines)
    if (row := best_factor(document)) is not None:
        print(f"nearest to real images: x{row['factor']:g}")
    print(f"  {document['picture']}")
    return None


def _runs(options: argparse.Namespace) -> None:
    from pathlib import Path

    from zoo.core.errors import ZooError
    from zoo.training.run_folder import find_runs, open_run

    if not Path(options.out).is_dir():
        raise ZooError(f"no folder {options.out}; `zoo train NAME` makes runs in ./runs")
    rows: list[dict[str, Any]] = []
    for run in find_runs(Path(options.out)):
        try:
            info = open_run(run.path).info
        except (ZooError, ValueError) as error:
            rows.append({"run": str(run.path), "status": f"unreadable: {error}"})
            continue
        log = run.rows()
        judged: dict[str, Any] = next((row for row in reversed(log) if "ssim_nearest" in row), {})
        status = "stopped" if info["status"] == "running" and not run.locked() else info["status"]
        keys = ("recipe", "nimg", "kimg", "data_description", "device")
        last = {**(log[-1] if log else {}), **judged} if log else {}
        rows.append({"run": str(run.path), "status": status, **{key: info.get(key) for key in keys}, "last": last})
    if options.json:
        return _print_json(rows)
    lines = []
    for row in rows:
        last = row.get("last", {})
        figures = [_figure(last.get(key)) for key in ("loss_d", "loss_g", "ssim_nearest", "ssim_pairwise")]
        rang = ", ".join(dict.fromkeys(alarm["name"] for alarm in last.get("alarms", [])))
        hours = f"{last['time'] / 3600:.2f}" if "time" in last else ""
        done, total = (f"{max(last.get('nimg', 0), row.get('nimg') or 0) / 1000:.1f}", f"{row.get('kimg') or 0:g}")
        lines.append([row["run"], row["status"], done, total, *figures, hours, rang])
    headings = ["run", "status", "kimg>", "of>", "loss D>", "loss G>", "SSIM nearest>", "SSIM pairwise>", "hours>"]
    headings.append("alarms")
    return _print_table(headings, lines)


def _sample(options: argparse.Namespace) -> None:
    from pathlib import Path

    from zoo.core.errors import ZooError
    from zoo.hub.load import load_generator
    from zoo.hub.save_images import save_images

    if options.n is not None and options.n < 1:
        raise ZooError(f"-n {options.n}: must be at least 1")
    if options.mix and (options.n is not None or options.truncation is not None or options.label is not None):
        raise ZooError(
            "--mix: says itself how many images there are, as trained; leave out -n, --truncation and --class"
        )
    shape = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", options.mix or "1x1")
    if shape is None:
        raise ZooError(f"--mix {options.mix}: must read ROWSxCOLUMNS, such as 4x6")
    generator = load_generator(options.source, device=options.device)
    columns = None
    if options.mix:
        rows, columns = int(shape[1]), int(shape[2]) + 1
        images = generator.mix(rows, columns - 1, options.seed)
    else:
        images = generator.sample(options.n or 64, options.seed, label=options.label, truncation=options.truncation)
    out = Path(options.out or f"{_stem(options.source)}-samples.png")
    save_images(images, out, columns=columns, metadata={"recipe": generator.recipe.name, "seed": options.seed})
    if options.json:
        return _print_json({"out": str(out), "n": len(images), "seed": options.seed, "recipe": generator.recipe.name})
    print(
        f"{out}: {len(images)} images of {generator.recipe.name} after {generator.nimg:,} images, seed {options.seed}"
    )
    return None


def _interpolate(options: argparse.Namespace) -> None:
    from pathlib import Path

    from zoo.core.errors import ZooError
    from zoo.hub.load import load_generator
    from zoo.hub.save_images import save_walk

    for name in ("n", "points", "frames"):
        if getattr(options, name) < 1:
            raise ZooError(f"--{name} {getattr(options, name)}: must be at least 1")
    generator = load_generator(options.source, device=options.device)
    count = save_walk(
        generator,
        Path(options.out),
        walks=options.n,
        points=options.points,
        frames=options.frames,
        seed=options.seed,
        truncation=options.truncation,
    )
    if options.json:
        return _print_json({"out": options.out, "frames": count, "seed": options.seed, "recipe": generator.recipe.name})
    print(f"{options.out}: {count} frames")
    return None


def _bench(options: argparse.Namespace) -> None:
    from pathlib import Path

    from zoo.core.errors import ZooError
    from zoo.evaluation.bench import bench, failed_rows

    document = bench(
        options.targets,
        data=options.data,
        train_kimg=options.train_kimg,
        seeds=options.seeds,
        metrics=options.metrics,
        spaces=options.spaces,
        weights=options.weights,
        samples=options.samples,
        out=options.out,
        runs=options.runs,
        device=options.device,
        precision=options.precision,
        set=options.set,
        no_reals=options.no_reals,
    )
    if options.json:
        _print_json(document)
    else:
        for group in document["groups"]:
            _print_group(group, document["metrics"])
        for name in ("report.html", "table.md", "results.jsonl"):
            print(f"  {Path(options.out) / name}")
    if lines := failed_rows(document):
        sys.stdout.flush()
        for line in lines:
            print(f"zoo: {line}", file=sys.stderr)
        raise ZooError(f"{len(lines)} could not be judged or trained; all else is in {options.out}")


def _report(options: argparse.Namespace) -> None:
    from zoo.evaluation.bench import report

    page = report(
        options.source,
        data=options.data,
        metrics=options.metrics,
        spaces=options.spaces,
        weights=options.weights,
        samples=options.samples,
        out=options.out,
        runs=options.runs,
        device=options.device,
        no_reals=options.no_reals,
    )
    if options.json:
        return _print_json({"report": str(page)})
    print(page)
    return None


def _weights(options: argparse.Namespace) -> None:
    from zoo.hub.pretrained import load_catalogue

    entries = load_catalogue().values()
    if options.json:
        return _print_json([entry.to_json() for entry in entries])
    if not entries:
        return print("no weights come with this version; `zoo train NAME` makes some")
    lines = []
    for entry in entries:
        counts = [str(entry.resolution), str(entry.channels), f"{entry.size / 1e6:.1f} MB", f"{entry.nimg:,}"]
        figures = [
            f"{entry.metrics[name].value:.{digits}f}" if name in entry.metrics else ""
            for name, digits in (("fid", 1), ("kid", 4))
        ]
        space = entry.judged.space if entry.judged is not None else None
        if space not in (None, "inception"):  # of another network's features, figures are other ones
            figures = [f"{figure} ({space})" if figure else "" for figure in figures]
        lines.append([entry.name, *counts, *figures, entry.where])
    return _print_table(["name", "pixels>", "channels>", "size>", "images seen>", "FID>", "KID>", "where"], lines)


def _publish(options: argparse.Namespace) -> None:
    from zoo.evaluation.publish import publish

    place = publish(
        options.source,
        options.to,
        name=options.name,
        best=options.best,
        force=options.force,
        data=options.data,
        samples=options.samples,
        spaces=options.spaces,
        weights=options.weights,
        data_statement=options.data_statement,
        licence=options.licence,
        despite_alarm=options.despite_alarm,
        runs=options.runs,
        device=options.device,
    )
    if options.json:
        return _print_json({"published": place})
    print(place)
    return None


def _compare(options: argparse.Namespace) -> None:
    from zoo.evaluation.compare import as_group, compare

    found = compare(
        options.fakes,
        options.reals,
        unseen=options.unseen,
        metrics=options.metrics,
        spaces=options.spaces,
        weights=options.weights,
        fit=options.fit,
        resolution=options.resolution,
        channels=options.channels,
        floors=not options.no_floors,
        intervals=not options.no_intervals,
        device=options.device,
    )
    if options.json:
        return _print_json(found)
    return _print_group(as_group(found), found["metrics"])


def _print_group(group: Any, metrics: Any) -> None:
    """A table of figures, then every alarm in words."""
    import shutil

    from zoo.report import table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    print(group["name"])
    for headings, rows in table.fitting(group, metrics, width):
        _print_table(headings, rows)
    for row in group["rows"]:
        for alarm in row["alarms"]:
            print(f"{row['name']}: {alarm['name']}: {alarm['text']}")


def _data_check(options: argparse.Namespace) -> None:
    from pathlib import Path

    from rich.console import Console

    from zoo.data.check import check_images, print_check_report

    report = check_images(options.path, out=Path(options.out) if options.out else None, resolution=options.resolution)
    if options.json:
        return _print_json(report.to_json())
    print_check_report(report, Console())
    return None


def _nothing(options: argparse.Namespace) -> None:
    raise AssertionError("a subcommand is required")


def _set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe: train.batch=32, discriminator=lean-256",
    )


def _judged(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        action="append",
        metavar="NAME,...",
        help="fid, kid, ...; or groups: features, ssim, copies, all (default: nearly all)",
    )
    _spaces(parser)


def _spaces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spaces",
        action="append",
        metavar="NAME,...",
        help="feature spaces: inception, dinov2, timm:MODEL, random; the first ranks (default: inception,dinov2)",
    )
    parser.add_argument(
        "--weights", metavar="PATH", help="the feature network's weights, or a folder of them (default: $ZOO_WEIGHTS)"
    )


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def _print_table(headings: list[str], rows: list[list[str]], *, total: list[str] | None = None) -> None:
    """A plain table, a line a row; headings that end in ``>`` are of right-aligned columns.

    The last column gives way where a terminal is narrow; elsewhere nothing is cut to a width that nobody has.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    every = [headings, *rows, *([total] if total else [])]
    for index, heading in enumerate(headings):
        width = max(len(row[index]) for row in every) if index < len(headings) - 1 else None
        justify: Any = "right" if heading.endswith(">") else "left"
        table.add_column(heading.rstrip(">"), justify=justify, no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*row)
    if total:
        table.add_section()
        table.add_row(*total)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _stem(source: str) -> str:
    from pathlib import Path

    path = Path(source)
    return path.parent.name or path.stem if path.suffix == ".safetensors" else path.name
