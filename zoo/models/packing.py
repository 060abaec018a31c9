"""Packing: a discriminator that classifies several images together (PacGAN, Lin et al. 2018, arXiv:1712.04086)."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.core.config import ImageSpec
from zoo.models.base import Discriminator


class PackedDiscriminator(Discriminator):
    """Show ``network`` neighbours in the batch as one image of as many times the channels.

    Real images are packed with real ones and fakes with fakes, so that a generator with few modes is told apart by
    packs that are too alike. There is one row of logits per pack.

    Args:
        network: a discriminator of ``packing`` times the channels of ``image``.
        image: shape of the images, without classes.
        packing: images per pack.
    """

    def __init__(self, network: Discriminator, image: ImageSpec, packing: int) -> None:
        nn.Module.__init__(self)  # the size was validated when `network` was built
        self.image, self.packing = image, packing
        self.auxiliary = dict(network.auxiliary)  # a copy, since a class's own cannot be pickled
        self.pretrained = {f"network.{part}": name for part, name in network.pretrained.items()}
        self.network = network

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map images (N, C, H, W) to logits (N / packing, ...).

        Raises:
            ValueError: N is no multiple of ``packing``.
        """
        return self.network(self._pack(x))

    def judged(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        return self.network.judged(self._pack(x))

    def _pack(self, x: Tensor) -> Tensor:
        if len(x) % self.packing:
            raise ValueError(f"discriminator.packing: {len(x)} images are no whole packs of {self.packing}")
        return x.reshape(len(x) // self.packing, -1, *x.shape[2:])
