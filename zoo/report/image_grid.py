"""Grids of images, PNG files and animated GIFs.

Every file is written beside its place and moved there whole, so a reader (or a run killed half-way) never meets half a
picture.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.core.files import replace_file

BACKGROUND = 40  # between the cells: dark as scans are, yet not their black
SMALL, CELL = 64, 96  # images of up to SMALL pixels a side are enlarged to cells of at least CELL

GIF_FRAMES = 60
GIF_SIDES = (640, 480, 360, 240)  # pixels of the longer side, tried in turn until the file fits GIF_BYTES
GIF_BYTES = 10 * 2**20
GIF_HOLD = 2.0  # seconds the last frame stays


def make_grid(images: Tensor | np.ndarray, columns: int | None = None, pad: int = 2) -> Image.Image:
    """Images in rows on a dark ground, the first at the top left; mode L for grey, RGB for three channels.

    Args:
        images: uint8 (N, C, H, W). Of images with neither 1 nor 3 channels the first channel is shown, as grey.
        columns: images a row; as near a square as N allows by default.
        pad: pixels between the images and around them.

    Images of up to 64 pixels a side are enlarged by a whole factor (nearest neighbour) to cells of at least 96.
    """
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim != 4 or array.dtype != np.uint8 or len(array) == 0:
        raise ValueError(f"grid takes uint8 images (N, C, H, W), not {array.dtype} {array.shape}")
    if array.shape[1] != 3:
        array = array[:, :1]
    count, channels, height, width = array.shape
    side = max(height, width)
    factor = ceil(CELL / side) if side <= SMALL else 1
    array = array.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    columns = min(columns or ceil(sqrt(count)), count)
    high, wide = height * factor + pad, width * factor + pad
    sheet = np.full((pad + ceil(count / columns) * high, pad + columns * wide, channels), BACKGROUND, dtype=np.uint8)
    for i, image in enumerate(array):
        top, left = pad + i // columns * high, pad + i % columns * wide
        sheet[top : top + height * factor, left : left + width * factor] = image
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def tile_image(image: Tensor | np.ndarray) -> Image.Image:
    """One uint8 image (C, H, W) as it is, pixel for pixel; shown like those of :func:`grid`."""
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    return Image.fromarray(array.transpose(1, 2, 0) if len(array) == 3 else array[0])


def save_png(image: Image.Image, path: Path, metadata: Mapping[str, object] | None = None) -> None:
    """Write a PNG whole or not at all, ``metadata`` as its text chunks (read back as ``Image.open(path).text``)."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, str(value))
    with replace_file(path) as temp:
        image.save(temp, format="PNG", pnginfo=info, optimize=True)


def make_gif(frames: Sequence[Path], out: Path, seconds: float = 8.0, captions: Sequence[str] | None = None) -> None:
    """A training run as an animation, from the grids it saved.

    At most 60 frames, evenly picked with the first and the last among them, run for about ``seconds`` (a frame never
    stays longer than half a second), then the last one is held. Grids wider or taller than 640 pixels are scaled down,
    further while the file exceeds 10 MB. Grey grids keep their grey levels; colours share one palette.

    Args:
        frames: image files in the order of training; all are shown at the size of the last.
        captions: one a frame, such as "120 kimg", written in the corner of a strip below the grid.

    Raises:
        ZooError: no frames, or one that cannot be read.
        ValueError: captions that are not one a frame.
    """
    if not frames:
        raise ZooError("no pictures to make an animation of")
    if captions is not None and len(captions) != len(frames):
        raise ValueError(f"{len(captions)} captions for {len(frames)} frames")
    picked = sorted(set(np.linspace(0, len(frames) - 1, GIF_FRAMES).round().astype(int).tolist()))
    pictures = [_open(frames[i]) for i in picked]
    texts = [captions[i] for i in picked] if captions else None
    each = min(max(seconds / len(pictures), 0.04), 0.5)
    _write_gif(pictures, out, [each] * (len(pictures) - 1) + [each + GIF_HOLD], texts)


def animate(images: Tensor | np.ndarray | Sequence[Image.Image], out: Path, fps: float = 20.0) -> None:
    """A walk through latent space as an endless GIF: one frame an image, enlarged and bounded as in `grid`, `make_gif`.

    Args:
        images: uint8 (N, C, H, W), or ready pictures such as grids.
        fps: frames a second, up to 50; a GIF counts in hundredths of a second, so 30 comes out as 33.
    """
    if isinstance(images, Tensor | np.ndarray):
        images = [make_grid(image[None], pad=0) for image in images]
    if not images:
        raise ZooError("no pictures to make an animation of")
    _write_gif(images, out, [1 / min(fps, 50.0)] * len(images))


def _open(path: Path) -> Image.Image:
    """A picture as grey or RGB, no larger than a GIF shows it."""
    try:
        with Image.open(path) as picture:
            plain = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    except OSError as error:
        raise ZooError(f"cannot read the picture {path}: {error}") from error
    plain.thumbnail((GIF_SIDES[0], GIF_SIDES[0]), Image.Resampling.LANCZOS)  # sixty large grids would fill the memory
    return plain


def _write_gif(
    pictures: Sequence[Image.Image], out: Path, seconds: Sequence[float], captions: Sequence[str] | None = None
) -> None:
    """Encode at the largest of `GIF_SIDES` whose file stays within `GIF_BYTES` (at the smallest, whatever comes)."""
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    full = pictures[-1].size
    data = b""
    for side in GIF_SIDES:
        scale = min(1.0, side / max(full))
        size = (max(1, round(full[0] * scale)), max(1, round(full[1] * scale)))
        ready = [picture.convert(mode) for picture in pictures]
        ready = [p if p.size == size else p.resize(size, Image.Resampling.LANCZOS) for p in ready]
        if captions is not None:
            ready = [_captioned(p, text) for p, text in zip(ready, captions, strict=True)]
        data = _encode(ready if mode == "L" else _one_palette(ready), seconds)
        if len(data) <= GIF_BYTES:
            break
    with replace_file(out) as temp:
        temp.write_bytes(data)


def _encode(frames: Sequence[Image.Image], seconds: Sequence[float]) -> bytes:
    buffer = io.BytesIO()
    durations = [round(s * 100) * 10 for s in seconds]  # ms, of which a GIF keeps whole hundredths of a second
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
    )
    return buffer.getvalue()


def _one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """RGB frames in the 256 colours that suit the first, the middle and the last: a palette a frame would flicker."""
    key = [frames[0], frames[len(frames) // 2], frames[-1]]
    sample = Image.fromarray(np.concatenate([np.asarray(frame) for frame in key]))
    palette = sample.quantize(256, method=Image.Quantize.MEDIANCUT)
    return [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    """The picture over a strip with small text at its left."""
    height = 20
    white, ground = (225, BACKGROUND) if picture.mode == "L" else ((225,) * 3, (BACKGROUND,) * 3)
    sheet = Image.new(picture.mode, (picture.width, picture.height + height), ground)
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    draw.text((6, picture.height + height / 2), text, fill=white, font=ImageFont.load_default(13), anchor="lm")
    return sheet
