"""The averaged generator, which is sampled, evaluated, saved and published."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.config import EmaConfig, Recipe
from zoo.models.base import Generator
from zoo.models.batch_norm import batch_norm_momentum, batch_norms
from zoo.runtime import rng

CALIBRATION_BATCH = 16  # as small as the smallest training batches, so that it fits the memory


def power_exponent(std: float) -> float:
    """The exponent gamma of a profile t^gamma on [0, 1] whose standard deviation is ``std``.

    The largest root of std^2 (g + 2)^2 (g + 3) = g + 1 (Karras et al. 2024, arXiv:2312.02696, algorithm 2).
    """
    s = std**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


class Ema:
    """An exponential moving average of a generator's weights, by half-life in images (Karras et al. 2020, ADA).

    The half-life ramps up with the images seen, so that early samples do not show the first random weights.

    Attributes:
        module: the averaged network, in eval mode; see :meth:`calibrate`.
    """

    def __init__(self, module: Generator, config: EmaConfig) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.config = config
        self._calibrated = False
        # `calibrate` measures the statistics of batch norms; other buffers (vectors of spectral norm) are copied.
        measured = {id(buffer) for norm in batch_norms(self.module) for buffer in norm.buffers()}
        self._copied = [name for name, buffer in self.module.named_buffers() if id(buffer) not in measured]

    def decay(self, nimg: int, batch: int) -> float:
        """The share of the average that remains after ``batch`` images, the last of which is the ``nimg``-th.

        With ``power_std`` the weights after image ``n`` count with ``n^gamma`` (Karras et al. 2024, eq. 4 and 5), so
        that the average reaches back in proportion to the run.
        """
        if self.config.power_std is not None:
            return max(0.0, 1 - batch / nimg) ** (power_exponent(self.config.power_std) + 1)
        halflife = self.config.halflife_kimg * 1000
        if self.config.ramp is not None:
            halflife = min(halflife, nimg * self.config.ramp)
        return 0.5 ** (batch / halflife) if halflife > 0 else 0.0

    @torch.no_grad()
    def update(self, module: nn.Module, nimg: int, batch: int) -> None:
        """Move the average towards the weights of ``module``."""
        average: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(average, current, 1 - self.decay(nimg, batch))
        for name in self._copied:
            self.module.get_buffer(name).copy_(module.get_buffer(name))
        self._calibrated = False

    def calibrate_for(self, recipe: Recipe, nimg: int, device: torch.device) -> None:
        """:meth:`calibrate` on fixed latents (and classes) of the recipe's seed; torch's random state is left alone."""
        # Fewer latents for large images, which give a norm more pixels each: 1024 at 64 px and less, 256 at 256 px.
        batches = max(1, min(1024, 65536 // recipe.data.resolution) // CALIBRATION_BATCH)
        if nimg == 0:  # the grid of untrained weights, for which training need not wait
            batches = 1
        count = batches * CALIBRATION_BATCH  # whole batches: each counts alike
        seed = recipe.train.seed
        with rng.fork_rng(device):
            torch.manual_seed(rng.derive_seed(seed, "calibration noise"))
            label = rng.fixed_labels(seed, count, self.module.image.shares)
            generator = rng.seeded_generator(seed, "calibration")
            z = torch.randn(count, self.module.latent.dim, generator=generator, dtype=torch.float32, device="cpu")
            self.calibrate(z.to(device), None if label is None else label.to(device))

    @torch.no_grad()
    def calibrate(self, z: Tensor, label: Tensor | None = None) -> None:
        """Measure the running statistics of batch norms on latents ``z`` (N, dim), before the average is used.

        Neither averaged nor copied statistics belong to the averaged weights: after 20 thousand 28 px slices, averaged
        statistics made images a sixth darker than those measured on the network's own batches.
        """
        norms = batch_norms(self.module)
        if self._calibrated or not norms:
            return
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        with batch_norm_momentum(self.module, None):
            for index, batch in enumerate(z.split(CALIBRATION_BATCH)):
                own = slice(index * CALIBRATION_BATCH, (index + 1) * CALIBRATION_BATCH)
                self.module(batch, None if label is None else label[own])
        self.module.eval()
        self._calibrated = True
