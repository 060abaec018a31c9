"""Images of known pixels in the formats that people bring, from Pillow and by hand; they hold one array."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = {"BMP": ".bmp", "TIFF": ".tif", "PPM": ".pgm", "WEBP": ".webp", "GIF": ".gif", "MPO": ".jpg"}


def tiff(pixels: np.ndarray, *, photometric: int = 1, bits: int = 8, kind: int = 1, big_endian: bool = False) -> bytes:
    """Return a TIFF of one strip. ``photometric`` 0: white is zero; ``kind`` 1: unsigned, 2: signed, 3: float."""
    order = ">" if big_endian else "<"
    types = {1: "u", 2: "i", 3: "f"}
    data = pixels.astype(f"{order}{types[kind]}{bits // 8}").tobytes()
    height, width = pixels.shape
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
    ]
    tags += [(278, 4, height), (279, 4, len(data)), (339, 3, kind)]
    content = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", 8 + len(data)) + data
    content += struct.pack(f"{order}H", len(tags))
    for tag, form, value in tags:
        padded = struct.pack(f"{order}HH", value, 0) if form == 3 else struct.pack(f"{order}I", value)
        content += struct.pack(f"{order}HHI", tag, form, 1) + padded
    return content + bytes(4)


def png(pixels: np.ndarray, *, colour: int = 0, bits: int = 8, size: tuple[int, int] | None = None) -> bytes:
    """Return a PNG with right checksums; ``size`` (width, height) may be another one than that of the pixels."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", *(size or (width, height)), bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def known_image(rng: random.Random, image: np.ndarray) -> tuple[str, bytes, str]:
    """Write an image (H, W) uint8 in some format; return suffix, bytes, and what it is, for reports."""
    wide = image.astype(np.int64)
    names = ("PNG", "BMP", "TIFF", "PPM", "JPEG", "WEBP", "GIF", "MPO", "palette", "RGB", "RGBA", "LA", "CMYK", "1")
    choice = rng.choice((*names, *("tiff",) * 8, *("png",) * 3, "pgm 16", "pages"))
    big = rng.random() < 0.3
    if choice == "tiff":
        case = rng.randrange(8)
        content = (
            lambda: (tiff(255 - wide, photometric=0, big_endian=big), "TIFF, white is zero"),
            lambda: (tiff(wide * 257, bits=16, big_endian=big), "TIFF of 16 bits"),
            lambda: (
                tiff(65535 - wide * 257, photometric=0, bits=16, big_endian=big),
                "TIFF of 16 bits, white is zero",
            ),
            lambda: (tiff(wide - 128, kind=2, big_endian=big), "TIFF of signed 8 bits"),
            lambda: (tiff(wide * 100 - 12800, bits=16, kind=2, big_endian=big), "TIFF of signed 16 bits"),
            lambda: (tiff(image / 255.0, bits=32, kind=3, big_endian=big), "TIFF of float32"),
            lambda: (tiff(image / 255.0, bits=64, kind=3, big_endian=big), "TIFF of float64"),
            lambda: (tiff(image / 255.0, bits=16, kind=3, big_endian=big), "TIFF of float16"),
        )[case]()
        return rng.choice((".tif", ".tiff")), *content
    if choice == "png":
        case = rng.randrange(3)
        if case == 0:
            return ".png", png(wide * 257, bits=16), "PNG of 16 bits"
        side = rng.choice((2, 7, 20, 25, 60000, 2**31 - 1))
        return ".png", png(image, size=(side, image.shape[0])), f"PNG whose header claims a width of {side}"
    if choice == "pgm 16":
        header = b"P5 %d %d 65535\n" % image.shape[::-1]
        return ".pgm", header + (wide * 257).astype(">u2").tobytes(), "PGM of 16 bits"
    return _by_pillow(rng, choice, image)


def _by_pillow(rng: random.Random, choice: str, image: np.ndarray) -> tuple[str, bytes, str]:
    picture = Image.fromarray(image)
    options: dict[str, Any] = {}
    suffix = {"BMP": ".bmp", "TIFF": ".tif", "PPM": ".pgm", "WEBP": ".webp", "GIF": ".gif", "MPO": ".jpg"}.get(
        choice, ".png"
    )
    if choice == "JPEG":
        suffix, options = rng.choice((".jpg", ".jpeg", ".jfif", ".jpe", ".JPG")), {"quality": 98}
    elif choice == "MPO":
        options = {"save_all": True, "append_images": [picture.resize((8, 8))], "quality": 98}
    elif choice == "WEBP":
        options = {"lossless": True}
    elif choice == "palette":
        picture = picture.quantize(256)
    elif choice in ("RGB", "CMYK"):
        picture, suffix = picture.convert(choice), ".tif"
    elif choice in ("RGBA", "LA"):
        picture = picture.convert(choice)
    elif choice == "1":
        picture = picture.point(lambda level: 255 * (level > 127)).convert("1")
    elif choice == "pages":
        suffix, options = ".tif", {"save_all": True, "append_images": [picture.transpose(Image.Transpose.ROTATE_90)]}
    form = choice if choice in ("BMP", "PPM", "JPEG", "WEBP", "GIF", "MPO") else "TIFF" if suffix == ".tif" else "PNG"
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return suffix, buffer.getvalue(), f"{choice} by Pillow"
