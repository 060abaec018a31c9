"""FID, KID and the neighbours' values against torch-fidelity, closed forms and brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.core.errors import ZooError
from zoo.metrics import feature_metrics, fid, kid, prdc
from zoo.metrics.feature_metrics import FEATURE_METRICS, FeatureOptions, feature_distances
from zoo.metrics.features.extractor import load_extractor
from zoo.metrics.fid import frechet_distance
from zoo.metrics.kid import kernel_distance
from zoo.metrics.prdc import Neighbours


def two_sets(n: int, m: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of ReLU networks: skewed, never negative, alike in part."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(width, width)) / np.sqrt(width)
    x, y = (np.maximum(rng.normal(mean, 0.5, (count, width)) @ mix + 0.3, 0) for count, mean in ((n, 0.1), (m, 0.0)))
    return x.astype(np.float32), y.astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------- FID


@pytest.mark.parametrize("shape", [(300, 200, 24), (40, 200, 64), (50, 30, 64), (64, 65, 64)])
def test_fid_equals_torch_fidelity(shape: tuple[int, int, int]) -> None:
    """More images than dimensions, fewer on either side, and about as many."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = two_sets(*shape)
    statistics = [fid_features_to_statistics(torch.from_numpy(side)) for side in (x, y)]
    expected = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-5)


def gaussian(count: int, mean: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """A set with exactly this mean and this covariance."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_fid_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    a, b = rng.uniform(0.1, 3, 5), rng.uniform(0.1, 3, 5)
    x = gaussian(50, np.arange(5.0), rotation @ np.diag(a) @ rotation.T, 1)
    y = gaussian(70, np.ones(5), rotation @ np.diag(b) @ rotation.T, 2)
    truth = ((np.arange(5) - 1) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()  # covariances that commute
    assert frechet_distance(x, y) == pytest.approx(truth, rel=1e-9)
    assert frechet_distance(x + 7, y + 7) == pytest.approx(truth, rel=1e-9)


def test_fid_infinity_removes_the_bias() -> None:
    """Of normal features: the closed form, which FID exceeds by the more the fewer fakes there are."""
    rng, width = np.random.default_rng(0), 64
    a, b = rng.uniform(0.5, 2, width), rng.uniform(0.5, 2, width)
    reals = gaussian(200, np.zeros(width), np.diag(b), 1)
    truth = 0.2**2 * width + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    fakes = rng.normal(0.2, np.sqrt(a), (5000, width))
    biased = frechet_distance(fakes[:1000], reals)
    assert biased > truth + 0.8
    assert fid.fid_infinity(fakes, reals) == pytest.approx(truth, abs=0.15)
    assert fid.fid_infinity(fakes, reals) == fid.fid_infinity(fakes, reals)


def test_fid_infinity_is_the_intercept_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = two_sets(120, 20, 4)
    monkeypatch.setattr(fid, "_Normal", len)
    monkeypatch.setattr(fid, "_distance", lambda count, _, exact: 12.5 + 300 / count)
    assert fid.fid_infinity(x, y, smallest=20) == pytest.approx(12.5)


def test_fid_infinity_takes_two_thousand_fakes() -> None:
    x, y = two_sets(2000, 30, 3)
    found = feature_distances(x, y, ["fid", "fid_infinity"])
    assert found["fid_infinity"].value == fid.fid_infinity(x, y)
    assert feature_distances(x[1:], y, ["fid_infinity"])["fid_infinity"].note.endswith("1999 fakes, fewer than 2000")
    with pytest.raises(ValueError, match="subsets from 50 of 50"):
        fid.fid_infinity(x[:50], y, smallest=50)


@pytest.mark.parametrize(("count", "width"), [(300, 24), (30, 64), (200, 199)])
def test_fid_of_a_set_with_itself_is_nothing(count: int, width: int) -> None:
    x, _ = two_sets(count, 2, width)
    x[:, :3] = 0  # features that never fire
    x[:, 3] = x[:, 4]
    assert frechet_distance(x, x) < 1e-6 * x.var(axis=0).sum()
    assert frechet_distance(x, x[::-1].copy()) < 1e-6 * x.var(axis=0).sum()


def test_fid_of_equal_images_is_that_of_a_point() -> None:
    _, y = two_sets(2, 40, 8)
    x = np.repeat(y[:1] + 1, 9, axis=0)
    apart = x[0].astype(float) - y.mean(axis=0, dtype=float)
    assert frechet_distance(x, y) == pytest.approx(apart @ apart + y.var(axis=0, ddof=1, dtype=float).sum(), rel=1e-6)


@pytest.mark.parametrize("width", [8, 30, 60])
def test_half_fids_are_the_fids_of_halves(width: int) -> None:
    """By covariances (8), and by scalar products of all pairs (30, 60)."""
    x, y = two_sets(60, 90, width)
    rng = np.random.default_rng(0)
    left, right = (rng.permuted(np.tile(np.arange(n) % 2 == 0, (3, 1)), axis=1) for n in (60, 90))
    expected = [frechet_distance(x[a], y[b]) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(fid.half_fids(x, y, left, right), expected, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- KID


@pytest.mark.parametrize(("subset", "subsets"), [(None, 100), (20, 7), (50, 1)])
def test_kid_equals_torch_fidelity(subset: int | None, subsets: int) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = two_sets(90, 70, 32)
    size = 70 if subset is None else subset
    settings = {"kid_subset_size": size, "kid_subsets": subsets, "verbose": False}
    expected = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **settings)
    found = kernel_distance(x, y, subset=subset, subsets=subsets)
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert found.error == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-3, abs=1e-6)


def test_kid_is_the_same_by_both_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all kernels at once, or (few small subsets of large sets) by those of each subset."""
    x, y = two_sets(60, 50, 16)
    calls = []
    original = kid.half_kids
    monkeypatch.setattr(kid, "half_kids", lambda *args: calls.append(len(args[0])) or original(*args))
    many = kernel_distance(x, y, subset=30, subsets=20)
    assert calls == [60]
    few = kernel_distance(x, y, subset=30, subsets=2)
    assert calls == [60, 30, 30]
    assert few.mean == pytest.approx(original(x, y, *draws(2)).mean(), rel=1e-6)
    assert many.mean == pytest.approx(np.mean(subset_values(x, y, 20)), rel=1e-6)


def draws(count: int) -> tuple[np.ndarray, np.ndarray]:
    """torch-fidelity's subsets of 30 of 60 and 50 images, as masks."""
    rng = np.random.RandomState(2020)
    left, right = np.zeros((count, 60), bool), np.zeros((count, 50), bool)
    for a, b in zip(left, right, strict=True):
        a[rng.choice(60, 30, replace=False)] = True
        b[rng.choice(50, 30, replace=False)] = True
    return left, right


def subset_values(x: np.ndarray, y: np.ndarray, count: int) -> list[float]:
    """Each subset's value, from it alone."""
    every = np.ones((1, 30), bool)
    return [float(kid.half_kids(x[a], y[b], every, every)[0]) for a, b in zip(*draws(count), strict=True)]


def test_half_kids_against_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid, "_STRIP_ROWS", 7)
    x, y = two_sets(20, 30, 6)
    rng = np.random.default_rng(0)
    left, right = rng.random((4, 20)) < 0.5, rng.random((4, 30)) < 0.5
    found = kid.half_kids(x, y, left, right)
    for value, a, b in zip(found, left, right, strict=True):
        one, other = x[a].astype(float), y[b].astype(float)
        xx, yy, xy = ((p @ q.T / 6 + 1) ** 3 for p, q in ((one, one), (other, other), (one, other)))
        n, m = len(one), len(other)
        truth = (xx.sum() - np.trace(xx)) / n / (n - 1) + (yy.sum() - np.trace(yy)) / m / (m - 1) - 2 * xy.mean()
        assert value == pytest.approx(truth, rel=1e-4)


# --------------------------------------------------------------------------------------------------------- neighbours


def brute_force(reals: np.ndarray, fakes: np.ndarray) -> dict[str, float]:
    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None].astype(float) - b[None].astype(float), axis=2)

    across, wide = between(fakes, reals), np.sort(between(reals, reals), axis=1)
    fake_wide = np.sort(between(fakes, fakes), axis=1)
    return {
        "precision": (across <= wide[:, 3]).any(axis=1).mean(),
        "recall": (across <= fake_wide[:, 3, None]).any(axis=0).mean(),
        "density": (across < wide[:, 5]).sum() / 5 / len(fakes),
        "coverage": (across.min(axis=0) < wide[:, 5]).mean(),
    }


@pytest.mark.parametrize("cells", [2**24, 1000])
def test_neighbours_against_brute_force_and_torch_fidelity(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    monkeypatch.setattr(prdc, "_CHUNK_DISTANCES", cells)
    fakes, reals = two_sets(150, 180, 5)
    expected = brute_force(reals, fakes)
    assert 0.1 < expected["precision"] < 1
    values = Neighbours(reals, fakes).values()
    assert values == pytest.approx(expected)
    alone = Neighbours(reals, fakes, density=0).values() | Neighbours(reals, fakes, precision=0).values()
    assert alone == values
    theirs = prc_features_to_metric(torch.from_numpy(fakes), torch.from_numpy(reals), verbose=False)
    assert values == pytest.approx(values | {name: theirs[name] for name in ("precision", "recall")})


@pytest.mark.parametrize(("kept", "table"), [(32, 2**28), (5, 2**28), (32, 0)])
def test_neighbours_of_subsets_are_those_of_the_subsets_alone(
    kept: int, table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where too few neighbours were remembered, and where the distances do not fit into memory."""
    monkeypatch.setattr(prdc, "_LISTED_NEIGHBOURS", kept)
    monkeypatch.setattr(prdc, "_MAX_TABLE_DISTANCES", table)
    monkeypatch.setattr(prdc, "_CHUNK_DISTANCES", 900)
    fakes, reals = two_sets(100, 130, 4)
    search = Neighbours(reals, fakes)
    assert search.in_memory == bool(table)
    rng = np.random.default_rng(0)
    for share in (0.5, 0.1):
        real, fake = rng.random(130) < share, rng.random(100) < share
        assert search.values(real, fake) == pytest.approx(brute_force(reals[real], fakes[fake]))


def test_copies_and_strangers() -> None:
    _, reals = two_sets(2, 60, 4)
    copies = Neighbours(reals, reals[:30]).values()
    assert copies["precision"] == 1
    assert copies["recall"] > 0.5
    assert copies["coverage"] >= 0.5
    strangers = Neighbours(reals, reals + 100).values()
    assert strangers == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    collapsed = Neighbours(reals, np.repeat(reals[:1], 20, axis=0)).values()
    assert collapsed["recall"] <= 1 / 30
    with pytest.raises(ValueError, match="no 3 neighbours"):
        Neighbours(reals, reals[:3])


# -------------------------------------------------------------------------------------------------------------- whole


def blobs(count: int, size: tuple[int, int], seed: int, waves: float) -> np.ndarray:
    """uint8 (count, 1, *size): soft ellipses on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    out = np.zeros((count, 1, *size))
    for image in out[:, 0]:
        a, b = rng.uniform(0.4, 0.9, 2)
        inside = (x / a) ** 2 + (y / b) ** 2 < 1
        image[:] = inside * (140 + 90 * np.sin(rng.uniform(2, waves) * x + rng.uniform(0, 6)))
    return np.clip(out.round(), 0, 255).astype(np.uint8)


def test_same_folders_give_torch_fidelitys_values(tmp_path: Path) -> None:
    """Its whole way from files to values against ours, with one network in both."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    ours = load_extractor("random")

    class Extractor(FeatureExtractorBase):
        """Our random network under torch-fidelity's roof."""

        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.from_numpy(ours(images)),)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "pooled"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

    torch_fidelity.register_feature_extractor("zoo-random", Extractor)
    sets = {"fakes": blobs(90, (40, 56), 0, 9), "reals": blobs(110, (40, 56), 1, 4)}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image[0]).save(tmp_path / name / f"{index:03}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "fakes"),
        input2=str(tmp_path / "reals"),
        feature_extractor="zoo-random",
        fid=True,
        kid=True,
        kid_subset_size=90,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    fakes, reals = (ours(images) for images in sets.values())
    assert frechet_distance(fakes, reals) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert kernel_distance(fakes, reals).mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert kernel_distance(fakes, reals).error == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)
    found = feature_distances(fakes, reals, options=FeatureOptions(replicates=10))
    assert found["fid"].value == frechet_distance(fakes, reals)
    assert found["kid"].value == kernel_distance(fakes, reals).mean


def test_distances_are_the_pure_functions_with_intervals() -> None:
    fakes, reals = two_sets(80, 100, 6)
    groups = [f"case_{index // 5}" for index in range(100)]
    options = FeatureOptions(real_subjects=groups, replicates=30)
    found = feature_distances(fakes, reals, options=options)
    assert tuple(found) == FEATURE_METRICS
    assert {name: found[name].value for name in FEATURE_METRICS[2:]} == Neighbours(reals, fakes).values()
    for name, value in found.items():
        assert value.n == 80, name
        assert value.low <= value.value <= value.high, name  # type: ignore[operator]
        assert value.low < value.high, name  # type: ignore[operator]
        assert value.note == "", name
    assert found["precision"].high <= 1  # type: ignore[operator]
    assert feature_distances(fakes, reals, options=options) == found
    assert tuple(feature_distances(fakes, reals, ["coverage", "fid"], options=options)) == ("coverage", "fid")


def test_values_are_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes, reals = two_sets(20, 24, 4)
    groups = [index // 4 for index in range(24)]
    options = FeatureOptions(real_subjects=groups, replicates=5, use_cache=True, cache_folder=tmp_path)
    first = feature_distances(fakes, reals, options=options)
    assert first == feature_distances(fakes, reals, options=replace(options, use_cache=False))
    work = []
    original = Neighbours.values
    monkeypatch.setattr(Neighbours, "values", lambda *args: work.append(1) or original(*args))
    renamed = replace(options, real_subjects=[f"case {group}" for group in groups])
    assert feature_distances(fakes.copy(), reals, options=renamed) == first
    assert not work
    unknown = feature_distances(fakes, reals, options=replace(options, real_subjects=None))
    assert unknown["recall"].value == first["recall"].value  # without subjects: computed again
    assert work
    for changed in ({"seed": 3}, {"replicates": 6}):
        work.clear()
        feature_distances(fakes, reals, options=replace(options, **changed))
        assert work, changed
    work.clear()
    feature_distances(fakes, reals, FEATURE_METRICS[:3], options=options)
    assert work
    work.clear()
    fakes[3, 1] += 1
    assert feature_distances(fakes, reals, options=options)["kid"].value != first["kid"].value
    assert work


def test_kid_uses_torch_fidelitys_seed() -> None:
    fakes, reals = two_sets(40, 50, 6)
    one, other = (
        feature_distances(fakes, reals, ["kid"], options=FeatureOptions(replicates=5, seed=seed))["kid"]
        for seed in (1, 2)
    )
    assert one.value == other.value
    assert one.low != other.low


def test_the_interval_of_very_large_sets_is_that_of_some_of_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider, and around the value of all."""
    fakes, reals = two_sets(300, 400, 6)
    whole = feature_distances(fakes, reals, metrics=["kid"])["kid"]
    monkeypatch.setattr(feature_metrics, "KID_MAX_IMAGES", 100)
    some = feature_distances(fakes, reals, metrics=["kid"])["kid"]
    assert some.value == whole.value
    ratio = (some.high - some.low) / (whole.high - whole.low)  # type: ignore[operator]
    assert 1.3 < ratio < 3  # sqrt(3) to 2, where the value is the mean of its images


def test_fid_of_few_images_says_so() -> None:
    fakes, reals = two_sets(30, 100, 64)
    value = feature_distances(fakes, reals, metrics=["fid"], options=FeatureOptions(replicates=4))["fid"]
    assert value.note.startswith("30 images span 29 of 64")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 11])
def test_too_few_images_give_a_note_and_never_a_crash(count: int) -> None:
    fakes, reals = two_sets(count, 40, 5)
    for pair in ((fakes, reals), (reals, fakes)):
        found = feature_distances(*pair, options=FeatureOptions(replicates=5))
        assert tuple(found) == FEATURE_METRICS
        for name, value in found.items():
            if value.value is None:
                assert value.note.startswith("not available: "), name
                assert "fewer than" in value.note
            elif value.low is None:
                assert "no interval" in value.note, name
            else:
                assert value.low <= value.value <= value.high  # type: ignore[operator]
    values = {name: value.value for name, value in feature_distances(fakes, reals).items()}
    assert (values["fid"] is None) == (count < 2)
    assert (values["recall"] is None) == (count < 4)
    assert values["coverage"] is not None


def test_few_subjects_give_values_without_intervals() -> None:
    fakes, reals = two_sets(30, 40, 5)
    found = feature_distances(fakes, reals, options=FeatureOptions(real_subjects=["a"] * 20 + ["b"] * 20))
    assert all(value.value is not None and value.low is None for value in found.values())
    assert found["kid"].note.endswith("; no interval: 2 subjects, fewer than 4")


def test_refusals() -> None:
    fakes, reals = two_sets(10, 12, 5)
    with pytest.raises(
        ZooError, match=r"unknown metric 'fit' of features \(did you mean 'fid'\?\)\. Choose from fid, kid, "
    ):
        feature_distances(fakes, reals, metrics=["fit"])
    with pytest.raises(ValueError, match="12 images"):
        feature_distances(fakes, reals, options=FeatureOptions(real_subjects=["a"]))
    with pytest.raises(ValueError, match=r"\(10, 5\) and \(12, 4\)"):
        feature_distances(fakes, reals[:, :4])
    with pytest.raises(ValueError, match="2 or more"):
        frechet_distance(fakes[:1], reals)
    with pytest.raises(ValueError, match="subsets of 11"):
        kernel_distance(fakes, reals, subset=11)
    fakes[3, 2] = np.nan
    found = feature_distances(fakes, reals)
    assert {value.note for value in found.values()} == {"not available: the features of the fakes are not all finite"}
