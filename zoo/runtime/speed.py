"""The switches of a recipe's ``speed:`` section, and its precision, as far as this machine has them.

What ``auto`` means was measured (docs/speed.md). A switch changes numbers by rounding at most.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import os
import platform
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from zoo.core.config import Recipe
from zoo.core.errors import error_message
from zoo.core.files import is_private
from zoo.runtime import distributed
from zoo.runtime.convolution import FastDoubleBackward, use_fast_convolutions
from zoo.runtime.kernels import load_kernels

Module = TypeVar("Module", bound=nn.Module)
Say = Callable[[str], None]

# Parameters of mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_HEAP_GROWTH_BYTES = 64 << 20

# Modules in which compiling fails. Generated modules are called torch._inductor.runtime.compile_tasks.KEY. Others of
# torch._dynamo and torch._functorch also call what is not compiled, such as optimisers and torch.func.
_COMPILER_MODULES = (
    "torch._inductor.",
    "torch._functorch._aot_autograd.",
    "torch._functorch.aot_autograd",
    "torch._functorch.partitioners",
    "torch._dynamo.backends.",
    "torch._dynamo.convert_frame",
)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The switches that are on for ``device``; see :class:`zoo.core.config.SpeedConfig`."""

    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    tf32: bool = False
    fused: bool = False
    fused_layers: bool = False
    compile: Literal["reduce-overhead"] | bool = False
    reuse_memory: bool = False
    threads: int | None = None  # None: as torch has it

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "device"}

    def autocast(self, *, enabled: bool = True) -> torch.autocast:
        """The context of a forward pass in the chosen precision; ``enabled=False``: in fp32."""
        low = enabled and self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low)

    def double_backward(self, *, enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
        """The context of what gradients of gradients are taken of."""
        return FastDoubleBackward() if enabled and self.fused_layers else contextlib.nullcontext()

    @contextlib.contextmanager
    def forward_pass(self, *, differentiated: bool) -> Iterator[None]:
        """The context of a forward pass; ``differentiated``: of gradients of gradients, which are in fp32."""
        with self.autocast(enabled=not differentiated), self.double_backward(enabled=differentiated):
            yield

    def network(self, network: Module) -> Module:
        """Move ``network`` to the device and lay out its kernels as fast convolutions need them."""
        for module in network.modules():
            if hasattr(module, "fused"):
                setattr(module, "fused", self.fused_layers)  # noqa: B010  # a plain attribute, for mypy
            if isinstance(module, nn.Sequential) and self.fused_layers:
                _activate_in_place(module)
        if self.fused_layers:
            use_fast_convolutions(network)
        network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def images(self, images: Tensor) -> Tensor:
        """Lay out (N, C, H, W) like the kernels."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def begin(self) -> None:
        """Set what holds for the whole process."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.allow_tf32 = self.tf32
            torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
            torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()  # shapes never change
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.reuse_memory:
            _keep_freed_memory()
        if not self.compile:
            _leave_out_dynamo()

    def begin_step(self) -> None:
        """Let a step reuse the memory of the last one's CUDA graphs, whose outputs are no longer needed."""
        if self.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()


def _activate_in_place(layers: nn.Sequential) -> None:
    """Let activations overwrite the result of a layer before them whose gradient does not need it."""
    overwritten = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.Dropout)
    for layer, activation in pairwise(layers):
        if isinstance(layer, overwritten) and isinstance(activation, nn.ReLU | nn.LeakyReLU):
            activation.inplace = True


@dataclass(frozen=True, kw_only=True)
class AutoChoice:
    """What ``auto`` stands for where it was measured or is recorded (see ``zoo.training.auto_speed``)."""

    precision: Literal["fp32", "bf16"]
    channels_last: bool
    threads: int | None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> AutoChoice:
        """Return the choice in :meth:`Speed.to_json`; earlier versions recorded no threads."""
        return cls(precision=values["precision"], channels_last=values["channels_last"], threads=values.get("threads"))


def choose_speed(
    recipe: Recipe, device: torch.device, say: Say | None = None, *, auto: AutoChoice | None = None
) -> Speed:
    """Return the switches of ``recipe`` on ``device``.

    Args:
        say: gets a line for each switch that was asked for and is unavailable.
        auto: what ``auto`` stands for; None: what the hardware says it has.
    """
    say = say or (lambda line: None)
    config, cuda, cpu = recipe.speed, device.type == "cuda", device.type == "cpu"
    if config.cuda_graphs is True:
        say("speed.cuda_graphs: has no effect in this version; set speed.compile: reduce-overhead to use CUDA graphs")

    def switch(name: str, value: bool | str, helps: bool, unavailable: str | None) -> bool:
        if value not in ("auto", False) and unavailable:
            say(f"speed.{name}: {unavailable}; off")
        return not unavailable and (helps if value == "auto" else bool(value))

    # Synchronised norms communicate inside a forward pass: a process that compiles, or fails to, must not do it alone.
    synchronised = distributed.current_world().size > 1 and recipe.train.sync_batch_norm
    alone = "needs one process, or train.sync_batch_norm: false" if synchronised else None
    no_cuda = None if cuda else f"needs CUDA, and this is {device.type}"
    old_gpu = None if not cuda or torch.cuda.get_device_capability(device) >= (8, 0) else "needs an Ampere GPU or later"
    no_triton = None if not cuda or importlib.util.find_spec("triton") else "needs the package triton"
    no_glibc = None if platform.libc_ver()[0] == "glibc" else "needs the GNU C library"
    wanted, threads = recipe.train.precision, config.threads
    precision = auto.precision if auto and wanted == "auto" else _choose_precision(wanted, device, say)
    compiled = switch("compile", config.compile, False, no_triton or alone)  # see docs/speed.md, "On a GPU"
    no_kernels = "needs the CPU, and speed.compile: false" if not cpu or compiled else None
    if no_kernels is None and config.fused_layers is not False and not load_kernels():
        no_kernels = "needs a C compiler"
    return Speed(
        device=device,
        precision=precision,
        channels_last=switch("channels_last", config.channels_last, auto.channels_last if auto else cpu or cuda, None),
        tf32=switch("tf32", config.tf32, precision == "bf16", no_cuda or old_gpu),
        fused=switch("fused", config.fused, True, None if cpu or cuda else f"not on {device.type}"),
        fused_layers=switch("fused_layers", config.fused_layers, True, no_kernels),
        compile="reduce-overhead" if compiled and config.compile == "reduce-overhead" else compiled,
        reuse_memory=switch("reuse_memory", config.reuse_memory, cpu, no_glibc),
        threads=threads if threads != "auto" else auto.threads if auto else None,
    )


def _choose_precision(wanted: str, device: torch.device, say: Say) -> Literal["fp32", "bf16"]:
    fast = has_bf16(device)
    if wanted == "bf16" and not fast:
        say(f"train.precision bf16: {device.type} on this machine emulates it, which is slow")
    return "bf16" if wanted == "bf16" or (wanted == "auto" and fast) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bf16 in hardware: Ampere GPUs and later; CPUs with AVX-512 bf16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # torch has no public name for it (2.8 to 2.15); a version without these counts as having no fast bf16.
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in names)
    return False


def set_compile_cache(folder: Path, say: Say) -> None:
    """Keep what torch.compile produces in ``folder``, unless the user has set a folder.

    What is found there is loaded as code: if others can write there, a line says so, and a temporary folder is used.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    if is_private(folder):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.fspath(folder)
        return
    say(f"{folder}: others own it or can write there; compiled code is neither read from it nor kept (chmod go-w)")
    temporary = tempfile.mkdtemp(prefix="zoo-compiled-")  # mode 0700
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = temporary


def _leave_out_dynamo() -> None:
    """Let optimisers work without ``torch._dynamo``, whose import takes 3 s, where nothing is compiled.

    Torch wraps some of their methods so that dynamo passes them over, and imports it for that at the first call
    (``torch._compile._disable_dynamo``). A version of torch that does so in another way is left as it is.
    """
    for method in vars(torch.optim.Optimizer).values():
        function = getattr(method, "__wrapped__", None)
        if function is not None and not hasattr(function, "__dynamo_disable"):
            function.__dynamo_disable = function


def _keep_freed_memory() -> None:
    """Let malloc keep freed memory.

    By default each map of more than some MB is requested from the system and given back, and touching it again costs a
    page fault every 4 KB: a quarter of a generator's step at 256 pixels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, _HEAP_GROWTH_BYTES)


def is_compiler_error(error: BaseException) -> bool:
    """Whether torch's compiler or the code that it generated failed, and not what it compiled.

    Code generated by inductor checks its tensors with plain assertions, and what the compiler calls raises errors of
    any type: such errors are recognised by the modules in their traceback.
    """
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch")):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).startswith(_COMPILER_MODULES) for frame, _ in frames)


class CompiledNetwork:
    """A network's forward pass, compiled at its first call where ``speed.compile`` is on.

    Random numbers are drawn by torch's own kernels, as in the network itself. A network whose forward pass cannot be
    compiled runs uncompiled, and a line says so.

    Args:
        network: network to call.
        speed: whether to compile, and in which mode.
        say: gets a line when compilation starts, how long it took, and when it fails.
        enabled: False: never compile.
    """

    def __init__(self, network: nn.Module, speed: Speed, say: Say, *, enabled: bool = True) -> None:
        self.network, self.say = network, say
        self._function: Callable[[Tensor, Tensor | None], Tensor] | None = None
        self._called = False
        if speed.compile and enabled:
            import torch._inductor.config as inductor

            inductor.fallback_random = True
            mode = speed.compile if isinstance(speed.compile, str) else None
            self._function = torch.compile(network, dynamic=False, mode=mode)

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
        except Exception as error:  # compilers, or their absence, raise errors of any type
            self._function = None
            self.say(f"speed.compile: {name}: {error_message(error)}; off")
            return self.network(x, label)
        if not self._called:
            self._called = True
            self.say(f"compiled {name} in {time.monotonic() - start:.1f} s")
        return result
