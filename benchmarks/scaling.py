"""Predict how training scales to many devices, from measured step times and message sizes.

    python benchmarks/scaling.py [NAME ...] [--json] [--save]
    python benchmarks/scaling.py --check NAME [--processes 2] [--batch N] [--mbit 1000] [--save]

docs/scaling.md states the model:

    T(n) = step + sum over messages of [2 (n - 1) / n x bytes / bandwidth(n) + 2 ceil(log2 n) x hop(n)]

``--check`` compares it with processes of one thread on this machine: steps of processes that do not know of each other,
an all-reduce of that network's gradients, and steps of one group. With ``--mbit`` they run in a network namespace of
their own, whose loopback carries so much per process (Linux; `unshare`, and `ip` and `tc` of iproute2).
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
from zoo.recipes import build_networks, summarise_recipe
from zoo.runtime import distributed
from zoo.runtime.device import describe_environment
from zoo.runtime.speed import Speed
from zoo.training.profiling.roofline import DeviceRates, count_work, roofline_seconds
from zoo.training.trainer import Trainer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scaling.jsonl"
GPU_RESULTS = HERE / "results" / "train_speed.jsonl"
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
TIMED_STEPS = 5  # of --check; the median counts
NAMESPACE = "ZOO_SCALING_NAMESPACE"  # environment variable of a process that runs in its own network namespace


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--check", metavar="NAME", help="compare the model with processes on this machine")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="of --check (default: 2)")
    parser.add_argument("--batch", type=int, metavar="N", help="of each process (default: its part of the recipe's)")
    parser.add_argument("--mbit", type=int, metavar="N", help="million bits per second that each process can send")
    add_output_arguments(parser, RESULTS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.worker:
            print(json.dumps(measure_in_world(options.names[0])), flush=True)
        elif options.check:
            if options.mbit and NAMESPACE not in os.environ:
                restart_in_namespace(options.processes * options.mbit)
            measure_each([options.check], lambda name: check_model(name, options), describe_row, options, RESULTS)
        else:
            measure_each(options.names, predict, describe_row, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def describe_row(row: Row) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def predict(name: str) -> Row:
    """Return the efficiency at each count of devices: the time of a step alone over T(n).

    ``efficiency_overlap_N`` is that of sending each gradient as soon as the backward pass has it.
    """
    recipe = recipes.load_recipe(name)
    bytes_by_network, norm_messages = count_messages(recipe)
    step, source = step_seconds(name)
    row: Row = {"name": name, "batch": recipe.train.batch, "step_s": step, "step_from": source}
    row |= {"bytes_g": bytes_by_network["G"], "bytes_d": bytes_by_network["D"], "norm_messages": norm_messages}
    for count in DEVICE_COUNTS:
        link = NVLINK if count <= NVLINK_DEVICES else NETWORK  # the slowest link decides
        byte_s = 2 * (count - 1) / count / link["bandwidth"]
        latency = 2 * (count - 1).bit_length() * link["hop"]
        rest = step + (2 + norm_messages) * latency
        total = rest + byte_s * sum(bytes_by_network.values())
        row[f"efficiency_{count}"] = step / total
        row[f"efficiency_overlap_{count}"] = step / (rest + sum(exposed_seconds(recipe, step, byte_s)))
        row[f"norms_share_{count}"] = norm_messages * latency / total
    return row


def exposed_seconds(recipe: Recipe, step: float, byte_s: float) -> list[float]:
    """Return for G and D the seconds of sending that its backward pass cannot hide.

    Gradients exist from the last layer to the first, and a layer's part of the pass is that of its multiply-adds. The
    passes of a step: G forward and twice that backward; D on real and on generated images, and once more for G.
    """
    networks = summarise_recipe(recipe)
    passes = 3, 8 if recipe.train.update == "alternating" else 7
    work = sum(count * network.macs for count, network in zip(passes, networks, strict=True))
    exposed = []
    for network in networks:
        computed = sent = 0.0
        for layer in reversed(network.layers):
            computed += step * 2 * layer.macs / work
            sent = max(sent, computed) + 4 * layer.parameters * byte_s
        exposed.append(sent - computed)
    return exposed


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
    for row in read_rows(GPU_RESULTS):
        if row["name"] == name and row["environment"]["device"] == "cuda":
            return row["batch"] / row["ours_img_per_s"], row["environment"]["hardware"]
    recipe = recipes.load_recipe(name)
    speed = Speed(device=torch.device("cpu"), precision="bf16")
    work = count_work(recipe, load_dataset("phantoms:2", recipe.data))
    shortest = roofline_seconds(work, H200, speed, recipe.train.batch)
    if shortest > MIN_STEP_SECONDS:
        return shortest, "roofline at 40 % of an H200"
    return MIN_STEP_SECONDS, "launches alone"


def restart_in_namespace(mbit: int) -> None:
    """Replace this process by the same command in a network namespace whose loopback carries ``mbit`` million bits."""
    link = f"ip link set lo up && tc qdisc add dev lo root tbf rate {mbit}mbit burst 1mb latency 400ms"
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", f'{link} && exec "$@"', "sh"]
    os.environ[NAMESPACE] = "1"
    os.execvp(command[0], [*command, sys.executable, *sys.argv])


def check_model(name: str, options: argparse.Namespace) -> Row:
    """Compare T(n) of the model with this machine."""
    count = options.processes
    local = options.batch or recipes.load_recipe(name).train.batch // count
    separate = run_processes(name, [1] * count, f"train.batch={local}")
    group = run_processes(name, [count], f"train.batch={count * local}")
    without_norms = run_processes(name, [count], f"train.batch={count * local} train.sync_batch_norm=false")
    alone, first = max(row["step_s"] for row in separate), group[0]
    row: Row = {"name": name, "batch": count * local, "processes": count, "mbit": options.mbit}
    transfer = first["reduce_s"]
    if options.mbit:
        transfer = 2 * (count - 1) / count * first["bytes"] / (options.mbit * 1e6 / 8)
    return row | {
        "step_alone_s": alone,
        "transfer_s": transfer,
        "all_reduce_s": first["reduce_s"],
        "bytes": first["bytes"],
        "predicted_s": alone + transfer,
        "measured_s": max(row["step_s"] for row in group),
        "measured_without_norms_s": max(row["step_s"] for row in without_norms),
        "environment": describe_environment(torch.device("cpu"), first["precision"]),
    }


def run_processes(name: str, worlds: list[int], overrides: str) -> list[Row]:
    """Run ``--worker`` in worlds of so many processes each, all at once; return the row of each process."""
    group = []
    for size in worlds:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))  # the system picks a free port
            port = str(free.getsockname()[1])
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
        environment = {**os.environ, **world, "OMP_NUM_THREADS": "1", "OVERRIDE": overrides}
        if NAMESPACE in os.environ:
            environment["GLOO_SOCKET_IFNAME"] = "lo"  # the only one there; the host's name stands for none
        for rank in range(size):
            command = [sys.executable, __file__, name, "--worker"]
            environment = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            group.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
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
