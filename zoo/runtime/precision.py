"""Which numbers are kept in which precision."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """``x`` in single precision, or in double where it is: what losses, norms and their sums are computed in."""
    return x if x.dtype == torch.float64 else x.float()
