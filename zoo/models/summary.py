"""Layer tables of networks: output sizes, parameters and multiply-adds (MACs)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.core.config import ImageSpec
from zoo.models.base import Discriminator, Generator

_OPERATIONS_PER_MAC = 2  # FlopCounterMode counts a multiplication and an addition


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """A row of a layer table, for one image."""

    name: str
    kind: str
    output: tuple[int, ...]  # without the batch dimension
    parameters: int  # trainable
    macs: int  # of convolutions and matrix products


@dataclass(frozen=True, kw_only=True)
class NetworkSummary:
    """A network's layer table and its totals."""

    layers: list[LayerSummary]
    parameters: int
    macs: int


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def summarise_networks(G: Generator, D: Discriminator, image: ImageSpec) -> tuple[NetworkSummary, NetworkSummary]:
    """Return layer tables of a generator and a discriminator on the meta device."""
    z = torch.empty(1, G.latent.dim, device="meta")
    packing = getattr(D, "packing", 1)  # images that D classifies together
    x = torch.empty(packing, image.channels, image.resolution, image.resolution, device="meta")
    label = torch.zeros(1, dtype=torch.int64, device="meta") if image.classes else None
    return _summarise_network(G.eval(), z, label), _summarise_network(D.eval(), x, label)


def _summarise_network(network: nn.Module, inputs: Tensor, label: Tensor | None) -> NetworkSummary:
    """Summarise one forward pass.

    A row is a module that has no submodules, or has weights next to them.
    """
    rows = {name: module for name, module in network.named_modules() if _is_row(name, module)}
    outputs: dict[str, tuple[int, ...]] = {}

    def record_output(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[name] = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    # Hooks record outputs of modules, while the counter records operations inside them.
    hooks = [module.register_forward_hook(functools.partial(record_output, name)) for name, module in rows.items()]
    with FlopCounterMode(display=False) as counter:
        network(inputs, label)
    for hook in hooks:
        hook.remove()
    images = len(inputs)
    macs = {name: count // images for name, count in _count_row_macs(rows, counter, type(network).__name__).items()}
    layers = [
        LayerSummary(
            name=name,
            kind=type(module).__name__,
            output=outputs.get(name, ()),
            parameters=sum(p.numel() for p in _own_parameters(module) if p.requires_grad),
            macs=macs[name],
        )
        for name, module in rows.items()
    ]
    total = counter.get_total_flops() // _OPERATIONS_PER_MAC // images
    return NetworkSummary(layers=layers, parameters=count_parameters(network), macs=total)


def _count_row_macs(rows: dict[str, nn.Module], counter: FlopCounterMode, root: str) -> dict[str, int]:
    """Count the multiply-adds of each row without those of the rows inside it.

    The counter names modules by their path from ``root``, the network's class.
    """
    counts = counter.get_flop_counts()
    totals = {}
    for name in rows:
        operations = counts.get(f"{root}.{name}" if name else root, {})
        totals[name] = sum(operations.values()) // _OPERATIONS_PER_MAC
    macs = dict(totals)
    for name in rows:
        parent = name
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in rows:  # the nearest row around it; outer ones contain that one's total
                macs[parent] -= totals[name]
                break
    return macs


def _is_row(name: str, module: nn.Module) -> bool:
    # Spectral norm's helper modules are a part of their layer's row.
    if "parametrizations" in name.split("."):
        return False
    return bool(_own_parameters(module)) or not list(module.children())


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """List a module's parameters without those of its submodules.

    Weights that spectral norm moved to a submodule are included.
    """
    parametrized = getattr(module, "parametrizations", None)
    moved = parametrized.parameters() if isinstance(parametrized, nn.Module) else ()
    return [*module.parameters(recurse=False), *moved]
