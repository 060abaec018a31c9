"""Batch norms: momentum, batch dependence, statistics across processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.runtime.distributed import all_reduce_sum, current_world
from zoo.runtime.precision import upcast


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """List the batch norms of ``network``, of any dimension."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def has_dense_norm(network: nn.Module) -> bool:
    """Return whether a norm has only one value per image and unit.

    A single image then has no deviation to divide by.
    """
    return any(isinstance(norm, nn.BatchNorm1d) for norm in batch_norms(network))


def has_batch_statistics(network: nn.Module) -> bool:
    """Return whether an image's result depends on the others of its batch.

    Smaller batches then change numbers.
    True for batch norms and for modules with a true attribute ``batch_statistics``.
    """
    return bool(batch_norms(network)) or any(getattr(m, "batch_statistics", False) for m in network.modules())


@contextlib.contextmanager
def batch_norm_momentum(network: nn.Module, value: float | None) -> Iterator[None]:
    """Set the momentum of running statistics within a context.

    0.0 keeps them, None averages all batches equally.
    """
    # torch reads momentum in each forward pass; None is its cumulative average.
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = value
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class SyncBatchNorm(_BatchNorm):
    """Batch norm (Ioffe & Szegedy 2015, algorithm 1) over all processes.

    It works on any device, unlike torch's, for (N, C) or (N, C, ...) with the same N in every process. State and
    parameters are those of the norm it replaces. In eval mode and with one process, it equals that norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm: needs (N, C) or (N, C, ...), not {input.dim()} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        world = current_world()
        if world.size == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        x = upcast(input)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        # One row per process: a single message, and no difference of large sums of squares, which would cancel.
        variance, mean = torch.var_mean(x, axes, correction=0)
        rows = x.new_zeros(world.size, 2, x.shape[1])
        rows[world.rank] = torch.stack([mean, variance])
        means, variances = all_reduce_sum(rows).unbind(1)
        mean = means.mean(0)
        # Law of total variance; plain means, because every process has as many images.
        variance = variances.mean(0) + (means - mean).square().mean(0)
        update_running_statistics(self, mean.detach(), variance.detach(), world.size * x.numel() // x.shape[1])
        # (x - mean) / std * weight + bias, multiplied out to one pass over the maps.
        gain = torch.rsqrt(variance + self.eps)
        shift = -mean * gain
        if self.affine:
            gain = gain * self.weight
            shift = shift * self.weight + self.bias
        out = torch.addcmul(shift.view(shape), x, gain.view(shape))
        return out.to(input.dtype)


@torch.no_grad()
def update_running_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update running statistics as torch does, from the biased ``variance`` of ``count`` values."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    tracked = cast(Tensor, norm.num_batches_tracked).add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1.0 / float(tracked)
    # Through `.data`, which autograd does not count, as in torch's own norm: that one saves its running statistics for
    # the backward pass, which does not read them in training mode but would be refused after a counted change.
    norm.running_mean.data.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.data.lerp_((variance * count / max(count - 1, 1)).to(norm.running_var.dtype), momentum)


def synchronise_batch_norms(network: nn.Module) -> None:
    """Turn every batch norm in ``network`` into a :class:`SyncBatchNorm` in place.

    Parameters stay the same objects.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.__class__ = SyncBatchNorm  # type: ignore[assignment]  # same attributes, another forward
