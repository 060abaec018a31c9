"""Closed forms of the averaged generator's decay."""

import pytest

from zoo.core.config import EmaConfig, ImageSpec
from zoo.models.dcgan import DCGANGenerator, DCGANGeneratorConfig
from zoo.training.ema import Ema


def decay(nimg, batch, **config):
    generator = DCGANGenerator(DCGANGeneratorConfig(width=0.1), ImageSpec(resolution=16, channels=1))
    return Ema(generator, EmaConfig(**config)).decay(nimg, batch)


def test_share_of_the_average_halves_after_the_half_life():
    assert decay(10**6, 8, halflife_kimg=0.5, ramp=None) ** (500 / 8) == pytest.approx(0.5)


def test_half_life_ramps_up_with_the_images_seen():
    assert decay(1000, 8, halflife_kimg=10.0, ramp=0.05) == pytest.approx(0.5 ** (8 / 50))


def test_no_half_life_means_no_average():
    assert decay(1000, 8, halflife_kimg=0.0) == 0.0
