"""Compare the time of `zoo compare --metrics fid` with torch-fidelity's own command on two folders of images.

    python benchmarks/fid_speed.py [--n 5000] [--size 64] [--data PATH] [--weights PATH] [--save]

Both read the same PNG files with the same weights, on the CPU with their default number of threads. Both run cold, with
empty caches, then warm, with the cache of their own cold run (torch-fidelity's is keyed by names). `zoo` also computes
an interval and baselines (half against half, mean, black, noise). The time covers the whole command, from start to end.
Then the network alone is measured, on one thread and in turns: torch-fidelity's with its batch, ours, and ours without
oneDNN's undocumented operators, in multiply-adds per second of CPU time, next to a matrix product.
``--save`` appends the result to ``benchmarks/results/fid_speed.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, append_row, make_parser
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.metrics.features import backbone_weights
from zoo.runtime.device import choose_device, describe_environment

RESULTS = Path(__file__).parent / "results" / "fid_speed.jsonl"
SLICES_PER_PHANTOM = 32
INCEPTION_MACS = 5.71e9  # multiply-adds an image, as torch-fidelity computes it
NETWORK_IMAGES = 64  # torch-fidelity's batch
NETWORK_TURNS = 3


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--n", type=int, default=5000, help="images a side")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--data", metavar="PATH", help="source of the images; default: built-in phantoms")
    weights_help = "Inception weights or their folder; default: where zoo finds them"
    parser.add_argument("--weights", metavar="PATH", help=weights_help)
    parser.add_argument("--warm", type=int, default=3, help="warm runs; the median counts")
    parser.add_argument("--save", action="store_true", help=f"append the result to {RESULTS.name}")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(options, Path(folder))
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    print(json.dumps(row))
    if options.save:
        append_row(RESULTS, row)


def measure(options: argparse.Namespace, folder: Path) -> Row:
    """Return the seconds of both commands, cold and warm, and both values of FID."""
    description = write_folders(options, folder)
    weights = folder / "inception.pth"
    write_weights(options.weights, weights)
    commands = {"theirs": _fidelity_command(folder, weights), "ours": _zoo_command(folder, weights)}
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    fid: dict[str, float] = {}
    # The two commands alternate, so that other load on the machine affects both.
    for run in range(1 + options.warm):
        for side, command in commands.items():
            duration, output = time_command(command, folder)
            seconds[side].append(duration)
            fid[side] = output["frechet_inception_distance"] if side == "theirs" else output["fid"]["value"]
        times = f"torch-fidelity {seconds['theirs'][-1]:.1f} s, zoo {seconds['ours'][-1]:.1f} s"
        print(f"{'warm' if run else 'cold'}: {times}; {fid}", file=sys.stderr)
    cold = {side: round(values[0], 2) for side, values in seconds.items()}
    warm = None
    if options.warm:
        warm = {side: round(float(np.median(values[1:])), 2) for side, values in seconds.items()}
    return {
        "n": options.n,
        "size": options.size,
        "data": description,
        "cold_s": cold,
        "cold_ratio": round(cold["theirs"] / cold["ours"], 2),
        "warm_s": warm,
        "warm_ratio": round(warm["theirs"] / warm["ours"], 2) if warm else None,
        "fid": fid["ours"],
        "fid_torch_fidelity": fid["theirs"],
        "difference": abs(fid["ours"] / fid["theirs"] - 1),
        "macs_per_s": measure_networks(weights),
        "torch_fidelity": version("torch-fidelity"),
        "environment": describe_environment(choose_device("cpu"), "fp32"),
    }


def measure_networks(weights: Path) -> dict[str, float]:
    """Return the multiply-adds per second of CPU time of each form of the network, and of a matrix product."""
    import torch

    from zoo.metrics.features import inception

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    with torch.inference_mode():
        original = inception.reference(backbone_weights.load_inception_state(weights, Display()))
        forms: dict[str, Any] = {"torch-fidelity": inception.OriginalInception(original)}
        forms["zoo"] = inception.Inception(original, cpu, fused=True)
        forms["zoo, public operators"] = inception.Inception(original, cpu, fused=False)
        batches = {name: NETWORK_IMAGES if name == "torch-fidelity" else inception.CPU_BATCH for name in forms}
        images = torch.randint(0, 256, (NETWORK_IMAGES, 1, 64, 64), dtype=torch.uint8)
        matrix = torch.randn(1024, 1024)
        seconds: dict[str, list[float]] = {"matrix product": [], **{name: [] for name in forms}}
        for turn in range(1 + NETWORK_TURNS):  # the first one warms up
            for name, times in seconds.items():
                start = time.thread_time()
                if name == "matrix product":
                    _ = [matrix @ matrix for _ in range(100)]
                else:
                    _ = [forms[name](part) for part in images.split(batches[name])]
                times += [time.thread_time() - start] if turn else []
    torch.set_num_threads(threads)
    work = dict.fromkeys(forms, NETWORK_IMAGES * INCEPTION_MACS) | {"matrix product": 100 * 1024**3}
    return {name: work[name] / float(np.median(times)) for name, times in seconds.items()}


def _fidelity_command(folder: Path, weights: Path) -> list[str]:
    # The command of this interpreter's environment, which need not be on PATH.
    fidelity = shutil.which("fidelity", path=str(Path(sys.executable).parent)) or "fidelity"
    return [
        *(fidelity, "--fid", "--cpu", "--json", "--silent"),
        *("--input1", str(folder / "a"), "--input1-cache-name", "a"),
        *("--input2", str(folder / "b"), "--input2-cache-name", "b"),
        *("--cache-root", str(folder / "theirs"), "--feature-extractor-weights-path", str(weights)),
    ]


def _zoo_command(folder: Path, weights: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "zoo", "compare", str(folder / "a"), str(folder / "b")),
        *("--metrics", "fid", "--spaces", "inception", "--json"),
        *("--device", "cpu", "--weights", str(weights)),
    ]


def write_folders(options: argparse.Namespace, folder: Path) -> str:
    """Write the folders ``a`` and ``b`` with n PNG files each; return a description of the images.

    Raises:
        ZooError: there are too few images, even with mirrored ones.
    """
    phantoms = -(-2 * options.n // SLICES_PER_PHANTOM)
    source = options.data or f"phantoms:{phantoms}"
    data = load_dataset(source, DataConfig(resolution=options.size, holdout=0.0), cache_dir=folder / "pictures")
    images: np.ndarray[Any, Any] = data.images
    description = data.description
    if len(images) < 2 * options.n:
        images = np.concatenate([images, images[..., ::-1]])
        description += ", mirrored ones added"
    if len(images) < 2 * options.n:
        largest = len(images) // 2
        raise ZooError(f"{data.description}: too few images for two sets of {options.n}. Use --n {largest} at most.")
    for name, part in (("a", images[: options.n]), ("b", images[len(images) - options.n :])):
        (folder / name).mkdir()
        for index, image in enumerate(part):
            Image.fromarray(np.squeeze(image)).save(folder / name / f"{index:05}.png")
    return description


def write_weights(source: str | None, path: Path) -> None:
    """Write the Inception weights as one file that both commands can read."""
    import torch

    weights = backbone_weights.find_inception_weights(source, Display())
    state = backbone_weights.load_inception_state(weights, Display())
    # torch-fidelity requires the classifier's weights, though FID does not use them.
    torch.save({**state, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)


def time_command(command: list[str], folder: Path) -> tuple[float, Row]:
    """Return the seconds of a command from start to end, and the JSON object on its stdout.

    Raises:
        ZooError: the command failed.
    """
    start = time.perf_counter()
    process = subprocess.run(command, env={**os.environ, "ZOO_CACHE": str(folder / "ours")}, capture_output=True)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise ZooError(f"{' '.join(command[:4])} ...: {process.stderr.decode().strip()[-600:]}")
    text = process.stdout.decode()
    return seconds, json.loads(text[text.index("{") :])


if __name__ == "__main__":
    main()
