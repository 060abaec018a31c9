"""Commands that look at recipes and images: ``list``, ``show``, ``data check``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.options import Commands, add_command, add_recipe, add_shared, call_keywords
from zoo.cli.output import print_json, print_table

if TYPE_CHECKING:
    from zoo.core.measurements import Measurements

SAME_FID_RATIO = 1.1  # FIDs of two runs that differ by less are the same quality


def add_look_commands(commands: Commands) -> None:
    """Add ``list``, ``show`` and ``data check``."""
    p = add_command(commands, _list, "list", "list recipes by size, with what they have reached", "zoo list 'dcgan*'")
    p.add_argument("pattern", nargs="?", help="a shell pattern, such as 'dcgan*'; lists all that match")
    p.add_argument("--all", action="store_true", help="also recipes that were not measured")

    text = "show a resolved recipe and the layers of its networks"
    p = add_command(commands, _show, "show", text, "zoo show fastgan-r3-64")
    add_recipe(p, "name", "a recipe")
    add_shared(p, "--set")

    data = commands.add_parser("data", help="check images before training", description="Check images before training.")
    text = "report counts, sizes, intensities, duplicates and unreadable files, and draw a contact sheet"
    checks = data.add_subparsers(metavar="check", required=True)
    p = add_command(checks, _data_check, "check", text, "zoo data check slices/")
    p.add_argument("path", help="folder, zip, .npy or .npz")
    p.add_argument("--out", type=Path, help="where images are written (default: data-check-<name>)")
    p.add_argument("--resolution", type=int, default=64, help="pixels per side on the contact sheet")


def _list(arguments: Namespace) -> None:
    from zoo.core.errors import ZooError, suggest
    from zoo.core.measurements import load_measurements
    from zoo.recipes import list_models, summarise_recipes

    recipes = list(summarise_recipes(arguments.pattern or "*"))
    if not recipes:
        raise ZooError(f"no recipe matches {arguments.pattern!r}{suggest(arguments.pattern, list_models())}")
    measured = load_measurements()
    if arguments.json:  # all of them, measured or not
        return print_json([recipe | _measured_values(recipe, measured) for recipe in recipes])
    shown = recipes
    if arguments.pattern is None and not arguments.all:
        known = {run.recipe for run in measured.runs} | {*measured.start_here.values()}
        shown = [recipe for recipe in recipes if recipe["name"] in known]
    for resolution in sorted({recipe["resolution"] for recipe in shown}):
        heldout = measured.heldout_fid.get(resolution)
        print(f"\n{resolution} pixels" + (f" (held-out real images: FID {heldout:.1f})" if heldout else ""))
        rows = [_recipe_cells(recipe, measured) for recipe in shown if recipe["resolution"] == resolution]
        rows.sort(key=lambda row: (not row[1], float(row[3].split()[0]) if row[3] else float("inf")))
        print_table(["recipe", "", "G / D, M>", "FID (fakes)>", "kimg>", "CPU>", "GPU>", "alarms"], rows)
    print("\nFID on brain slices after so many kimg (thousand images); lower is better, and it depends on the")
    print("number of fakes. CPU, GPU: core-minutes and minutes that took. G / D: millions of parameters.")
    if len(shown) < len(recipes):
        print(f"{len(recipes) - len(shown)} more, not measured: `zoo list --all`. One of them: `zoo show NAME`.")
    return None


def _measured_values(recipe: dict[str, Any], measured: Measurements) -> dict[str, Any]:
    best, resolution = measured.best_run(recipe["name"]), recipe["resolution"]
    return {
        "start_here": measured.start_here.get(resolution) == recipe["name"],
        "measured": None if best is None else asdict(best),
        "heldout_fid": measured.heldout_fid.get(resolution),
    }


def _recipe_cells(recipe: dict[str, Any], measured: Measurements) -> list[str]:
    name = recipe["name"]
    counts = [recipe["params_g"], recipe["params_d"]]
    sizes = " / ".join(f"{count / 1e6:.1f}" for count in counts) if all(counts) else ""
    start = "start here" if measured.start_here.get(recipe["resolution"]) == name else ""
    best = measured.best_run(name)
    if best is None:
        return [name, start, sizes, "", "", "", "", ""]
    minutes = {best.device: best.minutes}
    for run in measured.runs:  # on the other device, that of a run which is as good
        if run.recipe == name and run.device != best.device and run.fid <= best.fid * SAME_FID_RATIO:
            minutes[run.device] = run.minutes
    times = ["" if minutes.get(device) is None else f"{minutes[device]:.0f}" for device in ("cpu", "cuda")]
    return [name, start, sizes, f"{best.fid:.1f} ({best.samples})", f"{best.kimg:.0f}", *times, ", ".join(best.alarms)]


def _show(arguments: Namespace) -> None:
    from zoo.recipes import load_recipe, summarise_recipe
    from zoo.training.networks import count_helper_parameters

    recipe = load_recipe(arguments.name, arguments.set)
    generator, discriminator = summarise_recipe(recipe)
    networks = {"generator": generator, "discriminator": discriminator}
    helpers = count_helper_parameters(recipe)
    if arguments.json:
        layers = {side: asdict(network) for side, network in networks.items()}
        more = {"helpers": helpers} if helpers else {}
        return print_json({"recipe": recipe.to_dict(), "digest": recipe.digest, **layers, **more})
    print(f"# {recipe.name}, digest {recipe.digest}\n{recipe.to_yaml()}")
    for side, network in networks.items():
        rows = []
        for layer in network.layers:
            shape = " x ".join(map(str, layer.output))
            rows.append([layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.macs:,}"])
        rows.append(["total for one image", "", "", f"{network.parameters:,}", f"{network.macs:,}"])
        print_table([f"{side} layer", "kind", "output", "parameters>", "multiply-adds>"], rows)
    if helpers:
        rows = [[name, f"{count:,}"] for name, count in helpers.items()]
        print_table(["trained along, not part of either network", "parameters>"], rows)
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
