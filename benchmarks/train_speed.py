"""Training speed against the loop everybody starts from, on the same images, networks and batch.

    python benchmarks/train_speed.py [NAME ...] [--device cpu] [--pairs 5] [--data PATH] [--json] [--save]

The plain side is what tutorials write: eager, fp32, NCHW, a DataLoader with workers, Adam, ``.item()`` every step, in
the recipe's own update order. Ours is ``zoo train`` at the recipe's defaults, averages and meters included. Each side
is a process of its own; they take turns, a second or more each, and the ratio is the median over pairs of turns. The
floor is that of ``zoo train --profile``. ``--save`` appends to ``benchmarks/results/train_speed.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import record
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.data.dataset import Dataset, load_dataset
from zoo.recipes import build_networks, summarise_recipe
from zoo.runtime.device import choose_device, describe_environment
from zoo.runtime.speed import choose_speed
from zoo.runtime.timer import synchronize
from zoo.training.profiling import roofline
from zoo.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "train_speed.jsonl"
NAMES = ("multires-28", "dcgan-64", "dcgan-128", "dcgan-256", "lean-256", "stylegan-256", "multires-256")
TURN = 2.0  # seconds a turn takes, if a step is not longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--data", default="phantoms:16", metavar="PATH")
    record.arguments(parser, RESULTS)
    parser.add_argument("--worker", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.worker:
            work(options.worker, options.names[0], options.data, choose_device(options.device))
            return
        for name in options.names:
            recipes.load_recipe(name)
        record.each(options.names, lambda name: measure(name, options), line, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def line(row: dict[str, Any]) -> str:
    rates = f"{row['ours_img_per_s']:.1f} against {row['plain_img_per_s']:.1f} images a second"
    ratio = f"{row['ratio']:.2f} times the plain loop ({rates}, {row['pairs']} pairs)"
    return f"{row['name']}: {ratio}; {row['share_of_floor']:.0%} of the floor"


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One recipe's row."""
    resolved, device = recipes.load_recipe(name), choose_device(options.device)
    sides = {side: Side(side, name, options) for side in ("plain", "ours")}
    try:
        started = {side: worker.told() for side, worker in sides.items()}
        steps = {side: max(1, round(TURN / one["step_s"])) for side, one in started.items()}
        pairs = []
        for number in range(max(1, options.pairs)):
            order = ("plain", "ours") if number % 2 == 0 else ("ours", "plain")
            took = {side: sides[side].turn(steps[side]) / steps[side] for side in order}
            pairs.append((took["plain"], took["ours"]))
    finally:
        for worker in sides.values():
            worker.end()
    images = load_dataset(options.data, resolved.data)
    counted, rates = roofline.count_work(resolved, images), roofline.measure_rates(device)
    ours, plain = (statistics.median(pair[index] for pair in pairs) for index in (1, 0))
    least = roofline.roofline_seconds(counted, rates, choose_speed(resolved, device), resolved.train.batch)
    networks = summarise_recipe(resolved)
    return {
        "name": name,
        "ratio": statistics.median(plain / ours for plain, ours in pairs),
        "ours_img_per_s": resolved.train.batch / ours,
        "plain_img_per_s": resolved.train.batch / plain,
        "ratios": [plain / ours for plain, ours in pairs],
        "pairs": len(pairs),
        "batch": resolved.train.batch,
        "update": resolved.train.update,
        "share_of_floor": least / ours,
        "share_of_matrix_rate": counted.macs * resolved.train.batch / ours / rates.bf16,
        "macs_per_image": counted.macs,
        "parameters": [network.parameters for network in networks],
        "first_step_s": started["ours"]["first_step_s"],
        "speed": started["ours"]["speed"],
        "rates": vars(rates),
        "data": options.data,
        "environment": describe_environment(device, started["ours"]["speed"]["precision"]),
        "date": time.strftime("%Y-%m-%d"),
    }


class Side:
    """A process that takes steps when it is told to."""

    def __init__(self, side: str, name: str, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, name, "--worker", side, "--device", options.device, "--data", options.data]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def told(self) -> dict[str, Any]:
        """What the worker says of itself when it is ready."""
        return json.loads(self._line())

    def turn(self, steps: int) -> float:
        """Seconds of so many steps."""
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        stdin.write(f"{steps}\n")
        stdin.flush()
        return float(self._line())

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _line(self) -> str:
        stdout: IO[str] = self.process.stdout  # type: ignore[assignment]
        line = stdout.readline()
        if not line:
            raise ZooError(f"the process of {' '.join(self.process.args)} ended early")  # type: ignore[arg-type]
        return line


def work(side: str, name: str, path: str, device: torch.device) -> None:
    """The worker: two steps to warm up, then as many as each line of stdin says."""
    resolved = recipes.load_recipe(name)
    images = load_dataset(path, resolved.data)
    start = time.perf_counter()
    loop = Ours(resolved, images, device) if side == "ours" else Plain(resolved, images, device)
    loop.step()
    synchronize(device)
    first = last = time.perf_counter() - start
    # On a GPU recordings are made, and held against the network, by then; a step of minutes needs no warming.
    for _ in range(9 if device.type == "cuda" else 1 if first < 20 else 0):
        start = time.perf_counter()
        loop.step()
        synchronize(device)
        last = time.perf_counter() - start
    print(json.dumps({"first_step_s": first, "step_s": last, "speed": loop.speed}), flush=True)
    for told in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(told)):
            loop.step()
        synchronize(device)
        print(time.perf_counter() - start, flush=True)


class Ours:
    def __init__(self, resolved: Recipe, images: Dataset, device: torch.device) -> None:
        self.trainer = Trainer(resolved, images, device)
        self.step = self.trainer.step
        self.speed = self.trainer.speed.to_json()


class Images(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.train)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.images.images[self.images.train[index]].copy()).float() / 127.5 - 1


class Plain:
    """The loop everybody starts from."""

    def __init__(self, resolved: Recipe, images: Dataset, device: torch.device) -> None:
        self.device, self.update = device, resolved.train.update
        self.speed = {"precision": "fp32"}
        self.loader = torch.utils.data.DataLoader(
            Images(images), resolved.train.batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
        )
        self.batches = iter(self.loader)
        G, D = build_networks(resolved)
        self.G, self.D = G.to(device), D.to(device)
        config = resolved.optimizer
        self.opt_g, self.opt_d = (
            torch.optim.Adam(network.parameters(), lr=one.lr.at(0), betas=one.betas, eps=one.eps)
            for network, one in ((self.G, config.generator), (self.D, config.discriminator))
        )
        self.losses: list[float] = []

    def step(self) -> None:
        try:
            real = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            real = next(self.batches)
        real = real.to(self.device)
        z = torch.randn(len(real), self.G.latent.dim, device=self.device)
        if self.update == "alternating":
            self.alternating(real, z)
        else:
            self.simultaneous(real, z)

    def alternating(self, real: Tensor, z: Tensor) -> None:
        """PyTorch's DCGAN tutorial."""
        self.opt_d.zero_grad()
        loss_real = bce(self.D(real), 1.0)
        loss_real.backward()
        fake = self.G(z)
        loss_fake = bce(self.D(fake.detach()), 0.0)
        loss_fake.backward()
        self.opt_d.step()
        self.opt_g.zero_grad()
        loss_g = bce(self.D(fake), 1.0)
        loss_g.backward()
        self.opt_g.step()
        self.losses = [(loss_real + loss_fake).item(), loss_g.item()]

    def simultaneous(self, real: Tensor, z: Tensor) -> None:
        """TensorFlow's DCGAN tutorial."""
        fake = self.G(z)
        real_logits, fake_logits = self.D(real), self.D(fake)
        loss_d = bce(real_logits, 1.0) + bce(fake_logits, 0.0)
        loss_g = bce(fake_logits, 1.0)
        for loss, network in ((loss_d, self.D), (loss_g, self.G)):
            parameters = list(network.parameters())
            grads = torch.autograd.grad(loss, parameters, retain_graph=loss is loss_d)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
        self.opt_d.step()
        self.opt_g.step()
        self.losses = [loss_d.item(), loss_g.item()]


def bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


if __name__ == "__main__":
    main()
