"""Batch norms of a network, treated alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.runtime.distributed import all_reduce_sum, current_world
from zoo.runtime.precision import upcast


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """All of them, of any dimension."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def has_dense_norm(network: nn.Module) -> bool:
    """Whether a norm sees one value an image in each unit, so that a single image has no deviation to divide by."""
    return any(isinstance(norm, nn.BatchNorm1d) for norm in batch_norms(network))


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether an image's result depends on the others of its batch, so that smaller batches are another network.

    Batch norms do; another module that does says so by an attribute ``batch_statistics`` that is true.
    """
    return bool(batch_norms(network)) or any(getattr(m, "batch_statistics", False) for m in network.modules())


@contextlib.contextmanager
def batch_norm_momentum(network: nn.Module, value: float | None) -> Iterator[None]:
    """Running statistics move by ``value`` inside: 0.0 leaves them alone, None takes the plain mean over batches."""
    norms = batch_norms(network)
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = value
    try:
        yield
    finally:
        for norm, old in zip(norms, before, strict=True):
            norm.momentum = old


class SyncBatchNorm(_BatchNorm):
    """``nn.BatchNorm1d`` or ``2d`` (Ioffe & Szegedy 2015, algorithm 1) whose batch is that of all processes.

    Takes (N, C) or (N, C, ...), the same N in every process, on any device; state and parameters are those of the norm
    it replaces. In eval mode, and in a world of one, it is that norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"takes (N, C) or (N, C, ...), not {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        here = current_world()
        if here.size == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        x = upcast(input)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        # Everyone's mean and variance, in a row of their own: one message, and no sum of large squares to cancel.
        variance, mean = torch.var_mean(x, axes, correction=0)
        rows = x.new_zeros(here.size, 2, x.shape[1])
        rows[here.rank] = torch.stack([mean, variance])
        means, variances = all_reduce_sum(rows).unbind(1)
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


def synchronise_batch_norms(network: nn.Module) -> None:
    """Make every batch norm in ``network`` a :class:`SyncBatchNorm`, in place: parameters stay the same objects."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.__class__ = SyncBatchNorm  # type: ignore[assignment]  # the same attributes, another forward
