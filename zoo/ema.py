"""The averaged generator: what is sampled, measured, saved and shipped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from zoo.networks import Generator
from zoo.norms import batch_norms, momentum
from zoo.recipe import EmaConfig

CALIBRATION_BATCH = 16  # no larger than the smallest batches that nets are trained with: it must fit memory


class Ema:
    """An exponential moving average of a generator's weights, by half-life in images (Karras et al. 2020, ADA).

    The half-life ramps up with the images seen, so that early pictures are not those of the first random weights.

    Attributes:
        module: the averaged network, in eval mode; see :meth:`calibrate`.
    """

    def __init__(self, module: Generator, config: EmaConfig) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.config = config
        self._calibrated = False

    def decay(self, nimg: int, batch: int) -> float:
        """What share of the average stays when ``batch`` images were seen, the last of them being the ``nimg``-th."""
        halflife = self.config.halflife_kimg * 1000
        if self.config.ramp is not None:
            halflife = min(halflife, nimg * self.config.ramp)
        return 0.5 ** (batch / halflife) if halflife > 0 else 0.0

    @torch.no_grad()
    def update(self, module: nn.Module, nimg: int, batch: int) -> None:
        """Move the average towards ``module`` after its step."""
        average: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(average, current, 1 - self.decay(nimg, batch))
        self._calibrated = False

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        """Measure the running statistics of batch norms on latents ``z`` (N, dim), before the average is used.

        Neither averaged nor copied statistics are those of the averaged weights: after 20 thousand 28 px slices,
        averaged ones made pictures a sixth darker than the statistics of their own batches did.
        """
        norms = batch_norms(self.module)
        if self._calibrated or not norms:
            return
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        with momentum(self.module, None):
            for batch in z.split(CALIBRATION_BATCH):
                self.module(batch)
        self.module.eval()
        self._calibrated = True
