"""Commands that look at recipes and images: ``list``, ``show``, ``data check``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from zoo.cli.options import Commands, add_command, add_shared, call_keywords
from zoo.cli.output import print_json, print_table


def add_look_commands(commands: Commands) -> None:
    """Add ``list``, ``show`` and ``data check``."""
    p = add_command(commands, _list, "list", "list the recipes")
    p.add_argument("pattern", nargs="?", default="*", help="a shell pattern, such as 'dcgan*'")

    p = add_command(commands, _show, "show", "show a resolved recipe and the layers of its networks")
    p.add_argument("name", metavar="NAME|FILE")
    add_shared(p, "--set")

    data = commands.add_parser("data", help="check images before training", description="Check images before training.")
    p = add_command(
        data.add_subparsers(metavar="check", required=True),
        _data_check,
        "check",
        "counts, sizes, intensities, duplicates, unreadable files, a contact sheet",
    )
    p.add_argument("path", help="folder, zip, .npy or .npz")
    p.add_argument("--out", type=Path, help="where images are written (default: data-check-<name>)")
    p.add_argument("--resolution", type=int, default=64, help="pixels per side on the contact sheet")


def _list(arguments: Namespace) -> None:
    from zoo.core.errors import ZooError, suggest
    from zoo.recipes import list_models, summarise_recipes

    recipes = list(summarise_recipes(arguments.pattern))
    if not recipes:
        raise ZooError(f"no recipe matches {arguments.pattern!r}{suggest(arguments.pattern, list_models())}")
    if arguments.json:
        return print_json(recipes)
    rows = []
    for recipe in recipes:
        counts = [f"{recipe[key]:,}" if recipe[key] else "" for key in ("params_g", "params_d")]
        shape = [str(recipe[key]) for key in ("resolution", "channels", "latent")]
        rows.append([recipe["name"], recipe["arch"], *shape, *counts, recipe["source"]])
    return print_table(["recipe", "architecture", "pixels>", "channels>", "latent>", "G>", "D>", "source"], rows)


def _show(arguments: Namespace) -> None:
    from zoo.recipes import load_recipe, summarise_recipe

    recipe = load_recipe(arguments.name, arguments.set)
    generator, discriminator = summarise_recipe(recipe)
    networks = {"generator": generator, "discriminator": discriminator}
    if arguments.json:
        layers = {side: asdict(network) for side, network in networks.items()}
        return print_json({"recipe": recipe.to_dict(), "digest": recipe.digest, **layers})
    print(f"# {recipe.name}, digest {recipe.digest}\n{recipe.to_yaml()}")
    for side, network in networks.items():
        rows = []
        for layer in network.layers:
            shape = " x ".join(map(str, layer.output))
            rows.append([layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.macs:,}"])
        rows.append(["total for one image", "", "", f"{network.parameters:,}", f"{network.macs:,}"])
        print_table([f"{side} layer", "kind", "output", "parameters>", "multiply-adds>"], rows)
    return None


def _data_check(arguments: Namespace) -> None:
    from zoo.core.console import PlainConsole
    from zoo.core.errors import ZooError
    from zoo.data.check import check_images, print_check_report

    report = check_images(**call_keywords(arguments))
    if arguments.json:
        print_json(report.to_json())
    else:
        print_check_report(report, PlainConsole())
    if report.unusable:
        raise ZooError(report.unusable)
