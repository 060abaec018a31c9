"""The passes of a micro-batch through G and D, compiled where the recipe and the machine allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.core.config import Recipe
from zoo.losses.objective import Objective, Phase, Term
from zoo.losses.step_outputs import StepOutputs
from zoo.models.base import Discriminator, Generator
from zoo.models.batch_norm import batch_norm_momentum
from zoo.models.encoder import reconstruct_images
from zoo.models.san import find_sliced_layer
from zoo.models.scales import ScaledGenerator
from zoo.runtime.speed import CompiledNetwork, Say, Speed
from zoo.training.augment import PASSES, augment_images
from zoo.training.micro_batch import Fakes, MicroBatch


class ForwardPasses:
    """Passes of micro-batches through both networks.

    Args:
        recipe: augmentation, and what may be compiled.
        G, D: networks.
        helpers: networks that train along (see ``zoo.training.networks.build_helpers``).
        objective: what the passes are for.
        speed: whether to compile.
        say: gets a line when something is compiled.

    Attributes:
        compiled: G and D as they are called.
    """

    def __init__(
        self,
        recipe: Recipe,
        G: Generator,
        D: Discriminator,
        helpers: Mapping[str, nn.Module],
        objective: Objective,
        speed: Speed,
        say: Say,
    ) -> None:
        self.recipe, self.G, self.D, self.objective = recipe, G, D, objective
        self._encoder: Any = helpers.get("encoder")
        self._scale_discriminators: Any = helpers.get("scale_discriminators")
        heads: Any = helpers.get("heads")
        self._sizes = recipe.scales.sizes if recipe.scales is not None else ()
        self._sliced = find_sliced_layer(D)
        # A simultaneous step takes two backward passes through D's graph: a compiled D computes all gradients in each.
        # A sliced layer keeps a second result, which a compiled D would not.
        compilable = recipe.train.update == "alternating" and self._sliced is None
        self.compiled = {
            "G": CompiledNetwork(G if heads is None else ScaledGenerator(G, heads), speed, say),
            "D": CompiledNetwork(D, speed, say, enabled=compilable),
        }

    def generate(self, part: MicroBatch) -> Fakes:
        """Return what G makes of the latents of a micro-batch."""
        made: Any = self.compiled["G"](part.z, part.label)
        # D may run in another precision than G.
        images, *small = (x.to(part.z.dtype) for x in (made if self._sizes else (made,)))
        return Fakes(images, dict(zip(self._sizes, small, strict=True)))

    def discriminate(
        self, part: MicroBatch, fakes: Fakes, terms: list[Term], *, phase: Phase, nimg: int
    ) -> StepOutputs:
        """Return D's logits of real and fake images, and all else that the terms of a phase need.

        Args:
            nimg: images seen before the step.
        """
        fake = fakes.images
        real = part.real if phase == "D" or self.objective.needs_real else None
        differentiated = {term.differentiates for term in terms}
        if real is not None and "real" in differentiated:
            real = real.detach().requires_grad_()
        if "fake" in differentiated and not fake.requires_grad:
            fake = fake.detach().requires_grad_()
        # Compiled networks have no double backward, which gradient penalties need.
        D: Callable[[Tensor, Tensor | None], Tensor] = self.D if differentiates(terms) else self.compiled["D"]

        def judge(images: Tensor, side: str = "real") -> Tensor:
            label = None if part.label is None else part.label[: len(images)]
            # Momentum 0: running statistics are those of whole micro-batches of real and of fake images.
            with batch_norm_momentum(self.D, 0.0):
                return D(self._augment(part, images, phase, side), label)

        def judge_small(images: Tensor, side: str) -> Tensor:
            return self._scale_discriminators(self._augment(part, images, phase, side), part.label)

        auxiliary: dict[str, Tensor] = {}
        real_logits = None
        if real is not None and phase == "D" and self.objective.auxiliary:
            real_logits, auxiliary = self.D.judged(self._augment(part, real, phase, "real"), part.label)
        elif real is not None:
            real_logits = D(self._augment(part, real, phase, "real"), part.label)
        directions = [self._sliced.direction] if self._sliced is not None else []
        fake_logits = D(self._augment(part, fake, phase, "fake"), part.label)
        directions += [self._sliced.direction] if self._sliced is not None else []
        return StepOutputs(
            real=part.real if real is None else real,
            fake=fake,
            real_logits=real_logits,
            fake_logits=fake_logits,
            nimg=nimg,
            z=part.z,
            label=part.label,
            auxiliary=auxiliary,
            directions=tuple(directions),
            judge=judge,
            G=self.G,
            small=fakes.small,
            judge_small=judge_small,
            reconstruct=self._encoder and partial(reconstruct_images, self.G, self._encoder, part.real, part.label),
        )

    def _augment(self, part: MicroBatch, images: Tensor, phase: Phase, kind: str) -> Tensor:
        if part.draws is None:
            return images
        assert self.recipe.augment is not None
        draws = part.draws[: len(images), PASSES.index(f"{phase} {kind}")]
        return augment_images(images, draws, self.recipe.augment.policy)


def differentiates(terms: list[Term]) -> bool:
    """Return whether a penalty takes gradients of gradients."""
    return any(term.differentiates for term in terms)
