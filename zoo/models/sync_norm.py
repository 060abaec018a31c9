"""Batch norm over the batches of all processes.

``torch.nn.SyncBatchNorm`` refuses CPU tensors and has no double backward, which gradient penalties need; this one is
made of differentiable operations alone.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.runtime.distributed import differentiable_sum, world
from zoo.runtime.precision import full


class SyncBatchNorm(_BatchNorm):
    """``nn.BatchNorm1d`` or ``2d`` (Ioffe & Szegedy 2015, algorithm 1) whose batch is that of all processes.

    Takes (N, C) or (N, C, ...), the same N in every process, on any device; state and parameters are those of the norm
    it replaces. In eval mode, and in a world of one, it is that norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"takes (N, C) or (N, C, ...), not {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        here = world()
        if here.size == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        x = full(input)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        # Everyone's mean and variance, in a row of their own: one message, and no sum of large squares to cancel.
        variance, mean = torch.var_mean(x, axes, correction=0)
        rows = x.new_zeros(here.size, 2, x.shape[1])
        rows[here.rank] = torch.stack([mean, variance])
        means, variances = differentiable_sum(rows).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._track(mean.detach(), variance.detach(), here.size * x.numel() // x.shape[1])
        gain = torch.rsqrt(variance + self.eps)
        shift = -mean * gain
        if self.affine:
            gain = gain * self.weight
            shift = shift * self.weight + self.bias
        out = torch.addcmul(shift.view(shape), x, gain.view(shape))
        return out.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Running statistics, with the unbiased variance, as torch keeps them."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        tracked = cast(Tensor, self.num_batches_tracked).add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var.dtype), momentum)


def synchronise(network: nn.Module) -> None:
    """Make every batch norm in ``network`` a :class:`SyncBatchNorm`, in place: parameters stay the same objects."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.__class__ = SyncBatchNorm  # type: ignore[assignment]  # the same attributes, another forward
