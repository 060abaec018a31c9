"""What one step trains on: real images, latents and labels, drawn for the whole batch and cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.data.dataset import Dataset
from zoo.data.loader import ImageLoader, Positions
from zoo.data.pixel_range import from_uint8
from zoo.runtime import rng
from zoo.runtime.distributed import World
from zoo.runtime.speed import Speed
from zoo.training.augment import draw_augmentations


class Fakes(NamedTuple):
    """What G makes of a micro-batch.

    Attributes:
        images: (N, C, H, W).
        small: smaller images (N, C, size, size) of the same latents, by size (``scales:``); empty for most recipes.
    """

    images: Tensor
    small: dict[int, Tensor]

    def detach(self) -> Fakes:
        """Return the images without the graph that leads back to G."""
        return Fakes(self.images.detach(), {size: images.detach() for size, images in self.small.items()})


@dataclass
class MicroBatch:
    """Images that pass through the networks at once, and what belongs to each.

    Attributes:
        real: real images (N, C, H, W) in [-1, 1].
        z: latents (N, dim).
        share: number of images divided by the size of the global batch; weights the gradients.
        index: position among the micro-batches of the global batch; seeds what modules draw inside.
        label: classes (N,) int64 of real and fake images alike; None without classes.
        draws: parameters of the augmentation of each image (see ``draw_augmentations``); None without augmentation.
        fakes: what G made of ``z``, with the graph that leads back to G; None until it is made.
    """

    real: Tensor
    z: Tensor
    share: float
    index: int
    label: Tensor | None = None
    draws: Tensor | None = None
    fakes: Fakes | None = None


class BatchSampler:
    """Draws the batch of every step as a function of the seed and of the images seen so far.

    Args:
        recipe: batch size, augmentation, flips, order of the images.
        data: the training images.
        loader: reads images by position, one batch ahead.
        world: this process among all that train together; it draws the whole batch and keeps its own part.
    """

    def __init__(self, recipe: Recipe, data: Dataset, loader: ImageLoader, world: World, speed: Speed) -> None:
        self.recipe, self.data, self.loader, self.world, self.speed = recipe, data, loader, world, speed
        replacement = recipe.data.order == "replacement"
        self._order = rng.ImageOrder(recipe.train.seed, len(data.train), replacement=replacement)
        self._next: tuple[int, Positions] | None = None  # image count and positions of the batch that is read ahead

    def draw(self, nimg: int, latent_dim: int, dtype: torch.dtype, augment_p: float) -> dict[str, Tensor]:
        """This process's part of the batch after ``nimg`` images: the tensors of a :class:`MicroBatch` by name.

        Args:
            augment_p: probability of each augmentation.
        """
        batch, seed = self.recipe.train.batches.at(nimg), self.recipe.train.seed
        part = self.world.cut(batch)
        positions = self._positions(nimg)
        real = from_uint8(self.loader.take(positions, self._positions(nimg + batch)))
        if self.recipe.data.xflip:
            flips = self._to_device(rng.draw_flips(seed, nimg, batch)[part, None, None, None])
            real = torch.where(flips, real.flip(3), real)
        z = self._to_device(rng.draw_latents(seed, nimg, batch, latent_dim)[part])
        tensors = {"real": self.speed.images(real.to(dtype)), "z": z.to(dtype)}
        if self.data.labels is not None:
            tensors["label"] = self._to_device(torch.from_numpy(self.data.labels[positions]))
        if self.recipe.augment is not None:
            draws = draw_augmentations(self.recipe.augment, seed, nimg, batch, augment_p)
            tensors["draws"] = self._to_device(draws[part])
        return tensors

    def _positions(self, nimg: int) -> Positions:
        """Which images this process sees after ``nimg``; those of the next batch are asked for twice."""
        if self._next is None or self._next[0] != nimg:
            batch = self.recipe.train.batches.at(nimg)
            positions = self.data.train[self._order.take(nimg, batch)]
            self._next = (nimg, np.ascontiguousarray(positions[self.world.cut(batch)]))
        return self._next[1]

    def _to_device(self, tensor: Tensor) -> Tensor:
        device = self.speed.device
        # Pinned memory lets the copy run while the step goes ahead: nothing in a step waits for a GPU.
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def split_batch(tensors: dict[str, Tensor], size: int, *, batch: int, rank: int) -> Iterator[MicroBatch]:
    """Cut one process's part of a batch into micro-batches of ``size`` images.

    Args:
        tensors: as :meth:`BatchSampler.draw` returns them.
        batch: size of the global batch.
        rank: number of the process; its micro-batches are numbered after those of lower ranks.
    """
    count = len(tensors["real"]) // size
    pieces = {name: tensor.split(size) for name, tensor in tensors.items()}
    for number in range(count):
        own: dict[str, Any] = {name: parts[number] for name, parts in pieces.items()}
        yield MicroBatch(**own, share=size / batch, index=rank * count + number)


def local_batch_size(batch: int, processes: int) -> int:
    """Images of each process.

    Raises:
        ZooError: the batch cannot be divided evenly.
    """
    if batch % processes:
        raise ZooError(
            f"train.batch: {batch} images cannot be divided evenly among {processes} processes; "
            f"set a multiple of {processes}"
        )
    return batch // processes


def micro_batch_size(wanted: int | None, local: int) -> int:
    """Images that pass through the networks at once: ``wanted``, at most the ``local`` images of the process.

    Raises:
        ZooError: ``wanted`` does not divide ``local``.
    """
    if wanted is None or wanted >= local:
        return local
    if local % wanted:
        raise ZooError(f"train.micro_batch: {wanted} does not divide the {local} images of each process")
    return wanted
