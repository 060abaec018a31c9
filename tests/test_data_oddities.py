"""Odd sets, one table per kind: what is used, what is left out and listed, and with which values."""

import contextlib
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.core.progress import RecordingReporter
from zoo.data.dataset import load_dataset
from zoo.data.decode import UnreadableError, decode
from zoo.data.labels import choose_manifest, read_labels
from zoo.data.own_images import own_image_kind
from zoo.data.resize import resize_image
from zoo.data.sources.registry import open_source
from zoo.data.sources.source import SourceOptions
from zoo.data.value_range import measure_range
from zoo.evaluation.compare import _read_sets
from zoo.report.image_grid import make_gif, make_grid, save_png, tile_image

CONFIG = DataConfig(resolution=16, holdout=0)
SIDE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(seed=0, shape=(SIDE, SIDE), high=256):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint8)


def write(folder, names, first=0):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed + first)).save(folder / name)
    return folder


def load(path, **config):
    reporter = RecordingReporter()
    return load_dataset(path, DataConfig(resolution=SIDE, **{"holdout": 0, **config}), reporter=reporter), reporter


# -- What this package wrote, and masks, inside a larger set.


def make_run(folder):
    for name in ("samples/reals.png", "losses.png", "training.gif"):
        write(folder, [name], first=50)
    (folder / "run.json").write_text("{}")
    (folder / "recipe.yaml").write_text("")


def make_grid_file(folder):
    save_png(make_grid(noise(9, (4, 1, 8, 8))), folder / "grid.png", {"recipe": "x", "seed": 0})


def make_samples(folder):
    folder.mkdir()
    for index in range(3):
        save_png(tile_image(noise(index + 70, (1, SIDE, SIDE))), folder / f"{index}.png", {"seed": 0}, kind="image")


def make_walk(folder):
    make_grid_file(folder)
    make_gif([folder / "grid.png"] * 2, folder / "walk.gif")


def make_tune(folder):
    write(folder, ["tune.png"], first=60)
    (folder / "tune.json").write_text("{}")


OWN = {
    "run": lambda root: make_run(root / "runs" / "dcgan-64-000"),
    "bench": lambda root: make_run(root / "bench" / "runs" / "dcgan-64-000"),
    "grid": make_grid_file,
    "walk": make_walk,
    "samples": lambda root: make_samples(root / "fakes"),
    "tune": lambda root: make_tune(root / "tune"),
    "check": lambda root: write(root / "data-check-set", ["contact_sheet.png", "histogram.png"], first=40),
    "masks beside": lambda root: write(root, ["s1_mask.png", "s2_seg.png", "mask_s3.png"], first=30),
    "masks apart": lambda root: write(root / "masks", ["s1.png", "s2_mask.png"], first=30),
}


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("packed", [False, True])
def test_own_output_and_masks_inside_a_set_are_listed_and_not_used(tmp_path, kind, packed):
    root = write(tmp_path / "set", [f"s{index}.png" for index in range(6)])
    before, _ = load(root)
    OWN[kind](root)
    data, reporter = load(shutil.make_archive(str(tmp_path / "packed"), "zip", root) if packed else root)
    assert data.digest == before.digest
    assert len(data.images) == 6
    assert "left out" in "\n".join(reporter.lines)
    assert all("data.files=all" in problem.reason for problem in data.problems)
    again, _ = load(root)
    assert (again.digest, bool(again.problems)) == (before.digest, True)
    assert len(load(root, files="all")[0].images) > 6


def test_samples_that_are_given_are_data_and_a_run_is_not(tmp_path):
    make_samples(tmp_path / "fakes")
    assert len(load(tmp_path / "fakes")[0].images) == 3
    make_run(tmp_path / "run")
    with pytest.raises(ZooError, match="no images except for those written by zoo"):
        load(tmp_path / "run")
    make_grid_file(tmp_path)
    assert own_image_kind((tmp_path / "grid.png").read_bytes()) == "grid"
    assert len(load(write(tmp_path / "m", ["a_mask.png", "b_mask.png"]))[0].images) == 2  # masks alone


# -- Files that are no files.


@pytest.mark.parametrize("kind", ["fifo", "zero", "proc", "folder link"])
def test_what_is_no_regular_file_is_left_out_at_once(tmp_path, kind):
    root = write(tmp_path / "set", ["a.png", "b.png"])
    if kind == "fifo":
        os.mkfifo(root / "x.png")
        os.mkfifo(root / "manifest.csv")
    else:
        target = {"zero": "/dev/zero", "proc": "/proc/self/status", "folder link": "/proc/self"}[kind]
        (root / "x.png").symlink_to(target)
    data, _ = load(root)
    assert data.names == ["a.png", "b.png"]
    expected = [] if kind == "folder link" else ["x.png"]
    assert [problem.name for problem in data.problems] == expected
    if kind == "fifo":
        with pytest.raises(ZooError, match=r"table of labels cannot be read \(not a regular file"):
            load(root, labels="sex")
        os.mkfifo(tmp_path / "x.npy")
        with pytest.raises(ZooError, match="not a regular file"):
            load(tmp_path / "x.npy")


# -- Formats.


def tiff(values, photometric, kind):
    data, bits, side = values.tobytes(), 8 * values.dtype.itemsize, len(values)
    tags = [(256, side), (257, side), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, side)]
    tags += [(279, len(data)), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (256, 257, 273, 278, 279) else 3, 1, v) for tag, v in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


TIFFS = {1: ("u1", "u2", "u4", "u8"), 2: ("i1", "i2", "i4", "i8"), 3: ("f2", "f4", "f8")}


@pytest.mark.parametrize(("kind", "dtype"), [(kind, dtype) for kind, dtypes in TIFFS.items() for dtype in dtypes])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiffs_of_every_type_keep_their_values(kind, dtype, white_is_zero):
    values = (noise() - 128.0 * (kind == 2)).astype(dtype)
    if dtype == "u4":
        values *= 1 << 24  # beyond the signed numbers
    highest = {1: np.iinfo(dtype).max if kind == 1 else 0, 2: -1, 3: 0}[kind]
    stored = np.subtract(np.dtype(dtype).type(highest), values) if white_is_zero else values
    raw = tiff(stored, 0 if white_is_zero else 1, kind)
    if white_is_zero and kind == 3:
        with pytest.raises(UnreadableError, match="floats of which the lowest is white"):
            decode(raw)
        return
    image = decode(raw)
    np.testing.assert_array_equal(image.pixels, values)
    if dtype not in ("u4", "i4", "f4"):
        assert image.pixels.dtype == values.dtype


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GREY = Image.fromarray(noise())
TABLE = Image.fromarray(noise(0, high=64))
FORMATS = {
    "a.jpe": (encoded(GREY, "JPEG", quality=100), 3),
    "a.jfif": (encoded(GREY, "JPEG", quality=100), 3),
    "mpo.jpg": (encoded(GREY, "MPO", save_all=True, append_images=[GREY.resize((8, 8))], quality=100), 3),
    "a.gif": (encoded(GREY, "GIF", save_all=True, append_images=[GREY.rotate(90)]), 0),
    "a.pgm": (encoded(GREY, "PPM"), 0),
    "a.pnm": (encoded(GREY.convert("RGB"), "PPM"), 0),
    "palette.png": (encoded(TABLE.convert("RGB").quantize(64), "PNG"), 0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_that_people_bring(tmp_path, name):
    content, tolerance = FORMATS[name]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(content)
    data, _ = load(tmp_path / "set")
    expected = noise(0, high=64) if name == "palette.png" else noise()
    assert abs(data.images[0, 0].astype(int) - expected).max() <= tolerance


def test_formats_that_are_not_read_are_counted(tmp_path):
    root = write(tmp_path / "set", ["a.png", "b.png"])
    for name in ("x.dcm", "y.DCM", "z.nii.gz", "notes.txt"):
        (root / name).write_bytes(b"x")
    _, reporter = load(root)
    assert "3 left out: 2 .dcm files (a format that is not read" in "\n".join(reporter.lines)


# -- Thin images.


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1), (3, 70_000), (4_000_000, 1)])
@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_thin_images_are_resized_without_their_square(shape, fit):
    image = resize_image(np.broadcast_to(np.float32(90), shape), resolution=8, channels=1, fit=fit)[0]
    lines = image if shape[0] < shape[1] or fit == "crop" else image.T
    assert [set(line) for line in lines] == [
        {90} if fit == "crop" or row == 3 else {0} for row, line in enumerate(lines)
    ]


def test_a_thin_image_that_cannot_be_stretched_is_left_out():
    with pytest.raises(UnreadableError, match=r"too thin \(1x60000000\)"):
        resize_image(np.broadcast_to(np.float32(1), (60_000_000, 1)), resolution=64, channels=1, fit="stretch")


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (40, 7), (7, 40), (16, 15), (300, 20)])
@pytest.mark.parametrize("resolution", [8, 16, 33])
def test_padding_an_axis_at_a_time_equals_padding_first(shape, resolution):
    values = np.random.default_rng(0).random(shape).astype(np.float32) * 255
    side = max(shape)
    square = np.zeros((side, side), np.float32)
    top, left = ((side - size) // 2 for size in shape)
    square[top : top + shape[0], left : left + shape[1]] = values
    padded, expected = (resize_image(v, resolution=resolution, channels=1, fit="pad") for v in (values, square))
    np.testing.assert_array_equal(padded, expected)


# -- Damage.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_entry_is_left_out_at_every_depth(tmp_path, dtype, method):
    kind = "PNG" if np.dtype(dtype).itemsize < 4 else "TIFF"
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        for index in range(4):
            archive.writestr(f"{index}.{kind.lower()}", encoded(Image.fromarray(noise(index).astype(dtype)), kind))
        start = archive.getinfo(f"2.{kind.lower()}").header_offset
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[start + 80] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(content)
    data, _ = load(tmp_path / "x.zip")
    assert [name[0] for name in data.names] == ["0", "1", "3"]
    assert len(data.problems) == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_every_cut_and_flip_of_an_array_is_one_line(tmp_path, dtype, suffix):
    path = tmp_path / f"x.{suffix}"
    (np.save if suffix == "npy" else np.savez_compressed)(path, noise(0, (3, 8, 8)).astype(dtype))
    whole = path.read_bytes()
    for at in [*range(0, 140, 9), len(whole) - 30]:
        path.write_bytes(whole[:at])
        with pytest.raises(ZooError, match="not a readable array") as error:
            load(path)
        assert "\n" not in str(error.value)
        flipped = bytearray(whole)
        flipped[at] ^= 0xFF
        path.write_bytes(flipped)
        with contextlib.suppress(ZooError):  # anything else is a traceback
            load(path)


# -- Ranges of values.

VALUES = {
    "int64": lambda v: v.astype(np.int64),
    "uint16 of 8 bits": lambda v: v.astype(np.uint16),
    "uint16": lambda v: v.astype(np.uint16) * 257,
    "int8": lambda v: (v.astype(int) - 128).astype(np.int8),
    "float32 of 255": lambda v: v.astype(np.float32),
    "float16 of 255": lambda v: v.astype(np.float16),
    "float64 of 1": lambda v: v / 255.0,
    "tanh": lambda v: (v / 127.5 - 1).astype(np.float32),
}


def read_pair(fakes, reals, window=None):
    """Both sets as ``zoo compare --fit pad`` sees them."""
    config = DataConfig(resolution=SIDE, channels=3, holdout=0)
    return [images.images for images in _read_sets([fakes, reals], config, window, Display(quiet=True))]


@pytest.mark.parametrize("kind", VALUES)
def test_the_same_images_of_another_type_are_the_same(tmp_path, kind):
    images = np.stack([noise(seed) for seed in range(6)])
    np.save(tmp_path / "8bit.npy", images)
    np.save(tmp_path / "other.npy", VALUES[kind](images))
    for pair in (("other.npy", "8bit.npy"), ("8bit.npy", "other.npy")):
        if kind == "uint16" and pair[0] == "8bit.npy":
            continue  # 16 bits of reals are windowed by percentiles, as for training
        for read in read_pair(*(tmp_path / name for name in pair)):
            assert abs(read[:, 0].astype(int) - images).max() == 0


@pytest.mark.parametrize(
    "values",
    [(noise() - 90.0) / 40, noise() / 2000.0, noise().astype(np.int64) // 9, noise() / 255.0 * 1.4 - 0.2],
    ids=["z-scores", "nearly black", "dark", "between"],
)
def test_unclear_ranges_are_refused_and_can_be_given(tmp_path, values):
    np.save(tmp_path / "fakes.npy", np.stack([values] * 3))
    np.save(tmp_path / "reals.npy", np.stack([noise()] * 3))
    with pytest.raises(ZooError, match=r"do not show which are black and white\. Give both with --window"):
        read_pair(tmp_path / "fakes.npy", tmp_path / "reals.npy")
    window = (float(values.min()), float(values.max()))
    fakes, reals = read_pair(tmp_path / "fakes.npy", tmp_path / "reals.npy", window)
    assert (fakes.min(), fakes.max()) == (0, 255)
    np.testing.assert_array_equal(reals[0, 0], noise())


def test_scanner_intensities_have_no_nominal_range(tmp_path):
    np.save(tmp_path / "x.npy", noise().astype(np.uint16)[None] * 16)
    assert measure_range(tmp_path / "x.npy", CONFIG, RecordingReporter()).nominal is None


def test_a_window_that_leaves_nothing_is_refused_and_a_guess_is_said(tmp_path):
    np.save(tmp_path / "x.npy", noise(0, (4, SIDE, SIDE)).astype(np.int64))
    with pytest.raises(ZooError, match="makes each image one grey level"):
        load(tmp_path / "x.npy", window="dtype")
    _, reporter = load(tmp_path / "x.npy")
    assert "becomes black" in "\n".join(reporter.lines)


# -- Classes and subjects.


@pytest.mark.parametrize(
    ("folders", "images", "subjects"),
    [
        (("0", "1", "2"), 24, None),
        (("m1", "f1"), 24, None),
        (("grade1", "grade2", "grade3", "grade4"), 12, None),
        (("P1", "P2", "P3"), 24, 3),
        (("001", "002", "003"), 24, 3),
        (tuple(f"x{index}" for index in range(30)), 4, 30),
        (("m", "f"), 24, None),
    ],
)
def test_few_folders_of_many_images_are_classes(tmp_path, folders, images, subjects):
    root = write(tmp_path / "set", [f"{folder}/{index:04d}.png" for folder in folders for index in range(images)])
    data, reporter = load(root, holdout=0.1)
    assert (None if data.subjects is None else len(set(data.subjects))) == subjects
    numbered = any(char.isdigit() for char in "".join(folders))
    assert any("data.subjects=" in line for line in reporter.lines) == numbered
    assert set(load(root, labels="folder")[0].classes) == set(folders)
    assert len(set(load(root, subjects="folder")[0].subjects)) == len(folders)
    assert load(root, subjects="none")[0].subjects is None


# -- Tables of labels.

IMAGES = ["a.png", "b.png"]
TABLES = {
    "plain": b"file,sex\na.png,m\nb.png,f\n",
    "semicolons": b"File;Sex\na.png;m\nb.png;f\n",
    "tabs": b"FILE\tSEX\r\na.png\tm\r\nb.png\tf\r\n",
    "excel": b"sep=;\nfile;sex\na.png;m\nb.png;f\n",
    "dots": b"file,sex\n./a.png,m\n.\\b.png,f\n",
    "folder": b"file,sex\nimgs/a.png,m\nimgs/b.png,f\n",
    "absolute": b"file,sex\n/data/set/a.png,m\n/data/set/b.png,f\n",
    "stems": b"image_id,sex\na,m\nb,f\n",
    "utf-16": "file,sex\na.png,m\nb.png,f\n".encode("utf-16"),
    "bom": b"\xef\xbb\xbffile,sex\na.png,m\nb.png,f\n",
    "latin-1": b"file,sex,town\na.png,m,K\xf6ln\nb.png,f,x\n",
    "quotes": b'"file";"sex"\n"a.png";"m"\n"b.png";"f"\n',
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_labels(kind):
    file, text, note = choose_manifest([("manifest.csv", TABLES[kind])], "sex", "the set")
    assert read_labels(IMAGES, "sex", text, "the set", file=file) == ["m", "f"]
    assert ("Windows-1252" in note) == (kind == "latin-1")


@pytest.mark.parametrize("name", ["manifest.csv", "metadata.csv", "labels.csv", "Metadata.CSV"])
@pytest.mark.parametrize("packed", [False, True])
def test_names_of_tables_and_folders_in_their_paths(tmp_path, name, packed):
    root = write(tmp_path / "set", [f"imgs/s{index}.png" for index in range(6)])
    rows = "".join(f"imgs/s{index}.png,{'mf'[index % 2]}\n" for index in range(6))
    (root / name).write_text("file,sex\n" + rows)
    data, _ = load(shutil.make_archive(str(tmp_path / "x"), "zip", root) if packed else root, labels="sex")
    assert data.labels.tolist() == [1, 0] * 3


@pytest.mark.parametrize(
    ("names", "text", "reason"),
    [
        (IMAGES, "file,sex\na.png,m\na.png,f\nb.png,f\n", "gives a.png both 'm' and 'f'"),
        (["x/a.png", "y/a.png"], "file,sex\na.png,m\n", "fits both x/a.png and y/a.png"),
        (IMAGES, "file,sex\nx/a.png,m\ny/a.png,f\nb.png,f\n", "both x/a.png and y/a.png fit the image a.png"),
        (IMAGES, "file,sex,sex\na.png,m,f\n", "two columns 'sex'"),
        (IMAGES, "file,sxe\na.png,m\n", "no column 'sex' (did you mean 'sxe'?)"),
        (IMAGES, "file,sex\na.png,m\n", "gives b.png no sex"),
    ],
)
def test_tables_that_are_unclear_are_refused(names, text, reason):
    with pytest.raises(ZooError) as error:
        read_labels(names, "sex", text, "the set")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_without_an_end_and_one_that_is_no_text(tmp_path):
    root = write(tmp_path / "set", IMAGES)
    with (root / "manifest.csv").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ZooError, match=r"1099512 MB, at most 134"):
        load(root, labels="sex")
    (root / "manifest.csv").write_bytes(b"f\0i\0l\0e\0")
    with pytest.raises(ZooError, match=r"manifest.csv is not text in UTF-8"):
        load(root, labels="sex")


# -- The cache.


@pytest.mark.parametrize("file", ["images.npy", "set.json", "index"])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
def test_a_flipped_byte_in_the_cache_is_noticed(tmp_path, cache, file, place):
    root = write(tmp_path / "set", [f"{index}.png" for index in range(6)])
    first, _ = load(root)
    expected, digest = np.array(first.images), first.digest
    (path,) = (cache / "index").iterdir() if file == "index" else (cache / "sets").glob(f"*/{file}")
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.unlink()
    path.write_bytes(content)
    again, _ = load(root)
    np.testing.assert_array_equal(again.images, expected)
    assert (again.digest, again.names) == (digest, first.names)


def test_images_that_shrink_while_they_are_mapped(tmp_path, cache):
    data, _ = load(write(tmp_path / "set", [f"{index}.png" for index in range(40)]))
    np.save(tmp_path / "x.npy", np.array(data.images[:, 0]))
    (path,) = (cache / "sets").glob("*/images.npy")
    os.truncate(path, 300)
    source = open_source(tmp_path / "x.npy", SourceOptions(resolution=SIDE, channels=1))
    assert source.raw(39).shape == (SIDE, SIDE)
    os.truncate(tmp_path / "x.npy", 300)
    with pytest.raises(ZooError, match=r"x.npy: it was cut short"):
        source.raw(39)
    with pytest.raises(ZooError, match=r"cut short while it was in use\. Run again"):
        data.take([39])


def test_older_caches_keep_their_digest(tmp_path, cache):
    root = write(tmp_path / "set", [f"case_{index}.png" for index in range(6)])
    first, _ = load(root)
    (path,) = (cache / "sets").glob("*/set.json")
    new = ("revised", "format", "images_crc", "built", "checksum")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in new}))
    shutil.rmtree(cache / "index")
    again, reporter = load(root)
    assert again.digest == first.digest
    assert not any("cached" in line for line in reporter.lines)


# -- Names and an unusable set.


def test_names_with_markup_and_terminal_escapes_are_printed_as_they_are(tmp_path, capsys, monkeypatch):
    from zoo.cli.main import main

    monkeypatch.chdir(tmp_path)
    for name in ("a[/b]", "scans [v1]"):
        write(tmp_path / name.replace("/", "-") if "/" in name else tmp_path / name, IMAGES)
    write(tmp_path / "a[" / "b]", IMAGES)
    (tmp_path / "scans [v1]" / "\x1b[31mx.png").write_bytes(b"")
    assert main(["data", "check", "a[/b]"]) == 0
    assert "a[/b]" in capsys.readouterr().out
    assert main(["data", "check", "scans [v1]"]) == 0
    out = capsys.readouterr().out
    assert "scans [v1]" in out
    assert "\\x1b[31mx.png: an empty file" in out
    assert "\x1b" not in out


def test_a_check_without_a_usable_image_ends_with_two(tmp_path, capsys, monkeypatch):
    from zoo.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    GREY.save(tmp_path / "set" / "a.png", save_all=True, append_images=[GREY])
    for flags in ([], ["--json"]):
        assert main(["data", "check", "set", *flags]) == 2
        assert (
            "none of its 1 image files is usable (a.png: animated or with several pages (2))" in capsys.readouterr().err
        )


def test_the_crc_is_that_of_the_pixels(tmp_path, cache):
    data, _ = load(write(tmp_path / "set", IMAGES))
    facts = json.loads(next((cache / "sets").glob("*/set.json")).read_text())
    assert facts["images_crc"] == zlib.crc32(np.array(data.images).tobytes())
    assert Path(data.images.filename).name == "images.npy"
