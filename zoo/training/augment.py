"""What images go through before D sees them, real and fake alike, so that few images do for it what many would.

DiffAugment (Zhao et al. 2020, arXiv:2006.10738): every image, every time. ADA (Karras et al. 2020, arXiv:2006.06676):
each transformation with a probability p that follows how far D overfits; p is part of a run's state.

Differs from both in: no rotation, scaling or shift by parts of pixels (resampling cannot be differentiated twice in
torch without custom kernels, and R1 wants that); the border that translation opens is black, as the background of
slices is, and translation comes before the colours, so that it shows no edge.

Parameters are drawn on the CPU for the whole batch, as numbers that mean "nothing" where an image is spared; what is
then done is a pure, twice differentiable function of images and parameters.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from zoo.core.config import AugmentConfig
from zoo.runtime import distributed, rng

SHIFT = 0.125  # of the side, at most
CUT = 0.5  # of the side
PASSES = ("D real", "D fake", "G fake", "G real")  # what is drawn apart; G's own reals are relativistic losses'
_ROW, _COLUMN, _BRIGHTNESS, _CONTRAST, _CUT_ROW, _CUT_COLUMN, _CUTS, _FLIPS = range(8)


def draw_augmentations(config: AugmentConfig, seed: int, nimg: int, batch: int, p: float = 1.0) -> Tensor:
    """Parameters (batch, passes, 8) for the step that begins after ``nimg`` images; ``p``: of each transformation."""
    generator = rng.seeded_generator(seed, "augment", nimg)
    shape = (batch, len(PASSES))
    u = torch.rand(*shape, 8, generator=generator)
    happens = torch.rand(*shape, 5, generator=generator) < p
    on = {name: happens[..., index] for index, name in enumerate(_POLICIES)}
    on = {name: mask & (name in config.policy) for name, mask in on.items()}
    zero = torch.zeros(shape)
    found = torch.zeros(*shape, 8)
    for column in (_ROW, _COLUMN):
        found[..., column] = torch.where(on["translation"], SHIFT * (2 * u[..., column] - 1), zero)
    found[..., _BRIGHTNESS] = torch.where(on["brightness"], u[..., _BRIGHTNESS] - 0.5, zero)
    found[..., _CONTRAST] = torch.where(on["contrast"], u[..., _CONTRAST] + 0.5, zero + 1)
    found[..., _CUT_ROW : _CUT_COLUMN + 1] = u[..., _CUT_ROW : _CUT_COLUMN + 1]
    found[..., _CUTS] = on["cutout"].float()
    found[..., _FLIPS] = (on["xflip"] & (u[..., _FLIPS] < 0.5)).float()
    return found


def augment_images(x: Tensor, draws: Tensor, policy: Collection[str]) -> Tensor:
    """Images (N, C, H, W) in [-1, 1], transformed by ``draws`` (N, 8); those of other policies are not looked at."""
    if "xflip" in policy:
        x = torch.where(_column(draws, _FLIPS) > 0.5, x.flip(3), x)
    if "translation" in policy:
        for axis, column in ((2, _ROW), (3, _COLUMN)):
            x = _shifted(x, (draws[:, column] * x.shape[axis]).round().long(), axis)
    if "brightness" in policy:
        x = x + _column(draws, _BRIGHTNESS).to(x.dtype)
    if "contrast" in policy:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = (x - mean) * _column(draws, _CONTRAST).to(x.dtype) + mean
    if "cutout" in policy:
        inside = _within(draws[:, _CUT_ROW], x.shape[2])[:, None, :, None]
        inside = inside & _within(draws[:, _CUT_COLUMN], x.shape[3])[:, None, None, :]
        x = torch.where(inside & (_column(draws, _CUTS) > 0.5), torch.zeros_like(x), x)
    return x


class Ada:
    """The probability of transformations, moved by the mean sign of D's logits on real images (Karras et al. 2020,
    r_t in section 3): overfitting makes it rise.

    Attributes:
        p: of each transformation.
    """

    EVERY = 4  # steps between moves

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.p = 0.0
        self._signs: Tensor | None = None
        self._steps = 0

    def saw(self, signs: Tensor, share: float) -> None:
        """The mean sign () of logits on ``share`` of a batch of real images."""
        self._signs = signs * share if self._signs is None else self._signs + signs * share

    def stepped(self, batch: int) -> None:
        """A step is over; every fourth time all processes move p together (this waits for the device)."""
        self._steps += 1
        if self._steps < self.EVERY or self._signs is None:
            return
        mean = sum(distributed.all_gather(self._signs.item())) / self._steps
        by = batch * self._steps / (self.config.speed_kimg * 1000)
        self.p = min(max(self.p + (by if mean > self.config.target else -by), 0.0), self.config.most)
        self._signs, self._steps = None, 0

    def state_dict(self) -> dict[str, Any]:
        """What all processes have seen; they must ask together."""
        signs = distributed.all_gather(0.0 if self._signs is None else self._signs.item())
        return {"p": self.p, "signs": sum(signs), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.p, self._steps = state["p"], state["steps"]
        own = (
            state["signs"] if distributed.current_world().first else 0.0
        )  # of all, by whichever processes they are now
        self._signs = torch.tensor(own, device=device)


_POLICIES = ("translation", "brightness", "contrast", "cutout", "xflip")


def _column(draws: Tensor, index: int) -> Tensor:
    return draws[:, index, None, None, None]


def _shifted(x: Tensor, by: Tensor, axis: int) -> Tensor:
    """Each image moved by its own (N,) whole pixels along ``axis``; what comes in is black."""
    size = x.shape[axis]
    source = torch.arange(size, device=x.device) - by[:, None]
    shape = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
    inside = ((source >= 0) & (source < size)).view(shape)
    index = source.clamp(0, size - 1).view(shape).expand_as(x)
    return torch.where(inside, x.gather(axis, index), -torch.ones_like(x))


def _within(at: Tensor, size: int) -> Tensor:
    """(N, size) bool: the pixels of a hole whose centre is at (N,) in [0, 1)."""
    half = round(CUT * size / 2)
    centre = (at * size).long()[:, None]
    place = torch.arange(size, device=at.device)
    return (place >= centre - half) & (place < centre + half)
