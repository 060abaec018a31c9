"""Load trained generators by name or path, and sample from them."""

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
from zoo.hub.pretrained import load_catalogue
from zoo.models import sampling
from zoo.models.base import Generator, StyleGenerator
from zoo.recipes import list_models, override_recipe
from zoo.runtime import rng
from zoo.runtime.device import choose_device
from zoo.runtime.speed import Speed
from zoo.training.auto_speed import choose_measured_speed
from zoo.training.generator_file import load_generator_file
from zoo.training.run_folder import Run, find_runs, open_run


class LoadedGenerator(nn.Module):
    """A trained generator in eval mode.

    Attributes:
        latent: what goes in: ``latent.dim`` standard normal numbers per image.
        image: what comes out: ``image.resolution``, ``image.channels``.
        recipe: how it was trained.
        nimg: number of images it was trained on.
        speed: precision and other switches of :meth:`sample`; a plain call ignores them.
    """

    def __init__(self, generator: Generator, recipe: Recipe, nimg: int, speed: Speed | None = None) -> None:
        super().__init__()
        # The CPU by default: a generator is loaded there, and moves only where its caller asks for it.
        self.speed = speed or choose_measured_speed(recipe, torch.device("cpu"))
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
        """Whether truncation and style mixing are available."""
        return isinstance(self.generator, StyleGenerator)

    @property
    def classes(self) -> list[str]:
        """Names of the classes it was trained with; empty for most generators."""
        return list(self.recipe.data.classes)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Return float images (N, C, H, W), not clamped to [-1, 1]; differentiable in ``z``.

        Args:
            z: latents (N, latent.dim).
            label: classes (N,), for generators that have any.
        """
        return self.generator(z, label)

    def latents(self, n: int, seed: int = 0) -> Tensor:
        """Return the latents (n, latent.dim) of the images that :meth:`sample` makes."""
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
        """Return ``n`` images, uint8 (n, C, H, W) on the CPU.

        The same seed gives the same images; a smaller ``n`` gives the first of them.

        Args:
            n: number of images.
            seed: seed of the latents.
            label: a class, by name or number, or one per image; default: classes as frequent as in training.
            truncation: psi in [0, 1], the factor by which styles differ from their mean (1 or None: as trained); for
                generators with styles.
            advance: called with the number of images made, every few images.

        Raises:
            ZooError: truncation without styles; an unknown class, or a generator without classes.
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
        """Return the uint8 images (N, C, H, W) of latents (N, latent.dim), on the CPU.

        ``seed`` determines noise inputs, and classes if ``label`` is None.
        """
        # The same classes as in sample(), which are drawn by seed and not by latent.
        labels = self.labels(label, len(z), seed)
        if truncation is None:
            images = sampling.generate_images(
                self.generator, z, label=labels, seed=seed, speed=self.speed, advance=advance
            )
        else:
            w = sampling.truncate_styles(self.generator, self._styles(z, labels, "truncation"), truncation)
            images = sampling.synthesise_images(self.generator, w, seed=seed, speed=self.speed)
        return to_uint8(images)

    def mix(self, rows: int, columns: int, seed: int = 0, *, crossover: int | None = None) -> Tensor:
        """Mix styles (Karras et al. 2019, figure 3): uint8 ((rows + 1) * (columns + 1), C, H, W), row by row.

        The first column shows the sources of coarse styles, the first row those of fine styles, and the other images
        all pairs. The corner is black.

        Args:
            rows: number of sources of coarse styles.
            columns: number of sources of fine styles.
            seed: seed of the sources' latents.
            crossover: index of the first style taken from the column; default: the middle one.

        Raises:
            ZooError: a generator without styles.
        """
        labels = self.labels(None, rows + columns, seed)
        w = self._styles(self.latents(rows + columns, seed), labels, "style mixing")
        # w is (rows + columns, num_styles, dim); coarse styles are those of the first, low resolutions.
        cut = w.shape[1] // 2 if crossover is None else crossover
        coarse, fine = w[:rows], w[rows:]
        # The corner's styles are arbitrary: its image is replaced by black below.
        table = [w.new_zeros(w.shape[1:]), *fine]
        for source in coarse:
            table += [source, *(torch.cat([source[:cut], other[cut:]]) for other in fine)]
        images = to_uint8(sampling.synthesise_images(self.generator, torch.stack(table), seed=seed, speed=self.speed))
        images[0] = 0
        return images

    def labels(self, label: int | str | Tensor | None, n: int, seed: int) -> Tensor | None:
        """Return classes (n,): ``label`` repeated, as given, or, for None, those that :meth:`sample` uses.

        Raises:
            ZooError: an unknown class, a wrong number of classes, or a generator without classes.
        """
        if label is None:
            return rng.fixed_labels(seed, n, self.image.shares)
        if not self.image.classes:
            raise ZooError(
                f"class {label}: {self.recipe.name} was trained without classes. Train one with `zoo train --classes`."
            )
        if isinstance(label, Tensor):
            if label.shape != (n,) or not bool(((label >= 0) & (label < self.image.classes)).all()):
                raise ZooError(f"classes: must be {n} numbers from 0 to {self.image.classes - 1}")
            return label.long()
        number = self.classes.index(label) if label in self.classes else label
        if isinstance(number, str) and number.isdigit():  # as the command line gives it
            number = int(number)
        if isinstance(number, str) or not 0 <= number < self.image.classes:
            raise ZooError(
                f"no class {label!r}{suggest(str(label), self.classes)}: "
                f"{self.recipe.name} knows {', '.join(self.classes)}"
            )
        return torch.full((n,), number)

    def _styles(self, z: Tensor, label: Tensor | None, purpose: str) -> Tensor:
        """Return styles (N, num_styles, dim), equal in all blocks, of latents (N, latent.dim)."""
        if not isinstance(self.generator, StyleGenerator):
            raise ZooError(
                f"{purpose}: {self.recipe.generator.arch} has no styles (no mapping network). Use a StyleGAN."
            )
        device = next(self.parameters()).device
        w = self.generator.mapping(z.to(device), None if label is None else label.to(device))
        # One w for all blocks, as in training without style mixing; expand() copies nothing.
        return w[:, None].expand(-1, self.generator.num_styles, -1)


def load_generator(
    source: str | os.PathLike[str],
    *,
    device: str = "cpu",
    runs: str | Path = "runs",
    precision: str | None = None,
) -> LoadedGenerator:
    """Load a trained generator.

    Args:
        source: a run or its folder, a ``generator.safetensors`` file, or a name: of a recipe that was trained in
            ``runs`` (its newest run), else of pretrained weights, which are downloaded if necessary (see
            ``zoo.hub.pretrained``).
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        runs: folder in which names are looked up.
        precision: ``auto``, ``fp32`` or ``bf16``; default: the recipe's. Another one changes images by rounding.

    Raises:
        ZooError: no such generator, not trained yet, or a damaged file.
    """
    generator, recipe, nimg = load_generator_file(_locate_weights(source, Path(runs)))
    # Only the switches follow `precision`: the recipe keeps saying how the generator was trained.
    sampled_as = recipe if precision is None else override_recipe(recipe, f"train.precision={precision}")
    return LoadedGenerator(generator, recipe, nimg, choose_measured_speed(sampled_as, choose_device(device)))


def require_weights(run: Run) -> Path:
    """Return the file of a run's generator.

    Raises:
        ZooError: the run has not written it yet.
    """
    if not run.generator_file.is_file():
        raise ZooError(f"{run.path}: has no generator.safetensors yet. The first checkpoint writes it.")
    return run.generator_file


def _locate_weights(source: str | os.PathLike[str], runs: Path) -> Path:
    path, name = Path(source), os.fspath(source)
    if path.is_file():
        return path
    if path.is_dir():
        return require_weights(open_run(path))
    if path.suffix or "/" in name:  # a path: it is not looked up as a name
        raise ZooError(f"{source}: no run or file of this name")
    for run in reversed(find_runs(runs, name)):  # the newest that has reached a checkpoint
        if run.generator_file.is_file():
            return run.generator_file
    if (runs / name).is_dir():
        return require_weights(open_run(runs / name))
    # Own runs come first, so that training a recipe replaces its pretrained weights.
    catalogue, models = load_catalogue(), list_models()
    if name in catalogue:
        return catalogue[name].path(Display())
    if name in models:
        raise ZooError(
            f"No trained weights for {name!r} in {runs}/ or among the pretrained models. "
            f"Train one with `zoo train {name}`."
        )
    known = [*models, *catalogue, *(run.name for run in find_runs(runs))]
    raise ZooError(f"{name}: no run, file, recipe or pretrained model of this name{suggest(name, known)}")
