"""R3GAN: residual blocks and the scale of logits."""

from __future__ import annotations

import pytest
import torch

from zoo.core.config import ImageSpec
from zoo.models.r3gan import (
    R3GANDiscriminator,
    R3GANDiscriminatorConfig,
    R3GANGenerator,
    R3GANGeneratorConfig,
)
from zoo.models.residual import ResidualBlock
from zoo.recipes import load_recipe


def test_residual_block_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(ResidualBlock(32, group=16, expansion=2, count=4)(x), x)


@pytest.mark.parametrize(("channels", "groups"), [(32, 4), (24, 3), (5, 1), (1, 1)])
def test_number_of_groups_divides_the_channels(channels: int, groups: int) -> None:
    convolution = ResidualBlock(channels, group=16, expansion=2, count=4).branch[2]
    assert convolution.groups == groups  # type: ignore[union-attr]


def test_logits_have_the_scale_of_the_input() -> None:
    """So that penalties are bounded at the start for any number and width of blocks."""
    torch.manual_seed(0)
    config = R3GANDiscriminatorConfig(channels=(64, 64, 32, 16, 8))
    D = R3GANDiscriminator(config, ImageSpec(resolution=64, channels=1))
    smooth = torch.randn(64, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert 0.05 < D(smooth).std() < 5


@pytest.mark.parametrize("size", [14, 28, 56])
def test_sizes_of_seven_have_maps_and_kernels_of_seven(size: int) -> None:
    image, channels = ImageSpec(resolution=size, channels=1), (32, 16, 16, 16)
    G = R3GANGenerator(R3GANGeneratorConfig(channels=channels), image)
    D = R3GANDiscriminator(R3GANDiscriminatorConfig(channels=channels), image)
    assert G.basis.shape == (32, 7, 7)
    assert D.basis.weight.shape == (32, 1, 7, 7)
    assert D.basis.weight.std().item() == pytest.approx(1 / 7, rel=0.1)
    images = G(torch.randn(3, 64))
    assert images.shape == (3, 1, size, size)
    assert D(images).shape == (3,)
    maps = D.layers(images)
    assert maps.shape == (3, 32, 7, 7)


def test_sizes_that_need_more_stages_are_refused_with_those_supported() -> None:
    config = R3GANDiscriminatorConfig(channels=(32, 16))
    with pytest.raises(ValueError, match=r"with 1 stages supports 8, 14 pixels, not 28\. Add one entry"):
        config.validate(ImageSpec(resolution=28, channels=1))


def test_recipes_scale_the_papers_width() -> None:
    full, half, quarter = (
        load_recipe(name).generator.config for name in ("r3gan-256-full", "r3gan-256", "r3gan-256-quarter")
    )
    assert (full.width, half.width, quarter.width) == (1.0, 0.5, 0.25)
