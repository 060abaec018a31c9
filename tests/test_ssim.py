"""The SSIM engines against scikit-image, scipy, brute force and one another; how the C kernel is compiled."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.core.files import cache_folder
from zoo.metrics.ssim import c_backend, torch_backend
from zoo.metrics.ssim.ssim import (
    DEFINITIONS,
    MS_DEFINITION,
    MS_SSIM_SMALLEST,
    SSIM_DEFINITION,
    engine,
    ms_ssim,
    nearest_ssim,
    pairwise_ssim,
    ssim,
)
from zoo.runtime import c_compiler

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
COMPILER = next((found for found in map(shutil.which, ("cc", "gcc", "clang")) if found), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler: cc, gcc or clang")


@pytest.fixture(params=[pytest.param("compiled", marks=needs_compiler), "eager"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both engines, one after the other."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("ZOO_NATIVE", "1" if request.param == "compiled" else "0")
    assert engine().startswith("compiled C (" if request.param == "compiled" else "torch, eager")
    return request.param


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


SKIMAGE = {"uniform": {}, "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}}


def oracle(x: np.ndarray | Tensor, y: np.ndarray | Tensor, data_range: float, kind: str = "uniform") -> float:
    a, b = (np.asarray(image, dtype=np.float64) for image in (x, y))
    return float(structural_similarity(a, b, data_range=data_range, channel_axis=0, **SKIMAGE[kind]))


def oracles(x: np.ndarray, y: np.ndarray, kind: str = "uniform") -> np.ndarray:
    """(len(x), len(y)) of uint8 images."""
    return np.array([[oracle(a, b, 255, kind) for b in y] for a in x])


def extremes(height: int, width: int, channels: int = 1) -> np.ndarray:
    """uint8 images at which sums are largest and variances nothing or everything."""
    y, x = np.mgrid[:height, :width]
    half = np.where(x < width // 2, 0, 255)
    corner = np.zeros((height, width))
    corner[-1, -1] = 255
    rows = [0 * x, 0 * x + 255, 0 * x + 254, 0 * x + 128, (x + y) % 2 * 255, half, 255 - half, corner, 255 - corner]
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width))
    return np.stack([*rows, *noise]).astype(np.uint8)[:, None].repeat(channels, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [7, 28, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data_range", [255.0, 2.0, 1.0])
@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_equals_skimage(dtype: torch.dtype, size: int, channels: int, data_range: float, kind: str) -> None:
    size = max(size, 11) if kind == "gaussian" else size
    raw = torch.from_numpy(scans(8, size, channels)).to(dtype)
    raw = {255.0: raw, 2.0: raw / 127.5 - 1, 1.0: raw / 255}[data_range]
    raw[3] = raw[2] + 0.02 * data_range * torch.randn(raw[2].shape, generator=torch.Generator().manual_seed(0))
    x, y = raw[:-1], raw[1:]
    found = ssim(x, y, data_range, kind)
    assert found.shape == (7,)
    assert found.dtype == dtype
    expected = [oracle(a, b, data_range, kind) for a, b in zip(x, y, strict=True)]
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


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (33, 47, 1), (64, 64, 1), (12, 39, 3)])
def test_tables_equal_skimage(either: str, kind: str, height: int, width: int, channels: int) -> None:
    """Scans, and the extremes among them, against scans on black, on white and full of noise."""
    size = max(height, width)
    brains = scans(9, size, channels)[..., :height, :width]
    x = np.concatenate([brains[:6], extremes(height, width, channels)[::2]])
    reals = np.concatenate([brains[4:], 255 - brains[4:6], extremes(height, width, channels)])
    table = oracles(x, reals, kind)
    values, indices = nearest_ssim(torch.from_numpy(x), reals, 255, chunk=5, kind=kind)
    assert values.dtype == torch.float32
    assert indices.dtype == torch.int64
    np.testing.assert_allclose(values, table.max(1), rtol=0, atol=1e-4)
    np.testing.assert_allclose(table[np.arange(len(x)), indices], table.max(1), rtol=0, atol=1e-6)
    found = pairwise_ssim(torch.from_numpy(reals), 255, kind)
    expected = [oracle(a, b, 255, kind) for a, b in combinations(reals, 2)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("background", [0, 255, 7])
def test_engines_agree(channels: int, background: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More images than lanes, and each background; a quarter of the images is nothing but background."""
    raw = scans(37, 70, channels)
    raw = np.where(raw == 0, background, raw).astype(np.uint8)
    raw[::4] = background
    fakes = np.random.default_rng(1).integers(0, 4, raw[:21].shape).astype(np.uint8) | raw[:21]
    found = {}
    for name in ("1", "0"):
        monkeypatch.setenv("ZOO_NATIVE", name)
        found[name] = (nearest_ssim(torch.from_numpy(fakes), raw, 255), pairwise_ssim(torch.from_numpy(raw), 255))
    (values, indices), pairs = found["1"]
    (eager_values, eager_indices), eager_pairs = found["0"]
    np.testing.assert_allclose(values, eager_values, rtol=0, atol=1e-6)
    np.testing.assert_allclose(pairs, eager_pairs, rtol=0, atol=1e-6)
    assert (indices == eager_indices).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_and_threads_change_nothing(either: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, reals = torch.from_numpy(scans(40, 30, 1, seed=1)), scans(75, 30, 1, seed=2)
    whole, pairs = nearest_ssim(x, reals, 255), pairwise_ssim(x, 255)
    torch.set_num_threads(threads)
    monkeypatch.setattr(c_backend, "_TABLE_BYTES", 1)
    monkeypatch.setattr(torch_backend, "_TABLE_BYTES", 8 * 6 * 4 * 30 * 30)
    monkeypatch.setattr(torch_backend, "_CPU_BLOCK_VALUES", 4000)
    values, indices = nearest_ssim(x, reals, 255, chunk=7)
    atol = 0 if either == "compiled" else 1e-6
    np.testing.assert_allclose(values, whole[0], rtol=0, atol=atol)
    assert (indices == whole[1]).all()
    np.testing.assert_allclose(pairwise_ssim(x, 255), pairs, rtol=0, atol=atol)


def test_a_level_that_is_no_background_changes_nothing(either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, reals = torch.from_numpy(scans(5, 30, 1, seed=1)), scans(9, 30, 1, seed=2)
    expected = nearest_ssim(x, reals, 255)[0]
    for level in (3, 255):
        monkeypatch.setattr("zoo.metrics.ssim.ssim._background", lambda images, level=level: level)
        np.testing.assert_allclose(nearest_ssim(x, reals, 255)[0], expected, rtol=0, atol=1e-6)


def test_nearest_of_equal_images_is_one_wherever_it_lies(either: str) -> None:
    images = extremes(40, 23)
    values, indices = nearest_ssim(torch.from_numpy(images), images, 255)
    np.testing.assert_allclose(values, 1, rtol=0, atol=1e-6)
    assert indices.tolist() == list(range(len(images)))


def test_the_first_of_equals(either: str) -> None:
    """Also where the copies lie in different tiles, lanes and blocks."""
    reals = scans(70, 20, 1)
    order = np.r_[0:70, 0:70, 69:-1:-1]
    values, indices = nearest_ssim(torch.from_numpy(reals), reals[order], 255, chunk=16)
    assert indices.tolist() == list(range(70))
    np.testing.assert_allclose(values, 1, rtol=0, atol=1e-6)
    twins = torch.from_numpy(reals[[5] * 40])
    noisy = reals[[3, 9, 9, 3]]
    assert len(set(nearest_ssim(twins, noisy, 255)[0].tolist())) == 1
    assert len(set(nearest_ssim(twins, noisy, 255)[1].tolist())) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_tables_of_floats(dtype: torch.dtype, kind: str) -> None:
    raw = torch.from_numpy(scans(9, 30, 3)).to(dtype) / 127.5 - 1
    raw[4] = torch.rand(raw[4].shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    table = np.array([[oracle(a, b, 2, kind) for b in raw[3:]] for a in raw[:5]])
    values, indices = nearest_ssim(raw[:5], raw[3:].numpy(), 2, kind=kind)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, table.max(1), rtol=0, atol=TOLERANCE[dtype])
    assert (indices.numpy() == table.argmax(1)).all()
    expected = [oracle(a, b, 2, kind) for a, b in combinations(raw, 2)]
    np.testing.assert_allclose(pairwise_ssim(raw, 2, kind), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_path_of_accelerators(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large blocks, no box, no threads: on the CPU, since no other device is here."""
    monkeypatch.setenv("ZOO_NATIVE", "0")
    x, reals = torch.from_numpy(scans(5, 30, 3, seed=1)).to(dtype), scans(300, 30, 3, seed=2)
    expected = nearest_ssim(x, reals, 255)
    elsewhere = property(lambda self: False, lambda self, value: None)
    monkeypatch.setattr(torch_backend.TorchTable, "on_cpu", elsewhere, raising=False)
    values, indices = nearest_ssim(x, reals, 255)
    np.testing.assert_allclose(values, expected[0], rtol=0, atol=1e-5)
    assert (indices == expected[1]).all()


def test_bytes_with_floats(either: str) -> None:
    raw = scans(6, 30, 1)
    between = (raw[2:] * 0.997).astype(np.float32)
    for x, reals in ((raw[:3], between), (between, raw[:3])):
        table = np.array([[oracle(a, b, 255) for b in reals] for a in x])
        values, indices = nearest_ssim(torch.from_numpy(x), reals, 255)
        np.testing.assert_allclose(values, table.max(1), rtol=0, atol=1e-5)
        assert (indices.numpy() == table.argmax(1)).all()


def test_what_is_read_piece_by_piece(either: str, tmp_path: Path) -> None:
    """A memory map, and anything else with a shape that gives arrays for slices."""

    class Chosen:
        dtype, shape = np.dtype(np.uint8), (6, 3, 28, 28)

        def __len__(self) -> int:
            return 6

        def __getitem__(self, key: slice) -> np.ndarray:
            return np.asarray(mapped[[8, 7, 3, 2, 1, 0]][key])

    reals = scans(11, 28, 3)
    np.save(tmp_path / "reals.npy", reals)
    mapped = np.load(tmp_path / "reals.npy", mmap_mode="r")
    x = torch.from_numpy(reals[[7, 2]])
    for images, places in ((mapped, [7, 2]), (Chosen(), [1, 3]), (torch.from_numpy(reals).flip(0), [3, 8])):
        values, indices = nearest_ssim(x, images, 255, chunk=3)
        assert indices.tolist() == places
        np.testing.assert_allclose(values, 1, atol=1e-6)


def test_views_of_images(either: str) -> None:
    """Every other column, and a crop: nothing that lies in memory as it is read."""
    wide = torch.from_numpy(scans(6, 60, 1))
    for view in (wide[..., ::2], wide[:, :, 7:40, 10:51]):
        values, indices = nearest_ssim(view[:3], view, 255)
        assert indices.tolist() == [0, 1, 2]
        np.testing.assert_allclose(values, 1, atol=1e-6)
        expected = [oracle(a, b, 255) for a, b in combinations(view, 2)]
        np.testing.assert_allclose(pairwise_ssim(view, 255), expected, rtol=0, atol=1e-4)


def test_too_few(either: str) -> None:
    for dtype in (torch.uint8, torch.float32):
        assert pairwise_ssim(torch.zeros(1, 1, 8, 8, dtype=dtype), 255).shape == (0,)
        assert pairwise_ssim(torch.zeros(0, 1, 8, 8, dtype=dtype), 255).shape == (0,)
        none = nearest_ssim(torch.zeros(0, 1, 8, 8, dtype=dtype), torch.zeros(2, 1, 8, 8, dtype=dtype), 255)
        assert [len(part) for part in none] == [0, 0]


def test_progress_is_reported(either: str) -> None:
    class Progress:
        total = done = stops = 0

        def start(self, task: str, total: int) -> None:
            assert task == "comparing"
            self.total = total

        def advance(self, n: int) -> None:
            self.done += n

        def stop(self) -> None:
            self.stops += 1

        def say(self, message: str) -> None: ...
        def warn(self, message: str) -> None: ...

    progress = Progress()
    nearest_ssim(torch.from_numpy(scans(3, 28, 1)), scans(11, 28, 1), 255, chunk=4, reporter=progress)
    assert progress.total == progress.done == 33
    assert progress.stops == 1


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
    with pytest.raises(ZooError, match="SSIM 'gausian': unknown kind \\(did you mean 'gaussian'"):
        ssim(fine, fine, 1.0, "gausian")
    with pytest.raises(ZooError, match="at least 11x11 pixels, not 9x9"):
        nearest_ssim(fine, fine, 1.0, kind="gaussian")


def test_definitions_are_lines() -> None:
    assert DEFINITIONS["uniform"] == SSIM_DEFINITION
    assert "7x7" in SSIM_DEFINITION
    assert "11x11" in DEFINITIONS["gaussian"]
    assert "5 scales" in MS_DEFINITION
    assert not [text for text in (*DEFINITIONS.values(), MS_DEFINITION) if "\n" in text]


def test_ssim_has_gradients() -> None:
    x = torch.rand(2, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.rand(2, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for kind in DEFINITIONS:
        assert torch.autograd.gradcheck(lambda x, kind=kind: ssim(x, y, 1.0, kind), x)


def multi_scale(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """MS-SSIM of (C, H, W) by scipy, from the paper: equations 1 to 7 of Wang, Simoncelli and Bovik (2003)."""
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    bell /= bell.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, bell, 0), bell, 1)[5:-5, 5:-5]

    def half(image: np.ndarray) -> np.ndarray:
        image = np.pad(image, [(0, side % 2) for side in image.shape], mode="edge")
        return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4

    c1, c2, result = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, []
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        product = 1.0
        for scale, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
            a, b = (half(a), half(b)) if scale else (a, b)
            ma, mb = blur(a), blur(b)
            cs = (2 * (blur(a * b) - ma * mb) + c2) / (blur(a * a) - ma**2 + blur(b * b) - mb**2 + c2)
            if scale == 4:
                cs = cs * (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
            product *= max(cs.mean(), 0) ** weight
        result.append(product)
    return float(np.mean(result))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width", "channels"), [(161, 161, 1), (176, 208, 1), (163, 170, 3)])
def test_ms_ssim_equals_scipy(dtype: torch.dtype, height: int, width: int, channels: int) -> None:
    raw = scans(5, 208, channels)[..., 16 : 16 + height, :width]
    x, y = raw[[0, 1, 2, 3, 3]], raw[[1, 2, 3, 3, 4]]
    y[4] = 255 - x[4]
    found = ms_ssim(torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype), 255)
    expected = [multi_scale(a, b, 255) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE.get(dtype, 1e-4))
    assert found[3] == pytest.approx(1, abs=1e-6)
    assert found[4] == 0


def test_ms_ssim_refuses_small_images() -> None:
    small, fine = torch.zeros(2, 1, 160, 300), torch.zeros(2, 1, 161, 161)
    with pytest.raises(ZooError, match="more than 160 pixels a side, not 160x300"):
        ms_ssim(small, small, 1.0)
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(fine, fine[:1], 1.0)
    with pytest.raises(ValueError, match=r"N, C, H, W"):
        ms_ssim(fine[0], fine[0], 1.0)
    assert MS_SSIM_SMALLEST == 160
    np.testing.assert_allclose(ms_ssim(fine, fine, 1.0), 1, atol=1e-6)


# How the kernel is compiled


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which nothing is compiled; the folder for what will be."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_NATIVE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    c_compiler._load.cache_clear()
    yield tmp_path / "cache" / "native"
    c_compiler._load.cache_clear()


def ssim_value() -> float:
    images = torch.from_numpy(scans(2, 28, 1))
    return pairwise_ssim(images, 255).item()


def test_no_compiler_is_no_harm(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = oracle(*scans(2, 28, 1), 255)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine() == "torch, eager"
    assert ssim_value() == pytest.approx(expected, abs=1e-5)
    assert not fresh.exists()


@pytest.mark.parametrize("script", ["exit 1", "echo 'cc 1.0'; [ $# = 1 ]", "echo 'cc 1.0'", "kill -9 $$"])
def test_a_compiler_that_fails_is_no_harm(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    broken = tmp_path / "broken cc"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", f"'{broken}'")
    assert engine() == "torch, eager"
    assert ssim_value() == pytest.approx(oracle(*scans(2, 28, 1), 255), abs=1e-5)


def test_a_compiler_that_makes_no_library_is_no_harm(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nwhile [ $# -gt 1 ]; do [ $1 = -o ] && echo nonsense > $2; shift; done; echo cc 1.0\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert engine() == "torch, eager"


@needs_compiler
def test_a_compiler_that_cannot_tune(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is compiled for any machine of the kind, with narrow vectors, gives the same values."""
    wide = ssim_value()
    picky = tmp_path / "picky"
    picky.write_text(f'#!/bin/sh\ncase "$*" in *-march=native*) exit 1;; esac\nexec {COMPILER} "$@"\n')
    picky.chmod(0o755)
    monkeypatch.setenv("CC", str(picky))
    assert engine().startswith("compiled C")
    assert ssim_value() == pytest.approx(wide, abs=1e-6)
    images = torch.from_numpy(np.concatenate([scans(7, 40, 3), extremes(40, 40, 3)]))
    expected = [oracle(a, b, 255) for a, b in combinations(images, 2)]
    np.testing.assert_allclose(pairwise_ssim(images, 255), expected, rtol=0, atol=1e-5)


@needs_compiler
def test_compiled_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine().startswith("compiled C (")
    (made,) = fresh.iterdir()
    assert made.suffix == ".so"
    before = made.stat().st_mtime_ns
    c_compiler._load.cache_clear()
    monkeypatch.setattr(c_compiler, "_build", lambda *_: pytest.fail("compiled again"))
    assert engine().startswith("compiled C (")
    assert made.stat().st_mtime_ns == before


@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "cut", "changed"])
def test_a_damaged_library_is_made_again(fresh: Path, damage: str) -> None:
    expected = ssim_value()
    (made,) = fresh.iterdir()
    whole = made.read_bytes()
    other = {"empty": b"", "cut": whole[: len(whole) // 2], "changed": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]}
    made.unlink()  # the old one may still be mapped
    made.write_bytes(other[damage])
    c_compiler._load.cache_clear()
    assert engine().startswith("compiled C")
    assert ssim_value() == expected
    (made,) = fresh.iterdir()
    assert made.read_bytes() == whole


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes here")
def test_a_folder_that_others_can_write_is_not_trusted(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine().startswith("compiled C")
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    (made,) = fresh.iterdir()
    builds, build = [], c_compiler._build
    monkeypatch.setattr(c_compiler, "_build", lambda *args: builds.append(args) or build(*args))
    for number, where in enumerate((made, fresh)):
        c_compiler._load.cache_clear()
        where.chmod(0o777)
        assert engine().startswith("compiled C")
        assert len(builds) == number + 1
    assert ssim_value() == pytest.approx(oracle(*scans(2, 28, 1), 255), abs=1e-5)


@needs_compiler
def test_a_cache_that_cannot_be_written_is_no_harm(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    assert cache_folder() == tmp_path / "file"
    assert engine().startswith("compiled C")
    assert ssim_value() == pytest.approx(oracle(*scans(2, 28, 1), 255), abs=1e-5)


@needs_compiler
@pytest.mark.slow
def test_processes_that_build_at_once(fresh: Path) -> None:
    script = """
import sys, torch
from zoo.metrics.ssim import ssim
print(ssim.engine()); sys.stdout.flush(); sys.stdin.readline()
images = torch.arange(2 * 20 * 20).remainder(251).to(torch.uint8).view(2, 1, 20, 20)
print(ssim.pairwise_ssim(images, 255).item())
"""
    run = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate("go\n")[0].splitlines() for process in run]
    assert [process.returncode for process in run] == [0, 0, 0]
    assert all(engine.startswith("compiled C") for engine, _ in outputs)
    assert len({value for _, value in outputs}) == 1
    assert len([file for file in fresh.iterdir() if file.suffix == ".so"]) == 1
    assert not [file for file in fresh.iterdir() if file.suffix != ".so"]


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("cc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.", "gcc 12.2"),
        ("gcc (GCC) 15.1.1 20250425 (Red Hat 15.1.1-1)\nCopyright (C) 2025 Free Software Foundation, Inc.", "gcc 15.1"),
        ("Apple clang version 16.0.0 (clang-1600.0.26.6)\nTarget: arm64-apple-darwin24.3.0", "clang 16.0"),
        ("Ubuntu clang version 14.0.0-1ubuntu1.1\nTarget: x86_64-pc-linux-gnu", "clang 14.0"),
        ("some other compiler", "cc"),
        ("", "cc"),
    ],
)
def test_names_of_compilers(output: str, name: str) -> None:
    assert c_compiler._compiler_name(output) == name
