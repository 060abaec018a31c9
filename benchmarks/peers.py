"""Training speed beside that of two packages people use for the same: lightweight-gan and stylegan2-pytorch.

    pip install lightweight-gan stylegan2-pytorch
    python benchmarks/peers.py [NAME ...] [--seconds 15] [--data PATH] [--json] [--save]

Each trains its own networks at its own command's defaults (batch, accumulation, precision, augmentation), so images a
second alone compare nothing: beside them stand parameters, multiply-adds an image of a training step, and the product
of both, which is what the GPU was made to do. Both packages need CUDA, and so does this.

All see the same pictures: ours through ``zoo.training.trainer``, theirs as PNG files, linked until there are as many as OASIS
has training slices, so that an epoch is as long as there. A step is counted as the real images it shows D. Theirs is
timed as it is after some 30,000 steps, when averages are kept and every regulariser is due in its turn; nobody's
checkpoints and sample sheets are timed. Every network has a process of its own; one that fails is a row with an
``error``. ``--save`` appends to ``benchmarks/results/peers.jsonl``.
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
import record
import torch
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

RESULTS = Path(__file__).parent / "results" / "peers.jsonl"
FILES = 9664  # training slices of OASIS
STEP = 30_080  # theirs are timed from this step on: a multiple of all their periods, far from a checkpoint
WARM = 8
LIMIT = 600  # seconds a network's process may take


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A recipe, and what is set in it."""

    recipe: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """A package's command at one size.

    Attributes:
        package: its module; the distribution has hyphens for underscores.
        resolution: pixels a side.
        channels: 1 where the package can do grey, else 3.
        period: steps after which everything it does now and then has come round.
        kinds: which steps of a period do the same work, by one of them, and how many there are.
        command: arguments of its command beside its defaults.
        trainer: arguments that its command gives its Trainer on top of those that it hands on.
        unused: packages it imports and, at its defaults, never calls.
        note: what to know when reading the row.
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


def _lightweight(resolution: int) -> Theirs:
    return Theirs(
        package="lightweight_gan",
        resolution=resolution,
        channels=1,
        period=20,
        kinds={0: 5, 1: 15},
        command={"greyscale": True},
        trainer={"use_aim": False},
        note="grey; D on other fakes than G; gradient penalty every 4 steps, average every 10; augmentation as it sets "
        "itself for few images; fp32, convolutions in TF32 as torch has them",
    )


def _stylegan2(resolution: int) -> Theirs:
    return Theirs(
        package="stylegan2_pytorch",
        resolution=resolution,
        channels=3,
        period=32,
        kinds={0: 1, 4: 7, 1: 24},
        unused=("aim", "vector_quantize_pytorch"),
        note="RGB: the package has no grey; D on other fakes than G; gradient penalty every 4 steps, path length every "
        "32, average every 10; fp32, convolutions in TF32 as torch has them",
    )


NETWORKS: dict[str, Ours | Theirs] = {
    "stylegan-256": Ours(recipe="stylegan-256"),
    "stylegan-64": Ours(recipe="stylegan-256", overrides=("data.resolution=64",)),
    "lean-256": Ours(recipe="lean-256"),
    "dcgan-64": Ours(recipe="dcgan-64"),
    "lightweight-gan-256": _lightweight(256),
    "lightweight-gan-64": _lightweight(64),
    "stylegan2-pytorch-256": _stylegan2(256),
    "stylegan2-pytorch-64": _stylegan2(64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=15.0, help="that are timed of each network")
    parser.add_argument("--data", default="phantoms:16", metavar="PATH")
    record.arguments(parser, RESULTS)
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
        if device.type != "cuda":
            raise ZooError(f"--device {options.device}: neither package runs without CUDA")
        for name in options.names:
            if name not in NETWORKS:
                raise ZooError(f"no network {name!r}{suggest(name, NETWORKS)}; one of {', '.join(NETWORKS)}")
        if options.worker:
            with contextlib.redirect_stdout(sys.stderr):  # the packages say this and that
                row = work(options.names[0], options, device)
            print(json.dumps(row))
            return
        record.each(options.names, lambda name: measure(name, options), line, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One network's row, from a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, __file__, name, "--worker", place, "--device", options.device]
        command += ["--seconds", str(options.seconds), "--data", options.data]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return {"name": name, "error": f"took longer than {LIMIT} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"name": name, "error": said[-1]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']}: {row['error']}"
    sizes = " and ".join(f"{count / 1e6:.2f}" for count in row["parameters"])
    return (
        f"{row['name']}: {row['img_per_s']:,.1f} images a second, {row['channels']} channel(s), batch {row['batch']}; "
        f"{sizes} million parameters; {row['macs_per_image'] / 1e9:.2f} billion multiply-adds an image, "
        f"{row['macs_per_s'] / 1e12:.2f} trillion a second"
    )


def work(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The worker: a network's row."""
    network = NETWORKS[name]
    reset_peak_memory(device)
    row = ours(network, options, device) if isinstance(network, Ours) else theirs(network, options, device)
    return {
        "name": name,
        **row,
        "macs_per_s": row["macs_per_image"] * row["img_per_s"],
        "peak_memory": peak_memory(device),
        "data": options.data,
        "environment": describe_environment(device, row["precision"]),
        "date": time.strftime("%Y-%m-%d"),
    }


def ours(network: Ours, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    resolved = recipes.load_recipe(network.recipe, network.overrides)
    images = load_dataset(options.data, resolved.data)
    said = RecordingReporter()
    trainer = Trainer(resolved, images, device, reporter=said)
    for _ in range(2 * WARM):
        trainer.step()
    step, steps = timed(trainer.step, lambda: None, 16, options.seconds, device)
    return {
        "package": "zoo",
        "resolution": resolved.data.resolution,
        "channels": resolved.data.channels,
        "batch": resolved.train.batch,
        "img_per_s": resolved.train.batch / step,
        "steps": steps,
        "parameters": [network.parameters for network in summarise_recipe(resolved)],
        "macs_per_image": roofline.count_work(resolved, images).macs,
        "precision": trainer.speed.precision,
        "speed": trainer.speed.to_json(),
        "said": said.lines,
        "note": "both networks learn from the same fakes, in one pass where they are updated together",
    }


def theirs(network: Theirs, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    place = Path(options.worker)
    write_images(place / "images", network, options.data)
    trainer, defaults = command(network, place)
    batch = trainer.batch_size * trainer.gradient_accumulate_every

    def begin() -> None:
        trainer.steps = STEP

    macs = 0
    for kind, count in network.kinds.items():
        trainer.steps = STEP + kind
        with roofline.MacCounter() as counter:
            trainer.train()
        macs += counter.macs * count
    begin()
    for _ in range(WARM):
        trainer.train()
    step, steps = timed(trainer.train, begin, network.period, options.seconds, device)
    GAN = trainer.GAN
    sides = [[GAN.G, GAN.S] if hasattr(GAN, "S") else [GAN.G], [GAN.D]]
    return {
        "package": network.package.replace("_", "-"),
        "version": version(network.package.replace("_", "-")),
        "resolution": network.resolution,
        "channels": network.channels,
        "batch": batch,
        "accumulated": trainer.gradient_accumulate_every,
        "img_per_s": batch / step,
        "steps": steps,
        "parameters": [sum(map(count_parameters, side)) for side in sides],
        "macs_per_image": round(macs / sum(network.kinds.values()) / batch),
        "precision": "fp32",
        "defaults": {key: value for key, value in defaults.items() if isinstance(value, int | float | list)},
        "note": network.note,
    }


def command(network: Theirs, place: Path) -> tuple[Any, dict[str, Any]]:
    """The package's Trainer as its own command makes it, with its images, and the arguments that it was given."""
    for name in network.unused:
        if importlib.util.find_spec(name) is None:
            stand_in = types.ModuleType(name)
            vars(stand_in)["VectorQuantize"] = None
            sys.modules[name] = stand_in
    package, cli = (importlib.import_module(name) for name in (network.package, f"{network.package}.cli"))
    arguments: dict[str, Any] = {}

    def keep(rank: int, world_size: int, model_args: dict[str, Any], *rest: Any) -> None:
        arguments.update(model_args)

    vars(cli)["run_training"] = keep
    folders = {name: str(place / name) for name in ("results_dir", "models_dir")}
    cli.train_from_folder(data=str(place / "images"), image_size=network.resolution, **folders, **network.command)
    trainer = package.Trainer(**arguments, **network.trainer)
    trainer.set_data_src(str(place / "images"))
    return trainer, {key: value for key, value in arguments.items() if key not in folders}


def write_images(folder: Path, network: Theirs, path: str) -> None:
    """The training images, each written once and linked until there are ``FILES``."""
    images = load_dataset(path, DataConfig(resolution=network.resolution))
    folder.mkdir()
    for number in range(FILES):
        file = folder / f"{number:05}.png"
        if number < len(images.train):
            Image.fromarray(np.squeeze(images.images[images.train[number]])).save(file)
        else:
            os.link(folder / f"{number % len(images.train):05}.png", file)


def timed(
    step: Callable[[], Any], begin: Callable[[], Any], period: int, seconds: float, device: torch.device
) -> tuple[float, int]:
    """Seconds of a step, over whole periods; and how many steps that were."""
    synchronize(device)
    start, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - start < seconds:
        begin()
        for _ in range(period):
            step()
        steps += period
        synchronize(device)
    return (time.perf_counter() - start) / steps, steps


if __name__ == "__main__":
    main()
