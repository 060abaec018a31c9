"""Find the training image that an image may be a copy of, whatever its brightness, noise or position.

The measure is the Pearson correlation (zero-mean normalised cross-correlation, NCC) of low-passed images, the highest
over small shifts. Copies are recognised by the ratio of the distance to the nearest training image and the distance to
the nearest of other subjects, as keypoints are matched (D. G. Lowe, IJCV 60 (2004) 91-110, section 7.1): a smooth or
typical image is near to many. See docs/alarms.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter, SilentReporter
from zoo.runtime.torch_defaults import torch_defaults

_MAX_SHIFT = 2  # pixels in either direction, along both axes
_BOXES_PER_SIDE = 32  # along the shorter side of a low-passed image, about
_MIN_BOX_PIXELS = 2  # a side: averages noise away in small images

NCC_DEFINITION = (
    f"NCC: Pearson correlation of images averaged over f x f boxes (f: a {_BOXES_PER_SIDE}nd of the shorter side, at "
    f"least {_MIN_BOX_PIXELS} pixels), all channels together, the highest over shifts of up to {_MAX_SHIFT} pixels; 0 "
    "with a flat image; distance: (1 - NCC) over 1 - the highest NCC with other subjects than the nearest image's"
)

_TABLE_ROWS = 64  # images of a table that are compared at once
_TABLE_VALUES = 2**24  # correlations in memory at once: 64 MB
_ROUNDING = 1e-6  # of 1 - NCC in float32


class Nearest(NamedTuple):
    """The training image nearest to each of N images.

    Attributes:
        ncc: (N,) float32 in [-1, 1], the highest correlation over shifts with any training image.
        real: (N,) int64, index of that training image.
        distance: (N,) float32, 0 or more: 1 - ncc; if two subjects or more are known, divided by the same of the
            nearest image of all other subjects. It then is at most 1: as near to one subject as to another.
        real_ncc: (M,) float32, the highest correlation of each training image with any of the N images.
    """

    ncc: Tensor
    real: Tensor
    distance: Tensor
    real_ncc: Tensor


@torch.no_grad()
@torch_defaults()
def nearest_copy(
    x: Tensor,
    reals: Tensor | np.ndarray,
    *,
    subjects: Sequence[str] | None = None,
    own: Sequence[str] | None = None,
    chunk: int = 256,
    reporter: Reporter | None = None,
) -> Nearest:
    """Find the training image of which each of ``x`` is most likely a copy.

    Args:
        x: (N, C, H, W), uint8 or floating, in any units; computed in float32 on its device.
        reals: (M, C, H, W) tensor or array, such as a uint8 memory map; read once, ``chunk`` images at a time, and
            kept low-passed: about 4 kB per image and channel.
        subjects: of each of ``reals``; None: unknown.
        own: subject of each of ``x``, with whose images it is not compared (correlation -1); None: with all.
        reporter: shows progress.

    Raises:
        ZooError: no reals, or images too small to be shifted and averaged.
        ValueError: images of two shapes, or a number of subjects that is not that of the images.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != tuple(reals.shape[1:]):
        raise ValueError(f"nearest_copy compares images of one shape, not {tuple(x.shape)} with {tuple(reals.shape)}")
    subject_ids = _subject_ids(subjects, len(reals), x.device)
    same_subject = None if own is None else _same_subject(own, subjects or (), len(x), len(reals))
    _box_grid(x)  # raises for small images before anything is read
    reporter = reporter or SilentReporter()
    reporter.start("searching for copies", len(reals) + len(x))
    table = _low_pass_all(reals, x.device, chunk, reporter)
    results = [[torch.zeros(0, device=x.device, dtype=dtype) for dtype in (torch.float, torch.int64, torch.float)]]
    real_ncc = torch.full((len(reals),), -1.0, device=x.device)
    step = max(1, min(chunk, _TABLE_VALUES // ((2 * _MAX_SHIFT + 1) ** 2 * len(table))))
    for start in range(0, len(x), step):
        images = x[start : start + step]
        ncc = _correlate(images, table)
        if same_subject is not None:
            ncc = ncc.masked_fill_(same_subject(start, start + len(images)).to(x.device), -1)
        real_ncc = torch.maximum(real_ncc, ncc.nan_to_num(-1).amax(dim=0))
        best, real, distance = _nearest(1 - ncc, subject_ids, rounding=_ROUNDING)
        results.append([1 - best, real, distance])
        reporter.advance(len(images))
    reporter.stop()
    ncc, real, distance = (torch.cat(column) for column in zip(*results, strict=True))
    return Nearest(ncc, real, distance, real_ncc)


@torch.no_grad()
@torch_defaults()
def correlation_table(x: Tensor, reals: Tensor) -> Tensor:
    """Compute the highest correlation over shifts of all of ``x`` (N, C, H, W) with all of ``reals``: (N, M)."""
    table = _low_pass_all(reals, x.device, _TABLE_ROWS, SilentReporter())
    return torch.cat([_correlate(images, table) for images in x.split(_TABLE_ROWS)])


def _low_pass_all(reals: Tensor | np.ndarray, device: torch.device, chunk: int, reporter: Reporter) -> Tensor:
    """Return low-passed images (M, D), read ``chunk`` at a time."""
    rows = []
    for start in range(0, len(reals), chunk):
        tile = reals[start : start + chunk]
        tile = torch.from_numpy(np.array(tile)) if isinstance(tile, np.ndarray) else tile
        rows += _low_pass(tile.to(device), shifts=False)
        reporter.advance(len(tile))
    return torch.cat(rows)


def _correlate(images: Tensor, table: Tensor) -> Tensor:
    """Return the highest correlation (n, M) over shifts of images with low-passed ones (M, D)."""
    shifted = torch.stack(_low_pass(images, shifts=True), dim=1)  # (n, 25, D)
    return (shifted.flatten(0, 1) @ table.T).view(*shifted.shape[:2], len(table)).amax(dim=1).clamp_(-1, 1)


@torch.no_grad()
@torch_defaults()
def nearest_features(x: Tensor, reals: Tensor, *, subjects: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Find the training image nearest to each of ``x`` by features.

    Args:
        x: (N, D) features.
        reals: (M, D) features of the training images.
        subjects: of each of ``reals``; None: unknown.

    Returns:
        The squared Euclidean distance (N,) float32, divided by that of the nearest image of all other subjects as in
        ``Nearest.distance``, and the index (N,) int64.

    Raises:
        ZooError: no reals.
        ValueError: features of two lengths, or the number of subjects is not that of ``reals``.
    """
    if x.ndim != 2 or x.shape[1:] != reals.shape[1:]:
        raise ValueError(f"nearest_features compares features of one length, not {x.shape} with {reals.shape}")
    subject_ids = _subject_ids(subjects, len(reals), x.device)
    reals = reals.to(x.device).float()
    centre = reals.mean(dim=0)  # |a|^2 - 2 a.b + |b|^2 loses fewer digits for small numbers
    reals = reals - centre
    squares = reals.square().sum(dim=1)
    distances, indices = [x.new_zeros(0, dtype=torch.float32)], [x.new_zeros(0, dtype=torch.int64)]
    for rows in (x.float() - centre).split(max(1, _TABLE_VALUES // len(reals))):
        table = (rows.square().sum(dim=1)[:, None] + squares - 2 * rows @ reals.T).clamp_(min=0)
        _, real, distance = _nearest(table, subject_ids, rounding=_ROUNDING * float(squares.mean()))
        distances.append(distance)
        indices.append(real)
    return torch.cat(distances), torch.cat(indices)


def _nearest(table: Tensor, subject_ids: Tensor | None, rounding: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lowest of distances (n, M), its index, and its ratio to the lowest of other subjects.

    Overwrites ``table``. ``rounding``: what a distance of 0 may have become.
    """
    best, real = table.min(dim=1)
    if subject_ids is None:
        return best, real, best
    others = table.masked_fill_(subject_ids == subject_ids[real][:, None], torch.inf).amin(dim=1)
    return best, real, (best + rounding) / (others + rounding)


def _low_pass(x: Tensor, *, shifts: bool) -> list[Tensor]:
    """Average the middle of (n, C, H, W) over boxes: (n, D) of mean 0 and length 1 (0 if flat), or 25 shifted ones.

    All shifts stay inside the image, so that nothing has to be invented beyond its edge.
    """
    side, (top, high), (left, wide) = _box_grid(x)
    x = x.float()
    if not shifts:
        return [_normalize(F.avg_pool2d(x[..., top : top + high * side, left : left + wide * side], side))]
    # A box of a shifted image is another position of the same sliding mean, which is computed once.
    means = F.avg_pool2d(F.avg_pool2d(x, (side, 1), stride=1), (1, side), stride=1)
    offsets = range(-_MAX_SHIFT, _MAX_SHIFT + 1)
    boxes = [means[..., top + down :: side, left + right :: side] for down in offsets for right in offsets]
    return [_normalize(shifted[..., :high, :wide]) for shifted in boxes]


def _normalize(boxes: Tensor) -> Tensor:
    boxes = boxes.flatten(1)
    centred = boxes - boxes.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    rounding = 1e-6 * boxes.shape[1] ** 0.5 * boxes.abs().amax(dim=1, keepdim=True)  # what a flat image leaves
    return torch.where(length <= rounding, 0, centred / length.clamp_min(1e-30))


def _box_grid(x: Tensor) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Return a box's side; then, down and across, where the first box lies and how many there are."""
    height, width = x.shape[2:]
    side = max(_MIN_BOX_PIXELS, min(height, width) // _BOXES_PER_SIDE)
    high, wide = (height - 2 * _MAX_SHIFT) // side, (width - 2 * _MAX_SHIFT) // side
    if min(high, wide) < 2:
        least = 2 * _MAX_SHIFT + 2 * _MIN_BOX_PIXELS
        raise ZooError(f"NCC needs images of at least {least}x{least} pixels, not {height}x{width}")
    return side, ((height - high * side) // 2, high), ((width - wide * side) // 2, wide)


def _same_subject(own: Sequence[str], subjects: Sequence[str], count: int, reals: int) -> Callable[[int, int], Tensor]:
    """Return a function of rows: bool (rows, M), whether a real image is of the row's own subject."""
    if len(own) != count or len(subjects) != reals:
        raise ValueError(f"{len(own)} subjects of {count} images, {len(subjects)} of {reals} real images")
    rows, columns = np.asarray(own), np.asarray(subjects)
    return lambda start, end: torch.from_numpy(rows[start:end, None] == columns)


def _subject_ids(subjects: Sequence[str] | None, count: int, device: torch.device) -> Tensor | None:
    """Return (M,) int64, equal for equal subjects; None without two subjects."""
    if count == 0:
        raise ZooError("no real images to search for the nearest")
    if subjects is None or len(set(subjects)) < 2:
        return None
    if len(subjects) != count:
        raise ValueError(f"{len(subjects)} subjects of {count} images")
    return torch.from_numpy(np.unique(np.asarray(subjects), return_inverse=True)[1].reshape(-1)).to(device)
