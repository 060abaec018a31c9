"""The scaling model of benchmarks/scaling.py, against closed forms."""

import sys
from pathlib import Path

import pytest

from zoo import recipes
from zoo.recipes import summarise_recipe

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import scaling


def test_a_slow_link_hides_the_backward_pass_and_a_fast_one_is_hidden_by_it():
    recipe = recipes.load_recipe("dcgan-64")
    sizes = [4 * network.parameters for network in summarise_recipe(recipe)]
    step, slow = 1.0, 1.0  # a byte takes as long as a step
    for exposed, size, network, passes in zip(
        scaling.exposed_seconds(recipe, step, slow), sizes, summarise_recipe(recipe), (3, 8), strict=True
    ):
        # All bytes are sent one after another; hidden is at most the pass itself.
        share = network.macs / sum(n * each.macs for n, each in zip((3, 8), summarise_recipe(recipe), strict=True))
        assert size - 2 * share <= exposed <= size
        assert passes * share < 1
    assert scaling.exposed_seconds(recipe, step, 0.0) == pytest.approx([0.0, 0.0], abs=1e-12)
    first = [4 * next(layer.parameters for layer in n.layers if layer.parameters) for n in summarise_recipe(recipe)]
    # Gradients of the first layer exist when the pass is over.
    fast = 1e-12
    for exposed, size in zip(scaling.exposed_seconds(recipe, step, fast), first, strict=True):
        assert exposed >= size * fast * 0.999


def test_hidden_bytes_make_no_prediction_worse(monkeypatch):
    monkeypatch.setattr(scaling, "step_seconds", lambda name: (0.002, "a constant"))
    for name in ("lean-256", "dcgan-64"):
        row = scaling.predict(name)
        for count in scaling.DEVICE_COUNTS:
            assert 0 < row[f"efficiency_{count}"] <= row[f"efficiency_overlap_{count}"] < 1
