"""How training would scale to many devices: measured step times and message sizes in a stated model.

    python benchmarks/scaling.py [NAME ...] [--check NAME] [--json] [--save]

Every process keeps its batch and sums its gradients in one flat message a phase, nothing overlapped (``zoo.runtime.distributed``):

    T(n) = step + sum over messages of [2 (n - 1) / n x bytes / bandwidth(n) + 2 ceil(log2 n) x hop(n)]

The messages are the gradients of G and of D, 4 bytes a parameter, and for each synchronised norm one forward and one
backward, whose bytes are nothing. ``bandwidth`` and ``hop`` are those of the slowest link: NVLINK up to 8 devices,
NETWORK beyond (a card a GPU), as their makers state them. ``step`` is that of ``results/gpu`` where a GPU was measured;
else the floor of ``zoo train --profile`` at 40 % of an H200's stated bf16 rate, and no less than LAUNCH: a fast step,
and so a hard case.

``--check`` holds the model against this machine: it measures a step in one process of one thread, an all-reduce of that
network's gradients over loopback, and a step of two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import record
import torch

from zoo import recipes
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.models.batch_norm import batch_norms
from zoo.models.summary import count_parameters
from zoo.recipes import build_networks
from zoo.runtime import distributed
from zoo.runtime.device import describe_environment
from zoo.runtime.speed import Speed
from zoo.training.profiling.roofline import DeviceRates, count_work, roofline_seconds
from zoo.training.trainer import Trainer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scaling.jsonl"
MEASURED = HERE / "results" / "gpu"
NAMES = ("multires-28", "dcgan-64", "dcgan-256", "lean-256", "stylegan-256", "multires-256")
COUNTS = (8, 64, 512)
NVLINK = {"bandwidth": 450e9, "hop": 1e-6}  # bytes/s a direction, fourth generation; s
NETWORK = {"bandwidth": 50e9, "hop": 5e-6}  # 400 Gbit/s a GPU; s
LAUNCH = 5e-4  # s: what a step costs its host even where launches are recorded, so that no step is shorter
H200 = DeviceRates(
    fp32=33e12, bf16=0.4 * 495e12, copy=4.8e12
)  # multiply-adds/s, 40 % of what its maker states; bytes/s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--check", metavar="NAME", help="hold the model against two processes on this machine")
    record.arguments(parser, RESULTS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.worker:
            print(json.dumps(measured_here(options.names[0])), flush=True)
            return
        names, measure = ([options.check], check) if options.check else (options.names, predict)
        record.each(names, measure, line, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def line(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def predict(name: str) -> dict[str, Any]:
    """Efficiency at each count of devices: the step's time over T(n)."""
    resolved = recipes.load_recipe(name)
    networks = dict(zip("GD", build_networks(resolved, "meta"), strict=True))
    sent = {phase: 4 * count_parameters(networks[phase]) for phase in "GD"}
    # Forward and backward: G once; D on reals and fakes, and once more where G's phase asks it again.
    passes = {"G": 1, "D": 3 if resolved.train.update == "alternating" else 2}
    messages = 2 * sum(len(batch_norms(networks[phase])) * passes[phase] for phase in "GD")
    step, source = step_seconds(name)
    row: dict[str, Any] = {"name": name, "batch": resolved.train.batch, "step_s": step, "step_from": source}
    row |= {"bytes_g": sent["G"], "bytes_d": sent["D"], "norm_messages": messages}
    for count in COUNTS:
        link = NVLINK if count <= 8 else NETWORK
        took = sum(2 * (count - 1) / count * size / link["bandwidth"] for size in sent.values())
        hops = 2 * (count - 1).bit_length() * link["hop"]
        row[f"efficiency_{count}"] = step / (step + took + (2 + messages) * hops)
        row[f"norms_share_{count}"] = messages * hops / (step + took + (2 + messages) * hops)
    return row


def step_seconds(name: str) -> tuple[float, str]:
    """Of a measured GPU, else of the floor that H200 gives."""
    for path in sorted(MEASURED.glob("*.jsonl")) if MEASURED.is_dir() else []:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row.get("name") == name and "ours_img_per_s" in row and row["environment"]["device"] == "cuda":
                return row["batch"] / row["ours_img_per_s"], row["environment"]["hardware"]
    resolved = recipes.load_recipe(name)
    speed = Speed(device=torch.device("cpu"), precision="bf16")
    counted = count_work(resolved, load_dataset("phantoms:2", resolved.data))
    least = roofline_seconds(counted, H200, speed, resolved.train.batch)
    return max(least, LAUNCH), "floor at 40 % of an H200" if least > LAUNCH else "launches alone"


def check(name: str) -> dict[str, Any]:
    """The model's T(2) on this machine beside the measured one: each process has one thread and half the batch."""
    half = recipes.load_recipe(name).train.batch // 2
    alone = launched(name, 1, f"train.batch={half}")[0]
    pair = launched(name, 2, f"train.batch={2 * half}")
    apart = launched(name, 2, f"train.batch={2 * half} train.sync_batch_norm=false")
    one = pair[0]
    predicted = alone["step_s"] + one["reduce_s"]
    return {
        "name": name,
        "batch": 2 * half,
        "processes": 2,
        "step_alone_s": alone["step_s"],
        "all_reduce_s": one["reduce_s"],
        "bytes": one["bytes"],
        "predicted_s": predicted,
        "measured_s": max(row["step_s"] for row in pair),
        "measured_without_norms_s": max(row["step_s"] for row in apart),
        "environment": describe_environment(torch.device("cpu"), one["precision"]),
    }


def launched(name: str, processes: int, override: str) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OVERRIDE": override}
    group = [
        subprocess.Popen(
            [sys.executable, __file__, name, "--worker"],
            env={**base, "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate()[0] for process in group]
    return [json.loads(text.splitlines()[-1]) for text in said]


def measured_here(name: str) -> dict[str, Any]:
    """A step, and the all-reduces that are in it, in the world this process is launched in."""
    resolved = recipes.load_recipe(name, os.environ["OVERRIDE"].split())
    with distributed.join_world(torch.device("cpu")):
        trainer = Trainer(resolved, load_dataset("phantoms:16", resolved.data), torch.device("cpu"))
        trainer.step()
        steps = []
        for _ in range(7):
            distributed.barrier()
            start = time.perf_counter()
            trainer.step()
            steps.append(time.perf_counter() - start)
        reduces, sent = [], 0
        parameters = [*trainer.G.parameters(), *trainer.D.parameters()]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for _ in range(7):
            distributed.barrier()
            start = time.perf_counter()
            sent = distributed.reduce_gradients(parameters)
            reduces.append(time.perf_counter() - start)
        trainer.loader.close()
    return {
        "step_s": statistics.median(steps),
        "reduce_s": statistics.median(reduces),
        "bytes": sent,
        "precision": trainer.speed.precision,
    }


if __name__ == "__main__":
    main()
