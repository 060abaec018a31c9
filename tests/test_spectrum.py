"""Power spectra against closed forms: white noise, box blur, sine waves and grids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from zoo.metrics.spectrum import compare_spectra, power_spectra, ring_edges


def noise(count: int, side: int, channels: int = 1, seed: int = 0, std: float = 20) -> np.ndarray:
    """White noise about grey, rounded to 8 bits."""
    values = np.random.default_rng(seed).normal(128, std, (count, channels, side, side))
    return values.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (28, 3), (64, 1)])
def test_white_noise_has_its_variance_in_every_ring(side: int, channels: int) -> None:
    """Parseval: the mean power of a frequency is the variance of a pixel (and 1 / 12 of rounding)."""
    spectra = power_spectra(noise(400, side, channels))
    assert spectra.rings.shape == (400, len(ring_edges(side)) - 1)
    np.testing.assert_allclose(spectra.rings.mean(axis=0), 400 + 1 / 12, rtol=0.12)


@pytest.mark.parametrize("cycles", [5, 12, 20])
def test_a_wave_is_in_the_ring_of_its_frequency(cycles: int) -> None:
    side, amplitude = 64, 100
    wave = 128 + amplitude * np.cos(2 * np.pi * cycles * np.arange(side) / side)
    image = np.broadcast_to(wave.round().astype(np.uint8), (1, 1, side, side))
    (rings,) = power_spectra(image).rings
    edges = ring_edges(side)
    ring = int(np.searchsorted(edges, cycles / side)) - 1
    assert rings.argmax() == ring
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency)
    places = ((radius > edges[ring]) & (radius <= edges[ring + 1])).sum()
    # A cosine has a quarter of its squared amplitude at each of two frequencies, times the number of pixels.
    assert rings[ring] == pytest.approx(2 * amplitude**2 / 4 * side**2 / places, rel=1e-2)


def test_equal_sets_have_no_deviation_and_no_grid() -> None:
    images = noise(20, 32)
    values = compare_spectra(images, images)
    assert values["spectrum"].value == 0
    assert values["grid"].value == pytest.approx(max(1, values["grid"].value or 0))
    assert (values["grid"].value or 0) <= 1


def test_deviation_is_that_of_the_blur() -> None:
    """A circular box blur of 3 pixels multiplies amplitudes by ((1 + 2 cos 2 pi f) / 3) along each axis."""
    side = 64
    sharp = np.random.default_rng(0).normal(0, 25, (200, 1, side, side))
    blurred = ndimage.uniform_filter(sharp, (1, 1, 3, 3), mode="wrap")
    images = [(128 + x).round().clip(0, 255).astype(np.uint8) for x in (blurred, sharp)]
    found = compare_spectra(*images, ["spectrum"], intervals=False)["spectrum"]
    frequency = np.fft.fftfreq(side)
    gain = ((1 + 2 * np.cos(2 * np.pi * frequency)) / 3) ** 2
    radius, edges = np.hypot(frequency[:, None], frequency), ring_edges(side)
    last = (radius > edges[-2]) & (radius <= edges[-1])
    assert found.value == pytest.approx(1 - (gain[:, None] * gain)[last].mean(), abs=0.01)


@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_deviation_of_a_contrast_is_its_square(gain: float) -> None:
    raw = np.random.default_rng(0).normal(0, 20, (50, 1, 32, 32))
    fakes, reals = ((128 + factor * raw).round().clip(0, 255).astype(np.uint8) for factor in (gain, 1))
    value = compare_spectra(fakes, reals, ["spectrum"], intervals=False)["spectrum"].value
    assert value == pytest.approx(abs(gain**2 - 1), abs=0.01)


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("amplitude", [2, 6])
def test_a_grid_stands_out_by_its_power(period: int, amplitude: int) -> None:
    """A row of single bright pixels has its power in one frequency of period: 1 + amplitude^2 H W / (period^2 var)."""
    side, std = 64, 10
    reals = noise(400, side, seed=1, std=std)
    grid = np.zeros((side, side), int)
    grid[:, ::period] = amplitude
    fakes = (noise(400, side, seed=2, std=std).astype(int) + grid).clip(0, 255).astype(np.uint8)
    value = compare_spectra(fakes, reals, ["grid"], intervals=False)["grid"].value
    expected = 1 + amplitude**2 * side**2 / period**2 / std**2
    assert value == pytest.approx(expected, rel=0.25)


def test_sets_of_one_kind_are_alike() -> None:
    values = compare_spectra(noise(300, 64, seed=1), noise(300, 64, seed=2))
    assert (values["spectrum"].value or 0) < 0.1
    assert 1 <= (values["grid"].value or 0) < 1.5
    for value in values.values():
        assert value.low is not None
        assert value.high is not None
        assert value.value is not None
        assert value.low < value.value < value.high


def test_few_subjects_have_no_interval() -> None:
    images = noise(6, 16)
    values = compare_spectra(images, images, fake_subjects=[0, 0, 0, 1, 1, 1])
    assert all(value.low is None and "2 subjects" in value.note for value in values.values())


def test_small_images_have_no_spectrum() -> None:
    values = compare_spectra(noise(4, 8), noise(4, 8))
    assert all(value.value is None and "16 pixels" in value.note for value in values.values())


def test_at_most_a_thousand_images_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.metrics.spectrum.SPECTRUM_MAX_IMAGES", 10)
    values = compare_spectra(noise(30, 16), noise(12, 16), intervals=False)
    assert {value.n for value in values.values()} == {10}
