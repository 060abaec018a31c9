"""One training step of any generator G and any discriminator D, and the state that it changes.

Both losses are lists of terms (``zoo.losses.objective``); no architecture is named here. D sees real and fake images
in separate passes, so that its batch statistics are separate, as in all five originals. Progress is counted in images,
``nimg``, and all randomness is a function of the seed and ``nimg`` (``zoo.runtime.rng``; docs/exact-resume.md).
Nothing in a step waits for a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from zoo.core.config import EmaConfig, Recipe
from zoo.core.errors import ZooError, error_message
from zoo.core.progress import Reporter, SilentReporter
from zoo.data.dataset import Dataset
from zoo.data.loader import ImageLoader
from zoo.losses.objective import Objective, Phase, Term, evaluate_terms
from zoo.losses.step_outputs import StepOutputs
from zoo.models.base import Generator
from zoo.models.batch_norm import batch_norm_momentum, synchronise_batch_norms
from zoo.runtime import distributed, rng
from zoo.runtime.device import number_device
from zoo.runtime.precision import full_float32, upcast
from zoo.runtime.speed import Speed, is_compiler_error
from zoo.runtime.timer import Timer
from zoo.training.augment import Ada
from zoo.training.auto_speed import choose_measured_speed
from zoo.training.ema import Ema
from zoo.training.forward_passes import ForwardPasses, differentiates
from zoo.training.logger import MeanMeters, describe_logits
from zoo.training.micro_batch import BatchSampler, Fakes, MicroBatch, local_batch_size, micro_batch_size, split_batch
from zoo.training.networks import build_helpers, build_trained_networks
from zoo.training.optimizers import build_optimizers, frozen, optimizer_configs, set_learning_rate
from zoo.training.out_of_memory import explain_out_of_memory, is_out_of_memory
from zoo.training.trainer_state import collect_state, restore_state

# Networks that learn in each phase, where a recipe has them.
LEARNERS: dict[Phase, tuple[str, ...]] = {"D": ("D", "scale_discriminators"), "G": ("G", "encoder", "heads")}


class Trainer:
    """Networks, averaged generator, optimisers and meters of a run, and the step that moves them.

    Attributes:
        G, D: networks being trained.
        helpers: networks that train along and are no part of the saved generator, by name; none in most recipes.
        ema: averaged generator.
        snapshot_emas: further averages, of which snapshots are kept (``ema.snapshot_stds``).
        nimg: images seen so far.
        meters: means of losses and logits since the last row of the log.
        speed: speed switches that are on.
        batch: images of the next step over all processes.
        local_batch: those of this process.
        micro_batch: images that this process passes through its networks at once.
        wanted_micro_batch: what the recipe asks for; None: as many as there are.
        loader: source of the training images.
        timer: when on, it records the time of a step's parts (see ``zoo.training.profiling``).
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        device: torch.device,
        *,
        reporter: Reporter | None = None,
        speed: Speed | None = None,
    ) -> None:
        device = number_device(device)
        self.recipe, self.data, self.device = recipe, data, device
        self.reporter = reporter or SilentReporter()
        self.world = distributed.current_world()
        self.speed = speed or choose_measured_speed(recipe, device, self.reporter.say)
        self.speed.begin()
        self.timer = Timer(device)
        self.nimg = 0
        self.wanted_micro_batch = recipe.train.micro_batch
        self._start_batch()
        self.G, self.D = build_trained_networks(recipe, self.speed, self.world)
        helpers = build_helpers(recipe, self.G.latent.dim)
        self.helpers = {name: self.speed.network(helper) for name, helper in helpers.items()}
        self._networks: dict[str, nn.Module] = {"G": self.G, "D": self.D, **self.helpers}
        self.ema = Ema(self.G, recipe.ema)
        self.snapshot_emas = [Ema(self.G, EmaConfig(power_std=std)) for std in recipe.ema.snapshot_stds]
        if self.world.size > 1 and recipe.train.sync_batch_norm:
            synchronise_batch_norms(self.G)
            synchronise_batch_norms(self.D)
        self.optimizers = build_optimizers(recipe, self._networks, fused=self.speed.fused)
        self.objective = Objective(recipe, self.D.auxiliary)
        self.objective.memory.to(device)
        self.ada = Ada(recipe.augment) if recipe.augment is not None and recipe.augment.name == "ada" else None
        self.meters = MeanMeters()
        self._probing = False
        resident, share = recipe.speed.resident, recipe.speed.resident_share
        self.loader = ImageLoader(data, device, resident=resident, share=share, reporter=self.reporter)
        self._sampler = BatchSampler(recipe, data, self.loader, self.world, self.speed)
        # After the averages: copies of G must not have what these passes add to it.
        self.passes = ForwardPasses(recipe, self.G, self.D, self.helpers, self.objective, self.speed, self.reporter.say)

    def step(self) -> None:
        """Train both networks on one batch.

        Raises:
            ZooError: the memory does not suffice (names the largest ``train.micro_batch`` that fits), or a backward
                pass cannot be compiled or fails as compiled.
        """
        try:
            self._step()
        except Exception as error:  # compilers, and the code that they generate, raise errors of any type
            if is_out_of_memory(error):  # also of compiled code
                raise explain_out_of_memory(self) from None
            if not (self.speed.compile and is_compiler_error(error)):
                raise
            # Raised in a backward pass: a forward pass that cannot be compiled has run uncompiled.
            raise ZooError(
                f"speed.compile: {error_message(error)}; --set speed.compile=false trains without"
            ) from error

    def _step(self) -> None:
        config = self.recipe.train
        self.speed.begin_step()
        self._start_batch()
        for name, optimizer in optimizer_configs(self.recipe).items():
            set_learning_rate(self.optimizers[name], optimizer.lr.at(self.nimg))
        with self.timer("data"):
            micro_batches = self.next_batch()
        if config.update == "simultaneous":
            self._update_both(micro_batches)
        else:
            self._update_discriminator(micro_batches)
            if self._updates_generator:
                self._update_generator(micro_batches)
        self.objective.settle()
        if self.ada is not None:
            self.ada.update(self.batch)
        self.nimg += self.batch
        with self.timer("ema"):
            for ema in (self.ema, *self.snapshot_emas):
                ema.update(self.G, self.nimg, self.batch)

    def _update_discriminator(self, micro_batches: list[MicroBatch]) -> None:
        """Update D on real images and detached fakes."""
        terms = self._due_terms("D")
        # A batch that passes as a whole is generated once: its graph is kept for G's update.
        keep = len(micro_batches) == 1 and self._updates_generator
        for part in micro_batches:
            fakes = self._generate(part, with_graph=keep)
            with self._seeded("D", part):
                with self._forward_precision(terms):
                    outputs = self.passes.discriminate(part, fakes.detach(), terms, phase="D", nimg=self.nimg)
                self._backward("D", terms, outputs, part.share)
            part.fakes = fakes if keep else None
        self._apply_gradients("D")

    def _update_generator(self, micro_batches: list[MicroBatch]) -> None:
        """Update G through the D that was just updated, with the fakes that D was trained on."""
        terms = self._due_terms("G")
        for part in micro_batches:
            fakes = part.fakes if part.fakes is not None else self._generate(part, with_graph=True)
            with self._seeded("G", part):
                with frozen(self.D), self._forward_precision(terms):
                    outputs = self.passes.discriminate(part, fakes, terms, phase="G", nimg=self.nimg)
                self._backward("G", terms, outputs, part.share)
            part.fakes = None  # frees the graph before the next micro-batch builds its own
        self._apply_gradients("G")

    def _update_both(self, micro_batches: list[MicroBatch]) -> None:
        """Take both gradients from the same passes through D, then update both networks (the Keras tutorials)."""
        d_terms, g_terms = self._due_terms("D"), self._due_terms("G")
        for part in micro_batches:
            with self._seeded("both", part):
                with self._forward_precision(d_terms + g_terms):
                    fakes = self.passes.generate(part)
                    outputs = self.passes.discriminate(part, fakes, d_terms, phase="D", nimg=self.nimg)
                self._backward("D", d_terms, outputs, part.share, retain_graph=True)
                self._backward("G", g_terms, outputs, part.share)
        self._apply_gradients("D")
        self._apply_gradients("G")

    def _generate(self, part: MicroBatch, *, with_graph: bool) -> Fakes:
        """Fakes of a micro-batch; without a graph where D alone learns from them and G makes them again."""
        with self._seeded("fakes", part), self._forward_precision(self._due_terms("G")):
            if with_graph:
                return self.passes.generate(part)
            # Momentum 0: running statistics must count each image once, in the pass that G learns from.
            with torch.no_grad(), batch_norm_momentum(self.G, 0.0):
                return self.passes.generate(part)

    def _backward(
        self, phase: Phase, terms: list[Term], outputs: StepOutputs, share: float, *, retain_graph: bool = False
    ) -> None:
        """Accumulate the gradients of a phase's terms, and its scalars for the log."""
        with self.speed.double_backward(enabled=differentiates(terms)):
            total, values = evaluate_terms(terms, outputs)
        with full_float32() if any(term.full_float32 for term in terms) else contextlib.nullcontext():
            (total * share).backward(inputs=self._parameters(phase), retain_graph=retain_graph)
        if phase == "D" and outputs.real_logits is not None:
            real, fake = upcast(outputs.real_logits.detach()), upcast(outputs.fake_logits.detach())
            values |= describe_logits(real, fake, has_zero=self.objective.zero)
            if self.ada is not None:
                values["d_sign"] = real.sign().mean()
        self.meters.add(tuple(values), torch.stack([upcast(value) for value in values.values()]), share)
        if self.ada is not None and "d_sign" in values:
            self.ada.add_signs(upcast(values["d_sign"]), share)
            self.meters.add(("ada_p",), torch.full((1,), self.ada.p, device=self.device), share)

    def _apply_gradients(self, phase: Phase) -> None:
        if self._probing:
            return
        if self.world.size > 1:
            with self.timer("all-reduce"):
                distributed.reduce_gradients(self._parameters(phase))
        with self.timer("optimiser"):
            for name in LEARNERS[phase]:
                if name in self.optimizers:
                    self.optimizers[name].step()
                    self.optimizers[name].zero_grad(set_to_none=True)

    def probe(self, micro_batches: list[MicroBatch]) -> None:
        """Pass ``micro_batches`` through a step without changing weights, to see whether the memory suffices."""
        self._probing = True
        try:
            if self.recipe.train.update == "simultaneous":
                self._update_both(micro_batches)
            else:
                self._update_discriminator(micro_batches)
                self._update_generator(micro_batches)
        finally:
            self._probing = False

    def next_batch(self) -> list[MicroBatch]:
        """The micro-batches of this process in the next step."""
        augment_p = 1.0 if self.ada is None else self.ada.p
        tensors = self._sampler.draw(self.nimg, self.G.latent.dim, self._dtype, augment_p)
        return list(split_batch(tensors, self.micro_batch, batch=self.batch, rank=self.world.rank))

    def _start_batch(self) -> None:
        """Set the sizes of the next step, which are a function of the images seen."""
        self.batch = self.recipe.train.batches.at(self.nimg)
        self.local_batch = local_batch_size(self.batch, self.world.size)
        self.micro_batch = micro_batch_size(self.wanted_micro_batch, self.local_batch)

    @contextlib.contextmanager
    def _seeded(self, name: str, part: MicroBatch) -> Iterator[None]:
        """Timed, and with the random state of this part of this step, whatever was drawn before (dropout, noise)."""
        with self.timer(name):
            torch.manual_seed(rng.derive_seed(self.recipe.train.seed, "inside", name, self.nimg, part.index))
            yield

    def _forward_precision(self, terms: list[Term]) -> contextlib.AbstractContextManager[None]:
        """Context of a forward pass; gradient penalties and the losses that share their pass are in fp32."""
        return self.speed.forward_pass(differentiated=differentiates(terms))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.G.parameters()).dtype  # fp32, except in tests that compare in fp64

    def _due_terms(self, phase: Phase) -> list[Term]:
        return self.objective.due(phase, self._steps)

    @property
    def _updates_generator(self) -> bool:
        """Whether G is updated in this step: once after every ``train.d_steps`` updates of D."""
        d_steps = self.recipe.train.d_steps
        return self._steps % d_steps == d_steps - 1

    @property
    def _steps(self) -> int:
        """Steps taken so far."""
        return self.recipe.train.batches.steps(self.nimg)

    def _parameters(self, phase: Phase) -> list[nn.Parameter]:
        networks = [self._networks[name] for name in LEARNERS[phase] if name in self._networks]
        return [p for network in networks for p in network.parameters() if p.requires_grad]

    def averaged(self) -> Generator:
        """The averaged generator, ready for use (see ``Ema.calibrate_for``)."""
        with self.speed.autocast():
            self.ema.calibrate_for(self.recipe, self.nimg, self.device)
        return self.ema.module

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on. All processes must call it together."""
        return collect_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        restore_state(self, state)
        self._start_batch()
