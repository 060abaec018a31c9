"""95 % confidence intervals from half-samples of subjects.

Half of the units of a set are drawn without replacement, the metric is computed for the half, and this is repeated. A
unit is a subject with all of its images, or one image where subjects are unknown. The spread of the halves is the
standard error of the metric (the delete-d jackknife of Shao & Wu 1989); see docs/metrics.md for why, and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.wording import count_of
from zoo.data.subjects import subject_indices
from zoo.metrics.value import MetricValue

MIN_INTERVAL_UNITS = 4  # fewer units have no two halves worth comparing

_Array = np.ndarray
_Groups = Sequence[Hashable] | int  # the subject of each image, or the number of images if each is a unit


@dataclass(frozen=True)
class HalfSamples:
    """Half-samples of one set.

    Attributes:
        masks: (R, N) bool: the images of each half.
        units: number of subjects (or images).
    """

    masks: _Array
    units: int

    @property
    def scale(self) -> float:
        """The factor from the spread of the halves to the standard error: 1, or a little less for odd N."""
        drawn = self.units // 2
        return math.sqrt(drawn / (self.units - drawn))  # delete-d jackknife: sqrt(n / (N - n)), Shao & Wu 1989


def draw_half_samples(groups: _Groups, replicates: int, rng: np.random.Generator) -> HalfSamples:
    """Draw half of the subjects without replacement, ``replicates`` times.

    Args:
        groups: the subject of each image, or the number of images, each then a unit.

    Raises:
        ValueError: fewer than two units.
    """
    units = _count_units(groups)
    if units < 2:
        raise ValueError(f"{units} units have no halves")
    unit_of = np.arange(groups) if isinstance(groups, int) else np.array(subject_indices(groups), np.int64)
    drawn = np.zeros((replicates, units), bool)
    for row in drawn:
        row[rng.permutation(units)[: units // 2]] = True
    return HalfSamples(drawn[:, unit_of], units)


def confidence_interval(
    point: float,
    replicates: Sequence[float] | _Array,
    *sides: HalfSamples,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> tuple[float, float]:
    """Return the 95 % interval of a value; it always contains ``point``.

    Args:
        point: the value of all images.
        replicates: (R,) values of the half-samples, R of 2 or more.
        sides: the half-samples of the set, or of each of two sets.
        lowest, highest: range of the metric, to which the interval is cut.
    """
    spread, quantile = _spread(replicates, sides)
    # Centred on the value of all images: only the spread of the halves is used, for their level depends on N.
    reach = quantile * spread
    return min(point, max(lowest, point - reach)), max(point, min(highest, point + reach))


def share_interval(
    point: float, replicates: Sequence[float] | _Array, *sides: HalfSamples, of: HalfSamples
) -> tuple[float, float]:
    """Return the 95 % interval of a share, in [0, 1]: :func:`confidence_interval` where that stays inside.

    Elsewhere, or where it has no width since all halves have the same share, its ends are also those of Wilson (1927)
    for as many trials as the spread implies (or units, if there is no spread): 0 of 40 is not 0 of 1,000.

    Args:
        of: the half-samples of the set that the share is a share of.
    """
    spread, quantile = _spread(replicates, sides)
    low, high = point - quantile * spread, point + quantile * spread
    if 0 < low < high < 1:
        return low, high
    variance = point * (1 - point)
    trials = variance / spread**2 if variance and spread else of.units
    # Wilson's score interval, JASA 22 (1927) 209-212
    square = quantile**2 / trials
    reach = quantile * math.sqrt(variance / trials + square / (4 * trials))
    wilson_low, wilson_high = ((point + square / 2 + sign * reach) / (1 + square) for sign in (-1, 1))
    return min(point, max(0.0, min(low, wilson_low))), max(point, min(1.0, max(high, wilson_high)))


def mean_with_interval(
    values: Sequence[float] | _Array,
    groups: Sequence[Hashable] | None = None,
    *,
    replicates: int = 200,
    seed: int = 0,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> MetricValue:
    """Return the mean of one value per image, such as the nearest SSIM, with its interval.

    Args:
        values: (N,), N of 1 or more.
        groups: the subject of each image; None: each image is a unit.
    """
    values = np.asarray(values, np.float64)
    point, count = float(values.mean()), len(values)
    units: _Groups = count if groups is None else groups
    if note := too_few_note(units):
        return MetricValue(value=point, n=count, note=note)
    halves = draw_half_samples(units, replicates, np.random.default_rng(seed))
    means = halves.masks @ values / halves.masks.sum(axis=1)
    low, high = confidence_interval(point, means, halves, lowest=lowest, highest=highest)
    return MetricValue(value=point, low=low, high=high, n=count)


def too_few_note(groups: _Groups) -> str:
    """Return why there is no interval, or an empty string if there are enough units."""
    units, kind = _count_units(groups), "image" if isinstance(groups, int) else "subject"
    if units >= MIN_INTERVAL_UNITS:
        return ""
    return f"no interval: {count_of(units, kind)}, fewer than {MIN_INTERVAL_UNITS}"


def student_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t with ``freedom`` >= 1 degrees of freedom, to six digits."""
    # With t = sqrt(freedom) tan(angle) the density is cos(angle) ** (freedom - 1); it is summed up to 95 %.
    angle = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(0.95, share / share[-1], angle)))


def _count_units(groups: _Groups) -> int:
    return groups if isinstance(groups, int) else len(set(groups))


def _spread(replicates: Sequence[float] | _Array, sides: Sequence[HalfSamples]) -> tuple[float, float]:
    """Return the standard error and the quantile of Student's distribution that goes with it."""
    values = np.asarray(replicates, np.float64)
    units = min(side.units for side in sides)
    # Odd units on one side only: the larger scale, which is too wide by less than a part in N.
    error = values.std(ddof=1) * max(side.scale for side in sides)
    # The squared error has a relative variance of 2 / (R - 1) from drawing and 2 / (N - 1) from the units.
    return float(error), student_quantile(1 / (1 / (len(values) - 1) + 1 / (units - 1)))
