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
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")  # Pillow's names
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
FIRST_FRAME_FORMATS = ("GIF", "MPO")  # the later frames of an MPO are previews of its first, or its other eye
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # + is BigTIFF
PHOTOMETRIC_TAG, BITS_TAG, SAMPLE_FORMAT_TAG = 262, 258, 339
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC_TAG
SIGNED = 2  # a value of SAMPLE_FORMAT_TAG
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
        revised: whether caches of format 1 hold other pixels of it.
    """

    pixels: ndarray
    mode: str
    bits: int
    revised: bool = False

    @property
    def deep(self) -> bool:
        """Whether the pixels have more than 8 bits, so that they need a window."""
        return self.pixels.dtype != np.uint8


@contextlib.contextmanager
def silence_pillow() -> Iterator[None]:
    """Silence warnings of readers of images about odd metadata and refused files.

    Enter it once around a whole job, in the thread that starts it: warning filters belong to the process.
    """
    logs = [logging.getLogger(name) for name in ("PIL", "tifffile", "nibabel.global", "pydicom")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            for module in ("PIL", "pydicom", "nibabel"):  # pydicom's would print values such as names
                warnings.filterwarnings("ignore", module=rf"{module}\.")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def decode(raw: bytes | ndarray) -> DecodedImage:
    """Decode the bytes of a file, or take one image of an array.

    Raises:
        UnreadableError: empty, truncated, not an image, CMYK, animated, too large, or not finite.
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
            stored = _to_array(ImageOps.exif_transpose(image), image.format)
            pixels = _require_finite(_correct_tiff(image, stored))
            bits = 1 if image.mode == "1" else 8 * pixels.dtype.itemsize
            return DecodedImage(pixels, image.mode, bits, revised=pixels is not stored)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:  # raised before _check_header can look at the size
        size = re.search(r"\d+", str(error))
        raise _too_large_error(int(size[0]) if size else MAX_IMAGE_PIXELS) from error
    except Image.UnidentifiedImageError as error:
        if raw.startswith(TIFF_STARTS):
            return _decode_rare_tiff(raw)
        raise UnreadableError("not a PNG, JPEG, BMP, TIFF, WEBP, GIF or PNM image") from error
    except Exception as error:  # decoders answer damaged bytes with anything from struct.error to SyntaxError
        raise _damaged_error(error) from error


def _check_header(image: Image.Image) -> None:
    """Refuse an image by what its header says, before any pixel is decoded."""
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise _too_large_error(image.width * image.height)
    # Which of several pages is meant is for the user to decide.
    frames = 1 if image.format in FIRST_FRAME_FORMATS else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnreadableError(f"animated or with several pages ({frames})")
    mode = image.mode
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        raise UnreadableError(f"{mode} colours (save it as grey or RGB)")
    # Pillow reduces 16 bits per channel to 8 in these modes; the only trace of it is the raw mode of its tiles.
    tiles = getattr(image, "tile", None)
    if mode in ("LA", "RGB", "RGBA") and tiles and ";16" in str(tiles[0][3]):
        raise UnreadableError("16 bits per channel with colour or alpha, of which only 8 would be kept")


def _to_array(image: Image.Image, file_format: str | None) -> ndarray:
    palette = image.mode in ("P", "PA")
    if image.mode in ("LA", "PA", "RGBA") or (image.mode in ("L", "P", "RGB") and "transparency" in image.info):
        # Composed over black, the background of most medical images.
        layer, grey = image.convert("RGBA"), image.mode in ("L", "LA")
        image = Image.new("RGB", image.size)
        image.paste(layer, mask=layer.getchannel("A"))
        image = image.convert("L") if grey else image
    if image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    if palette and (pixels == pixels[:, :, :1]).all():  # grey levels, stored as a table of colours
        return np.ascontiguousarray(pixels[:, :, 0])
    # Older versions of Pillow read 16-bit PNGs as 32-bit integers (mode I), and all read 16-bit PNMs so.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        return pixels.astype(np.uint16)
    return pixels


def _correct_tiff(image: Image.Image, pixels: ndarray) -> ndarray:
    """Undo what Pillow gets wrong in TIFFs: signs, unsigned 32 bits, and white stored as zero."""
    tags = getattr(image, "tag_v2", None)
    if tags is None or image.format != "TIFF" or pixels.ndim != 2:
        return pixels
    bits = tags.get(BITS_TAG, (1,))[0]
    signed = tags.get(SAMPLE_FORMAT_TAG, (1,))[0] == SIGNED
    if image.mode == "L" and bits == 8 and signed:
        pixels = pixels.view(np.int8)
    elif image.mode == "I" and signed and bits == 16:
        pixels = pixels.astype(np.int16)
    elif image.mode == "I" and not signed and bits == 32:
        pixels = pixels.view(np.uint32)
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO and pixels.dtype != np.uint8:  # of which Pillow inverts 8 bits
        pixels = _invert(pixels, bits)
    return pixels


def _decode_rare_tiff(raw: bytes) -> DecodedImage:
    """Decode a grey TIFF that Pillow cannot: float16, float64, 64-bit integers."""
    import tifffile  # few sets need it

    try:
        with tifffile.TiffFile(io.BytesIO(raw)) as file:
            if len(file.pages) > 1:
                raise UnreadableError(f"animated or with several pages ({len(file.pages)})")
            page = file.pages.first
            if page.size > MAX_IMAGE_PIXELS:
                raise _too_large_error(page.size)
            orientation = page.tags.valueof(274, 1)
            if page.ndim != 2 or page.photometric not in (0, 1) or orientation != 1:
                raise UnreadableError("a kind of TIFF that is not supported (save it as grey, upright, one channel)")
            pixels = page.asarray()
            if page.photometric == WHITE_IS_ZERO:
                pixels = _invert(pixels, page.bitspersample)
    except UnreadableError:
        raise
    except Exception as error:
        raise _damaged_error(error) from error
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return DecodedImage(_require_finite(pixels), str(pixels.dtype), 8 * pixels.dtype.itemsize)


def _invert(pixels: ndarray, bits: int) -> ndarray:
    """Turn integers of which the lowest is white into ones of which it is black."""
    if pixels.dtype.kind == "f":
        raise UnreadableError("floats of which the lowest is white (save it with black as the lowest)")
    highest = -1 if pixels.dtype.kind == "i" else (1 << bits) - 1
    return np.subtract(pixels.dtype.type(highest), pixels)


def _require_finite(pixels: ndarray) -> ndarray:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels.astype(np.float32, copy=False)).all():
        raise UnreadableError("holds NaN or infinite values")
    return pixels


def _damaged_error(error: Exception) -> UnreadableError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UnreadableError(f"truncated or damaged ({reason[:80]})")


def _too_large_error(pixels: int) -> UnreadableError:
    return UnreadableError(f"too large ({pixels / 1e6:.0f} megapixels, at most {MAX_IMAGE_PIXELS // 1_000_000})")
