"""How much faster nearest-real SSIM is than a loop over scikit-image: same definition, same images.

    python benchmarks/ssim_speed.py [--size 64 256] [--fakes 64] [--reals N] [--data PATH] [--engine eager] [--save]

Every fake (a held-out image) is compared with every real (a training image). Either side has a process of its own; they
take turns, ours and the loop's, --rounds times, and the ratio is the median of those of each turn: of time on the
clock, and of processor time, in which threads gain nothing and other programs take nothing away. Ours does the whole
task; the loop does --pairs random pairs of it, and is scaled to one pair. Agreement is the largest difference between
the two over every fake with its nearest real; no pair of the loop may come nearer than the nearest. --engine eager is
what is had without a compiler. One line a size; --json prints JSON objects instead, --save appends them to
benchmarks/results/ssim_speed.jsonl.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from record import append

RESULTS = Path(__file__).with_name("results") / "ssim_speed.jsonl"


def save_images(
    connection: Connection, folder: Path, path: str | None, size: int, fakes: int, reals: int | None
) -> None:
    """Write fakes.npy and reals.npy."""
    import numpy as np

    from zoo.core.config import DataConfig
    from zoo.data.dataset import load_dataset

    images = load_dataset(path, DataConfig(resolution=size))
    for name, positions in (("fakes", images.unseen[:fakes]), ("reals", images.train[:reals])):
        np.save(folder / f"{name}.npy", images.images[positions])
    connection.send({"data": images.description, "digest": images.digest})


def ours(connection: Connection, folder: Path) -> None:
    """At each word: the whole task, once."""
    import resource
    import sys

    import numpy as np
    import torch

    from zoo.core.version import version
    from zoo.metrics.ssim import ssim

    fakes = torch.from_numpy(np.load(folder / "fakes.npy"))
    reals = np.load(folder / "reals.npy", mmap_mode="r")
    ssim.nearest_ssim(fakes[:1], reals[:1], 255)  # what is compiled once is not what is measured
    facts = {
        "engine": ssim.engine(),
        "threads": torch.get_num_threads(),
        "definition": ssim.DEFINITION,
        "versions": {"zoo": version(), "torch": str(torch.__version__), "numpy": np.__version__},
    }
    while connection.recv():
        start, busy = time.perf_counter(), time.process_time()
        values, indices = ssim.nearest_ssim(fakes, reals, 255)
        per_pair = 1e6 / len(fakes) / len(reals)
        spent = {"us": (time.perf_counter() - start) * per_pair, "cpu_us": (time.process_time() - busy) * per_pair}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found = {"values": values.tolist(), "indices": indices.tolist(), "peak_mb": round(peak / 1e6)}
        connection.send({**facts, **found, **spent})


def loop(connection: Connection, folder: Path) -> None:
    """At each list of pairs: scikit-image, pair by pair."""
    import numpy as np
    import skimage
    from skimage.metrics import structural_similarity

    fakes, reals = np.load(folder / "fakes.npy"), np.load(folder / "reals.npy", mmap_mode="r")
    structural_similarity(fakes[0, 0], reals[0, 0], data_range=255)
    while pairs := connection.recv():
        start, busy = time.perf_counter(), time.process_time()
        values = [structural_similarity(fakes[i, 0], reals[j, 0], data_range=255) for i, j in pairs]
        per_pair = 1e6 / len(pairs)
        spent = {"us": (time.perf_counter() - start) * per_pair, "cpu_us": (time.process_time() - busy) * per_pair}
        connection.send({"values": values, "version": skimage.__version__, **spent})


def started(target: Callable[..., None], *args: Any) -> Connection:
    """The end of a pipe to a process that knows nothing of this one."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    context.Process(target=target, args=(theirs, *args), daemon=True).start()
    theirs.close()
    return mine


def measured(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    import random

    with tempfile.TemporaryDirectory() as name:
        folder, draw = Path(name), random.Random(0)
        images = started(save_images, folder, options.data, size, options.fakes, options.reals).recv()
        us, them = started(ours, folder), started(loop, folder)
        turns, agreement = [], 0.0
        for _ in range(options.rounds):
            us.send(True)
            mine = us.recv()
            fakes, reals = len(mine["values"]), options.reals
            reals = reals or _count(folder / "reals.npy")
            pairs = [(draw.randrange(fakes), draw.randrange(reals)) for _ in range(options.pairs)]
            them.send(pairs)
            theirs = them.recv()
            for (i, _), value in zip(pairs, theirs["values"], strict=True):
                if value > mine["values"][i] + 1e-4:
                    raise SystemExit(f"{size} px: fake {i} has a nearer real than the one found")
            turns.append((mine["us"], theirs["us"], theirs["cpu_us"] / mine["cpu_us"]))
        them.send(list(enumerate(mine["indices"])))
        there = them.recv()["values"]
        agreement = max(abs(a - b) for a, b in zip(mine["values"], there, strict=True))
        us.send(False)
        them.send([])
    ratios = [theirs / mine for mine, theirs, _ in turns]
    return {
        "size": size,
        "engine": mine["engine"],
        "ratio": round(statistics.median(ratios), 1),
        "ratios": [round(ratio, 1) for ratio in ratios],
        "ratio_cpu": round(statistics.median(ratio for *_, ratio in turns), 1),
        "ours_us_per_pair": round(statistics.median(mine for mine, *_ in turns), 3),
        "skimage_us_per_pair": round(statistics.median(theirs for _, theirs, _ in turns), 1),
        "agreement": float(f"{agreement:.2g}"),
        "peak_mb": mine["peak_mb"],
        "fakes": fakes,
        "reals": reals,
        "skimage_pairs": options.pairs,
        "threads": mine["threads"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {**mine["versions"], "skimage": theirs["version"]},
        "definition": mine["definition"],
        **images,
    }


def _count(path: Path) -> int:
    import numpy as np

    return len(np.load(path, mmap_mode="r"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[64, 256], help="pixels a side")
    parser.add_argument("--fakes", type=int, default=64)
    parser.add_argument("--reals", type=int, help="default: all training images")
    parser.add_argument("--data", metavar="PATH", help="what `zoo train` takes; default: built-in phantoms")
    parser.add_argument("--engine", choices=["auto", "eager"], default="auto", help="eager: as without a compiler")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=300, help="pairs of a turn of the loop")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"append to {RESULTS.name}")
    options = parser.parse_args()
    # The processes to be started inherit these. As glibc's allocator is, half of scikit-image's time at 256 pixels goes
    # into giving memory back and asking for it again, which is nobody's measure of SSIM.
    os.environ.update({"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)})
    if options.engine == "eager":
        os.environ["ZOO_NATIVE"] = "0"
    for size in options.size:
        row = measured(size, options)
        if options.json:
            print(json.dumps(row), flush=True)
        else:
            low, high = min(row["ratios"]), max(row["ratios"])
            print(
                f"{size} px, {row['fakes']} x {row['reals']}: {row['ratio']:.0f} times the scikit-image loop "
                f"(median of {options.rounds} turns, {low:.0f} to {high:.0f}; processor time {row['ratio_cpu']:.0f}); "
                f"{row['ours_us_per_pair']:.2f} us a pair, scikit-image {row['skimage_us_per_pair']:.0f} us "
                f"(of {options.pairs} pairs); agreement {row['agreement']:.1g}; peak {row['peak_mb']} MB; "
                f"{row['engine']}",
                flush=True,
            )
        if options.save:
            append(RESULTS, row)


if __name__ == "__main__":
    main()
