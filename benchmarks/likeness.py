"""How alike generated images are to one another and to the nearest real one, beside the same figures of real images.

    python benchmarks/likeness.py RUN [RUN ...] [--data PATH] [--n 64] [--reals N]

Pairwise SSIM of fakes well above that of real pairs is collapse; nearest-real SSIM is judged against that of unseen
real images: lower is blur or noise, higher is copying. Prints one JSON object a run, which
``benchmarks/results/originals.jsonl`` collects.
"""

from __future__ import annotations

import argparse
import json
import statistics

import numpy as np
from torch import Tensor

import zoo
from zoo import data, seeds
from zoo.metrics import ssim


def figures(run: zoo.Run, path: str | None, n: int, limit: int | None) -> dict[str, object]:
    """Means over ``n`` averaged fakes, against all (or ``limit``) training images of the run."""
    recipe, info, rows = zoo.load_recipe(run.recipe_file), run.info, run.rows()
    images = data.load(path or info["data"], recipe.data)
    generator = zoo.load_generator(run)
    rng = np.random.default_rng(seeds.derive("likeness"))
    train = images.take(rng.permutation(images.train)[:limit])
    unseen = images.take(rng.permutation(images.unseen)[:n])
    fakes = generator.sample(n)
    return {
        "recipe": recipe.name,
        "resolution": recipe.data.resolution,
        "digest": recipe.digest,
        "data": info["data_description"],
        "environment": info["environment"],
        "nimg": generator.nimg,
        "seconds": round(rows[-1]["time"]),
        "img_per_s": statistics.median(row["img_per_s"] for row in rows),
        "loss_d": rows[-1]["loss_d"],
        "loss_g": rows[-1]["loss_g"],
        "d_acc_real": rows[-1]["d_acc_real"],
        "d_acc_fake": rows[-1]["d_acc_fake"],
        "ssim_pairwise": pairwise(fakes),
        "ssim_pairwise_real": pairwise(train[:n]),
        "ssim_nearest": nearest(fakes, train),
        "ssim_nearest_unseen": nearest(unseen, train),
        "mean_grey": round(fakes.float().mean().item(), 2),
        "mean_grey_real": round(train.float().mean().item(), 2),
        "definition": f"{ssim.DEFINITION}; {n} averaged fakes, nearest of {len(train)} training images",
    }


def pairwise(images: Tensor) -> float:
    return round(ssim.pairwise_ssim(images, 255).mean().item(), 4)


def nearest(images: Tensor, reals: Tensor) -> float:
    return round(ssim.nearest_ssim(images, reals, 255)[0].mean().item(), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data", metavar="PATH", help="the images the runs were trained on; default: where they lay")
    parser.add_argument("--n", type=int, default=64, help="fakes to judge")
    parser.add_argument("--reals", type=int, help="training images to compare with; default: all")
    options = parser.parse_args()
    for path in options.runs:
        print(json.dumps(figures(zoo.Run(path), options.data, options.n, options.reals)), flush=True)


if __name__ == "__main__":
    main()
