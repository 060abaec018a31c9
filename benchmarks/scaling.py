"""Predict how training scales to many devices, from measured step times and message sizes.

    python benchmarks/scaling.py [NAME ...] [--check NAME] [--json] [--save]

docs/scaling.md states the model:

    T(n) = step + sum over messages of [2 (n - 1) / n x bytes / bandwidth(n) + 2 ceil(log2 n) x hop(n)]

``--check`` compares the model with this machine: it measures a step of one process with one thread, an all-reduce of
that network's gradients over loopback, and a step of two processes.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import Row, add_output_arguments, make_parser, measure_each, read_rows

from zoo import recipes
from zoo.core.config import Recipe
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
GPU_RESULTS = HERE / "results" / "gpu"  # written by gpu.py
NAMES = ("multires-28", "dcgan-64", "dcgan-256", "lean-256", "stylegan-256", "multires-256")
DEVICE_COUNTS = (8, 64, 512)
NVLINK_DEVICES = 8  # devices in one machine, linked by NVLink
# Rates as the makers state them: bytes/s in one direction, and seconds of a hop.
NVLINK = {"bandwidth": 450e9, "hop": 1e-6}  # fourth generation
NETWORK = {"bandwidth": 50e9, "hop": 5e-6}  # a 400 Gbit/s card per GPU
# Every kernel is launched by the host, so that even a step of tiny networks takes this long.
MIN_STEP_SECONDS = 5e-4
# 40 % of the stated bf16 multiply-adds/s, which is what training reaches; fp32 multiply-adds/s; bytes/s.
H200 = DeviceRates(fp32=33e12, bf16=0.4 * 495e12, copy=4.8e12)
TIMED_STEPS = 7  # of --check; the median counts


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--check", metavar="NAME", help="compare the model with two processes on this machine")
    add_output_arguments(parser, RESULTS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.worker:
            print(json.dumps(measure_in_world(options.names[0])), flush=True)
        elif options.check:
            measure_each([options.check], check_model, describe_row, options, RESULTS)
        else:
            measure_each(options.names, predict, describe_row, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def describe_row(row: Row) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def predict(name: str) -> Row:
    """Return the efficiency at each count of devices: the time of a step alone over T(n)."""
    recipe = recipes.load_recipe(name)
    bytes_by_network, norm_messages = count_messages(recipe)
    step, source = step_seconds(name)
    row: Row = {"name": name, "batch": recipe.train.batch, "step_s": step, "step_from": source}
    row |= {"bytes_g": bytes_by_network["G"], "bytes_d": bytes_by_network["D"], "norm_messages": norm_messages}
    for count in DEVICE_COUNTS:
        link = NVLINK if count <= NVLINK_DEVICES else NETWORK  # the slowest link decides
        transfer = sum(2 * (count - 1) / count * size / link["bandwidth"] for size in bytes_by_network.values())
        latency = 2 * (count - 1).bit_length() * link["hop"]
        total = step + transfer + (2 + norm_messages) * latency
        row[f"efficiency_{count}"] = step / total
        row[f"norms_share_{count}"] = norm_messages * latency / total
    return row


def count_messages(recipe: Recipe) -> tuple[dict[str, int], int]:
    """Return the bytes of each network's gradients, and the number of messages of synchronised batch norms."""
    networks = dict(zip("GD", build_networks(recipe, "meta"), strict=True))
    bytes_by_network = {name: 4 * count_parameters(networks[name]) for name in "GD"}
    # Passes: G once; D on real and generated images, and once more where G's phase runs it again.
    passes = {"G": 1, "D": 3 if recipe.train.update == "alternating" else 2}
    # A synchronised norm sends one message forward and one backward in each pass.
    norm_messages = 2 * sum(len(batch_norms(networks[name])) * passes[name] for name in "GD")
    return bytes_by_network, norm_messages


def step_seconds(name: str) -> tuple[float, str]:
    """Return the seconds of a step and their source: a measured GPU, or else the roofline of an H200."""
    for path in sorted(GPU_RESULTS.glob("*.jsonl")):
        for row in read_rows(path):
            if row.get("name") == name and "ours_img_per_s" in row and row["environment"]["device"] == "cuda":
                return row["batch"] / row["ours_img_per_s"], row["environment"]["hardware"]
    recipe = recipes.load_recipe(name)
    speed = Speed(device=torch.device("cpu"), precision="bf16")
    work = count_work(recipe, load_dataset("phantoms:2", recipe.data))
    shortest = roofline_seconds(work, H200, speed, recipe.train.batch)
    if shortest > MIN_STEP_SECONDS:
        return shortest, "roofline at 40 % of an H200"
    return MIN_STEP_SECONDS, "launches alone"


def check_model(name: str) -> Row:
    """Compare T(2) of the model with this machine; each process has one thread and half the batch."""
    half = recipes.load_recipe(name).train.batch // 2
    alone = run_processes(name, 1, f"train.batch={half}")[0]
    pair = run_processes(name, 2, f"train.batch={2 * half}")
    without_norms = run_processes(name, 2, f"train.batch={2 * half} train.sync_batch_norm=false")
    first = pair[0]
    return {
        "name": name,
        "batch": 2 * half,
        "processes": 2,
        "step_alone_s": alone["step_s"],
        "all_reduce_s": first["reduce_s"],
        "bytes": first["bytes"],
        "predicted_s": alone["step_s"] + first["reduce_s"],
        "measured_s": max(row["step_s"] for row in pair),
        "measured_without_norms_s": max(row["step_s"] for row in without_norms),
        "environment": describe_environment(torch.device("cpu"), first["precision"]),
    }


def run_processes(name: str, processes: int, overrides: str) -> list[Row]:
    """Run ``--worker`` in so many processes of one world; return the row of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # the system picks a free port
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    environment = {**os.environ, **world, "OMP_NUM_THREADS": "1", "OVERRIDE": overrides}
    group = [
        subprocess.Popen(
            [sys.executable, __file__, name, "--worker"],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate()[0] for process in group]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def measure_in_world(name: str) -> Row:
    """Return the seconds of a step and of its all-reduce, in the world that this process was started in."""
    recipe = recipes.load_recipe(name, os.environ["OVERRIDE"].split())
    with distributed.join_world(torch.device("cpu")):
        trainer = Trainer(recipe, load_dataset("phantoms:16", recipe.data), torch.device("cpu"))
        trainer.step()  # warm-up
        step_s = _median_seconds(trainer.step)
        parameters = [*trainer.G.parameters(), *trainer.D.parameters()]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        reduce_s = _median_seconds(lambda: distributed.reduce_gradients(parameters))
        message_bytes = distributed.reduce_gradients(parameters)
        trainer.loader.close()
    return {"step_s": step_s, "reduce_s": reduce_s, "bytes": message_bytes, "precision": trainer.speed.precision}


def _median_seconds(function: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(TIMED_STEPS):
        distributed.barrier()
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
