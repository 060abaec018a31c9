"""Trained generators for other people's code, in a line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError, suggest
from zoo.data.pixel_range import to_uint8
from zoo.hub import pretrained
from zoo.models import sampling
from zoo.models.base import Generator, StyleGenerator
from zoo.recipes import list_models, override_recipe
from zoo.runtime import rng
from zoo.runtime.device import choose_device
from zoo.runtime.speed import Speed, choose_speed
from zoo.training import run_folder
from zoo.training.generator_file import load_generator_file


class LoadedGenerator(nn.Module):
    """A trained generator, in eval mode.

    Attributes:
        latent: what it is fed (``latent.dim`` standard normal numbers an image).
        image: what it makes (``image.resolution``, ``image.channels``).
        recipe: how it was trained.
        nimg: on how many images.
        speed: the switches :meth:`sample` uses; a plain call does not.
    """

    def __init__(self, generator: Generator, recipe: Recipe, nimg: int, speed: Speed | None = None) -> None:
        super().__init__()
        self.speed = speed or choose_speed(recipe, torch.device("cpu"))
        self.generator = self.speed.network(generator)
        self.recipe, self.nimg = recipe, nimg
        self.eval().requires_grad_(False)

    @property
    def latent(self) -> LatentSpec:
        return self.generator.latent

    @property
    def image(self) -> ImageSpec:
        return self.generator.image

    @property
    def has_styles(self) -> bool:
        """Whether truncation and style mixing are to be had."""
        return isinstance(self.generator, StyleGenerator)

    @property
    def classes(self) -> list[str]:
        """Names of the classes that can be asked for; none for most generators."""
        return list(self.recipe.data.classes)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents (N, latent.dim), and classes (N,) where there are any, to float images (N, C, H, W), not yet clamped
        to [-1, 1].
        """
        return self.generator(z, label)

    def latents(self, n: int, seed: int = 0) -> Tensor:
        """The latents (n, latent.dim) that :meth:`sample` makes images from."""
        return rng.fixed_latents(seed, n, self.latent.dim)

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        label: int | str | Tensor | None = None,
        truncation: float | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Tensor:
        """``n`` images, uint8 (n, C, H, W) on the CPU. The same seed gives the same images, and the first of them for
        a smaller n.

        Args:
            n: how many.
            seed: which.
            label: a class, by name or number, or one for each image; default: as often as in training.
            truncation: psi in [0, 1]: how far styles stay from their mean (1 or None: as trained). Style generators
                only.
            advance: is told of every few images made.

        Raises:
            ZooError: truncation of a generator without styles; a class of one that knows none, or not that one.
        """
        return self.decode(self.latents(n, seed), seed=seed, label=label, truncation=truncation, advance=advance)

    def decode(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        label: int | str | Tensor | None = None,
        truncation: float | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Latents (N, latent.dim) to uint8 images (N, C, H, W) on the CPU; ``seed`` fixes noise inputs, and classes
        where ``label`` names none.
        """
        labels = self.labels(label, len(z), seed)
        if truncation is None:
            made = sampling.generate_images(
                self.generator, z, label=labels, seed=seed, speed=self.speed, advance=advance
            )
            return to_uint8(made)
        w = self._styles(z, labels, "truncation")
        w = sampling.truncate_styles(self.generator, w, truncation)
        return to_uint8(sampling.synthesise_images(self.generator, w, seed=seed, speed=self.speed))

    def mix(self, rows: int, columns: int, seed: int = 0, *, crossover: int | None = None) -> Tensor:
        """Style mixing (Karras et al. 2019, figure 3): uint8 ((rows + 1) * (columns + 1), C, H, W), read as a table.

        The first column shows the sources of coarse styles, the first row those of fine styles; between them every
        pair. The corner is black.

        Args:
            rows: sources of the coarse styles.
            columns: sources of the fine styles.
            seed: which sources.
            crossover: the first style that comes from the column; default: the middle one.

        Raises:
            ZooError: a generator without styles.
        """
        labels = self.labels(None, rows + columns, seed)
        w = self._styles(self.latents(rows + columns, seed), labels, "style mixing")
        cut = w.shape[1] // 2 if crossover is None else crossover
        coarse, fine = w[:rows], w[rows:]
        table = [w.new_zeros(w.shape[1:]), *fine]
        for source in coarse:
            table += [source, *(torch.cat([source[:cut], other[cut:]]) for other in fine)]
        images = to_uint8(sampling.synthesise_images(self.generator, torch.stack(table), seed=seed, speed=self.speed))
        images[0] = 0
        return images

    def labels(self, label: int | str | Tensor | None, n: int, seed: int) -> Tensor | None:
        """(n,) classes: all of one, by name or number; as given; or, of None, those that :meth:`sample` makes.

        Raises:
            ZooError: the generator knows none, or not that one, or they are not ``n``.
        """
        if label is None:
            return rng.fixed_labels(seed, n, self.image.shares)
        if not self.image.classes:
            raise ZooError(f"class {label}: {self.recipe.name} was trained without classes; zoo train --classes")
        if isinstance(label, Tensor):
            if label.shape != (n,) or not bool(((label >= 0) & (label < self.image.classes)).all()):
                raise ZooError(f"classes: must be {n} numbers from 0 to {self.image.classes - 1}")
            return label.long()
        number = self.classes.index(label) if label in self.classes else label
        if isinstance(number, str) and number.isdigit():
            number = int(number)
        if isinstance(number, str) or not 0 <= number < self.image.classes:
            known = ", ".join(self.classes)
            raise ZooError(f"no class {label!r}{suggest(str(label), self.classes)}; {self.recipe.name} knows {known}")
        return torch.full((n,), number)

    def _styles(self, z: Tensor, label: Tensor | None, what: str) -> Tensor:
        """Latents (N, latent.dim) to styles (N, num_styles, width of w), the same in every block."""
        if not isinstance(self.generator, StyleGenerator):
            raise ZooError(f"{what}: {self.recipe.generator.arch} has no styles (a mapping network); StyleGANs have")
        device = next(self.parameters()).device
        w = self.generator.mapping(z.to(device), None if label is None else label.to(device))
        return w[:, None].expand(-1, self.generator.num_styles, -1)


def load_generator(
    source: str | os.PathLike[str],
    *,
    device: str = "cpu",
    runs: str | Path = "runs",
    precision: str | None = None,
) -> LoadedGenerator:
    """A trained generator.

    Args:
        source: a run or its folder, a ``generator.safetensors`` file, or a name: of a recipe with runs in ``runs``
            (then its newest), else of packaged weights, which are fetched if they are not here (see
            ``zoo.hub.pretrained``).
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        runs: where to look for a name.
        precision: ``auto``, ``fp32`` or ``bf16``; default: the recipe's. Another one changes images by rounding.

    Raises:
        ZooError: nothing there, nothing trained yet, or a damaged file.
    """
    generator, recipe, nimg = load_generator_file(_locate(source, Path(runs)))
    how = recipe if precision is None else override_recipe(recipe, f"train.precision={precision}")
    return LoadedGenerator(generator, recipe, nimg, choose_speed(how, choose_device(device)))


def _locate(source: str | os.PathLike[str], runs: Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _trained(run_folder.open_run(path))
    name = os.fspath(source)
    if path.suffix or "/" in name:
        raise ZooError(f"no run or file {source}")
    for candidate in reversed(run_folder.find_runs(runs, name)):
        if candidate.generator_file.is_file():
            return candidate.generator_file
    if (runs / name).is_dir():
        return _trained(run_folder.open_run(runs / name))
    entries = pretrained.load_catalogue()
    if name in entries:
        return entries[name].path(Display())
    if name in list_models():
        raise ZooError(f"nothing trained of {name} in {runs}, nor packaged; `zoo train {name}` trains it")
    known = [*list_models(), *entries, *(other.name for other in run_folder.find_runs(runs))]
    raise ZooError(f"no run, file or recipe {name!r}{suggest(name, known)}")


def _trained(found: run_folder.Run) -> Path:
    if not found.generator_file.is_file():
        raise ZooError(f"{found.path}: has no generator.safetensors yet; the first checkpoint writes it")
    return found.generator_file
