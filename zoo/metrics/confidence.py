"""How far a figure would move had other images, or other people, been looked at: intervals from half-samples.

Half of the units of a set are drawn **without replacement**, the figure is taken of the half, and this is repeated. A
unit is a subject with all of its images, or one image where subjects are not known.

Why the spread of the halves is the spread of the figure. Let a figure be, to first order, a mean of what its N units
bring, each with variance s^2; its own variance is then s^2 / N. The mean over n units drawn without replacement from
these N differs from the mean over all N with the variance s^2 (1/n - 1/N) = (s^2 / N) (N - n) / n, where the s^2 of
the drawing is the sample variance, an unbiased estimate. So the deviations of the replicates times sqrt(n / (N - n))
have the variance of the figure itself, and for n = N / 2 the factor is 1 (J. Shao and C. F. J. Wu, "A general theory
for jackknife variance estimation", Annals of Statistics 17 (1989) 1176-1197, for the delete-d jackknife that this is;
D. N. Politis and J. P. Romano, "Large sample confidence regions based on subsamples", Annals of Statistics 22 (1994)
2031-2050). A figure of two sets has both sides halved at once: their variances add in the figure and in the replicates
alike.

Only the *spread* of the replicates is used, around their own mean; the interval is centred on the figure of all units.
What smaller sets do to the level of a figure (FID rises as N falls, nearest neighbours move apart) drops out so.
Drawing with replacement would put copies of an image into a set: a bias for FID, and nonsense for nearest neighbours.

Where a figure is no mean even to first order (KID or FID of two sets from one distribution, whose first-order terms
vanish), halves vary more than the whole by up to sqrt(3): the interval is then too wide, never too narrow.

The interval is ``point +- t * spread``, t the 97.5 % quantile of Student's distribution with as many degrees of freedom
as the spread has: 1 / (1 / (R - 1) + 1 / (N - 1)) for R replicates and N units on the smaller side, since its square
has a relative variance of 2 / (R - 1) from the drawing and 2 / (N - 1) from the units.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.data.subjects import subject_indices
from zoo.metrics.value import MetricValue

FEWEST = 4  # units on a side; of fewer there are no two halves worth comparing

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class HalfSamples:
    """Half-samples of one set.

    Attributes:
        masks: (R, N) bool: the images of each half.
        units: how many subjects (or images) there are.
    """

    masks: Array
    units: int

    @property
    def scale(self) -> float:
        """sqrt(n / (N - n)) of n = N // 2 units: 1, or a little less where N is odd."""
        drawn = self.units // 2
        return math.sqrt(drawn / (self.units - drawn))


def draw_half_samples(groups: Sequence[Hashable] | int, replicates: int, rng: np.random.Generator) -> HalfSamples:
    """``replicates`` times half of the subjects, without replacement.

    Args:
        groups: the subject of each image, or how many images there are, each a unit of its own.

    Raises:
        ValueError: fewer than two units.
    """
    if isinstance(groups, int):
        unit_of, units = np.arange(groups), groups
    else:
        unit_of = np.array(subject_indices(groups), np.int64)
        units = len(set(groups))
    if units < 2:
        raise ValueError(f"{units} units have no halves")
    drawn = np.zeros((replicates, units), bool)
    for row in drawn:
        row[rng.permutation(units)[: units // 2]] = True
    return HalfSamples(drawn[:, unit_of], units)


def confidence_interval(
    point: float,
    replicates: Sequence[float] | Array,
    *sides: HalfSamples,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> tuple[float, float]:
    """The 95 % interval of a figure; it always holds ``point``.

    Args:
        point: the figure of all images.
        replicates: (R,) figures of the half-samples; R of 2 or more.
        sides: the half-samples they were taken of: one, or one for each of two sets. With an odd number of units on
            one side only, the larger of the two scales is used, which is too wide by less than a part in N.
        lowest, highest: the range of the figure; the interval is cut to it.
    """
    spread, quantile = _spread(replicates, sides)
    reach = quantile * spread
    return min(point, max(lowest, point - reach)), max(point, min(highest, point + reach))


def share_interval(
    point: float, replicates: Sequence[float] | Array, *sides: HalfSamples, of: HalfSamples
) -> tuple[float, float]:
    """The 95 % interval of a share, in [0, 1]: that of :func:`interval` wherever it stays inside.

    Where it would not, or has no width since every half showed nothing, its ends are also those of E. B. Wilson
    ("Probable inference", JASA 22 (1927) 209-212) for as many trials as the spread tells of (or, if there is none, as
    there are units): none of 40 is not known to be none of 1,000.

    Args:
        of: the half-samples of the set that the share is a share of.
    """
    spread, quantile = _spread(replicates, sides)
    low, high = point - quantile * spread, point + quantile * spread
    if 0 < low < high < 1:
        return low, high
    variance = point * (1 - point)
    trials = variance / spread**2 if variance and spread else of.units
    square = quantile**2 / trials
    reach = quantile * math.sqrt(variance / trials + square / (4 * trials))
    wilson_low, wilson_high = ((point + square / 2 + sign * reach) / (1 + square) for sign in (-1, 1))
    return min(point, max(0.0, min(low, wilson_low))), max(point, min(1.0, max(high, wilson_high)))


def _spread(replicates: Sequence[float] | Array, sides: Sequence[HalfSamples]) -> tuple[float, float]:
    """The standard deviation of the figure, and the quantile of Student's distribution that goes with it."""
    values = np.asarray(replicates, np.float64)
    units = min(side.units for side in sides)
    spread = values.std(ddof=1) * max(side.scale for side in sides)
    return float(spread), student(1 / (1 / (len(values) - 1) + 1 / (units - 1)))


def mean_with_interval(
    values: Sequence[float] | Array,
    groups: Sequence[Hashable] | None = None,
    *,
    replicates: int = 200,
    seed: int = 0,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> MetricValue:
    """The mean of one value an image, with its interval: nearest-real SSIM, for one.

    Args:
        values: (N,), N of 1 or more.
        groups: the subject of each image; None: every image is a unit of its own.
    """
    values = np.asarray(values, np.float64)
    point, count = float(values.mean()), len(values)
    units = count if groups is None else len(set(groups))
    if units < FEWEST:
        return MetricValue(value=point, n=count, note=too_few_note(units, groups is not None))
    halves = draw_half_samples(count if groups is None else groups, replicates, np.random.default_rng(seed))
    means = halves.masks @ values / halves.masks.sum(axis=1)
    low, high = confidence_interval(point, means, halves, lowest=lowest, highest=highest)
    return MetricValue(value=point, low=low, high=high, n=count)


def too_few_note(units: int, subjects: bool) -> str:
    """Why there is no interval."""
    kind = "subject" if subjects else "image"
    return f"no interval: {units} {kind}{'' if units == 1 else 's'}, fewer than {FEWEST}"


def student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t distribution with ``freedom`` >= 1 degrees of freedom, to six digits.

    With t = sqrt(freedom) tan(angle) the density becomes cos(angle) ** (freedom - 1), which is summed up to 95 %.
    """
    angle = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(0.95, share / share[-1], angle)))
