"""The feature maps inside a discriminator, as timm's ``features_only=True`` returns those of a classifier."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.models.base import Discriminator


class DiscriminatorFeatures(nn.Module):
    """Map images to one feature map per resolution, from fine to coarse.

    The map of a resolution is the last one that the discriminator computes at it; logits are none.

    Attributes:
        discriminator: whose maps these are.
        feature_info: of each map ``num_chs`` (channels), ``reduction`` (image side by map side) and ``module`` (its
            name in the discriminator).
    """

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.feature_info = _find_maps(discriminator)
        self._maps: dict[str, Tensor] = {}
        for info in self.feature_info:
            name = info["module"]
            discriminator.get_submodule(name).register_forward_hook(self._keep(name))

    def forward(self, x: Tensor, label: Tensor | None = None) -> list[Tensor]:
        """Return feature maps (N, num_chs, H, W) of images (N, C, R, R) in [-1, 1].

        With ``discriminator.packing`` the first axis is that of packs.
        """
        try:
            self.discriminator(x, label)
            return [self._maps[info["module"]] for info in self.feature_info]
        finally:
            self._maps.clear()  # or they would keep a graph alive

    if TYPE_CHECKING:  # nn.Module's own returns Any

        def __call__(self, x: Tensor, label: Tensor | None = None) -> list[Tensor]: ...

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            self._maps[name] = output

        return hook


def _find_maps(discriminator: Discriminator) -> list[dict[str, Any]]:
    """Return module, channels and reduction of the last map of each resolution, from shapes alone."""
    image = discriminator.image
    network = copy.deepcopy(discriminator).to("meta").eval()
    last: dict[int, dict[str, Any]] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            # One channel: a map of logits.
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] > 1:
                side = output.shape[2]
                last[side] = {"num_chs": output.shape[1], "reduction": image.resolution // side, "module": name}

        return hook

    # Discriminators of smaller images have maps of sizes that the large one has, too.
    smaller = tuple(
        f"{name}."
        for name, module in network.named_modules()
        if isinstance(module, Discriminator) and module.image.resolution < image.resolution
    )
    for name, module in network.named_modules():
        if not name or f"{name}.".startswith(smaller):
            continue
        if "parametrizations" not in name.split("."):  # a kernel under spectral norm is no map
            module.register_forward_hook(record(name))
    count = max(2, getattr(network, "packing", 1))
    x = torch.zeros(count, image.channels, image.resolution, image.resolution, device="meta")
    label = torch.zeros(count, dtype=torch.int64, device="meta") if image.classes else None
    with torch.no_grad():
        network(x, label)
    return [last[side] for side in sorted(last, reverse=True)]
