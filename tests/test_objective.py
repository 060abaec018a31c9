"""Closed forms of what the losses are summed from: penalties of linear networks, and weights of lazy terms."""

import pytest
import torch

from zoo.core.schedule import Schedule
from zoo.losses.objective import Term, evaluate_terms
from zoo.losses.penalties import gradient_penalty, r1, r2
from zoo.losses.step_outputs import StepOutputs

W = torch.tensor([1.0, -2.0, 0.5, 3.0])


def linear_outputs():
    """Logits <w, x>, whose gradient is w for every image: the penalty is half of its squared norm."""
    torch.manual_seed(0)
    images = [torch.randn(5, 1, 2, 2, requires_grad=True) for _ in range(2)]
    logits = [image.flatten(1) @ W for image in images]
    return StepOutputs(real=images[0], fake=images[1], real_logits=logits[0], fake_logits=logits[1], nimg=0)


@pytest.mark.parametrize("penalty", [r1, r2])
def test_penalty_of_a_linear_discriminator_is_half_the_squared_norm(penalty):
    assert penalty(linear_outputs()).item() == pytest.approx(0.5 * W.square().sum().item())


def test_penalty_sums_several_logits_of_an_image():
    images = torch.randn(3, 1, 2, 2, requires_grad=True)
    logits = torch.stack([images.flatten(1) @ W, 2 * images.flatten(1) @ W], dim=1)
    assert gradient_penalty(images, logits).item() == pytest.approx(0.5 * 9 * W.square().sum().item())


def test_lazy_term_counts_with_its_weight_times_its_period():
    term = Term(name="r1", phase="D", function=r1, weight=Schedule.parse(2.0), every=4)
    total, values = evaluate_terms([term], linear_outputs())
    assert values["r1"].item() == pytest.approx(0.5 * W.square().sum().item())
    assert total.item() == pytest.approx(8 * values["r1"].item())
    assert [term.due(step) for step in range(9)] == [step % 4 == 0 for step in range(9)]
