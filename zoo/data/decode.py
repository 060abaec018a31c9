"""Decode one image, from the bytes of a file or out of an array, to pixels at their full depth."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

# Pillow imports its plug-ins at first use, and two threads that do so at once can miss a format: import them here.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow's names
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_IMAGE_PIXELS = 64_000_000  # a chest X-ray has 10 million; a header that claims more is a mistake or an attack
MAX_FILE_BYTES = 1 << 29  # no image of MAX_IMAGE_PIXELS needs more, in any format


class UnreadableError(Exception):
    """An image that is left out; the message says why in a few words."""


@dataclass(frozen=True)
class DecodedImage:
    """Pixels as stored.

    Attributes:
        pixels: (H, W) or (H, W, C); uint8, or a deeper integer or float type. Alpha is composed over black.
        mode: Pillow's name of the stored pixels ("L", "RGBA", "I;16", ...), or the dtype of an array.
        bits: bits per channel as stored.
    """

    pixels: ndarray
    mode: str
    bits: int

    @property
    def deep(self) -> bool:
        """Whether the pixels have more than 8 bits, so that they need a window."""
        return self.pixels.dtype != np.uint8


@contextlib.contextmanager
def silence_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata and about files that are refused.

    Enter it once around a whole job, in the thread that starts it: warning filters belong to the process.
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


def decode(raw: bytes | ndarray) -> DecodedImage:
    """Decode the bytes of a file, or take one image of an array.

    Raises:
        UnreadableError: empty, truncated, not an image, palette, CMYK, animated, too large, or not finite.
    """
    if isinstance(raw, ndarray):
        boolean = raw.dtype == bool
        # Files may hold either byte order; everything after this point computes in the machine's own.
        pixels = raw.astype(np.uint8) * 255 if boolean else raw.astype(raw.dtype.newbyteorder("="), copy=False)
        return DecodedImage(_require_finite(pixels), str(raw.dtype), 1 if boolean else 8 * raw.dtype.itemsize)
    if not raw:
        raise UnreadableError("an empty file")
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            _check_header(image)
            pixels = _require_finite(_to_array(ImageOps.exif_transpose(image)))
            return DecodedImage(pixels, image.mode, 1 if image.mode == "1" else 8 * pixels.dtype.itemsize)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:  # raised before _check_header can look at the size
        size = re.search(r"\d+", str(error))
        raise _too_large_error(int(size[0]) if size else MAX_IMAGE_PIXELS) from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from error
    except Exception as error:  # decoders answer damaged bytes with anything from struct.error to SyntaxError
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableError(f"truncated or damaged ({reason[:80]})") from error


def _check_header(image: Image.Image) -> None:
    """Refuse an image by what its header says, before any pixel is decoded."""
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise _too_large_error(image.width * image.height)
    # Which of several pages is meant is for the user to decide.
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnreadableError(f"animated or with several pages ({frames})")
    mode = image.mode
    if mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        colours = "palette" if mode in ("P", "PA") else mode
        raise UnreadableError(f"{colours} colours (save it as grey or RGB)")
    # Pillow reduces 16 bits per channel to 8 in these modes; the only trace of it is the raw mode of its tiles.
    tiles = getattr(image, "tile", None)
    if mode in ("LA", "RGB", "RGBA") and tiles and ";16" in str(tiles[0][3]):
        raise UnreadableError("16 bits per channel with colour or alpha, of which only 8 would be kept")


def _to_array(image: Image.Image) -> ndarray:
    if image.mode in ("LA", "RGBA") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        # Composed over black, the background of most medical images.
        layer, grey = image.convert("RGBA"), image.mode in ("L", "LA")
        image = Image.new("RGB", image.size)
        image.paste(layer, mask=layer.getchannel("A"))
        image = image.convert("L") if grey else image
    if image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image)
    # Older versions of Pillow read 16-bit PNGs as 32-bit integers (mode I).
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return pixels.astype(np.uint16)
    return pixels


def _require_finite(pixels: ndarray) -> ndarray:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels.astype(np.float32, copy=False)).all():
        raise UnreadableError("holds NaN or infinite values")
    return pixels


def _too_large_error(pixels: int) -> UnreadableError:
    return UnreadableError(f"too large ({pixels / 1e6:.0f} megapixels, at most {MAX_IMAGE_PIXELS // 1_000_000})")
