"""The phantoms are the same everywhere, empty outside the head, and look like brains in the ways one can count."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from zoo.data import phantoms
from zoo.data.phantoms import SLICES_PER_SUBJECT, phantom, phantom_subject

SUBJECTS = range(8)


@pytest.fixture(scope="module")
def subjects() -> list[npt.NDArray[np.uint8]]:
    return [phantom_subject(subject, 64) for subject in SUBJECTS]


def shrunk(image: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.float64]:
    side = image.shape[0] // factor
    return image.reshape(side, factor, side, factor).mean(axis=(1, 3))


def correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_same_bytes_twice_and_in_another_process(subjects: list[npt.NDArray[np.uint8]]) -> None:
    assert np.array_equal(subjects[3], phantom_subject(3, 64))
    program = (
        "import hashlib; from zoo.data.phantoms import phantom_subject;"
        "print(hashlib.sha256(phantom_subject(3, 64).tobytes()).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert elsewhere.stdout.strip() == hashlib.sha256(subjects[3].tobytes()).hexdigest()


@pytest.mark.parametrize("slice_", [0, 16, 31])
def test_one_slice_is_the_slice_of_its_subject(subjects: list[npt.NDArray[np.uint8]], slice_: int) -> None:
    assert np.array_equal(phantom(5, slice_, 64), subjects[5][slice_])


@pytest.mark.parametrize("resolution", [16, 28, 100, 256])
def test_any_resolution(resolution: int) -> None:
    image = phantom(1, 12, resolution)
    assert image.shape == (resolution, resolution)
    assert image.dtype == np.uint8


def test_a_subject_has_its_slices_and_no_others(subjects: list[npt.NDArray[np.uint8]]) -> None:
    assert subjects[0].shape == (SLICES_PER_SUBJECT, 64, 64)
    for slice_ in (-1, SLICES_PER_SUBJECT):
        with pytest.raises(ValueError, match="slices 0 to 31"):
            phantom(0, slice_, 64)


@pytest.mark.parametrize("resolution", [28, 64, 256])
def test_background_is_exactly_zero(resolution: int) -> None:
    margin = resolution // 28
    for subject, slice_ in itertools.product(SUBJECTS, (0, 15, 31)):
        image = phantom(subject, slice_, resolution).copy()
        image[margin:-margin, margin:-margin] = 0
        assert not image.any()


def test_the_head_is_about_as_large_as_a_head(subjects: list[npt.NDArray[np.uint8]]) -> None:
    for images in subjects:
        share = (images > 0).mean(axis=(1, 2))
        assert share.min() > 0.3
        assert share.max() < 0.55
        assert share[31] < share[0]


@pytest.mark.parametrize("slice_", [2, 16, 30])
@pytest.mark.parametrize("subject", [0, 4])
def test_resolutions_show_the_same_anatomy(subject: int, slice_: int) -> None:
    fine = phantom(subject, slice_, 256)
    for resolution in (64, 128):
        assert correlation(shrunk(fine, 256 // resolution), phantom(subject, slice_, resolution)) > 0.97
    assert correlation(shrunk(phantom(subject, slice_, 224), 8), phantom(subject, slice_, 28)) > 0.97


def test_neighbouring_slices_are_more_alike_than_distant_ones(subjects: list[npt.NDArray[np.uint8]]) -> None:
    for images in subjects:
        neighbours = [correlation(one, other) for one, other in itertools.pairwise(images)]
        distant = [correlation(images[i], images[i + 16]) for i in range(16)]
        assert min(neighbours) > 0.95
        assert min(neighbours) > max(distant)


def test_subjects_and_seeds_differ(subjects: list[npt.NDArray[np.uint8]]) -> None:
    middles = [images[15] for images in subjects] + [phantom(0, 15, 64, seed=1)]
    for one, other in itertools.combinations(middles, 2):
        assert correlation(one, other) < 0.96
        assert np.abs(one.astype(int) - other).mean() > 5


def test_left_and_right_are_alike_but_not_the_same(subjects: list[npt.NDArray[np.uint8]]) -> None:
    for images in subjects:
        for image in images[::5]:
            assert correlation(shrunk(image, 4), shrunk(image[:, ::-1], 4)) > 0.9
            assert correlation(image, image[:, ::-1]) < 0.99


def test_ventricles_are_dark_and_white_matter_is_bright(subjects: list[npt.NDArray[np.uint8]]) -> None:
    for images in subjects:
        middle = images[16]
        frontal_horns = np.stack([middle[41:45, 33:36], middle[41:45, 28:31]])
        white_matter = np.stack([middle[24:28, 41:45], middle[24:28, 19:23]])
        assert frontal_horns.min() < 0.35 * np.median(white_matter)


def test_the_range_is_used_without_much_clipping(subjects: list[npt.NDArray[np.uint8]]) -> None:
    for images in subjects:
        head = images[images > 0]
        dark, bright = np.percentile(head, [1, 99])
        assert dark < 60
        assert bright > 190
        assert (images == 255).mean() < 0.005


def test_a_changed_drawing_needs_a_new_version():
    """After a deliberate change of the drawing, increase ``PHANTOM_VERSION`` and write the new values here."""
    expected = {(0, 4): (67.394, 83.699), (1, 16): (69.544, 89.784), (2, 28): (61.378, 82.563)}
    assert phantoms.PHANTOM_VERSION == 1
    for (subject, slice_), values in expected.items():
        image = phantoms.phantom(subject, slice_, 64)
        assert (image.mean(), image.std()) == pytest.approx(values, abs=0.02)
