"""How alike generated images are to one another and to the nearest real one, beside the same figures of real images.

    python benchmarks/likeness.py RUN [RUN ...] [--data PATH] [--n 64]

Pairwise SSIM of fakes well above that of real pairs is collapse; nearest-real SSIM is judged against that of unseen
real images: lower is blur or noise, higher is copying. Prints one JSON object a run.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

import zoo
from zoo import data, seeds
from zoo.metrics import ssim


def figures(run: zoo.Run, path: str | None, n: int) -> dict[str, object]:
    """Means over ``n`` averaged fakes, against every training image of the run."""
    recipe = zoo.load_recipe(run.recipe_file)
    images = data.load(path or run.info["data"], recipe.data)
    generator = zoo.load_generator(run.path)
    rng = np.random.default_rng(seeds.derive("likeness"))
    train = images.take(images.train)
    some = images.take(rng.permutation(images.train)[:n])
    unseen = images.take(rng.permutation(images.unseen)[:n])
    fakes = generator.sample(n)
    rows = run.rows()
    return {
        "run": str(run.path),
        "nimg": generator.nimg,
        "seconds": rows[-1]["time"],
        "ssim_pairwise": pairwise(fakes),
        "ssim_pairwise_real": pairwise(some),
        "ssim_nearest": nearest(fakes, train),
        "ssim_nearest_unseen": nearest(unseen, train),
        "mean_grey": fakes.float().mean().item(),
        "mean_grey_real": train.float().mean().item(),
        "definition": f"{ssim.DEFINITION}; {n} fakes, nearest of {len(train)} training images",
    }


def pairwise(images) -> float:
    return round(ssim.pairwise_ssim(images.float(), 255).mean().item(), 4)


def nearest(images, reals) -> float:
    return round(ssim.nearest_ssim(images.float(), reals, 255)[0].mean().item(), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data", metavar="PATH", help="the images the runs were trained on; default: where they lay")
    parser.add_argument("--n", type=int, default=64)
    options = parser.parse_args()
    for path in options.runs:
        print(json.dumps(figures(zoo.Run(path), options.data, options.n)))


if __name__ == "__main__":
    main()
