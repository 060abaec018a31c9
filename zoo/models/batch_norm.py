"""Batch norms of a network, treated alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


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
def momentum(network: nn.Module, value: float | None) -> Iterator[None]:
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
