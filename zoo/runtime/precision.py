"""Which values are computed in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Return ``x`` in fp32, or unchanged in fp64: the precision of losses, normalisations and their sums."""
    return x if x.dtype == torch.float64 else x.float()


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute products of fp32 in fp32: without TF32 on CUDA and bf16 on a CPU, which training may have switched on."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn
