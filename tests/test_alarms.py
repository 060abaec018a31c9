"""Alarms on phantoms: which sets trigger them, and the arithmetic against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.data.phantoms import phantom
from zoo.metrics.alarms import (
    FALSE_ALARM_PROBABILITY,
    Alarm,
    CollapseInputs,
    collapse_alarms,
    duplicate_fraction,
    memorisation_alarm,
    most_by_chance,
    proportion_interval,
    spread_coverage,
)
from zoo.metrics.nearest_image import nearest_copy, nearest_features
from zoo.metrics.ssim import ssim

TRAINED, UNSEEN, SLICES = range(12), range(12, 18), range(4, 28, 2)
DIRECTIONS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
KINDS = ("shifted", "brightened", "noisy")


class Slices:
    """Phantoms of one size, their subjects, and scores with the nearest training image."""

    def __init__(self, size):
        self.train, self.who = self.draw(TRAINED, size)
        self.unseen, self.unseen_who = self.draw(UNSEEN, size)
        self.known = self.scores(self.unseen)

    @staticmethod
    def draw(subjects, size):
        images = [phantom(subject, slice_, size) for subject in subjects for slice_ in SLICES]
        return torch.from_numpy(np.stack(images))[:, None], np.repeat([f"case_{s}" for s in subjects], len(SLICES))

    def scores(self, images):
        """Measure -> (scores, which way is closer)."""
        found = nearest_copy(images, self.train, subjects=self.who)
        near = ssim.nearest_ssim(images, self.train, 255)[0]
        # The pixels themselves, for features.
        features = [some.flatten(1).float() for some in (images, self.train)]
        return {
            "copies_ssim": (near.numpy(), "higher"),
            "copies_ncc": (found.distance.numpy(), "lower"),
            "copies_alone": (found.ncc.numpy(), "higher"),
            "copies_features": (nearest_features(*features, subjects=self.who)[0].numpy(), "lower"),
        }

    def evaluate(self, fakes, known):
        """Measure -> (value, alarm), with copies recognised by the held-out images at ``known``."""
        return {
            metric: memorisation_alarm(
                metric,
                values,
                self.known[metric][0][known],
                unseen_subjects=self.unseen_who[known] if metric != "copies_alone" else None,
                closer=closer,
            )
            for metric, (values, closer) in self.scores(fakes).items()
        }

    def halves(self):
        for order in ([0, 1, 2], [3, 4, 5], [0, 2, 4], [1, 2, 5], [0, 3, 5]):
            half = np.isin(self.unseen_who, np.unique(self.unseen_who)[order])
            yield half, ~half


def pixels(images):
    return images.round().clamp(0, 255).to(torch.uint8)


def copies_of(images, kind):
    if kind == "brightened":
        return pixels(images * 1.1)
    if kind == "noisy":
        return pixels(images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 10)
    return torch.stack([one.roll(DIRECTIONS[i % 8], (1, 2)) for i, one in enumerate(images)])  # the rim is black


@pytest.fixture(scope="module", params=[28, 64])
def slices(request):
    return Slices(request.param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [64, 300])
def test_a_tenth_of_copies_triggers_alarms(slices, kind, n):
    rng = np.random.default_rng(0)
    tenth = math.ceil(n / 10)
    copied = copies_of(slices.train[rng.permutation(len(slices.train))[:tenth]], kind)
    for known, others in slices.halves():
        honest = slices.unseen[rng.choice(np.flatnonzero(others), n - tenth)]
        found = slices.evaluate(torch.cat([copied, honest]), known)
        for metric in ("copies_ncc", "copies_alone"):
            value, alarm = found[metric]
            assert value.value == pytest.approx(tenth / n, abs=1e-9)
            assert value.low < value.value < value.high
            assert alarm is not None
            assert alarm.value == value.value > alarm.threshold
            assert f"{tenth} of {n} fakes" in alarm.text
        if kind == "brightened":
            assert found["copies_ssim"][1] is not None


def test_heldout_slices_trigger_no_alarm(slices):
    for known, others in slices.halves():
        for images in (slices.unseen[others], slices.unseen[others][::3]):
            for value, alarm in slices.evaluate(images, known).values():
                assert alarm is None
                assert value.value == 0


def test_smooth_slices_trigger_no_alarm(slices):
    """What generators make: unseen slices without their finest detail."""
    bell = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    blurred = torch.nn.functional.conv2d(slices.unseen.float(), (bell[:, None] * bell)[None, None], padding=2)
    for known, others in slices.halves():
        assert not any(alarm for _, alarm in slices.evaluate(pixels(blurred)[others], known).values())


def test_repeated_images_are_collapse(slices):
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, 10, 64))
    mean = pixels(slices.train.float().mean(dim=0, keepdim=True))
    reals = ssim.pairwise_ssim(slices.train[::3], 255)

    def triggered(images):
        pairs = ssim.pairwise_ssim(images, 255)
        return [
            alarm.metric
            for alarm in collapse_alarms(
                CollapseInputs(
                    ssim_pairwise=pairs.mean().item(),
                    ssim_pairwise_real=reals.mean().item(),
                    ssim_twins=duplicate_fraction(pairs),
                    ssim_twins_real=duplicate_fraction(reals),
                    n=len(images),
                    paired=len(images),
                )
            )
        ]

    everyone = np.ones(len(slices.unseen), bool)
    for one in (mean, slices.train[5:6], slices.unseen[5:6]):
        images = one.expand(64, -1, -1, -1)
        assert triggered(images) == ["ssim_pairwise", "ssim_twins"]
        copied = slices.evaluate(images, everyone)["copies_ncc"][1]
        assert (copied is not None) == (one.data_ptr() == slices.train[5:6].data_ptr())
    assert triggered(slices.train[::14][:10][drawn]) == ["ssim_twins"]
    assert triggered(slices.unseen[::7][:10][drawn]) == ["ssim_twins"]
    for varied in (slices.unseen, slices.train[::2], slices.unseen[: 2 * len(SLICES)], slices.train[6 :: len(SLICES)]):
        assert triggered(varied) == []


def test_no_unseen_and_no_fakes():
    unseen = np.linspace(0.5, 0.7, 40)
    for fakes, reals, subjects, why in (
        ([], unseen, None, "no fakes"),
        ([np.nan] * 3, unseen, None, "no fakes"),
        ([0.9] * 70, [], None, "no held-out real images"),
        ([0.9] * 70, [np.nan] * 50, None, "no held-out real images"),
        ([0.9] * 70, [1.0] * 40, None, "a tenth of the held-out images or more are training images"),
        ([0.9] * 70, [*unseen, *[1.0] * 8], None, "a tenth of the held-out images or more are training images"),
        ([0.9] * 70, unseen[:19], None, "19 held-out images, too few"),
        ([0.9] * 70, unseen, ["a"] * 40, "40 held-out images of 1 subject, too few"),
    ):
        value, alarm = memorisation_alarm("copies_ssim", fakes, reals, unseen_subjects=subjects)
        assert alarm is None
        assert value.value is None
        assert value.note.startswith(f"not available: {why}")
    with pytest.raises(ValueError, match="2 subjects of 40 held-out images"):
        memorisation_alarm("copies_ssim", [0.9], unseen, unseen_subjects=["a", "b"])
    with pytest.raises(ValueError, match="'near'"):
        memorisation_alarm("copies_ssim", [1.0], [1.0], closer="near")


def test_shares_and_thresholds_by_hand():
    unseen = np.repeat([10.0, 20.0], 20)  # the nearest tenth: 10; copies: below 5
    fakes = np.concatenate([np.full(5, 4.9), np.full(59, 5.1), [np.nan] * 4])
    value, alarm = memorisation_alarm("copies_features", fakes, unseen, closer="lower")
    assert (value.value, value.n) == (5 / 64, 64)
    assert "below 5" in value.note
    assert isinstance(alarm, Alarm)
    assert alarm.threshold == 4 / 64  # by 1 %, five of 64 has a probability of 0.0004, four of 0.004
    assert alarm.to_json() == {
        "name": "memorisation",
        "metric": "copies_features",
        "value": 5 / 64,
        "threshold": 4 / 64,
        "text": alarm.text,
    }
    assert "\n" not in alarm.text
    assert memorisation_alarm("copies_features", fakes[1:], unseen, closer="lower")[1] is None
    # The same as likenesses: 1 - distance.
    again, _ = memorisation_alarm("copies_ssim", 1 - fakes / 100, 1 - unseen / 100)
    assert (again.value, again.low, again.high) == (value.value, value.low, value.high)


def test_a_subject_in_both_sets_does_not_hide_copies():
    """One of twenty held-out people was trained on: copies must only outnumber that person's images."""
    rng = np.random.default_rng(0)
    unseen = rng.uniform(0.8, 1.0, 400)
    unseen[:20] = 0.01
    who = np.repeat(np.arange(20), 20).astype(str)
    value, alarm = memorisation_alarm("copies_ncc", np.full(100, 0.01), unseen, unseen_subjects=who, closer="lower")
    assert value.value == 1
    assert alarm is not None
    few = np.concatenate([np.full(7, 0.01), np.full(93, 0.9)])
    assert memorisation_alarm("copies_ncc", few, unseen, unseen_subjects=who, closer="lower")[1] is None
    assert memorisation_alarm("copies_ncc", few, unseen[20:], unseen_subjects=who[20:], closer="lower")[1] is not None


def test_images_of_one_person_are_not_independent():
    """The same share of near unseen images allows more if one person has them all."""
    unseen = np.full(600, 1.0)
    unseen[:30] = 0.1
    fakes = np.concatenate([np.full(60, 0.1), np.full(440, 1.0)])
    spread = np.tile(np.arange(20), 30).astype(str)
    clustered = np.repeat(np.arange(20), 30).astype(str)
    assert memorisation_alarm("copies_ncc", fakes, unseen, unseen_subjects=spread, closer="lower")[1] is not None
    assert memorisation_alarm("copies_ncc", fakes, unseen, unseen_subjects=clustered, closer="lower")[1] is None


@pytest.mark.parametrize("n", [1, 7, 64, 500, 10_000])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 1.0])
def test_binomial_equals_scipy(n, p):
    expected = int(stats.binom.isf(FALSE_ALARM_PROBABILITY, n, p)) if 0 < p < 1 else round(n * p)
    assert most_by_chance(n, p) == expected


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 64), (7, 64), (64, 64), (33, 2000), (9_999, 10_000)])
def test_interval_equals_scipy(count, n):
    low = stats.beta.ppf(0.025, count, n - count + 1) if count else 0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1
    np.testing.assert_allclose(proportion_interval(count, n), (low, high), rtol=0, atol=1e-9)


def test_spread_coverage_equals_chance():
    rng = np.random.default_rng(0)
    covered = [len(np.unique(rng.integers(0, 2000, 5 * 300))) / 2000 for _ in range(200)]
    assert spread_coverage(300, 2000, density=1.0) == pytest.approx(np.mean(covered), abs=2e-3)
    assert spread_coverage(300, 2000, density=0) == 0


def test_duplicate_fraction():
    assert duplicate_fraction([]) is None
    assert duplicate_fraction([np.nan]) is None
    assert duplicate_fraction(torch.tensor([0.995, 0.5, 0.985, 1.0])) == 0.5


def test_collapse_by_values():
    """One value at a time, on either side of its threshold."""
    calm = {
        "ssim_pairwise": 0.83,
        "ssim_pairwise_real": 0.6,
        "ssim_twins": 0.03,
        "precision": 0.5,
        "recall": 0.006,
        "density": 0.5,
        "coverage": 0.3,
        "n": 2000,
        "paired": 2000,
        "reals": 5000,
    }
    assert collapse_alarms(CollapseInputs(**calm)) == []
    for name, value, says in (
        ("ssim_pairwise", 0.85, "0.85 on average, two real images 0.60; above 0.84"),
        ("ssim_twins", 0.1, "10% of the pairs of fakes are the same image (SSIM above 0.99), as if the generator "),
        ("recall", 0.004, "Recall is 0.004: 2000 fakes reach almost none of the training images, though 50% of them"),
        ("coverage", 0.15, "Coverage is 0.150"),
    ):
        (alarm,) = collapse_alarms(CollapseInputs(**calm | {name: value}))
        assert (alarm.name, alarm.metric, alarm.value) == ("collapse", name, value)
        assert says in alarm.text
        assert "\n" not in alarm.text
        assert alarm.text.endswith(".")
    # Fakes unlike any real image have no recall and no coverage either, which is no collapse.
    assert (
        collapse_alarms(CollapseInputs(**calm | {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}))
        == []
    )
    # Unknown precision: recall triggers, with less certainty.
    (alarm,) = collapse_alarms(CollapseInputs(**calm | {"precision": None, "recall": 0.0}))
    assert "if they look like any" in alarm.text
    # Where reals themselves come twice, so may fakes.
    assert collapse_alarms(CollapseInputs(**calm | {"ssim_twins": 0.05, "ssim_twins_real": 0.025})) == []
    # Too few to say.
    assert collapse_alarms(CollapseInputs(**calm | {"recall": 0.0, "coverage": 0.0, "n": 20, "paired": 20})) == []
    assert collapse_alarms(CollapseInputs(**calm | {"recall": 0.0, "n": 199, "paired": 199})) == []
    nothing = dict.fromkeys(calm) | {"n": 64, "paired": 64}
    assert collapse_alarms(CollapseInputs(**nothing)) == []
    assert (
        collapse_alarms(CollapseInputs(**calm | {"ssim_pairwise": math.nan, "recall": math.nan, "coverage": math.nan}))
        == []
    )


def test_one_duplicate_among_few_is_chance():
    def triggers(share, paired, real=0.0):
        found = collapse_alarms(CollapseInputs(ssim_twins=share, ssim_twins_real=real, n=500, paired=paired))
        return [alarm.metric for alarm in found] == ["ssim_twins"]

    assert not triggers(1 / 28, 8)
    assert not triggers(0.046, 32)  # neighbouring slices of one person
    assert triggers(0.1, 32)
    assert triggers(0.046, 256)
    assert not triggers(0.046, 256, real=0.02)
    assert not collapse_alarms(CollapseInputs(ssim_pairwise=1.0, ssim_pairwise_real=0.5, n=2, paired=2))
    (alarm,) = collapse_alarms(CollapseInputs(ssim_pairwise=1.0, ssim_pairwise_real=0.5, n=8, paired=8))
    assert alarm.name == "collapse"
