"""Minibatch standard deviation and packing in any discriminator, against closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import recipes
from zoo.core.config import ImageSpec
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.models import Discriminator
from zoo.models.batch_norm import has_batch_statistics
from zoo.models.layers import MinibatchStd
from zoo.models.minibatch_std import StdInput
from zoo.models.packing import PackedDiscriminator
from zoo.models.registry import list_architectures
from zoo.runtime.distributed import World
from zoo.runtime.speed import choose_speed
from zoo.training.networks import build_trained_networks
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state

THIN = ["generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
# A recipe and a small resolution of each architecture's discriminator.
SMALL = {
    "dcgan": ("dcgan-64", 16),
    "dcgan_dense": ("dcgan-256", 32),
    "fastgan": ("fastgan-64", 32),
    "lean": ("lean-256", 16),
    "multires": ("multires-28", 28),
    "projected": ("projected-64", 64),
    "r3gan": ("r3gan-64", 16),
    "stylegan": ("stylegan-256", 16),
    "stylegan2": ("stylegan2-64", 16),
}


def build(name: str, *overrides: str) -> Discriminator:
    """Build a recipe's discriminator with the weights of seed 0."""
    torch.manual_seed(0)
    return recipes.create(name, *THIN, *overrides)[1]


def images(network: Discriminator, count: int = 8) -> Tensor:
    return torch.rand(count, network.image.channels, network.image.resolution, network.image.resolution) * 2 - 1


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_input_equals_an_appended_channel(kind: str) -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1) if kind == "conv" else nn.Linear(3, 5)
    std = StdInput(layer, 4)
    nn.init.normal_(std.weight)
    weight = torch.cat([layer.weight, std.weight], 1)
    if isinstance(layer, nn.Conv2d):
        x = torch.randn(8, 3, 6, 6)
        expected = F.conv2d(MinibatchStd(4)(x), weight, layer.bias, stride=2, padding=1)
    else:
        x = torch.randn(8, 3)
        deviation = x.unflatten(0, (2, 4)).std(1, correction=0).mean(1).repeat_interleave(4)
        expected = F.linear(torch.cat([x, deviation[:, None]], 1), weight, layer.bias)
    torch.testing.assert_close(layer(x) + std(x), expected)


@pytest.mark.parametrize("arch", list_architectures())
def test_any_discriminator_can_see_the_variety_of_a_batch(arch: str) -> None:
    name, resolution = SMALL.get(arch) or next(
        (name, recipe.data.resolution)
        for name, recipe in ((name, recipes.load_recipe(name)) for name in recipes.list_models())
        if recipe.discriminator.arch == arch
    )
    size = f"data.resolution={resolution}"
    if arch == "projected":
        pytest.importorskip("timm")
    plain, seeing = build(name, size).eval(), build(name, size, "discriminator.minibatch_std=4").eval()
    weights = {key: value for key, value in seeing.state_dict().items() if "minibatch_std" not in key}
    assert weights.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in weights.items())
    assert has_batch_statistics(seeing)
    x = images(plain)
    assert torch.equal(seeing(x), plain(x))  # the weights start at zero
    (inputs,) = (module for module in seeing.modules() if isinstance(module, StdInput))
    assert sum(p.numel() for p in seeing.parameters()) == sum(p.numel() for p in plain.parameters()) + len(
        inputs.weight.flatten()
    )
    for parameter in seeing.parameters():  # layers that start at zero hide it
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    repeated = torch.cat([x[:1].expand(4, -1, -1, -1), x[:4]])  # the first image without and with variety
    logits = seeing(repeated)
    assert not torch.allclose(logits[0], logits[4])
    torch.testing.assert_close(logits[4:], seeing(x[:4]))  # groups do not see each other


@pytest.mark.parametrize("arch", sorted(set(SMALL) - {"projected"}))
def test_packs_are_images_of_more_channels(arch: str) -> None:
    name, resolution = SMALL[arch]
    size = f"data.resolution={resolution}"
    packed = build(name, size, "discriminator.packing=2").eval()
    assert isinstance(packed, PackedDiscriminator)
    assert packed.image == ImageSpec(resolution=resolution, channels=1)
    wide = build(name, size, "data.channels=2").eval()
    wide.load_state_dict(packed.network.state_dict())
    x = images(packed)
    expected = wide(torch.stack([torch.cat([x[2 * i], x[2 * i + 1]]) for i in range(4)]))
    assert torch.equal(packed(x), expected)
    assert packed.auxiliary == wide.auxiliary


def test_packing_of_a_linear_critic_by_hand() -> None:
    network = Discriminator(recipes.load_recipe("dcgan-64").discriminator.config, ImageSpec(resolution=8, channels=6))
    network.layers = nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 1, bias=False))
    weight = torch.arange(6.0).repeat_interleave(64)[None]
    network.layers[1].weight.data.copy_(weight)
    packed = PackedDiscriminator(network, ImageSpec(resolution=8, channels=3), 2)
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # of the channels of both images
    x = values[..., None, None].expand(2, 3, 8, 8)
    assert packed(x).tolist() == [64 * (0 * 1 + 1 * 2 + 2 * 3 + 3 * 4 + 4 * 5 + 5 * 6)]
    with pytest.raises(ValueError, match="3 images are no whole packs of 2"):
        packed(images(packed, 3))


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("dcgan-64", ["generator.packing=2"], r"generator\.packing: is of discriminators; set discriminator"),
        ("dcgan-64", ["generator.minibatch_std=4"], r"generator\.minibatch_std: is of discriminators"),
        ("dcgan-64", ["discriminator.minibatch_std=1"], "a group of 1 has no deviation"),
        ("dcgan-64", ["discriminator.packing=3"], "3 does not divide the 64 images"),
        ("dcgan-64", ["discriminator.packing=2", "train.micro_batch=1"], "2 does not divide the 1 images"),
        ("dcgan-64", ["discriminator.packing=2", "data.labels=folder"], "does not go with classes"),
        ("projected-64", ["discriminator.packing=2"], r"packing: .*supports 1 or 3 channels, not 2"),
    ],
)
def test_mistakes_are_one_line(name: str, overrides: list[str], words: str) -> None:
    with pytest.raises(ZooError, match=words) as error:
        recipes.load_recipe(name, [*overrides])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fastgan-r3-64", "fastgan-64"])
def test_both_train_with_penalties_and_losses_of_ds_own(name: str) -> None:
    overrides = ["discriminator.packing=2", "discriminator.minibatch_std=2", "penalties={r1: {}, r2: {}, gp0: {}}"]
    recipe = recipes.load_recipe(name, [*THIN, "data.resolution=32", *overrides])
    trainer = Trainer(recipe, load_dataset("phantoms:2", recipe.data), torch.device("cpu"))
    for _ in range(3):
        trainer.step()
    assert find_nonfinite_state(trainer) is None
    (inputs,) = (module for module in trainer.D.modules() if isinstance(module, StdInput))
    assert inputs.weight.any()


def test_layer_tables_count_a_packs_work_once_per_image() -> None:
    recipe = recipes.load_recipe("dcgan-64")
    plain, packed = (
        recipes.summarise_recipe(recipes.override_recipe(recipe, f"discriminator.packing={size}"))[1] for size in (1, 2)
    )
    first = plain.layers[0].macs  # the first layer sees twice the channels, all others half as many inputs
    assert packed.macs == pytest.approx(first + (plain.macs - first) / 2)


@pytest.mark.parametrize(
    ("overrides", "processes", "words"),
    [
        (["train.batch=7"], 1, r"train\.batch: .*groups of 4, which do not divide the 7 images"),
        (["train.batch=1"], 1, r"train\.batch: .*do not divide the 1 image that"),
        (["train.batch=[[0, 8], [1, 6]]"], 1, "the 6 images"),
        (["train.micro_batch=2"], 1, r"train\.micro_batch: .*the 2 images"),
        ([], 4, "the 2 images"),
        (["train.micro_batch=1"], 1, r"train\.micro_batch: .*the 1 image"),
        (["discriminator.packing=4", "train.batch=24"], 1, "the 6 images"),
        ([], 8, "the 1 image"),
        (
            ["penalties={r1: {step: 0.01, share: 0.25}}"],
            1,
            r"r1\.share: 0\.25 of 8 images is 2, .*least 4 of them; set",
        ),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_groups_that_do_not_divide_a_pass_are_refused(
    overrides: list[str], processes: int, words: str, own: bool
) -> None:
    """D would see no variety, or that of other groups. StyleGAN2's D has the layer itself."""
    if own and overrides and "packing" in overrides[0]:
        pytest.skip("the same case")
    name, more = ("stylegan2-64", []) if own else ("dcgan-64", ["discriminator.minibatch_std=4"])
    recipe = recipes.load_recipe(name, [*THIN, "data.resolution=16", "penalties={}", *more, *overrides])
    speed = choose_speed(recipe, torch.device("cpu"))
    with pytest.raises(ZooError, match=words):
        build_trained_networks(recipe, speed, World(0, processes))


@pytest.mark.parametrize(
    "more", ["train.batch=2", "train.batch=12", "train.micro_batch=4", "penalties={r1: {step: 0.01, share: 0.5}}"]
)
def test_whole_groups_are_accepted(more: str) -> None:
    recipe = recipes.load_recipe("r3gan-64", [*THIN, "data.resolution=16", "discriminator.minibatch_std=4", more])
    build_trained_networks(recipe, choose_speed(recipe, torch.device("cpu")), World(0, 1))
