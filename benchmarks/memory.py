"""Measure the memory of training on a thousand images and on a hundred thousand images.

    python benchmarks/memory.py [--recipe multires-28] [--subjects 32 3125] [--kimg 110] [--save]

Each size has its own process. It trains on phantoms (32 slices a subject) for ``--kimg`` thousand images, more than
the larger set has. The networks are a tenth as wide as usual, because the memory of the images is measured.

The process's own memory is what the system would have to keep elsewhere. Resident memory also counts pages of the
memory-mapped images, which the system caches anyway and which training releases every 64 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import Row, append_row, make_parser

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"
NARROW = ("generator.width=0.1", "discriminator.width=0.1")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--recipe", default="multires-28")
    parser.add_argument("--subjects", type=int, nargs="+", default=[32, 3125])
    parser.add_argument("--kimg", type=float, default=110)
    parser.add_argument("--save", action="store_true", help=f"append the results to {RESULTS.name}")
    parser.add_argument("--worker", type=int, metavar="SUBJECTS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure_training(options.recipe, options.worker, options.kimg)))
        return
    for subjects in options.subjects:
        command = [sys.executable, __file__, "--recipe", options.recipe, "--kimg", str(options.kimg)]
        command += ["--worker", str(subjects)]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row: Row = json.loads(process.stdout.splitlines()[-1])
        print(json.dumps(row), flush=True)
        if options.save:
            append_row(RESULTS, row)


def measure_training(name: str, subjects: int, kimg: float) -> Row:
    """Train in this process; return the bytes of the image set, the process's own peak, and the resident peak."""
    import torch

    from zoo import recipes
    from zoo.data.dataset import load_dataset
    from zoo.runtime.device import describe_environment, peak_memory, reset_peak_memory
    from zoo.training.trainer import Trainer

    cpu = torch.device("cpu")
    recipe = recipes.load_recipe(name, NARROW)
    data = load_dataset(f"phantoms:{subjects}", recipe.data)
    trainer = Trainer(recipe, data, cpu)
    reset_peak_memory(cpu)  # forget peaks of preparing images and building networks
    own_bytes = 0
    while trainer.nimg < 1000 * kimg:
        trainer.step()
        if trainer.nimg % 1024 < recipe.train.batch:  # once every 1,024 images
            own_bytes = max(own_bytes, _anonymous_bytes())
    return {
        "recipe": name,
        "images": len(data.images),
        "nimg": trainer.nimg,
        "set_bytes": data.images.nbytes,
        "own_bytes": own_bytes,
        "peak_bytes": peak_memory(cpu),
        "environment": describe_environment(cpu, trainer.speed.precision),
    }


def _anonymous_bytes() -> int:
    """Return the resident bytes that no file backs (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
