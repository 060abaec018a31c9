"""Losses and penalties against closed forms and torch's own functions."""

import math

import pytest
import torch
import torch.nn.functional as F

from zoo.losses.adversarial import LOSSES
from zoo.losses.penalties import gradient_penalty

REAL = torch.tensor([2.0, -1.0, 0.5])
FAKE = torch.tensor([-0.5, 1.5, -3.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_nonsaturating_is_bce_with_keras_smoothing(smoothing):
    high, low = torch.full((3,), 1 - smoothing / 2), torch.full((3,), smoothing / 2)
    expected = F.binary_cross_entropy_with_logits(REAL, high) + F.binary_cross_entropy_with_logits(FAKE, low)
    torch.testing.assert_close(LOSSES["nonsaturating"].discriminator(REAL, FAKE, smoothing), expected)
    torch.testing.assert_close(
        LOSSES["nonsaturating"].generator(None, FAKE), F.binary_cross_entropy_with_logits(FAKE, torch.ones(3))
    )


@pytest.mark.parametrize(
    ("name", "d", "g"),
    [
        ("least_squares", 0.5 * ((1 + 4 + 0.25) / 3 + (0.25 + 2.25 + 9) / 3), 0.5 * (2.25 + 0.25 + 16) / 3),
        ("hinge", (0 + 2 + 0.5) / 3 + (0.5 + 2.5 + 0) / 3, 2 / 3),
        ("wasserstein", -2 / 3 - 0.5, 2 / 3),
        (
            "relativistic",
            sum(math.log1p(math.exp(x)) for x in (-2.5, 2.5, -3.5)) / 3,
            sum(math.log1p(math.exp(x)) for x in (2.5, -2.5, 3.5)) / 3,
        ),
    ],
)
def test_closed_forms(name, d, g):
    loss = LOSSES[name]
    assert loss.discriminator(REAL, FAKE, 0.0).item() == pytest.approx(d, rel=1e-6)
    assert loss.generator(REAL, FAKE).item() == pytest.approx(g, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite_and_losses_are_fp32(name):
    real, fake = torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4])
    for value in (LOSSES[name].discriminator(real, fake, 0.0), LOSSES[name].generator(real, fake)):
        assert value.isfinite()
    assert LOSSES[name].discriminator(real.bfloat16(), fake.bfloat16(), 0.0).dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_have_the_right_sign(name):
    """D's gradient raises real and lowers fake logits; G's raises fake ones."""
    real, fake = (torch.full((4,), 0.1, requires_grad=True) for _ in range(2))
    up_real, up_fake = torch.autograd.grad(LOSSES[name].discriminator(real, fake, 0.0), (real, fake))
    assert (up_real < 0).all()
    assert (up_fake > 0).all()
    (toward,) = torch.autograd.grad(LOSSES[name].generator(real.detach(), fake), fake)
    assert (toward < 0).all()


def test_gradient_penalty_of_a_linear_critic_is_half_its_squared_norm():
    torch.manual_seed(0)
    weight = torch.randn(2 * 5 * 5, dtype=torch.float64, requires_grad=True)
    images = torch.randn(3, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(images, images.flatten(1) @ weight)
    assert penalty.item() == pytest.approx(0.5 * weight.square().sum().item(), rel=1e-6)
    (slope,) = torch.autograd.grad(penalty, weight)  # the double backward
    torch.testing.assert_close(slope.float(), weight.detach().float())


def test_gradient_penalty_of_a_quadratic_critic():
    images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], requires_grad=True)
    assert gradient_penalty(images, images.square().sum(dim=(1, 2, 3))).item() == pytest.approx(0.5 * 4 * 30)
