"""What Python code may pass: numbers of any library, one word for a list of words, and errors for the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.core.arguments import as_list, plain_number
from zoo.core.errors import ZooError
from zoo.core.options import EvaluationOptions, TrainOptions
from zoo.hub.class_lookup import find_class
from zoo.hub.load import LoadedGenerator

SMALL = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]


@pytest.mark.parametrize("make", [np.float64, np.float32, np.int64, torch.tensor, lambda value: np.array([value])])
def test_numbers_of_any_library_are_pythons_own(make: Any) -> None:
    for whole in (False, True):
        number = plain_number("n", make(3), whole=whole)
        assert number == 3
        assert type(number) in ((int,) if whole else (int, float))


@pytest.mark.parametrize("value", [True, "3", None, np.array([1, 2]), np.array("3"), [3]])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ZooError, match=r"^n: must be a number, not "):
        plain_number("n", value)


def test_halves_are_not_whole() -> None:
    with pytest.raises(ZooError, match=r"^n: must be a whole number, not 1\.5$"):
        plain_number("n", 1.5, whole=True)


def test_a_word_is_a_list_of_one() -> None:
    assert as_list("ssim") == ["ssim"]
    assert as_list(Path("a")) == [Path("a")]
    assert as_list(("a", "b")) == ["a", "b"]
    with pytest.raises(ZooError, match="must be a list of words"):
        as_list(3)
    assert TrainOptions(set="train.batch=8").set == ["train.batch=8"]
    assert EvaluationOptions(metrics="ssim", extractors="random").extractors == ["random"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: zoo.train("dcgan-64", epochs="3"), "epochs: must be a number, not '3'"),
        (lambda: zoo.train("dcgan-64", hours="1"), "hours: must be a number, not '1'"),
        (lambda: zoo.train("dcgan-64", kimg=True), "kimg: must be a number, not True"),
        (lambda: zoo.bench(["dcgan-64"], num_samples=1.5), "num_samples: must be a whole number, not 1.5"),
        (lambda: zoo.bench("dcgan-65"), "dcgan-65"),
        (lambda: zoo.compare(None, "a"), "fakes: is None"),
        (lambda: zoo.compare("a", None, unseen="b"), "reals: is None"),
        (lambda: zoo.compare("a", "b", metrics="ssim_nearst"), "ssim_nearst: unknown metric"),
        (lambda: zoo.compare("a", "b", fit="pad", resolution="16"), "--resolution: must be a whole number"),
        (lambda: zoo.compare("a", "b", fit="pad", resolution=16, channels=0), "--channels 0: must be 1 or 3"),
        (lambda: zoo.compare("a", "b", fit="pad", resolution=16, window=[0]), "takes two values"),
        (lambda: zoo.compare("a", "b", fit="pad", resolution=16, window=0.5), "takes two values"),  # type: ignore[arg-type]
        (lambda: zoo.train(resume="a", new=True), "leave one of them out"),
        (lambda: zoo.load_recipe("dcgan-64", "train.batchh=8"), "train.batchh"),
        (lambda: zoo.create("dcgan-64", 0.5), "0.5: must be an override such as"),  # type: ignore[arg-type]
        (lambda: zoo.create("dcgan-64", ["generator.width=0.5"]), "must be an override"),  # type: ignore[arg-type]
        (lambda: zoo.create("dcgan-64", device="cuda:99"), "--device cuda:99: not on this machine"),
        (lambda: zoo.publish("x", Path("y"), despite_alarm="memorization"), "--despite-alarm memorization"),
        (lambda: zoo.load_generator("x", plugins="missing.py"), "missing.py"),
    ],
)
def test_bad_arguments_are_named(call: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError) as error:
        call()
    assert words in str(error.value)
    assert not list(tmp_path.glob("runs/*"))


def test_lengths_may_be_numpys(tmp_path: Path) -> None:
    epochs = np.float64(0.2)
    run = zoo.train("dcgan-64", data="phantoms:4", out=tmp_path, epochs=epochs, device="cpu", set=SMALL)
    images = 0.2 * 96  # three of four subjects of 32 slices
    assert run.info["nimg"] == pytest.approx(images, abs=8)


@pytest.mark.parametrize("epochs", [1e-6, 2e10])
def test_epochs_beyond_all_use_are_refused_before_there_is_a_run(epochs: float, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"--epochs .* of .* images: .*train\.kimg: must be at least 0\.001"):
        zoo.train("dcgan-64", data="phantoms:4", out=tmp_path / "runs", epochs=epochs, device="cpu", set=SMALL)
    assert not (tmp_path / "runs").exists()


CLASSES = {
    "grades": ("1", "2", "3"),
    "padded": ("01", "02", "12"),  # as whole numbers from memory are named
    "floats": ("1.0", "2.0", "3.0"),  # as tables with gaps have them
    "words": ("axial", "coronal", "sagittal"),
    "mixed": ("0", "low", "high"),
}


@pytest.mark.parametrize(
    ("kind", "label", "number"),
    [
        ("grades", 1, 0),  # a grade, not the second class
        ("grades", "1", 0),
        ("grades", np.int64(3), 2),
        ("grades", np.float64(3), 2),
        ("grades", "3.0", 2),
        ("padded", 2, 1),
        ("padded", "2", 1),
        ("padded", "02", 1),
        ("padded", 12, 2),
        ("floats", 1, 0),
        ("floats", "1", 0),
        ("floats", 3.0, 2),
        ("words", 1, 1),
        ("words", "1", 1),
        ("words", "sagittal", 2),
        ("words", np.float64(2), 2),
        ("mixed", 0, 0),
        ("mixed", 2, 2),
    ],
)
def test_a_number_means_the_class_of_that_name(kind: str, label: Any, number: int) -> None:
    assert find_class(label, CLASSES[kind], "tiny") == number


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("grades", 0),
        ("grades", "0"),
        ("grades", 1.5),
        ("padded", 0),
        ("floats", "0"),
        ("words", 3),
        ("words", -1),
        ("words", 0.5),
        ("words", True),
        ("words", "x"),
        ("words", "nan"),
        ("words", None),
        ("words", [1, 2]),
    ],
)
def test_a_class_that_does_not_exist_is_refused(kind: str, label: Any) -> None:
    with pytest.raises(ZooError, match=f"^no class .*: tiny knows {', '.join(CLASSES[kind])}$"):
        find_class(label, CLASSES[kind], "tiny")


def test_classes_may_be_given_one_by_one() -> None:
    assert labels_of("grades", [1, "3", np.int64(2)], 3) == [0, 2, 1]
    assert labels_of("words", np.array([0, 2]), 2) == [0, 2]
    assert labels_of("words", ("axial", "sagittal"), 2) == [0, 2]
    with pytest.raises(ZooError, match="classes: must be 3, one per image, not 2"):
        labels_of("words", [0, 1], 3)
    with pytest.raises(ZooError, match=r"no class \[0\]"):
        labels_of("words", [[0], [1, 1]], 2)


def labels_of(kind: str, label: Any, n: int) -> list[int]:
    generator: Any = SimpleNamespace(
        classes=CLASSES[kind], image=SimpleNamespace(classes=3), recipe=SimpleNamespace(name="tiny")
    )
    labels = LoadedGenerator.labels(generator, label, n, 0)
    assert labels is not None
    return labels.tolist()
