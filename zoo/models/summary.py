"""Layer tables: output sizes, parameters and multiply-adds of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.core.config import ImageSpec
from zoo.models.base import Discriminator, Generator


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """A row of a layer table, for one image."""

    name: str
    kind: str
    output: tuple[int, ...]  # without the batch dimension
    parameters: int  # trainable
    macs: int  # multiply-adds of convolutions and matrix products


@dataclass(frozen=True, kw_only=True)
class NetworkSummary:
    layers: list[LayerSummary]
    parameters: int
    macs: int


def count_parameters(network: nn.Module) -> int:
    """How many parameters learn."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def summarise_networks(G: Generator, D: Discriminator, image: ImageSpec) -> tuple[NetworkSummary, NetworkSummary]:
    """Layer tables of a generator and a discriminator on the meta device: nothing is allocated or computed."""
    z = torch.empty(1, G.latent.dim, device="meta")
    x = torch.empty(1, image.channels, image.resolution, image.resolution, device="meta")
    label = torch.zeros(1, dtype=torch.int64, device="meta") if image.classes else None
    return _describe(G.eval(), z, label), _describe(D.eval(), x, label)


def _describe(network: nn.Module, inputs: Tensor, label: Tensor | None) -> NetworkSummary:
    """Shapes of one image's way through are seen by hooks; two floating-point operations are one multiply-add.

    A row is a module without submodules, or one with weights outside its submodules, which have rows themselves.
    """
    seen: dict[str, tuple[int, ...]] = {}
    rows = {name: module for name, module in network.named_modules() if _is_row(name, module)}

    def look(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in rows.items()]
    counter = FlopCounterMode(display=False)
    with counter:
        network(inputs, label)
    for handle in handles:
        handle.remove()
    counts = counter.get_flop_counts()
    root = type(network).__name__

    def macs(name: str) -> int:
        return sum(counts.get(f"{root}.{name}" if name else root, {}).values()) // 2

    def inside(name: str) -> list[str]:
        """The uppermost rows in it."""
        inner = [other for other in rows if other != name and (not name or other.startswith(f"{name}."))]
        return [other for other in inner if not any(other.startswith(f"{above}.") for above in inner)]

    layers = [
        LayerSummary(
            name=name,
            kind=type(module).__name__,
            output=seen.get(name, ()),
            parameters=sum(p.numel() for p in _own(module) if p.requires_grad),
            macs=macs(name) - sum(macs(part) for part in inside(name)),
        )
        for name, module in rows.items()
    ]
    return NetworkSummary(
        layers=layers,
        parameters=count_parameters(network),
        macs=counter.get_total_flops() // 2,
    )


def _is_row(name: str, module: nn.Module) -> bool:
    if "parametrizations" in name.split("."):
        return False
    return bool(_own(module)) or not list(module.children())


def _own(module: nn.Module) -> list[nn.Parameter]:
    """Its weights without those of its parts; with those that a norm of weights keeps for it."""
    kept = getattr(module, "parametrizations", None)
    return [*module.parameters(recurse=False), *(kept.parameters() if isinstance(kept, nn.Module) else ())]
