"""The Haar transform of square patches of an image."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def haar_basis(patch: int) -> Tensor:
    """Return the orthonormal 2-D Haar basis of a square patch, (patch^2, patch^2).

    Rows are basis functions: the mean, then details from coarse to fine; columns are pixels, row by row.
    """
    return _haar_bands(patch)[0]


def _haar_bands(patch: int) -> tuple[Tensor, Tensor]:
    """Return the basis, and how much smaller each coefficient of a natural image is than the coarsest detail."""
    rows, falls = [torch.full((patch, patch), 1 / patch)], [1]
    size = patch
    while size > 1:
        half = size // 2
        signs = torch.ones(2, size)
        signs[1, half:] = -1
        for top, left in product(range(0, patch, size), repeat=2):
            for down, across in ((0, 1), (1, 0), (1, 1)):
                row = torch.zeros(patch, patch)
                row[top : top + size, left : left + size] = torch.outer(signs[down], signs[across]) / size
                rows.append(row)
                # Amplitudes fall with frequency (Field 1987): half at each finer scale, half again on diagonals.
                falls.append(patch // size * (2 if down and across else 1))
        size = half
    return torch.stack(rows).flatten(1), torch.tensor(falls)


class HaarTransform(nn.Module):
    """Haar coefficients of square patches: the mean of their pixels, and amplified details.

    Args:
        patch: pixels per side.
        gain: factor of the coarsest details; twice as much at each finer scale, and twice that for diagonals, so that
            all have about the same size in natural images.
    """

    basis: Tensor
    gains: Tensor

    def __init__(self, patch: int, gain: float) -> None:
        super().__init__()
        self.patch = patch
        basis, falls = _haar_bands(patch)
        gains = gain * falls[:, None] / patch
        gains[0] = 1 / patch
        # Part of the state: a generator that is loaded is built without values and takes all of them from its file.
        self.register_buffer("basis", basis)
        self.register_buffer("gains", gains)

    def split(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to coefficients (N, C patch^2, H / patch, W / patch), channel by channel."""
        pixels = F.pixel_unshuffle(x, self.patch).unflatten(1, (x.shape[1], -1))
        matrix = (self.basis * self.gains).to(x.dtype)
        return torch.einsum("dp,ncphw->ncdhw", matrix, pixels).flatten(1, 2)

    def join(self, coefficients: Tensor) -> Tensor:
        """Invert :meth:`split`."""
        bands = coefficients.unflatten(1, (-1, self.patch**2))
        matrix = (self.basis / self.gains).to(coefficients.dtype)
        return F.pixel_shuffle(torch.einsum("dp,ncdhw->ncphw", matrix, bands).flatten(1, 2), self.patch)
