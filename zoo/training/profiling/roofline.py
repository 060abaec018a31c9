"""The roofline of a training step: its multiply-adds and bytes over the measured rates of the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from zoo.core.config import Recipe
from zoo.data.dataset import Dataset
from zoo.models.summary import count_parameters
from zoo.runtime.speed import Speed
from zoo.runtime.timer import synchronize
from zoo.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """The operations of a step.

    Attributes:
        macs: multiply-adds of convolutions and matrix products per image, forward and backward.
        elements: numbers that these read and write per image, each operand and result once.
        fixed: numbers read and written per step whatever the batch: weights and their gradients.
        parameters: trainable parameters of both networks, read and written by Adam.
        averaged: trainable parameters of the generator, read and written by the average.
    """

    macs: int
    elements: int
    fixed: int
    parameters: int
    averaged: int


@dataclass(frozen=True, kw_only=True)
class DeviceRates:
    """Measured rates of a device: multiply-adds per second in both precisions, bytes per second read and written."""

    fp32: float
    bf16: float
    copy: float


class MacCounter(TorchDispatchMode):
    """Counts multiply-adds of convolutions and matrix products, and the numbers they read and write.

    Unlike torch's own counter it is right for grouped convolutions, whose gradient torch counts for a full kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if packet not in flop_registry:
            return result
        if packet is torch.ops.aten.convolution_backward:
            gradient, x, kernel, transposed, wanted = (args[index] for index in (0, 1, 2, 7, 10))
            small = x if transposed else gradient
            self.macs += kernel.numel() * len(small) * math.prod(small.shape[2:]) * sum(wanted[:2])
        else:
            self.macs += flop_registry[packet](*args, **kwargs, out_val=result) // 2
        made = result if isinstance(result, tuple) else (result,)
        self.elements += sum(x.numel() for x in (*args, *made) if isinstance(x, Tensor))
        return result


def count_work(recipe: Recipe, data: Dataset) -> StepWork:
    """Count the operations of a step of ``recipe``, from steps of two and of four packs in fp32 on the CPU."""
    plain = replace(
        recipe,
        speed=replace(
            recipe.speed,
            compile=False,
            channels_last=False,
            threads=torch.get_num_threads(),
            reuse_memory=False,
            fused=False,
            fused_layers=False,
        ),
    )
    counted = []
    packing = recipe.discriminator.config.packing  # of which a batch holds whole ones
    for batch in (2 * packing, 4 * packing):
        train = replace(recipe.train, batch=batch, micro_batch=None, precision="fp32")
        trainer = Trainer(replace(plain, train=train), data, torch.device("cpu"))
        period = trainer.objective.period  # lazy penalties count for their part
        with MacCounter() as counter:
            for _ in range(period):
                trainer.step()
        trainer.loader.close()
        counted.append((counter.macs / period, counter.elements / period))
    each = round((counted[1][1] - counted[0][1]) / (2 * packing))
    sizes = [count_parameters(network) for network in (trainer.G, trainer.D)]
    return StepWork(
        macs=round(counted[1][0] / (4 * packing)),
        elements=each,
        fixed=max(0, round(counted[0][1]) - 2 * packing * each),
        parameters=sum(sizes),
        averaged=sizes[0],
    )


def measure_rates(device: torch.device) -> DeviceRates:
    """Measure the best of a few square matrix products and of a few copies on ``device``."""
    cuda = device.type == "cuda"
    sizes = (4096, 8192) if cuda else (1024, 2048)

    def product(dtype: torch.dtype) -> float:
        best = 0.0
        for n in sizes:
            a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            best = max(best, n**3 / _seconds(lambda a=a, b=b: a @ b, device))  # type: ignore[misc]
        return best

    source = torch.randn((256 if cuda else 32) << 20, device=device)
    target = torch.empty_like(source)
    return DeviceRates(
        fp32=product(torch.float32),
        bf16=product(torch.bfloat16),
        copy=2 * source.nbytes / _seconds(lambda: target.copy_(source), device),
    )


def roofline_seconds(work: StepWork, rates: DeviceRates, speed: Speed, batch: int) -> float:
    """The least time of a step of ``batch`` images.

    Products at the matrix rate of the forward precision, or their bytes at the copy rate, whichever takes longer; then
    Adam (reads four numbers and writes three per parameter) and the average (reads two, writes one): bytes alone.
    """
    low = speed.precision == "bf16"
    products = work.macs * batch / (rates.bf16 if low else rates.fp32)
    traffic = (work.elements * batch + work.fixed) * (2 if low else 4) / rates.copy
    return max(products, traffic) + (28 * work.parameters + 12 * work.averaged) / rates.copy


def _seconds(function: Callable[[], Any], device: torch.device, repeats: int = 5) -> float:
    best = float("inf")
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
