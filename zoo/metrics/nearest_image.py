"""Which training image a picture might be a copy of, whatever its brightness, noise or place.

The measure is the Pearson correlation (zero-mean normalised cross-correlation, NCC) of low-passed images, the highest
over small shifts. Correlation does not see brightness and contrast, averaging over boxes takes noise away, and the
shifts find what was moved: SSIM is blind to a copy that is moved by one pixel or noisy.

Low-passed images of one organ are all alike, so a high correlation alone is no proof: slices of two heads correlate by
0.97, and smooth pictures by more. What tells a copy is that it is much nearer to *one* training image than to those of
all other subjects, as a keypoint is matched by the ratio of its nearest distances (D. G. Lowe, "Distinctive image
features from scale-invariant keypoints", IJCV 60 (2004) 91-110, section 7.1). A picture that is merely smooth or
typical is near to many. That ratio is ``distance`` where subjects are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter, SilentReporter

REACH = 2  # pixels to either side, along both axes
SIDE = 32  # boxes along the shorter side of a low-passed image, about
SMALLEST = 2  # pixels a side of a box, at least: what takes noise from small images

DEFINITION = (
    f"NCC: Pearson correlation of images averaged over f x f boxes (f: a {SIDE}nd of the shorter side, at least "
    f"{SMALLEST} pixels), all channels together, the highest over shifts of up to {REACH} pixels; 0 with a "
    "flat image; distance: (1 - NCC) over 1 - the highest NCC with other subjects than the nearest image's"
)

_TABLE = 2**24  # correlations held at once: 64 MB
_SAME = 1e-6  # 1 - NCC of what float32 cannot tell apart


class Nearest(NamedTuple):
    """The training image nearest to each of N images.

    Attributes:
        ncc: (N,) float32 in [-1, 1], the highest correlation over shifts with any training image.
        real: (N,) int64, which one.
        distance: (N,) float32, 0 or more, by which copies are told: 1 - ncc; where two subjects or more are known,
            divided by the same of the nearest image of all *other* subjects than that one's. It then is 1 at most: no
            nearer to one person than to another.
    """

    ncc: Tensor
    real: Tensor
    distance: Tensor


@torch.no_grad()
def nearest_copy(
    x: Tensor,
    reals: Tensor | np.ndarray,
    *,
    subjects: Sequence[str] | None = None,
    chunk: int = 256,
    reporter: Reporter | None = None,
) -> Nearest:
    """The training image of which each of ``x`` is most likely a copy.

    Args:
        x: (N, C, H, W), uint8 or floating, of any units; the arithmetic is float32 on its device.
        reals: (M, C, H, W) tensor or array, such as a uint8 memory map; read once, ``chunk`` images at a time, and
            kept low-passed: about 4 kB an image and channel.
        subjects: whom each of ``reals`` shows; None: unknown.
        reporter: who is told how far it is.

    Returns:
        The highest correlation over shifts, with which training image, and the distance by which copies are told.

    Raises:
        ZooError: no reals, or images too small to be shifted and averaged.
        ValueError: images of two shapes, or subjects of another number than ``reals``.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != tuple(reals.shape[1:]):
        raise ValueError(f"nearest_copy compares images of one shape, not {tuple(x.shape)} with {tuple(reals.shape)}")
    who = _numbers(subjects, len(reals), x.device)
    _grid(x)  # refuses early
    reporter = reporter or SilentReporter()
    reporter.start("searching for copies", len(reals) + len(x))
    table = _low_passed_reals(reals, chunk, x.device, reporter)
    found = [_empty(x.device)]
    step = max(1, min(chunk, _TABLE // ((2 * REACH + 1) ** 2 * len(table))))
    for some in x.split(step):
        found.append(_search(some, table, who))
        reporter.advance(len(some))
    reporter.stop()
    return Nearest(*(torch.cat(column) for column in zip(*found, strict=True)))


@torch.no_grad()
def nearest_features(x: Tensor, reals: Tensor, *, subjects: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """The training image nearest to each of ``x`` in feature space.

    Args:
        x: (N, D) features.
        reals: (M, D) features of the training images.
        subjects: whom each of ``reals`` shows; None: unknown.

    Returns:
        The squared Euclidean distance (N,) float32, divided by that of the nearest image of all other subjects as in
        ``Nearest.distance``, and the index (N,) int64.

    Raises:
        ZooError: no reals.
        ValueError: features of two lengths, or subjects of another number than ``reals``.
    """
    if x.ndim != 2 or x.shape[1:] != reals.shape[1:]:
        raise ValueError(f"nearest_features compares features of one length, not {x.shape} with {reals.shape}")
    who = _numbers(subjects, len(reals), x.device)
    reals = reals.to(x.device).float()
    centre = reals.mean(dim=0)  # small numbers keep their digits when squared
    reals = reals - centre
    squares = reals.square().sum(dim=1)
    distances, indices = [x.new_zeros(0, dtype=torch.float32)], [x.new_zeros(0, dtype=torch.int64)]
    for some in (x.float() - centre).split(max(1, _TABLE // len(reals))):
        table = (some.square().sum(dim=1)[:, None] + squares - 2 * some @ reals.T).clamp_(min=0)
        _, real, distance = _nearest(table, who, same=_SAME * float(squares.mean()))
        distances.append(distance)
        indices.append(real)
    return torch.cat(distances), torch.cat(indices)


def _search(x: Tensor, table: Tensor, who: Tensor | None) -> Nearest:
    shifted = torch.stack(_low_pass(x, shifts=True), dim=1)  # (n, 25, D)
    ncc = (shifted.flatten(0, 1) @ table.T).view(*shifted.shape[:2], len(table)).amax(dim=1).clamp_(-1, 1)
    best, real, distance = _nearest(1 - ncc, who, same=_SAME)
    return Nearest(1 - best, real, distance)


def _nearest(table: Tensor, who: Tensor | None, same: float) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest, where, and that relative to the lowest of other subjects, from distances (n, M), which are overwritten.

    ``same`` is what rounding may make of a distance of 0.
    """
    best, real = table.min(dim=1)
    if who is None:
        return best, real, best
    others = table.masked_fill_(who == who[real][:, None], torch.inf).amin(dim=1)
    return best, real, (best + same) / (others + same)


def _low_passed_reals(reals: Tensor | np.ndarray, chunk: int, device: torch.device, reporter: Reporter) -> Tensor:
    """(M, D), unshifted."""
    rows = []
    for start in range(0, len(reals), chunk):
        tile = reals[start : start + chunk]
        tile = torch.from_numpy(np.array(tile)) if isinstance(tile, np.ndarray) else tile
        rows += _low_pass(tile.to(device), shifts=False)
        reporter.advance(len(tile))
    return torch.cat(rows)


def _low_pass(x: Tensor, *, shifts: bool) -> list[Tensor]:
    """Box means of the middle of (n, C, H, W), (n, D) of mean 0 and length 1 (0 if flat); shifted, 25 of them.

    A box of a shifted image is another place of the same sliding mean, so that is taken once. All shifts stay inside
    the image: what lies beyond its edge need not be invented.
    """
    side, (top, high), (left, wide) = _grid(x)
    x = x.float()
    if not shifts:
        return [_unit(F.avg_pool2d(x[..., top : top + high * side, left : left + wide * side], side))]
    means = F.avg_pool2d(F.avg_pool2d(x, (side, 1), stride=1), (1, side), stride=1)
    places = range(-REACH, REACH + 1)
    boxes = (means[..., top + down :: side, left + right :: side] for down in places for right in places)
    return [_unit(some[..., :high, :wide]) for some in boxes]


def _unit(boxes: Tensor) -> Tensor:
    boxes = boxes.flatten(1)
    centred = boxes - boxes.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    rounding = 1e-6 * boxes.shape[1] ** 0.5 * boxes.abs().amax(dim=1, keepdim=True)  # all that is left of a flat image
    return torch.where(length <= rounding, 0, centred / length.clamp_min(1e-30))


def _grid(x: Tensor | np.ndarray) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """A box's side; then, down and across, where the first box lies and how many there are."""
    height, width = x.shape[2:]
    side = max(SMALLEST, min(height, width) // SIDE)
    high, wide = (height - 2 * REACH) // side, (width - 2 * REACH) // side
    if min(high, wide) < 2:
        least = 2 * REACH + 2 * SMALLEST
        raise ZooError(f"NCC needs images of at least {least}x{least} pixels, not {height}x{width}")
    return side, ((height - high * side) // 2, high), ((width - wide * side) // 2, wide)


def _numbers(subjects: Sequence[str] | None, count: int, device: torch.device) -> Tensor | None:
    """(M,) int64, equal for equal subjects; None where there are not two."""
    if count == 0:
        raise ZooError("no real images to search for the nearest")
    if subjects is None or len(set(subjects)) < 2:
        return None
    if len(subjects) != count:
        raise ValueError(f"{len(subjects)} subjects of {count} images")
    return torch.from_numpy(np.unique(np.asarray(subjects), return_inverse=True)[1].reshape(-1)).to(device)


def _empty(device: torch.device) -> Nearest:
    nothing = torch.zeros(0, device=device)
    return Nearest(nothing, nothing.long(), nothing)
