"""Compare training speed with a plain training loop on the same images, networks and batch.

    python benchmarks/train_speed.py [NAME ...] [--pairs 5] [--step-seconds 2] [--data PATH] [--json] [--save]

The plain loop is what tutorials write: eager, fp32, NCHW, a DataLoader with workers, Adam, ``.item()`` every step, in
the recipe's own update order. The other side is ``zoo train`` with the recipe's defaults, averages and meters included.
Each side has its own process. They take turns of a second or more, and the ratio is the median over pairs of turns.
The roofline is that of ``zoo train --profile``; a batch whose roofline is longer than ``--step-seconds`` is cut.
``--save`` appends to ``benchmarks/results/train_speed.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import torch
import torch.nn.functional as F
from common import Row, add_output_arguments, make_parser, measure_each
from torch import Tensor

from zoo import recipes
from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.data.dataset import Dataset, load_dataset
from zoo.losses.objective import Objective, Phase, evaluate_terms
from zoo.losses.step_outputs import StepOutputs
from zoo.recipes import build_networks, summarise_recipe
from zoo.runtime.device import choose_device, describe_environment
from zoo.runtime.speed import Speed
from zoo.runtime.timer import synchronize
from zoo.training.profiling import roofline
from zoo.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "train_speed.jsonl"
NAMES = ("fastgan-r3-64", "upscale-256", "multires-28", "dcgan-64", "dcgan-128", "dcgan-256", "lean-256")
NAMES += ("stylegan-256", "multires-256")
TURN_SECONDS = 2.0  # of a turn, unless a single step takes longer
CUDA_WARMUP_STEPS = 9  # torch.compile and its CUDA graphs are ready by then
SLOW_STEP_SECONDS = 20.0  # a CPU step this long needs no second warm-up step


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NAMES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of turns")
    parser.add_argument("--step-seconds", type=float, default=2.0, help="longest roofline of a step, by its batch")
    parser.add_argument("--data", default="phantoms:16", metavar="PATH")
    add_output_arguments(parser, RESULTS)
    parser.add_argument("--worker", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.worker:
            recipe = load_with_batch(options.names[0], options.batch)
            serve_steps(options.worker, recipe, options.data, choose_device(options.device))
            return
        for name in options.names:
            recipes.load_recipe(name)
        measure_each(options.names, lambda name: measure(name, options), describe_row, options, RESULTS)
    except ZooError as error:
        parser.exit(2, f"{error}\n")


def describe_row(row: Row) -> str:
    rates = f"{row['ours_img_per_s']:.1f} versus {row['plain_img_per_s']:.1f} images a second"
    ratio = f"{row['ratio']:.2f} times the plain loop ({rates}, {row['pairs']} pairs)"
    return f"{row['name']}: {ratio}; {row['share_of_floor']:.0%} of the roofline"


def load_with_batch(name: str, batch: int) -> Recipe:
    return recipes.load_recipe(name, [f"train.batch={batch}"])


def measure(name: str, options: argparse.Namespace) -> Row:
    """Return one recipe's row."""
    recipe, device = recipes.load_recipe(name), choose_device(options.device)
    work = roofline.count_work(recipe, load_dataset(options.data, recipe.data))
    rates = roofline.measure_rates(device)
    full = recipe.train.batches.at(0)
    batch = affordable_batch(full, work.macs / rates.fp32, options.step_seconds, recipe.discriminator.config.packing)
    warmup, pairs = _time_both_sides(load_with_batch(name, batch), options)
    # Once more: other programs can only lower a rate.
    again = roofline.measure_rates(device)
    rates = roofline.DeviceRates(**{key: max(rate, getattr(again, key)) for key, rate in vars(rates).items()})
    ours = statistics.median(ours for _, ours in pairs)
    plain = statistics.median(plain for plain, _ in pairs)
    speed = Speed(device=device, **warmup["speed"])
    return {
        "name": name,
        "ratio": statistics.median(plain / ours for plain, ours in pairs),
        "ours_img_per_s": batch / ours,
        "plain_img_per_s": batch / plain,
        "ratios": [plain / ours for plain, ours in pairs],
        "pairs": len(pairs),
        "batch": batch,
        "recipe_batch": full,
        "update": recipe.train.update,
        "share_of_floor": roofline.roofline_seconds(work, rates, speed, batch) / ours,
        "share_of_matrix_rate": work.macs * batch / ours / getattr(rates, speed.precision),
        "macs_per_image": work.macs,
        "parameters": [network.parameters for network in summarise_recipe(recipe)],
        "first_step_s": warmup["first_step_s"],
        "speed": warmup["speed"],
        "rates": vars(rates),
        "data": options.data,
        "environment": describe_environment(device, speed.precision),
        "date": time.strftime("%Y-%m-%d"),
    }


def affordable_batch(batch: int, image_seconds: float, step_seconds: float, packing: int) -> int:
    """Return the batch, or the largest one whose step can take ``step_seconds``, of at least two packs of images."""
    packs = max(2, int(step_seconds / image_seconds) // packing)
    return min(batch, packs * packing)


def _time_both_sides(recipe: Recipe, options: argparse.Namespace) -> tuple[Row, list[tuple[float, float]]]:
    """Return the warm-up of ``zoo``'s side, and seconds of a step (plain, ours) of each pair of turns."""
    period = Objective(recipe).period  # a turn has whole periods of penalties that are not due in every step
    sides = {side: StepProcess(side, recipe, options) for side in ("plain", "ours")}
    try:
        warmups = {side: process.read_warmup() for side, process in sides.items()}
        steps = {
            side: period * max(1, round(TURN_SECONDS / warmup["step_s"] / period)) for side, warmup in warmups.items()
        }
        pairs = []
        for number in range(max(1, options.pairs)):
            # The order alternates, so that a machine that slows down favours neither side.
            order = ("plain", "ours") if number % 2 == 0 else ("ours", "plain")
            seconds = {side: sides[side].time_steps(steps[side]) / steps[side] for side in order}
            pairs.append((seconds["plain"], seconds["ours"]))
    finally:
        for process in sides.values():
            process.end()
    return warmups["ours"], pairs


class StepProcess:
    """Process that takes training steps on request; see :func:`serve_steps`."""

    def __init__(self, side: str, recipe: Recipe, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, recipe.name, "--worker", side, "--batch", str(recipe.train.batches.at(0))]
        command += ["--device", options.device, "--data", options.data]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read_warmup(self) -> Row:
        """Wait until the process is ready; return the seconds of its first and last step, and its speed settings."""
        return json.loads(self._read_line())

    def time_steps(self, steps: int) -> float:
        """Return the seconds that ``steps`` steps take."""
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        stdin.write(f"{steps}\n")
        stdin.flush()
        return float(self._read_line())

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _read_line(self) -> str:
        stdout: IO[str] = self.process.stdout  # type: ignore[assignment]
        line = stdout.readline()
        if not line:
            command = " ".join(self.process.args)  # type: ignore[arg-type]
            raise ZooError(f"{command}: the process ended early. Its error is printed above.")
        return line


def serve_steps(side: str, recipe: Recipe, path: str, device: torch.device) -> None:
    """Take warm-up steps, then as many steps as each line of stdin asks for; print their seconds."""
    data = load_dataset(path, recipe.data)
    start = time.perf_counter()
    loop = ZooLoop(recipe, data, device) if side == "ours" else PlainLoop(recipe, data, device)
    loop.step()
    synchronize(device)
    # The first step includes allocation and, on a GPU, compilation; it is reported and never timed.
    first = last = time.perf_counter() - start
    warmup_steps = CUDA_WARMUP_STEPS
    if device.type != "cuda":
        warmup_steps = 1 if first < SLOW_STEP_SECONDS else 0
    for _ in range(warmup_steps):
        start = time.perf_counter()
        loop.step()
        synchronize(device)
        last = time.perf_counter() - start
    print(json.dumps({"first_step_s": first, "step_s": last, "speed": loop.speed}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            loop.step()
        synchronize(device)
        print(time.perf_counter() - start, flush=True)


class ZooLoop:
    """The steps of ``zoo train``."""

    def __init__(self, recipe: Recipe, data: Dataset, device: torch.device) -> None:
        self.trainer = Trainer(recipe, data, device)
        self.step = self.trainer.step
        self.speed = self.trainer.speed.to_json()


class TrainingImages(torch.utils.data.Dataset[Tensor]):
    """Training images as float tensors (C, H, W) in [-1, 1]."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.data.images[self.data.train[index]].copy()).float() / 127.5 - 1


class PlainLoop:
    """The training loop of tutorials, with the recipe's networks, optimizer settings and update order."""

    def __init__(self, recipe: Recipe, data: Dataset, device: torch.device) -> None:
        self.device, self.update = device, recipe.train.update
        self.speed = {"precision": "fp32"}
        self.loader = torch.utils.data.DataLoader(
            TrainingImages(data),
            recipe.train.batches.at(0),
            shuffle=True,
            drop_last=True,
            num_workers=2,
            persistent_workers=True,
        )
        self.batches = iter(self.loader)
        G, D = build_networks(recipe)
        self.G, self.D = G.to(device), D.to(device)
        config = recipe.optimizer
        self.opt_g, self.opt_d = (
            torch.optim.Adam(network.parameters(), lr=adam.lr.at(0), betas=adam.betas, eps=adam.eps)
            for network, adam in ((self.G, config.generator), (self.D, config.discriminator))
        )
        self.objective = Objective(recipe)
        self.own_loss = recipe.loss.name != "nonsaturating" or bool(recipe.penalties)
        self.steps = 0
        self.losses: list[float] = []

    def step(self) -> None:
        """Train both networks on one batch."""
        try:
            real = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            real = next(self.batches)
        real = real.to(self.device)
        z = torch.randn(len(real), self.G.latent.dim, device=self.device)
        if self.own_loss:
            self.update_by_objective(real, z)
        elif self.update == "alternating":
            self.update_in_turn(real, z)
        else:
            self.update_together(real, z)
        self.steps += 1

    def update_by_objective(self, real: Tensor, z: Tensor) -> None:
        """Update D, then G, by the losses and penalties of a recipe whose loss is not binary cross-entropy alone."""
        fake = self.G(z)
        self.losses = []
        phases: list[tuple[Phase, torch.optim.Optimizer]] = [("D", self.opt_d), ("G", self.opt_g)]
        for phase, optimizer in phases:
            terms = self.objective.due(phase, self.steps)
            differentiated = {term.differentiates for term in terms}
            x = real.detach().requires_grad_("real" in differentiated)
            y = fake.detach().requires_grad_("fake" in differentiated) if phase == "D" else fake
            optimizer.zero_grad()
            outputs = StepOutputs(real=x, fake=y, real_logits=self.D(x), fake_logits=self.D(y), nimg=0, z=z, G=self.G)
            loss, _ = evaluate_terms(terms, outputs)
            loss.backward()
            optimizer.step()
            self.losses.append(loss.item())

    def update_in_turn(self, real: Tensor, z: Tensor) -> None:
        """Update D, then G through the new D, as in PyTorch's DCGAN tutorial."""
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
        # .item() in every step, as tutorials do; on a GPU it waits for the step to finish.
        self.losses = [(loss_real + loss_fake).item(), loss_g.item()]

    def update_together(self, real: Tensor, z: Tensor) -> None:
        """Update G and D from one pass through the old networks, as in TensorFlow's DCGAN tutorial."""
        fake = self.G(z)
        real_logits, fake_logits = self.D(real), self.D(fake)
        loss_d = bce(real_logits, 1.0) + bce(fake_logits, 0.0)
        loss_g = bce(fake_logits, 1.0)
        for loss, network in ((loss_d, self.D), (loss_g, self.G)):
            # Gradients of each loss for its own network only: both share one graph.
            parameters = list(network.parameters())
            grads = torch.autograd.grad(loss, parameters, retain_graph=loss is loss_d)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
        self.opt_d.step()
        self.opt_g.step()
        self.losses = [loss_d.item(), loss_g.item()]


def bce(logits: Tensor, target: float) -> Tensor:
    """Return the mean binary cross-entropy of logits against one target for all images."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


if __name__ == "__main__":
    main()
