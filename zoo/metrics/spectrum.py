"""Power spectra of images: are fakes as sharp as real images, and do they show a grid?

Sharpness: the mean power of fakes over that of real images in rings of spatial frequency, up to 0.4 cycles per pixel.
Above, aliasing and noise of compression decide (Durall et al. 2020, arXiv:2003.01826, compare the same rings).
Grid: a pattern that repeats every p pixels has its power in single frequencies, multiples of 1 / p cycles per pixel,
above that of the frequencies around them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from zoo.metrics.confidence import confidence_interval, draw_half_samples, too_few_note
from zoo.metrics.value import MetricValue, missing_value

_Array = np.ndarray
_Mask = np.ndarray | slice

_ALL = slice(None)

SPECTRUM_METRICS = ("spectrum", "grid")
SPECTRUM_MAX_IMAGES = 1000  # of a set, drawn at random from larger ones
SPECTRUM_REPLICATES = 100
HIGHEST_FREQUENCY = 0.4  # cycles per pixel
MAX_RINGS = 16
GRID_PERIODS = (2, 4, 8)  # pixels; of the patches and strides of networks, and of JPEG
SMALLEST_SIDE = 16  # pixels
_TINY = 1e-6  # squared grey levels: below any power that an 8-bit image can show
SPECTRUM_DEFINITION = (
    f"power of up to {SPECTRUM_MAX_IMAGES} images in up to {MAX_RINGS} rings to {HIGHEST_FREQUENCY} cycles per pixel, "
    f"largest deviation of fakes over reals from 1; grids of periods {GRID_PERIODS}, peak over the median of 40 "
    "frequencies around it, fakes over reals"
)


@dataclass(frozen=True)
class Spectra:
    """Power spectra of some images, averaged over channels.

    Attributes:
        rings: (N, rings): mean power of each image in rings of frequency, the lowest first.
        peaks: (N, grid frequencies): power at the frequencies of grids.
        around: (N, grid frequencies, 40): power at the frequencies around each of them.
    """

    rings: _Array
    peaks: _Array
    around: _Array

    def deviation(self, reals: Spectra, mask: _Mask = _ALL, real: _Mask = _ALL) -> float:
        """Return the largest deviation from 1 of the power in a ring over that of ``reals``, for masked images."""
        ratio = self.rings[mask].mean(axis=0) / np.maximum(reals.rings[real].mean(axis=0), _TINY)
        return float(np.abs(ratio - 1).max())

    def grid(self, reals: Spectra, mask: _Mask = _ALL, real: _Mask = _ALL) -> float:
        """Return the highest ratio of a grid frequency's prominence to that of ``reals``, for masked images."""
        return float((self._prominence(mask) / np.maximum(reals._prominence(real), 1)).max())

    def _prominence(self, mask: _Mask) -> _Array:
        surroundings = np.median(self.around[mask].mean(axis=0), axis=1)
        return (self.peaks[mask].mean(axis=0) + _TINY) / (surroundings + _TINY)


def power_spectra(images: _Array) -> Spectra:
    """Compute the spectra of uint8 images (N, C, H, W), square and at least 16 pixels wide.

    Power is the squared magnitude of the Fourier transform over the number of pixels, in squared grey levels.
    """
    side = images.shape[-1]
    masks = _ring_masks(side)
    places = _grid_places(side)
    neighbours = [_neighbours(row, column, side) for row, column in places]
    rings, peaks, around = [], [], []
    for image in images:
        power = (np.abs(np.fft.fft2(image.astype(np.float32))) ** 2).mean(axis=0) / side**2
        rings.append([power[mask].mean() for mask in masks])
        peaks.append([power[place] for place in places])
        around.append([power[rows, columns] for rows, columns in neighbours])
    return Spectra(np.array(rings), np.array(peaks), np.array(around))


def compare_spectra(
    fakes: _Array,
    reals: _Array,
    metrics: Sequence[str] = SPECTRUM_METRICS,
    *,
    fake_subjects: Sequence[Hashable] | None = None,
    real_subjects: Sequence[Hashable] | None = None,
    intervals: bool = True,
) -> dict[str, MetricValue]:
    """Compute ``spectrum`` and ``grid`` of uint8 images (N, C, H, W), with 95 % intervals.

    Args:
        metrics: from ``SPECTRUM_METRICS``.
        fake_subjects: the subject of each fake; None: each image is a unit.
        real_subjects: the subject of each real.
    """
    if reals.shape[-1] < SMALLEST_SIDE or reals.shape[-1] != reals.shape[-2]:
        reason = f"spectra are of square images of {SMALLEST_SIDE} pixels or more"
        return {name: missing_value(reason, len(fakes)) for name in metrics}
    sets = []
    for images, subjects in ((fakes, fake_subjects), (reals, real_subjects)):
        chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:SPECTRUM_MAX_IMAGES])
        groups = len(chosen) if subjects is None else [subjects[i] for i in chosen]
        sets.append((power_spectra(images[chosen]), groups))
    (ours, our_groups), (theirs, their_groups) = sets
    functions = {"spectrum": Spectra.deviation, "grid": Spectra.grid}
    note = too_few_note(our_groups) or too_few_note(their_groups)
    values = {}
    for name in metrics:
        point = functions[name](ours, theirs)
        low = high = None
        if intervals and not note:
            rng = np.random.default_rng(0)
            halves = [draw_half_samples(groups, SPECTRUM_REPLICATES, rng) for groups in (our_groups, their_groups)]
            pairs = zip(halves[0].masks, halves[1].masks, strict=True)
            replicates = [functions[name](ours, theirs, mask, real) for mask, real in pairs]
            low, high = confidence_interval(point, replicates, *halves, lowest=0)
        values[name] = MetricValue(value=point, low=low, high=high, n=len(ours.rings), note=note if intervals else "")
    return values


def ring_edges(side: int) -> _Array:
    """Return the edges of the rings in cycles per pixel, (rings + 1,); no ring is narrower than 1 / ``side``."""
    return np.linspace(0, HIGHEST_FREQUENCY, min(MAX_RINGS, int(HIGHEST_FREQUENCY * side)) + 1)


def _ring_masks(side: int) -> list[_Array]:
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency)
    edges = ring_edges(side)
    # The mean of an image is no detail: the first ring starts above zero.
    return [(radius > low) & (radius <= high) for low, high in pairwise(edges)]


def _grid_places(side: int) -> list[tuple[int, int]]:
    """List the rows and columns of a spectrum where grids have their power, half of the plane."""
    period = max(period for period in GRID_PERIODS if side % period == 0 or period == 2)
    steps = [round(side * k / period) for k in range(period)]
    half = steps[: period // 2 + 1]
    return [(row, column) for row in half for column in steps if (row, column) != (0, 0)]


def _neighbours(row: int, column: int, side: int) -> tuple[_Array, _Array]:
    """Return rows and columns of the 7 x 7 frequencies around one, without the inner 3 x 3."""
    offsets = [(y, x) for y in range(-3, 4) for x in range(-3, 4) if max(abs(y), abs(x)) > 1]
    down, across = np.array(offsets).T
    return (row + down) % side, (column + across) % side
