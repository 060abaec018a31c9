"""Shared layers: Keras' padding, widths and resolutions, resampling, norms and initialisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.errors import ZooError
from zoo.models.batch_norm import has_batch_statistics
from zoo.models.layers import (
    FOUR_OR_SEVEN,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStd,
    apply_spectral_norm,
    blur_down,
    blur_up,
    check_multiple,
    clip_output,
    count_doublings,
    dcgan_normal,
    dense_start,
    doubling_conv,
    glorot_uniform,
    halving_conv,
    scale_channels,
    scale_widths,
)
from zoo.recipes import load_recipe

KERNELS = pytest.mark.parametrize("kernel", [3, 5])


def keras_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Keras' Conv2D(strides=2, padding="same") on an even size: k - 2 rows of padding, the odd one after."""
    before, odd = divmod(weight.shape[-1] - 2, 2)
    return F.conv2d(F.pad(x, (before, before + odd) * 2), weight, stride=2)


def keras_conv_transpose(x: Tensor, weight: Tensor) -> Tensor:
    """Keras' Conv2DTranspose(strides=2, padding="same"): everything the kernel reaches, less what keras_conv pads."""
    before = (weight.shape[-1] - 2) // 2
    height, width = 2 * x.shape[2], 2 * x.shape[3]
    return F.conv_transpose2d(x, weight, stride=2)[..., before : before + height, before : before + width]


def mirrored(x: Tensor) -> Tensor:
    return x.flip(2, 3)


def with_weight(layer: nn.Module, weight: Tensor) -> nn.Module:
    layer.weight = nn.Parameter(weight)
    return layer


@KERNELS
def test_reference_convolutions_are_transposes_of_each_other(kernel: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(1, 2, 12, 8, dtype=torch.float64), torch.randn(1, 3, 6, 4, dtype=torch.float64)
    weight = torch.randn(3, 2, kernel, kernel, dtype=torch.float64)
    torch.testing.assert_close((keras_conv(x, weight) * y).sum(), (x * keras_conv_transpose(y, weight)).sum())


@KERNELS
def test_halving_conv_is_keras_same_padding_mirrored(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
    ours = with_weight(halving_conv(3, 4, kernel), mirrored(weight))
    torch.testing.assert_close(mirrored(ours(mirrored(x))), keras_conv(x, weight))
    assert not torch.allclose(with_weight(ours, weight)(x), keras_conv(x, weight))  # without mirroring they differ


@KERNELS
def test_doubling_conv_is_keras_same_padding_mirrored(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    weight = torch.randn(3, 4, kernel, kernel, dtype=torch.float64)
    ours = with_weight(doubling_conv(3, 4, kernel), mirrored(weight))
    torch.testing.assert_close(mirrored(ours(mirrored(x))), keras_conv_transpose(x, weight))
    assert not torch.allclose(with_weight(ours, weight)(x), keras_conv_transpose(x, weight))


@KERNELS
def test_mirror_holds_through_a_whole_network(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    down, up = torch.randn(2, 4, 3, kernel, kernel, dtype=torch.float64)
    ours = nn.Sequential(
        with_weight(halving_conv(3, 4, kernel), mirrored(down)),
        nn.LeakyReLU(0.2),
        with_weight(doubling_conv(4, 3, kernel), mirrored(up)),
    )
    keras = keras_conv_transpose(F.leaky_relu(keras_conv(x, down), 0.2), up)
    torch.testing.assert_close(mirrored(ours(mirrored(x))), keras)


def test_kernels_of_four_need_no_mirror() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 8, 8), torch.randn(2, 2, 4, 4)
    down, up = (with_weight(layer(2, 2, 4), weight) for layer in (halving_conv, doubling_conv))
    torch.testing.assert_close(down(x), keras_conv(x, weight))
    torch.testing.assert_close(up(x), keras_conv_transpose(x, weight))


def test_scaled_channels_are_rounded_and_at_least_one() -> None:
    assert scale_channels(64, 1.0) == 64
    assert scale_widths((64, 10, 1), 0.125) == [8, 1, 1]
    assert scale_channels(10, 0.25) == 2


def test_doublings() -> None:
    assert [count_doublings(size, "it") for size in (8, 16, 64, 256, 1024)] == [1, 2, 4, 6, 8]
    sizes = (8, 14, 16, 28, 56, 64, 112, 224, 256)
    assert [count_doublings(size, "it", starts=FOUR_OR_SEVEN) for size in sizes] == [1, 1, 2, 2, 3, 4, 4, 5, 6]


@pytest.mark.parametrize("size", [0, 1, 2, 4, 12, 28, 96, 255])
def test_other_resolutions_have_no_doublings(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^it supports .*8, 16, 32.*, not {size}$"):
        count_doublings(size, "it")


@pytest.mark.parametrize("size", [0, 1, 4, 7, 12, 21, 27, 29, 96, 255])
def test_starts_of_seven_are_named_where_they_are_supported(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^it supports .*8, 16, 32.* and 7 times .*14, 28, 56.*, not {size}$"):
        count_doublings(size, "it", starts=FOUR_OR_SEVEN)


def test_check_multiple() -> None:
    check_multiple(24, 8, "it")
    with pytest.raises(ValueError, match=r"^it supports multiples of 8 pixels, not 28$"):
        check_multiple(28, 8, "it")


def test_dense_start_normalises_every_unit() -> None:
    torch.manual_seed(0)
    maps = dense_start(latent=16, channels=3, size=4, activation=nn.Identity())(torch.randn(4096, 16))
    assert maps.shape == (4096, 3, 4, 4)
    torch.testing.assert_close(maps.mean(0), torch.zeros(3, 4, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.var(0), torch.ones(3, 4, 4), atol=0.02, rtol=0)


def test_glorot_uniform() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(300, 500), nn.Conv2d(20, 60, 5), nn.ConvTranspose2d(20, 60, 5)):
        layer.apply(glorot_uniform)
        fans = layer.weight.shape[0] + layer.weight.shape[1]
        limit = (6 / (fans * layer.weight[0, 0].numel())) ** 0.5
        assert 0.99 * limit < layer.weight.abs().max() <= limit
        assert not layer.bias.any()


def test_dcgan_normal() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 64, 4), nn.ConvTranspose2d(64, 64, 4), nn.BatchNorm2d(4096)).apply(dcgan_normal)
    for layer, mean in zip(net, (0.0, 0.0, 1.0), strict=True):
        assert layer.weight.mean().item() == pytest.approx(mean, abs=1e-3)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


@pytest.mark.parametrize("kind", [EqualizedConv2d, EqualizedLinear])
def test_equalized_layers_start_at_unit_weights_and_hes_deviation(kind: type[nn.Module]) -> None:
    """Weights are N(0, 1 / lr^2), and scaled in use: outputs of inputs of variance one have variance gain^2."""
    module = kind(3, 8, 3, gain=2.0) if kind is EqualizedConv2d else kind(27, 8, gain=2.0, lr=0.1)
    weight = module.weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx(10.0 if isinstance(module, nn.Linear) else 1.0, rel=0.2)
    x = torch.randn(4096, 27)
    y = module(x) if isinstance(module, nn.Linear) else module(x.view(-1, 3, 3, 3))[..., 1, 1]
    assert y.std().item() == pytest.approx(2.0, rel=0.2)


def test_minibatch_std_is_the_mean_deviation_within_groups() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4)
    out = MinibatchStd(group=4)(x)  # of six, groups of three
    assert out.shape == (6, 4, 4, 4)
    assert torch.equal(out[:, :3], x)
    expected = [x[3 * k : 3 * k + 3].var(0, correction=0).add(1e-8).sqrt().mean() for k in (0, 1)]
    for index in range(6):
        torch.testing.assert_close(out[index, 3], expected[index // 3].expand(4, 4))
    x = torch.randn(8, 3, 4, 4)
    torch.testing.assert_close(MinibatchStd()(x), torch.cat([MinibatchStd()(half) for half in x.chunk(2)]))
    assert MinibatchStd()(x[:1]).shape == (1, 4, 4, 4)
    assert has_batch_statistics(MinibatchStd())


def test_blur_down_is_three_averages() -> None:
    """1 1 convolved with itself twice is 1 3 3 1."""
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    y = F.pad(x, (1, 1, 1, 1), mode="replicate")
    expected = F.avg_pool2d(F.avg_pool2d(F.avg_pool2d(y, 2, stride=1), 2, stride=1), 2)
    torch.testing.assert_close(blur_down(x), expected)
    torch.testing.assert_close(blur_down(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 4, 4))


def test_blur_up_is_three_to_one() -> None:
    x = torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]])
    torch.testing.assert_close(blur_up(x)[0, 0, 1], torch.tensor([0.0, 1.0, 3.0, 4.0]))


@pytest.mark.parametrize("function", [blur_down, blur_up])
def test_resampling_can_be_differentiated_twice(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: function(x).square(), (x,))


@pytest.mark.parametrize(
    "make_layer",
    [lambda: nn.Conv2d(3, 5, 3), lambda: nn.ConvTranspose2d(3, 5, 4), lambda: nn.Linear(7, 4)],
    ids=["conv", "transposed", "dense"],
)
def test_spectral_norm_divides_by_the_largest_singular_value(make_layer: Callable[[], nn.Module]) -> None:
    layer = make_layer()
    matrix = layer.weight
    assert isinstance(matrix, Tensor)
    kernel = matrix.detach().transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else matrix.detach()
    # Singular values of 3, 1, 1, ...: power iteration converges by a factor of 9 a step. With random kernels the first
    # two can be so close that a hundred steps do not suffice.
    left, values, right = torch.linalg.svd(kernel.flatten(1), full_matrices=False)
    largest = 3.0
    values = torch.ones_like(values).index_fill(0, torch.tensor(0), largest)
    kernel.copy_((left * values @ right).unflatten(1, kernel.shape[1:]))
    torch.testing.assert_close(torch.linalg.svdvals(kernel.flatten(1))[0], torch.tensor(largest))
    before = matrix.detach().clone()
    net = apply_spectral_norm(nn.Sequential(layer, nn.BatchNorm2d(5)))
    for _ in range(100):
        _ = layer.weight
    torch.testing.assert_close(layer.weight, before / largest, rtol=1e-3, atol=1e-4)
    net.eval()
    assert torch.equal(layer.weight, layer.weight)  # no further iteration


def test_spectral_norm_leaves_frozen_layers_alone() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    apply_spectral_norm(net)
    assert [type(layer).__name__ for layer in net] == ["ParametrizedLinear", "Linear"]
    names = list(apply_spectral_norm(net).state_dict())  # a second time changes nothing
    assert names == list(apply_spectral_norm(nn.Sequential(nn.Linear(2, 2), net[1])).state_dict())


@pytest.mark.parametrize("name", ["stylegan2-64", "r3gan-64"])
@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_spectral_norm_is_refused_for_networks_that_scale_weights(name: str, side: str) -> None:
    with pytest.raises(ZooError, match=f"{side}.spectral_norm: does not go with"):
        load_recipe(name, [f"{side}.spectral_norm=true"])


def test_clipped_values_learn_only_back_into_the_range() -> None:
    x = torch.tensor([-3.0, -3.0, -1.0, 0.5, 0.5, 1.0, 2.0, 2.0], requires_grad=True)
    wanted = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0])  # the gradient; descent goes the other way
    y = clip_output(x)
    assert y.tolist() == [-1, -1, -1, 0.5, 0.5, 1, 1, 1]
    y.backward(wanted)
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, 1, -1, -1, 1, 0]


def test_clipped_values_have_second_derivatives() -> None:
    x = torch.tensor([-2.0, 0.25, 2.0], requires_grad=True)
    (slope,) = torch.autograd.grad((clip_output(x) ** 3).sum(), x, create_graph=True)
    assert slope.tolist() == [0, 3 * 0.25**2, 3]  # above the range, where descent leads back, and not below
    (curve,) = torch.autograd.grad(slope.sum(), x)
    assert curve.tolist() == [0, 6 * 0.25, 6]
