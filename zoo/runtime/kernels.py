"""Layers of training in compiled C (``kernels.c``): float32 on the CPU, channels last."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.runtime.c_compiler import compile_and_load

LANES = 16  # channels of a vector
CHUNK = 64  # pixels whose sums are added in float32
_TYPES = {"a": ctypes.c_void_p, "f": ctypes.c_float, "s": ctypes.c_ssize_t}  # address, float, size
_FUNCTIONS = {
    "bias_leaky": "aafss",
    "bias_leaky_gradient": "aaaaafss",
    "norm_statistics": "aaaass",
    "norm_gate": "aaaass",
    "norm_gate_sums": "aaaaaaass",
    "norm_gate_gradient": "aaaaaaaass",
}
_loaded: list[ctypes.CDLL] = []


def load_kernels() -> bool:
    """Compile the kernels, or load them from the cache; return whether that is possible here."""
    if not _loaded:
        _share_threads()
        library = compile_and_load(Path(__file__).with_name("kernels.c"), "-fopenmp")
        if library is None:
            return False
        for name, types in _FUNCTIONS.items():
            function = getattr(library.code, name)
            function.argtypes, function.restype = [_TYPES[letter] for letter in types], None
        _loaded.append(library.code)
    return True


def _share_threads() -> None:
    """Let the kernels run on torch's own threads: those of a second pool would wait for the cores it keeps busy."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            path = line.rpartition(" ")[2]
            if "libgomp" in path or "libiomp" in path:
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
                return


def _run(name: str, tensors: list[Tensor], *numbers: float) -> None:
    getattr(_loaded[0], name)(*(tensor.data_ptr() for tensor in tensors), *numbers)


def can_read(x: Tensor, multiple: int = LANES) -> bool:
    """Whether the kernels can read maps (N, C, H, W), of ``multiple`` channels or several times as many."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and bool(_loaded) and x.shape[1] % multiple == 0
    return plain and x.is_contiguous(memory_format=torch.channels_last)


class BiasLeaky(torch.autograd.Function):
    """Bias and leaky ReLU of maps (N, C, H, W), in place: ``apply(x, bias, slope)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, slope: float) -> Tensor:
        ctx.mark_dirty(x)
        _run("bias_leaky", [x, bias], slope, x.numel() // x.shape[1], x.shape[1])
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return (*_BiasLeakyGradient.apply(gradients[0], *ctx.saved_tensors, ctx.slope), None)


class _BiasLeakyGradient(torch.autograd.Function):
    """Gradients by maps and bias, from that of the result; linear in it, and so its own derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, result: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        channels, pixels = result.shape[1], result.numel() // result.shape[1]
        out, sums = torch.empty_like(result), torch.empty(channels)
        scratch = torch.empty(-(-pixels // CHUNK) * channels)
        _run("bias_leaky_gradient", [result, gradient, out, sums, scratch], slope, pixels, channels)
        ctx.save_for_backward(result)
        ctx.slope = slope
        ctx.set_materialize_grads(False)
        return out, sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        (result,) = ctx.saved_tensors
        by_out, by_sums = gradients
        if by_sums is not None:
            spread = by_sums[:, None, None].expand_as(result)
            by_out = spread if by_out is None else by_out + spread
        return None if by_out is None else _BiasLeakyGradient.apply(by_out, result, ctx.slope)[0], None, None


class NormGate(torch.autograd.Function):
    """Batch norm of a batch's own statistics, then value times sigmoid of the gate; differentiable once.

    ``apply(x, weight, bias, eps)`` maps (N, 2 C, H, W) to (N, C, H, W), and returns the mean and the biased variance of
    each channel as well.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, channels, height, width = x.shape
        pixels = n * height * width
        mean, variance = torch.empty(2, channels)
        chunks = -(-pixels // CHUNK)
        _run("norm_statistics", [x, mean, variance, torch.empty(chunks * 2 * channels)], pixels, channels)
        scale = (variance + eps).rsqrt()
        gain = weight * scale
        shift = bias - mean * gain
        out = torch.empty_like(x[:, : channels // 2], memory_format=torch.channels_last)
        _run("norm_gate", [x, gain, shift, out], pixels, channels // 2)
        ctx.save_for_backward(x, mean, scale, gain, shift)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, mean, scale, gain, shift = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        pixels = n * height * width
        sums = torch.empty(2, channels)
        scratch = torch.empty(-(-pixels // CHUNK) * 2 * channels)
        _run("norm_gate_sums", [x, gradient, gain, shift, mean, sums, scratch], pixels, channels // 2)
        by_bias, by_weight = sums[0], sums[1] * scale
        inner = -gain * scale * by_weight / pixels
        rest = -gain * by_bias / pixels - inner * mean
        out = torch.empty_like(x)
        _run("norm_gate_gradient", [x, gradient, gain, shift, gain, inner, rest, out], pixels, channels // 2)
        return out, by_weight, by_bias, None
