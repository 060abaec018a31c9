"""Convolutions with fast gradients, and gradients of those."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Settings = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups

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


class _Convolution(torch.autograd.Function):
    """Convolution of images with a kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, settings: Settings) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.settings = settings
        stride, padding, dilation, groups = settings
        return torch.convolution(x, kernel, None, stride, padding, dilation, False, [0, 0], groups)

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
        return _backward(gradient, x, kernel, settings, by_kernel=False)

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
        return _backward(gradient, x, kernel, settings, by_kernel=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        gradient, x = ctx.saved_tensors
        by_gradient = by_x = None
        if ctx.needs_input_grad[0]:
            by_gradient = _Convolution.apply(x, gradients[0], ctx.settings)
        if ctx.needs_input_grad[1]:
            by_x = _ImageGradient.apply(gradient, x, gradients[0], ctx.settings)
        return by_gradient, by_x, None, None


def _backward(gradient: Tensor, x: Tensor, kernel: Tensor, settings: Settings, *, by_kernel: bool) -> Tensor:
    stride, padding, dilation, groups = settings
    wanted = [not by_kernel, by_kernel, False]
    result = torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, stride, padding, dilation, False, [0, 0], groups, wanted
    )
    return result[1 if by_kernel else 0]
