"""The contract of networks: any generator trains with any discriminator.

Images are float tensors ``(N, C, H, W)`` in [-1, 1] (-1 is black). A network whose original works in [0, 1] converts at
its own input or output. A generator with a linear output may leave the range in training; saved images are clamped.
Discriminators return logits: where an original ends in a sigmoid, the sigmoid is part of the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig


class Generator(nn.Module):
    """Map latents to images.

    Subclasses set ``layers``, or override :meth:`forward`.

    Attributes:
        image: shape and classes of the images it generates.
        latent: the latents it takes.
    """

    layers: nn.Module

    def __init__(self, config: NetworkConfig, image: ImageSpec, latent: LatentSpec) -> None:
        super().__init__()
        config.validate(image)  # before any layer is built, so that the error names the supported sizes
        self.image = image
        self.latent = latent

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate images (N, C, H, W) in about [-1, 1].

        Args:
            z: latents (N, latent.dim).
            label: (N,) int64; None where there are no classes.
        """
        return self.layers(z)

    if TYPE_CHECKING:  # nn.Module's own returns Any

        def __call__(self, z: Tensor, label: Tensor | None = None) -> Tensor: ...


class Discriminator(nn.Module):
    """Map images to logits: positive means "real".

    Subclasses set ``layers``, which map to (N, 1), or override :meth:`forward`.

    Attributes:
        image: shape and classes of the images it takes.
        auxiliary: weights of the network's own losses, by name; :meth:`judged` returns their values.
        pretrained: submodules that start with timm's weights: submodule name to timm name. Building a network reads
            no file (see ``zoo.training.warm_start.load_pretrained_backbones``).
    """

    layers: nn.Module
    # Read-only, because subclasses without their own share them.
    auxiliary: Mapping[str, float] = MappingProxyType({})
    pretrained: Mapping[str, str] = MappingProxyType({})

    def __init__(self, config: NetworkConfig, image: ImageSpec) -> None:
        super().__init__()
        config.validate(image)  # before any layer is built, so that the error names the supported sizes
        self.image = image

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return logits for images (N, C, H, W) in [-1, 1].

        (N,), or (N, ...) with several per image.
        """
        return self.layers(x).squeeze(1)

    def judged(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits of real images, and a scalar for each name in ``auxiliary``.

        From one forward pass, in D's own phase.
        """
        return self(x, label), {}

    if TYPE_CHECKING:  # nn.Module's own returns Any

        def __call__(self, x: Tensor, label: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class StyleGenerator(Protocol):
    """The optional interface of generators with a mapping network.

    Truncation and style mixing use it.
    """

    num_styles: int  # layers or blocks that take one style each

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Map ``z`` (N, latent.dim) to styles w (N, width of w)."""
        ...

    def synthesis(self, w: Tensor) -> Tensor:
        """Generate images (N, C, H, W) from styles (N, num_styles, width of w)."""
        ...
