"""Minibatch standard deviation (Karras et al. 2018, arXiv:1710.10196, section 3) in any discriminator."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.base import Discriminator
from zoo.models.batch_norm import batch_norms
from zoo.models.layers import MinibatchStd


class StdInput(nn.Module):
    """One further input channel of a layer: the deviation within groups of images.

    Convolving maps with an appended channel is convolving both and adding, so that the layer itself stays as it is.
    The channel's weights start at zero: first logits and all other weights are those of a network without it.

    Args:
        layer: convolution or dense layer.
        group: images per group, at most (see :class:`MinibatchStd`).
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, group: int) -> None:
        super().__init__()
        self.statistic = MinibatchStd(group)
        self.options: dict[str, Any] | None = None
        shape: tuple[int, ...] = (layer.weight.shape[0], 1)
        if isinstance(layer, nn.Conv2d):
            self.options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            shape = (*shape, *layer.kernel_size)
        self.weight = nn.Parameter(torch.zeros(shape, dtype=layer.weight.dtype, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the channel adds to the layer's output, given the layer's input."""
        std = self.statistic.deviations(x).to(x.dtype)
        if self.options is None:
            return F.linear(std[:, None], self.weight)
        return F.conv2d(std[:, None, None, None].expand(-1, 1, *x.shape[2:]), self.weight, **self.options)


def add_minibatch_std(network: Discriminator, probe: Discriminator, group: int) -> None:
    """Give one layer of ``network`` (see :func:`find_last_maps`) the deviation within groups as an input, in place.

    So do discriminators of smaller images that are part of it.

    Args:
        network: discriminator with weights.
        probe: the same discriminator on the meta device.
        group: images per group, at most.
    """
    layer: Any = network.get_submodule(find_last_maps(probe))
    layer.minibatch_std = StdInput(layer, group)
    # A hook, so that all other tensors keep their names: a run without can be the start of one with.
    layer.register_forward_hook(_add_std)
    for small, small_probe in zip(_further_discriminators(network), _further_discriminators(probe), strict=True):
        add_minibatch_std(small, small_probe, group)


def _further_discriminators(network: Discriminator) -> list[Discriminator]:
    """Return the discriminators that ``network`` consists of besides itself, which look at smaller images."""
    lists = [part for part in network.children() if isinstance(part, nn.ModuleList)]
    return [part for parts in lists for part in parts if isinstance(part, Discriminator)]


def find_last_maps(probe: Discriminator) -> str:
    """Return the name of the layer that should see the variety of a batch.

    It is the first convolution on the smallest maps, as in the paper: layers after it can combine the variety with
    what they see. A batch norm would subtract what is equal in the whole batch, so that only layers after the last one
    count: often the last layer of all.

    Args:
        probe: discriminator on the meta device.
    """
    norms = set(batch_norms(probe))
    calls: list[tuple[str, int]] = []  # convolutions and dense layers since the last norm, and their input's pixels

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module in norms:
            calls.clear()
        elif isinstance(module, nn.Linear):
            calls.append((name, 1))
        else:
            calls.append((name, inputs[0].shape[2:].numel()))

    hooks = []
    # Not in discriminators of smaller images, whose last maps may be smaller still.
    smaller = {part for small in _further_discriminators(probe) for part in small.modules()}
    for name, module in probe.named_modules():
        if module in smaller:
            continue
        dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if module in norms or (dense and any(p.requires_grad for p in module.parameters())):
            hook = lambda module, inputs, name=name: record(name, module, inputs)  # noqa: E731
            hooks.append(module.register_forward_pre_hook(hook))
    image = probe.image
    label = torch.zeros(2, dtype=torch.int64, device="meta") if image.classes else None
    probe.eval()(torch.empty(2, image.channels, image.resolution, image.resolution, device="meta"), label)
    for hook in hooks:
        hook.remove()
    maps = [call for call in calls if call[1] > 1]
    return min(maps, key=lambda call: call[1])[0] if maps else calls[0][0]


def _add_std(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + layer.minibatch_std(inputs[0])
