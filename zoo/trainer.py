"""One training step of any generator and any discriminator, and the state that it changes.

Both networks' objectives are lists of terms (``zoo.objective``); no architecture is named here. The two update
orders of the field:

- ``alternating`` (the DCGAN tutorials): D is updated on real and detached fake images, then G through the updated D
  with the same fakes.
- ``simultaneous`` (the Keras tutorials): both gradients are taken from the same passes through D, then both networks
  are updated.

D sees real and fake images in separate passes, so that its batch statistics are separate, as in all five originals.
Progress is counted in images, ``nimg``, and all randomness is a function of the seed and ``nimg`` (``zoo.seeds``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo import seeds
from zoo.data import Dataset
from zoo.ema import CALIBRATION_BATCH, Ema
from zoo.errors import ZooError
from zoo.log import Meters
from zoo.networks import Generator
from zoo.norms import has_dense_norm, momentum
from zoo.objective import Objective, Phase, Step, Term, evaluate
from zoo.precision import full
from zoo.recipe import OptimizerConfig, Recipe
from zoo.report.pictures import from_uint8


class Trainer:
    """Networks, averages, optimisers and meters of a run, and the step that moves them.

    Attributes:
        G, D: the networks being trained.
        ema: the averaged generator.
        nimg: images seen so far.
        meters: means of losses and logits since the last row of the log.
    """

    def __init__(self, recipe: Recipe, data: Dataset, device: torch.device) -> None:
        self.recipe, self.data, self.device = recipe, data, device
        torch.manual_seed(seeds.derive(recipe.train.seed, "weights"))
        G, D = recipe.build()
        self.G, self.D = G.to(device).train(), D.to(device).train()
        for side, network in (("generator", G), ("discriminator", D)):
            if (recipe.train.micro_batch or recipe.train.batch) < 2 and has_dense_norm(network):
                key = "micro_batch" if recipe.train.micro_batch else "batch"
                raise ZooError(f"train.{key}: the {side} normalises over the batch and takes at least 2 images at once")
        self.ema = Ema(self.G, recipe.ema)
        self.optimizers = {
            "G": _optimizer(recipe.optimizer.generator, self.G),
            "D": _optimizer(recipe.optimizer.discriminator, self.D),
        }
        self.objective = Objective(recipe)
        self.meters = Meters()
        self.nimg = 0
        self._order = seeds.Order(recipe.train.seed, len(data.train), replacement=recipe.data.order == "replacement")

    def step(self) -> None:
        """Show both networks one batch."""
        config = self.recipe.train
        self._set_learning_rates()
        if config.update == "simultaneous":
            self._simultaneous_step()
        else:
            self._alternating_step()
        self.nimg += config.batch
        self.ema.update(self.G, self.nimg, config.batch)

    def _simultaneous_step(self) -> None:
        terms = {phase: self._due(phase) for phase in ("D", "G")}
        for index, (real, z, share) in enumerate(self._micro_batches()):
            with self._forward("both", index, terms["D"] + terms["G"]):
                step = self._show(real, self._fakes(z), terms["D"])
            self._backward("D", terms["D"], step, share, retain_graph=True)
            self._backward("G", terms["G"], step, share)
        self._update("D")
        self._update("G")

    def _alternating_step(self) -> None:
        batches = list(self._micro_batches())
        terms = {phase: self._due(phase) for phase in ("D", "G")}
        kept = None  # G's graph, for its own phase, where the whole batch fits at once
        for index, (real, z, share) in enumerate(batches):
            with self._forward("fakes", index, terms["G"]):
                if len(batches) == 1:
                    fake = kept = self._fakes(z)
                else:  # made again in G's phase: its graph for all micro-batches would not fit
                    with torch.no_grad(), momentum(self.G, 0.0):
                        fake = self._fakes(z)
            with self._forward("D", index, terms["D"]):
                step = self._show(real, fake.detach(), terms["D"])
            self._backward("D", terms["D"], step, share)
        self._update("D")
        for index, (real, z, share) in enumerate(batches):
            with self._forward("fakes", index, terms["G"]):
                fake = self._fakes(z) if kept is None else kept
            with self._forward("G", index, terms["G"]):
                step = self._show(real if self.objective.needs_real else None, fake, terms["G"])
            self._backward("G", terms["G"], step, share)
        self._update("G")

    def _micro_batches(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Real images, latents, and the share of the batch; drawn for the whole batch, then cut."""
        config, seed = self.recipe.train, self.recipe.train.seed
        positions = self.data.train[self._order.take(self.nimg, config.batch)]
        z = seeds.latents(seed, self.nimg, config.batch, self.G.latent.dim)
        flips = seeds.flips(seed, self.nimg, config.batch) if self.recipe.data.xflip else None
        size = config.micro_batch or config.batch
        z = z.to(self.device, self._dtype)
        for start in range(0, config.batch, size):
            cut = slice(start, start + size)
            real = from_uint8(self.data.take(positions[cut]).to(self.device))
            if flips is not None:
                real = torch.where(flips[cut, None, None, None].to(self.device), real.flip(3), real)
            yield real.to(self._dtype), z[cut], size / config.batch

    def _fakes(self, z: Tensor) -> Tensor:
        return self.G(z).to(self._dtype)  # D may run in another precision than G (see _forward)

    def _show(self, real: Tensor | None, fake: Tensor, terms: list[Term]) -> Step:
        """D's verdicts on both; images whose gradient a term takes are marked first."""
        differentiated = {term.differentiates for term in terms}
        if real is not None and "real" in differentiated:
            real = real.detach().requires_grad_()
        if "fake" in differentiated and not fake.requires_grad:
            fake = fake.detach().requires_grad_()
        return Step(
            real=real,
            fake=fake,
            real_logits=None if real is None else self.D(real),
            fake_logits=self.D(fake),
            nimg=self.nimg,
        )

    def _backward(
        self, phase: Phase, terms: list[Term], step: Step, share: float, *, retain_graph: bool = False
    ) -> None:
        total, values = evaluate(terms, step)
        (total * share).backward(inputs=self._parameters(phase), retain_graph=retain_graph)
        if phase == "D" and step.real_logits is not None:
            real, fake = full(step.real_logits.detach()), full(step.fake_logits.detach())
            values |= {
                "d_real": real.mean(),
                "d_fake": fake.mean(),
                "d_acc_real": (real > 0).float().mean(),
                "d_acc_fake": (fake < 0).float().mean(),
            }
        self.meters.add(values, share)

    def _update(self, phase: Phase) -> None:
        self.optimizers[phase].step()
        self.optimizers[phase].zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def _forward(self, phase: str, micro: int, terms: list[Term]) -> Iterator[None]:
        """Precision and inner randomness of a forward pass.

        A pass that a penalty differentiates twice runs in fp32; dropout and noise are seeded by what is being done, not
        by what was done before.
        """
        torch.manual_seed(seeds.derive(self.recipe.train.seed, "inside", phase, self.nimg, micro))
        low = self.recipe.train.precision == "bf16" and not any(term.differentiates for term in terms)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            yield

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.G.parameters()).dtype  # fp32, but for tests in fp64

    def _due(self, phase: Phase) -> list[Term]:
        return self.objective.due(phase, self.nimg // self.recipe.train.batch)

    def _parameters(self, phase: Phase) -> list[nn.Parameter]:
        return [p for p in (self.D if phase == "D" else self.G).parameters() if p.requires_grad]

    def _set_learning_rates(self) -> None:
        for phase, config in (("G", self.recipe.optimizer.generator), ("D", self.recipe.optimizer.discriminator)):
            for group in self.optimizers[phase].param_groups:
                group["lr"] = config.lr.at(self.nimg)

    def averaged(self) -> Generator:
        """The averaged generator, ready for use (see ``Ema.calibrate``)."""
        # Fewer latents for large images, which give a norm more pixels each: 1024 at 64 px and less, 256 at 256.
        batches = max(1, min(1024, 65536 // self.recipe.data.resolution) // CALIBRATION_BATCH)
        count = batches * CALIBRATION_BATCH  # whole ones: each counts alike
        z = seeds.generator(self.recipe.train.seed, "calibration")
        with seeds.forked(self.device):
            torch.manual_seed(seeds.derive(self.recipe.train.seed, "calibration noise"))
            self.ema.calibrate(torch.randn(count, self.G.latent.dim, generator=z).to(self.device))
        return self.ema.module

    def nonfinite(self) -> str | None:
        """The name of a mean or weight that is NaN or infinite, if there is one (this waits for the device)."""
        for name, total in self.meters.sums.items():
            if not total.isfinite():
                return name
        for side, network in (("generator", self.G), ("discriminator", self.D)):
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    return f"{side}.{name}"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: all that a later step depends on."""
        return {
            "nimg": self.nimg,
            "generator": self.G.state_dict(),
            "discriminator": self.D.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self.optimizers.items()},
            "meters": self.meters.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.nimg = state["nimg"]
        self.G.load_state_dict(state["generator"])
        self.D.load_state_dict(state["discriminator"])
        self.ema.module.load_state_dict(state["ema"])
        for phase, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][phase])
        self.meters.load_state_dict(state["meters"], self.device)


def _optimizer(config: OptimizerConfig, network: nn.Module) -> torch.optim.Optimizer:
    lr = config.lr.at(0)
    if config.name == "sgd":
        return torch.optim.SGD(network.parameters(), lr=lr, momentum=config.momentum)
    return torch.optim.Adam(network.parameters(), lr=lr, betas=config.betas, eps=config.eps)
