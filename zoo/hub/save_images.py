"""Write generated images to files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from zoo.core.config import ImageSpec
from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file, is_folder
from zoo.core.output_place import check_file
from zoo.hub.load import LoadedGenerator
from zoo.models.sampling import slerp
from zoo.report import image_grid
from zoo.runtime import rng
from zoo.runtime.torch_defaults import torch_defaults

GRID_SUFFIX, ARRAY_SUFFIX, WALK_SUFFIX = ".png", ".npz", ".gif"
# A name that ends like one of these was meant as a file; any other is a folder, also `epoch.10`.
_OTHER_SUFFIXES = re.compile(
    r"\.(avif|bmp|csv|dcm|gif|gz|h5|html?|jfif|jpe|jpe?g|json|mp4|nii|npy|pdf|pgm|pnm|ppm|ps|pth?|safetensors|svg|tar|tiff?|"
    r"txt|webp|zip)"
)
MAX_GRID_PIXELS = 2**28  # of a grid, and of all frames of a walk together
MAX_FRAMES = 10_000


def check_output(out: str | os.PathLike[str], count: int, image: ImageSpec) -> str:
    """Return ``.png`` for a grid, ``.npz`` for an array, or an empty string for a folder.

    Raises:
        ZooError: a file of another kind, a grid too large for a PNG, or a folder with other images.
    """
    path, suffix = Path(out), Path(out).suffix.lower()
    if os.fspath(out).endswith(("/", os.sep)) or is_folder(path):
        _refuse_others(path, _name_files(path, count))
        return ""
    if _OTHER_SUFFIXES.fullmatch(suffix):
        raise ZooError(f"{out}: unknown suffix. Use .png (one grid), .npz (one array) or the name of a folder.")
    if suffix == GRID_SUFFIX and count * image_grid.cell_pixels(image.resolution) > MAX_GRID_PIXELS:
        most = MAX_GRID_PIXELS // image_grid.cell_pixels(image.resolution)
        raise ZooError(f"{out}: a grid shows at most {most:,} images of this size; write {count:,} to a folder or .npz")
    return suffix if suffix in (GRID_SUFFIX, ARRAY_SUFFIX) else ""


def save_images(
    images: Tensor,
    out: str | os.PathLike[str],
    *,
    columns: int | None = None,
    metadata: Mapping[str, object] | None = None,
    caption: str = "",
) -> None:
    """Write uint8 images (N, C, H, W) as a grid, an array or single files.

    Args:
        images: uint8 (N, C, H, W).
        out: ``.png``: one grid; ``.npz``: one array ``images``; else a folder with a PNG per image.
        columns: of the grid.
        metadata: written into each PNG.
        caption: written below a grid.

    Raises:
        ZooError: the suffix of another kind of file, or the place cannot be written.
    """
    image = ImageSpec(resolution=max(images.shape[2:]), channels=images.shape[1])
    kind, out = check_output(out, len(images), image), Path(out)
    try:
        if kind == GRID_SUFFIX:
            image_grid.save_png(image_grid.make_grid(images, columns), out, metadata, caption=caption)
        elif kind == ARRAY_SUFFIX:
            with atomic_file(out) as file:
                np.savez_compressed(file, images=images.numpy())
        else:
            for path, image in zip(_name_files(out, len(images)), images, strict=True):
                image_grid.save_png(image_grid.tile_image(image), path, metadata, kind="image")
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error_reason(error)})") from None


def _name_files(folder: Path, count: int) -> list[Path]:
    digits = len(str(count - 1))  # leading zeros, so that sorting by name is sorting by index
    return [folder / f"{index:0{digits}d}.png" for index in range(count)]


def _refuse_others(folder: Path, paths: Sequence[Path]) -> None:
    """Refuse a folder in which other images would stay, as if they were made together."""
    others = set(folder.glob("*.png")) - {*paths} if is_folder(folder) else set()
    if others:
        raise ZooError(
            f"{folder}: holds {min(others).name}, which would be mixed with the new images. Name another folder, or "
            "remove what is there"
        )


@torch_defaults()
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
        ZooError: ``out`` is no ``.gif`` or cannot be written, or the walk is too long.
    """
    check_file(out, (WALK_SUFFIX,), "a walk")
    walks, points = (
        rng.check_whole(name, n, 1, generator.max_images) for name, n in (("-n", walks), ("--points", points))
    )
    frames = rng.check_whole("--frames", frames, 1, MAX_FRAMES)
    if points * frames > MAX_FRAMES:
        raise ZooError(f"{out}: {points} points with {frames} frames each are more than {MAX_FRAMES:,} frames in all")
    pixels = walks * points * frames * image_grid.cell_pixels(generator.image.resolution)
    if pixels > MAX_GRID_PIXELS:
        raise ZooError(
            f"{out}: {walks} walks with {points * frames} frames are {pixels:,} pixels, more than {MAX_GRID_PIXELS:,}; "
            "lower -n, --points or --frames"
        )
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
