"""Augmentation of real and fake images alike before D sees them, so that D overfits a small set later.

DiffAugment (Zhao et al. 2020, arXiv:2006.10738): every image, every time. ADA (Karras et al. 2020, arXiv:2006.06676):
each transformation with a probability p that follows how far D overfits; p is part of a run's state.

Differs from both in: no rotation, scaling or shift by fractions of pixels (R1 needs two derivatives, which torch's
resampling lacks); translation opens a black border, like the background of slices, and comes before the colours.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from zoo.core.config import AugmentConfig
from zoo.runtime import distributed, rng

MAX_SHIFT = 0.125  # share of the image side
CUT_SIDE = 0.5  # side of the hole, as a share of the image side
PASSES = (
    "D real",
    "D fake",
    "G fake",
    "G real",
)  # passes through D draw separately; G's phase has real images under relativistic losses
_ROW, _COLUMN, _BRIGHTNESS, _CONTRAST, _CUT_ROW, _CUT_COLUMN, _CUTS, _FLIPS = range(8)


def draw_augmentations(config: AugmentConfig, seed: int, nimg: int, batch: int, p: float = 1.0) -> Tensor:
    """Draw the parameters (batch, passes, 8) of a step, on the CPU for the whole batch.

    Args:
        nimg: images seen before the step.
        p: probability of each transformation; an image that is spared gets parameters that change nothing.
    """
    generator = rng.seeded_generator(seed, "augment", nimg)
    shape = (batch, len(PASSES))
    u = torch.rand(*shape, 8, generator=generator)
    happens = torch.rand(*shape, 5, generator=generator) < p
    on = {name: happens[..., index] for index, name in enumerate(_POLICIES)}
    on = {name: mask & (name in config.policy) for name, mask in on.items()}
    zero = torch.zeros(shape)
    draws = torch.zeros(*shape, 8)
    for column in (_ROW, _COLUMN):
        draws[..., column] = torch.where(on["translation"], MAX_SHIFT * (2 * u[..., column] - 1), zero)
    draws[..., _BRIGHTNESS] = torch.where(on["brightness"], u[..., _BRIGHTNESS] - 0.5, zero)
    draws[..., _CONTRAST] = torch.where(on["contrast"], u[..., _CONTRAST] + 0.5, zero + 1)
    draws[..., _CUT_ROW : _CUT_COLUMN + 1] = u[..., _CUT_ROW : _CUT_COLUMN + 1]
    draws[..., _CUTS] = on["cutout"].float()
    draws[..., _FLIPS] = (on["xflip"] & (u[..., _FLIPS] < 0.5)).float()
    if config.paired:
        for phase in ("D", "G"):
            draws[:, PASSES.index(f"{phase} fake")] = draws[:, PASSES.index(f"{phase} real")]
    return draws


def augment_images(x: Tensor, draws: Tensor, policy: Collection[str]) -> Tensor:
    """Transform images (N, C, H, W) in [-1, 1] by ``draws`` (N, 8), twice differentiably and only by ``policy``."""
    if "xflip" in policy:
        x = torch.where(_column(draws, _FLIPS) > 0.5, x.flip(3), x)
    if "translation" in policy:
        for axis, column in ((2, _ROW), (3, _COLUMN)):
            x = _shift(x, (draws[:, column] * x.shape[axis]).round().long(), axis)
    if "brightness" in policy:
        x = x + _column(draws, _BRIGHTNESS).to(x.dtype)
    if "contrast" in policy:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = (x - mean) * _column(draws, _CONTRAST).to(x.dtype) + mean
    if "cutout" in policy:
        inside = _in_hole(draws[:, _CUT_ROW], x.shape[2])[:, None, :, None]
        inside = inside & _in_hole(draws[:, _CUT_COLUMN], x.shape[3])[:, None, None, :]
        x = torch.where(inside & (_column(draws, _CUTS) > 0.5), torch.zeros_like(x), x)
    return x


class Ada:
    """The probability of transformations, adapted to the mean sign of D's logits on real images.

    That sign (r_t of Karras et al. 2020, section 3) rises when D overfits.

    Attributes:
        p: probability of each transformation.
    """

    UPDATE_EVERY_STEPS = 4

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.p = 0.0
        self._signs: Tensor | None = None
        self._steps = 0

    def add_signs(self, signs: Tensor, share: float) -> None:
        """Add the mean sign () of D's logits on ``share`` of a batch of real images."""
        self._signs = signs * share if self._signs is None else self._signs + signs * share

    def update(self, batch: int) -> None:
        """End a step; every fourth time all processes change p together (this waits for the device)."""
        self._steps += 1
        if self._steps < self.UPDATE_EVERY_STEPS or self._signs is None:
            return
        mean = sum(distributed.all_gather(self._signs.item())) / self._steps
        change = batch * self._steps / (self.config.speed_kimg * 1000)
        self.p = min(max(self.p + (change if mean > self.config.target else -change), 0.0), self.config.most)
        self._signs, self._steps = None, 0

    def state_dict(self) -> dict[str, Any]:
        """The signs of all processes, which must call it together."""
        signs = distributed.all_gather(0.0 if self._signs is None else self._signs.item())
        return {"p": self.p, "signs": sum(signs), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.p, self._steps = state["p"], state["steps"]
        # The sum over the processes that saved; the first one takes it, whatever their number is now.
        own = state["signs"] if distributed.current_world().first else 0.0
        self._signs = torch.tensor(own, device=device)


_POLICIES = ("translation", "brightness", "contrast", "cutout", "xflip")


def _column(draws: Tensor, index: int) -> Tensor:
    return draws[:, index, None, None, None]


def _shift(x: Tensor, by: Tensor, axis: int) -> Tensor:
    """Shift each image by its own (N,) whole pixels along ``axis``; pixels that enter are black."""
    size = x.shape[axis]
    source = torch.arange(size, device=x.device) - by[:, None]
    shape = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
    inside = ((source >= 0) & (source < size)).view(shape)
    index = source.clamp(0, size - 1).view(shape).expand_as(x)
    return torch.where(inside, x.gather(axis, index), -torch.ones_like(x))


def _in_hole(at: Tensor, size: int) -> Tensor:
    """(N, size) bool: the pixels of the hole whose centre is at (N,) in [0, 1)."""
    half = round(CUT_SIDE * size / 2)
    centre = (at * size).long()[:, None]
    place = torch.arange(size, device=at.device)
    return (place >= centre - half) & (place < centre + half)
