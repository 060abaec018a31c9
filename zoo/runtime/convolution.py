"""Convolutions with fast gradients, and gradients of those."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Settings = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups

MIN_POINTWISE = 8  # channels on both sides
MAX_NARROW = 32  # taps of all channels of a narrow result

_by_images_alone = False  # see `image_gradients`


class FastDoubleBackward(TorchFunctionMode):
    """Compute ``F.conv2d`` in a block so that gradients of its gradients are convolutions of the usual kind.

    torch's own second derivative is a convolution with maps as kernels, one per group where there are groups. Here
    gradients by the image and by the kernel are functions whose gradients are again one of the three (the idea is that
    of ``conv2d_gradfix`` in Karras et al. 2021, arXiv:2106.12423). Results differ by rounding.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            return convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def image_gradients() -> Iterator[None]:
    """Compute no gradients by kernels in a block that asks for those by images alone: a function cannot see it."""
    global _by_images_alone
    before, _by_images_alone = _by_images_alone, True
    try:
        yield
    finally:
        _by_images_alone = before


class FastConv2d(nn.Conv2d):
    """``nn.Conv2d``, in training as products of matrices where those are faster; see :func:`_choose_method`."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or isinstance(self.padding, str):
            return super().forward(input)
        settings = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        if _choose_method(input, self.weight, settings) is None:
            return super().forward(input)
        return convolve(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class FastConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d``, in training of single pixels as a dense layer."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        single = input.shape[2:] == (1, 1) and self.groups == 1 and not any((*self.padding, *self.output_padding))
        if not (single and self.training and output_size is None and self.dilation == (1, 1)):
            return super().forward(input, output_size)
        count, out, height, width = len(input), self.out_channels, *self.kernel_size
        # In the memory layout of the kernel, which may have millions of numbers.
        if self.weight.is_contiguous():
            maps = (input.flatten(1) @ self.weight.flatten(1)).view(count, out, height, width)
        else:
            maps = input.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)
            maps = maps.view(count, height, width, out).permute(0, 3, 1, 2)
        return maps if self.bias is None else maps + self.bias[:, None, None]


def use_fast_convolutions(network: nn.Module) -> None:
    """Let the plain convolutions of ``network`` choose how they are computed; parameters stay the same objects."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = FastConv2d
        elif type(module) is nn.ConvTranspose2d:
            module.__class__ = FastConvTranspose2d


def convolve_doubled(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with 3 x 3 pixels what nearest neighbours double: (N, C, H, W) to (N, out, 2H, 2W).

    Two rows of the kernel see the same pixel: as a transposed convolution of 4 x 4 it has 16 products instead of 36.
    """
    kernel = F.pad(kernel.flip(2, 3), (1, 1, 1, 1))
    kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
    kernel = (kernel[..., 1:] + kernel[..., :-1]).transpose(0, 1)
    if x.is_contiguous(memory_format=torch.channels_last):
        kernel = kernel.contiguous(memory_format=torch.channels_last)
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``F.conv2d`` of the same arguments; its gradients can be differentiated quickly."""
    if isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    pairs = [list(value) if isinstance(value, list | tuple) else [value] * 2 for value in (stride, padding, dilation)]
    result = _Convolution.apply(input, weight, (*pairs, groups))
    return result if bias is None else result + bias[:, None, None]


def _method(x: Tensor, kernel: Tensor, settings: Settings) -> _Method:
    return _choose_method(x, kernel, settings) or _Direct(settings)


class _Convolution(torch.autograd.Function):
    """Convolution of images with a kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, settings: Settings) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.settings = settings
        return _method(x, kernel, settings).convolve(x, kernel)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernel = ctx.saved_tensors
        (gradient,) = gradients
        by_x = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_x = _ImageGradient.apply(gradient, x, kernel, ctx.settings)
        if ctx.needs_input_grad[1] and not _by_images_alone:
            by_kernel = _KernelGradient.apply(gradient, x, kernel, ctx.settings)
        return by_x, by_kernel, None


class _ImageGradient(torch.autograd.Function):
    """Gradient of a convolution by its images, from that of its result."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, kernel: Tensor, settings: Settings) -> Tensor:
        ctx.save_for_backward(gradient, kernel)
        ctx.settings = settings
        return _method(x, kernel, settings).by_image(gradient, x, kernel)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        gradient, kernel = ctx.saved_tensors
        by_gradient = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_gradient = _Convolution.apply(gradients[0], kernel, ctx.settings)
        if ctx.needs_input_grad[2]:
            by_kernel = _KernelGradient.apply(gradient, gradients[0], kernel, ctx.settings)
        return by_gradient, None, by_kernel, None


class _KernelGradient(torch.autograd.Function):
    """Gradient of a convolution by its kernel, from that of its result."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, kernel: Tensor, settings: Settings) -> Tensor:
        ctx.save_for_backward(gradient, x)
        ctx.settings = settings
        return _method(x, kernel, settings).by_kernel(gradient, x, kernel)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        gradient, x = ctx.saved_tensors
        by_gradient = by_x = None
        if ctx.needs_input_grad[0]:
            by_gradient = _Convolution.apply(x, gradients[0], ctx.settings)
        if ctx.needs_input_grad[1]:
            by_x = _ImageGradient.apply(gradient, x, gradients[0], ctx.settings)
        return by_gradient, by_x, None, None


class _Method(Protocol):
    """A way to compute a convolution and its gradients."""

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor: ...

    def by_image(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor: ...

    def by_kernel(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor: ...


def _choose_method(x: Tensor, kernel: Tensor, settings: Settings) -> _Method | None:
    """Return a faster way than torch's; None: torch's is best, or ``x`` is not float32 or float64 on the CPU."""
    stride, padding, dilation, groups = settings
    out, _, height, width = kernel.shape
    if x.device.type != "cpu" or x.dtype != kernel.dtype or torch.is_autocast_enabled("cpu") or dilation != [1, 1]:
        return None
    if padding == [0, 0] and groups == out == x.shape[1] and x.shape[2:] == (height, width):
        return _WholeMap()
    if stride != [1, 1] or groups != 1 or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    if height == width == 1 and padding == [0, 0] and min(kernel.shape[:2]) >= MIN_POINTWISE:
        return _Pointwise()
    odd = height % 2 == width % 2 == 1
    if odd and padding == [height // 2, width // 2] and out * height * width <= MAX_NARROW and height > 1:
        return _Narrow()
    return None


class _Direct:
    """torch's own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        stride, padding, dilation, groups = self.settings
        return torch.convolution(x, kernel, None, stride, padding, dilation, False, [0, 0], groups)

    def by_image(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return self._backward(gradient, x, kernel, [True, False, False])[0]

    def by_kernel(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return self._backward(gradient, x, kernel, [False, True, False])[1]

    def _backward(self, gradient: Tensor, x: Tensor, kernel: Tensor, wanted: list[bool]) -> Any:
        stride, padding, dilation, groups = self.settings
        return torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, stride, padding, dilation, False, [0, 0], groups, wanted
        )


class _WholeMap:
    """One product of each channel's map with a kernel of its size."""

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        return (x * kernel[:, 0]).sum((2, 3), keepdim=True)

    def by_image(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return gradient * kernel[:, 0]

    def by_kernel(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return (gradient * x).sum(0)[:, None]


class _Pointwise:
    """A kernel of one pixel: a product of matrices (pixels, channels)."""

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        return _product(_pixels(x), kernel.flatten(1).T, x)

    def by_image(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return _product(_pixels(gradient), kernel.flatten(1), x)

    def by_kernel(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return (_pixels(gradient).T @ _pixels(x)).view(kernel.shape)


class _Narrow:
    """A result of few channels: one product with the taps of all of them, whose maps are shifted and added."""

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        out, _, height, width = kernel.shape
        taps = (_taps(kernel) @ _pixels(x).T).view(out, height, width, len(x), *x.shape[2:])
        result = x.new_zeros(len(x), out, *x.shape[2:])
        for down in range(height):
            for across in range(width):
                to_rows, from_rows = _overlap(down - height // 2, x.shape[2])
                to_columns, from_columns = _overlap(across - width // 2, x.shape[3])
                tap = taps[:, down, across].transpose(0, 1)
                result[:, :, to_rows, to_columns] += tap[:, :, from_rows, from_columns]
        return result

    def by_image(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        return _product(self._spread(gradient, kernel).T, _taps(kernel), x)

    def by_kernel(self, gradient: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        out, channels, height, width = kernel.shape
        taps = self._spread(gradient, kernel) @ _pixels(x)
        return taps.view(out, height, width, channels).permute(0, 3, 1, 2)

    def _spread(self, gradient: Tensor, kernel: Tensor) -> Tensor:
        """Return what reaches each tap, (out height width, pixels): the gradient, shifted."""
        out, _, height, width = kernel.shape
        rows, columns = gradient.shape[2:]
        padded = F.pad(gradient.transpose(0, 1), (width // 2, width // 2, height // 2, height // 2))
        shifted = [
            padded[
                :, :, height - 1 - down : height - 1 - down + rows, width - 1 - across : width - 1 - across + columns
            ]
            for down in range(height)
            for across in range(width)
        ]
        return torch.stack(shifted, 1).reshape(out * height * width, -1)


def _taps(kernel: Tensor) -> Tensor:
    """Return (out height width, channels)."""
    return kernel.permute(0, 2, 3, 1).flatten(0, 2)


def _pixels(x: Tensor) -> Tensor:
    """Return (N H W, C), without a copy where channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _product(pixels: Tensor, matrix: Tensor, like: Tensor) -> Tensor:
    """Return ``pixels @ matrix`` (N H W, C) as maps (N, C, H, W): no view, so that an activation may overwrite them."""
    shape = (len(like), matrix.shape[1], *like.shape[2:])
    out = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    torch.mm(pixels, matrix, out=_pixels(out))
    return out


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Return the positions that have a neighbour ``shift`` further on, and those of these neighbours."""
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))
