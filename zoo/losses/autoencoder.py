"""The loss of a G that starts as the decoder of a variational autoencoder (Ham et al. 2020, arXiv:2002.02112)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zoo.core.config import AutoencoderConfig
from zoo.losses.step_outputs import StepOutputs
from zoo.runtime.precision import upcast


def autoencoder_loss(step: StepOutputs, config: AutoencoderConfig) -> Tensor:
    """Return the mean absolute difference of real images and their reconstructions, plus ``kl`` times the divergence.

    The divergence of codes from standard normal latents is a mean over their numbers. 0 without a forward pass where
    the weight has faded.
    """
    if config.weight.at(step.nimg) == 0:
        return step.fake.new_zeros(())
    assert step.real is not None
    assert step.reconstruct is not None
    images, mean, log_variance = step.reconstruct()
    return F.l1_loss(upcast(images), upcast(step.real.detach())) + config.kl * normal_divergence(mean, log_variance)


def normal_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of normal distributions from the standard one, averaged over all."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
