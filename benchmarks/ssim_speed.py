"""Compare the speed of nearest-image SSIM with a loop over scikit-image: same definition, same images.

    python benchmarks/ssim_speed.py [--size 64 256] [--fakes 64] [--reals N] [--data PATH] [--engine eager] [--save]

Every fake (a held-out image) is compared with every real (a training image). Each side has its own process. They take
--rounds turns, and the ratio is the median over turns: of wall time, and of CPU time, where threads gain nothing and
other programs take nothing away. Ours computes all pairs; the loop computes --pairs random pairs, and its time is
scaled to one pair. Agreement is the largest difference over every fake with its nearest real; no pair of the loop may
be nearer than that. --engine eager measures the version without a compiler. One line a size; --json prints objects.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import Row, append_row, make_parser

RESULTS = Path(__file__).with_name("results") / "ssim_speed.jsonl"
NEARER_TOLERANCE = 1e-4  # SSIM; above the rounding of float32

# The functions below that run in processes of their own import what they need themselves, so that the memory of one
# side contains none of the other's libraries.


def save_images(
    connection: Connection, folder: Path, path: str | None, size: int, fakes: int, reals: int | None
) -> None:
    """Write ``fakes.npy`` and ``reals.npy``; send the description and digest of the images."""
    import numpy as np

    from zoo.core.config import DataConfig
    from zoo.data.dataset import load_dataset

    data = load_dataset(path, DataConfig(resolution=size))
    for name, indices in (("fakes", data.unseen[:fakes]), ("reals", data.train[:reals])):
        np.save(folder / f"{name}.npy", data.images[indices])
    connection.send({"data": data.description, "digest": data.digest})


def serve_zoo(connection: Connection, folder: Path) -> None:
    """Compute the nearest real of every fake each time a true value is received."""
    import resource
    import sys

    import numpy as np
    import torch

    from zoo.metrics.ssim import ssim
    from zoo.runtime.device import describe_environment

    fakes = torch.from_numpy(np.load(folder / "fakes.npy"))
    reals = np.load(folder / "reals.npy", mmap_mode="r")
    ssim.nearest_ssim(fakes[:1], reals[:1], 255)  # compiles the kernel, which must not be timed
    facts = {
        "engine": ssim.engine(),
        "definition": ssim.SSIM_DEFINITION,
        "environment": describe_environment(torch.device("cpu"), "fp32"),
    }
    while connection.recv():
        start, cpu_start = time.perf_counter(), time.process_time()
        values, indices = ssim.nearest_ssim(fakes, reals, 255)
        seconds = {"us": time.perf_counter() - start, "cpu_us": time.process_time() - cpu_start}
        per_pair = {name: value * 1e6 / len(fakes) / len(reals) for name, value in seconds.items()}
        # ru_maxrss counts bytes on macOS and KiB on Linux.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        result = {"values": values.tolist(), "indices": indices.tolist(), "peak_mb": round(peak / 1e6)}
        connection.send({**facts, **result, **per_pair})


def serve_skimage(connection: Connection, folder: Path) -> None:
    """Compute SSIM pair by pair with scikit-image for each list of pairs received; an empty list ends."""
    from importlib.metadata import version

    import numpy as np
    from skimage.metrics import structural_similarity

    fakes, reals = np.load(folder / "fakes.npy"), np.load(folder / "reals.npy", mmap_mode="r")
    structural_similarity(fakes[0, 0], reals[0, 0], data_range=255)
    while pairs := connection.recv():
        start, cpu_start = time.perf_counter(), time.process_time()
        values = [structural_similarity(fakes[i, 0], reals[j, 0], data_range=255) for i, j in pairs]
        seconds = {"us": time.perf_counter() - start, "cpu_us": time.process_time() - cpu_start}
        per_pair = {name: value * 1e6 / len(pairs) for name, value in seconds.items()}
        connection.send({"values": values, "version": version("scikit-image"), **per_pair})


def start_process(target: Callable[..., None], *args: Any) -> Connection:
    """Start a fresh process that shares nothing with this one; return our end of a pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=target, args=(theirs, *args), daemon=True).start()
    theirs.close()
    return ours


def measure(size: int, options: argparse.Namespace) -> Row:
    """Return the row of one image size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = start_process(save_images, folder, options.data, size, options.fakes, options.reals).recv()
        zoo, skimage = start_process(serve_zoo, folder), start_process(serve_skimage, folder)
        turns = _take_turns(zoo, skimage, folder, options)
        ours, theirs = turns[-1]
        skimage.send(list(enumerate(ours["indices"])))
        nearest = skimage.recv()["values"]
        agreement = max(abs(a - b) for a, b in zip(ours["values"], nearest, strict=True))
        zoo.send(False)
        skimage.send([])
        num_reals = _count_images(folder / "reals.npy")
    ratios = [theirs["us"] / ours["us"] for ours, theirs in turns]
    return {
        "size": size,
        "engine": ours["engine"],
        "ratio": round(statistics.median(ratios), 1),
        "ratios": [round(ratio, 1) for ratio in ratios],
        "ratio_cpu": round(statistics.median(theirs["cpu_us"] / ours["cpu_us"] for ours, theirs in turns), 1),
        "ours_us_per_pair": round(statistics.median(ours["us"] for ours, _ in turns), 3),
        "skimage_us_per_pair": round(statistics.median(theirs["us"] for _, theirs in turns), 1),
        "agreement": float(f"{agreement:.2g}"),
        "peak_mb": ours["peak_mb"],
        "fakes": len(ours["values"]),
        "reals": num_reals,
        "skimage_pairs": options.pairs,
        "skimage": theirs["version"],
        "definition": ours["definition"],
        "environment": ours["environment"],
        **images,
    }


def _take_turns(
    zoo: Connection, skimage: Connection, folder: Path, options: argparse.Namespace
) -> list[tuple[Row, Row]]:
    """Return what both processes sent in each turn.

    Raises:
        SystemExit: scikit-image finds a nearer real than ours.
    """
    draw, num_reals = random.Random(0), _count_images(folder / "reals.npy")
    turns = []
    for _ in range(options.rounds):
        zoo.send(True)
        ours = zoo.recv()
        num_fakes = len(ours["values"])
        pairs = [(draw.randrange(num_fakes), draw.randrange(num_reals)) for _ in range(options.pairs)]
        skimage.send(pairs)
        theirs = skimage.recv()
        for (fake, _), value in zip(pairs, theirs["values"], strict=True):
            if value > ours["values"][fake] + NEARER_TOLERANCE:
                raise SystemExit(f"fake {fake}: scikit-image finds a nearer real than nearest_ssim.")
        turns.append((ours, theirs))
    return turns


def _count_images(path: Path) -> int:
    import numpy as np

    return len(np.load(path, mmap_mode="r"))


def describe_row(row: Row) -> str:
    lowest, highest = min(row["ratios"]), max(row["ratios"])
    turns = f"median of {len(row['ratios'])} turns, {lowest:.0f} to {highest:.0f}; CPU time {row['ratio_cpu']:.0f}"
    return (
        f"{row['size']} px, {row['fakes']} x {row['reals']}: {row['ratio']:.0f} times the scikit-image loop ({turns}); "
        f"{row['ours_us_per_pair']:.2f} us a pair, scikit-image {row['skimage_us_per_pair']:.0f} us "
        f"(over {row['skimage_pairs']} pairs); agreement {row['agreement']:.1g}; peak {row['peak_mb']} MB; "
        f"{row['engine']}"
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[64, 256], help="pixels a side")
    parser.add_argument("--fakes", type=int, default=64)
    parser.add_argument("--reals", type=int, help="default: all training images")
    parser.add_argument("--data", metavar="PATH", help="images, as `zoo train` takes them; default: built-in phantoms")
    parser.add_argument("--engine", choices=["auto", "eager"], default="auto", help="eager: without a compiler")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=300, help="pairs in a turn of the loop")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--save", action="store_true", help=f"append to {RESULTS.name}")
    options = parser.parse_args()
    # The processes inherit these. With glibc's defaults, scikit-image spends half of its time at 256 pixels on
    # returning memory to the system and requesting it again, which says nothing about SSIM.
    os.environ.update({"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)})
    if options.engine == "eager":
        os.environ["ZOO_NATIVE"] = "0"
    for size in options.size:
        row = measure(size, options)
        print(json.dumps(row) if options.json else describe_row(row), flush=True)
        if options.save:
            append_row(RESULTS, row)


if __name__ == "__main__":
    main()
