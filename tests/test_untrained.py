"""The alarm ``untrained``: noise, black, the mean image and early networks trigger it, trained generators never do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.data.image_set import ImageSet
from zoo.data.phantoms import phantom
from zoo.data.pixel_range import to_uint8
from zoo.hub.pretrained import load_catalogue
from zoo.metrics.alarms import untrained_alarms
from zoo.metrics.evaluate_images import ImageEvaluator

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
METRICS = ["ssim_nearest", "ssim_pairwise", "ncc_nearest"]
BASELINES = {
    "unseen subjects": {"fid": 10.0, "ssim_nearest": 0.82, "ssim_pairwise": 0.62, "ncc_nearest": 0.96},
    "dataset mean": {"fid": 250.0, "ssim_nearest": 0.81, "ssim_pairwise": 1.0, "ncc_nearest": 0.97},
    "black": {"fid": 490.0, "ssim_nearest": 0.36, "ssim_pairwise": 1.0, "ncc_nearest": 0.0},
    "noise": {"fid": 410.0, "ssim_nearest": 0.02, "ssim_pairwise": 0.0, "ncc_nearest": 0.06},
}


def draw(subjects, size):
    images = [phantom(subject, slice_, size) for subject in subjects for slice_ in range(4, 28, 2)]
    return np.stack(images)[:, None]


@pytest.fixture(scope="module", params=[28, 64])
def evaluate(request, tmp_path_factory):
    """Alarm metrics of a set of fakes, compared with phantoms."""
    size = request.param
    train, heldout = draw(range(12), size), draw(range(12, 18), size)
    evaluator = ImageEvaluator(
        ImageSet(images=train, label="train"),
        ImageSet(images=heldout, label="held out"),
        metrics=METRICS,
        folder=tmp_path_factory.mktemp("cache"),
        intervals=False,
    )
    baselines = {name: result.figures for name, result in evaluator.baselines().items()}

    def metrics(fakes):
        values = evaluator.evaluate(ImageSet(images=fakes, label="fakes")).figures
        return [alarm.metric for alarm in evaluator.untrained_alarms(values, baselines) if alarm.name == "untrained"]

    return size, train, heldout, metrics


def early_generators(size):
    names = {28: ["multires-28"], 64: ["dcgan-64", "fastgan-r3-64", "lean-256"]}[size]
    for name in names:
        torch.manual_seed(0)
        G, _ = zoo.create(name, f"data.resolution={size}", "generator.width=0.25")
        with torch.no_grad():
            yield name, to_uint8(G.eval()(torch.randn(64, G.latent.dim))).numpy()


def test_noise_black_mean_and_early_networks_trigger_it(evaluate):
    size, train, _, metrics = evaluate
    rng = np.random.default_rng(1)
    shape = (64, 1, size, size)
    mean = np.rint(train.mean(axis=0, keepdims=True)).astype(np.uint8)
    sets = {
        "noise": rng.integers(0, 256, shape, np.uint8),
        "grey noise": rng.normal(128, 30, shape).clip(0, 255).astype(np.uint8),
        "black": np.zeros(shape, np.uint8),
        "nearly black": rng.integers(0, 6, shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "the mean image": np.repeat(mean, 64, axis=0),
        **dict(early_generators(size)),
    }
    for name, fakes in sets.items():
        assert metrics(fakes), name


def test_real_images_do_not_trigger_it(evaluate):
    _, train, heldout, metrics = evaluate
    blurred = torch.nn.functional.avg_pool2d(torch.from_numpy(heldout).float(), 3, 1, 1).round().byte().numpy()
    one_image = np.repeat(train[5:6], 64, axis=0)  # collapse, which is another alarm
    for images in (heldout, train[::3], blurred, one_image):
        assert metrics(images) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"fid": 249.0}, []),
        ({"fid": 250.0}, ["fid"]),
        ({"fid": None, "kid": 0.5}, []),  # no baseline has a KID here
        ({"ssim_nearest": 0.23}, []),
        ({"ssim_nearest": 0.21}, ["ssim_nearest"]),
        ({"ncc_nearest": 0.87}, []),
        ({"ncc_nearest": 0.86}, ["ncc_nearest"]),
        ({"ssim_pairwise": 1.0}, []),  # one image, but a better one than the mean image
        ({"ssim_pairwise": 1.0, "ssim_nearest": 0.81}, ["ssim_nearest"]),
        ({"ssim_pairwise": 0.99, "ssim_nearest": 0.81}, []),
        ({"fid": float("nan"), "ssim_nearest": float("nan"), "ncc_nearest": None}, []),
    ],
)
def test_by_values(change, expected):
    """One value at a time, on either side of its threshold."""
    calm = {"fid": 140.0, "ssim_nearest": 0.85, "ssim_pairwise": 0.7, "ncc_nearest": 0.95}
    found = untrained_alarms(calm | change, BASELINES)
    assert [alarm.metric for alarm in found] == expected
    for alarm in found:
        assert alarm.name == "untrained"
        assert alarm.text.endswith(". The generator needs more training.")
        assert "\n" not in alarm.text
    assert untrained_alarms(calm | change, {}) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fid": 495.93}, "FID is 495.9, no better than that of the mean image, 250.0."),
        ({"fid": 250.01}, "FID is 250.01, no better than that of the mean image, 250.00."),
        (
            {"ssim_nearest": 0.13},
            "SSIM of 0.13 with their nearest training image, noise 0.02, held-out images 0.82: up to 0.22 is little",
        ),
        ({"ssim_nearest": 0.2196}, "SSIM of 0.2196 with their nearest training image, noise 0.0200, held-out"),
        ({"ncc_nearest": 0.3}, "by 0.30, held-out images by 0.96: up to 0.86, noise or a chequerboard"),
        ({"ncc_nearest": 0.8639}, "by 0.8639, held-out images by 0.9600: up to 0.8640, noise"),
        (
            {"ssim_pairwise": 1.0, "ssim_nearest": 0.808},
            "Fakes are all one image, no nearer to training images than the mean image is (SSIM 0.808 and 0.810).",
        ),
    ],
)
def test_sentences_agree_with_their_numbers(change, sentence):
    calm = {"fid": 140.0, "ssim_nearest": 0.85, "ssim_pairwise": 0.7, "ncc_nearest": 0.95}
    (alarm,) = untrained_alarms(calm | change, BASELINES)
    assert sentence in alarm.text


def results(name, sizes):
    """Measured rows and baselines by size: (size, name, values) and {size: {name: values}}."""
    rows, baselines = [], {}
    for line in (RESULTS / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        size = row.get("px") or int(row["group"].split()[0])
        values = {metric: figure["value"] for metric, figure in (row.get("figures") or {}).items()}
        if row["kind"] == "baseline":
            baselines.setdefault(size, {})[row["name"]] = values
        elif values and size in sizes:
            rows.append((size, row["name"], values))
    return rows, baselines


def test_no_trained_generator_of_the_leaderboard_triggers_it():
    """Also not the worst, nor those that have collapsed; only two that are worse than the mean image by FID."""
    rows, baselines = results("leaderboard", (28, 32, 64, 128))
    assert len(rows) > 30
    # After 20 and 10 kimg (benchmarks/pictures/originals.png): a fixed pattern, and blurs with a chequerboard.
    alarmed = {name for size, name, values in rows if untrained_alarms(values, baselines[size])}
    assert alarmed == {"dcgan-128", "multires-128"}


def test_short_runs_of_the_benchmark_trigger_it():
    rows, baselines = results("bench", (128, 256))
    found = {name: [alarm.metric for alarm in untrained_alarms(values, baselines[size])] for size, name, values in rows}
    assert found == {
        "multires-128-000": ["fid", "ssim_nearest"],
        "dcgan-128-000": ["fid", "ssim_nearest", "ncc_nearest"],
        "lean-256-000": [],
        "multires-256-000": ["fid", "ssim_nearest", "ncc_nearest"],
        "dcgan-256-000": ["fid", "ssim_nearest", "ncc_nearest"],
    }


def test_no_packaged_generator_triggers_it(evaluate):
    """By its published values next to the measured baselines, and by its images next to phantoms, which are alike."""
    size, _, _, metrics = evaluate
    _, baselines = results("leaderboard", ())
    for name, entry in load_catalogue().items():
        if entry.resolution != size:
            continue
        values = {metric: value.value for metric, value in entry.metrics.items()}
        assert untrained_alarms(values, baselines[size]) == [], name
        assert metrics(zoo.load_generator(name).sample(64).numpy()) == [], name
