"""SAN's last layer: what trains it, what it leaves alone, and where it fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from zoo import recipes
from zoo.core.config import ImageSpec
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.losses.adversarial import relativistic_d, wasserstein_d
from zoo.models import Discriminator
from zoo.models.san import find_sliced_layer, slice_last_layer
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state
from zoo.training.warm_start import warm_start

THIN = ["generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]


class Critic(Discriminator):
    """A dense layer of two features, which are the means of an image's first rows times a parameter."""

    def __init__(self) -> None:
        super().__init__(recipes.load_recipe("dcgan-64").discriminator.config, ImageSpec(resolution=8, channels=1))
        self.features = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.last = nn.Linear(2, 1)
        self.last.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        self.last.bias.data.fill_(0.5)

    def forward(self, x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return self.last(x.mean(3)[:, 0, :2] * self.features).squeeze(1)


def test_each_loss_trains_its_part_by_hand() -> None:
    torch.manual_seed(0)
    plain, sliced = Critic(), Critic()
    with torch.device("meta"):
        probe = Critic()
    slice_last_layer(sliced, probe)
    layer = find_sliced_layer(sliced)
    real, fake = torch.randn(2, 4, 1, 8, 8)
    expected, outputs, directions = [], [], []
    for x in (real, fake):
        expected.append(plain(x))
        outputs.append(sliced(x))
        directions.append(layer.direction)
    torch.testing.assert_close(torch.stack(outputs), torch.stack(expected))
    losses = relativistic_d(*outputs), wasserstein_d(*directions)
    parameters = [sliced.features, layer.weight, layer.san_scale]
    adversarial = torch.autograd.grad(losses[0], parameters, retain_graph=True, allow_unused=True)
    own = torch.autograd.grad(losses[1], parameters, allow_unused=True)
    (wanted,) = torch.autograd.grad(relativistic_d(*expected), plain.features)
    torch.testing.assert_close(adversarial[0], wanted)
    assert adversarial[1] is None
    assert [gradient is None for gradient in own] == [True, False, True]
    # d/dw of 5 <w / |w|, d>, where d is the difference of mean features: the part of d at right angles to w.
    difference = (fake.mean((0, 3)) - real.mean((0, 3)))[0, :2] * sliced.features.detach()
    unit = torch.tensor([0.6, 0.8])
    torch.testing.assert_close(own[1][0], difference - (difference @ unit) * unit)


@pytest.mark.parametrize(
    "name", ["dcgan-64", "fastgan-64", "lean-256", "multires-28", "r3gan-64", "stylegan-256", "stylegan2-64"]
)
def test_any_discriminator_of_one_head_starts_with_the_same_logits(name: str) -> None:
    resolution = {"fastgan-64": 32, "multires-28": 28}.get(name, 16)
    networks = []
    for value in ("false", "true"):
        torch.manual_seed(0)
        options = [*THIN, f"data.resolution={resolution}", f"discriminator.san={value}"]
        networks.append(recipes.create(name, *options)[1].eval())
    x = torch.rand(8, 1, resolution, resolution)
    torch.testing.assert_close(networks[1](x), networks[0](x))


def test_it_trains_with_packs_statistics_and_penalties() -> None:
    options = ["discriminator.san=true", "discriminator.minibatch_std=2", "discriminator.packing=2"]
    recipe = recipes.load_recipe("dcgan-64", [*THIN, *options, "data.resolution=16", "penalties={r1: {}}"])
    trainer = Trainer(recipe, load_dataset("phantoms:2", recipe.data), torch.device("cpu"))
    before = find_sliced_layer(trainer.D).weight.clone()
    for _ in range(3):
        trainer.step()
    assert find_nonfinite_state(trainer) is None
    assert "san" in trainer.meters.sums
    assert not torch.equal(find_sliced_layer(trainer.D).weight, before)
    assert any(parameter.any() for name, parameter in trainer.D.named_parameters() if "minibatch_std" in name)


def test_several_heads_and_classes_are_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ZooError, match=r"discriminator\.san: needs a discriminator whose logits come from one layer"):
        recipes.create("projected-64", "discriminator.san=true", "discriminator.width=0.125")
    with pytest.raises(ZooError, match=r"discriminator\.san: does not go with classes"):
        recipes.load_recipe("dcgan-64", ["discriminator.san=true", "data.labels=folder"])
    with pytest.raises(ZooError, match=r"generator\.san: is of discriminators"):
        recipes.load_recipe("dcgan-64", ["generator.san=true"])


def test_a_start_without_it_keeps_the_logits(tmp_path: Path) -> None:
    """The scale is the loaded weight's norm, not that of the fresh one."""
    options = [*THIN, "data.resolution=16"]
    networks = {}
    for value in ("false", "true"):
        torch.manual_seed(int(value == "true"))
        recipe = recipes.load_recipe("dcgan-64", [*options, f"discriminator.san={value}"])
        networks[value] = recipes.build_networks(recipe)
    (G, plain), (other, sliced) = networks["false"], networks["true"]
    with torch.no_grad():
        last = [module for module in plain.modules() if isinstance(module, nn.Conv2d)][-1]
        last.weight.mul_(4)
    path = tmp_path / "source.pt"
    state = {"generator": G.state_dict(), "discriminator": plain.state_dict(), "ema": G.state_dict()}
    torch.save({"trainer": state}, path)
    said: list[str] = []
    warm_start(str(path), {"G": other, "D": sliced, "ema": other}, said.append)
    x = torch.rand(8, 1, 16, 16)
    torch.testing.assert_close(sliced.eval()(x), plain.eval()(x))
    assert not any("fresh weights" in text for text in said)
