"""benchmarks/downstream.py: who sees which slices, what is augmented, and a tiny run from start to table."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import classifier
import downstream
import tables

import zoo
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.phantoms import phantom

SUBJECTS, SLICES = 8, 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms of eight subjects, twelve slices each, with a manifest of their positions."""
    folder = tmp_path_factory.mktemp("slices")
    rows = []
    for subject in range(SUBJECTS):
        for number in range(SLICES):
            name = f"case_{subject:03d}_slice_{number}.png"
            Image.fromarray(phantom(subject, 2 * number + 4, 32)).save(folder / name)
            rows.append((name, number, "even" if subject % 2 == 0 else "odd"))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "slice", "group"), *rows])
    return folder


def load(data, label):
    return load_dataset(str(data), DataConfig(resolution=32, labels=label, holdout=0.25))


def test_labels_are_groups_of_neighbours_and_subjects_are_apart(data):
    train, test = downstream.split_slices(load(data, "slice"), 4)
    assert not set(train.subjects) & set(test.subjects)
    assert len(train.images) + len(test.images) == SUBJECTS * SLICES
    for part in (train, test):
        assert torch.bincount(part.labels).tolist() == [len(part.labels) // 4] * 4
    loaded = load(data, "slice")
    numbers = [int(loaded.names[index].rpartition("_")[2].removesuffix(".png")) for index in loaded.train]
    assert train.labels.tolist() == [number // 3 for number in numbers]  # 10 does not sort after 1


def test_other_labels_are_not_merged(data):
    train, _ = downstream.split_slices(load(data, "group"), 0)
    assert set(train.labels.tolist()) == {0, 1}
    with pytest.raises(ZooError, match="--groups 8: needs as many whole numbers"):
        downstream.split_slices(load(data, "group"), 8)


def test_a_batch_has_equal_parts_of_each_set():
    sets = [
        downstream.Slices(torch.full((n, 1, 8, 8), value, dtype=torch.uint8), torch.full((n,), value), np.array([]))
        for n, value in ((3, 10), (500, 20))
    ]
    images, labels = downstream.batch_drawer(sets, augment=False)(np.random.default_rng(0))
    assert labels.bincount(minlength=21)[[10, 20]].tolist() == [downstream.BATCH // 2] * 2
    assert (images[:, 0, 0, 0] == labels).all()


def test_augmented_images_stay_near_and_without_ranges_are_mirrored_only(monkeypatch):
    images = torch.from_numpy(np.stack([phantom(subject, 16, 32) for subject in range(16)])[:, None])
    augmented = downstream.augment_images(images, np.random.default_rng(0))
    assert augmented.dtype == torch.uint8
    assert augmented.shape == images.shape
    assert (augmented.float().mean() - images.float().mean()).abs() < 6
    assert all((augmented != images).flatten(1).any(1))
    for name in ("SHIFT_PIXELS", "ANGLE", "SCALE", "CONTRAST"):
        monkeypatch.setattr(downstream, name, 0)
    augmented = downstream.augment_images(images, np.random.default_rng(0))
    same = [bool((a == b).all()) for a, b in zip(augmented, images, strict=True)]
    mirrored = [bool((a == b.flip(-1)).all()) for a, b in zip(augmented, images, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_a_classifier_learns_what_is_easy():
    labels = torch.arange(64) % 4
    images = (torch.rand(64, 1, 16, 16) * 40 + 60 * labels[:, None, None, None]).to(torch.uint8)
    torch.manual_seed(0)
    network = classifier.SmallClassifier(4, 1, 16)

    def draw(rng):
        index = rng.integers(0, 64, 32)
        return images[index], labels[index]

    classifier.train_classifier(network, draw, steps=40, seed=0)
    assert (classifier.predict_classes(network, images) == labels).all()


def row(subjects, seed, arm, accuracies):
    mean = float(np.mean(accuracies))
    return {"subjects": subjects, "seed": seed, "arm": arm, "slices": 32, "accuracy": mean} | {
        "subject_accuracies": accuracies
    }


def test_the_table_compares_seed_by_seed_and_subject_by_subject(monkeypatch):
    base = [[0.5, 0.6, 0.7, 0.8], [0.3, 0.4, 0.5, 0.6]]
    rows = [row(5, seed, "real", values) for seed, values in enumerate(base)]
    rows += [row(5, seed, "real + generated", [value + 0.1 for value in values]) for seed, values in enumerate(base)]
    rows += [row(0, 0, "real", [0.9] * 4)]
    monkeypatch.setattr(tables, "results", lambda name: rows)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.downstream().splitlines()[2:]]
    assert lines == [
        ["5", "32", "real", "55.0%", "45.0% to 65.0%", "", ""],
        ["5", "32", "real + generated", "65.0%", "55.0% to 75.0%", "+10.0 (+10.0 to +10.0)", ""],
        ["all", "32", "real", "90.0%", "90.0% to 90.0%", "", ""],
    ]


@pytest.mark.slow
def test_generators_see_the_same_subjects_and_nothing_is_done_twice(data, monkeypatch, tmp_path):
    small = ("generator.width=0.125", "discriminator.width=0.125", "train.batch=8")
    monkeypatch.setattr(downstream, "SETTINGS", (*downstream.SETTINGS, *small))
    monkeypatch.setattr(downstream, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(downstream, "GENERATED_IMAGES", 24)
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(data), "--groups", "4", "--seeds", "1", "--kimg", "0.032", "--steps", "6", "--save"]
    downstream.main([*arguments, "--subjects", "2"])
    before = Path("results.jsonl").read_text()
    assert [json.loads(line)["arm"] for line in before.splitlines()] == [arm.name for arm in downstream.ARMS]
    folders = {path.name.partition("-")[0]: path for path in Path("downstream").glob("*-subjects-*")}
    counts = {}
    for name, folder in folders.items():
        (run,) = map(zoo.Run, folder.glob("*-000"))
        counts[name] = run.info["data_description"]
    heldout = len(load_dataset(str(data), DataConfig(resolution=32)).unseen)
    assert f"{2 * SLICES} images of 2 subjects, none held out" in counts["2"]
    assert f"{SUBJECTS * SLICES - heldout} images" in counts["all"]
    stamps = {path: path.stat().st_mtime_ns for path in Path("downstream").rglob("generator.safetensors")}
    downstream.main([*arguments, "--subjects", "2", "0"])
    after = Path("results.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 2 * len(downstream.ARMS) - 1
    assert stamps == {path: path.stat().st_mtime_ns for path in Path("downstream").rglob("generator.safetensors")}
