"""What the terms of an objective, losses and penalties alike, are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(kw_only=True)
class StepOutputs:
    """One forward pass of both networks, which all terms of a phase share.

    Attributes:
        real: images (N, C, H, W) in [-1, 1]. Requires gradients where a penalty is due.
        fake: images (N, C, H, W); detached from G in D's own phase.
        real_logits: D's logits of ``real``; None in phases whose loss does not need them.
        fake_logits: D's logits of ``fake``.
        nimg: images seen before this step, for schedules.
        z: latents (N, dim) of ``fake``.
        label: classes (N,) int64 of ``real`` and ``fake``; None where there are no classes.
        auxiliary: D's own losses on ``real`` in its own phase (see ``zoo.models.base.Discriminator.judged``).
        directions: of real and fake images, what the last layer of a D with ``san`` makes of them (see
            ``zoo.models.san``); empty without.
        judge: from the first images (n, C, H, W) of the batch, or others in their place, to logits: D after the
            augmentation of ``real``, or with ``side="fake"`` of ``fake``.
        G: the generator.
        small: smaller images (N, C, size, size) that G made of the same latents, by size (see
            ``zoo.models.scales.ScaledGenerator``); detached in D's own phase, empty for most recipes.
        judge_small: from images (N, C, size, size) and the side whose augmentation they get, ``"real"`` or ``"fake"``,
            to logits (N,) of the discriminator of this size; None for most recipes.
        reconstruct: returns what G makes of the codes of ``real``, and their means and log variances (see
            ``zoo.models.encoder.reconstruct_images``); None for most recipes.
    """

    real: Tensor | None
    fake: Tensor
    real_logits: Tensor | None
    fake_logits: Tensor
    nimg: int
    z: Tensor | None = None
    label: Tensor | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    directions: tuple[Tensor, ...] = ()
    judge: Callable[..., Tensor] | None = None
    G: nn.Module | None = None
    small: dict[int, Tensor] = field(default_factory=dict)
    judge_small: Callable[[Tensor, str], Tensor] | None = None
    reconstruct: Callable[[], tuple[Tensor, Tensor, Tensor]] | None = None
