"""The outputs of one forward pass, which losses and penalties share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(kw_only=True)
class StepOutputs:
    """One forward pass of both networks, which every term of a phase takes.

    Attributes:
        real: (N, C, H, W) in [-1, 1]; None in phases that show D no real images. Requires gradients where a penalty
            is due.
        fake: (N, C, H, W); detached from G in D's own phase.
        real_logits: logits of ``real``; None like it.
        fake_logits: logits of ``fake``.
        nimg: images seen before this step, for schedules.
        z: latents (N, dim) of ``fake``.
        label: classes (N,) int64 of both; None without classes.
        auxiliary: D's own losses on ``real`` (see ``zoo.models.base.Discriminator.judged``), in D's phase.
        judge: D, through the augmentation that ``real`` went through.
        G: the generator.
    """

    real: Tensor | None
    fake: Tensor
    real_logits: Tensor | None
    fake_logits: Tensor
    nimg: int
    z: Tensor | None = None
    label: Tensor | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    judge: Callable[[Tensor], Tensor] | None = None
    G: nn.Module | None = None
