"""Load trained generators by name or path, and sample from them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.arguments import refuse_empty_name
from zoo.core.config import ImageSpec, LatentSpec, Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError, shorten, suggest
from zoo.core.files import is_file, is_folder
from zoo.core.plugins import load_plugins
from zoo.core.progress import Reporter
from zoo.data.pixel_range import to_uint8
from zoo.hub.class_lookup import find_class
from zoo.hub.model_repository import CONFIG, fetch_weights, find_weights, is_hub_address
from zoo.hub.pretrained import load_named_weights
from zoo.hub.save_pretrained import write_pretrained
from zoo.models import sampling
from zoo.models.base import Discriminator, Generator, StyleGenerator
from zoo.recipes import build_networks, list_models, load_recipe, override_recipe
from zoo.runtime import rng
from zoo.runtime.device import choose_device
from zoo.runtime.speed import Speed
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.auto_speed import choose_measured_speed
from zoo.training.generator_file import load_generator_file
from zoo.training.run_folder import Run, find_runs, open_run

if TYPE_CHECKING:
    from zoo.hub.projection import Projection

MAX_CALL_VALUES = 2**33  # pixels, times channels, of the images of one call; 131,072 images of 256 pixels
Label = int | str | Sequence[int | str] | np.ndarray | Tensor  # a class by name or number, or one per image
MAX_TRUNCATION = 2.0  # either side of 0; 1 is as trained


class LoadedGenerator(nn.Module):
    """A trained generator, which stays in eval mode: ``train()`` of a network that contains it does not switch it.

    Attributes:
        latent: what goes in: ``latent.dim`` standard normal numbers per image.
        image: what comes out: ``image.resolution``, ``image.channels``.
        recipe: how it was trained.
        nimg: number of images it was trained on.
        speed: precision and other switches of :meth:`sample`; a plain call ignores them.
        weights: the file it was loaded from; None: from none.
    """

    def __init__(
        self, generator: Generator, recipe: Recipe, nimg: int, speed: Speed | None = None, weights: Path | None = None
    ) -> None:
        super().__init__()
        self.weights = weights
        # The CPU by default: a generator is loaded there, and moves only where its caller asks for it.
        self.speed = speed or choose_measured_speed(recipe, torch.device("cpu"))
        self.generator = self.speed.network(generator)
        self.recipe, self.nimg = recipe, nimg
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LoadedGenerator:
        """Stay in eval mode: in training mode images would depend on each other, and overwrite batch statistics."""
        return super().train(False)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        precision: str | None = None,
    ) -> LoadedGenerator:
        """Load a folder of :meth:`save_pretrained`, or ``OWNER/NAME`` from the Hugging Face Hub.

        Args:
            name: folder, repository, or anything that :func:`load_generator` takes.
            revision: branch, tag or commit of the repository; None: its newest commit.
            device: as for :func:`load_generator`.
            precision: as for :func:`load_generator`.

        Raises:
            ZooError: as :func:`load_generator`.
        """
        text = os.fspath(name)
        if not is_folder(Path(text)) and re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not Path(text).exists():
            text = f"hf:{text}"
        if revision is not None:
            if not is_hub_address(text):
                raise ZooError(f"revision={revision!r}: {text} is no repository. Leave it out")
            text = f"{text}@{revision}"
        return load_generator(text, device=device, precision=precision)

    def save_pretrained(self, folder: str | os.PathLike[str], *, licence: str | None = None) -> Path:
        """Write weights, ``config.json``, recipe, card and licence to a folder, and return it.

        Nothing is evaluated; :meth:`push_to_hub` and ``zoo publish`` do that before they share a generator.

        Args:
            folder: made if it is missing; files of these names are replaced.
            licence: terms of use of the weights.

        Raises:
            ZooError: it cannot be written.
        """
        return write_pretrained(Path(folder), self.generator, self.recipe, self.nimg, licence)

    def push_to_hub(self, repo_id: str, *, private: bool = False, force: bool = False, **keywords: Any) -> str:
        """Evaluate the generator and publish it on the Hugging Face Hub; return its address.

        The same as ``zoo.publish(weights, "hf:OWNER/NAME", ...)``: a generator that copies its training images is
        refused, since these may be of patients.

        Args:
            repo_id: ``OWNER/NAME``.
            private: make a new repository private.
            force: replace what was published there before.
            **keywords: of :func:`zoo.publish`, such as ``data=`` and ``data_statement=``.

        Raises:
            ZooError: as :func:`zoo.publish`; or the weights are not those of a file, because they were changed.
        """
        from zoo.evaluation.publish import publish  # here: of a higher level, which evaluates what this package loads

        if self.weights is None or not self._has_weights_of(self.weights):
            raise ZooError(
                f"{repo_id}: the weights are not those of a file. Write them with save_pretrained(folder), and publish "
                "that with zoo.publish(folder, to, data_statement=...)"
            )
        repo_id = repo_id.removeprefix("hf:")
        return publish(self.weights, f"hf:{repo_id}", private=private, force=force, **keywords)

    def _has_weights_of(self, path: Path) -> bool:
        stored = load_generator_file(path)[0].state_dict()
        own = self.generator.state_dict()
        return all(torch.equal(own[name].cpu().to(value.dtype), value) for name, value in stored.items())

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

        Raises:
            ZooError: latents of another shape.
        """
        return self.ready()(self._check_latents(z), label)

    if TYPE_CHECKING:  # nn.Module's own returns Any

        def __call__(self, z: Tensor, label: Tensor | None = None) -> Tensor: ...

    def ready(self) -> Generator:
        """Return the generator in eval mode, also after ``train()`` of one of its own parts."""
        if any(module.training for module in self.modules()):
            self.eval()
        return self.generator

    @property
    def sampling_speed(self) -> Speed:
        """Switches of :meth:`sample`; after ``half()`` or ``double()`` without autocast, which takes fp32 weights."""
        is_fp32 = next(self.parameters()).dtype == torch.float32
        return self.speed if is_fp32 else replace(self.speed, precision="fp32")

    def latents(self, n: int, seed: int = 0) -> Tensor:
        """Return the latents (n, latent.dim) of the images that :meth:`sample` makes.

        Raises:
            ZooError: ``n`` is not a whole number from 1 to :attr:`max_images`, or ``seed`` not one of at least 0.
        """
        return rng.fixed_latents(rng.check_seed(seed), self.check_count(n), self.latent.dim)

    @property
    def max_images(self) -> int:
        """Number of images that one call may make; more are made by several seeds, or a ``GeneratedDataset``."""
        return max(1, MAX_CALL_VALUES // (self.image.channels * self.image.resolution**2))

    def check_count(self, n: int) -> int:
        """Return a number of images as an int.

        Raises:
            ZooError: it is not a whole number from 1 to :attr:`max_images`.
        """
        return rng.check_whole("number of images", n, 1, self.max_images)

    @torch_defaults()
    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        label: Label | None = None,
        truncation: float | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return ``n`` images, uint8 (n, C, H, W) on the CPU.

        The same seed gives the same images; a smaller ``n`` gives the first of them.

        Args:
            n: number of images.
            seed: seed of the latents, a whole number of at least 0.
            label: a class, by name or number, or one per image (numbers in a tensor); default: classes as frequent as
                in training. Where all names are numbers, as of grades, a number is a name.
            truncation: psi, the factor by which styles differ from their mean (1 or None: as trained); for
                generators with styles.
            advance: called with the number of images made, every few images.

        Raises:
            ZooError: ``n`` or ``seed`` is no such number; truncation without styles; an unknown class, or a generator
                without classes.
        """
        return self.decode(self.latents(n, seed), seed=seed, label=label, truncation=truncation, advance=advance)

    @torch_defaults()
    def decode(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        label: Label | None = None,
        truncation: float | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return the uint8 images (N, C, H, W) of latents (N, latent.dim), on the CPU.

        ``seed`` determines noise inputs, and classes if ``label`` is None.

        Raises:
            ZooError: as :meth:`sample`; latents of another shape, or with NaN or infinite numbers.
        """
        seed, z = rng.check_seed(seed), self._check_latents(z)
        self.check_count(len(z))
        if not bool(z.isfinite().all()):
            raise ZooError("latents: hold NaN or infinite numbers, which have no image")
        # The same classes as in sample(), which are drawn by seed and not by latent.
        labels = self.labels(label, len(z), seed)
        if truncation is None:
            images = sampling.generate_images(
                self.ready(), z, label=labels, seed=seed, speed=self.sampling_speed, advance=advance
            )
        else:
            styles = self._styles(z, labels, "truncation")
            w = sampling.truncate_styles(self.generator, styles, _check_truncation(truncation))
            images = sampling.synthesise_images(self.generator, w, seed=seed, speed=self.sampling_speed)
        return finite_to_uint8(images)

    def project(
        self,
        images: Any,
        *,
        steps: int = 200,
        candidates: int = 512,
        seed: int = 0,
        label: Label | None = None,
        reporter: Reporter | None = None,
    ) -> Projection:
        """Find latents whose images are most like ``images``; ``decode(latents, seed=seed)`` makes these again.

        Args:
            images: an image file, a list of them, a folder, a zip, an array (N, H, W) or (N, C, H, W) of uint8 or of
                floats in [0, 1] or [-1, 1], a tensor or a torch data set. They are prepared as for training: made
                square, resized, windowed.
            steps: of Adam.
            candidates: random latents, the best of which is the start; those of ``sample(candidates, seed)``.
            seed: of candidates and noise inputs.
            label: class of the images, by name or number; None: that of the best candidate.
            reporter: shows progress.

        Returns:
            ``latents`` (N, latent.dim), ``reconstructions`` and ``images`` (N, C, R, R) uint8, and ``ssim`` (N,) of
            both; its ``save(folder)`` writes them.

        Raises:
            ZooError: images that cannot be read; steps, candidates, seed or class that do not exist.
        """
        from zoo.hub.projection import project  # here: it needs this module

        return project(self, images, steps=steps, candidates=candidates, seed=seed, label=label, reporter=reporter)

    @torch_defaults()
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
            ZooError: a generator without styles; too few or too many rows or columns, or no such style.
        """
        rows = rng.check_whole("number of rows", rows, 1, self.max_images)
        columns = rng.check_whole("number of columns", columns, 1, self.max_images)
        self.check_count((rows + 1) * (columns + 1))
        seed = rng.check_seed(seed)
        labels = self.labels(None, rows + columns, seed)
        w = self._styles(self.latents(rows + columns, seed), labels, "style mixing")
        # w is (rows + columns, num_styles, dim); coarse styles are those of the first, low resolutions.
        cut = w.shape[1] // 2 if crossover is None else rng.check_whole("crossover", crossover, 0, w.shape[1])
        coarse, fine = w[:rows], w[rows:]
        # The corner's styles are arbitrary: its image is replaced by black below.
        table = [w.new_zeros(w.shape[1:]), *fine]
        for source in coarse:
            table += [source, *(torch.cat([source[:cut], other[cut:]]) for other in fine)]
        images = finite_to_uint8(
            sampling.synthesise_images(self.generator, torch.stack(table), seed=seed, speed=self.sampling_speed)
        )
        images[0] = 0
        return images

    def labels(self, label: Label | None, n: int, seed: int) -> Tensor | None:
        """Return classes (n,): ``label`` repeated, as given, or, for None, those that :meth:`sample` uses.

        Raises:
            ZooError: an unknown class, a wrong number of classes, or a generator without classes.
        """
        if label is None:
            return rng.fixed_labels(rng.check_seed(seed), n, self.image.shares)
        if not self.image.classes:
            raise ZooError(
                f"class {label}: {self.recipe.name} was trained without classes. Train one with `zoo train --classes`."
            )
        if isinstance(label, Tensor):
            fits = label.shape == (n,) and label.dtype != torch.bool
            if not fits or not bool(((label >= 0) & (label < self.image.classes) & (label == label.long())).all()):
                raise ZooError(f"classes: must be {n} whole numbers (shape ({n},)) from 0 to {self.image.classes - 1}")
            return label.long()
        if isinstance(label, np.ndarray) and label.ndim:
            label = label.tolist()
        if isinstance(label, list | tuple):
            if len(label) != n:
                raise ZooError(f"classes: must be {n}, one per image, not {len(label)}")
            return torch.tensor([find_class(each, self.classes, self.recipe.name) for each in label])
        return torch.full((n,), find_class(label, self.classes, self.recipe.name))

    def _styles(self, z: Tensor, label: Tensor | None, purpose: str) -> Tensor:
        """Return styles (N, num_styles, dim), equal in all blocks, of latents (N, latent.dim)."""
        if not isinstance(self.generator, StyleGenerator):
            raise ZooError(
                f"{purpose}: {self.recipe.generator.arch} has no styles (no mapping network). Use a StyleGAN."
            )
        device = next(self.parameters()).device
        w = self.ready().mapping(z.to(device), None if label is None else label.to(device))  # type: ignore[operator]
        # One w for all blocks, as in training without style mixing; expand() copies nothing.
        return w[:, None].expand(-1, self.generator.num_styles, -1)

    def _check_latents(self, z: Tensor) -> Tensor:
        """Return latents in the type of the weights, which ``half()`` and ``double()`` change.

        Raises:
            ZooError: they are no floating tensor (N, latent.dim).
        """
        wanted = f"latents: must be a floating tensor of shape (N, {self.latent.dim})"
        if not isinstance(z, Tensor):
            raise ZooError(f"{wanted}, not {type(z).__name__}. Use torch.as_tensor(z, dtype=torch.float32)")
        if z.dim() != 2 or z.shape[1] != self.latent.dim or not z.is_floating_point():
            raise ZooError(f"{wanted}, not {str(z.dtype).removeprefix('torch.')} of shape {tuple(z.shape)}")
        return z.to(next(self.parameters()).dtype)


def finite_to_uint8(images: Tensor) -> Tensor:
    """Convert float images in [-1, 1] to uint8, as ``to_uint8``.

    Raises:
        ZooError: an image is not finite.
    """
    if not bool(images.isfinite().all()):
        raise ZooError(
            "images: hold NaN or infinite values. Latents or weights are too large for the generator's precision; "
            "after half(), call float()"
        )
    return to_uint8(images)


def _check_truncation(psi: float) -> float:
    number = psi.item() if isinstance(psi, Tensor | np.generic) and math.prod(psi.shape) == 1 else psi
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= MAX_TRUNCATION:
        raise ZooError(
            f"truncation {shorten(psi)}: must be a number from -{MAX_TRUNCATION:g} to {MAX_TRUNCATION:g}; "
            "0 is the mean image, 1 as trained"
        )
    return float(number)


@torch_defaults(gradients=True)
def load_generator(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    runs: str | Path = "runs",
    precision: str | None = None,
    plugins: Sequence[str | Path] = (),
) -> LoadedGenerator:
    """Load a trained generator.

    Args:
        source: a run or its folder, a ``generator.safetensors`` file, a published folder, ``hf:OWNER/NAME[@REVISION]``
            on the Hugging Face Hub, or a name: of a recipe that was trained in ``runs`` (its newest run), else a name
            or alias of pretrained weights, downloaded if necessary (see ``zoo.hub.pretrained``).
        device: ``auto``, ``cpu``, ``cuda[:INDEX]`` or ``mps``, or a ``torch.device``.
        runs: folder in which names are looked up.
        precision: ``auto``, ``fp32`` or ``bf16``; default: the recipe's. Another one changes images by rounding.
        plugins: Python files or modules that define its network; code that came with the weights is never run.

    Raises:
        ZooError: no such generator, not trained yet, or a damaged file.
    """
    load_plugins(plugins)
    path = _locate_weights(source, Path(runs))
    generator, recipe, nimg = load_generator_file(path)
    # Only the switches follow `precision`: the recipe keeps saying how the generator was trained.
    sampled_as = recipe if precision is None else override_recipe(recipe, f"train.precision={precision}")
    return LoadedGenerator(generator, recipe, nimg, choose_measured_speed(sampled_as, choose_device(device)), path)


def load_pretrained_networks(
    name: str, overrides: Sequence[str], device: str | None = None
) -> tuple[Generator, Discriminator]:
    """Build the networks of pretrained weights, G with these weights and D with fresh ones, to train them further.

    Args:
        name: a name or alias of pretrained weights, or ``hf:OWNER/NAME``.
        overrides: of the recipe in their file; they may change all but G.
        device: None: torch's default device.

    Raises:
        ZooError: there are no such weights, or G is another network.
    """
    entries = load_named_weights()
    if not is_hub_address(name) and name not in entries:
        raise ZooError(
            f"{name}: no pretrained weights of this name{suggest(name, entries)}. zoo.list_weights() has all"
        )
    path = fetch_weights(name) if is_hub_address(name) else entries[name].path(Display())
    generator, recipe, _ = load_generator_file(path)
    recipe = override_recipe(recipe, *overrides) if overrides else recipe
    G, D = build_networks(recipe, device)
    try:
        G.load_state_dict(generator.state_dict())
    except RuntimeError:
        raise ZooError(f"{name}: {', '.join(overrides)}: the pretrained weights fit another generator") from None
    return G, D


def require_weights(run: Run) -> Path:
    """Return the file of a run's generator.

    Raises:
        ZooError: the run has not written it yet.
    """
    if not run.generator_file.is_file():
        raise ZooError(f"{run.path}: has no generator.safetensors yet. The first checkpoint writes it.")
    return run.generator_file


def _locate_weights(source: str | os.PathLike[str], runs: Path) -> Path:
    refuse_empty_name(source)
    path, name = Path(source), os.fspath(source)
    if is_hub_address(name):
        return fetch_weights(name)
    if is_file(path):
        return path
    if is_folder(path):
        return find_weights(path) if is_file(path / CONFIG) else require_weights(open_run(path))
    # A path is not looked up as a name. Names may have dots.
    if path.suffix == ".safetensors" or any(separator in name for separator in ("/", os.sep)):
        raise ZooError(f"{source}: no run or file of this name")
    for run in reversed(find_runs(runs, name)):  # the newest that has reached a checkpoint
        if run.generator_file.is_file():
            return run.generator_file
    if is_folder(runs / name):
        return require_weights(open_run(runs / name))
    # Own runs come first, so that training a recipe replaces its pretrained weights.
    pretrained, models = load_named_weights(), list_models()
    if name in pretrained:
        return pretrained[name].path(Display())
    if name in models:
        raise ZooError(explain_missing_weights(name, runs))
    known = [*models, *pretrained, *(run.name for run in find_runs(runs))]
    raise ZooError(f"{name}: no run, file, recipe or pretrained model of this name{suggest(name, known)}")


def explain_missing_weights(recipe: str, runs: Path) -> str:
    """Return how to train a recipe without trained weights, and which pretrained weights of its size there are."""
    resolution = load_recipe(recipe).data.resolution
    names = [name for name, entry in load_named_weights().items() if entry.resolution == resolution]
    instead = f", or load pretrained weights of {resolution} pixels: {', '.join(names)}" if names else ""
    return (
        f"No trained weights for {recipe!r} in {runs}/ or among the pretrained models. "
        f"Train it with `zoo train {recipe}`{instead}."
    )
