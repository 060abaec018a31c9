"""Values of privacy against brute force and scipy, and which sets trigger the alarm."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy import stats

import zoo
from zoo.core.errors import ZooError
from zoo.core.progress import SilentReporter
from zoo.data.image_set import ImageSet
from zoo.data.phantoms import phantom
from zoo.evaluation.bench import report
from zoo.evaluation.networks import open_networks
from zoo.hub.create_discriminator import load_discriminator
from zoo.metrics import privacy
from zoo.metrics.comparison import Comparison, MetricOptions, Networks, spread_over_subjects
from zoo.metrics.evaluate_images import ImageEvaluator
from zoo.metrics.nearest_image import nearest_copy
from zoo.metrics.registry import choose_metrics
from zoo.metrics.value import MetricValue, missing_value

SIDE = 28
NAMES = choose_metrics(["privacy"])


def people(subjects, slices=range(6, 26, 2)):
    """Phantoms of these subjects as a set of images."""
    images = [phantom(subject, slice_, SIDE)[None] for subject in subjects for slice_ in slices]
    names = [f"case_{subject}" for subject in subjects for _ in slices]
    return ImageSet(images=np.stack(images), label="phantoms", subjects=names)


@pytest.fixture(scope="module")
def sets():
    return people(range(14)), people(range(14, 22))


def distances(x, y):
    """(N, M) 1 - the highest correlation over shifts, one pair at a time."""
    pairs = [[1 - nearest_copy(a[None], b[None]).ncc.item() for b in y] for a in x]
    return np.array(pairs)


def test_auc_is_the_share_of_pairs():
    rng = np.random.default_rng(0)
    for members, others in ((7, 5), (1, 1), (30, 4)):
        a, b = rng.integers(0, 6, members), rng.integers(0, 6, others)  # with ties
        expected = np.mean([(x > y) + (x == y) / 2 for x in a for y in b])
        assert privacy.auc(a, b) == pytest.approx(expected)
        statistic = stats.mannwhitneyu(a, b).statistic
        assert privacy.auc(a, b) == pytest.approx(statistic / members / others)
    assert privacy.auc([1, 2], [0]) == 1
    assert privacy.auc([0], [1, 2]) == 0


def test_auc_by_chance_is_that_of_all_orders():
    """The variance of the statistic over every choice of members among seven subjects."""
    values = [privacy.auc(c, [i for i in range(7) if i not in c]) for c in itertools.combinations(range(7), 3)]
    spread = (privacy.largest_auc_by_chance(3, 4) - 0.5) / stats.norm.isf(0.001)
    assert spread == pytest.approx(np.std(values))
    assert privacy.largest_auc_by_chance(3, 3) > 1  # three people of each kind prove nothing


def test_scores_of_subjects():
    scores, who = [1.0, 5.0, 2.0, 4.0], ["b", "b", "a", "b"]
    assert privacy.subject_scores(scores, who, by="max").tolist() == [5, 2]
    assert privacy.subject_scores(scores, who, by="mean").tolist() == pytest.approx([10 / 3, 2])


def test_interval_of_an_auc_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))  # scores a standard deviation apart
    covered = 0
    for _ in range(60):
        value = privacy.membership_auc(rng.normal(1, 1, 60), rng.normal(0, 1, 20))
        assert value.low <= value.value <= value.high <= 1
        covered += value.low <= truth <= value.high
    assert covered >= 53
    assert privacy.membership_auc(np.zeros(9), np.zeros(1)).value is None


def test_own_subject_is_left_out(sets):
    heldout = sets[1]
    table = distances(*(torch.from_numpy(part.images[::7]) for part in (heldout, heldout)))
    who = np.array(heldout.subjects)[::7]
    table[who[:, None] == who] = np.inf
    found = nearest_copy(torch.from_numpy(heldout.images[::7]), heldout.images[::7], subjects=list(who), own=list(who))
    np.testing.assert_allclose(1 - found.ncc, table.min(axis=1), atol=1e-5)
    np.testing.assert_allclose(1 - found.real_ncc, table.min(axis=0), atol=1e-5)
    with pytest.raises(ValueError, match="1 subjects of 2 images"):
        nearest_copy(torch.from_numpy(heldout.images[:2]), heldout.images[:2], subjects=["a", "b"], own=["a"])


@pytest.mark.slow
def test_values_equal_brute_force(sets):
    reals, heldout = (part.part(range(0, len(part), 4), part.label) for part in sets)
    rng = np.random.default_rng(0)
    fakes = ImageSet(images=reals.images[::2] // 3 * 2 + rng.integers(0, 60, (18, 1, SIDE, SIDE), np.uint8), label="x")
    comparison = Comparison(fakes, reals, MetricOptions(metrics=NAMES), heldout=heldout)
    x, y, z = (torch.from_numpy(np.array(part.images[:])) for part in (fakes, reals, heldout))
    to_train, to_heldout, among = distances(x, y), distances(x, z), distances(y, y)
    who = np.array(reals.subjects)
    among[who[:, None] == who] = np.inf
    expected = to_train.min(axis=1) > among.min(axis=1)[to_train.argmin(axis=1)]
    assert privacy.measure_privacy("authenticity", comparison).value == pytest.approx(expected.mean())
    ratios = to_train.min(axis=1) / to_heldout.min(axis=1)
    value = privacy.measure_privacy("distance_ratio", comparison)
    assert value.value == pytest.approx(np.quantile(ratios, 0.05), rel=1e-3)
    assert value.low <= value.value <= value.high
    best = [
        [-table[:, np.array(part.subjects) == name].min() for name in dict.fromkeys(part.subjects)]
        for table, part in ((to_train, reals), (to_heldout, heldout))
    ]
    value = privacy.measure_privacy("membership_distance", comparison)
    assert value.value == pytest.approx(np.mean([a > b for a in best[0] for b in best[1]]))


def evaluate(reals, unseen, fakes, networks=None, **options):
    evaluator = ImageEvaluator(reals, unseen, metrics=NAMES, **options)
    result = evaluator.evaluate(fakes, networks)
    return result.figures, {alarm.metric: alarm for alarm in result.alarms}


def test_copies_trigger_the_alarm_and_people_do_not(sets):
    reals, heldout = sets
    honest = people(range(30, 38))
    copies = np.clip(reals.images[::9].astype(int) * 11 // 10, 0, 255).astype(np.uint8)
    mixed = ImageSet(images=np.concatenate([np.array(honest.images), copies]), label="mixed")
    figures, triggered = evaluate(reals, heldout, ImageSet(images=honest.images, label="honest"))
    assert not triggered
    assert {name: value.value is None for name, value in figures.items()} == {
        **dict.fromkeys(NAMES, False),
        "membership_discriminator": True,
    }
    figures, triggered = evaluate(reals, heldout, ImageSet(images=copies, label="copies"))
    assert {"authenticity", "distance_ratio"} <= triggered.keys()
    assert figures["authenticity"].value == 0
    _, triggered = evaluate(reals, heldout, mixed)
    assert "distance_ratio" in triggered
    alarm = triggered["distance_ratio"]
    assert alarm.name == "privacy"
    assert alarm.value < alarm.threshold
    assert "\n" not in alarm.text


def test_a_discriminator_that_knows_the_people(sets):
    """Two of the three discriminators: one that knows who was trained on, one that guesses, and one that is absent."""
    reals, heldout = sets
    fakes = ImageSet(images=np.array(heldout.images[:4]), label="fakes")
    known = {image.tobytes() for image in np.array(reals.images)}

    def knows(images):
        return np.array([float(image.tobytes() in known) for image in images])

    figures, triggered = evaluate(reals, heldout, fakes, Networks(reconstruct=np.array, discriminate=knows))
    assert figures["membership_discriminator"].value == 1
    assert figures["membership_discriminator"].n == 22
    assert triggered["membership_discriminator"].threshold == pytest.approx(
        privacy.largest_auc_by_chance(14, 8), abs=1e-3
    )
    guesses = Networks(reconstruct=np.array, discriminate=lambda images: np.arange(len(images)) % 7)
    figures, triggered = evaluate(reals, heldout, fakes, guesses)
    assert "membership_discriminator" not in triggered
    assert abs(figures["membership_discriminator"].value - 0.5) < 0.3

    def fails(images):
        raise ZooError("/home/me/state: is damaged")

    for networks, reason in (
        (None, "no discriminator"),
        (Networks(reconstruct=np.array, missing="no run"), "no run"),
        (Networks(reconstruct=np.array, discriminate=fails), "the discriminator cannot be loaded"),
    ):
        figures, _ = evaluate(reals, heldout, fakes, networks)
        assert figures["membership_discriminator"].note == f"not available: {reason}"


def test_missing_sets_have_reasons(sets):
    reals, heldout = sets
    figures, triggered = evaluate(reals, None, ImageSet(images=reals.images, label="copies"))
    assert not triggered  # nothing to compare with
    assert figures["authenticity"].value == 0
    for name in ("distance_ratio", "membership_distance"):
        assert figures[name].note == "not available: no held-out real images"
    one = reals.part([i for i, who in enumerate(reals.subjects) if who == "case_0"], "one")
    figures, _ = evaluate(one, heldout, ImageSet(images=heldout.images, label="x"))
    assert figures["authenticity"].note == "not available: training images of one subject"
    assert privacy.privacy_alarm("authenticity", missing_value("x"), None)[1] is None


def test_thresholds_by_hand():
    def triggers(name, value, heldout):
        reference = MetricValue(value=heldout, n=600) if heldout is not None else None
        found, alarm = privacy.privacy_alarm(name, MetricValue(value=value, n=500, note="x"), reference)
        return alarm is not None, found.note

    share = privacy.MIN_AUTHENTICITY_SHARE
    assert triggers("authenticity", 0.6 * share - 0.01, 0.6)[0]
    assert not triggers("authenticity", 0.6 * share + 0.01, 0.6)[0]
    share = privacy.MIN_RATIO_SHARE
    assert triggers("distance_ratio", 0.8 * share - 0.01, 0.8)[0]
    assert triggers("distance_ratio", 0.8 * share + 0.01, 0.8) == (False, f"alarm below {0.8 * share:.2f}")
    assert triggers("distance_ratio", 0.0, None) == (False, "x")


def test_images_are_spread_over_subjects():
    images = ImageSet(images=np.zeros((30, 1, 8, 8), np.uint8), label="x", subjects=["a"] * 20 + ["b"] * 3 + ["c"] * 7)
    places = spread_over_subjects(images, 12)
    assert places.tolist() == sorted(set(places.tolist()))
    counts = {name: sum(images.subjects[i] == name for i in places) for name in "abc"}
    assert counts["b"] == 3
    assert abs(counts["a"] - counts["c"]) <= 1
    assert len(spread_over_subjects(images, 100)) == 30


def test_a_run_has_its_discriminator(runs):
    run = zoo.Run(runs / "dcgan-64-000")
    D, nimg = load_discriminator(run, SilentReporter())
    assert nimg == 32
    assert not D.training
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (70, 1, 16, 16), np.uint8))
    networks = open_networks(zoo.load_generator(run), run, SilentReporter())
    np.testing.assert_allclose(networks.discriminate(images.numpy()), D(images / 127.5 - 1), rtol=1e-4, atol=1e-5)
    alone = open_networks(zoo.load_generator(run), None, SilentReporter())
    assert alone.discriminate is None


def test_projection_is_a_metric_of_generators(runs, tmp_path):
    options = {"metrics": ["projection_ssim,ssim"], "num_samples": 8, "device": "cpu"}
    document = zoo.bench([str(runs / "dcgan-64-000")], out=tmp_path / "bench", **options)
    (group,) = document["groups"]
    figure = group["rows"][0]["figures"]["projection_ssim"]
    assert -1 < figure["value"] < 1
    assert 2 <= figure["n"] <= 32
    assert all(row["figures"]["projection_ssim"]["value"] is None for row in group["baselines"])


def test_card_and_page_have_a_section(published, runs, tmp_path):
    card = (published / "README.md").read_text()
    section = card.partition("## Privacy")[2].partition("## Data")[0]
    for text in (
        "| authenticity |",
        "| distance ratio |",
        "| membership (distance) |",
        "| membership (discriminator) |",
    ):
        assert text in section
    assert "None of these values proves" in section
    assert "authenticity" not in card.partition("## Alarms")[0].partition("## Metrics")[2]
    figures = json.loads((published / "card.json").read_text())["figures"]
    assert set(NAMES) <= figures.keys()
    assert 0 <= figures["membership_discriminator"]["value"] <= 1
    page = report(runs / "dcgan-64-000", out=tmp_path / "x.html", extractors=["random"], num_samples=24, device="cpu")
    text = page.read_text()
    assert '<section id="privacy"' in text
    assert "AUC over subjects" in text
