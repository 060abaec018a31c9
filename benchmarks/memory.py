"""Memory of training on a thousand images and on a hundred thousand.

    python benchmarks/memory.py [--recipe multires-28] [--subjects 32 3125] [--kimg 110] [--save]

A process each, on phantoms (32 slices a subject), shown ``--kimg`` thousand images: more than the larger set has, to a
network a tenth as wide, since it is the images' memory that is asked for. The
process's own memory is what the system would have to find a place for; what is resident includes pages of the images'
map that lie in the system's cache anyway, which are let go every 64 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import append

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"
WORKER = """
import json, sys, threading, time
import torch
from pathlib import Path
from zoo import recipes
from zoo.data.dataset import load_dataset
from zoo.runtime.device import peak_memory, reset_peak_memory
from zoo.training.trainer import Trainer
name, subjects, kimg = sys.argv[1], sys.argv[2], float(sys.argv[3])
resolved = recipe.load(name, ["generator.width=0.1", "discriminator.width=0.1"])
images = load_dataset(f"phantoms:{subjects}", resolved.data)
trainer = Trainer(resolved, images, torch.device("cpu"))
reset_peak_memory(torch.device("cpu"))
own = 0
while trainer.nimg < 1000 * kimg:
    trainer.step()
    if trainer.nimg % 1024 < resolved.train.batch:
        lines = Path("/proc/self/status").read_text().splitlines()
        own = max(own, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))
row = {"recipe": name, "images": len(images.images), "nimg": trainer.nimg, "set_bytes": images.images.nbytes}
print(json.dumps({**row, "own_bytes": own, "peak_bytes": peak_memory(torch.device("cpu"))}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="multires-28")
    parser.add_argument("--subjects", type=int, nargs="+", default=[32, 3125])
    parser.add_argument("--kimg", type=float, default=110)
    parser.add_argument("--save", action="store_true", help=f"append the results to {RESULTS.name}")
    options = parser.parse_args()
    for subjects in options.subjects:
        command = [sys.executable, "-c", WORKER, options.recipe, str(subjects), str(options.kimg)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(row), flush=True)
        if options.save:
            append(RESULTS, row)


if __name__ == "__main__":
    main()
