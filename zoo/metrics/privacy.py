"""What a set of fakes tells about the people whose images were trained on: shares, distances, membership inference.

Distances are 1 - the correlation of low-passed images (:mod:`zoo.metrics.nearest_image`). A subject, not an image, is
the unit wherever people are compared. docs/privacy.md explains each value in plain words, and what it does not prove.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from zoo.core.errors import ZooError
from zoo.core.wording import count_of
from zoo.data.image_set import ImageSet
from zoo.data.subjects import subject_indices
from zoo.metrics import confidence
from zoo.metrics.alarms import FALSE_ALARM_PROBABILITY, MIN_HELDOUT_IMAGES, MIN_HELDOUT_SUBJECTS, Alarm
from zoo.metrics.comparison import Comparison, spread_over_subjects, subjects_of
from zoo.metrics.value import MetricValue, missing_value
from zoo.report.number_format import format_distinct
from zoo.report.table import ALARM_NOTE

_Floats = npt.NDArray[np.float64]

RATIO_QUANTILE = 0.05  # the share of fakes whose distance ratios are at most the value
# Of the value of held-out images, below which is an alarm; benchmarks/privacy.py measures both.
MIN_AUTHENTICITY_SHARE = 0.1  # smooth images are near to all: honest generators are at 0.28 or more, all copies at 0
MIN_RATIO_SHARE = 0.5  # honest sets are at 0.80 or more, a tenth of copies at 0.21 or less
HELDOUT_SHARES = {"authenticity": MIN_AUTHENTICITY_SHARE, "distance_ratio": MIN_RATIO_SHARE}
MIN_MEMBERSHIP_SUBJECTS = 2  # on either side, for an AUC
MAX_DISCRIMINATED_IMAGES = 2048  # of either kind, whose logits are computed
REPLICATES = 200  # half-samples of an interval
ROUNDING = 1e-6  # of a distance in float32

PRIVACY_DEFINITION = (
    "authenticity: share of fakes further from their nearest training image than that is from other subjects; distance "
    f"ratio: quantile {RATIO_QUANTILE} of the distance to the nearest training image over that to the nearest held-out "
    "one of another subject; membership: AUC over subjects, of the highest correlation with a fake and of D's mean "
    f"logit; distances: 1 - NCC; thresholds {MIN_AUTHENTICITY_SHARE} {MIN_RATIO_SHARE} {FALSE_ALARM_PROBABILITY}"
)


def authentic(distances: npt.ArrayLike, others: npt.ArrayLike) -> _Floats:
    """Return (N,) 1 for authentic fakes, 0 for others (A. Alaa et al., ICML 2022, section 3.3, with subjects).

    Args:
        distances: (N,) of each fake to its nearest training image.
        others: (N,) of that training image to the nearest one of another subject.
    """
    return (np.asarray(distances, np.float64) > np.asarray(others, np.float64)).astype(np.float64)


def distance_ratios(train: npt.ArrayLike, heldout: npt.ArrayLike) -> _Floats:
    """Return (N,) distance of each fake to the nearest training image over that to the nearest held-out image."""
    return (np.asarray(train, np.float64) + ROUNDING) / (np.asarray(heldout, np.float64) + ROUNDING)


def share_with_interval(values: _Floats, subjects: Sequence[str] | None, *, intervals: bool = True) -> MetricValue:
    """Return the mean of (N,) zeros and ones with its interval from half-samples of subjects."""
    return _with_interval(values, subjects, np.mean, intervals=intervals, share=True)


def ratio_with_interval(ratios: _Floats, subjects: Sequence[str] | None, *, intervals: bool = True) -> MetricValue:
    """Return the low quantile of (N,) distance ratios with its interval from half-samples of subjects."""
    return _with_interval(
        ratios, subjects, lambda some: np.quantile(some, RATIO_QUANTILE), intervals=intervals, share=False
    )


def auc(members: npt.ArrayLike, others: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: the share of pairs in which the member scores higher, ties counted half."""
    ours, theirs = np.asarray(members, np.float64), np.sort(np.asarray(others, np.float64))
    below = np.searchsorted(theirs, ours, side="left") + np.searchsorted(theirs, ours, side="right")
    return float(below.mean() / (2 * len(theirs)))


def largest_auc_by_chance(members: int, others: int, chance: float = FALSE_ALARM_PROBABILITY) -> float:
    """Return the AUC that is exceeded with probability ``chance`` if scores do not depend on membership.

    The normal approximation of the statistic of H. B. Mann and D. R. Whitney (1947); above 1 for a few subjects.
    """
    spread = math.sqrt((members + others + 1) / (12 * members * others))
    return 0.5 + NormalDist().inv_cdf(1 - chance) * spread


def subject_scores(scores: npt.ArrayLike, subjects: Sequence[str] | None, *, by: Literal["mean", "max"]) -> _Floats:
    """Return one score per subject, (S,), in the order of their first images; without subjects, one per image."""
    values = np.asarray(scores, np.float64)
    if subjects is None:
        return values
    index = np.array(subject_indices(subjects), np.int64)
    if by == "mean":
        return np.bincount(index, values) / np.bincount(index)
    highest = np.full(index.max() + 1, -np.inf)
    np.maximum.at(highest, index, values)
    return highest


def membership_auc(members: _Floats, others: _Floats, *, intervals: bool = True) -> MetricValue:
    """Return the AUC of telling subjects who were trained on from others by one score each, with its interval.

    Args:
        members: (S,) scores of the subjects who were trained on.
        others: (T,) scores of held-out subjects; higher means "trained on".
        intervals: whether there is an interval, from half-samples of both.
    """
    least = min(len(members), len(others))
    if least < MIN_MEMBERSHIP_SUBJECTS:
        return missing_value(f"membership needs {MIN_MEMBERSHIP_SUBJECTS} subjects of either kind, not {least}", least)
    point, count = auc(members, others), len(members) + len(others)
    note = f"{ALARM_NOTE}above {min(1.0, largest_auc_by_chance(len(members), len(others))):.3f}"
    if not intervals or least < confidence.MIN_INTERVAL_UNITS:
        return MetricValue(value=point, n=count, note=note)
    rng = np.random.default_rng(0)
    halves = [confidence.draw_half_samples(len(side), REPLICATES, rng) for side in (members, others)]
    masks = zip(halves[0].masks, halves[1].masks, strict=True)
    values = [auc(members[ours], others[theirs]) for ours, theirs in masks]
    low, high = confidence.share_interval(point, values, *halves, of=halves[1])
    return MetricValue(value=point, low=low, high=high, n=count, note=note)


def _with_interval(
    values: _Floats,
    subjects: Sequence[str] | None,
    compute: Callable[[_Floats], float],
    *,
    intervals: bool,
    share: bool,
) -> MetricValue:
    """Return a function of (N,) values with its interval from half-samples of subjects, else of values."""
    point, groups = float(compute(values)), len(values) if subjects is None else subjects
    note = confidence.too_few_note(groups)
    if note or not intervals:
        return MetricValue(value=point, n=len(values), note=note if intervals else "")
    halves = confidence.draw_half_samples(groups, REPLICATES, np.random.default_rng(0))
    replicates = [float(compute(values[mask])) for mask in halves.masks]
    if share:
        low, high = confidence.share_interval(point, replicates, halves, of=halves)
    else:
        low, high = confidence.confidence_interval(point, replicates, halves, lowest=0)
    return MetricValue(value=point, low=low, high=high, n=len(values))


def measure_privacy(name: str, comparison: Comparison) -> MetricValue:
    """Measure one of the metrics of privacy; missing where a set, subjects or a network are."""
    return _MEASURES[name](comparison)


def privacy_alarm(name: str, value: MetricValue, heldout: MetricValue | None) -> tuple[MetricValue, Alarm | None]:
    """Return a metric of privacy with a note on where its alarm begins, and the alarm if its value is beyond.

    Args:
        name: of the metric.
        value: of the fakes; of an attack as :func:`membership_auc` returns it, which has the note.
        heldout: the same of held-out images as if they were fakes; None: it is not known, or of an attack.
    """
    if value.value is None:
        return value, None
    if name not in HELDOUT_SHARES:
        return value, _membership_alarm(name, value)
    if heldout is None or heldout.value is None:
        return value, None
    edge = HELDOUT_SHARES[name] * heldout.value
    value = replace(value, note=f"{ALARM_NOTE}below {edge:.2f}")
    if value.value is None or value.value >= edge:
        return value, None
    number, heldout_number, edge_number = format_distinct((value.value, heldout.value, edge), 2)
    reason = {
        "authenticity": f"Only a share of {number} of the fakes is authentic, of held-out images {heldout_number}: "
        "the others are nearer to a training image than that is to other subjects",
        "distance_ratio": f"The nearest twentieth of the fakes is {number} times as far from training images as from "
        f"held-out ones, the nearest twentieth of held-out images {heldout_number} times",
    }[name]
    text = f"{reason}; below {edge_number} is copying."
    return value, Alarm(name="privacy", metric=name, value=value.value, threshold=edge, text=text)


def _membership_alarm(name: str, value: MetricValue) -> Alarm | None:
    """Return the alarm if an attack tells who was trained on better than chance explains."""
    edge = float(value.note.rpartition(" ")[2]) if value.note else 1.0
    if value.value is None or value.value <= edge:
        return None
    number, edge_number = format_distinct((value.value, edge), 2)
    source = "the nearest fake" if name == "membership_distance" else "the discriminator"
    text = (
        f"By {source}, people who were trained on are separated from others with an AUC of {number}; by chance it "
        f"would hardly be above {edge_number}."
    )
    return Alarm(name="privacy", metric=name, value=value.value, threshold=edge, text=text)


def _missing_heldout(heldout: ImageSet | None) -> str:
    """Return why there are no held-out images to compare with, or an empty string."""
    if heldout is None:
        return "no held-out real images"
    people = len(set(subjects_of(heldout)))
    if len(heldout) >= MIN_HELDOUT_IMAGES and people >= MIN_HELDOUT_SUBJECTS:
        return ""
    least = f"{MIN_HELDOUT_IMAGES} of {MIN_HELDOUT_SUBJECTS} subjects"
    return f"{count_of(len(heldout), 'held-out image')} of {count_of(people, 'subject')}, too few (at least {least})"


def _measure_authenticity(comparison: Comparison) -> MetricValue:
    if len(set(subjects_of(comparison.reals))) < 2:
        return missing_value("training images of one subject", len(comparison.fakes))
    distances, others = 1 - comparison.nearest_copy[0], 1 - comparison.correlation_of_nearest
    return share_with_interval(
        authentic(distances, others), comparison.fakes.subjects, intervals=comparison.options.intervals
    )


def _measure_ratio(comparison: Comparison) -> MetricValue:
    if reason := _missing_heldout(comparison.heldout):
        return missing_value(reason, len(comparison.fakes))
    ratios = distance_ratios(1 - comparison.nearest_copy[0], 1 - comparison.nearest_heldout[0])
    return ratio_with_interval(ratios, comparison.fakes.subjects, intervals=comparison.options.intervals)


def _measure_distance_attack(comparison: Comparison) -> MetricValue:
    if reason := _missing_heldout(comparison.heldout):
        return missing_value(reason, len(comparison.fakes))
    assert comparison.heldout is not None
    sides = ((comparison.reals, comparison.real_correlation), (comparison.heldout, comparison.nearest_heldout[1]))
    members, others = (subject_scores(scores, subjects_of(images), by="max") for images, scores in sides)
    return membership_auc(members, others, intervals=comparison.options.intervals)


def _measure_discriminator_attack(comparison: Comparison) -> MetricValue:
    networks, heldout = comparison.networks, comparison.heldout
    if networks is None or networks.discriminate is None:
        return missing_value("no discriminator" if networks is None else networks.missing, len(comparison.fakes))
    if reason := _missing_heldout(heldout):
        return missing_value(reason, len(comparison.fakes))
    assert heldout is not None
    sets = [comparison.reals, heldout]
    places = [spread_over_subjects(images, MAX_DISCRIMINATED_IMAGES) for images in sets]
    pixels = np.concatenate([images.images[rows] for images, rows in zip(sets, places, strict=True)])
    # Mixed: some discriminators compare the images of a batch, which must not be all of one kind.
    order = np.random.default_rng(0).permutation(len(pixels))
    logits = np.empty(len(pixels))
    try:
        logits[order] = networks.discriminate(pixels[order])
    except ZooError as error:  # whose text has paths, which do not belong into a card
        comparison.options.reporter.warn(str(error))
        return missing_value("the discriminator cannot be loaded", len(comparison.fakes), failed=True)
    scores = []
    for images, rows, part in zip(sets, places, np.split(logits, [len(places[0])]), strict=True):
        subjects = subjects_of(images)
        scores.append(subject_scores(part, [subjects[row] for row in rows], by="mean"))
    return membership_auc(*scores, intervals=comparison.options.intervals)


_MEASURES: dict[str, Callable[[Comparison], MetricValue]] = {
    "authenticity": _measure_authenticity,
    "distance_ratio": _measure_ratio,
    "membership_distance": _measure_distance_attack,
    "membership_discriminator": _measure_discriminator_attack,
}
