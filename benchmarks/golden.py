"""Record what training, sampling, resuming and comparing produce, and check that it has not changed.

    python benchmarks/golden.py save golden.json                  # before a change
    python benchmarks/golden.py check golden.json                 # after it: exit code 1 if any value differs
    python benchmarks/golden.py check golden.json --only dcgan-64,compare --zoo /path/to/another/zoo

Only the command line of `zoo` is used, so that the same file runs at two commits. Values are compared bit for bit and
depend on the processor and on torch's build: record the base commit again on every machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

STEPS = 24
NUM_SAMPLES = 16
KILL_AFTER_ROWS = 12  # the killed run has written at least one checkpoint by then
TIMEOUT_S = 600.0
VOLATILE_KEYS = ("img_per_s", "data_wait_s", "time")  # depend on the clock

NARROW = ("generator.width=0.125", "discriminator.width=0.125")
STYLEGAN_32 = (
    "data.resolution=32",
    "generator.latent=64",
    "generator.channels=64",
    "discriminator.channels=[16, 32, 32, 64]",
    "discriminator.dense=64",
)
# Recipe and what is set in it. Batches are small, so that all eight take a few minutes of two CPU cores.
RECIPES: dict[str, tuple[str, ...]] = {
    "dcgan-64": ("train.batch=8", "generator.width=0.5", "discriminator.width=0.5"),
    "lean-256": ("train.batch=2", *NARROW),
    "stylegan-256": ("train.batch=4", *STYLEGAN_32),
    "multires-28": ("train.batch=8",),
    "fastgan-r3-64": (),
    "r3gan-64": ("train.batch=8",),
    "stylegan2-64": ("train.batch=8",),
    "projected-64": ("train.batch=8", "discriminator.pretrained=false"),
}

Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("save", "check"))
    parser.add_argument("file", type=Path, metavar="FILE", help="where the values are, or are to be written")
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"of {', '.join([*RECIPES, 'compare'])}")
    parser.add_argument("--zoo", metavar="PATH", help="the command to run (default: `python -m zoo`)")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or [*RECIPES, "compare"]
    unknown = [name for name in names if name not in (*RECIPES, "compare")]
    if unknown:
        parser.error(f"--only {unknown[0]}: unknown. Choose from {', '.join([*RECIPES, 'compare'])}.")
    command = [options.zoo] if options.zoo else [sys.executable, "-m", "zoo"]
    values = {}
    for name in names:
        start = time.monotonic()
        values[name] = record_compare(command) if name == "compare" else record_recipe(command, name)
        print(f"{name}: recorded in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    if options.action == "save":
        options.file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        return
    expected = json.loads(options.file.read_text(encoding="utf-8"))
    changes = [line for name in names for line in differences(name, expected.get(name), values[name])]
    print("\n".join(changes) or f"unchanged: {', '.join(names)}")
    sys.exit(1 if changes else 0)


def record_recipe(command: Sequence[str], name: str) -> Record:
    """Losses, weights and samples of a short run, and whether a killed and resumed one ends in the same."""
    with tempfile.TemporaryDirectory(prefix="zoo-golden-") as folder:
        whole = train(command, name, Path(folder) / "whole")
        images = sample(command, whole, Path(folder) / "samples.npz")
        killed = train_with_a_kill(command, name, Path(folder) / "killed")
        rows = log_rows(whole)
        return {
            "digest": json.loads((whole / "run.json").read_text(encoding="utf-8"))["recipe_digest"],
            "rows": rows,
            "weights": hash_weights(whole),
            "samples": [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images],
            "resumed_equals_whole": log_rows(killed) == rows and hash_weights(killed) == hash_weights(whole),
        }


def record_compare(command: Sequence[str]) -> Record:
    """What `zoo compare` measures of two small sets with features of a random network."""
    with tempfile.TemporaryDirectory(prefix="zoo-golden-") as name:
        folder = Path(name)
        for file, seed in (("fakes.npy", 1), ("reals.npy", 2), ("unseen.npy", 3)):
            np.save(folder / file, blobs(seed))
        paths = [str(folder / "fakes.npy"), str(folder / "reals.npy"), "--unseen", str(folder / "unseen.npy")]
        output = run_zoo(command, "compare", *paths, "--spaces", "random", "--device", "cpu", "--json")
        result = json.loads(output)
    metrics = [metric["name"] for metric in result["metrics"]]
    values: Record = {metric: number(result[metric]) for metric in metrics if metric in result}
    values["baselines"] = {
        baseline: {metric: number(row[metric]) for metric in metrics if metric in row}
        for baseline, row in result["floors"].items()
    }
    values["alarms"] = [[alarm["name"], alarm["metric"]] for alarm in result["alarms"]]
    return values


def number(value: dict[str, Any]) -> list[Any]:
    """A metric's value with its interval; texts are left out, which may be reworded."""
    return [value["value"], value["low"], value["high"], value["n"]]


def train(command: Sequence[str], name: str, out: Path) -> Path:
    """Train to the end; return the run's folder."""
    run_zoo(command, *train_arguments(name, out))
    return next(out.glob(f"{name}-*"))


def train_with_a_kill(command: Sequence[str], name: str, out: Path) -> Path:
    """Kill a run in its second half, then let the same command finish it; return the run's folder."""
    arguments = [*command, *train_arguments(name, out)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        logs = list(out.glob("*/log.jsonl"))
        if logs and logs[0].read_text(encoding="utf-8").count("\n") >= KILL_AFTER_ROWS:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    return train(command, name, out)


def train_arguments(name: str, out: Path) -> list[str]:
    overrides = [
        *RECIPES[name],
        f"train.log_kimg={batch_of(name) / 1000}",
        f"train.checkpoint_kimg={4 * batch_of(name) / 1000}",
    ]
    overrides += ["train.sample_kimg=1000", "train.evaluate_share=1"]
    arguments = ["train", name, "--data", "phantoms:8", "--out", str(out), "--device", "cpu", "--precision", "fp32"]
    arguments += ["--kimg", str(STEPS * batch_of(name) / 1000)]
    return [*arguments, *(part for override in overrides for part in ("--set", override))]


def batch_of(name: str) -> int:
    """Images a step: as set above, else as in the recipe."""
    return next((int(value.partition("=")[2]) for value in RECIPES[name] if value.startswith("train.batch=")), 8)


def sample(command: Sequence[str], run: Path, file: Path) -> np.ndarray:
    """uint8 (NUM_SAMPLES, C, H, W) or (NUM_SAMPLES, H, W), as `zoo sample` writes them."""
    run_zoo(command, "sample", str(run), "-n", str(NUM_SAMPLES), "--seed", "3", "--out", str(file), "--device", "cpu")
    with np.load(file) as archive:
        return archive[archive.files[0]]


def log_rows(run: Path) -> list[Record]:
    """The log without what depends on the clock and without texts."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if is_stable(key, value)} for row in rows]


def is_stable(key: str, value: Any) -> bool:
    return key not in VOLATILE_KEYS and isinstance(value, int | float)


def hash_weights(run: Path) -> str:
    """A hash of the averaged generator's tensors; the file's metadata may change."""
    tensors = safetensors.numpy.load_file(run / "generator.safetensors")
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        state.update(tensors[name].tobytes())
    return state.hexdigest()[:16]


def blobs(seed: int, count: int = 48, size: int = 32) -> np.ndarray:
    """uint8 (count, size, size): ellipses with some noise on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    images = []
    for _ in range(count):
        a, b, brightness = rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9), rng.uniform(90, 220)
        inside = (x / a) ** 2 + (y / b) ** 2 < 1
        images.append(np.where(inside, brightness + rng.normal(0, 12, x.shape), 0).clip(0, 255).astype(np.uint8))
    return np.stack(images)


def run_zoo(command: Sequence[str], *arguments: str) -> str:
    """What a command prints; its errors end this script."""
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment()
    )
    if done.returncode:
        sys.exit(f"{' '.join([*command, *arguments])} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "ZOO_OFFLINE": "1", "ZOO_MEASURE": "0", "OMP_NUM_THREADS": "2"}


def differences(name: str, expected: Any, found: Any) -> Iterator[str]:
    """One line for each value that is not what it was."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*expected, *found]):
            yield from differences(f"{name}.{key}", expected.get(key), found.get(key))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (before, after) in enumerate(zip(expected, found, strict=True)):
            yield from differences(f"{name}[{index}]", before, after)
    elif expected != found:
        yield f"{name}: was {expected!r}, is {found!r}"


if __name__ == "__main__":
    main()
