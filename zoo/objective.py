"""What each network minimises: a list of weighted terms for the phase in which D is updated and the one in which G
is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.losses import LOSSES
from zoo.penalties import PENALTIES
from zoo.recipe import Recipe
from zoo.schedule import Schedule

Phase = Literal["D", "G"]


@dataclass(kw_only=True)
class Step:
    """One forward pass of both networks, which every term of a phase shares.

    Attributes:
        real: (N, C, H, W) in [-1, 1]; None in phases that show D no real images. Requires gradients where a penalty
            is due.
        fake: (N, C, H, W); detached from G in D's own phase.
        real_logits: D's verdicts on ``real``; None like it.
        fake_logits: D's verdicts on ``fake``.
        nimg: images seen before this step, for schedules.
    """

    real: Tensor | None
    fake: Tensor
    real_logits: Tensor | None
    fake_logits: Tensor
    nimg: int


@dataclass(frozen=True, kw_only=True)
class Term:
    """A weighted part of a phase's objective, applied on every ``every``-th step at ``every`` times its weight."""

    name: str
    phase: Phase
    function: Callable[[Step], Tensor]
    weight: Schedule
    every: int = 1
    differentiates: Literal["real", "fake"] | None = None  # images whose gradient it takes

    def due(self, iteration: int) -> bool:
        return iteration % self.every == 0


class Objective:
    """The terms of a recipe.

    Attributes:
        needs_real: G's phase wants real logits too.
    """

    def __init__(self, recipe: Recipe) -> None:
        loss = LOSSES[recipe.loss.name]
        smoothing = recipe.loss.label_smoothing
        one = Schedule.parse(1.0)
        self.needs_real = loss.needs_real
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
        self.terms += [_penalty_term(name, config.weight, config.every) for name, config in recipe.penalties.items()]

    def due(self, phase: Phase, iteration: int) -> list[Term]:
        """The terms that count in this phase of this step."""
        return [term for term in self.terms if term.phase == phase and term.due(iteration)]


def evaluate(terms: list[Term], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of weighted terms, and each term's own unweighted value for the log, detached."""
    total = torch.zeros((), dtype=step.fake.dtype, device=step.fake.device)
    values = {}
    for term in terms:
        value = term.function(step)
        values[term.name] = value.detach()
        total = total + value * (term.weight.at(step.nimg) * term.every)
    return total, values


def _penalty_term(name: str, weight: Schedule, every: int) -> Term:
    penalty = PENALTIES[name]

    def function(step: Step) -> Tensor:
        if penalty.images == "real":
            return penalty.function(_given(step.real), _given(step.real_logits))
        return penalty.function(step.fake, step.fake_logits)

    return Term(name=name, phase="D", function=function, weight=weight, every=every, differentiates=penalty.images)


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
