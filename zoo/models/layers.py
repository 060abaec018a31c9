"""Layers that architectures share, or that the field has a name for.

Three of the original projects were written in Keras. How its padding, batch norm, initialisation and dense layers are
translated is explained in docs/architectures.md; tests/test_layers.py proves that strided layers are equivalent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from zoo.core.wording import count_of

# Keras' momentum 0.99 is torch's 0.01.
KERAS_NORM: dict[str, Any] = {"momentum": 0.01, "eps": 1e-3}

FOUR_OR_SEVEN = (4, 7)  # sizes of the smallest maps of networks that support 28 pixels and its doubles

# Widths and resolutions


def scale_channels(channels: int, width: float) -> int:
    """Multiply ``channels`` by ``width`` and round, to at least 1.

    The one way to make a network thinner or wider.
    """
    return max(1, round(channels * width))


def scale_widths(channels: Iterable[int], width: float) -> list[int]:
    """Apply :func:`scale_channels` to each of ``channels``."""
    return [scale_channels(count, width) for count in channels]


def count_doublings(
    resolution: int, network: str = "the network", least: int = 8, starts: tuple[int, ...] = (4,)
) -> int:
    """Return the number of doublings from the smallest maps to ``resolution``: 4 for 64 pixels, from 4.

    Args:
        resolution: pixels per side.
        network: subject of the error: "a DCGAN generator".
        least: the smallest supported resolution, a power of two from 8.
        starts: sizes that the smallest maps may have, 4 first.

    Raises:
        ValueError: ``resolution`` is neither a power of two from ``least`` nor another start times a power of two.
    """
    for start in starts:
        count = max(0, (resolution // start).bit_length() - 1)
        if resolution == start << count and resolution >= (least if start == starts[0] else 2 * start):
            return count
    sizes = f"powers of two from {least} ({least}, {2 * least}, {4 * least}, ... pixels)"
    for start in starts[1:]:
        sizes += f" and {start} times a power of two ({2 * start}, {4 * start}, {8 * start}, ... pixels)"
    raise ValueError(f"{network} supports {sizes}, not {resolution}")


def check_stages(resolution: int, stages: int, network: str, starts: tuple[int, ...] = (4,)) -> None:
    """Refuse a ``resolution`` that needs more than ``stages`` doublings.

    Args:
        resolution: pixels per side.
        stages: doublings or halvings for which the config lists channels.
        network: subject of the error, ending in the recipe section: "an R3GAN generator".
        starts: sizes that the smallest maps may have.

    Raises:
        ValueError: too few stages, or ``resolution`` is not one of :func:`count_doublings`.
    """
    if count_doublings(resolution, network, starts=starts) > stages:
        sizes = ", ".join(map(str, sorted(start << count for start in starts for count in range(1, stages + 1))))
        section = network.split()[-1]
        raise ValueError(
            f"{network} with {count_of(stages, 'stage')} supports {sizes} pixels, not {resolution}. "
            f"Add one entry to {section}.channels for every further doubling"
        )


def check_multiple(resolution: int, factor: int, network: str) -> None:
    """Refuse a ``resolution`` that is no multiple of ``factor``.

    Raises:
        ValueError: ``resolution`` is no multiple of ``factor``.
    """
    if resolution % factor:
        raise ValueError(f"{network} supports multiples of {factor} pixels, not {resolution}")


# Convolutional and dense layers


def halving_conv(channels: int, out: int, kernel: int, *, bias: bool = False) -> nn.Conv2d:
    """Return a convolution of stride 2: (N, channels, 2h, 2w) to (N, out, h, w).

    An odd ``kernel`` is Keras' "same" padding, mirrored.
    """
    return nn.Conv2d(channels, out, kernel, stride=2, padding=(kernel - 1) // 2, bias=bias)


def doubling_conv(channels: int, out: int, kernel: int) -> nn.ConvTranspose2d:
    """Return the transpose of :func:`halving_conv`, without bias.

    (N, channels, h, w) to (N, out, 2h, 2w).
    """
    padding = (kernel - 1) // 2
    # Odd kernels leave one row and column open, which Keras adds on the same side.
    return nn.ConvTranspose2d(channels, out, kernel, stride=2, padding=padding, output_padding=kernel % 2, bias=False)


def halving_layers(channels: int, size: int, width: int) -> tuple[list[nn.Module], int]:
    """Return convolutions of stride 2 down to 4 x 4 pixels, with their activations, and the features they end in.

    The first has ``width`` channels, and each later one twice as many as the one before, up to 8 times ``width``.

    Args:
        channels: of the input (N, channels, size, size).
        size: pixels per side.
        width: channels of the first convolution.
    """
    layers: list[nn.Module] = []
    count = 0
    while size > 4:
        out = width * min(8, 2**count)
        layers += [halving_conv(channels, out, 3, bias=True), nn.LeakyReLU(0.2)]
        channels, size, count = out, (size + 1) // 2, count + 1
    return layers, channels * size**2


def with_batch_norm(
    convolution: nn.Conv2d | nn.ConvTranspose2d, *following: nn.Module, **options: Any
) -> list[nn.Module]:
    """List ``convolution``, a batch norm with ``options``, and ``following``."""
    return [convolution, nn.BatchNorm2d(convolution.out_channels, **options), *following]


def dense_start(latent: int, channels: int, size: int, activation: nn.Module) -> nn.Sequential:
    """Return dense layer, norm and ``activation`` from latents to maps.

    (N, latent) to (N, channels, size, size).
    Every unit is normalised by itself, as in Keras: the reshape follows.
    """
    units = channels * size * size
    return nn.Sequential(
        Dense(latent, units, bias=False),
        nn.BatchNorm1d(units, **KERAS_NORM),
        activation,
        Rearrange("n (c h w) -> n c h w", h=size, w=size),
    )


class Dense(nn.Linear):
    """``nn.Linear`` for many units and few rows, in its weights' precision."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.amp.is_autocast_available(input.device.type):  # the meta device
            return super().forward(input)
        # The cost is reading the weights once; under autocast, casting would read them first and write a copy.
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class EqualizedConv2d(nn.Conv2d):
    """Convolution with N(0, 1) weights, scaled in use by ``gain`` / sqrt(fan in).

    Biases start at 0.
    All weights then learn at one speed under Adam (Karras et al. 2018, arXiv:1710.10196, section 4.1).
    """

    def __init__(self, channels: int, out: int, kernel: int, *, gain: float = 1.0, bias: bool = True) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2, bias=bias)
        self.gain = gain / math.sqrt(channels * kernel**2)
        # Plain N(0, 1), because forward() scales: Adam's steps do not depend on the gradient's scale.
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight * self.gain, self.bias, padding=self.padding)


class EqualizedLinear(nn.Linear):
    """Dense layer like :class:`EqualizedConv2d`.

    Args:
        inputs: features of the input.
        out: features of the output.
        gain: scale of the output.
        lr: factor on the learning rate, below 1 for mapping networks.
        start: initial bias.
    """

    def __init__(self, inputs: int, out: int, *, gain: float = 1.0, lr: float = 1.0, start: float = 0.0) -> None:
        super().__init__(inputs, out)
        self.gain, self.lr = gain * lr / math.sqrt(inputs), lr
        # Divided here and multiplied in use: same outputs, steps smaller by lr.
        nn.init.normal_(self.weight, std=1 / lr)
        nn.init.constant_(self.bias, start / lr)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.gain, self.bias * self.lr)


class MinibatchStd(nn.Module):
    """Append the standard deviation within groups of images as a channel.

    D can then see the variety of a batch.
    It is averaged over pixels and channels (Karras et al. 2018, section 3).

    Args:
        group: images per group, at most; fewer where that does not divide a batch.
    """

    batch_statistics = True

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + 1, H, W)."""
        n, _, h, w = x.shape
        return torch.cat([x, self.deviations(x)[:, None, None, None].expand(n, 1, h, w).to(x.dtype)], 1)

    def deviations(self, x: Tensor) -> Tensor:
        """Return each image's mean deviation within its group, (N,) in fp32, from maps or features (N, ...)."""
        n = len(x)
        group = max(size for size in range(1, min(self.group, n) + 1) if n % size == 0)
        # Neighbours form a group, so that micro-batches of whole groups give the same numbers.
        groups = x.float().unflatten(0, (n // group, group))
        # 1e-8 keeps the gradient of the root finite where all images agree.
        std = (groups.var(1, correction=0) + 1e-8).sqrt().mean(tuple(range(1, x.dim())))
        return std.repeat_interleave(group)


# Class labels


def one_hot(label: Tensor | None, classes: int) -> Tensor:
    """Encode labels (N,) int64 as (N, classes) int64 of zeros and ones.

    Raises:
        ValueError: ``label`` is None.
    """
    return F.one_hot(require_label(label), classes)


def require_label(label: Tensor | None) -> Tensor:
    """Return ``label``, for a network with classes.

    Raises:
        ValueError: ``label`` is None.
    """
    if label is None:
        raise ValueError("label: a network with classes needs labels. Pass an int64 tensor (N,)")
    return label


# Resampling with the filter 1 3 3 1


def blur_down(x: Tensor) -> Tensor:
    """Halve the resolution with the filter 1 3 3 1, borders repeated.

    Zhang 2019, arXiv:1904.11486.

    Args:
        x: maps (N, C, 2h, 2w).

    Returns:
        maps (N, C, h, w).
    """
    n, c, height, width = x.shape
    # Matrix products, whose gradients of any order are products too: on CPUs twice as fast as pooling, and 20 times
    # as fast as a convolution of single channels, whose gradient is slow.
    # Rows first, then columns: the filter is separable.
    y = _halving_matrix(height, x.dtype, x.device) @ x.permute(0, 2, 3, 1).reshape(n, height, width * c)
    y = _halving_matrix(width, x.dtype, x.device) @ y.reshape(n * (height // 2), width, c)
    return y.view(n, height // 2, width // 2, c).permute(0, 3, 1, 2)


def _halving_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (size / 2, size): the filter centred on every second pixel."""
    matrix = _halving_matrices.get((size, dtype))
    if device.type != "cpu" or matrix is None:
        with torch.inference_mode(False):  # it outlives the mode of the first call
            matrix = _build_halving_matrix(size, dtype, device)
        # On a CPU building it takes longer than the product. An exporter's tensor has no values.
        if device.type == "cpu" and type(matrix) is Tensor:
            _halving_matrices[size, dtype] = matrix
    return matrix


_halving_matrices: dict[tuple[int, torch.dtype], Tensor] = {}


def _build_halving_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    column = torch.arange(size, device=device)
    centre = 2 * torch.arange(size // 2, device=device)[:, None]
    # Built on the device: a copy from the CPU would make a GPU wait.
    matrix = torch.zeros(size // 2, size, device=device)
    for offset, weight in zip((-1, 0, 1, 2), (0.125, 0.375, 0.375, 0.125), strict=True):
        matrix = matrix + weight * ((centre + offset).clamp(0, size - 1) == column)
    return matrix.to(dtype)


def blur_up(x: Tensor) -> Tensor:
    """Double the resolution with the filter 1 3 3 1: bilinear interpolation.

    (N, C, h, w) to (N, C, 2h, 2w).
    Each pixel is 3/4 of the nearest one and 1/4 of the next, in both directions; borders are repeated.
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


# Regularisation


def apply_spectral_norm(network: nn.Module) -> nn.Module:
    """Divide convolutions and dense layers by their largest singular values.

    In place; returns ``network``.
    One step of power iteration per forward pass (Miyato et al. 2018, arXiv:1802.05957, section 2.1). Frozen layers,
    layers that have a spectral norm and normalisation layers stay as they are.
    """
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    # A list first: parametrising a layer changes what modules() walks through.
    layers = [m for m in network.modules() if isinstance(m, kinds) and not parametrize.is_parametrized(m)]
    for layer in layers:
        if layer.weight.requires_grad:
            # Output channels are dimension 1 of a transposed kernel.
            parametrizations.spectral_norm(layer, dim=int(isinstance(layer, nn.ConvTranspose2d)))
    return network


class Dropout(nn.Dropout):
    """``nn.Dropout`` with a quarter of the random draws on a CPU.

    Srivastava et al. 2014.
    torch draws one 53-bit number per element there, on one thread: most of the time of the 256 px discriminators.
    Sixteen bits suffice; the probability is rounded to a multiple of 2^-16. Other devices use torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        dropped = round(self.p * 2**16)
        if not self.training or not 0 < dropped < 2**16 or input.device.type != "cpu":
            return super().forward(input)
        count = input.numel()
        # Four 16-bit numbers from each 64-bit draw.
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
        threshold = dropped - 2**15  # int16 values from here on keep an element
        # In place: 0 where dropped; -1, which has all bits set, where kept.
        mask = bits.clamp_(threshold - 1, threshold).neg_().add_(threshold - 1)
        if input.dim() == 4:
            # Drawn pixel by pixel in any memory layout: speed.channels_last must not change what is dropped.
            n, c, h, w = input.shape
            mask = mask.view(n, h, w, c).permute(0, 3, 1, 2)
            mask = mask.contiguous() if input.is_contiguous() else mask
        else:
            mask = mask.view(input.shape)
        scale = 2**16 / (2**16 - dropped)  # of the rounded probability, so that the mean stays exact
        if input.dtype == torch.bfloat16:
            return _BitMask.apply(input, mask) * scale
        return input * mask * -scale  # the mask is -1 where kept


class _BitMask(torch.autograd.Function):
    """AND 16-bit floats with a mask: a fifth of the cost of a product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return (x.view(torch.int16) & mask).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        (gradient,) = gradients
        if mask.dim() == 4 and mask.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)  # Flatten returns another layout
        return _BitMask.apply(gradient, mask), None


# Output range


def clip_output(x: Tensor) -> Tensor:
    """Clamp image values to [-1, 1]; gradients lead clipped values back inside.

    A generator can then reach the exact black of a medical image with any lower value. Gradients that lead further
    out of the range are dropped.
    """
    return _ClipOutput.apply(x)


class _ClipOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        # Descent moves against the gradient.
        outwards = ((x < -1) & (gradient > 0)) | ((x > 1) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0)


# Initialisation, for module.apply


def glorot_uniform(module: nn.Module) -> None:
    """Initialise a layer like Keras: Glorot uniform kernel, zero bias."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def dcgan_normal(module: nn.Module) -> None:
    """Initialise like the DCGAN paper.

    Kernels N(0, 0.02), norm scales N(1, 0.02), zero biases.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def draw_noise(*shape: int, like: Tensor) -> Tensor:
    """Draw standard normal noise of the type and device of ``like``.

    The numbers are those of float32, so that a generator in double or half precision makes the same images; bfloat16,
    in which networks train, is drawn directly.
    """
    dtype = torch.bfloat16 if like.dtype == torch.bfloat16 else torch.float32
    return torch.randn(*shape, dtype=dtype, device=like.device).to(like.dtype)
