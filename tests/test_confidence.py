"""Intervals hold their point, and the truth about as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zoo.metrics.confidence import (
    MIN_INTERVAL_UNITS,
    confidence_interval,
    draw_half_samples,
    mean_with_interval,
    share_interval,
    student_quantile,
)
from zoo.metrics.feature_metrics import FeatureOptions, feature_distances

TRIALS = 200
ALLOWED = (0.905, 0.995)  # 95 % of 200 trials, and 3 standard deviations of that share either way


def test_half_samples_are_halves_without_replacement() -> None:
    halves = draw_half_samples(10, 50, np.random.default_rng(0))
    assert halves.masks.shape == (50, 10)
    assert (halves.masks.sum(axis=1) == 5).all()
    assert halves.scale == 1
    assert len({mask.tobytes() for mask in halves.masks}) > 40
    assert abs(halves.masks.mean(axis=0) - 0.5).max() < 0.25


def test_a_subject_is_in_or_out_with_all_of_its_images() -> None:
    groups = ["b", "a", "b", "c", "a", "d", "b"]
    halves = draw_half_samples(groups, 30, np.random.default_rng(0))
    assert halves.units == 4
    for mask in halves.masks:
        assert len({group for group, drawn in zip(groups, mask, strict=True) if drawn}) == 2
        for group in "abcd":
            assert len({bool(drawn) for name, drawn in zip(groups, mask, strict=True) if name == group}) == 1


def test_of_an_odd_number_the_spread_is_rescaled() -> None:
    assert draw_half_samples(7, 2, np.random.default_rng(0)).scale == pytest.approx(math.sqrt(3 / 4))
    with pytest.raises(ValueError, match="no halves"):
        draw_half_samples(1, 2, np.random.default_rng(0))


@pytest.mark.parametrize("count", [24, 25])
def test_the_spread_is_that_of_a_mean(count: int) -> None:
    """Rescaled, the variance of half-sample means is s^2 / N, whatever the values and for odd N too."""
    values = np.random.default_rng(0).gamma(1, 1, count)
    halves = draw_half_samples(count, 20_000, np.random.default_rng(1))
    means = halves.masks @ values / halves.masks.sum(axis=1)
    assert means.std() * halves.scale == pytest.approx(values.std(ddof=1) / math.sqrt(count), rel=0.02)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (4, 2.77645), (19, 2.09302), (1000, 1.96234)])
def test_student_against_tables(freedom: float, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, rel=1e-5)


def test_the_interval_is_centred_cut_and_holds_its_point() -> None:
    halves = draw_half_samples(100, 3, np.random.default_rng(0))
    low, high = confidence_interval(
        0.5, [0.9, 1.0, 1.1], halves
    )  # the level of the halves does not matter, their spread does
    freedom = 1 / (1 / 2 + 1 / 99)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert (high - low) / 2 == pytest.approx(0.1 * student_quantile(freedom))
    assert confidence_interval(0.5, [0.0, 0.5, 1.0], halves, lowest=0, highest=1) == (0, 1)
    assert confidence_interval(1.2, [1.2, 1.3, 1.4], halves, highest=1)[1] == 1.2


def share_held(results: list[bool]) -> float:
    return float(np.mean(results))


def test_a_mean_of_clustered_subjects_is_covered() -> None:
    """15 images each of 20 subjects, alike within a subject: image by image the interval would be far too narrow."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 15)
    by_subject, by_image = [], []
    for trial in range(TRIALS):
        values = rng.normal(size=20)[groups] + 0.5 * rng.normal(size=len(groups))
        for names, held in ((groups.tolist(), by_subject), (None, by_image)):
            value = mean_with_interval(values, names, replicates=100, seed=trial)
            assert value.low is not None
            assert value.high is not None
            held.append(value.low <= 0 <= value.high)
    assert ALLOWED[0] <= share_held(by_subject) <= ALLOWED[1]
    assert share_held(by_image) < 0.6


def test_fid_of_gaussians_is_covered() -> None:
    """Against the closed form |m1 - m2|^2 + sum (s1 - s2)^2."""
    rng = np.random.default_rng(1)
    shift, scale, width = 0.5, 1.3, 4
    truth = width * (shift**2 + (scale - 1) ** 2)
    held = []
    for trial in range(TRIALS):
        fakes, reals = rng.normal(shift, scale, (300, width)), rng.normal(0, 1, (400, width))
        value = feature_distances(fakes, reals, metrics=["fid"], options=FeatureOptions(seed=trial))["fid"]
        assert value.low <= value.value <= value.high  # type: ignore[operator]
        held.append(value.low <= truth <= value.high)  # type: ignore[operator]
    assert ALLOWED[0] <= share_held(held) <= ALLOWED[1]


def test_kid_of_gaussians_is_covered() -> None:
    """Against the closed form: (x y + 1)^3 in one dimension is a polynomial of the moments."""
    rng = np.random.default_rng(2)
    shift = 0.4
    moments = {level: np.array([1, level, level**2 + 0.25, level**3 + 0.75 * level]) for level in (0.0, shift)}
    apart = moments[shift] - moments[0.0]
    truth = float(np.array([1, 3, 3, 1]) @ apart**2)
    held, values = [], []
    for trial in range(TRIALS):
        fakes, reals = rng.normal(shift, 0.5, (120, 1)), rng.normal(0, 0.5, (150, 1))
        value = feature_distances(fakes, reals, metrics=["kid"], options=FeatureOptions(seed=trial))["kid"]
        held.append(value.low <= truth <= value.high)  # type: ignore[operator]
        values.append(value.value)
    assert ALLOWED[0] <= share_held(held) <= ALLOWED[1]
    assert np.mean(values) == pytest.approx(truth, rel=0.05)  # unbiased


def test_shares_of_neighbours_are_covered() -> None:
    """They have no closed form: against their own mean over all trials; the reals come in clusters."""
    rng = np.random.default_rng(3)
    names = ["precision", "recall", "density", "coverage"]
    groups = np.repeat(np.arange(40), 4)
    found = []
    for trial in range(100):
        reals = rng.normal(size=(40, 3))[groups] + 0.3 * rng.normal(size=(160, 3))
        fakes = rng.normal(0.3, 1.2, (120, 3))
        options = FeatureOptions(real_subjects=groups.tolist(), replicates=50, seed=trial)
        found.append(feature_distances(fakes, reals, metrics=names, options=options))
    for name in names:
        mean = np.mean([values[name].value for values in found])
        held = [values[name].low <= mean <= values[name].high for values in found]  # type: ignore[operator]
        assert share_held(held) >= 0.87, name


def test_of_too_few_units_there_is_no_interval() -> None:
    value = mean_with_interval([1.0, 2.0, 3.0])
    assert (value.value, value.low, value.high, value.n) == (2, None, None, 3)
    assert value.note == f"no interval: 3 images, fewer than {MIN_INTERVAL_UNITS}"
    value = mean_with_interval([1.0] * 20, ["one"] * 20)
    assert value.note == f"no interval: 1 subject, fewer than {MIN_INTERVAL_UNITS}"


def test_a_share_of_none_is_not_known_to_be_none() -> None:
    halves = draw_half_samples(40, 50, np.random.default_rng(0))
    low, high = share_interval(0.0, [0.0] * 50, halves, of=halves)
    square = student_quantile(1 / (1 / 49 + 1 / 39)) ** 2 / 40
    assert low == 0
    assert high == pytest.approx(square / (1 + square))  # Wilson's, in closed form
    assert share_interval(1.0, [1.0] * 50, halves, of=halves) == pytest.approx((1 - high, 1.0))
    inside = np.random.default_rng(1).normal(0.5, 0.05, 50)
    assert share_interval(0.5, inside, halves, of=halves) == confidence_interval(0.5, inside, halves)


def test_rare_shares_are_covered() -> None:
    """One in forty, where intervals that are only cut at zero miss three times in ten."""
    rng, held, sets = np.random.default_rng(5), 0, 300
    for _ in range(sets):
        seen = (rng.random(40) < 1 / 40).astype(float)
        halves = draw_half_samples(40, 60, rng)
        replicates = halves.masks @ seen / halves.masks.sum(axis=1)
        low, high = share_interval(float(seen.mean()), replicates, halves, of=halves)
        held += low <= 1 / 40 <= high
    assert held / sets > 0.93
