"""Random numbers as a function of the seed and the number of images seen, so that a resumed run repeats exactly.

Latents, image order and flips are drawn on the CPU for the whole batch from (seed, stream, image counter). Layers
that draw inside (dropout, noise inputs, style mixing) are seeded before each forward pass. No generator state is ever
stored. See docs/exact-resume.md.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.arguments import plain_number
from zoo.core.errors import ZooError, shorten

MAX_SEED = 2**63 - 1
_FLOAT32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # another type draws other numbers


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number as an int: 1, 1.0, numpy's and tensors of one number mean the same.

    Raises:
        ZooError: it is no whole number (True, 1.5, text), or not from ``low`` to ``high``; ``name`` says what it is.
    """
    with contextlib.suppress(ZooError):
        number: int = plain_number(name, value, whole=True)
        if low <= number <= high:
            return number
    raise ZooError(f"{name} {shorten(value)}: must be a whole number from {low} to {high}")


def check_seed(value: Any) -> int:
    """Return a seed as an int, by :func:`check_whole`.

    Raises:
        ZooError: it is not a whole number from 0 to ``MAX_SEED``.
    """
    return check_whole("seed", value, 0, MAX_SEED)


def derive_seed(*parts: int | str) -> int:
    """Hash words and numbers to a 63-bit seed; seeds of different parts are unrelated."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # torch takes signed 64-bit seeds


def seeded_generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextlib.contextmanager
def fork_rng(device: torch.device) -> Iterator[None]:
    """Restore torch's global random state, on the CPU and on ``device``, when the block ends."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state = torch.mps.get_rng_state() if device.type == "mps" else None  # torch forks CPU and CUDA only
        try:
            yield
        finally:
            if state is not None:
                torch.mps.set_rng_state(state)


def draw_latents(seed: int, nimg: int, batch: int, dim: int) -> Tensor:
    """Draw standard normal (batch, dim) latents for the step that starts after ``nimg`` images."""
    return torch.randn(batch, dim, generator=seeded_generator(seed, "latents", nimg), **_FLOAT32)


def fixed_latents(seed: int, count: int, dim: int, *, first: int = 0) -> Tensor:
    """Draw standard normal (count, dim) latents of the indices from ``first`` on.

    Each row depends on (seed, index) alone, so that it does not change with ``count``.
    """
    indices = range(first, first + count)
    rows = [torch.randn(dim, generator=seeded_generator(seed, "sample", index), **_FLOAT32) for index in indices]
    return torch.stack(rows)


def fixed_labels(seed: int, count: int, shares: Sequence[float], first: int = 0) -> Tensor | None:
    """Draw int64 (count,) classes with probabilities ``shares``; each depends on (seed, index) alone.

    Returns:
        None if ``shares`` is empty.
    """
    if not shares:
        return None
    # Inverse transform sampling: the class in whose interval of cumulative probability the uniform number lies.
    edges = np.cumsum(shares) / np.sum(shares)
    u = [derive_seed(seed, "label", index) / 2**63 for index in range(first, first + count)]
    return torch.from_numpy(np.searchsorted(edges, u, side="right").clip(max=len(shares) - 1))


class ImageOrder:
    """The order in which training images are used.

    ``shuffle``: one permutation of all images per epoch, a function of (seed, epoch). A batch may span two epochs, so
    that no batch is short. ``replacement``: independent draws.

    Args:
        seed: ``train.seed``.
        size: number of images.
        replacement: draw with replacement.
    """

    def __init__(self, seed: int, size: int, *, replacement: bool = False) -> None:
        self.seed, self.size, self.replacement = seed, size, replacement
        self._epoch = -1  # of the cached permutation
        self._permutation = np.empty(0, np.int64)

    def take(self, nimg: int, batch: int) -> np.ndarray:
        """Return the int64 (batch,) indices of the images that follow the first ``nimg``."""
        if self.replacement:
            return np.random.default_rng(derive_seed(self.seed, "order", nimg)).integers(self.size, size=batch)
        parts = []
        while batch:
            epoch, start = divmod(nimg, self.size)
            part = self._permute(epoch)[start : start + batch]
            parts.append(part)
            nimg, batch = nimg + len(part), batch - len(part)
        return np.concatenate(parts)

    def _permute(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng(derive_seed(self.seed, "order", epoch))
            self._epoch, self._permutation = epoch, rng.permutation(self.size)
        return self._permutation


def draw_flips(seed: int, nimg: int, batch: int) -> Tensor:
    """Draw bool (batch,), each True with probability 0.5."""
    return torch.rand(batch, generator=seeded_generator(seed, "flips", nimg), **_FLOAT32) < 0.5
