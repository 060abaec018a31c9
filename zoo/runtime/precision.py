"""Which values are computed in which precision."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Return ``x`` in fp32, or unchanged in fp64: the precision of losses, normalisations and their sums."""
    return x if x.dtype == torch.float64 else x.float()
