"""Generated images as a data set, for the training of other networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from zoo.core.errors import ZooError
from zoo.data.pixel_range import to_uint8
from zoo.hub.load import LoadedGenerator, load_generator
from zoo.models import sampling
from zoo.runtime import rng

CHUNK = sampling.SAMPLING_BATCH


class GeneratedDataset(Dataset):
    """``n`` fakes: image ``i`` is a function of generator, ``seed`` and ``i``, and equal to ``sample(n, seed)[i]``.

    Images are made when they are first asked for, a chunk at a time, and kept as uint8. Each worker of a ``DataLoader``
    keeps its own: with many of them and a shuffled order, call :meth:`make` before.

    Args:
        source: what :func:`zoo.load_generator` takes, or a generator it has loaded.
        n: how many.
        seed: which.
        transform: makes an item's image from a uint8 tensor (C, H, W); None: float32 in [0, 1].
        label: of every image; items are then pairs of image and label. Of a generator that knows classes, one of
            these: its images are then of that class; None: as often as in training, each with its class's number.
        device: where they are made; CUDA does not go with workers that are forked.

    Raises:
        ZooError: no such generator, or ``n`` below 1.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | LoadedGenerator,
        n: int,
        seed: int = 0,
        transform: Callable[[Tensor], Any] | None = None,
        label: Any = None,
        *,
        device: str = "cpu",
        runs: str | os.PathLike[str] = "runs",
    ) -> None:
        if n < 1:
            raise ZooError(f"GeneratedDataset: n must be at least 1, not {n}")
        if not isinstance(source, LoadedGenerator):
            source = load_generator(source, device=device, runs=os.fspath(runs))
        self.generator = source
        self.n, self.seed, self.transform, self.label = n, seed, transform, label
        self._classes = source.labels(label, n, seed) if source.image.classes else None
        self._chunks: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        """The image, or image and label; an index below 0 counts from the end."""
        place = index + self.n if index < 0 else index
        if not 0 <= place < self.n:
            raise IndexError(f"image {index} of {self.n}")
        image = self._chunk(place // CHUNK)[place % CHUNK].clone()
        item = image.float() / 255 if self.transform is None else self.transform(image)
        if self._classes is not None:
            return item, int(self._classes[place])
        return item if self.label is None else (item, self.label)

    def make(self, advance: Callable[[int], None] | None = None) -> GeneratedDataset:
        """Make all images now; ``advance`` is told of every few. Returns the set itself."""
        for chunk in range(-(-self.n // CHUNK)):
            made = self._chunk(chunk)
            if advance is not None:
                advance(len(made))
        return self

    def _chunk(self, chunk: int) -> Tensor:
        """uint8 (up to CHUNK, C, H, W), as :meth:`LoadedGenerator.sample` makes them."""
        if chunk not in self._chunks:
            first = chunk * CHUNK
            z = rng.fixed_latents(self.seed, min(CHUNK, self.n - first), self.generator.latent.dim, first=first)
            G, speed = self.generator.generator, self.generator.speed
            label = None if self._classes is None else self._classes[first : first + len(z)]
            made = sampling.generate_images(G, z, label=label, seed=self.seed, first=chunk, speed=speed)
            self._chunks[chunk] = to_uint8(made)
        return self._chunks[chunk]
