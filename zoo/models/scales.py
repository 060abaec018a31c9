"""Smaller images from the maps inside any generator, and a discriminator for each size.

Both train along with G and D and are no part of either (after Hyun et al. 2026, arXiv:2605.26449).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.config import ImageSpec
from zoo.core.schema import SchemaError
from zoo.models.base import Generator
from zoo.models.layers import apply_spectral_norm, clip_output, halving_layers, require_label


class ImageHeads(nn.Module):
    """1 x 1 convolutions from maps inside a generator to images.

    Args:
        probe: the generator on the meta device.
        sizes: pixels per side of the images.

    Attributes:
        modules_by_size: names of the modules of the generator that make the maps.

    Raises:
        SchemaError: the generator has no maps of a size, or none that learns.
    """

    def __init__(self, probe: Generator, sizes: Sequence[int]) -> None:
        super().__init__()
        maps = find_maps(probe)
        usable = [size for size, (_, x) in maps.items() if x.requires_grad and 4 <= size < probe.image.resolution]
        for size in sizes:
            if size not in usable:
                reason = "learns nothing" if size in maps and not maps[size][1].requires_grad else "has no maps"
                raise SchemaError(
                    "scales.sizes",
                    f"{type(probe).__name__} {reason} at {size} pixels; choose from {', '.join(map(str, usable))}",
                )
        self.modules_by_size = {size: maps[size][0] for size in sizes}
        self.layers = nn.ModuleDict(
            {str(size): nn.Conv2d(maps[size][1].shape[1], probe.image.channels, 1) for size in sizes}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map maps (N, channels, size, size) to images (N, C, size, size) in [-1, 1]."""
        return clip_output(self.layers[str(x.shape[2])](x))


class ScaledGenerator(nn.Module):
    """A generator that returns its smaller images, too.

    Args:
        network: generator; its modules get hooks, which do nothing in passes of ``network`` itself.
        heads: of ``network``.
    """

    def __init__(self, network: Generator, heads: ImageHeads) -> None:
        super().__init__()
        self.network, self.heads = network, heads
        self._small: dict[int, Tensor] | None = None  # by size, during a pass
        for size, name in heads.modules_by_size.items():
            network.get_submodule(name).register_forward_hook(partial(self._keep, size))

    def forward(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Map latents (N, dim) to images (N, C, H, W), and to smaller ones in the order of the heads."""
        small = self._small = {}
        image = self.network(z, label)
        self._small = None  # or it would keep a graph alive
        return (image, *(small[size] for size in self.heads.modules_by_size))

    def _keep(self, size: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._small is not None:
            self._small[size] = self.heads(output)


class ScaleDiscriminator(nn.Module):
    """A small discriminator of images of one size, with spectral norms in place of gradient penalties.

    A 3 x 3 convolution, convolutions of stride 2 down to 4 x 4, and a dense layer; classes by projection (Miyato &
    Koyama 2018, arXiv:1802.05637).

    Args:
        image: channels and classes of the images.
        size: their pixels per side.
        channels: of the first convolution.
    """

    def __init__(self, image: ImageSpec, size: int, channels: int) -> None:
        super().__init__()
        layers, features = halving_layers(channels, size, channels)
        first = nn.Conv2d(image.channels, channels, 3, padding=1)
        self.layers = nn.Sequential(first, nn.LeakyReLU(0.2), *layers, nn.Flatten())
        self.logit = nn.Linear(features, 1)
        self.embedding = nn.Embedding(image.classes, features) if image.classes else None
        apply_spectral_norm(self)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return logits (N,) of images (N, C, size, size) in [-1, 1]."""
        x = self.layers(x)
        logits = self.logit(x).squeeze(1)
        if self.embedding is None:
            return logits
        # Scaled to the variance of a single product.
        return logits + (x * self.embedding(require_label(label))).sum(1) / math.sqrt(x.shape[1])


class ScaleDiscriminators(nn.Module):
    """One :class:`ScaleDiscriminator` for each of ``sizes``, chosen by the size of the images."""

    def __init__(self, image: ImageSpec, sizes: Sequence[int], channels: int) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({str(size): ScaleDiscriminator(image, size, channels) for size in sizes})

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.networks[str(x.shape[2])](x, label)


def find_maps(probe: Generator) -> Mapping[int, tuple[str, Tensor]]:
    """Return by size the module that makes the last maps of it, and these maps, from small to large.

    Args:
        probe: generator on the meta device.
    """
    maps: dict[int, tuple[str, Tensor]] = {}
    colours = probe.image.channels

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[2] != output.shape[3]:
            return
        size = output.shape[2]
        # A map that is smaller than one before it is a gate, made by pooling.
        if size < max(maps, default=0):
            return
        # Of as many channels as the image: an image that is added to a larger one, as StyleGAN2's.
        if output.shape[1] <= colours and size in maps and maps[size][1].shape[1] > colours:
            return
        maps[size] = (name, output)

    hooks = [
        module.register_forward_hook(partial(record, name))
        for name, module in probe.named_modules()
        if name and "parametrizations" not in name.split(".")  # a kernel is no map
    ]
    label = torch.zeros(2, dtype=torch.int64, device="meta") if probe.image.classes else None
    with torch.enable_grad():
        probe.eval()(torch.empty(2, probe.latent.dim, device="meta"), label)
    for hook in hooks:
        hook.remove()
    return maps
