"""What a network is made of: its layers with output sizes, parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A row of a layer table, for one image."""

    name: str
    kind: str
    output: tuple[int, ...]  # without the batch dimension
    parameters: int  # trainable
    macs: int  # multiply-adds of convolutions and matrix products


@dataclass(frozen=True, kw_only=True)
class Description:
    layers: list[Layer]
    parameters: int
    macs: int


def trainable(network: nn.Module) -> int:
    """How many parameters learn."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def describe(recipe: Recipe) -> tuple[Description, Description]:
    """Generator and discriminator of a recipe, from shapes alone: nothing is allocated or computed."""
    G, D = recipe.build("meta")
    image = recipe.image
    z = torch.empty(1, G.latent.dim, device="meta")
    x = torch.empty(1, image.channels, image.resolution, image.resolution, device="meta")
    return _describe(G.eval(), z), _describe(D.eval(), x)


def _describe(network: nn.Module, inputs: Tensor) -> Description:
    """Shapes of one image's way through are seen by hooks; two floating-point operations are one multiply-add."""
    seen: dict[str, tuple[int, ...]] = {}
    leaves = {name: module for name, module in network.named_modules() if not list(module.children())}

    def look(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = tuple(output.shape[1:])

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in leaves.items()]
    counter = FlopCounterMode(display=False)
    with counter:
        network(inputs)
    for handle in handles:
        handle.remove()
    counts = counter.get_flop_counts()
    root = type(network).__name__
    layers = [
        Layer(
            name=name,
            kind=type(module).__name__,
            output=seen.get(name, ()),
            parameters=trainable(module),
            macs=sum(counts.get(f"{root}.{name}", {}).values()) // 2,
        )
        for name, module in leaves.items()
    ]
    return Description(
        layers=layers,
        parameters=trainable(network),
        macs=counter.get_total_flops() // 2,
    )
