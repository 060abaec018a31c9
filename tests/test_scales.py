"""Smaller images from inside G, each with a discriminator."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo import recipes
from zoo.cli.main import main
from zoo.core.config import ImageSpec, ScalesConfig
from zoo.core.errors import ZooError
from zoo.core.schedule import Schedule
from zoo.data.dataset import load_dataset
from zoo.losses.adversarial import LOSSES
from zoo.losses.scales import average_down, consistency, scales_d, scales_g
from zoo.losses.step_outputs import StepOutputs
from zoo.models.scales import ImageHeads, ScaledGenerator, ScaleDiscriminator, find_maps
from zoo.training.checkpoint_content import check_content
from zoo.training.networks import count_helper_parameters
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state

THIN = ["generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
SCALES = "scales={sizes: [4, 8]}"


def make(*overrides: str, name: str = "dcgan-64", resolution: int = 16) -> Trainer:
    recipe = recipes.load_recipe(name, [*THIN, f"data.resolution={resolution}", *overrides])
    data = load_dataset("phantoms:2", replace(recipe.data, labels=None, classes={}))
    if recipe.image.classes:
        data = replace(data, labels=np.arange(len(data.images)) % recipe.image.classes)
    return Trainer(recipe, data, torch.device("cpu"))


# One recipe per architecture, in small: sizes at which it has maps, and the module that makes those of one of them.
MAPS = {
    "dcgan-64": (["data.resolution=32"], [1, 4, 8, 16, 32], (8, "layers.6")),
    "dcgan-256": (["data.resolution=64"], [2, 4, 8, 16, 32, 64], (4, "layers.3")),
    "lean-256": (["data.resolution=64"], [8, 16, 32, 64], (8, "layers.2")),
    "multires-28": ([], [7, 14, 28], (7, "layers.3")),
    "stylegan-256": (["data.resolution=32"], [4, 8, 16, 32], (16, "blocks.2")),
    "stylegan2-64": (["data.resolution=32"], [4, 8, 16, 32], (8, "layers.3.convolution")),  # not `to_image`
    "fastgan-64": ([], [1, 4, 8, 16, 32, 64], (4, "body.start")),  # not the gates, which pool to 4 x 4 later
    "projected-64": ([], [1, 4, 8, 16, 32, 64], (32, "body.blocks.2")),
    "r3gan-64": (["data.resolution=32"], [4, 8, 16, 32], (4, "layers.1.change")),
    "upscale-256": (
        ["data.resolution=64", "generator.frozen_body=false"],
        [1, 4, 8, 16, 32, 64],
        (16, "enlarger.details.0"),
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_any_generator(name: str) -> None:
    overrides, sizes, (size, module) = MAPS[name]
    recipe = recipes.load_recipe(name, ["generator.width=0.25", "discriminator.width=0.25", *overrides])
    maps = find_maps(recipes.build_generator(recipe, "meta"))
    assert list(maps) == sizes
    assert maps[size][0] == module
    assert all(x.shape[2:] == (size, size) for size, (_, x) in maps.items())


def test_a_kernel_under_spectral_norm_is_no_map() -> None:
    plain, normalised = (
        find_maps(recipes.build_generator(recipes.load_recipe("dcgan-64", [f"generator.spectral_norm={on}"]), "meta"))
        for on in ("false", "true")
    )
    assert {size: name for size, (name, _) in plain.items()} == {size: name for size, (name, _) in normalised.items()}


def test_small_images_reach_the_layers_before_them_and_no_others() -> None:
    torch.manual_seed(0)
    recipe = recipes.load_recipe("dcgan-64", [*THIN, "data.resolution=32"])
    G = recipes.build_networks(recipe)[0]
    scaled = ScaledGenerator(G, ImageHeads(recipes.build_generator(recipe, "meta"), [8, 16]))
    z = torch.randn(4, G.latent.dim)
    image, eight, sixteen = scaled(z)
    assert [x.shape[2] for x in (image, eight, sixteen)] == [32, 8, 16]
    assert torch.equal(image, G(z))
    head: Any = scaled.heads.layers["8"]
    expected = head(nn.Sequential(*list(G.layers.children())[:7])(z)).clamp(-1, 1)
    torch.testing.assert_close(eight, expected)
    convolutions = [layer for layer in G.layers.children() if isinstance(layer, nn.ConvTranspose2d)]
    for x, reached in ((eight, [True, True, False, False]), (sixteen, [True, True, True, False])):
        G.zero_grad()
        x.square().sum().backward(retain_graph=True)
        assert [layer.weight.grad is not None for layer in convolutions] == reached
        assert all(layer.weight.grad.abs().sum() > 0 for layer in convolutions if layer.weight.grad is not None)


def step(**parts: Any) -> StepOutputs:
    defaults: dict[str, Any] = {
        "real": torch.zeros(2, 1, 4, 4),
        "fake": torch.zeros(2, 1, 4, 4),
        "real_logits": None,
        "fake_logits": torch.zeros(2),
        "nimg": 0,
    }
    return StepOutputs(**{**defaults, **parts})


def test_consistency_of_a_known_generator() -> None:
    """Against means of 2 x 2 pixels; the final image is the target and gets no gradient."""
    fake = torch.arange(32.0, dtype=torch.float64).view(2, 1, 4, 4).requires_grad_()
    means = torch.tensor([[2.5, 4.5], [10.5, 12.5]], dtype=torch.float64)
    means = torch.stack([means, means + 16])[:, None]
    torch.testing.assert_close(average_down(fake, 2), means)
    offset = torch.tensor([1.0, -3.0], dtype=torch.float64)[:, None, None, None]
    two = (means + offset).requires_grad_()
    one = (means.mean((2, 3), keepdim=True) + 2).requires_grad_()
    config = ScalesConfig(sizes=(2, 1), consistency=Schedule.parse([[0, 1], [1, 0]]))  # type: ignore[arg-type]
    value = consistency(step(fake=fake, small={2: two, 1: one}), config)
    assert value.item() == pytest.approx(((1 + 9) / 2 + 4) / 2)
    slopes = torch.autograd.grad(value, [two, one, fake], allow_unused=True)
    torch.testing.assert_close(slopes[0], 2 * offset.expand_as(two) / two.numel() / 2)
    torch.testing.assert_close(slopes[1], torch.full_like(one, 2 * 2 / 2 / 2))
    assert slopes[2] is None
    assert consistency(step(nimg=1000), config).item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_adversarial_losses_are_means_over_sizes(name: str) -> None:
    """With logits that are sums of pixels, of real images averaged down; a weight of 0 costs no pass."""
    torch.manual_seed(0)
    real, loss = torch.randn(3, 1, 4, 4), LOSSES[name]
    small = {size: torch.randn(3, 1, size, size, requires_grad=True) for size in (1, 2)}
    outputs = step(real=real, small=small, judge_small=lambda x, side: x.sum((1, 2, 3)))
    config = ScalesConfig(sizes=(1, 2), weight=Schedule.parse([[0, 1], [1, 0]]))
    reals = {1: real.mean((2, 3)).flatten(), 2: real.mean((2, 3)).flatten() * 4}
    fakes = {size: x.sum((1, 2, 3)) for size, x in small.items()}
    expected = sum(loss.discriminator(reals[size], fakes[size], 0.1) for size in (1, 2)) / 2
    value = scales_d(outputs, config, loss, 0.1)
    torch.testing.assert_close(value, expected)
    assert not value.requires_grad  # D's phase teaches G nothing
    value = scales_g(outputs, config, loss)
    torch.testing.assert_close(value, sum(loss.generator(reals[size], fakes[size]) for size in (1, 2)) / 2)
    assert all(slope.abs().sum() > 0 for slope in torch.autograd.grad(value, list(small.values())))
    outputs.nimg, outputs.judge_small = 1000, None
    assert scales_d(outputs, config, loss, 0.1).item() == scales_g(outputs, config, loss).item() == 0


@pytest.mark.parametrize(("size", "classes"), [(4, 0), (7, 0), (14, 2), (32, 3)])
def test_discriminator_of_any_size_and_classes(size: int, classes: int) -> None:
    torch.manual_seed(0)
    image = ImageSpec(resolution=64, channels=3, shares=(1 / classes,) * classes if classes else ())
    D, x = ScaleDiscriminator(image, size, 4), torch.rand(6, 3, size, size)
    labels = [torch.full((6,), index) for index in range(classes)] or [None]
    logits = [D.eval()(x, label) for label in labels]
    assert all(each.shape == (6,) for each in logits)
    assert len({each.sum().item() for each in logits}) == len(labels)
    for layer in (*D.layers, D.logit):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            for _ in range(30):
                layer.train()(torch.zeros(1, layer.weight.shape[1], *[8] * (layer.weight.dim() - 2)))
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.05)


# Networks, and what they are combined with.
PAIRS = {
    "simultaneous": ("dcgan-64", ["train.update=simultaneous"]),
    "relativistic micro-batches, augmented in pairs": (
        "dcgan-64",
        ["train.micro_batch=4", "loss.name=relativistic", "augment={name: diffaugment, paired: true}"],
    ),
    "packing, san, minibatch_std": (
        "multires-28",
        ["discriminator.packing=2", "discriminator.san=true", "discriminator.minibatch_std=2", "scales.sizes=[7, 14]"],
    ),
    "classes, styles and r1": (
        "stylegan2-64",
        [
            "data.labels=folder",
            "data.classes={a: 0.5, b: 0.5}",
            "penalties={r1: {weight: 1}, path_length: {}}",
            "autoencoder={weight: 1}",
        ],
    ),
    "bf16": ("dcgan-64", ["train.precision=bf16", "loss.name=hinge"]),
}


@pytest.mark.parametrize("case", PAIRS)
def test_every_part_learns_and_is_logged(case: str) -> None:
    name, more = PAIRS[case]
    resolution = 28 if name == "multires-28" else 16
    trainer = make(SCALES, *more, name=name, resolution=resolution)
    before = {key: x.clone() for key, part in trainer._networks.items() for key, x in named(key, part)}
    for _ in range(2):
        trainer.step()
    assert find_nonfinite_state(trainer) is None
    after = {key: x for key, part in trainer._networks.items() for key, x in named(key, part)}
    still = [key for key, x in before.items() if x.dim() > 1 and torch.equal(x, after[key])]
    assert still == []
    assert {"scales_d", "scales_g", "consistency"} <= trainer.meters.means().keys()


def named(key: str, network: nn.Module) -> list[tuple[str, Tensor]]:
    return [(f"{key}.{name}", x) for name, x in network.named_parameters() if x.requires_grad]


def test_small_images_learn_to_be_the_final_one() -> None:
    trainer = make("scales={sizes: [4, 8], weight: 0, consistency: 10}", "optimizer.generator.lr=3e-3")
    distances = []
    for _ in range(30):
        trainer.meters.reset()
        trainer.step()
        distances.append(trainer.meters.means()["consistency"])
    assert distances[-1] < 0.5 * distances[0]


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_without_weight_it_changes_no_bit(update: str) -> None:
    off = [f"train.update={update}", "train.micro_batch=4", "augment={name: diffaugment}"]
    plain, scaled = make(*off), make(*off, "scales={sizes: [4], weight: 0, consistency: 0}")
    for _ in range(3):
        plain.step()
        scaled.step()
    for key in ("generator", "discriminator", "ema"):
        ours, theirs = scaled.state_dict()[key], plain.state_dict()[key]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not plain.helpers
    assert "heads" not in plain.state_dict()


def test_the_saved_generator_has_no_heads() -> None:
    trainer = make(SCALES)
    trainer.step()
    assert trainer.averaged().state_dict().keys() == make().G.state_dict().keys()
    assert isinstance(trainer.averaged()(torch.zeros(2, trainer.G.latent.dim)), Tensor)
    assert isinstance(trainer.G(torch.zeros(2, trainer.G.latent.dim)), Tensor)


def test_a_checkpoint_must_hold_what_is_trained_along() -> None:
    trainer = make(SCALES, "autoencoder={weight: 1}")
    trainer.step()

    def check(damage: Callable[[dict[str, Any]], Any]) -> None:
        state = copy.deepcopy(trainer.state_dict())
        damage(state)
        content = {"trainer": state, "elapsed": 0.0, "environment": {"threads": 1}}
        check_content(Path("nimg-8.pt"), content, trainer.recipe)

    check(lambda state: None)
    for name in ("encoder", "heads", "scale_discriminators"):
        with pytest.raises(ZooError, match=f"lacks '?{name}"):
            check(lambda state, name=name: state.pop(name))  # type: ignore[misc]
        with pytest.raises(ZooError, match=f"lacks '?{name}"):
            check(lambda state, name=name: state["optimizers"].pop(name))  # type: ignore[misc]
        with pytest.raises(ZooError, match=rf"{name}\..* is NaN or infinite"):
            check(lambda state, name=name: next(iter(state[name].values())).fill_(torch.nan))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{sizes: []}", "scales: sizes: lists no size; remove the section"),
        ("{sizes: [8, 8]}", "scales: sizes: lists a size twice: 8, 8"),
        ("{sizes: [8, 64]}", r"scales\.sizes: must be below data\.resolution, which is 64, not 64"),
        ("{sizes: [2]}", r"scales\.sizes\[0\]: must be at least 4"),
        ("{weight: 1}", r"scales\.sizes: is missing"),
    ],
)
def test_mistakes_in_a_recipe(section: str, words: str) -> None:
    with pytest.raises(ZooError, match=words):
        recipes.load_recipe("dcgan-64", [f"scales={section}"])


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("dcgan-64", 12, r"scales\.sizes: DCGANGenerator has no maps at 12 pixels; choose from 4, 8, 16, 32$"),
        ("lean-256", 16, "has no maps at 16 pixels; choose from 32, 64, 128$"),
        ("upscale-256", 16, "UpscaleGenerator learns nothing at 16 pixels; choose from 64, 128$"),
    ],
)
def test_sizes_that_a_generator_lacks(name: str, size: int, words: str) -> None:
    recipe = recipes.load_recipe(name, [f"scales={{sizes: [{size}]}}"])
    with pytest.raises(ZooError, match=words):
        count_helper_parameters(recipe)


def test_show_counts_what_is_trained_along(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["show", "dcgan-64", "--set", "scales={sizes: [16], channels: 8}", "--json"]
    assert main(command) == 0
    content = json.loads(capsys.readouterr().out)
    halved = [8 * 8 * 9 + 8, 8 * 16 * 9 + 16]  # 16 px to 8 and 4
    expected = 8 * 9 + 8 + sum(halved) + 16 * 16 + 1
    assert content["helpers"] == {"heads": 128 + 1, "scale_discriminators": expected}
    assert main(command[:-1]) == 0
    assert ["scale_discriminators", f"{expected:,}"] in [line.split() for line in capsys.readouterr().out.splitlines()]
