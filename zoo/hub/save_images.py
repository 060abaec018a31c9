"""Write generated images to files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file
from zoo.hub.load import LoadedGenerator
from zoo.models.sampling import slerp
from zoo.report import image_grid


def save_images(
    images: Tensor,
    out: Path,
    *,
    columns: int | None = None,
    metadata: Mapping[str, object] | None = None,
    caption: str = "",
) -> None:
    """Write uint8 images (N, C, H, W) as a grid, an array or single files.

    Args:
        images: uint8 (N, C, H, W).
        out: ``.png``: one grid; ``.npz``: one array ``images``; no suffix: a folder with a PNG per image.
        columns: of the grid.
        metadata: written into each PNG.
        caption: written below a grid.

    Raises:
        ZooError: another suffix, or the place cannot be written.
    """
    try:
        if out.suffix == ".png":
            image_grid.save_png(image_grid.make_grid(images, columns), out, metadata, caption)
        elif out.suffix == ".npz":
            with atomic_file(out) as file:
                np.savez_compressed(file, images=images.numpy())
        elif out.suffix:
            raise ZooError(f"{out}: unknown suffix. Use .png (one grid), .npz (one array) or the name of a folder.")
        else:
            # Leading zeros, so that sorting by name is sorting by index.
            digits = len(str(len(images) - 1))
            for index, image in enumerate(images):
                image_grid.save_png(image_grid.tile_image(image), out / f"{index:0{digits}d}.png", metadata)
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
    """Write closed walks through latent space as one GIF, and return its number of frames.

    Args:
        generator: the generator.
        out: a ``.gif`` file.
        walks: walks next to each other in the image.
        points: latents that each walk visits, along great circles, before it returns.
        frames: frames from one latent to the next.
        seed: seed of the latents.
        truncation: as for :meth:`LoadedGenerator.sample`.

    Raises:
        ZooError: ``out`` is no ``.gif`` or cannot be written.
    """
    if out.suffix != ".gif":
        raise ZooError(f"{out}: a walk is written as .gif. Change the suffix.")
    # (points, walks, dim): all walks take their steps together, one frame after the other.
    stops = generator.latents(walks * points, seed).unflatten(0, (points, walks))
    path = [
        # modulo: from the last point back to the first, so that the GIF loops without a jump
        slerp(stops[index], stops[(index + 1) % points], frame / frames)
        for index in range(points)
        for frame in range(frames)
    ]
    grids = [image_grid.make_grid(generator.decode(z, seed=seed, truncation=truncation)) for z in path]
    try:
        image_grid.animate(grids, out)
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None
    return len(path)
