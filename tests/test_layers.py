"""zoo.layers: the mirror that stands for Keras' padding, and the helpers every architecture leans on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers import check_multiple, dcgan_normal, dense_start, doubling, doublings, glorot_uniform, halving, scaled

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
def test_oracles_are_each_others_transpose_as_in_keras(kernel: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(1, 2, 12, 8, dtype=torch.float64), torch.randn(1, 3, 6, 4, dtype=torch.float64)
    weight = torch.randn(3, 2, kernel, kernel, dtype=torch.float64)
    torch.testing.assert_close((keras_conv(x, weight) * y).sum(), (x * keras_conv_transpose(y, weight)).sum())


@KERNELS
def test_halving_is_keras_same_seen_in_a_mirror(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
    ours = with_weight(halving(3, 4, kernel, bias=False), mirrored(weight))
    torch.testing.assert_close(mirrored(ours(mirrored(x))), keras_conv(x, weight))
    assert not torch.allclose(with_weight(ours, weight)(x), keras_conv(x, weight))  # and the mirror is needed


@KERNELS
def test_doubling_is_keras_same_seen_in_a_mirror(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    weight = torch.randn(3, 4, kernel, kernel, dtype=torch.float64)
    ours = with_weight(doubling(3, 4, kernel, bias=False), mirrored(weight))
    torch.testing.assert_close(mirrored(ours(mirrored(x))), keras_conv_transpose(x, weight))
    assert not torch.allclose(with_weight(ours, weight)(x), keras_conv_transpose(x, weight))


@KERNELS
def test_mirror_holds_through_a_whole_network(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    down, up = torch.randn(2, 4, 3, kernel, kernel, dtype=torch.float64)
    ours = nn.Sequential(
        with_weight(halving(3, 4, kernel, bias=False), mirrored(down)),
        nn.LeakyReLU(0.2),
        with_weight(doubling(4, 3, kernel, bias=False), mirrored(up)),
    )
    keras = keras_conv_transpose(F.leaky_relu(keras_conv(x, down), 0.2), up)
    torch.testing.assert_close(mirrored(ours(mirrored(x))), keras)


def test_kernels_of_four_need_no_mirror() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 8, 8), torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(F.conv2d(x, weight, stride=2, padding=1), keras_conv(x, weight))
    torch.testing.assert_close(F.conv_transpose2d(x, weight, stride=2, padding=1), keras_conv_transpose(x, weight))


def test_scaled_rounds_and_never_reaches_zero() -> None:
    assert [scaled(64, 1.0), scaled(64, 0.125), scaled(10, 0.25), scaled(1, 0.1)] == [64, 8, 2, 1]


def test_doublings() -> None:
    assert [doublings(size, "it") for size in (8, 16, 64, 256, 1024)] == [1, 2, 4, 6, 8]


@pytest.mark.parametrize("size", [0, 1, 2, 4, 12, 28, 96, 255])
def test_doublings_refuse_the_rest(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^it takes .*8, 16, 32.*, not {size}$"):
        doublings(size, "it")


def test_check_multiple() -> None:
    check_multiple(24, 8, "it")
    with pytest.raises(ValueError, match=r"^it takes multiples of 8 pixels, not 28$"):
        check_multiple(28, 8, "it")


def test_dense_start_norms_every_unit() -> None:
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
