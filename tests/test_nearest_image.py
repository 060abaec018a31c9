"""Nearest copies against a plain numpy search, and what must not change the measure."""

import numpy as np
import pytest
import torch

from zoo.core.errors import ZooError
from zoo.metrics.nearest_image import NCC_DEFINITION, Nearest, nearest_copy, nearest_features

SHAPES = [(1, 8, 9), (1, 28, 28), (3, 40, 37), (1, 66, 64), (1, 97, 110)]


def textures(count, shape, seed=0):
    """Random fields of several scales (count, C, H, W) uint8."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    image = np.zeros((count, channels, height, width))
    for scale in (1, 3, 8):
        coarse = rng.normal(size=(count, channels, -(-height // scale), -(-width // scale)))
        image += scale**0.5 * coarse.repeat(scale, axis=2).repeat(scale, axis=3)[..., :height, :width]
    return np.clip(128 + 25 * image, 0, 255).astype(np.uint8)


def low_passed(image, down=0, right=0):
    """(C, H, W) to box means, one box at a time."""
    channels, height, width = image.shape
    side = max(2, min(height, width) // 32)
    high, wide = (height - 4) // side, (width - 4) // side
    top, left = (height - high * side) // 2 + down, (width - wide * side) // 2 + right
    assert top >= 0
    assert left >= 0
    boxes = np.empty((channels, high, wide))
    for i in range(high):
        for j in range(wide):
            y, x = top + i * side, left + j * side
            assert y + side <= height
            assert x + side <= width
            boxes[:, i, j] = image[:, y : y + side, x : x + side].mean(axis=(1, 2), dtype=np.float64)
    return boxes.ravel()


def oracle(x, reals):
    """(N, M) highest correlations over the 25 shifts, by numpy's own coefficient."""
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    still = [low_passed(b) for b in reals]
    moved = [[low_passed(a, *shift) for shift in shifts] for a in x]
    return np.array([[max(np.corrcoef(a, b)[0, 1] for a in some) for b in still] for some in moved])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_numpy(shape):
    x, reals = textures(3, shape, seed=1), textures(5, shape, seed=2)
    table = oracle(x, reals)
    for chunk in (2, 100):
        found = nearest_copy(torch.from_numpy(x), reals, chunk=chunk)
        assert found.real.tolist() == table.argmax(axis=1).tolist()
        np.testing.assert_allclose(found.ncc, table.max(axis=1), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.distance, 1 - table.max(axis=1), rtol=0, atol=1e-5)


def test_distance_is_relative_to_other_subjects():
    x, reals = textures(6, (1, 28, 28), seed=1), textures(9, (1, 28, 28), seed=2)
    subjects = list("aabbbcccc")
    table = oracle(x, reals)
    found = nearest_copy(torch.from_numpy(x), torch.from_numpy(reals), subjects=subjects)
    for row, best, distance in zip(table, found.real.tolist(), found.distance.tolist(), strict=True):
        other = max(value for value, subject in zip(row, subjects, strict=True) if subject != subjects[best])
        assert distance == pytest.approx((1 - row.max()) / (1 - other), rel=1e-4)


@pytest.mark.parametrize("down", range(-2, 3))
@pytest.mark.parametrize("right", range(-2, 3))
@pytest.mark.parametrize("size", [28, 96])
def test_a_shifted_image_is_found_exactly(down, right, size):
    wide = textures(4, (1, size + 4, size + 4))
    reals = wide[..., 2:-2, 2:-2]
    x = wide[..., 2 + down : 2 + down + size, 2 + right : 2 + right + size]
    found = nearest_copy(torch.from_numpy(x.copy()), reals, subjects=list("abcd"))
    assert found.real.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.ncc, 1, rtol=0, atol=1e-6)
    assert found.distance.max() < 1e-5


def test_a_shift_too_far_is_not():
    wide = textures(4, (1, 40, 40))
    found = nearest_copy(torch.from_numpy(wide[..., 6:34, 6:34].copy()), wide[..., 3:31, 6:34])
    assert found.ncc.max() < 0.95


def test_brightness_and_contrast_change_nothing():
    x, reals = textures(5, (3, 32, 32), seed=1), textures(7, (3, 32, 32), seed=2)
    one = nearest_copy(torch.from_numpy(x), reals)
    other = nearest_copy(torch.from_numpy(x).double() * 0.01 - 3, reals)
    assert one.real.tolist() == other.real.tolist()
    np.testing.assert_allclose(one.ncc, other.ncc, rtol=0, atol=1e-5)
    negative = nearest_copy(255 - torch.from_numpy(x[:1]), x[:1])
    assert negative.ncc.item() < 0


def test_noise_is_averaged_away():
    reals = textures(20, (1, 64, 64))
    noisy = reals + np.random.default_rng(0).normal(0, 10, reals.shape)
    found = nearest_copy(torch.from_numpy(noisy.clip(0, 255).round().astype(np.uint8)), reals)
    assert found.real.tolist() == list(range(20))
    assert found.ncc.min() > 0.98


def test_flat_images_are_no_copies():
    reals = textures(3, (1, 28, 28))
    reals[1] = 77
    flat = torch.stack([torch.full((1, 28, 28), level, dtype=torch.uint8) for level in (0, 77, 255)])
    found = nearest_copy(flat, reals, subjects=["a", "b", "b"])
    assert found.ncc.tolist() == [0, 0, 0]
    assert found.distance.tolist() == [1, 1, 1]
    assert nearest_copy(torch.from_numpy(reals[:1]), reals).real.tolist() == [0]


def test_one_image_of_two_subjects_is_near_to_both():
    reals = textures(3, (1, 28, 28))
    reals[1] = reals[0]
    assert nearest_copy(torch.from_numpy(reals[:1]), reals, subjects=list("abc")).distance.item() > 0.1
    assert nearest_copy(torch.from_numpy(reals[:1]), reals, subjects=list("aac")).distance.item() < 1e-5


def test_one_subject_is_as_good_as_unknown():
    x, reals = textures(2, (1, 28, 28), seed=1), textures(4, (1, 28, 28))
    alone = nearest_copy(torch.from_numpy(x), reals)
    assert torch.equal(nearest_copy(torch.from_numpy(x), reals, subjects=["a"] * 4).distance, alone.distance)


def test_reads_a_memory_map_and_reports(tmp_path):
    class Count:
        total = done = stopped = 0

        def start(self, task, total):
            self.total = total

        def advance(self, n):
            self.done += n

        def stop(self):
            self.stopped += 1

    reals = textures(11, (3, 28, 28))
    np.save(tmp_path / "reals.npy", reals)
    count = Count()
    found = nearest_copy(
        torch.from_numpy(reals[[7, 2]]), np.load(tmp_path / "reals.npy", mmap_mode="r"), chunk=3, reporter=count
    )
    assert found.real.tolist() == [7, 2]
    assert (count.total, count.done, count.stopped) == (13, 13, 1)


def test_nan_stays_and_nothing_is_nothing():
    reals = torch.from_numpy(textures(3, (1, 28, 28))).float()
    x = torch.stack([reals[2], torch.full_like(reals[0], torch.nan)])
    found = nearest_copy(x, reals, subjects=list("abc"))
    assert found.ncc.isnan().tolist() == found.distance.isnan().tolist() == [False, True]
    assert found.real[0] == 2
    empty = nearest_copy(reals[:0], reals)
    assert isinstance(empty, Nearest)
    assert [len(column) for column in empty] == [0, 0, 0, 3]
    assert found.real_ncc[2] > 0.999
    assert found.real_ncc[0] < 0.999  # a fake of NaN is like no real image


def test_features_equal_numpy(monkeypatch):
    monkeypatch.setattr("zoo.metrics.nearest_image._TABLE_VALUES", 40)  # several blocks
    rng = np.random.default_rng(0)
    x, reals = rng.normal(5, 1, (7, 12)), rng.normal(5, 1, (13, 12))
    x[3] = reals[8]
    subjects = [str(i // 3) for i in range(13)]
    table = ((x[:, None] - reals[None]) ** 2).sum(axis=2)
    plain, index = nearest_features(torch.from_numpy(x), torch.from_numpy(reals))
    np.testing.assert_allclose(plain, table.min(axis=1), rtol=1e-5, atol=1e-4)
    assert index.tolist() == table.argmin(axis=1).tolist()
    relative, again = nearest_features(torch.from_numpy(x), torch.from_numpy(reals), subjects=subjects)
    assert again.tolist() == index.tolist()
    others = [
        min(d for d, subject in zip(row, subjects, strict=True) if subject != subjects[best])
        for row, best in zip(table, index.tolist(), strict=True)
    ]
    np.testing.assert_allclose(relative, table.min(axis=1) / others, rtol=1e-4, atol=1e-5)


def test_refusals():
    x = torch.zeros(2, 1, 28, 28)
    with pytest.raises(ZooError, match="at least 8x8 pixels, not 7x28"):
        nearest_copy(x[..., :7, :], x[..., :7, :])
    with pytest.raises(ZooError, match="no real images"):
        nearest_copy(x, x[:0])
    with pytest.raises(ZooError, match="no real images"):
        nearest_features(torch.zeros(2, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="one shape"):
        nearest_copy(x, torch.zeros(2, 3, 28, 28))
    with pytest.raises(ValueError, match="one shape"):
        nearest_copy(x[0], x[0])
    with pytest.raises(ValueError, match="one length"):
        nearest_features(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="3 subjects of 2 images"):
        nearest_copy(x, x, subjects=["a", "b", "c"])


def test_definition_is_one_line():
    assert "\n" not in NCC_DEFINITION
    assert "Pearson" in NCC_DEFINITION
