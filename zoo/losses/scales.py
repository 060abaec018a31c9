"""Losses of the smaller images that G makes on the way to its image (after Hyun et al. 2026, arXiv:2605.26449).

Each size has a discriminator; the consistency term keeps the sizes images of one thing. All are means over sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core.config import ScalesConfig
from zoo.losses.adversarial import AdversarialLoss
from zoo.losses.step_outputs import StepOutputs
from zoo.runtime.precision import upcast


def average_down(images: Tensor, size: int) -> Tensor:
    """Average images (N, C, H, W) over areas, to (N, C, size, size)."""
    return F.interpolate(images, size=(size, size), mode="area")


def scales_d(step: StepOutputs, config: ScalesConfig, loss: AdversarialLoss, smoothing: float) -> Tensor:
    """Return the adversarial loss of the discriminators of small images; 0 without a pass where its weight is 0."""
    if config.weight.at(step.nimg) == 0:
        return step.fake.new_zeros(())
    losses = [
        loss.discriminator(_real_logits(step, size), _fake_logits(step, images.detach()), smoothing)
        for size, images in step.small.items()
    ]
    return torch.stack(losses).mean()


def scales_g(step: StepOutputs, config: ScalesConfig, loss: AdversarialLoss) -> Tensor:
    """Return G's adversarial loss of small images; 0 without a pass where its weight is 0."""
    if config.weight.at(step.nimg) == 0:
        return step.fake.new_zeros(())
    losses = [
        loss.generator(_real_logits(step, size) if loss.needs_real else None, _fake_logits(step, images))
        for size, images in step.small.items()
    ]
    return torch.stack(losses).mean()


def consistency(step: StepOutputs, config: ScalesConfig) -> Tensor:
    """Return the mean squared difference of each small image from the averaged final one.

    The final image is the target: gradients reach the small images alone. 0 where its weight is 0.
    """
    if config.consistency.at(step.nimg) == 0:
        return step.fake.new_zeros(())
    final = upcast(step.fake.detach())
    return torch.stack([F.mse_loss(upcast(x), average_down(final, size)) for size, x in step.small.items()]).mean()


def _real_logits(step: StepOutputs, size: int) -> Tensor:
    assert step.real is not None
    assert step.judge_small is not None
    return step.judge_small(average_down(step.real.detach(), size), "real")


def _fake_logits(step: StepOutputs, images: Tensor) -> Tensor:
    assert step.judge_small is not None
    return step.judge_small(images, "fake")
