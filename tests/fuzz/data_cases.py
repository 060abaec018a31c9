"""Cases of image sets: one odd file among good ones, arrays, zips, manifests, damaged caches."""

from __future__ import annotations

import io
import json
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.case import Case
from tests.fuzz.formats import known_image, png
from tests.fuzz.shared import NUM_IMAGES, SIDE, known_images

GOOD = [f"s{index:03d}.png" for index in range(NUM_IMAGES)]
MIN_CORRELATION = 0.99  # of the pixels read with those written: JPEG and palettes lose a little


def _put_good(folder: Path) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    images = known_images()
    for name, image in zip(GOOD, images, strict=True):
        Image.fromarray(image).save(folder / name)
    return images


def _load(case: Case, path: Path, **settings: Any) -> Any:
    from zoo.core.config import DataConfig
    from zoo.data.dataset import load_dataset

    config = DataConfig(**{"resolution": SIDE, "holdout": 0.0, **settings})
    return case.call(load_dataset, path, config, cache_dir=case.folder / "cache")


def _expect_good(case: Case, data: Any, images: list[np.ndarray], *, deep: bool = False) -> None:
    """Expect that the good images were all used, as they are."""
    case.expect(data is not None, "one odd file stops the whole set")
    for name, image in zip(GOOD, images, strict=True):
        place = [index for index, other in enumerate(data.names) if other.endswith(name)]
        case.expect(len(place) == 1, f"{name} is used {len(place)} times")
        case.expect(deep or (data.images[place[0], 0] == image).all(), f"{name} is used with other pixels")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() and b.std() else 0.0


def image_file(case: Case) -> None:
    """A format or header among good images: used as it is meant, or left out."""
    truth = known_images(seed=1)[0]
    suffix, content, what = known_image(case.rng, truth)
    mutated = case.rng.random() < 0.4
    if mutated:
        content = case.odd_bytes(content)
    case.note(f"{what}{', mutated' if mutated else ''}")
    images = _put_good(case.folder / "set")
    odd = case.folder / "set" / f"odd{suffix}"
    odd.write_bytes(content)
    data = _load(case, case.folder / "set")
    _expect_good(case, data, images)
    used = [data.images[index, 0] for index, name in enumerate(data.names) if name == odd.name]
    if used and not mutated and "claims" not in what:
        limit = MIN_CORRELATION if "1 by" not in what else 0.5
        case.expect(_correlation(used[0], truth) > limit, f"{what}: correlation {_correlation(used[0], truth):.2f}")
    if case.rng.random() < 0.3:
        report = case.zoo("data", "check", "set", "--json")
        case.expect(report.code == 0, f"`zoo data check` stops: {report.err[-200:]!a}")


DEVICES = ("/dev/zero", "/dev/urandom", "/proc/self/mem", "/proc/kmsg", "/dev/stdin", "/dev/tty")
ODD_NAMES = (
    "\x1b[31mred.png",
    "[b].png",
    "[v1] x.png",
    "a\nb.png",
    "\udcff.png",
    "x" * 240 + ".png",
    " .png",
    "-x.png",
)


def folder(case: Case) -> None:
    """Things in a folder that are no files, or have odd names: left out or used, and the good images are used."""
    rng, root = case.rng, case.folder / "set"
    images = _put_good(root)
    place = root / ("odd.png" if rng.random() < 0.8 else "odd.zip")
    match rng.randrange(9):
        case 0:
            os.mkfifo(place)
        case 1:
            place.symlink_to(
                rng.choice(("/dev/zero", "/dev/urandom", "/proc/self/mem", "/proc/kmsg", "/dev/stdin", "/dev/tty"))
            )
        case 2:
            place.symlink_to(
                rng.choice((place, root, "missing", "/proc/self/fd", "/")) if rng.random() < 0.5 else place
            )
        case 3:
            place.mkdir()
        case 4:
            here = Path.cwd()
            os.chdir(root)  # a socket's path is short
            with socket.socket(socket.AF_UNIX) as endpoint:
                endpoint.bind(place.name)
            os.chdir(here)
        case 5:
            shape = rng.choice(((1, 65000), (65000, 1), (1, 1), (2, 30000), (1, 8)))
            Image.fromarray(np.full(shape, 90, np.uint8)).save(root / "odd.png")
        case 6:
            (root / "odd.png").write_bytes(rng.choice((b"", b"\0" * 100, png(images[0], size=(50000, 50000)))))
        case 7:
            (root / rng.choice(("run.json", "manifest.csv", "labels.csv", "Thumbs.db", "set.json"))).write_bytes(
                b"\xff\xfe\0x"
            )
        case 8:
            (root / rng.choice(ODD_NAMES)).write_bytes(b"no image")
    case.note(str(sorted(ascii(path.name) for path in root.iterdir() if path.name not in GOOD)))
    _expect_good(case, _load(case, root), images)
    result = case.zoo("data", "check", "set", *(["--json"] if rng.random() < 0.5 else []))
    case.expect(result.code == 0, f"`zoo data check` stops: {result.err[-200:]!a}")
    shown = result.out + result.err
    case.expect("\x1b" not in shown, "a file's name reaches the terminal with its escapes")


# Types and ranges that the same grey images may be stored in; the truth stays the same.
STORED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint8": lambda images: images,
    "int64, 0 to 255": lambda images: images.astype("i8"),
    "big-endian int32, 0 to 255": lambda images: images.astype(">i4"),
    "float32, 0 to 255": lambda images: images.astype("f4"),
    "float64, 0 to 1": lambda images: images / 255,
    "float16, 0 to 1": lambda images: (images / 255).astype("f2"),
    "big-endian float32, -1 to 1": lambda images: (images / 127.5 - 1).astype(">f4"),
    "int8, 0 is grey": lambda images: (images.astype(int) - 128).astype("i1"),
    "uint16, whole range": lambda images: images.astype("u2") * 257,
    "big-endian uint16, 12 bits": lambda images: (images.astype(int) * 16).astype(">u2"),
    "int16, Hounsfield": lambda images: (images.astype(int) * 8 - 1024).astype("i2"),
}
CLIPPED = ("uint16", "int16")  # of which outliers may be clipped, so that images differ a little
MEANINGLESS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NaN": lambda images: np.where(images == images.max(), np.nan, images),
    "infinite": lambda images: np.where(images == images.max(), np.inf, images),
    "largest float": lambda images: np.where(images == images.max(), np.finfo("f8").max, images),
    "complex": lambda images: images.astype("c8"),
    "text": lambda images: images.astype("U3"),
    "times": lambda images: images.astype("M8[s]"),
    "objects": lambda images: images.astype(object),
    "structured": lambda images: np.zeros(len(images), [("a", "u1", images.shape[1:])]),
    "empty": lambda images: images[:0],
    "one number": lambda images: images[0, 0, 0],
    "five axes": lambda images: images[None, None],
    "no pixels": lambda images: images[:, :0],
    "one grey": lambda images: images * 0.0,
}
ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NHW": lambda images: images,
    "NHWC": lambda images: images[..., None],
    "NCHW": lambda images: images[:, None],
    "Fortran": np.asfortranarray,
}


def array(case: Case) -> None:
    """An array of some type, range and shape: refused, or used as the images that it holds."""
    rng, images = case.rng, np.stack(known_images())
    meant = rng.random() < 0.7
    name, order = rng.choice(sorted(STORED if meant else MEANINGLESS)), rng.choice(sorted(ORDERS))
    values = ORDERS[order](STORED[name](images)) if meant else MEANINGLESS[name](images)
    path = case.folder / rng.choice(("a.npy", "a.npy", "a.npz"))
    if path.suffix == ".npy":
        np.save(path, values, allow_pickle=True)
    else:
        members = rng.choice((("images",), ("x",), ("a", "b"), ("arr_0", "a")))
        np.savez(path, **dict.fromkeys(members, values))
    mutated = rng.random() < 0.3
    if mutated:
        path.write_bytes(case.odd_bytes(path.read_bytes()))
    case.note(f"{path.name}: {name}, {order}{', mutated' if mutated else ''}")
    if rng.random() < 0.3:
        case.zoo("data", "check", path, "--json")
    data = _load(case, path)
    if data is None or mutated or not meant:
        return
    for index, image in enumerate(images):
        alike = _correlation(data.images[index, 0], image)
        case.expect(alike > MIN_CORRELATION, f"{name}: image {index} has correlation {alike:.2f} with itself")
    _put_good(case.folder / "reals")
    result = case.zoo(
        *("compare", path, "reals", "--fit", "pad", "--resolution", SIDE, "--metrics", "ssim_nearest"),
        *("--no-floors", "--no-intervals", "--json"),
    )
    if result.code == 0 and not name.startswith(CLIPPED):
        value = json.loads(result.out)["ssim_nearest"]["value"]
        case.expect(value > MIN_CORRELATION, f"{name}: the same images have an SSIM of {value:.2f}")


ENTRY_NAMES = ("odd.png", "odd.png", "../odd.png", "/odd.png", "a\\odd.png", "\x1b[31m.png", "x" * 5000 + ".png")
SIZES = (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0")


def archive(case: Case) -> None:
    """A zip with one damaged or odd entry: the entry is left out, all others are used."""
    rng, images, path = case.rng, known_images(), case.folder / "set.zip"
    odd = rng.choice(
        ("odd.png", "../odd.png", "/odd.png", "a\\odd.png", "\x1b[31m.png", "odd.png", "x" * 5000 + ".png")
    )
    deep = rng.random() < 0.3
    content = png(known_images(1)[0].astype(np.int64) * (257 if deep else 1), bits=16 if deep else 8)
    form = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", form) as file:
        for name, image in zip(GOOD, images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            file.writestr(name, buffer.getvalue())
        file.writestr(odd, content)
        at, size = file.getinfo(file.namelist()[-1]).header_offset, file.infolist()[-1].compress_size
    raw = bytearray(path.read_bytes())
    what = rng.choice(("data", "data", "local header", "central", "anything", "encrypted", "method", "size"))
    central = raw.rindex(b"PK\1\2")
    match what:
        case "data":
            raw[at + 30 + len(odd.encode()) + rng.randrange(size)] ^= rng.randrange(1, 256)
        case "local header":
            raw[at + rng.randrange(30)] ^= rng.randrange(1, 256)
        case "central":
            raw[central + rng.randrange(10, 46)] ^= rng.randrange(1, 256)
        case "anything":
            raw = bytearray(case.odd_bytes(bytes(raw)))
        case "encrypted":
            raw[central + 8] |= 1
        case "method":
            raw[central + 10 : central + 12] = rng.choice((b"\x01\0", b"\x09\0", b"\x62\0", b"\xff\xff", b"\x5d\0"))
        case "size":
            raw[central + 24 : central + 28] = rng.choice(SIZES)
    path.write_bytes(bytes(raw))
    case.note(f"{odd[:30]!a}: {what}, {'16' if deep else '8'} bits, method {form}")
    if rng.random() < 0.5:
        case.zoo("data", "check", path, "--json")
    data = _load(case, path)
    if what not in ("anything", "central") and not (what == "size" and data is None):
        _expect_good(case, data, images, deep=deep)


def _table(case: Case, labels: list[str]) -> bytes:
    rng = case.rng
    delimiter = rng.choice((",", ",", ";", "\t", "|", " , "))
    file, column = (
        rng.choice(("file", "File", "FILE", "filename", "path", "image", " file ")),
        rng.choice(("sex", "Sex", " sex")),
    )
    prefix = rng.choice(("", "", "./", "set/", "/data/set/", ".\\"))
    rows = [[prefix + name, label] for name, label in zip(GOOD, labels, strict=True)]
    match rng.randrange(8):
        case 0:
            rows.pop()
        case 1:
            rows.append([rows[0][0], "x"])
        case 2:
            rows[0][1] = rng.choice(("", "\x00", "x" * 200_000, "\x1b[31m", '"', "ü"))
        case 3:
            rows[0].append("more")
        case 4:
            rows.append(["s999.png", "x"])
    header = [file, column]
    if rng.random() < 0.3:
        header, rows = header[::-1], [row[1::-1] + row[2:] for row in rows]
    ending = rng.choice(("\n", "\r\n", "\r"))
    text = ending.join(delimiter.join(row) for row in [header, *rows]) + ending
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")), "replace")


def manifest(case: Case) -> None:
    """A table of labels in some dialect: each image gets the label of its row, or the table is refused."""
    labels = ["fm"[index % 2] for index in range(NUM_IMAGES)]
    _put_good(case.folder / "set")
    name = case.rng.choice(("manifest.csv",) * 4 + ("metadata.csv", "labels.csv"))
    content = _table(case, labels)
    if case.rng.random() < 0.2:
        content = case.odd_bytes(content)
        labels = []
    (case.folder / "set" / name).write_bytes(content)
    case.note(f"{name}: {content[:200]!a}")
    data = _load(case, case.folder / "set", labels="sex")
    if data is None or not labels:
        return
    used = [list(data.classes)[index] for index in data.labels]
    wrong = [index for index, name in enumerate(GOOD) if used[data.names.index(name)] != labels[index]]
    # Row 0 is the one that the table may have made odd itself.
    case.expect(not [index for index in wrong if index], f"labels {used} for {labels}")


def cache(case: Case) -> None:
    """A byte of the cache that changed: built again, or refused; never other pixels."""
    rng, root = case.rng, case.folder / "set"
    images = _put_good(root)
    _load(case, root)
    path = rng.choice(sorted(path for path in (case.folder / "cache").rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    if rng.random() < 0.6:
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    else:
        content = bytearray(case.odd_bytes(bytes(content)))
    path.write_bytes(bytes(content))
    case.note(f"changed {path.name}")
    data = _load(case, root)
    if data is not None:
        _expect_good(case, data, images)
        case.expect(data.names == GOOD, f"names {data.names}")
