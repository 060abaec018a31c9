"""Grids of images, PNG files and animated GIFs.

Every file is written under a temporary name and then moved to its place, so that a reader, or a run that is killed
half-way, never leaves half a file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.core.files import replace_file

BACKGROUND = 40  # grey level between the images: dark as scans are, but not their black
ENLARGED_SIDE_PIXELS = 64  # images of up to this side are enlarged ...
MIN_CELL_PIXELS = 96  # ... to at least this side

GIF_MAX_FRAMES = 60
GIF_SIDES = (640, 480, 360, 240)  # pixels of the longer side, tried in turn until the file fits into GIF_MAX_BYTES
GIF_MAX_BYTES = 10 * 2**20
GIF_HOLD_SECONDS = 2.0  # how much longer the last frame is shown
CAPTION_PIXELS = 20  # height of the caption below a frame
CAPTION_KEY = "caption"  # in the text of a PNG


def make_grid(images: Tensor | np.ndarray, columns: int | None = None, pad: int = 2) -> Image.Image:
    """Arrange images in rows on a dark background, the first at the top left.

    Images of up to 64 pixels a side are enlarged by a whole factor (nearest neighbour) to cells of at least 96.

    Args:
        images: uint8 (N, C, H, W); see `arrange_images` for the channels.
        columns: images per row; by default as close to a square as N allows.
        pad: pixels between the images and around them.

    Raises:
        ValueError: the images are not uint8 (N, C, H, W), or there are none.
    """
    array = _to_numpy(images)
    if array.ndim != 4 or array.dtype != np.uint8 or len(array) == 0:
        raise ValueError(f"a grid needs at least one of uint8 images (N, C, H, W), got {array.dtype} {array.shape}")
    side = max(array.shape[2:])
    factor = ceil(MIN_CELL_PIXELS / side) if side <= ENLARGED_SIDE_PIXELS else 1
    # A whole factor and no interpolation: every pixel is seen as it is.
    array = array.repeat(factor, axis=2).repeat(factor, axis=3)
    return arrange_images(array, columns or ceil(sqrt(len(array))), pad)


def cell_pixels(side: int) -> int:
    """Return the number of pixels that an image of ``side`` pixels takes in a grid."""
    return (side * (ceil(MIN_CELL_PIXELS / side) if side <= ENLARGED_SIDE_PIXELS else 1) + 2) ** 2


def arrange_images(images: np.ndarray, columns: int, pad: int) -> Image.Image:
    """Place uint8 images (N, C, H, W), pixel for pixel, in rows on a dark sheet.

    The sheet is RGB for images of three channels, else grey and shows the first channel.
    """
    count, _, height, width = images.shape
    columns = min(columns, count)  # no empty columns
    cell_height, cell_width = height + pad, width + pad
    size = (pad + columns * cell_width, pad + ceil(count / columns) * cell_height)
    colour = images.shape[1] == 3
    sheet = Image.new("RGB" if colour else "L", size, (BACKGROUND,) * 3 if colour else BACKGROUND)
    for index, image in enumerate(images):
        sheet.paste(tile_image(image), (pad + index % columns * cell_width, pad + index // columns * cell_height))
    return sheet


def tile_image(image: Tensor | np.ndarray) -> Image.Image:
    """Convert one uint8 image (C, H, W) to PIL, pixel for pixel: RGB of three channels, else the first as grey."""
    array = _to_numpy(image)
    return Image.fromarray(array.transpose(1, 2, 0) if len(array) == 3 else array[0])


def save_png(
    image: Image.Image,
    path: Path,
    metadata: Mapping[str, object] | None = None,
    *,
    caption: str = "",
    kind: Literal["grid", "image"] = "grid",
) -> None:
    """Write a PNG, completely or not at all.

    Args:
        metadata: text chunks of the file (``Image.open(path).text``).
        caption: small text in a strip below the image, which :func:`open_grid` leaves out again.
        kind: marks the file, so that a grid is not taken for data (zoo.data.own_images).
    """
    info = PngInfo()
    info.add_text("zoo", kind)
    if caption:
        image, metadata = _add_caption(image, caption), {**(metadata or {}), CAPTION_KEY: caption}
    for key, value in (metadata or {}).items():
        info.add_text(key, str(value))
    with replace_file(path) as temporary:
        # The temporary name has no suffix that tells the format.
        image.save(temporary, format="PNG", pnginfo=info, optimize=True)


def open_grid(path: Path) -> Image.Image:
    """Read an image that :func:`save_png` wrote, without its caption."""
    with Image.open(path) as image:
        has_caption = CAPTION_KEY in getattr(image, "text", {})
        box = (0, 0, image.width, image.height - (CAPTION_PIXELS if has_caption else 0))
        return image.crop(box)


def make_gif(frames: Sequence[Path], out: Path, seconds: float = 8.0, captions: Sequence[str] | None = None) -> None:
    """Write a training run as an animation of the grids that it saved.

    At most 60 frames, evenly chosen with the first and the last among them, are shown for about ``seconds`` in total (a
    frame at most half a second), then the last one is held. Grids wider or taller than 640 pixels are scaled down,
    and further while the file exceeds 10 MB. Grey grids keep their grey levels; colour grids share one palette.

    Args:
        frames: image files in the order of training; all are shown at the size of the last.
        captions: one per frame, such as "120 kimg", written below the grid at the left.

    Raises:
        ZooError: there are no frames, or one cannot be read.
        ValueError: the number of captions is not the number of frames.
    """
    if not frames:
        raise ZooError(f"{out}: there are no images to make an animation of")
    if captions is not None and len(captions) != len(frames):
        raise ValueError(f"{len(captions)} captions for {len(frames)} frames; give one for each frame")
    # `set`: fewer frames than GIF_MAX_FRAMES are chosen more than once.
    chosen = sorted(set(np.linspace(0, len(frames) - 1, GIF_MAX_FRAMES).round().astype(int).tolist()))
    images = [_open_frame(frames[index]) for index in chosen]
    texts = [captions[index] for index in chosen] if captions else None
    # Browsers slow down frames of less than 20 ms; 40 ms is smooth enough for training.
    duration = min(max(seconds / len(images), 0.04), 0.5)
    _write_gif(images, out, [duration] * (len(images) - 1) + [duration + GIF_HOLD_SECONDS], texts)


def animate(images: Tensor | np.ndarray | Sequence[Image.Image], out: Path, fps: float = 20.0) -> None:
    """Write a walk through latent space as an endless GIF with one frame per image.

    Frames are enlarged as by `make_grid` and the file is bounded as by `make_gif`.

    Args:
        images: uint8 (N, C, H, W), or PIL images such as grids.
        fps: frames per second, up to 50; a GIF counts in hundredths of a second, so that 30 becomes 33.
    """
    if isinstance(images, Tensor | np.ndarray):
        images = [make_grid(image[None], pad=0) for image in images]  # for its enlargement
    if not images:
        raise ZooError(f"{out}: there are no images to make an animation of")
    _write_gif(images, out, [1 / min(fps, 50.0)] * len(images))


def _to_numpy(images: Tensor | np.ndarray) -> np.ndarray:
    return images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)


def _open_frame(path: Path) -> Image.Image:
    """Read an image as grey or RGB, no larger than a GIF shows it."""
    try:
        image = open_grid(path)
        frame = image.convert("L" if image.mode in ("1", "L") else "RGB")
    except OSError as error:
        raise ZooError(f"{path}: cannot read the image: {error}") from error
    frame.thumbnail((GIF_SIDES[0], GIF_SIDES[0]), Image.Resampling.LANCZOS)  # sixty large grids would fill the memory
    return frame


def _write_gif(
    images: Sequence[Image.Image], out: Path, seconds: Sequence[float], captions: Sequence[str] | None = None
) -> None:
    """Encode at the largest of `GIF_SIDES` that keeps the file within `GIF_MAX_BYTES`, else at the smallest."""
    # One colour frame makes the animation RGB, since a GIF of both would need a palette per frame.
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    width, height = images[-1].size  # frames of other sizes are scaled to that of the last
    data = b""
    for side in GIF_SIDES:
        scale = min(1.0, side / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # `resize` to the same size is a copy, so that frames which fit keep their pixels.
        frames = [image.convert(mode).resize(size, Image.Resampling.LANCZOS) for image in images]
        if captions is not None:
            frames = [_add_caption(frame, text) for frame, text in zip(frames, captions, strict=True)]
        data = _encode_gif(frames if mode == "L" else _share_palette(frames), seconds)
        if len(data) <= GIF_MAX_BYTES:
            break
    with replace_file(out) as temporary:
        temporary.write_bytes(data)


def _encode_gif(frames: Sequence[Image.Image], seconds: Sequence[float]) -> bytes:
    buffer = io.BytesIO()
    durations = [round(s * 100) * 10 for s in seconds]  # ms; a GIF stores whole hundredths of a second
    options = {"duration": durations, "loop": 0, "optimize": False, "comment": b"zoo grid"}  # see zoo.data.own_images
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def _share_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Reduce RGB frames to 256 colours chosen from the first, middle and last frame."""
    # One palette per frame would flicker.
    key_frames = [frames[0], frames[len(frames) // 2], frames[-1]]
    sample = Image.fromarray(np.concatenate([np.asarray(frame) for frame in key_frames]))
    palette = sample.quantize(256, method=Image.Quantize.MEDIANCUT)
    return [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]


def _add_caption(image: Image.Image, text: str) -> Image.Image:
    """Place the image above a strip with small text at its left."""
    ink, background = (225, BACKGROUND) if image.mode == "L" else ((225,) * 3, (BACKGROUND,) * 3)
    sheet = Image.new(image.mode, (image.width, image.height + CAPTION_PIXELS), background)
    sheet.paste(image)
    place = (6, image.height + CAPTION_PIXELS / 2)
    ImageDraw.Draw(sheet).text(place, text, fill=ink, font=ImageFont.load_default(13), anchor="lm")
    return sheet
