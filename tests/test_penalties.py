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
from zoo.losses.penalties import (
    PENALTIES,
    LeCam,
    PathLength,
    centre,
    default_gamma,
    finite_difference,
    gradient_penalty,
    interpolated_penalty,
    mode_seeking,
)
from zoo.losses.step_outputs import StepOutputs
from zoo.models.stylegan2 import StyleGAN2Generator, StyleGAN2GeneratorConfig
from zoo.runtime.distributed import World
from zoo.runtime.speed import choose_speed
from zoo.training.networks import build_trained_networks
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state

THIN_R3GAN = ["generator.width=0.125", "discriminator.width=0.125", "train.batch=8", "data.resolution=16"]


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


def differences(network, x, **options):
    """The estimate for real images, through a judge as the trainer gives it."""
    parts = {"real": x, "real_logits": network(x), "judge": lambda images, side: network(images)}
    return finite_difference(step(**parts), "real", **{"scale": 0.01, "share": 1.0, **options})


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_finite_difference_of_a_linear_critic(share):
    """E (w n)^2 = |w|^2, with a relative deviation of sqrt(2 / images)."""
    torch.manual_seed(0)
    weight = torch.randn(9, dtype=torch.float64)
    sizes = []

    def critic(x):
        sizes.append(len(x))
        return x.flatten(1) @ weight

    value = differences(critic, torch.randn(16384, 1, 3, 3, dtype=torch.float64), share=share)
    exact = 0.5 * weight.square().sum().item()
    assert value.item() == pytest.approx(exact, rel=4 * math.sqrt(2 / (share * 16384)))
    assert sizes == [16384, share * 16384, share * 16384]


def test_finite_difference_of_a_curved_critic_by_hand():
    """For x^2: ((2 x s n + s^2 n^2) / s)^2 / 2 has the mean 2 x^2 + 3 s^2 / 2."""
    x = torch.full((200000, 1, 1, 1), 0.5, dtype=torch.float64)
    torch.manual_seed(0)
    value = differences(lambda x: x.square().flatten(1).sum(1), x, scale=0.5)
    assert value.item() == pytest.approx(2 * 0.25 + 1.5 * 0.25, rel=0.03)


@pytest.mark.parametrize("name", ["r3gan-64", "fastgan-64", "lean-256"])
def test_finite_difference_estimates_r1_of_any_critic(name):
    """Also with several logits, dropout and spectral norms; batch norms would couple images."""
    torch.manual_seed(0)
    D = recipes.create(name, "data.resolution=32", "discriminator.width=0.1")[1].double().eval()
    for module in D.modules():
        module.training = isinstance(module, torch.nn.Dropout)
    x = torch.rand(256, 1, 32, 32, dtype=torch.float64).requires_grad_()
    torch.manual_seed(1)
    logits = D(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
    squares = gradient.square().sum((1, 2, 3))
    parts = {"real": x, "real_logits": logits, "judge": lambda images, side: D(images)}
    value = finite_difference(step(**parts), "real", scale=1e-5, share=1.0).item()
    exact = gradient_penalty(x, logits).item()
    # (g n)^2 has the variance 2 |g|^4.
    assert value == pytest.approx(exact, abs=4 * 0.5 * (2 * squares.square().sum()).sqrt().item() / 256)


def test_both_passes_of_a_difference_use_the_same_spectral_norms():
    """One step of power iteration between them would look like a slope."""
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(16, 8)).double()
    nn.init.normal_(layer.parametrizations.weight[0]._v)  # the iteration starts from it, far from converged
    x = torch.rand(64, 1, 4, 4, dtype=torch.float64)
    parts = {"real": x, "real_logits": torch.zeros(64, 8), "judge": lambda images, side: layer(images.flatten(1))}
    value = finite_difference(step(**parts), "real", scale=1e-4, share=1.0).item()
    layer.eval()
    exact = 0.5 * layer.weight.sum(0).square().sum().item()
    assert value == pytest.approx(exact, rel=4 * math.sqrt(2 / 64))


def test_finite_differences_train_without_second_derivatives():
    options = ["penalties={r1: {step: 0.01, share: 0.25}, r2: {step: 0.01}, centre: {}}", "data.resolution=16"]
    options += ["augment={name: diffaugment}", "discriminator.packing=2", "train.batch=8"]
    resolved = recipes.load_recipe("fastgan-r3-64", [*options, "generator.width=0.1", "discriminator.width=0.1"])
    trainer = Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))
    assert not any(term.differentiates for term in trainer.objective.terms)
    sizes = []
    trainer.D.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    trainer.step()
    assert sizes == [8, 8, 2, 2, 8, 8, 8, 8]  # real and fake; r1 on a quarter, r2 on all; G's phase
    assert find_nonfinite_state(trainer) is None
    assert {"r1", "r2", "centre"} <= trainer.meters.sums.keys()


NORMALISED = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"]


@pytest.mark.parametrize("penalty", ["r1: {step: 0.01, share: 0.5}", "r2: {step: 0.01}", "gp1: {}", "gp0: {}"])
def test_running_statistics_are_those_of_whole_batches(penalty):
    """Passes of a penalty on other images than the step's leave them alone, but use statistics of these images."""
    statistics = []
    for section in ("{}", f"{{{penalty}}}"):
        still = ["optimizer.generator.lr=0", "optimizer.discriminator.lr=0", f"penalties={section}"]
        resolved = recipes.load_recipe("dcgan-64", [*NORMALISED, *still])
        trainer = Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))
        trainer.step()
        statistics.append({name: x for name, x in trainer.D.state_dict().items() if "running" in name})
    assert statistics[0]
    assert all(torch.equal(x, statistics[1][name]) for name, x in statistics[0].items())


def test_finite_difference_of_coupled_logits_by_hand():
    """For logits J x that mix images, as batch norms do, the mean is half of |J|^2 over the images."""
    torch.manual_seed(0)
    couplings = torch.randn(64, 64, dtype=torch.float64)
    x = torch.zeros(64, 1, 1, 1, dtype=torch.float64)
    values = []
    for seed in range(100):
        torch.manual_seed(seed)
        values.append(differences(lambda images: couplings @ images.flatten(), x).item())
    assert sum(values) / 100 == pytest.approx(0.5 * couplings.square().sum().item() / 64, rel=0.08)


def test_a_share_of_one_image_has_no_statistics():
    overrides = [*NORMALISED, "penalties={r1: {step: 0.01, share: 0.125}}"]
    resolved = recipes.load_recipe("dcgan-64", overrides)
    with pytest.raises(ZooError, match=r"penalties\.r1\.share: 0\.125 of 8 images is 1,.*least 2 .*multiple of 0\.25"):
        Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))


def test_mode_seeking_is_the_inverse_slope_of_a_linear_generator():
    """For G(z) = s z the ratio of distances is |s|, and its gradient that of 1 / |s|."""
    scale = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    z = torch.randn(9, 16, dtype=torch.float64)  # the last one has no partner
    value = mode_seeking(step(z=z, fake=(scale * z).view(9, 1, 4, 4)))
    assert value.item() == pytest.approx(1 / (0.5 + 1e-5))
    (slope,) = torch.autograd.grad(value, scale)
    assert slope.item() == pytest.approx(4, rel=1e-3)
    flat = torch.zeros(4, 1, 4, 4, requires_grad=True)
    mode_seeking(step(z=z[:4], fake=flat)).backward()
    assert flat.grad.isfinite().all()


def test_centre_of_pairs_by_hand():
    logits = {"real_logits": torch.tensor([1.0, 3.0]), "fake_logits": torch.tensor([-1.0, -1.0])}
    assert centre(step(**logits)).item() == pytest.approx((0 + 4) / 2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("penalties={gp1: {step: 0.01}}", r"penalties\.gp1\.step: finite differences estimate r1 and r2 only"),
        ("penalties={r1: {share: 0.5}}", r"penalties\.r1\.share: exact gradients are of all images; set step"),
        ("penalties={r1: {step: -1}}", r"penalties\.r1\.step: must be at least 0"),
        ("penalties={r2: {step: 1e-8}}", r"penalties\.r2: step: must be at least 0\.001, not 1e-08: smaller"),
    ],
)
def test_mistakes_of_finite_differences(override, words):
    with pytest.raises(ZooError, match=words):
        recipes.load_recipe("dcgan-64", [override])


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("dcgan-64", "train.micro_batch=1", "at least 2 must pass"),
        ("dcgan-64", "data.labels=folder", "not go with classes"),
        ("stylegan2-64", "train.batch=8", r"set generator\.mixing to 0"),
        ("stylegan-256", "train.batch=8", r"set generator\.mixing to 0"),
    ],
)
def test_mistakes_of_mode_seeking(name, more, words):
    with pytest.raises(ZooError, match=rf"penalties\.mode_seeking: .*{words}"):
        recipes.load_recipe(name, ["penalties={mode_seeking: {}}", more])


def test_mode_seeking_needs_two_images_in_each_process():
    recipe = recipes.load_recipe("r3gan-64", [*THIN_R3GAN, "penalties={mode_seeking: {}}"])
    with pytest.raises(ZooError, match=r"penalties\.mode_seeking: compares images; at least 2 .* in each process"):
        build_trained_networks(recipe, choose_speed(recipe, torch.device("cpu")), World(0, 8))


def test_finite_differences_are_in_full_fp32_whatever_training_uses(monkeypatch):
    """TF32 would round a small difference away; the settings of training come back afterwards."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    precisions = []

    def critic(images, *, side):
        precisions.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return images.sum((1, 2, 3))

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        x = torch.zeros(2, 1, 4, 4)
        finite_difference(step(real=x, real_logits=torch.zeros(2), judge=critic), "real", scale=0.01, share=1.0)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert precisions == [("highest", False)] * 2
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("difference", "expected"), [("step: 0.01, ", "highest"), ("", "high")])
def test_gradients_of_finite_differences_are_in_full_fp32_too(difference, expected):
    overrides = [f"penalties={{r1: {{{difference}weight: 1}}}}", "train.precision=fp32", *NORMALISED]
    resolved = recipes.load_recipe("fastgan-r3-64", overrides)
    trainer = Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))
    precisions = []
    weight = next(trainer.D.parameters())
    weight.register_hook(lambda gradient: precisions.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        trainer.step()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert precisions
    assert set(precisions) == {expected}


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
    recipe = "stylegan2-64"
    if name == "mode_seeking":
        overrides.append("generator.mixing=0")
    if name == "restoration":  # of a generator that enlarges images
        recipe, overrides = "upscale-256", [*overrides, "data.resolution=32"]
    resolved = recipes.load_recipe(recipe, overrides)
    trainer = Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))
    for _ in range(3):
        trainer.step()
    assert find_nonfinite_state(trainer) is None
    assert name in trainer.meters.sums
