"""Commands that use trained generators: ``sample``, ``project``, ``interpolate``, ``ema``, ``weights``."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from zoo.cli.options import GENERATOR, Commands, add_command, add_generator, add_shared, call_keywords
from zoo.cli.output import format_cell, print_json, print_line, print_result, print_table
from zoo.core.errors import ZooError
from zoo.core.files import is_file
from zoo.core.output_place import name_result
from zoo.core.wording import count_of

DEFAULT_COUNT = 64  # images of `zoo sample`


def add_use_commands(commands: Commands) -> None:
    """Add ``sample``, ``project``, ``interpolate``, ``ema`` and ``weights``."""
    p = add_command(commands, _sample, "sample", "sample images from a trained generator", "zoo sample brain-64 -n 36")
    add_generator(p, "source")
    p.add_argument("-n", type=int, help="number of images (default: 64)")
    p.add_argument("--out", help="grid.png, x.npz or a folder (default: <run>-samples.png)")
    p.add_argument("--mix", metavar="ROWSxCOLUMNS", help="generators with styles: a table of coarse by fine styles")
    p.add_argument("--class", dest="label", help="generators trained with classes: sample only this one")
    p.add_argument("--latents", metavar="FILE", help="latents.npz of `zoo project`, or a .npy: images of these")
    add_shared(p, "--seed", "--truncation", "--device")
    p.set_defaults(seed=None)  # 0, but a file of latents has its own

    text = "find the latents whose images are most like given ones"
    p = add_command(commands, _project, "project", text, "zoo project slice.png --generator brain-64")
    p.add_argument("images", nargs="+", metavar="IMAGE", help="image files; or one folder, zip, array or scan")
    p.add_argument("--generator", required=True, metavar="RUN|FILE|NAME", help=GENERATOR)
    p.add_argument("--out", metavar="FOLDER", help="latents, picture and JSON (default: <generator>-projection)")
    p.add_argument("--steps", type=int, default=200, help="steps of Adam")
    p.add_argument("--candidates", type=int, default=512, help="random latents, the best of which is the start")
    p.add_argument("--class", dest="label", help="generators trained with classes (default: of the best candidate)")
    add_shared(p, "--seed", "--device")

    text = "make a GIF of a walk through latent space"
    p = add_command(commands, _interpolate, "interpolate", text, "zoo interpolate fastgan-r3-64 --out walk.gif")
    add_generator(p, "source")
    p.add_argument("--out", default="walk.gif", metavar="FILE.gif", help="the animation")
    for flag, name, default, text in (
        ("-n", "walks", 9, "walks shown side by side"),
        ("--points", "points", 5, "latents that each walk visits before it returns"),
        ("--frames", "frames", 16, "frames from one latent to the next"),
    ):
        p.add_argument(flag, dest=name, type=int, default=default, help=text)
    add_shared(p, "--seed", "--truncation", "--device")

    purpose = "average a run's generators over more or less of it, after training"
    p = add_command(commands, _ema, "ema", purpose, "zoo ema runs/fastgan-r3-64-000 --std 0.05,0.1")
    p.add_argument("run", metavar="RUN", help="a run with ema.snapshot_stds")
    p.add_argument("--std", required=True, metavar="S,...", help="deviation relative to the training, such as 0.05")
    p.add_argument("--kimg", type=float, help="thousands of images after which it is taken (default: all)")
    p.add_argument(
        "--out",
        metavar="FILE.safetensors",
        help="(default: RUN/ema-S.safetensors; with --kimg RUN/ema-S-K.safetensors)",
    )
    add_shared(p, "--device")

    add_command(commands, _weights, "weights", "list pretrained generators that load by name", "zoo weights")


def _sample(arguments: Namespace) -> None:
    from zoo.hub.load import load_generator
    from zoo.hub.save_images import check_output, save_images

    if arguments.latents is not None:
        _sample_latents(arguments)
        return
    seed = arguments.seed or 0
    n, mix, choice = arguments.n, arguments.mix, {"label": arguments.label, "truncation": arguments.truncation}
    if n is not None and n < 1:
        raise ZooError(f"-n {n}: must be at least 1")
    if mix and any(value is not None for value in (n, *choice.values())):
        raise ZooError(
            "--mix: sets the number of images and uses styles as trained; leave out -n, --truncation, --class"
        )
    shape = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", mix or "1x1")
    if shape is None:
        raise ZooError(f"--mix {mix}: must have the form ROWSxCOLUMNS, such as 4x6")
    generator = load_generator(arguments.source, device=arguments.device)
    # In the current folder: pretrained generators have no run folder.
    out = arguments.out or f"{name_result(arguments.source)}-samples.png"
    grid_columns = None
    rows, columns = (int(side[:9]) for side in shape.groups())
    count = (rows + 1) * (columns + 1) if mix else n or DEFAULT_COUNT
    check_output(out, generator.check_count(count), generator.image)  # first: sampling may take minutes
    if mix:
        images = generator.mix(rows, columns, seed)
        grid_columns = columns + 1  # the first column shows the sources of the coarse styles
    else:
        images = generator.sample(count, seed, **choice)
    origin = {"recipe": generator.recipe.name, "seed": seed}
    caption = f"{origin['recipe']}, {generator.nimg / 1000:.1f} kimg, seed {seed}"
    save_images(images, out, columns=grid_columns, metadata=origin, caption=caption)
    out = str(Path(out))
    text = f"{out}: {count_of(len(images), 'image')} of {origin['recipe']} after {generator.nimg:,} images"
    text += f", seed {seed}"
    print_result(arguments, {"out": out, "n": len(images), **origin}, text)


def _sample_latents(arguments: Namespace) -> None:
    from zoo.hub.load import load_generator
    from zoo.hub.projection import load_latents
    from zoo.hub.save_images import check_output, save_images

    if arguments.n is not None or arguments.mix:
        raise ZooError("--latents: sets the number of images; leave out -n, --mix")
    latents = load_latents(arguments.latents)
    if latents.seed is not None and arguments.seed not in (None, latents.seed):
        raise ZooError(f"--seed {arguments.seed}: {arguments.latents} has seed {latents.seed}; leave it out")
    generator = load_generator(arguments.source, device=arguments.device)
    out = arguments.out or f"{name_result(arguments.source)}-samples.png"
    check_output(out, generator.check_count(len(latents.z)), generator.image)
    seed = latents.seed or arguments.seed or 0  # of noise inputs
    label = latents.labels if arguments.label is None and generator.classes else arguments.label
    images = generator.decode(latents.z, seed=seed, label=label, truncation=arguments.truncation)
    origin = {"recipe": generator.recipe.name, "latents": arguments.latents, "seed": seed}
    save_images(images, out, metadata=origin, caption=f"{origin['recipe']}, latents of {arguments.latents}")
    text = f"{Path(out)}: {count_of(len(images), 'image')} of {origin['recipe']}, of the latents in {arguments.latents}"
    print_result(arguments, {"out": str(Path(out)), "n": len(images), **origin}, text)


def _project(arguments: Namespace) -> None:
    from zoo.core.console import Display
    from zoo.hub.load import load_generator

    keywords = call_keywords(arguments)
    source, out, device = (keywords.pop(name) for name in ("generator", "out", "device"))
    folder = Path(out or f"{name_result(source)}-projection")
    if is_file(folder):
        raise ZooError(f"--out {folder}: is a file. Name a folder")
    generator = load_generator(source, device=device)
    projection = generator.project(**keywords, reporter=Display())
    projection.save(folder)
    document = {"out": str(folder), **projection.to_json()}
    if arguments.json:
        print_json(document)
        return
    rows = [[row["name"], format_cell(row["ssim"]), f"{row['mean_error']:.1f}"] for row in document["images"]]
    print_table(["image", "SSIM>", "mean error, of 255>"], rows)
    images = count_of(len(projection), "image")
    print_line(f"{folder}: latents, picture and JSON of {images}; mean SSIM {document['ssim']:.3f}")


def _interpolate(arguments: Namespace) -> None:
    from zoo.hub.load import load_generator
    from zoo.hub.save_images import save_walk

    keywords = call_keywords(arguments)
    source, out, device = (keywords.pop(name) for name in ("source", "out", "device"))
    for flag, name in (("-n", "walks"), ("--points", "points"), ("--frames", "frames")):
        if keywords[name] < 1:
            raise ZooError(f"{flag} {keywords[name]}: must be at least 1")
    generator = load_generator(source, device=device)
    count = save_walk(generator, Path(out), **keywords)
    document = {"out": out, "frames": count, "seed": arguments.seed, "recipe": generator.recipe.name}
    print_result(arguments, document, f"{out}: {count} frames")


def _ema(arguments: Namespace) -> None:
    from zoo.training.posthoc_ema import reconstruct_ema

    try:
        stds = [float(text) for text in arguments.std.split(",")]
    except ValueError:
        raise ZooError(f"--std {arguments.std}: must be numbers separated by commas, such as 0.05,0.1") from None
    if arguments.out and len(stds) > 1:
        raise ZooError("--out: takes one file, and --std lists several; leave it out")
    documents = []
    for std in stds:
        options = {"kimg": arguments.kimg, "out": arguments.out, "device": arguments.device}
        path, error = reconstruct_ema(arguments.run, std, **options)
        documents.append({"out": str(path), "std": std, "error": error})
        if not arguments.json:
            print(f"{path}: power_std {std:g}, error of the profile {error:.1%}")
    if arguments.json:
        print_json(documents)


def _weights(arguments: Namespace) -> None:
    from zoo.hub.pretrained import load_catalogue

    entries = load_catalogue().values()
    if arguments.json:
        return print_json([entry.to_json() for entry in entries])
    if not entries:
        return print("no weights come with this version; train a generator with `zoo train NAME`")
    rows = []
    for entry in entries:
        cells = [
            entry.name,
            entry.alias or "",
            str(entry.resolution),
            str(entry.channels),
            f"{entry.size / 1e6:.1f} MB",
            f"{entry.nimg:,}",
        ]
        extractor = entry.judged.space if entry.judged is not None else None
        # FID and KID of another network's features are on another scale: name the network.
        suffix = "" if extractor in (None, "inception") else f" ({extractor})"
        for name, digits in (("fid", 1), ("kid", 4)):
            cells.append(f"{entry.metrics[name].value:.{digits}f}{suffix}" if name in entry.metrics else "")
        rows.append([*cells, entry.where])
    return print_table(
        ["name", "alias", "pixels>", "channels>", "size>", "images seen>", "FID>", "KID>", "where"], rows
    )
