"""FID from two folders of images: `zoo compare` against torch-fidelity's own command, each a process of its own.

    python benchmarks/fid_speed.py [--n 5000] [--size 64] [--data PATH] [--weights PATH] [--save]

Both read the same PNG files with the same weights, on the CPU with the threads they take by themselves; cold, with
empty caches, then warm, each with the cache that its own cold run has filled (torch-fidelity's is keyed by names, which
it is given). Ours gives an interval and floors (half against half, mean, black, noise) besides. What is timed is the
whole command, from its start to its end. ``--save`` appends the result to ``benchmarks/results/fid_speed.jsonl``.
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
from PIL import Image
from record import append

from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.metrics.features import backbone_weights
from zoo.runtime.device import describe_environment

RESULTS = Path(__file__).parent / "results" / "fid_speed.jsonl"
EACH = 32  # slices of a phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="images a side")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--data", metavar="PATH", help="where the images are from; default: built-in phantoms")
    parser.add_argument(
        "--weights", metavar="PATH", help="Inception weights or their folder; default: as zoo finds them"
    )
    parser.add_argument("--warm", type=int, default=3, help="warm runs, of which the median counts")
    parser.add_argument("--save", action="store_true", help=f"append the result to {RESULTS.name}")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as place:
            found = measure(options, Path(place))
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    print(json.dumps(found))
    if options.save:
        append(RESULTS, found)


def measure(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Seconds of both commands, cold and warm, and their figures."""
    said = write_folders(options, place)
    weights = place / "inception.pth"
    write_weights(options.weights, weights)
    theirs = [
        *(shutil.which("fidelity", path=str(Path(sys.executable).parent)) or "fidelity", "--fid", "--cpu", "--json"),
        *("--input1", str(place / "a"), "--input1-cache-name", "a"),
        *("--input2", str(place / "b"), "--input2-cache-name", "b"),
        *("--cache-root", str(place / "theirs"), "--feature-extractor-weights-path", str(weights), "--silent"),
    ]
    ours = [
        *(sys.executable, "-m", "zoo", "compare", str(place / "a"), str(place / "b")),
        *("--metrics", "fid", "--spaces", "inception", "--json"),
        *("--device", "cpu", "--weights", str(weights)),
    ]
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    fids: dict[str, float] = {}
    for run in range(1 + options.warm):
        took, printed = timed(theirs, place)
        seconds["theirs"].append(took)
        fids["theirs"] = printed["frechet_inception_distance"]
        took, printed = timed(ours, place)
        seconds["ours"].append(took)
        fids["ours"] = printed["fid"]["value"]
        print(f"{'warm' if run else 'cold'}: {seconds['theirs'][-1]:.1f} s, {took:.1f} s; {fids}", file=sys.stderr)
    cold = {name: round(all_[0], 2) for name, all_ in seconds.items()}
    warm = {name: round(float(np.median(all_[1:])), 2) for name, all_ in seconds.items()} if options.warm else None
    return {
        "n": options.n,
        "size": options.size,
        "data": said,
        "cold_s": cold,
        "cold_ratio": round(cold["theirs"] / cold["ours"], 2),
        "warm_s": warm,
        "warm_ratio": round(warm["theirs"] / warm["ours"], 2) if warm else None,
        "fid": fids["ours"],
        "fid_torch_fidelity": fids["theirs"],
        "difference": abs(fids["ours"] / fids["theirs"] - 1),
        "torch_fidelity": version("torch-fidelity"),
        "environment": describe_environment(cpu(), "fp32"),
    }


def write_folders(options: argparse.Namespace, place: Path) -> str:
    """``a`` and ``b``, n PNG files each; what they show."""
    source = options.data or f"phantoms:{-(-2 * options.n // EACH)}"
    images = load_dataset(source, DataConfig(resolution=options.size, holdout=0.0), cache_dir=place / "pictures")
    pixels = images.images
    said = images.description
    if len(pixels) < 2 * options.n:
        pixels = np.concatenate([pixels, pixels[..., ::-1]])
        said += ", mirrored ones added"
    if len(pixels) < 2 * options.n:
        raise ZooError(f"{images.description}: too few for two sets of {options.n}; at most --n {len(pixels) // 2}")
    for name, part in (("a", pixels[: options.n]), ("b", pixels[len(pixels) - options.n :])):
        (place / name).mkdir()
        for index, image in enumerate(part):
            Image.fromarray(np.squeeze(image)).save(place / name / f"{index:05}.png")
    return said


def write_weights(named: str | None, path: Path) -> None:
    """One file that both can read, from wherever the weights are: torch-fidelity wants a classifier, unused here."""
    import torch

    state = backbone_weights.load_inception_state(backbone_weights.find_inception_weights(named, Display()), Display())
    torch.save({**state, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)


def timed(command: list[str], place: Path) -> tuple[float, dict[str, Any]]:
    """Seconds from start to end, and the JSON on stdout."""
    before = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "ZOO_CACHE": str(place / "ours")}, capture_output=True)
    took = time.perf_counter() - before
    if done.returncode:
        raise ZooError(f"{' '.join(command[:4])} ...: {done.stderr.decode().strip()[-600:]}")
    text = done.stdout.decode()
    return took, json.loads(text[text.index("{") :])


def cpu() -> Any:
    import torch

    return torch.device("cpu")


if __name__ == "__main__":
    main()
