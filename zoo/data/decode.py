"""One picture, from the bytes of a file or out of an array, to pixels at their full depth; and what is refused."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# Named here so that no thread is the first to import a plug-in.
from PIL import BmpImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

Array = np.ndarray[Any, Any]

FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 64_000_000  # a chest X-ray has 10 million; what claims more than this is a mistake or an attack
MAX_BYTES = 1 << 29  # no picture of MAX_PIXELS needs more, however it is stored


class UnreadableError(Exception):
    """A picture that is left out; the message says why in a few words."""


@dataclass(frozen=True)
class DecodedImage:
    """Pixels as stored.

    Attributes:
        pixels: (H, W) or (H, W, C); uint8, or a deeper integer or float type. Alpha is composed over black.
        mode: Pillow's name of the stored pixels ("L", "RGBA", "I;16", ...), or the dtype of an array.
        bits: bits a channel as stored.
    """

    pixels: Array
    mode: str
    bits: int

    @property
    def deep(self) -> bool:
        """Whether a window must say what is black and what is white."""
        return self.pixels.dtype != np.uint8


@contextlib.contextmanager
def silence_pillow() -> Iterator[None]:
    """Pillow's own words, about odd metadata and pictures that are refused anyway, are not for people.

    Held once around a whole job by the thread that starts it, since warning filters belong to the process.
    """
    log = logging.getLogger("PIL")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        log.setLevel(level)


def decode(raw: bytes | Array) -> DecodedImage:
    """A file's bytes, or one picture of an array, as a :class:`Picture`.

    Raises:
        UnreadableError: empty, truncated, no picture, palette, CMYK, animated, too large, or not finite.
    """
    if isinstance(raw, np.ndarray):
        pixels = (
            raw.astype(np.uint8) * 255 if raw.dtype == bool else raw.astype(raw.dtype.newbyteorder("="), copy=False)
        )
        return DecodedImage(_finite(pixels), str(raw.dtype), 1 if raw.dtype == bool else 8 * raw.dtype.itemsize)
    if not raw:
        raise UnreadableError("an empty file")
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            _judge(image)
            pixels = _pixels(ImageOps.exif_transpose(image))
            return DecodedImage(_finite(pixels), image.mode, 1 if image.mode == "1" else 8 * pixels.dtype.itemsize)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise UnreadableError(_too_large(int(found[0]) if found else MAX_PIXELS)) from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from error
    except Exception as error:  # decoders answer hostile bytes with anything from struct.error to SyntaxError
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableError(f"truncated or damaged ({words[:80]})") from error


def _judge(image: Image.Image) -> None:
    """Refuse by what the header says, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableError(_too_large(image.width * image.height))
    if getattr(image, "n_frames", 1) > 1:
        raise UnreadableError(f"animated or of several pages ({image.n_frames})")  # type: ignore[attr-defined]
    if image.mode in ("P", "PA"):
        raise UnreadableError("palette colours (save it as grey or RGB)")
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise UnreadableError(f"{image.mode} colours (save it as grey or RGB)")
    tiles = getattr(image, "tile", None)  # Pillow says there, and only there, what it is about to cut down
    if image.mode in ("LA", "RGB", "RGBA") and tiles and ";16" in str(tiles[0][3]):
        raise UnreadableError("16 bits a channel with colour or alpha, of which only 8 would be kept")


def _pixels(image: Image.Image) -> Array:
    if image.mode in ("LA", "RGBA") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        layer, grey = image.convert("RGBA"), image.mode in ("L", "LA")
        image = Image.new("RGB", image.size)
        image.paste(layer, mask=layer.getchannel("A"))
        image = image.convert("L") if grey else image
    if image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # as older Pillow reads 16 bits
        return pixels.astype(np.uint16)
    return pixels


def _finite(pixels: Array) -> Array:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels.astype(np.float32, copy=False)).all():
        raise UnreadableError("holds NaN or infinite values")
    return pixels


def _too_large(pixels: int) -> str:
    return f"absurdly large ({pixels / 1e6:.0f} megapixels, at most {MAX_PIXELS // 1_000_000})"
