"""What each network minimises: weighted terms, summed per phase.

In phase "D", D is updated; in phase "G", G.
A step reads: ``terms = objective.due(phase, step)``, then ``evaluate_terms(terms, outputs)``. Terms are the adversarial
loss, D's auxiliary losses and the recipe's penalties, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from zoo.core.config import Recipe
from zoo.core.schedule import Schedule
from zoo.losses.adversarial import LOSSES, wasserstein_d
from zoo.losses.autoencoder import autoencoder_loss
from zoo.losses.penalties import PENALTIES, Differentiated, RunningMeans
from zoo.losses.scales import consistency, scales_d, scales_g
from zoo.losses.step_outputs import StepOutputs

Phase = Literal["D", "G"]


@dataclass(frozen=True, kw_only=True)
class Term:
    """A weighted part of a phase's objective.

    Attributes:
        name: in the log.
        phase: whose objective it belongs to.
        function: from the step's outputs to a scalar.
        weight: factor on the scalar, by images seen.
        every: updates of the phase's network from one evaluation to the next.
        differentiates: what the term takes a gradient with respect to; None for most.
        full_float32: whether gradients are in fp32 wherever the rest is: of a small difference TF32 would leave little.
    """

    name: str
    phase: Phase
    function: Callable[[StepOutputs], Tensor]
    weight: Schedule
    every: int = 1
    differentiates: Differentiated | None = None
    full_float32: bool = False

    def due(self, iteration: int) -> bool:
        """Return whether the term is evaluated in this update of its network."""
        return iteration % self.every == 0


class Objective:
    """The terms of a recipe.

    Args:
        recipe: what to minimise.
        auxiliary: weights of D's own losses, by name.

    Attributes:
        terms: of both phases.
        needs_real: G's phase needs real logits too.
        zero: the sign of a logit says real or fake.
        memory: penalties that keep running means, by name.
        auxiliary: names of D's own losses.
    """

    def __init__(self, recipe: Recipe, auxiliary: Mapping[str, float] | None = None) -> None:
        # The order of terms is that of floating-point additions: it must not change.
        loss = LOSSES[recipe.loss.name]
        self.needs_real, self.zero = loss.needs_real, loss.zero
        self.d_steps = recipe.train.d_steps
        self.auxiliary = tuple(auxiliary or ())
        self.memory = nn.ModuleDict()
        self.terms = [*_adversarial_terms(recipe)]
        for name, weight in (auxiliary or {}).items():
            self.terms.append(Term(name=name, phase="D", function=_read_auxiliary(name), weight=Schedule.parse(weight)))
        if recipe.discriminator.config.san:
            self.terms.append(Term(name="san", phase="D", function=_direction_loss, weight=Schedule.parse(1.0)))
        if (config := recipe.autoencoder) is not None:
            function = partial(autoencoder_loss, config=config)
            self.terms.append(Term(name="autoencoder", phase="G", function=function, weight=config.weight))
        self.terms += _scale_terms(recipe)
        for term in _penalty_terms(recipe):
            self.terms.append(term)
            # Registered as modules, so that their means move to the device and into checkpoints.
            if isinstance(term.function, RunningMeans):
                self.memory[term.name] = term.function

    def due(self, phase: Phase, step: int) -> list[Term]:
        """List the terms of ``phase`` that are evaluated in this step."""
        # Terms of G count the steps in which G is updated, one in every d_steps.
        iteration = step if phase == "D" else step // self.d_steps
        return [term for term in self.terms if term.phase == phase and term.due(iteration)]

    @property
    def period(self) -> int:
        """Steps after which the same terms are due again."""
        # A term of G that is due every k-th update is due every k * d_steps steps.
        return math.lcm(*(term.every * (self.d_steps if term.phase == "G" else 1) for term in self.terms))

    def settle(self) -> None:
        """Update running means at the end of a step, by what all processes saw in it."""
        for module in self.memory.values():
            cast(RunningMeans, module).settle()


def evaluate_terms(terms: list[Term], step: StepOutputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of ``terms``, and their values for the log.

    Values are unweighted and detached.
    """
    total = torch.zeros((), dtype=step.fake.dtype, device=step.fake.device)
    values = {}
    for term in terms:
        value = term.function(step)
        values[term.name] = value.detach()
        # Lazy regularisation (Karras et al. 2020, arXiv:1912.04958, appendix B): a rare term counts for all steps.
        total = total + value * (term.weight.at(step.nimg) * term.every)
    return total, values


def default_weight(name: str, recipe: Recipe) -> Schedule:
    """Return the weight of a penalty whose weight is null: it depends on the recipe, so that YAML cannot state it."""
    weight, batches = PENALTIES[name].weight, recipe.train.batches
    first, *later = (weight(recipe.data.resolution, size) for size in batches.sizes)
    points = [(0.0, first)]
    for (nimg, _), value in zip(batches.starts[1:], later, strict=True):
        # A step from one image to the next; a stage that another one overtakes has no images.
        points = [point for point in points if point[0] < (nimg - 1) / 1000]
        points += [((nimg - 1) / 1000, points[-1][1] if points else first), (nimg / 1000, value)]
    return Schedule(tuple(points))


def _adversarial_terms(recipe: Recipe) -> Iterator[Term]:
    loss = LOSSES[recipe.loss.name]
    smoothing = recipe.loss.label_smoothing

    def loss_d(step: StepOutputs) -> Tensor:
        assert step.real_logits is not None
        return loss.discriminator(step.real_logits, step.fake_logits, smoothing)

    def loss_g(step: StepOutputs) -> Tensor:
        return loss.generator(step.real_logits, step.fake_logits)

    yield Term(name="loss_d", phase="D", function=loss_d, weight=Schedule.parse(1.0))
    yield Term(name="loss_g", phase="G", function=loss_g, weight=Schedule.parse(1.0))


def _scale_terms(recipe: Recipe) -> Iterator[Term]:
    config, loss = recipe.scales, LOSSES[recipe.loss.name]
    if config is None:
        return
    function = partial(scales_d, config=config, loss=loss, smoothing=recipe.loss.label_smoothing)
    yield Term(name="scales_d", phase="D", function=function, weight=config.weight)
    yield Term(name="scales_g", phase="G", function=partial(scales_g, config=config, loss=loss), weight=config.weight)
    function = partial(consistency, config=config)
    yield Term(name="consistency", phase="G", function=function, weight=config.consistency)


def _read_auxiliary(name: str) -> Callable[[StepOutputs], Tensor]:
    return lambda step: step.auxiliary[name]


def _direction_loss(step: StepOutputs) -> Tensor:
    """Train the direction of D's last layer alone (Takida et al. 2024)."""
    real, fake = step.directions
    return wasserstein_d(real, fake)


def _penalty_terms(recipe: Recipe) -> Iterator[Term]:
    for name, config in recipe.penalties.items():
        penalty = PENALTIES[name]
        weight = config.weight or default_weight(name, recipe)
        function, differentiates = penalty.make(), penalty.differentiates
        if config.step and penalty.estimate is not None:
            function, differentiates = partial(penalty.estimate, scale=config.step, share=config.share), None
        yield Term(
            name=name,
            phase=penalty.phase,
            function=function,
            weight=weight,
            every=config.every,
            differentiates=differentiates,
            full_float32=config.step > 0,
        )
