"""Compare training speed with two packages for the same purpose: lightweight-gan and stylegan2-pytorch.

    pip install lightweight-gan stylegan2-pytorch
    python benchmarks/other_packages.py [NAME ...] [--seconds 15] [--data PATH] [--json] [--save]

Each trains its own networks with the defaults of its own command. Images a second alone are therefore not comparable:
each row also has the parameters, the multiply-adds per image of a training step, and the product of both rates. All
see the same images; theirs are PNG files, linked until an epoch is as long as that of OASIS. A step counts the real
images that D sees. Theirs starts at step 30,080, where every regulariser is active; checkpoints and sample grids are
not timed. Each network has its own process; one that fails is a row with an ``error``. CUDA is required.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, add_output_arguments, last_line, make_parser, measure_each
from PIL import Image

from zoo import recipes
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError, suggest
from zoo.core.progress import RecordingReporter
from zoo.data.dataset import load_dataset
from zoo.models.summary import count_parameters
from zoo.recipes import summarise_recipe
from zoo.runtime.device import choose_device, describe_environment, peak_memory, reset_peak_memory
from zoo.runtime.timer import synchronize
from zoo.training.profiling import roofline
from zoo.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "other_packages.jsonl"
EPOCH_IMAGES = 9664  # training slices of OASIS
FIRST_STEP = 30_080  # a multiple of the packages' periods, and far from a checkpoint
WARMUP_STEPS = 8
OUR_PERIOD = 16  # steps that contain every lazy penalty of our recipes equally often
PROCESS_LIMIT_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class ZooNetwork:
    """A recipe and its overrides."""

    recipe: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PackageNetwork:
    """A package's command at one image size.

    Attributes:
        package: its module; the distribution's name has hyphens instead of underscores.
        resolution: pixels a side.
        channels: 1 where the package supports grey images, else 3.
        period: steps after which all regularisers and averages have been due.
        kinds: one step of each kind of work within a period, and how many steps of that kind there are.
        command: arguments of its command that are not its defaults.
        trainer: arguments that its command passes to its Trainer directly.
        unused: packages that it imports and never calls at its defaults.
        note: what a reader of the row should know.
    """

    package: str
    resolution: int
    channels: int
    period: int
    kinds: dict[int, int]
    command: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    note: str = ""


def _lightweight(resolution: int) -> PackageNetwork:
    # Periods: gradient penalty 4 steps, average 10 steps.
    return PackageNetwork(
        package="lightweight_gan",
        resolution=resolution,
        channels=1,
        period=20,
        kinds={0: 5, 1: 15},
        command={"greyscale": True},
        trainer={"use_aim": False},
        note="grey; D and G see different fakes; gradient penalty every 4 steps, average every 10; the package's own "
        "augmentation for few images; fp32, convolutions in TF32 as torch's default",
    )


def _stylegan2(resolution: int) -> PackageNetwork:
    # Periods: gradient penalty 4 steps, path length 32 steps.
    return PackageNetwork(
        package="stylegan2_pytorch",
        resolution=resolution,
        channels=3,
        period=32,
        kinds={0: 1, 4: 7, 1: 24},
        unused=("aim", "vector_quantize_pytorch"),
        note="RGB: the package has no grey; D and G see different fakes; gradient penalty every 4 steps, path length "
        "every 32, average every 10; fp32, convolutions in TF32 as torch's default",
    )


NETWORKS: dict[str, ZooNetwork | PackageNetwork] = {
    "stylegan-256": ZooNetwork(recipe="stylegan-256"),
    "stylegan-64": ZooNetwork(recipe="stylegan-256", overrides=("data.resolution=64",)),
    "lean-256": ZooNetwork(recipe="lean-256"),
    "dcgan-64": ZooNetwork(recipe="dcgan-64"),
    "lightweight-gan-256": _lightweight(256),
    "lightweight-gan-64": _lightweight(64),
    "stylegan2-pytorch-256": _stylegan2(256),
    "stylegan2-pytorch-64": _stylegan2(64),
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=15.0, help="timed seconds per network")
    parser.add_argument("--data", default="phantoms:16", metavar="PATH")
    add_output_arguments(parser, RESULTS)
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
        if device.type != "cuda":
            raise ZooError(f"--device {options.device}: the packages require CUDA.")
        for name in options.names:
            if name not in NETWORKS:
                hint = suggest(name, NETWORKS)
                raise ZooError(f"{name}: unknown network{hint}. Choose from {', '.join(NETWORKS)}.")
        if options.worker:
            with contextlib.redirect_stdout(sys.stderr):  # the packages print to stdout, which is for the row
                row = measure_here(options.names[0], options, device)
            print(json.dumps(row))
            return
        measure_each(options.names, lambda name: measure(name, options), describe_row, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def measure(name: str, options: argparse.Namespace) -> Row:
    """Return one network's row, measured in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, name, "--worker", folder, "--device", options.device]
        command += ["--seconds", str(options.seconds), "--data", options.data]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            return {"name": name, "error": f"took longer than {PROCESS_LIMIT_SECONDS} s"}
    if process.returncode:
        return {"name": name, "error": last_line(process.stderr) or f"exit code {process.returncode}"}
    row: Row = json.loads(process.stdout.splitlines()[-1])
    return row


def describe_row(row: Row) -> str:
    if "error" in row:
        return f"{row['name']}: {row['error']}"
    sizes = " and ".join(f"{count / 1e6:.2f}" for count in row["parameters"])
    return (
        f"{row['name']}: {row['img_per_s']:,.1f} images a second, {row['channels']} channel(s), batch {row['batch']}; "
        f"{sizes} million parameters; {row['macs_per_image'] / 1e9:.2f} billion multiply-adds an image, "
        f"{row['macs_per_s'] / 1e12:.2f} trillion a second"
    )


def measure_here(name: str, options: argparse.Namespace, device: torch.device) -> Row:
    """Return a network's row, measured in this process."""
    network = NETWORKS[name]
    reset_peak_memory(device)
    if isinstance(network, ZooNetwork):
        row = measure_zoo(network, options, device)
    else:
        row = measure_package(network, options, device)
    return {
        "name": name,
        **row,
        "macs_per_s": row["macs_per_image"] * row["img_per_s"],
        "peak_memory": peak_memory(device),
        "data": options.data,
        "environment": describe_environment(device, row["precision"]),
        "date": time.strftime("%Y-%m-%d"),
    }


def measure_zoo(network: ZooNetwork, options: argparse.Namespace, device: torch.device) -> Row:
    """Time the steps of ``zoo train``."""
    recipe = recipes.load_recipe(network.recipe, network.overrides)
    data = load_dataset(options.data, recipe.data)
    reporter = RecordingReporter()
    trainer = Trainer(recipe, data, device, reporter=reporter)
    for _ in range(2 * WARMUP_STEPS):
        trainer.step()
    step_s, steps = time_steps(trainer.step, lambda: None, OUR_PERIOD, options.seconds, device)
    return {
        "package": "zoo",
        "resolution": recipe.data.resolution,
        "channels": recipe.data.channels,
        "batch": recipe.train.batch,
        "img_per_s": recipe.train.batch / step_s,
        "steps": steps,
        "parameters": [network.parameters for network in summarise_recipe(recipe)],
        "macs_per_image": roofline.count_work(recipe, data).macs,
        "precision": trainer.speed.precision,
        "speed": trainer.speed.to_json(),
        "said": reporter.lines,
        "note": "both networks learn from the same fakes, in one pass where they are updated together",
    }


def measure_package(network: PackageNetwork, options: argparse.Namespace, device: torch.device) -> Row:
    """Time the steps of the package's own Trainer."""
    folder = Path(options.worker)
    write_images(folder / "images", network, options.data)
    trainer, defaults = create_trainer(network, folder)
    batch = trainer.batch_size * trainer.gradient_accumulate_every

    def rewind() -> None:
        trainer.steps = FIRST_STEP

    # Steps differ (a gradient penalty every 4 steps, ...): one step of each kind is counted, then weighted.
    macs = 0
    for kind, count in network.kinds.items():
        trainer.steps = FIRST_STEP + kind
        with roofline.MacCounter() as counter:
            trainer.train()
        macs += counter.macs * count
    rewind()
    for _ in range(WARMUP_STEPS):
        trainer.train()
    step_s, steps = time_steps(trainer.train, rewind, network.period, options.seconds, device)
    GAN = trainer.GAN
    generator = [GAN.G, GAN.S] if hasattr(GAN, "S") else [GAN.G]  # S: StyleGAN2's mapping network
    distribution = network.package.replace("_", "-")
    return {
        "package": distribution,
        "version": version(distribution),
        "resolution": network.resolution,
        "channels": network.channels,
        "batch": batch,
        "accumulated": trainer.gradient_accumulate_every,
        "img_per_s": batch / step_s,
        "steps": steps,
        "parameters": [sum(map(count_parameters, generator)), count_parameters(GAN.D)],
        "macs_per_image": round(macs / sum(network.kinds.values()) / batch),
        "precision": "fp32",
        "defaults": {key: value for key, value in defaults.items() if isinstance(value, int | float | list)},
        "note": network.note,
    }


def create_trainer(network: PackageNetwork, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the package's Trainer as its own command creates it, and the arguments it was given."""
    for name in network.unused:
        if importlib.util.find_spec(name) is None:
            # An empty module suffices, because the package imports it and never calls it.
            placeholder = types.ModuleType(name)
            vars(placeholder)["VectorQuantize"] = None
            sys.modules[name] = placeholder
    package, cli = (importlib.import_module(name) for name in (network.package, f"{network.package}.cli"))
    arguments: dict[str, Any] = {}

    def record_arguments(rank: int, world_size: int, model_args: dict[str, Any], *rest: Any) -> None:
        arguments.update(model_args)

    # The command builds its arguments and calls run_training, which is replaced, so that nothing trains yet.
    vars(cli)["run_training"] = record_arguments
    folders = {name: str(folder / name) for name in ("results_dir", "models_dir")}
    cli.train_from_folder(data=str(folder / "images"), image_size=network.resolution, **folders, **network.command)
    trainer = package.Trainer(**arguments, **network.trainer)
    trainer.set_data_src(str(folder / "images"))
    return trainer, {key: value for key, value in arguments.items() if key not in folders}


def write_images(folder: Path, network: PackageNetwork, source: str) -> None:
    """Write each training image once as PNG, and link the files until there are ``EPOCH_IMAGES``."""
    data = load_dataset(source, DataConfig(resolution=network.resolution))
    folder.mkdir()
    for number in range(EPOCH_IMAGES):
        file = folder / f"{number:05}.png"
        if number < len(data.train):
            Image.fromarray(np.squeeze(data.images[data.train[number]])).save(file)
        else:
            # A link needs no space, and the packages only list files.
            os.link(folder / f"{number % len(data.train):05}.png", file)


def time_steps(
    step: Callable[[], Any], rewind: Callable[[], Any], period: int, seconds: float, device: torch.device
) -> tuple[float, int]:
    """Take whole periods of steps for at least ``seconds``; return the seconds of a step, and the number of steps."""
    synchronize(device)
    start, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - start < seconds:
        rewind()
        for _ in range(period):
            step()
        steps += period
        synchronize(device)
    return (time.perf_counter() - start) / steps, steps


if __name__ == "__main__":
    main()
