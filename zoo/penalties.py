"""Regularisers that need gradients of the logits with respect to images.

Each is ``penalty(images, logits) -> scalar`` and shares D's forward with the loss: the trainer marks the images as
requiring gradients, and runs that forward in fp32, on the steps on which a penalty is due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.precision import full


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A regulariser of D, and the images it looks at."""

    function: Callable[[Tensor, Tensor], Tensor]
    images: Literal["real", "fake"]


def gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Half the squared norm of d logits / d images, averaged over images: R1 on reals (Mescheder et al. 2018, eq. 9),
    R2 on fakes (eq. 10).

    Args:
        images: (N, C, H, W), requiring gradients, from which ``logits`` were computed one by one.
        logits: (N,) or (N, ...): several verdicts an image are summed.
    """
    (gradient,) = torch.autograd.grad(full(logits).sum(), images, create_graph=True)
    return 0.5 * full(gradient).square().sum(dim=(1, 2, 3)).mean()


PENALTIES = {
    "r1": Penalty(function=gradient_penalty, images="real"),
    "r2": Penalty(function=gradient_penalty, images="fake"),
}
