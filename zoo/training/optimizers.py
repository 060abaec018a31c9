"""Optimisers of a recipe, and their state across machines."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from zoo.core.config import OptimizerConfig, Recipe
from zoo.core.schedule import Schedule


class Adam(torch.optim.Adam):
    """Adam that does not import ``torch._dynamo`` (3 s) at its first step; only compiling a step would need it."""

    # inspect.unwrap leaves out torch's wrapper, which imports it, and with it `no_grad`.
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class SGD(torch.optim.SGD):
    """The same of SGD."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def build_optimizer(config: OptimizerConfig, network: nn.Module, *, fused: bool) -> Optimizer:
    """The optimiser of one network with its learning rate at the start; ``fused``: one pass over memory per step."""
    lr = config.lr.at(0)
    if config.name == "sgd":
        return SGD(network.parameters(), lr=lr, momentum=config.momentum, fused=fused or None)
    return Adam(network.parameters(), lr=lr, betas=config.betas, eps=config.eps, fused=fused or None)


def optimizer_configs(recipe: Recipe) -> dict[str, OptimizerConfig]:
    """The settings of all optimisers: of ``G``, ``D`` and the helpers (see ``zoo.training.networks.build_helpers``)."""
    configs = {"G": recipe.optimizer.generator, "D": recipe.optimizer.discriminator}
    if recipe.autoencoder is not None:
        configs["encoder"] = OptimizerConfig(lr=Schedule.parse(recipe.autoencoder.lr), betas=(0.9, 0.99))
    if recipe.scales is not None:
        configs |= {"heads": recipe.optimizer.generator, "scale_discriminators": recipe.optimizer.discriminator}
    return configs


def build_optimizers(recipe: Recipe, networks: Mapping[str, nn.Module], *, fused: bool) -> dict[str, Optimizer]:
    """The optimisers of all networks, by the names of :func:`optimizer_configs`."""
    configs = optimizer_configs(recipe)
    return {name: build_optimizer(config, networks[name], fused=fused) for name, config in configs.items()}


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any], *, fused: bool) -> None:
    """Load a checkpoint's state, laid out as this machine's kernels need it."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["fused"] = fused or None  # a property of this machine, not of the one that saved
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if key == "step":  # fused kernels count steps on the device
                moments[key] = value.to(parameter.device if fused else "cpu")
            elif value.shape == parameter.shape and value.stride() != parameter.stride():
                # Fused kernels walk through memory and need moments in the order of their parameter.
                moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of ``network``: a compiled backward pass computes all that are asked for."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
