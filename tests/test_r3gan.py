"""R3GAN: residual blocks and the scale of logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import reduce
from safetensors.torch import load_file

import zoo
from zoo.core.config import ImageSpec
from zoo.core.errors import ZooError
from zoo.hub.create_discriminator import create_discriminator
from zoo.models.minibatch_std import StdInput
from zoo.models.r3gan import (
    R3GANDiscriminator,
    R3GANDiscriminatorConfig,
    R3GANGenerator,
    R3GANGeneratorConfig,
)
from zoo.models.residual import ResidualBlock
from zoo.recipes import create, load_recipe


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
    with pytest.raises(ValueError, match=r"with 1 stage supports 8, 14 pixels, not 28\. Add one entry"):
        config.validate(ImageSpec(resolution=28, channels=1))


def test_logits_of_several_sizes_are_those_of_networks_on_averaged_images() -> None:
    config = R3GANDiscriminatorConfig(channels=(32, 16, 16, 16), sizes=(16, 8))
    D = R3GANDiscriminator(config, ImageSpec(resolution=32, channels=1))
    x = torch.randn(3, 1, 32, 32)
    whole = R3GANDiscriminator(replace(config, sizes=()), ImageSpec(resolution=32, channels=1))
    whole.load_state_dict({name: t for name, t in D.state_dict().items() if not name.startswith("small.")})
    averages = [reduce(x, "n c (h a) (w b) -> n c h w", "mean", a=k, b=k) for k in (2, 4)]
    expected = [whole(x), *(network(image) for network, image in zip(D.small, averages, strict=True))]
    torch.testing.assert_close(D(x), torch.stack(expected, 1))
    assert [network.image.resolution for network in D.small] == [16, 8]
    assert not torch.equal(D.small[0].linear.weight, D.linear.weight)  # networks, not one network


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("sizes=[64]", r"discriminator\.sizes: 64 must divide 64, be smaller, and be named once"),
        ("sizes=[48]", "48 must divide 64"),
        ("sizes=[32, 32]", "32 must divide 64, be smaller, and be named once"),
        ("sizes=[4]", "supports powers of two from 8 .*not 4"),
        ("sizes=[0]", r"discriminator\.sizes"),
    ],
)
def test_sizes_that_cannot_be_are_named(change: str, words: str) -> None:
    with pytest.raises(ZooError, match=words):
        load_recipe("r3gan-64", [f"discriminator.{change}"])


def test_several_sizes_do_not_go_with_one_sliced_layer() -> None:
    with pytest.raises(ZooError, match=r"discriminator\.san must be false"):
        load_recipe("r3gan-64", ["discriminator.sizes=[32]", "discriminator.san=true"])


def test_each_size_sees_the_variety_of_a_batch() -> None:
    small = ("data.resolution=32", "discriminator.width=0.125", "discriminator.minibatch_std=4")
    _, D = create("r3gan-64", *small, "discriminator.sizes=[16, 8]")
    where = [name.split(".layers")[0] for name, module in D.named_modules() if isinstance(module, StdInput)]
    assert where == ["layers.6.change.minibatch_std", "small.0", "small.1"]
    x = torch.rand(8, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(D(x)[4:], D(x[4:]))  # groups do not see each other


@pytest.mark.parametrize(("resolution", "sizes"), [(64, [32]), (56, [8]), (56, [28, 8]), (112, [16])])
def test_each_network_sees_the_variety_once(resolution: int, sizes: list[int]) -> None:
    """Also where a small network ends in 4 x 4 maps and the large one in 7 x 7."""
    options = (f"data.resolution={resolution}", "discriminator.width=0.125", "discriminator.minibatch_std=4")
    _, D = create("r3gan-64", *options, f"discriminator.sizes={sizes}")
    where = [name for name, module in D.named_modules() if isinstance(module, StdInput)]
    assert [name.split("layers")[0] for name in where] == ["", *(f"small.{index}." for index in range(len(sizes)))]
    hooks = [len(D.get_submodule(name.removesuffix(".minibatch_std"))._forward_hooks) for name in where]
    assert hooks == [1] * len(where)


def test_feature_maps_are_those_of_the_network_of_whole_images() -> None:
    one, several = (
        create_discriminator("r3gan-64", features_only=True, discriminator__sizes=sizes) for sizes in ([], [32, 16])
    )
    assert several.feature_info == one.feature_info
    assert {info["module"].split(".")[0] for info in several.feature_info} == {"layers", "basis"}


def test_several_sizes_train_and_resume_exactly(tmp_path: Path) -> None:
    settings = ["data.resolution=16", "discriminator.sizes=[8]", "generator.width=0.1", "discriminator.width=0.1"]
    settings += ["train.batch=4", "penalties.r1.every=1", "penalties.r2.every=1", "discriminator.minibatch_std=2"]
    keywords = {"data": "phantoms:2", "device": "cpu", "set": settings}
    whole = zoo.train("fastgan-r3-64", out=tmp_path / "whole", kimg=0.016, **keywords)
    zoo.train("fastgan-r3-64", out=tmp_path / "parts", kimg=0.008, **keywords)
    parts = zoo.train("fastgan-r3-64", out=tmp_path / "parts", kimg=0.016, **keywords)
    tensors = [load_file(run.generator_file) for run in (whole, parts)]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def test_recipes_scale_the_papers_width() -> None:
    full, half, quarter = (
        load_recipe(name).generator.config for name in ("r3gan-256-full", "r3gan-256", "r3gan-256-quarter")
    )
    assert (full.width, half.width, quarter.width) == (1.0, 0.5, 0.25)
