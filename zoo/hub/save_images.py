"""Generated images in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file
from zoo.hub.load import LoadedGenerator
from zoo.models import sampling
from zoo.report import image_grid


def save_images(
    images: Tensor, out: Path, *, columns: int | None = None, metadata: Mapping[str, object] | None = None
) -> None:
    """uint8 images (N, C, H, W) as one grid (``.png``), one array ``images`` (``.npz``) or a PNG each (a folder).

    Raises:
        ZooError: another suffix, or the place cannot be written.
    """
    try:
        if out.suffix == ".png":
            image_grid.save_png(image_grid.make_grid(images, columns), out, metadata)
        elif out.suffix == ".npz":
            with atomic_file(out) as file:
                np.savez_compressed(file, images=images.numpy())
        elif out.suffix:
            raise ZooError(f"{out}: images are written as .png (one grid), .npz (one array) or into a folder")
        else:
            digits = len(str(len(images) - 1))
            for index, image in enumerate(images):
                picture = image_grid.tile_image(image)
                image_grid.save_png(picture, out / f"{index:0{digits}d}.png", metadata)
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None


def save_walk(
    generator: LoadedGenerator,
    out: Path,
    *,
    walks: int = 9,
    points: int = 5,
    frames: int = 16,
    seed: int = 0,
    truncation: float | None = None,
) -> int:
    """Closed walks through latent space, side by side in one GIF; returns the number of frames.

    Each walk visits ``points`` latents along great circles, ``frames`` pictures from one to the next, and returns.

    Raises:
        ZooError: ``out`` is no ``.gif`` or cannot be written.
    """
    if out.suffix != ".gif":
        raise ZooError(f"{out}: a walk is written as .gif")
    stops = generator.latents(walks * points, seed).unflatten(0, (points, walks))
    path = [
        sampling.slerp(stops[index], stops[(index + 1) % points], frame / frames)
        for index in range(points)
        for frame in range(frames)
    ]
    grids = [image_grid.make_grid(generator.decode(z, seed=seed, truncation=truncation)) for z in path]
    try:
        image_grid.animate(grids, out)
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None
    return len(path)
