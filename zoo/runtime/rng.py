"""Randomness as a function of the seed and the images seen, so that a resumed run draws what an unbroken one would
have drawn.

Latents, data order and flips are drawn for the whole batch from (seed, stream, image counter) on the CPU; what
modules draw inside (dropout, noise inputs, style mixing) is seeded anew before each forward pass. No generator state
is ever stored.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any mix of words and numbers; unrelated for parts that differ at all."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeded_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`derive`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextlib.contextmanager
def fork_rng(device: torch.device) -> Iterator[None]:
    """Whatever is seeded and drawn inside, torch's own random state is afterwards what it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state = torch.mps.get_rng_state() if device.type == "mps" else None
        try:
            yield
        finally:
            if state is not None:
                torch.mps.set_rng_state(state)


def draw_latents(seed: int, nimg: int, batch: int, dim: int) -> Tensor:
    """Standard normal (batch, dim) for the step that begins after ``nimg`` images."""
    return torch.randn(batch, dim, generator=seeded_generator(seed, "latents", nimg))


def fixed_latents(seed: int, count: int, dim: int, *, first: int = 0) -> Tensor:
    """Standard normal (count, dim), a row for each (seed, index) from index ``first`` on: the first rows do not depend
    on ``count``.
    """
    places = range(first, first + count)
    return torch.stack([torch.randn(dim, generator=seeded_generator(seed, "sample", index)) for index in places])


def fixed_labels(seed: int, count: int, shares: Sequence[float], first: int = 0) -> Tensor | None:
    """int64 (count,) classes, a draw for each (seed, index) from ``first`` on; None where there are none."""
    if not shares:
        return None
    edges = np.cumsum(shares) / np.sum(shares)
    u = [derive_seed(seed, "label", index) / 2**63 for index in range(first, first + count)]
    return torch.from_numpy(np.searchsorted(edges, u, side="right").clip(max=len(shares) - 1))


class ImageOrder:
    """Which images the ``nimg``-th to ``nimg + batch``-th are.

    ``shuffle``: an endless walk through permutations, one an epoch, each a function of (seed, epoch); batches cross
    epochs, so that none is short. ``replacement``: independent draws.
    """

    def __init__(self, seed: int, size: int, *, replacement: bool = False) -> None:
        self.seed, self.size, self.replacement = seed, size, replacement
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def take(self, nimg: int, batch: int) -> np.ndarray:
        """(batch,) int64 positions in [0, size)."""
        if self.replacement:
            return np.random.default_rng(derive_seed(self.seed, "order", nimg)).integers(self.size, size=batch)
        parts = []
        while batch:
            epoch, start = divmod(nimg, self.size)
            part = self._permuted(epoch)[start : start + batch]
            parts.append(part)
            nimg, batch = nimg + len(part), batch - len(part)
        return np.concatenate(parts)

    def _permuted(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng(derive_seed(self.seed, "order", epoch))
            self._epoch, self._permutation = epoch, rng.permutation(self.size)
        return self._permutation


def draw_flips(seed: int, nimg: int, batch: int) -> Tensor:
    """(batch,) bool, each True with probability one half."""
    return torch.rand(batch, generator=seeded_generator(seed, "flips", nimg)) < 0.5
