"""SAN: the last layer of any discriminator as a direction with its own loss (Takida et al. 2024, arXiv:2301.12811).

Logits are scale * <w, h(x)> with a unit vector w. The adversarial loss trains h and the scale. A Wasserstein loss
trains w to separate real from fake features best, so that G's gradients measure a distance.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.errors import ZooError
from zoo.models.base import Discriminator


def slice_last_layer(network: Discriminator, probe: Discriminator) -> None:
    """Make the last layer of ``network`` a direction and a scale, in place; logits stay the same at first.

    Args:
        network: discriminator with weights.
        probe: the same discriminator on the meta device.

    Raises:
        ZooError: several layers make the logits.
    """
    layer: Any = network.get_submodule(_find_last_layer(probe))
    layer.san_scale = nn.Parameter(_weight_norm(layer))
    layer.register_forward_hook(_slice)


@torch.no_grad()
def restore_scale(network: nn.Module) -> None:
    """Give the scale that its logits have without SAN to the layer of a network, if there is one.

    For weights of a network that was trained without.
    """
    layer = find_sliced_layer(network)
    if layer is not None:
        layer.san_scale.copy_(_weight_norm(layer))


def _weight_norm(layer: Any) -> Tensor:
    return layer.weight.detach().norm() * getattr(layer, "gain", 1.0)  # a gain: of equalised layers


def find_sliced_layer(network: nn.Module) -> Any:
    """Return the layer that :func:`slice_last_layer` changed, or None.

    Its ``direction`` is scale * <w, h> of its last pass, through which only w learns.
    """
    return next((module for module in network.modules() if hasattr(module, "san_scale")), None)


def _find_last_layer(probe: Discriminator) -> str:
    calls: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: calls.append((name, output)))
        for name, module in probe.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and any(p.requires_grad for p in module.parameters())
    ]
    image = probe.image
    logits = probe.eval()(torch.empty(2, image.channels, image.resolution, image.resolution, device="meta"))
    for hook in hooks:
        hook.remove()
    name, output = calls[-1]
    if output.shape[1] != 1 or output.numel() != logits.numel():
        raise ZooError("discriminator.san: needs a discriminator whose logits come from one layer; set it to false")
    return name


def _slice(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Replace a layer's output, and keep that of the direction, which trains nothing before the layer."""
    unit = layer.weight / layer.weight.norm().clamp(min=1e-12)
    layer.direction = _apply(layer, inputs[0].detach(), unit) * layer.san_scale.detach()
    logits = _apply(layer, inputs[0], unit.detach()) * layer.san_scale
    if layer.bias is None:
        return logits
    bias = layer.bias * getattr(layer, "lr", 1.0)
    return logits + (bias if logits.dim() == 2 else bias[:, None, None])


def _apply(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)
    return F.linear(x, weight)
