"""Penalties against closed forms."""

import math

import pytest
import torch
from torch import nn

from zoo import recipes
from zoo.core.config import ImageSpec
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.losses.objective import Objective
from zoo.losses.penalties import PENALTIES, LeCam, PathLength, default_gamma, interpolated_penalty
from zoo.losses.step_outputs import StepOutputs
from zoo.models.stylegan2 import StyleGAN2Generator, StyleGAN2GeneratorConfig
from zoo.training.trainer import Trainer


def step(**parts):
    defaults = {
        "real": None,
        "fake": torch.zeros(1, 1, 2, 2),
        "real_logits": None,
        "fake_logits": torch.zeros(1),
        "nimg": 0,
    }
    return StepOutputs(**{**defaults, **parts})


def test_default_gamma_follows_ada():
    assert default_gamma(256, 64) == pytest.approx(0.2048)
    assert default_gamma(64, 16) == pytest.approx(0.0512)


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_interpolated_penalty_of_a_linear_critic(centre):
    """Its slope has the same norm everywhere."""
    torch.manual_seed(0)
    weight = torch.randn(1 * 3 * 3, dtype=torch.float64, requires_grad=True)
    real, fake = (torch.randn(4, 1, 3, 3, dtype=torch.float64) for _ in range(2))
    penalty = interpolated_penalty(step(real=real, fake=fake, judge=lambda x: x.flatten(1) @ weight), centre)
    norm = weight.norm().item()
    assert penalty.item() == pytest.approx((norm - centre) ** 2, rel=1e-9)
    (slope,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(slope, 2 * (norm - centre) * weight.detach() / norm)


def test_interpolated_penalty_samples_between_the_pair():
    """The critic x^2 has slope 2x, taken at one random point between 1 and 3 per pair."""
    real, fake = torch.full((512, 1, 1, 1), 1.0), torch.full((512, 1, 1, 1), 3.0)
    torch.manual_seed(0)
    penalty = interpolated_penalty(step(real=real, fake=fake, judge=lambda x: x.square().flatten(1).sum(1)), centre=0)
    assert penalty.item() == pytest.approx(4 * 13 / 3, rel=0.05)  # the mean of (2x)^2 over [1, 3]


def test_lecam_keeps_logits_near_the_other_sides_mean():
    lecam = LeCam()
    first = step(real_logits=torch.tensor([1.0, 3.0]), fake_logits=torch.tensor([-1.0, -1.0]))
    assert lecam(first).item() == pytest.approx((1 + 9) / 2 + 1)  # means start at zero
    lecam.settle()
    torch.testing.assert_close(lecam.means, torch.tensor([0.02, -0.01]))
    assert lecam(first).item() == pytest.approx(((1.01) ** 2 + (3.01) ** 2) / 2 + 1.02**2, rel=1e-6)


def test_lecams_means_do_not_depend_on_micro_batches():
    whole, halves = LeCam(), LeCam()
    real, fake = torch.randn(8), torch.randn(8)
    whole(step(real_logits=real, fake_logits=fake))
    for part in (slice(0, 4), slice(4, 8)):
        halves(step(real_logits=real[part], fake_logits=fake[part]))
    whole.settle()
    halves.settle()
    torch.testing.assert_close(whole.means, halves.means)
    before = whole.means.clone()
    whole.settle()  # a step in which it was not due
    assert torch.equal(whole.means, before)


class Straight(nn.Module):
    """A generator whose image is a fixed linear map of its one style."""

    num_styles = 1

    def __init__(self):
        super().__init__()
        self.map = nn.Parameter(torch.randn(16, 5, dtype=torch.float64))

    def mapping(self, z, label=None):
        return z

    def synthesis(self, w):
        return (w[:, 0] @ self.map.t()).view(-1, 1, 4, 4)


def test_path_length_of_a_linear_generator():
    """E |J^T y|^2 = |J|^2 / pixels (Karras et al. 2020, appendix C)."""
    torch.manual_seed(0)
    G, penalty = Straight(), PathLength()
    value = penalty(step(G=G, z=torch.randn(8192, 5, dtype=torch.float64)))
    assert value.item() == pytest.approx(G.map.square().sum().item() / 16, rel=0.05)
    value.backward()
    assert G.map.grad.abs().sum() > 0
    penalty.settle()
    mean = penalty.mean.item()
    assert 0 < mean < 0.01 * math.sqrt(G.map.square().sum().item() / 16) * 1.01


def test_path_length_trains_a_stylegan2():
    torch.manual_seed(0)
    config = StyleGAN2GeneratorConfig(latent=4, style=4, channels=(4, 4))
    G = StyleGAN2Generator(config, ImageSpec(resolution=8, channels=1))
    PathLength()(step(G=G, z=torch.randn(4, 4))).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in G.parameters())
    assert G.layers[1].convolution.weight.grad.abs().sum() > 0


def test_default_weights_depend_on_resolution_and_batch():
    resolved = recipes.load_recipe("dcgan-64", ["train.batch=32", "penalties={r1: {every: 16}, gp1: {}}"])
    weights = {term.name: (term.weight.at(0), term.every) for term in Objective(resolved).terms}
    assert weights["r1"] == (pytest.approx(0.0002 * 64**2 / 32), 16)
    assert weights["gp1"] == (10.0, 1)


def test_penalty_weights_follow_a_schedule():
    resolved = recipes.load_recipe("dcgan-64", ["penalties.r1.weight=[[0, 10], [10, 1]]"])
    term = next(term for term in Objective(resolved).terms if term.name == "r1")
    assert [term.weight.at(nimg) for nimg in (0, 5000, 20000)] == [10, 5.5, 1]


def test_path_length_needs_styles():
    with pytest.raises(ZooError, match=r"penalties.path_length: dcgan has no styles"):
        recipes.load_recipe("dcgan-64", ["penalties.path_length.weight=2"])


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_every_penalty_trains(name, update):
    overrides = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=4"]
    overrides += [f"train.update={update}", f"penalties={{{name}: {{every: 2}}}}", "speed.channels_last=false"]
    resolved = recipes.load_recipe("stylegan2-64", overrides)
    trainer = Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))
    for _ in range(3):
        trainer.step()
    assert trainer.find_nonfinite() is None
    assert name in trainer.meters.sums
