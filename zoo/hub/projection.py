"""Project images onto a generator: find the latents whose images are most like them (GAN inversion).

Adam moves the latents of each image from the best of several hundred random ones (Zhu et al. 2016; Webster et al., CVPR
2019, who find that a generator reconstructs what it covers). Latents stay as long as random ones are, so that the
images are ones that sampling could make. docs/projection.md has what was measured.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file
from zoo.core.progress import Reporter, SilentReporter
from zoo.data.image_set import prepare_images
from zoo.data.pixel_range import from_uint8
from zoo.metrics.ssim.ssim import ssim
from zoo.models.sampling import SAMPLING_BATCH, generate_images
from zoo.report import image_grid
from zoo.runtime import rng
from zoo.runtime.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from zoo.hub.load import Label, LoadedGenerator

STEPS = 200  # of Adam
CANDIDATES = 512  # random latents, the best of which is the start
MAX_STEPS, MAX_CANDIDATES = 100_000, 100_000
LATENTS_FILE, PICTURE_FILE, DOCUMENT_FILE = "latents.npz", "projection.png", "projection.json"
SHOWN_IMAGES = 48  # in the picture

_LEARNING_RATE = 0.1  # of the first steps; it falls to 0 along a cosine
_LENGTH_MARGIN = 2.0  # how far lengths may be from sqrt(dim): random ones deviate by 0.7 on average
_SCALES = 3  # of the loss: the image, and its means over 2 x 2 and 4 x 4 pixels
_CANDIDATE_PIXELS = 32  # a side, at which candidates are compared


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """Images, and the images of a generator that are most like them.

    Attributes:
        images: uint8 (N, C, R, R), as the generator's training would have prepared them.
        reconstructions: uint8 (N, C, R, R): ``generator.decode(latents, seed=seed, label=labels)``.
        latents: float32 (N, latent.dim).
        labels: (N,) classes; None: a generator without classes.
        ssim: (N,) similarity of both, in [-1, 1].
        names: N names.
        origin: plain data: generator, recipe, seed, steps, candidates.
    """

    images: Tensor
    reconstructions: Tensor
    latents: Tensor
    labels: Tensor | None
    ssim: Tensor
    names: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def to_json(self) -> dict[str, Any]:
        """Return origin, mean SSIM, and name, SSIM, mean absolute error (levels of 255) and class of each image."""
        errors = (self.images.float() - self.reconstructions.float()).abs().mean(dim=(1, 2, 3))
        rows: list[dict[str, Any]] = []
        for place, name in enumerate(self.names):
            row = {"name": name, "ssim": self.ssim[place].item(), "mean_error": errors[place].item()}
            rows.append(row if self.labels is None else {**row, "class": int(self.labels[place])})
        return {**self.origin, "ssim": self.ssim.mean().item(), "images": rows}

    def picture(self) -> Tensor:
        """Return uint8 (3 N, C, R, R): each image, its reconstruction and their absolute difference."""
        difference = (self.images.int() - self.reconstructions.int()).abs().to(torch.uint8)
        return torch.stack([self.images, self.reconstructions, difference], dim=1).flatten(0, 1)

    def save(self, folder: str | Path) -> Path:
        """Write ``latents.npz``, ``projection.png`` and ``projection.json``, and return the folder.

        The picture shows the images themselves.

        Raises:
            ZooError: it cannot be written.
        """
        folder = Path(folder)
        arrays = {"latents": self.latents.numpy(), "seed": np.int64(self.origin.get("seed", 0))}
        if self.labels is not None:
            arrays["labels"] = self.labels.numpy()
        shown = min(len(self), SHOWN_IMAGES)
        triples = min(4, math.ceil(shown / 8))  # next to each other
        try:
            with atomic_file(folder / LATENTS_FILE) as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            grid = image_grid.make_grid(self.picture()[: 3 * shown], 3 * triples)
            caption = f"image, reconstruction, difference; mean SSIM {self.ssim.mean().item():.3f}"
            image_grid.save_png(grid, folder / PICTURE_FILE, self.origin, caption=caption)
            with atomic_file(folder / DOCUMENT_FILE, "w") as file:  # last: it says that the others are complete
                json.dump(self.to_json(), file, indent=2)
        except OSError as error:
            raise ZooError(f"{folder}: cannot be written ({error_reason(error)})") from None
        return folder


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Latents of a file, with what else their images depend on.

    Attributes:
        z: float32 (N, dim).
        seed: of noise inputs; None: the file does not say.
        labels: (N,) classes; None: it has none.
    """

    z: Tensor
    seed: int | None = None
    labels: Tensor | None = None


def load_latents(path: str | Path) -> Latents:
    """Read latents from a ``latents.npz`` of :meth:`Projection.save`, or from any ``.npz`` or ``.npy`` of floats.

    Raises:
        ZooError: no such file, or it holds no latents (N, dim).
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        content = {"latents": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error_reason(error)})") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ZooError(f"{path}: is no .npy or .npz file of numbers ({error_reason(error)})") from None
    if "latents" not in content:
        raise ZooError(f"{path}: has no array 'latents', only {', '.join(content) or 'none'}. Use one of `zoo project`")
    z, seed, labels = content["latents"], content.get("seed"), content.get("labels")
    if z.dtype.kind != "f" or z.ndim != 2 or not len(z):
        raise ZooError(f"{path}: latents must be floats of shape (N, dim), not {z.dtype} {z.shape}")
    return Latents(
        z=torch.from_numpy(z.astype(np.float32)),
        seed=None if seed is None else rng.check_seed(seed),
        labels=None if labels is None else _read_labels(labels, path, len(z)),
    )


def _read_labels(labels: np.ndarray, path: str | Path, count: int) -> Tensor:
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and bool((labels == np.round(labels)).all()))
    if not whole or labels.shape != (count,):
        found = f"{labels.dtype} {labels.shape}"
        raise ZooError(f"{path}: labels must be {count} whole numbers, the classes' places, not {found}")
    return torch.from_numpy(labels.astype(np.int64))


@torch_defaults()
def project(
    loaded: LoadedGenerator,
    images: Any,
    *,
    steps: int = STEPS,
    candidates: int = CANDIDATES,
    seed: int = 0,
    label: Label | None = None,
    reporter: Reporter | None = None,
) -> Projection:
    """Project images onto a generator; see :meth:`zoo.LoadedGenerator.project`."""
    reporter = reporter or SilentReporter()
    prepared = prepare_images(images, loaded.recipe.data, reporter)
    pixels = torch.from_numpy(prepared.images)
    loaded.check_count(len(pixels))
    latents, labels = project_images(
        loaded, pixels, steps=steps, candidates=candidates, seed=seed, label=label, reporter=reporter
    )
    reconstructions = loaded.decode(latents, seed=seed, label=labels)
    return Projection(
        images=pixels,
        reconstructions=reconstructions,
        latents=latents,
        labels=labels,
        ssim=ssim(pixels, reconstructions, 255),
        names=prepared.names,
        origin={
            "recipe": loaded.recipe.name,
            "recipe_digest": loaded.recipe.digest,
            "nimg": loaded.nimg,
            "seed": int(seed),
            "steps": int(steps),
            "candidates": int(candidates),
        },
    )


@torch_defaults()
def project_images(
    loaded: LoadedGenerator,
    images: Tensor,
    *,
    steps: int = STEPS,
    candidates: int = CANDIDATES,
    seed: int = 0,
    label: Label | None = None,
    reporter: Reporter | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the latents (N, latent.dim) and the classes (N,) of the images most like uint8 ``images`` (N, C, R, R).

    Args:
        label: class of all, or one per image; None: that of the best candidate.

    Raises:
        ZooError: steps, candidates, seed or classes that do not exist.
    """
    steps = rng.check_whole("number of steps", steps, 0, MAX_STEPS)
    candidates = rng.check_whole("number of candidates", candidates, 1, min(MAX_CANDIDATES, loaded.max_images))
    seed = rng.check_seed(seed)
    reporter = reporter or SilentReporter()
    fixed = None if label is None else loaded.labels(label, len(images), seed)
    pool = loaded.latents(candidates, seed)
    one_class = None if isinstance(label, Tensor | np.ndarray | list | tuple) else label
    pool_labels = loaded.labels(one_class, candidates, seed)
    pool_images = generate_images(loaded.ready(), pool, label=pool_labels, seed=seed)
    latents, labels = [], []
    reporter.start("projecting", steps * len(images))
    try:
        for index, part in enumerate(images.split(SAMPLING_BATCH)):
            rows = slice(index * SAMPLING_BATCH, index * SAMPLING_BATCH + len(part))
            best = _nearest_candidates(part, pool_images)
            classes = None if pool_labels is None else (pool_labels[best] if fixed is None else fixed[rows])
            chunk = _Chunk(loaded, from_uint8(part), classes, rng.derive_seed(seed, "noise", index))
            latents.append(chunk.optimise(pool[best], steps, reporter))
            labels += [] if classes is None else [classes]
    finally:
        reporter.stop()
    return torch.cat(latents), torch.cat(labels) if labels else None


class _Chunk:
    """Images that are projected at once: as many as sampling makes at once, so that noise inputs are the same.

    Args:
        target: float (n, C, R, R) in [-1, 1], n up to ``SAMPLING_BATCH``.
        label: (n,) classes; None: none.
        seed: of the noise inputs.
    """

    def __init__(self, loaded: LoadedGenerator, target: Tensor, label: Tensor | None, seed: int) -> None:
        weight = next(loaded.parameters())
        self.generator, self.device, self.dtype = loaded.ready(), weight.device, weight.dtype
        self.target, self.label, self.seed = target.to(self.device), label, seed
        self.padding = SAMPLING_BATCH - len(target) if self._draws_noise(loaded.latent.dim) else 0

    def optimise(self, z: Tensor, steps: int, reporter: Reporter) -> Tensor:
        """Return the best latents (n, dim) on the way from ``z``, on the CPU."""
        best, lowest = z.clone(), torch.full((len(z),), torch.inf)
        z = z.to(self.device)
        with rng.fork_rng(self.device), torch.inference_mode(False), torch.enable_grad():
            z = z.clone().requires_grad_(True)
            optimizer = torch.optim.Adam([z], lr=_LEARNING_RATE, betas=(0.9, 0.99))
            for step in range(steps + 1):
                loss = image_loss(self._generate(z), self.target)
                better = loss.detach().cpu() < lowest
                best[better], lowest[better] = z.detach().cpu()[better], loss.detach().cpu()[better]
                if step == steps:  # the last latents are only looked at
                    break
                optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
                optimizer.zero_grad()
                loss.sum().backward()  # a sum: no image changes the steps of another
                optimizer.step()
                keep_length(z.data)
                reporter.advance(len(z))
        return best

    def _generate(self, z: Tensor) -> Tensor:
        torch.manual_seed(self.seed)  # the noise inputs that sampling draws for these places
        inputs, label = z.to(self.dtype), self.label
        if self.padding:
            inputs = torch.cat([inputs, inputs[:1].detach().expand(self.padding, -1)])
            label = None if label is None else torch.cat([label, label[:1].expand(self.padding)])
        images = self.generator(inputs, None if label is None else label.to(self.device))
        return images[: len(z)].float()

    @torch.no_grad()
    def _draws_noise(self, dim: int) -> bool:
        """Return whether images depend on more than latents and classes."""
        z = torch.zeros(1, dim, dtype=self.dtype, device=self.device)
        label = None if self.label is None else self.label[:1].to(self.device)
        images = []
        with rng.fork_rng(self.device):
            for seed in (0, 1):
                torch.manual_seed(seed)
                images.append(self.generator(z, label))
        return not torch.equal(*images)


def image_loss(images: Tensor, target: Tensor) -> Tensor:
    """Return the loss (N,) of float images (N, C, R, R): mean squared error, averaged over scales of means of 2 x 2."""
    losses = []
    for scale in range(_SCALES):
        if scale:
            images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)
        losses.append((images - target).square().mean(dim=(1, 2, 3)))
    return torch.stack(losses).mean(dim=0)


def keep_length(z: Tensor) -> None:
    """Change latents (N, dim) whose length random ones hardly have to the nearest such length, in place."""
    middle = math.sqrt(z.shape[1])
    length = z.norm(dim=1, keepdim=True).clamp_min(1e-12)
    z *= length.clamp(max(middle - _LENGTH_MARGIN, 0.0), middle + _LENGTH_MARGIN) / length


def _nearest_candidates(images: Tensor, candidates: Tensor) -> Tensor:
    """Return the index (n,) of the float candidate (K, C, R, R) that is nearest to each uint8 image."""
    size = min(_CANDIDATE_PIXELS, *images.shape[2:])
    sides = (from_uint8(images), candidates.clamp(-1, 1))
    ours, theirs = (F.adaptive_avg_pool2d(side, size).flatten(1) for side in sides)
    return torch.cdist(ours, theirs).argmin(dim=1)
