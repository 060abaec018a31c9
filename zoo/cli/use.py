"""Commands that use trained generators: ``sample``, ``interpolate``, ``weights``."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from zoo.cli.options import Commands, add_command, add_generator, add_shared, call_keywords
from zoo.cli.output import print_json, print_result, print_table
from zoo.core.errors import ZooError


def add_use_commands(commands: Commands) -> None:
    """Add ``sample``, ``interpolate`` and ``weights``."""
    p = add_command(
        commands, _sample, "sample", "sample images from a trained generator", "zoo sample fastgan-r3-64 -n 36"
    )
    add_generator(p, "source")
    p.add_argument("-n", type=int, help="number of images (default: 64)")
    p.add_argument("--out", help="grid.png, x.npz or a folder (default: <run>-samples.png)")
    p.add_argument("--mix", metavar="ROWSxCOLUMNS", help="generators with styles: a table of coarse by fine styles")
    p.add_argument("--class", dest="label", help="generators trained with classes: sample only this one")
    add_shared(p, "--seed", "--truncation", "--device")

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

    add_command(commands, _weights, "weights", "list pretrained generators that load by name", "zoo weights")


def _sample(arguments: Namespace) -> None:
    from zoo.hub.load import load_generator
    from zoo.hub.save_images import save_images

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
    grid_columns = None
    if mix:
        rows, columns = int(shape[1]), int(shape[2])
        images = generator.mix(rows, columns, arguments.seed)
        grid_columns = columns + 1  # the first column shows the sources of the coarse styles
    else:
        images = generator.sample(n or 64, arguments.seed, **choice)
    # In the current folder: pretrained generators have no run folder.
    out = Path(arguments.out or f"{_stem(arguments.source)}-samples.png")
    origin = {"recipe": generator.recipe.name, "seed": arguments.seed}
    caption = f"{origin['recipe']}, {generator.nimg / 1000:.1f} kimg, seed {arguments.seed}"
    save_images(images, out, columns=grid_columns, metadata=origin, caption=caption)
    text = f"{out}: {len(images)} images of {origin['recipe']} after {generator.nimg:,} images, seed {arguments.seed}"
    print_result(arguments, {"out": str(out), "n": len(images), **origin}, text)


def _stem(source: str) -> str:
    """Return the run's name, also of a file inside its folder."""
    path = Path(source)
    return path.parent.name or path.stem if path.suffix == ".safetensors" else path.name


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
    return print_table(["name", "pixels>", "channels>", "size>", "images seen>", "FID>", "KID>", "where"], rows)
