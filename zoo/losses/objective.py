"""The losses of a recipe: a list of weighted terms for the update of D, and one for that of G."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.core.config import Recipe
from zoo.core.schedule import Schedule
from zoo.losses.adversarial import LOSSES
from zoo.losses.penalties import PENALTIES, Differentiated
from zoo.losses.step_outputs import StepOutputs

Phase = Literal["D", "G"]


@dataclass(frozen=True, kw_only=True)
class Term:
    """A weighted part of a phase's loss, applied on every ``every``-th step at ``every`` times its weight."""

    name: str
    phase: Phase
    function: Callable[[StepOutputs], Tensor]
    weight: Schedule
    every: int = 1
    differentiates: Differentiated | None = None  # what its inner gradient is taken with respect to

    def due(self, iteration: int) -> bool:
        return iteration % self.every == 0


class Objective:
    """The terms of a recipe.

    Args:
        auxiliary: weights of D's own losses (``Discriminator.auxiliary``).

    Attributes:
        needs_real: the phase of G needs real logits too.
        zero: the sign of a logit says real or fake.
        memory: the modules of terms that have memory between steps.
    """

    def __init__(self, recipe: Recipe, auxiliary: Mapping[str, float] | None = None) -> None:
        loss = LOSSES[recipe.loss.name]
        smoothing = recipe.loss.label_smoothing
        one = Schedule.parse(1.0)
        self.needs_real, self.zero = loss.needs_real, loss.zero
        self.d_steps = recipe.train.d_steps
        self.terms = [
            Term(
                name="loss_d",
                phase="D",
                function=lambda step: loss.discriminator(_given(step.real_logits), step.fake_logits, smoothing),
                weight=one,
            ),
            Term(
                name="loss_g",
                phase="G",
                function=lambda step: loss.generator(step.real_logits, step.fake_logits),
                weight=one,
            ),
        ]
        self.memory = nn.ModuleDict()
        self.auxiliary = tuple(auxiliary or ())
        for name, weight in (auxiliary or {}).items():
            self.terms.append(Term(name=name, phase="D", function=_own(name), weight=Schedule.parse(weight)))
        for name, config in recipe.penalties.items():
            penalty = PENALTIES[name]
            usual = penalty.weight(recipe.data.resolution, recipe.train.batch)
            function = penalty.make()
            if isinstance(function, nn.Module):
                self.memory[name] = function
            self.terms.append(
                Term(
                    name=name,
                    phase=penalty.phase,
                    function=function,
                    weight=config.weight if config.weight is not None else Schedule.parse(usual),
                    every=config.every,
                    differentiates=penalty.differentiates,
                )
            )

    def due(self, phase: Phase, step: int) -> list[Term]:
        """The terms that apply in this phase of this step; those of G count the steps in which G is updated."""
        iteration = step if phase == "D" else step // self.d_steps
        return [term for term in self.terms if term.phase == phase and term.due(iteration)]

    @property
    def period(self) -> int:
        """Steps after which the same terms are due again."""
        return math.lcm(*(term.every * (self.d_steps if term.phase == "G" else 1) for term in self.terms))

    def settle(self) -> None:
        """End a step: update the memory of terms by what all processes saw in it."""
        for module in self.memory.values():
            module.settle()  # type: ignore[operator]


def evaluate_terms(terms: list[Term], step: StepOutputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of weighted terms, and each term's own unweighted value for the log, detached."""
    total = torch.zeros((), dtype=step.fake.dtype, device=step.fake.device)
    values = {}
    for term in terms:
        value = term.function(step)
        values[term.name] = value.detach()
        total = total + value * (term.weight.at(step.nimg) * term.every)
    return total, values


def _own(name: str) -> Callable[[StepOutputs], Tensor]:
    return lambda step: step.auxiliary[name]


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
