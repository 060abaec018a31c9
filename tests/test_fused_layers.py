"""Layers computed in another way (``speed.fused_layers``): values and gradients of both orders are torch's own."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo import recipes
from zoo.data.dataset import load_dataset
from zoo.models.residual import BiasedActivation
from zoo.models.skip_layer_excitation import GatedSequential, gated_block
from zoo.runtime import kernels
from zoo.runtime.convolution import FastConv2d, FastConvTranspose2d, FastDoubleBackward, convolve, convolve_doubled
from zoo.runtime.speed import Speed
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state

CPU = torch.device("cpu")
SETTINGS = {  # images, kernel and the other arguments of a convolution
    "plain": ((2, 4, 9, 7), (6, 4, 3, 3), {"stride": 2, "padding": 1}),
    "groups": ((2, 8, 6, 6), (12, 4, 3, 3), {"groups": 2, "padding": (1, 1)}),
    "pointwise": ((2, 8, 5, 6), (16, 8, 1, 1), {}),
    "narrow": ((2, 5, 6, 7), (1, 5, 3, 3), {"padding": 1}),
    "narrow, not square": ((2, 5, 6, 7), (2, 5, 5, 3), {"padding": (2, 1)}),
    "narrow, larger than the image": ((2, 5, 2, 1), (1, 5, 5, 5), {"padding": 2}),
    "whole map": ((2, 6, 4, 3), (6, 1, 4, 3), {"groups": 6}),
}


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", SETTINGS)
def test_gradients_of_both_orders_are_those_of_torch(case, layout):
    torch.manual_seed(0)
    image, shape, settings = SETTINGS[case]
    x, kernel = (draw(*size).detach().contiguous(memory_format=layout).requires_grad_() for size in (image, shape))
    weights = torch.randn_like(F.conv2d(x, kernel, **settings))

    def derivatives(function):
        y = function(x, kernel, None, **settings)
        first = torch.autograd.grad((y.tanh() * weights).sum(), (x, kernel), create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), (x, kernel))
        return y, *first, *second

    for ours, theirs in zip(derivatives(convolve), derivatives(F.conv2d), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_penalties_use_the_fast_gradients():
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(1, 2, 5, 5)
    with FastDoubleBackward():
        y = layer(x)
    assert "_Convolution" in type(next(function for function, _ in y.grad_fn.next_functions if function)).__name__
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_transposed_convolution_of_one_pixel_is_a_dense_layer(layout):
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(6, 4, 3).to(memory_format=layout)
    fast = FastConvTranspose2d(6, 4, 3).to(memory_format=layout)
    fast.load_state_dict(plain.state_dict())
    z = torch.randn(5, 6, 1, 1)
    torch.testing.assert_close(fast(z), plain(z))
    wide = torch.randn(5, 6, 2, 2)
    assert torch.equal(fast(wide), plain(wide))


def test_a_doubling_and_its_convolution_are_one():
    x, kernel, bias = draw(2, 3, 5, 4), draw(6, 3, 3, 3), draw(6)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), kernel, bias, padding=1)
    torch.testing.assert_close(convolve_doubled(x, kernel, bias), expected)


def test_evaluation_stays_as_it_is():
    plain = nn.Conv2d(32, 1, 3, padding=1)
    fast = FastConv2d(32, 1, 3, padding=1).eval()
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(2, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast(x), plain(x))


needs_compiler = pytest.mark.skipif(not kernels.load_kernels(), reason="needs a C compiler")


def on_and_off(build):
    """Return a network with fused layers and its twin without."""
    torch.manual_seed(0)
    on = build()
    off = build()
    off.load_state_dict(on.state_dict())
    return tuple(
        Speed(device=CPU, channels_last=True, fused_layers=fused).network(network).train()
        for network, fused in ((on, True), (off, False))
    )


@needs_compiler
@pytest.mark.parametrize("pixels", [8, 9])
def test_norm_and_gate_in_one_pass(pixels):
    on, off = on_and_off(lambda: gated_block(16, 32, double=True))
    assert isinstance(on, GatedSequential)
    x = (torch.randn(3, 16, pixels, pixels) * 3 + 50).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for network in (on, off):
            network[2].weight.copy_(torch.linspace(-2, 2, 64))
            network[2].bias.copy_(torch.linspace(-100, 100, 64))  # gates that are open, shut and between
    results = []
    for network in (on, off):
        inputs = x.clone().requires_grad_()
        out = network(inputs)
        out.backward(torch.sin(torch.arange(out.numel())).view(out.shape))
        results.append([out, inputs.grad, *(p.grad for p in network.parameters()), *network.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4 * theirs.abs().max().item())


@needs_compiler
def test_passes_of_both_precisions_before_one_backward_pass():
    """Torch's norm, which a pass in bf16 uses, and the kernel of a pass in fp32 change the same running statistics."""
    network, _ = on_and_off(lambda: gated_block(16, 32, double=False))
    x = torch.randn(3, 16, 8, 8).contiguous(memory_format=torch.channels_last)

    def run(low):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return network(x).float().square().mean()

    def gradients(*losses):
        network.zero_grad()
        for loss in losses:
            loss().backward()
        return [parameter.grad for parameter in network.parameters()]

    together = gradients(lambda: run(True) + run(False) + run(True))
    apart = gradients(lambda: run(True), lambda: run(False), lambda: run(True))
    for ours, theirs in zip(together, apart, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


# Switches with which G or D passes twice in training mode before one backward pass, each on networks that it changes.
# fastgan-64 has batch norms in both, and at this width the channels that the kernels need.
TWO_PASSES = {
    "autoencoder": ("fastgan-64", ["autoencoder={weight: 10}"]),
    "autoencoder, simultaneous": ("fastgan-64", ["autoencoder={weight: 10}", "train.update=simultaneous"]),
    "autoencoder, micro-batches": ("fastgan-64", ["autoencoder={weight: 10}", "train.micro_batch=2"]),
    "scales": ("fastgan-64", ["scales={sizes: [4, 8]}"]),
    "mode seeking": ("fastgan-64", ["penalties.mode_seeking.weight=1"]),
    "path length": ("stylegan2-64", ["penalties.path_length.weight=2"]),
    "restoration": ("upscale-256", ["penalties.restoration.weight=1"]),
    "finite differences": ("fastgan-64", ["penalties={r1: {weight: 1, step: 0.01}, r2: {weight: 1, step: 0.01}}"]),
    "gradient between": ("fastgan-64", ["penalties={gp0: {weight: 1}}"]),
    "packing": ("fastgan-64", ["discriminator.packing=2", "penalties={r1: {weight: 1, step: 0.01}}"]),
}


@pytest.mark.parametrize("fused", ["true", "false"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("switch", TWO_PASSES)
def test_two_passes_before_one_backward_pass(switch, precision, fused):
    name, overrides = TWO_PASSES[switch]
    small = ["data.resolution=32", "generator.width=0.25", "discriminator.width=0.125", "train.batch=4"]
    speed = [f"train.precision={precision}", f"speed.fused_layers={fused}", "speed.channels_last=true"]
    recipe = recipes.load_recipe(name, [*small, *speed, *overrides])
    trainer = Trainer(recipe, load_dataset("phantoms:2", recipe.data), CPU)
    for _ in range(2):
        trainer.step()
    assert find_nonfinite_state(trainer) is None


@needs_compiler
def test_bias_and_activation_in_one_pass():
    on, off = on_and_off(lambda: nn.Sequential(nn.Conv2d(3, 48, 1), BiasedActivation(48), nn.Conv2d(48, 1, 1)))
    results = []
    for network in (on, off):
        x = torch.linspace(-1, 1, 2 * 3 * 7 * 5).view(2, 3, 7, 5).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        y = network(x).tanh()
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (gradient.square().sum() + y.sum()).backward()
        results.append([y, gradient, x.grad, *(p.grad for p in network.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@needs_compiler
@pytest.mark.slow
def test_results_do_not_depend_on_the_threads():
    code = """
import torch
from zoo.runtime.kernels import BiasLeaky, NormGate, load_kernels
load_kernels()
torch.manual_seed(0)
x = torch.randn(3, 64, 11, 13).contiguous(memory_format=torch.channels_last).requires_grad_()
weight = torch.randn(64).requires_grad_()
sums = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    out = BiasLeaky.apply(NormGate.apply(x, weight, weight, 1e-5)[0].clone(), weight[:32], 0.2)
    sums.append([out, *torch.autograd.grad(out, (x, weight), torch.ones_like(out))])
print(all(torch.equal(a, b) for other in sums[1:] for a, b in zip(sums[0], other)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("name", ["fastgan-r3-64", "stylegan2-64"])
@pytest.mark.slow
def test_a_step_with_penalties_changes_rounding_alone(name):
    sgd = [f"optimizer.{side}.name=sgd" for side in ("generator", "discriminator")]
    trained = []
    for fused in ("true", "false"):
        recipe = recipes.load_recipe(name, [*sgd, "train.batch=4", f"speed.fused_layers={fused}"])
        trainer = Trainer(recipe, load_dataset("phantoms:2", recipe.data), CPU)
        trainer.step()
        trained.append({**trainer.G.state_dict(), **trainer.D.state_dict()})
    for key, value in trained[1].items():
        torch.testing.assert_close(trained[0][key], value, rtol=1e-4, atol=5e-5, msg=key)
