"""The SSIM engine against scikit-image and against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from zoo.errors import ZooError
from zoo.metrics.ssim import DEFINITION, nearest_ssim, pairwise_ssim, ssim

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


def scans(count: int, size: int, channels: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, channels, size, size): bright soft blobs on exact black, as slices of a head are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    out = np.zeros((count, channels, size, size))
    for image in out.reshape(-1, size, size):
        a, b = rng.uniform(0.5, 0.9, 2)
        inside = (x / a) ** 2 + (y / b) ** 2 < 1
        waves = np.sin(rng.uniform(3, 9) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(3, 9) * y)
        image[:] = inside * (150 + 80 * waves + rng.normal(0, 8, (size, size)))
    return np.clip(out.round(), 0, 255).astype(np.uint8)


def oracle(x: np.ndarray | Tensor, y: np.ndarray | Tensor, data_range: float) -> float:
    a, b = (np.asarray(image, dtype=np.float64) for image in (x, y))
    return float(structural_similarity(a, b, data_range=data_range, channel_axis=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [7, 28, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data_range", [255.0, 2.0, 1.0])
def test_equals_skimage(dtype: torch.dtype, size: int, channels: int, data_range: float) -> None:
    raw = torch.from_numpy(scans(8, size, channels)).to(dtype)
    raw = {255.0: raw, 2.0: raw / 127.5 - 1, 1.0: raw / 255}[data_range]
    raw[3] = raw[2] + 0.02 * data_range * torch.randn(raw[2].shape, generator=torch.Generator().manual_seed(0))
    x, y = raw[:-1], raw[1:]
    found = ssim(x, y, data_range)
    assert found.shape == (7,)
    assert found.dtype == dtype
    expected = [oracle(a, b, data_range) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_and_oblong_images(dtype: torch.dtype) -> None:
    x, y = torch.rand(2, 4, 2, 19, 40, dtype=dtype, generator=torch.Generator().manual_seed(1))
    expected = [oracle(a, b, 1.0) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y, 1.0), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_identical_images_are_one(dtype: torch.dtype) -> None:
    x = torch.from_numpy(scans(3, 28, 1)).to(dtype)
    np.testing.assert_allclose(ssim(x, x, 255), np.ones(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_images(dtype: torch.dtype) -> None:
    levels = torch.tensor([0.0, 0.0, 1.0, 0.7, 1e-3], dtype=dtype)
    x = levels.view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    y = x.roll(1, 0)
    expected = [oracle(a, b, 1.0) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y, 1.0), expected, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(ssim(x, x, 1.0), np.ones(5), rtol=0, atol=1e-6)


def test_float32_survives_a_bright_flat_background() -> None:
    """Where E[xy] - E[x]E[y] without centring is off by more than the tolerance."""
    generator = torch.Generator().manual_seed(0)
    x, y = 0.98 * 255 + torch.randn(2, 4, 1, 28, 28, generator=generator, dtype=torch.float64) * 0.2
    expected = [oracle(a, b, 255) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x.float(), y.float(), 255), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("step", [1, 5 * 28 * 28, 2**21])
def test_pairwise_equals_brute_force(channels: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.metrics.ssim._STEP", step)
    raw = scans(9, 28, channels)
    found = pairwise_ssim(torch.from_numpy(raw), 255)
    expected = [oracle(raw[i], raw[j], 255) for i, j in combinations(range(9), 2)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_pairwise_of_too_few() -> None:
    assert pairwise_ssim(torch.zeros(1, 1, 8, 8), 1.0).shape == (0,)
    assert pairwise_ssim(torch.zeros(0, 1, 8, 8), 1.0).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_nearest_equals_brute_force(dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.metrics.ssim._STEP", 9 * 28 * 28)
    x, reals = scans(5, 28, 1, seed=1), scans(13, 28, 1, seed=2)
    table = np.array([[oracle(a, b, 255) for b in reals] for a in x])
    values, indices = nearest_ssim(torch.from_numpy(x).to(dtype), torch.from_numpy(reals), 255, chunk=chunk)
    np.testing.assert_array_equal(indices, table.argmax(axis=1))
    np.testing.assert_allclose(values, table.max(axis=1), rtol=0, atol=TOLERANCE.get(dtype, 1e-4))


def test_nearest_reads_a_memory_map(tmp_path) -> None:
    reals = scans(11, 28, 3)
    np.save(tmp_path / "reals.npy", reals)
    values, indices = nearest_ssim(
        torch.from_numpy(reals[[7, 2]]), np.load(tmp_path / "reals.npy", mmap_mode="r"), 255, chunk=3
    )
    assert indices.tolist() == [7, 2]
    np.testing.assert_allclose(values, 1, atol=1e-6)


def test_nearest_takes_the_first_of_equals_and_keeps_nan() -> None:
    reals = torch.rand(3, 1, 8, 8)
    x = torch.stack([reals[1], torch.full_like(reals[1], torch.nan)])
    values, indices = nearest_ssim(x, torch.cat([reals, reals]), 1.0, chunk=2)
    assert indices[0] == 1
    assert values.isnan().tolist() == [False, True]


def test_refusals() -> None:
    small, fine = torch.zeros(2, 1, 6, 9), torch.zeros(2, 1, 9, 9)
    with pytest.raises(ZooError, match="at least 7x7 pixels, not 6x9"):
        ssim(small, small, 1.0)
    with pytest.raises(ZooError, match="at least 7x7"):
        pairwise_ssim(small, 1.0)
    with pytest.raises(ZooError, match="at least 7x7"):
        nearest_ssim(small, small, 1.0)
    with pytest.raises(ZooError, match="no real images"):
        nearest_ssim(fine, fine[:0], 1.0)
    with pytest.raises(ValueError, match="one shape"):
        ssim(fine, fine[:1], 1.0)
    with pytest.raises(ValueError, match="one shape"):
        nearest_ssim(fine, torch.zeros(2, 3, 9, 9), 1.0)
    with pytest.raises(ValueError, match=r"N, C, H, W"):
        ssim(fine[0], fine[0], 1.0)
    with pytest.raises(ValueError, match="data_range"):
        ssim(fine, fine, 0.0)
    with pytest.raises(ValueError, match=r"data_range 2 is not the range of torch\.uint8"):
        nearest_ssim(fine, fine.to(torch.uint8), 2.0)  # [-1, 1] against [0, 255]: two units


def test_definition_is_one_line() -> None:
    assert "\n" not in DEFINITION
    assert "7x7" in DEFINITION
