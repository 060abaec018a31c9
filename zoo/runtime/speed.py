"""The switches of a recipe's ``speed:`` section, and its precision, as this machine can have them.

What ``auto`` means was measured (benchmarks/README.md): on a CPU, bf16, channels_last, fused optimisers and reused
memory are on and ``torch.compile`` is off, because compiled discriminators take gradients nobody asked for and random
numbers cannot be fused away without changing them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from zoo.core.config import Recipe
from zoo.runtime import distributed

Network = TypeVar("Network", bound=nn.Module)

# Of <malloc.h>: parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What is on, on ``device``; see :class:`zoo.core.config.SpeedConfig`."""

    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    tf32: bool = False
    fused: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    reuse_memory: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "device"}

    def autocast(self, *, enabled: bool = True) -> torch.autocast:
        """The context of a forward pass; not ``enabled``: of one in fp32."""
        low = enabled and self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low)

    def network(self, network: Network) -> Network:
        """``network`` on the device, its kernels laid out as fast convolutions want them."""
        network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def images(self, images: Tensor) -> Tensor:
        """(N, C, H, W), laid out like the kernels."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def begin(self) -> None:
        """Set what holds for the whole process."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # whose stream recordings are made on
            torch.backends.cudnn.allow_tf32 = self.tf32
            torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
            torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()  # shapes never change
        if self.reuse_memory:
            _keep_freed_memory()


def choose_speed(recipe: Recipe, device: torch.device, say: Callable[[str], None] | None = None) -> Speed:
    """The switches of ``recipe`` on ``device``; ``say`` is told in a line of each that was asked for and is not to be
    had.
    """
    say = say or (lambda line: None)
    config, cuda, cpu = recipe.speed, device.type == "cuda", device.type == "cpu"
    wanted = recipe.train.precision
    low = has_bf16(device)
    if wanted == "bf16" and not low:
        say(f"train.precision bf16: {device.type} here computes with it by emulation, which is slow")
    precision: Literal["fp32", "bf16"] = "bf16" if wanted == "bf16" or (wanted == "auto" and low) else "fp32"

    def switch(name: str, value: bool | str, helps: bool, why_not: str | None) -> bool:
        if value is True and why_not:
            say(f"speed.{name}: {why_not}; off")
        return not why_not and (helps if value == "auto" else bool(value))

    # Several processes' norms talk inside a pass; one that records or compiles, or fails to, must not do it alone.
    talking = distributed.current_world().size > 1 and recipe.train.sync_batch_norm
    alone = "needs one process, or train.sync_batch_norm: false" if talking else None
    no_cuda = None if cuda else f"needs CUDA, and this is {device.type}"
    old = None if not cuda or torch.cuda.get_device_capability(device) >= (8, 0) else "needs an Ampere GPU or later"
    compiler = None if not cuda or importlib.util.find_spec("triton") else "needs the package triton"
    glibc = None if platform.libc_ver()[0] == "glibc" else "needs the GNU C library"
    return Speed(
        device=device,
        precision=precision,
        channels_last=switch("channels_last", config.channels_last, cpu or cuda, None),
        tf32=switch("tf32", config.tf32, precision == "bf16", no_cuda or old),
        fused=switch("fused", config.fused, True, None if cpu or cuda else f"not on {device.type}"),
        compile=switch("compile", config.compile, cuda, compiler or alone),
        cuda_graphs=switch("cuda_graphs", config.cuda_graphs, True, no_cuda or alone),
        reuse_memory=switch("reuse_memory", config.reuse_memory, cpu, glibc),
    )


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bf16 numbers by itself: Ampere GPUs and later; CPUs with AVX-512 bf16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # torch has no public word for it (2.8 to 2.15); a version without these is taken to have no fast bf16.
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in names)
    return False


def set_compile_cache(folder: os.PathLike[str] | str) -> None:
    """Keep what torch.compile makes in ``folder``, unless the user has said where."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.fspath(folder))


def _keep_freed_memory() -> None:
    """Have malloc keep what is freed.

    By default each map of more than some MB is asked of the system and given back, and touching it afresh costs a page
    fault every 4 KB: a quarter of a generator's step at 256 pixels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 64 << 20)


def is_compiler_error(error: BaseException) -> bool:
    """Whether it was the compiler that failed, and not what it compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))


class CompiledNetwork:
    """A network's forward pass, compiled at its first call.

    Random numbers are drawn by torch's own kernels, as in the network itself. A network that cannot be compiled runs
    as it is, and a line says so.

    Args:
        network: what to call.
        on: compile it.
        say: is told that compilation begins, how long it took, and of failures.
    """

    def __init__(self, network: nn.Module, on: bool, say: Callable[[str], None]) -> None:
        self.network, self.say = network, say
        self._function: Callable[[Tensor, Tensor | None], Tensor] | None = None
        self._called = False
        if on:
            import torch._inductor.config as inductor

            inductor.fallback_random = True
            self._function = torch.compile(network, dynamic=False)

    def __call__(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if self._function is None:
            return self.network(x, label)
        name, start = type(self.network).__name__, time.monotonic()
        if not self._called:
            self.say(f"compiling {name} (once: it is kept for later runs)")
        try:
            result = self._function(x, label)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler, or its absence, may answer
            self.give_up(error)
            return self.network(x, label)
        if not self._called:
            self._called = True
            self.say(f"compiled {name} in {time.monotonic() - start:.1f} s")
        return result

    def give_up(self, error: Exception) -> None:
        """Call the network itself from here on."""
        if self._function is not None:
            self._function = None
            words = str(error).strip().splitlines() or [type(error).__name__]
            self.say(f"speed.compile: {type(self.network).__name__}: {words[0]}; off")
