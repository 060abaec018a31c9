"""One training step of any generator and any discriminator, and the state that it changes.

Both networks' objectives are lists of terms (``zoo.losses.objective``); no architecture is named here. The two update
orders of the field:

- ``alternating`` (the DCGAN tutorials): D is updated on real and detached fake images, then G through the updated D
  with the same fakes.
- ``simultaneous`` (the Keras tutorials): both gradients are taken from the same passes through D, then both networks
  are updated.

D sees real and fake images in separate passes, so that its batch statistics are separate, as in all five originals.
Progress is counted in images, ``nimg``, and all randomness is a function of the seed and ``nimg`` (``zoo.runtime.rng``).

A batch is drawn whole, then cut among processes and, in each, into micro-batches; what modules draw inside depends on
the micro-batch's number in the whole, so that neither cut changes what is drawn. Nothing in a step waits for a GPU.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.config import OptimizerConfig, Recipe
from zoo.core.errors import ZooError
from zoo.core.progress import Reporter, SilentReporter
from zoo.data.dataset import Dataset
from zoo.data.loader import ImageLoader, Positions
from zoo.data.pixel_range import from_uint8
from zoo.losses.objective import Objective, Phase, Term, evaluate_terms
from zoo.losses.step_outputs import StepOutputs
from zoo.models.base import Generator
from zoo.models.batch_norm import batch_norm_momentum, has_batch_statistics, has_dense_norm, synchronise_batch_norms
from zoo.recipes import build_networks
from zoo.runtime import distributed, rng
from zoo.runtime.precision import upcast
from zoo.runtime.speed import CompiledNetwork, choose_speed, is_compiler_error
from zoo.runtime.timer import Timer
from zoo.training.augment import PASSES, Ada, augment_images, draw_augmentations
from zoo.training.ema import CALIBRATION_BATCH, Ema
from zoo.training.graphs import Graphs
from zoo.training.logger import MeanMeters


@dataclass
class MicroBatch:
    """A micro-batch on its way through a step.

    Attributes:
        real: images.
        z: latents.
        label: classes of both, where there are any.
        draws: what augmentation does to each, where there is one (see ``zoo.training.augment.draw_augmentations``).
        share: of the global batch.
        index: its number in the global batch.
        fake: what G made of ``z``, with its graph where G learns from it.
        values: scalars for the log, of the latest segment: names, and a vector of them; one pair a phase.
    """

    real: Tensor
    z: Tensor
    share: float
    index: int
    label: Tensor | None = None
    draws: Tensor | None = None
    fake: Tensor | None = None
    values: list[tuple[tuple[str, ...], Tensor]] = field(default_factory=list)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What it brings along, by attribute."""
        own = {"real": self.real, "z": self.z, "label": self.label, "draws": self.draws}
        return {name: tensor for name, tensor in own.items() if tensor is not None}


class Trainer:
    """Networks, averages, optimisers and meters of a run, and the step that moves them.

    Attributes:
        G, D: the networks being trained.
        ema: the averaged generator.
        nimg: images seen so far.
        meters: means of losses and logits since the last row of the log.
        speed: the switches that are on.
        micro_batch: images this process shows its networks at once.
        feed: where images come from.
        stopwatch: asked to, it takes the time of a step's parts (see ``zoo.training.profiling.profiler``).
    """

    def __init__(
        self, recipe: Recipe, data: Dataset, device: torch.device, *, reporter: Reporter | None = None
    ) -> None:
        self.recipe, self.data, self.device = recipe, data, device
        self.reporter = reporter or SilentReporter()
        self.world = distributed.current_world()
        self.speed = choose_speed(recipe, device, self.reporter.say)
        self.speed.begin()
        self.timer = Timer(device)
        self._local = self._share_of_batch()
        self.micro_batch = self._fitting(recipe.train.micro_batch)
        torch.manual_seed(rng.derive_seed(recipe.train.seed, "weights"))
        G, D = build_networks(recipe)
        self.G, self.D = self.speed.network(G).train(), self.speed.network(D).train()
        for side, network in (("generator", G), ("discriminator", D)):
            if self.micro_batch < 2 and has_dense_norm(network):
                key = "micro_batch" if recipe.train.micro_batch else "batch"
                raise ZooError(f"train.{key}: the {side} normalises over the batch and takes at least 2 images at once")
        self.ema = Ema(self.G, recipe.ema)
        if self.world.size > 1 and recipe.train.sync_batch_norm:
            synchronise_batch_norms(self.G)
            synchronise_batch_norms(self.D)
        self.optimizers = {
            "G": _optimizer(recipe.optimizer.generator, self.G, fused=self.speed.fused),
            "D": _optimizer(recipe.optimizer.discriminator, self.D, fused=self.speed.fused),
        }
        self.objective = Objective(recipe, self.D.auxiliary)
        self.objective.memory.to(device)
        self.ada = Ada(recipe.augment) if recipe.augment is not None and recipe.augment.name == "ada" else None
        self.meters = MeanMeters()
        self.nimg = 0
        self._order = rng.ImageOrder(recipe.train.seed, len(data.train), replacement=recipe.data.order == "replacement")
        self._following: tuple[int, Positions] | None = None
        config = recipe.speed
        self.feed = ImageLoader(
            data, device, resident=config.resident, share=config.resident_share, reporter=self.reporter
        )
        # The passes of a simultaneous step share D's graph, of which a compiled D would take all gradients twice.
        alternating = recipe.train.update == "alternating"
        self._compiled = {
            "G": CompiledNetwork(self.G, self.speed.compile, self.reporter.say),
            "D": CompiledNetwork(self.D, self.speed.compile and alternating, self.reporter.say),
        }
        self._graphs: Graphs[MicroBatch] | None = None
        if self.speed.cuda_graphs:
            self._graphs = Graphs([self.G, self.D, self.objective.memory], self.reporter.say)

    def step(self) -> None:
        """Show both networks one batch."""
        config = self.recipe.train
        self._set_learning_rates()
        with self.timer("data"):
            batch = self._batch()
        if config.update == "simultaneous":
            self._phase("both", batch, self._segment_both)
            self._update("D")
            self._update("G")
        else:
            parts = self._phase("D", batch, self._segment_d)
            self._update("D")
            if self._moves_g:
                self._phase("G", batch, self._segment_g, parts)
                self._update("G")
        self.objective.settle()
        if self.ada is not None:
            self.ada.stepped(config.batch)
        self.nimg += config.batch
        with self.timer("ema"):
            self.ema.update(self.G, self.nimg, config.batch)

    def _phase(
        self,
        name: str,
        batch: MicroBatch,
        segment: Callable[[MicroBatch], None],
        before: list[MicroBatch] | None = None,
    ) -> list[MicroBatch]:
        """Gradients of a phase, accumulated over micro-batches, in smaller ones where memory does not suffice.

        Args:
            name: D, G or both.
            batch: this process's part of it.
            segment: what is done with a micro-batch.
            before: the parts of an earlier phase, whose fakes may still have their graph.

        Returns:
            the parts.
        """
        while True:
            fits = True
            try:
                parts = before if before is not None and len(before) == 1 else list(self._parts(batch))
                self._run(name, parts, segment)
                break
            except RuntimeError as error:
                fits = not _is_out_of_memory(error)
                if fits and not is_compiler_error(error):
                    raise
                for compiled in self._compiled.values() if fits else ():
                    compiled.give_up(error)  # a backward pass is compiled when it is first taken
            for part in before or []:
                part.fake = None  # what its graph holds may be what there was no room for
            parts, before = [], None
            self._forget_gradients()
            if self._graphs is not None:
                self._graphs.reset()
            if not fits and not self._made_room():
                self._shrink(name, batch, segment)
        for part in parts:
            for names, vector in part.values:
                self.meters.add(names, vector, part.share)
                if self.ada is not None and "d_sign" in names:
                    self.ada.saw(vector[names.index("d_sign")], part.share)
                    self.meters.add(("ada_p",), torch.full((1,), self.ada.p, device=self.device), part.share)
            part.values = []
        return parts

    def _run(self, name: str, parts: list[MicroBatch], segment: Callable[[MicroBatch], None]) -> None:
        whole = len(parts) == 1
        for part in parts:
            if name != "both" and part.fake is None:
                graph = name == "G" or (whole and self._moves_g)
                self._segment("fakes", part, lambda one, graph=graph: self._segment_fakes(one, graph=graph), whole)  # type: ignore[misc]
            self._segment(name, part, segment, whole)
            if not whole:
                part.fake = None

    def _segment(self, name: str, part: MicroBatch, segment: Callable[[MicroBatch], None], whole: bool) -> None:
        """One segment, with the random state that belongs to it; its launches recorded where that can be."""
        due = self._due("D") + self._due("G")

        def seed() -> None:
            # What is drawn inside depends on what is being done, not on what was done before.
            torch.manual_seed(rng.derive_seed(self.recipe.train.seed, "inside", name, self.nimg, part.index))

        with self.timer(name):
            if self._graphs is None or not whole or any(len(term.weight.points) > 1 for term in due):
                seed()
                segment(part)
            else:
                variant = (*(term.name for term in due), *(() if self._moves_g else ("D alone",)))
                first = name in ("fakes", "both")
                last = name in ("G", "both") or (name == "D" and not self._moves_g)
                self._graphs.run(name, variant, part, segment, seed, first=first, last=last)

    def _segment_fakes(self, part: MicroBatch, *, graph: bool) -> None:
        """Fakes; without their ``graph`` where they are for D alone and are made again when G learns."""
        with self.speed.autocast(enabled=not _differentiates(self._due("G"))):
            if graph:
                part.fake = self._fakes(part)
            else:
                with torch.no_grad(), batch_norm_momentum(self.G, 0.0):
                    part.fake = self._fakes(part)

    def _segment_d(self, part: MicroBatch) -> None:
        terms = self._due("D")
        assert part.fake is not None
        with self.speed.autocast(enabled=not _differentiates(terms)):
            step = self._show(part, part.fake.detach(), terms, phase="D")
        part.values = [self._backward("D", terms, step, part.share)]

    def _segment_g(self, part: MicroBatch) -> None:
        terms = self._due("G")
        assert part.fake is not None
        with _frozen(self.D), self.speed.autocast(enabled=not _differentiates(terms)):
            step = self._show(part, part.fake, terms, phase="G")
        part.values = [self._backward("G", terms, step, part.share)]

    def _segment_both(self, part: MicroBatch) -> None:
        terms = {phase: self._due(phase) for phase in ("D", "G")}
        with self.speed.autocast(enabled=not _differentiates(terms["D"] + terms["G"])):
            step = self._show(part, self._fakes(part), terms["D"], phase="D")
        d = self._backward("D", terms["D"], step, part.share, retain_graph=True)
        part.values = [d, self._backward("G", terms["G"], step, part.share)]

    def _batch(self) -> MicroBatch:
        """This process's part of what is drawn for the whole batch. Fakes are of the classes that the reals are of."""
        config, seed = self.recipe.train, self.recipe.train.seed
        cut = self.world.cut(config.batch)
        positions = self._positions(self.nimg)
        real = from_uint8(self.feed.take(positions, self._positions(self.nimg + config.batch)))
        if self.recipe.data.xflip:
            flips = self._sent(rng.draw_flips(seed, self.nimg, config.batch)[cut, None, None, None])
            real = torch.where(flips, real.flip(3), real)
        z = self._sent(rng.draw_latents(seed, self.nimg, config.batch, self.G.latent.dim)[cut])
        part = MicroBatch(self.speed.images(real.to(self._dtype)), z.to(self._dtype), 0.0, 0)
        if self.data.labels is not None:
            part.label = self._sent(torch.from_numpy(self.data.labels[positions]))
        if self.recipe.augment is not None:
            p = 1.0 if self.ada is None else self.ada.p
            part.draws = self._sent(draw_augmentations(self.recipe.augment, seed, self.nimg, config.batch, p)[cut])
        return part

    def _sent(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device, without waiting for it."""
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def _positions(self, nimg: int) -> Positions:
        """Which images this process is shown after ``nimg``."""
        if self._following is None or self._following[0] != nimg:
            taken = self.data.train[self._order.take(nimg, self.recipe.train.batch)]
            self._following = (nimg, np.ascontiguousarray(taken[self.world.cut(self.recipe.train.batch)]))
        return self._following[1]

    def _parts(self, batch: MicroBatch) -> Iterator[MicroBatch]:
        size = self.micro_batch
        first = self.world.rank * (self._local // size)
        cut = {name: tensor.split(size) for name, tensor in batch.inputs.items()}
        for number in range(self._local // size):
            own: dict[str, Any] = {name: pieces[number] for name, pieces in cut.items()}
            yield MicroBatch(**own, share=size / self.recipe.train.batch, index=first + number)

    def _fakes(self, part: MicroBatch) -> Tensor:
        return self._compiled["G"](part.z, part.label).to(self._dtype)  # D may run in another precision than G

    def _show(self, part: MicroBatch, fake: Tensor, terms: list[Term], *, phase: Phase) -> StepOutputs:
        """D's verdicts on both; images whose gradient a term takes are marked first, and D is then not compiled."""
        real = part.real if phase == "D" or self.objective.needs_real else None
        differentiated = {term.differentiates for term in terms}
        if real is not None and "real" in differentiated:
            real = real.detach().requires_grad_()
        if "fake" in differentiated and not fake.requires_grad:
            fake = fake.detach().requires_grad_()
        network: Callable[[Tensor, Tensor | None], Tensor] = self.D if _differentiates(terms) else self._compiled["D"]

        def seen(x: Tensor, which: str) -> Tensor:
            if part.draws is None:
                return x
            assert self.recipe.augment is not None
            return augment_images(x, part.draws[:, PASSES.index(f"{phase} {which}")], self.recipe.augment.policy)

        auxiliary: dict[str, Tensor] = {}
        real_logits = None
        if real is not None and phase == "D" and self.objective.auxiliary:
            real_logits, auxiliary = self.D.judged(seen(real, "real"), part.label)
        elif real is not None:
            real_logits = network(seen(real, "real"), part.label)
        return StepOutputs(
            real=real,
            fake=fake,
            real_logits=real_logits,
            fake_logits=network(seen(fake, "fake"), part.label),
            nimg=self.nimg,
            z=part.z,
            label=part.label,
            auxiliary=auxiliary,
            judge=lambda x: self.D(seen(x, "real"), part.label),
            G=self.G,
        )

    def _backward(
        self, phase: Phase, terms: list[Term], step: StepOutputs, share: float, *, retain_graph: bool = False
    ) -> tuple[tuple[str, ...], Tensor]:
        """Gradients of a phase's terms; names and a vector of scalars for the log."""
        total, values = evaluate_terms(terms, step)
        (total * share).backward(inputs=self._parameters(phase), retain_graph=retain_graph)
        if phase == "D" and step.real_logits is not None:
            real, fake = upcast(step.real_logits.detach()), upcast(step.fake_logits.detach())
            values |= {"d_real": real.mean(), "d_fake": fake.mean()}
            if self.objective.zero:
                values |= {"d_acc_real": (real > 0).float().mean(), "d_acc_fake": (fake < 0).float().mean()}
            else:
                values["d_acc_pairs"] = (real > fake).float().mean()
            if self.ada is not None:
                values["d_sign"] = real.sign().mean()
        return tuple(values), torch.stack([upcast(value) for value in values.values()])

    def _update(self, phase: Phase) -> None:
        if self.world.size > 1:
            with self.timer("all-reduce"):
                distributed.reduce_gradients(self._parameters(phase))
        with self.timer("optimiser"):
            self.optimizers[phase].step()
            self.optimizers[phase].zero_grad(set_to_none=True)

    def _share_of_batch(self) -> int:
        batch, size = self.recipe.train.batch, self.world.size
        if batch % size:
            raise ZooError(f"train.batch: {batch} images cannot be cut evenly among {size} processes")
        return batch // size

    def _fitting(self, wanted: int | None) -> int:
        """Micro-batches of ``wanted`` images, or this process's whole part of the batch where that is no more."""
        if wanted is None or wanted >= self._local:
            return self._local
        if self._local % wanted:
            raise ZooError(f"train.micro_batch: {wanted} does not divide the {self._local} images of each process")
        return wanted

    def _made_room(self) -> bool:
        """Whether memory that speed alone had taken could be given back: then the same is tried again.

        By one process only: of several, the others would wait for what this one does a second time.
        """
        made = self.world.size == 1 and self.feed.release()
        if not made and self.world.size == 1 and self._graphs is not None and not self._graphs.off:
            self._graphs.stop("memory does not suffice")
            made = True
        if made:
            _free(self.device)
        return made

    def _shrink(self, name: str, batch: MicroBatch, segment: Callable[[MicroBatch], None]) -> None:
        """Half the micro-batch, where that is the same arithmetic.

        Raises:
            ZooError: it is not, or nothing is left to halve.
        """
        tried = self.micro_batch
        if self.world.size > 1:
            raise ZooError(
                f"train.micro_batch: {tried} images at once do not fit the memory of {self.device} in process "
                f"{self.world.rank}; set a smaller one, which divides {self._local}"
            )
        bound = [
            side
            for side, network in (("generator", self.G), ("discriminator", self.D))
            if has_batch_statistics(network)
        ]
        _free(self.device)
        if not bound:
            if tried % 2:
                raise ZooError(f"train.batch: {tried} image(s) at once do not fit the memory of {self.device}")
            self.micro_batch = tried // 2
            self.reporter.warn(
                f"{tried} images at once do not fit the memory of {self.device}: train.micro_batch {self.micro_batch} "
                "from here on, accumulated to the same batch"
            )
            return
        fitting = None
        while self.micro_batch % 2 == 0 and fitting is None:
            self.micro_batch //= 2
            try:
                self._run(name, list(self._parts(batch))[:1] * 2, segment)  # twice: gradients are there by then
                fitting = self.micro_batch
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            except ValueError:  # a norm over one value
                pass
            self._forget_gradients()
            _free(self.device)
        self.micro_batch = tried
        most = f"{fitting} is the most that fits" if fitting else "nor does any smaller part"
        raise ZooError(
            f"train.micro_batch: {tried} images at once do not fit the memory of {self.device}; {most}. The "
            f"{' and the '.join(bound)} normalises over the batch, so smaller ones change numbers: "
            f"--set train.micro_batch={fitting or 1} if that is meant"
        )

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.G.parameters()).dtype  # fp32, but for tests in fp64

    def _due(self, phase: Phase) -> list[Term]:
        return self.objective.due(phase, self.nimg // self.recipe.train.batch)

    @property
    def _moves_g(self) -> bool:
        """Whether G is updated in this step: once after every ``d_steps`` batches that D was shown."""
        each = self.recipe.train.d_steps
        return self.nimg // self.recipe.train.batch % each == each - 1

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
        if self.nimg == 0:  # the picture of untrained weights, for which training need not wait
            batches = 1
        count = batches * CALIBRATION_BATCH  # whole ones: each counts alike
        z = rng.seeded_generator(self.recipe.train.seed, "calibration")
        with rng.fork_rng(self.device), self.speed.autocast():
            torch.manual_seed(rng.derive_seed(self.recipe.train.seed, "calibration noise"))
            label = rng.fixed_labels(self.recipe.train.seed, count, self.G.image.shares)
            self.ema.calibrate(
                torch.randn(count, self.G.latent.dim, generator=z).to(self.device),
                None if label is None else label.to(self.device),
            )
        return self.ema.module

    def nonfinite(self) -> str | None:
        """The name of a mean or weight that is NaN or infinite, if there is one (this waits for the device)."""
        named = dict(self.meters.sums)
        for side, network in (("generator", self.G), ("discriminator", self.D)):
            named |= {f"{side}.{key}": x for key, x in network.state_dict().items() if x.is_floating_point()}
        finite = torch.stack([tensor.isfinite().all() for tensor in named.values()]).cpu()  # one wait for all
        return next((name for name, good in zip(named, finite.tolist(), strict=True) if not good), None)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: all that a later step depends on. All processes must ask for it together."""
        return {
            "nimg": self.nimg,
            "generator": self.G.state_dict(),
            "discriminator": self.D.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self.optimizers.items()},
            "meters": distributed.all_gather(self.meters.state_dict()),
            "memory": self.objective.memory.state_dict(),
            "ada": self.ada.state_dict() if self.ada is not None else None,
            "micro_batch": self.micro_batch if self.micro_batch < self._local else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.nimg = state["nimg"]
        self.G.load_state_dict(state["generator"])
        self.D.load_state_dict(state["discriminator"])
        self.ema.module.load_state_dict(state["ema"])
        for phase, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][phase])
            for group in optimizer.param_groups:
                group["fused"] = self.speed.fused or None  # as this machine has it, not as the last one had
            for parameter, kept in optimizer.state.items():
                for key, value in kept.items():
                    if key == "step":  # fused kernels count on the device
                        kept[key] = value.to(parameter.device if self.speed.fused else "cpu")
                    elif value.shape == parameter.shape and value.stride() != parameter.stride():
                        # Fused kernels go through memory, and expect both in the same order.
                        kept[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        meters = state["meters"] if isinstance(state["meters"], list) else [state["meters"]]
        if len(meters) == self.world.size:
            self.meters.load_state_dict(meters[self.world.rank], self.device)
        elif self.world.first:  # of another number of processes: all that they had seen
            for one in meters:
                other = MeanMeters()
                other.load_state_dict(one, self.device)
                self.meters.merge(other)
        self.objective.memory.load_state_dict(state.get("memory", {}))
        if self.ada is not None:
            self.ada.load_state_dict(state["ada"], self.device)
        self.micro_batch = self._fitting(state.get("micro_batch") or self.recipe.train.micro_batch)


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for parameters inside: a compiled backward takes all that are asked for."""
    learning = [p for p in network.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _differentiates(terms: list[Term]) -> bool:
    """Whether a penalty takes gradients of gradients, which it does in fp32 and outside compiled code."""
    return any(term.differentiates for term in terms)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _optimizer(config: OptimizerConfig, network: nn.Module, *, fused: bool) -> torch.optim.Optimizer:
    lr = config.lr.at(0)
    if config.name == "sgd":
        return torch.optim.SGD(network.parameters(), lr=lr, momentum=config.momentum, fused=fused or None)
    return torch.optim.Adam(network.parameters(), lr=lr, betas=config.betas, eps=config.eps, fused=fused or None)
