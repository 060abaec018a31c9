"""benchmarks/stacked_mnist.py: modes and their divergence against closed forms, idx files, a tiny run."""

import gzip
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import common
import stacked_mnist

from zoo.core.errors import ZooError

UNIFORM = np.repeat(np.arange(1000), 3)


@pytest.mark.parametrize(
    ("modes", "covered", "divergence"),
    [
        (UNIFORM, 1000, 0.0),
        (np.full(500, 7), 1, math.log(1000)),  # one mode
        (np.repeat(np.arange(10), 5), 10, math.log(100)),  # a hundredth of the modes, equally frequent
        (np.array([0, 0, 0, 999]), 2, math.log(1000) - (math.log(4) - 0.75 * math.log(3))),  # log of all - entropy
    ],
)
def test_modes_and_divergence_are_those_of_closed_forms(modes, covered, divergence):
    assert stacked_mnist.count_modes(modes) == (covered, pytest.approx(divergence, abs=1e-12))


def test_divergence_is_that_of_scipy_and_small_for_uniform_draws():
    modes = np.random.default_rng(0).integers(0, 1000, 25_600)
    covered, divergence = stacked_mnist.count_modes(modes)
    shares = np.bincount(modes, minlength=1000) / len(modes)
    assert divergence == pytest.approx(scipy.stats.entropy(shares, np.full(1000, 1e-3)))
    assert divergence == pytest.approx(999 / (2 * 25_600), rel=0.1)  # its expectation
    assert covered == 1000


def test_channels_are_the_digits_of_the_mode():
    digits = np.stack([np.full((4, 4), 20 * label, np.uint8) for label in range(10)])
    images, modes = stacked_mnist.stack_digits(digits, np.arange(10), 50, seed=3)
    assert images.shape == (50, 4, 4, 3)
    assert [int("".join(str(value // 20) for value in image[0, 0])) for image in images] == modes.tolist()
    again, _ = stacked_mnist.stack_digits(digits, np.arange(10), 50, seed=3)
    assert (images == again).all()


def write_idx(path, array):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_digits(folder):
    """Digits that any classifier reads: the label is the place of a white square."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count, suffix in (("train", 300, ".gz"), ("t10k", 100, "")):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 40, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[2 + 8 * row : 8 + 8 * row, 2 + 6 * column : 7 + 6 * column] = 250
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)
    return folder


def test_idx_files_are_read_gzipped_or_not(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for suffix in ("", ".gz"):
        write_idx(tmp_path / f"some{suffix}-ubyte{suffix}", array)
        assert (stacked_mnist.read_idx(tmp_path, f"some{suffix}") == array).all()
    (tmp_path / "cut-ubyte").write_bytes((tmp_path / "some-ubyte").read_bytes()[:-1])
    for name, problem in (("cut", "is cut off"), ("absent", "has no absent-ubyte")):
        with pytest.raises(ZooError, match=problem):
            stacked_mnist.read_idx(tmp_path, name)


def test_jobs_differ_by_their_losses_alone():
    jobs = stacked_mnist.plan_jobs(1)
    losses = {(job.recipe.loss.name, *job.recipe.penalties) for job in jobs}
    assert losses == {(name, "r1", *r2) for name in ("relativistic", "nonsaturating") for r2 in ((), ("r2",))}
    rest = []
    for job in jobs:
        content = job.recipe.to_dict()
        del content["loss"]
        penalties = content.pop("penalties").values()
        rest.append((content, {json.dumps(penalty) for penalty in penalties}))
    assert all(each == rest[0] for each in rest)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The benchmark with small networks, few steps and its own results; the folder of digits."""
    small = ("generator.base=4", "discriminator.width=0.125")
    monkeypatch.setattr(stacked_mnist, "SETTINGS", (*stacked_mnist.SETTINGS, *small))
    monkeypatch.setattr(stacked_mnist, "CLASSIFIER_STEPS", 60)
    monkeypatch.setattr(stacked_mnist, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(stacked_mnist, "PICTURE", tmp_path / "curves.png")
    monkeypatch.chdir(tmp_path)
    return write_digits(tmp_path / "mnist")


@pytest.mark.slow
def test_a_started_again_benchmark_continues(tiny, capsys):
    arguments = ["--data", str(tiny), "--images", "200", "--samples", "60", "--save", "--only", "RpGAN + R1 + R2"]
    stacked_mnist.main([*arguments, "--kimg", "0.128"])
    assert "100.00% of 100 test digits right" in capsys.readouterr().out
    before = Path("results.jsonl").read_text()
    stacked_mnist.main([*arguments, "--kimg", "0.128", "0.256"])
    after = Path("results.jsonl").read_text()
    assert after.startswith(before)
    rows = [json.loads(line) for line in after.splitlines()]
    assert [(row["loss"], row["kimg"]) for row in rows] == [
        ("real digits", 0),
        ("RpGAN + R1 + R2", 0.128),
        ("RpGAN + R1 + R2", 0.256),
    ]
    assert rows[0]["modes"] > 50  # of 60 draws from 1,000
    assert Path("curves.png").stat().st_size > 10_000
    (run,) = Path("stacked-mnist").glob("RpGAN-R1-R2-*/*/run.json")
    assert json.loads(run.read_text())["nimg"] == 256


def test_a_classifier_that_cannot_read_counts_nothing(tiny, monkeypatch):
    monkeypatch.setattr(stacked_mnist, "CLASSIFIER_STEPS", 4)
    with pytest.raises(SystemExit, match="too few"):
        stacked_mnist.main(["--data", str(tiny), "--images", "200", "--save"])
    assert not Path("results.jsonl").exists()


@pytest.mark.slow
def test_a_run_that_diverged_is_a_row(tiny, monkeypatch):
    explode = (*stacked_mnist.SETTINGS, "optimizer.generator.lr=1e18", "train.log_kimg=0.064")
    monkeypatch.setattr(stacked_mnist, "SETTINGS", explode)
    arguments = ["--data", str(tiny), "--images", "200", "--samples", "60", "--save", "--only", "GAN + R1"]
    stacked_mnist.main([*arguments, "--kimg", "0.512", "0.768"])
    rows = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()][1:]
    assert [row["kimg"] for row in rows] == [0.512, 0.768]
    assert all("modes" not in row and row["error"] for row in rows)


def test_the_list_needs_no_data(capsys):
    stacked_mnist.main(["--list"])
    assert capsys.readouterr().out.count("zoo train multires-28-stable --data") == 4
    assert torch.get_num_threads() == 1


def test_losses_are_compared_at_a_length_that_all_have():
    lengths = {"": [0], "a": [20, 40, 60], "b": [20, 40], "c": [40, 20, 80]}
    rows = [{"digest": digest, "kimg": kimg} for digest, each in lengths.items() for kimg in each]
    assert common.last_common_length(rows) == 40
    assert common.last_common_length([*rows, {"digest": "d", "kimg": 60}]) == 0
    assert common.last_common_length(rows[:1]) == 0
