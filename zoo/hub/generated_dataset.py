"""A PyTorch data set of generated images, for the training of other networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.hub.load import LoadedGenerator, finite_to_uint8, load_generator
from zoo.models.sampling import SAMPLING_BATCH, generate_images
from zoo.runtime import rng
from zoo.runtime.torch_defaults import torch_defaults

MAX_IMAGES = 10**9


Item = TypeVar("Item", covariant=True)
Image = TypeVar("Image")
Source: TypeAlias = str | os.PathLike[str] | LoadedGenerator
Device: TypeAlias = str | torch.device


class GeneratedDataset(Dataset[Item]):
    """``n`` generated images; image ``i`` equals ``sample(n, seed)[i]`` of the generator.

    Images are generated when they are first used, in chunks, and kept as uint8. Each worker of a ``DataLoader`` keeps
    its own copies: with many workers and a shuffled order, call :meth:`make` first.

    Args:
        source: what :func:`zoo.load_generator` takes, or a loaded generator.
        n: number of images.
        seed: seed of the latents.
        transform: maps a uint8 tensor (C, H, W) to an item's image; None: float32 in [0, 1].
        label: of every image; items are then pairs of image and label. For a generator with classes, one of these, and
            images are of that class; None: classes as frequent as in training, each item with its number (type
            checkers see images alone then).
        device: where images are generated; CUDA does not work in forked workers.

    Raises:
        ZooError: no such generator, or ``n`` below 1.
    """

    @overload
    def __init__(
        self: GeneratedDataset[Tensor],
        source: Source,
        n: int,
        seed: int = 0,
        transform: None = None,
        label: None = None,
        *,
        device: Device = "cpu",
        runs: str | os.PathLike[str] = "runs",
    ) -> None: ...
    @overload
    def __init__(
        self: GeneratedDataset[Image],
        source: Source,
        n: int,
        seed: int = 0,
        *,
        transform: Callable[[Tensor], Image],
        label: None = None,
        device: Device = "cpu",
        runs: str | os.PathLike[str] = "runs",
    ) -> None: ...
    @overload
    def __init__(
        self: GeneratedDataset[tuple[Tensor, Any]],
        source: Source,
        n: int,
        seed: int = 0,
        transform: None = None,
        *,
        label: Any,
        device: Device = "cpu",
        runs: str | os.PathLike[str] = "runs",
    ) -> None: ...
    @overload
    def __init__(
        self: GeneratedDataset[tuple[Image, Any]],
        source: Source,
        n: int,
        seed: int = 0,
        *,
        transform: Callable[[Tensor], Image],
        label: Any,
        device: Device = "cpu",
        runs: str | os.PathLike[str] = "runs",
    ) -> None: ...
    @overload
    def __init__(
        self: GeneratedDataset[Any],
        source: Source,
        n: int,
        seed: int = 0,
        transform: Callable[[Tensor], Any] | None = None,
        label: Any = None,
        *,
        device: Device = "cpu",
        runs: str | os.PathLike[str] = "runs",
    ) -> None: ...
    def __init__(
        self,
        source: Source,
        n: int,
        seed: int = 0,
        transform: Callable[[Tensor], Any] | None = None,
        label: Any = None,
        *,
        device: Device = "cpu",
        runs: str | os.PathLike[str] = "runs",
    ) -> None:
        n, seed = rng.check_whole("GeneratedDataset: number of images", n, 1, MAX_IMAGES), rng.check_seed(seed)
        if not isinstance(source, LoadedGenerator):
            source = load_generator(source, device=device, runs=os.fspath(runs))
        self.generator = source
        self.n, self.seed, self.transform, self.label = n, seed, transform, label
        self._classes = source.labels(label, n, seed) if source.image.classes else None
        self._chunks: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        """Return the image, or image and label; a negative index counts from the end."""
        position = index + self.n if index < 0 else index
        if not 0 <= position < self.n:
            raise IndexError(f"image {index} of {self.n}")
        # A copy: a transform that works in place must not change what the next epoch gets.
        image = self._chunk(position // SAMPLING_BATCH)[position % SAMPLING_BATCH].clone()
        item: Any = image.float() / 255 if self.transform is None else self.transform(image)
        if self._classes is not None:
            item = item, int(self._classes[position])
        elif self.label is not None:
            item = item, self.label
        return item  # of the overload's type

    def make(self, advance: Callable[[int], None] | None = None) -> GeneratedDataset[Item]:
        """Generate all images now and return the data set.

        Args:
            advance: called with the number of images made, chunk by chunk.
        """
        for chunk in range(-(-self.n // SAMPLING_BATCH)):
            images = self._chunk(chunk)
            if advance is not None:
                advance(len(images))
        return self

    @torch_defaults()
    def _chunk(self, chunk: int) -> Tensor:
        """Return uint8 (up to SAMPLING_BATCH, C, H, W), equal to what :meth:`LoadedGenerator.sample` makes."""
        if chunk not in self._chunks:
            # The chunks of sample(): noise inputs are drawn per chunk, so other sizes would give other images.
            first = chunk * SAMPLING_BATCH
            z = rng.fixed_latents(
                self.seed, min(SAMPLING_BATCH, self.n - first), self.generator.latent.dim, first=first
            )
            label = None if self._classes is None else self._classes[first : first + len(z)]
            G, speed = self.generator.ready(), self.generator.sampling_speed
            self._chunks[chunk] = finite_to_uint8(
                generate_images(G, z, label=label, seed=self.seed, first=chunk, speed=speed)
            )
        return self._chunks[chunk]
