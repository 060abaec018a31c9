"""Folders, zips, OASIS layouts, arrays and phantoms: which images are used, left out or refused."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.phantoms import SLICES_PER_SUBJECT, phantom_subject
from zoo.data.sources import folder

CONFIG = DataConfig(resolution=8, holdout=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


class Log:
    """A reporter that records."""

    def __init__(self):
        self.messages, self.warnings, self.bars, self.steps = [], [], [], 0

    def start(self, task, total):
        self.bars.append((task, total))

    def advance(self, n):
        self.steps += n

    def stop(self): ...

    def say(self, message):
        self.messages.append(message)

    def warn(self, message):
        self.warnings.append(message)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(root, names):
    """A different image for every name."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg", ".bmp", ".tif", ".tiff", ".webp"):
            Image.fromarray(noise(8, 8, seed=seed)).save(path)
        else:
            path.write_text("text")
    return root


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    return path


def refused(path, config=CONFIG):
    with pytest.raises(ZooError) as error:
        load_dataset(path, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_is_searched_without_hidden_files_and_sorted(tmp_path):
    root = write(
        tmp_path / "set",
        [
            *("s_10.png", "s_2.png", "s_1.jpg", "deep/er/s_3.bmp", "s_4.tiff", "s_5.webp", "s_6.tif"),
            *(".hidden.png", ".git/x.png", "__MACOSX/s_1.png", "notes.csv", "readme.txt", "code.py"),
        ],
    )
    (root / "s_7.PNG").write_bytes((root / "s_2.png").read_bytes())
    data = load_dataset(root, CONFIG)
    assert data.names == [
        *("deep/er/s_3.bmp", "s_1.jpg", "s_2.png", "s_4.tiff", "s_5.webp", "s_6.tif", "s_7.PNG", "s_10.png"),
    ]
    assert data.problems == []
    np.testing.assert_array_equal(data.images[2, 0], noise(8, 8, seed=1))


def test_a_zip_equals_its_folder(tmp_path):
    root = write(tmp_path / "set", [f"case_{i}_slice_{j}.png" for i in range(5) for j in range(3)])
    folder, archive = load_dataset(root, CONFIG), load_dataset(zipped(root, tmp_path / "set.zip"), CONFIG)
    assert archive.digest == folder.digest
    assert archive.names == folder.names
    np.testing.assert_array_equal(archive.images, folder.images)
    os.environ["ZOO_CACHE"] += "-2"  # and without the folder's cache
    again = load_dataset(tmp_path / "set.zip", CONFIG)
    assert again.digest == folder.digest
    np.testing.assert_array_equal(again.images, folder.images)


OASIS = [
    f"keras_png_slices_{kind}/{stem}_{subject:03d}_slice_{index}.nii.png"
    for split, subjects in (("train", (1, 2, 10)), ("validate", (3,)), ("test", (4,)))
    for kind, stem in ((split, "case"), (f"seg_{split}", "seg"))
    for subject in subjects
    for index in (0, 2, 10)
]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_oasis_nested_or_not_given_at_any_level(tmp_path, nested, kind):
    top = tmp_path / "download"
    inner = top / "keras_png_slices_data" / ("keras_png_slices_data" if nested else "")
    write(inner, OASIS)
    write(top, ["keras_png_slices_data/__MACOSX/keras_png_slices_train/._case_001_slice_0.nii.png", "readme.txt"])
    places = {top, top / "keras_png_slices_data", inner}
    places = {zipped(p, tmp_path / f"{i}.zip") for i, p in enumerate(places)} if kind == "zip" else places
    found = [load_dataset(place, DataConfig(resolution=16)) for place in places]
    for data in found:
        assert len(data.images) == 15
        assert len(data.train) == 9
        assert [data.names[i] for i in data.train[:3]] == [
            f"keras_png_slices_train/case_001_slice_{index}.nii.png" for index in (0, 2, 10)
        ]
        assert {data.names[i].split("/")[0] for i in data.unseen} == {
            "keras_png_slices_validate",
            "keras_png_slices_test",
        }
        assert data.subjects is not None
        assert len(set(data.subjects)) == 5
        assert not any("seg" in name for name in data.names)
        assert "15 images of 5 subjects, 6 (validate and test) held out" in data.description
        assert data.problems == []
    assert len({data.digest for data in found}) == 1


def test_an_oasis_leaf_is_a_plain_folder_and_so_are_masks_if_pointed_at(tmp_path):
    write(tmp_path, OASIS)
    leaf = load_dataset(tmp_path / "keras_png_slices_train", DataConfig(resolution=8))
    assert (len(leaf.images), len(leaf.unseen)) == (9, 3)
    assert len(load_dataset(tmp_path / "keras_png_slices_seg_train", CONFIG).images) == 9


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "Validation", "Testing"), ("train", "valid")])
def test_split_folders_are_read_as_splits(tmp_path, names):
    root = write(tmp_path / "set", [f"{name}/cat/{i}.png" for name in names for i in range(4)])
    log = Log()
    data = load_dataset(
        root, DataConfig(resolution=8, holdout=0.5), reporter=log
    )  # the holdout is not taken from train
    assert [data.names[i].split("/")[0] for i in data.train] == [names[0]] * 4
    assert len(data.unseen) == 4 * (len(names) - 1)
    assert not log.warnings
    alone = load_dataset(root / names[0], CONFIG)
    assert (len(alone.train), len(alone.unseen)) == (4, 0)


def test_images_outside_the_splits_are_left_out_and_listed(tmp_path):
    names = ["train/1.png", "val/2.png", "masks/3.png", "masks/4.png", "5.png"]
    log = Log()
    data = load_dataset(write(tmp_path / "set", names), CONFIG, reporter=log)
    assert data.names == ["train/1.png", "val/2.png"]
    assert {problem.name for problem in data.problems} == {"masks", "."}
    assert len(log.warnings) == 1
    assert "2 images left out, because they are not in train, val" in log.warnings[0]


def test_a_train_folder_alone_is_not_a_split(tmp_path):
    data = load_dataset(write(tmp_path / "set", [f"train/case_{i}.png" for i in range(20)]), DataConfig(resolution=8))
    assert (len(data.train), len(data.unseen)) == (18, 2)


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "there", ["a.png", "b.png"])
    root = write(tmp_path / "set", ["c.png"])
    (root / "link").symlink_to(tmp_path / "there")
    (root / "circle").symlink_to(root)
    (root / "above").symlink_to(tmp_path)  # contains the set
    (root / "disk").symlink_to("/")
    (root / "nowhere.png").symlink_to(tmp_path / "missing")
    data = load_dataset(root, CONFIG)
    assert data.names == ["c.png", "link/a.png", "link/b.png"]
    assert [(problem.name, problem.reason) for problem in data.problems] == [
        ("nowhere.png", "No such file or directory")
    ]


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    root = write(tmp_path / "set", ["a.png", "b.png"])
    (root / "c.png").symlink_to(tmp_path / "late.png")
    assert len(load_dataset(root, CONFIG).images) == 2
    (tmp_path / "late.png").write_bytes((root / "a.png").read_bytes())
    assert len(load_dataset(root, CONFIG).images) == 3

    def locked(*_):
        raise PermissionError(13, "Permission denied")

    other = write(tmp_path / "other", ["a.png", "b.png"])
    Image.new("L", (8, 8)).save(other / "c.png")
    with monkeypatch.context() as patch:
        read = folder.read_file
        patch.setattr(folder, "read_file", lambda *args: locked() if args[0].name == "c.png" else read(*args))
        for _ in range(2):
            assert [problem.reason for problem in load_dataset(other, CONFIG).problems] == ["Permission denied"]
    assert len(load_dataset(other, CONFIG).images) == 3  # though neither size nor time has changed


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        *[((5, 8, 8), 1), ((5, 8, 8, 1), 1), ((5, 1, 8, 8), 1), ((8, 8), 1), ((5, 8, 8, 3), 3), ((5, 3, 8, 8), 3)],
        *[((5, 8, 8, 3), 1), ((5, 8, 8), 3), ((5, 8, 8, 6), 6), ((5, 6, 8, 8), 6), ((5, 8, 8, 2), 2)],
    ],
)
def test_arrays_of_every_shape(tmp_path, shape, channels):
    array = noise(*shape)
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", array)
    config = DataConfig(resolution=8, channels=channels, holdout=0)
    data = load_dataset(tmp_path / "x.npy", config)
    assert data.images.shape == (1 if len(shape) == 2 else 5, channels, 8, 8)
    first = array if len(shape) == 2 else array[0]
    if shape[1:] == (channels, 8, 8):
        np.testing.assert_array_equal(data.images[0], first)
    elif shape[1:] == (8, 8, channels):
        np.testing.assert_array_equal(data.images[0], first.transpose(2, 0, 1))
    elif first.ndim == 2:
        np.testing.assert_array_equal(data.images[0], np.stack([first] * channels))
    np.testing.assert_array_equal(load_dataset(tmp_path / "x.npz", config).images, data.images)
    assert load_dataset(tmp_path / "x.npz", config).digest == data.digest


def test_arrays_of_bool_and_of_the_other_byte_order(tmp_path):
    mask = noise(4, 8, 8) > 128
    np.save(tmp_path / "mask.npy", mask)
    np.testing.assert_array_equal(load_dataset(tmp_path / "mask.npy", CONFIG).images[:, 0], mask * 255)
    deep = noise(4, 8, 8).astype(">u2")
    np.save(tmp_path / "deep.npy", deep)
    data = load_dataset(tmp_path / "deep.npy", DataConfig(resolution=8, window=(0, 255), holdout=0))
    np.testing.assert_array_equal(data.images[:, 0], deep)


def test_which_array_of_several(tmp_path):
    for name in ("images", "arr_0", "x"):
        np.savez(tmp_path / "set.npz", **{name: noise(3, 8, 8), "labels": np.arange(3)})
        assert len(load_dataset(tmp_path / "set.npz", CONFIG).images) == 3
    np.savez(tmp_path / "set.npz", a=noise(3, 8, 8), b=noise(3, 8, 8))
    assert "holds a, b; expected one array, or one called 'images'" in refused(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{}, None], object), "Python objects"),
        (np.ones((3, 8, 8), complex), "complex128 values are not intensities"),
        (np.array(["a", "b"]), "not intensities"),
        (np.ones(8), "shape (8,) is not a set of images. Use (N, H, W)"),
        (np.ones((2, 2, 8, 8, 8)), "not a set of images"),
        (np.ones((2, 8, 8, 5)), "no axis of 1 or 3 channels"),
        (np.ones((0, 8, 8)), "has no images"),
        (np.ones((8, 8, 3)), "looks like one colour image; save it with shape (1, 8, 8, 3)"),
        (np.array([np.ones((8, 8)), np.full((8, 8), np.nan)]), "image 1 holds NaN or infinite values"),
        (np.full((2, 8, 8), np.inf), "NaN or infinite"),
    ],
)
def test_unsupported_arrays(tmp_path, array, reason):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    assert reason in refused(tmp_path / "x.npy")


def test_unsupported_channels(tmp_path):
    np.save(tmp_path / "x.npy", noise(3, 8, 8))
    assert "no axis of 5 channels" in refused(tmp_path / "x.npy", DataConfig(resolution=8, channels=5))
    root = write(tmp_path / "set", ["a.png"])
    assert "data.channels: folder" in refused(root, DataConfig(resolution=8, channels=5))


def test_damaged_archives_and_arrays(tmp_path):
    for name in ("x.npy", "x.npz", "x.zip"):
        for content in (b"", b"no such thing", b"PK\x03\x04 no such thing", b"\x93NUMPY\x01\x00"):
            (tmp_path / name).write_bytes(content)
            assert "not a readable" in refused(tmp_path / name)


def test_missing_paths(tmp_path):
    write(tmp_path / "brain-mri" / "train", ["a.png"])
    assert "did you mean 'brain-mri'?" in refused(tmp_path / "brian-mri" / "train")
    assert "there is no 'trian'" in refused(tmp_path / "brain-mri" / "trian")
    assert "did you mean 'phantoms'?" in refused("phantom")
    for path in ("phantoms:", "phantoms:x", "phantoms:0", "phantoms:-1"):
        assert "as in phantoms:64" in refused(path)


def test_unsupported_files(tmp_path):
    write(tmp_path, ["a.png", "b.psd", "c"])
    assert "a single image is not a set. Use a folder of images, a .zip" in refused(tmp_path / "a.png")
    assert ".psd is not a supported kind of data" in refused(tmp_path / "b.psd")
    assert "a file without a suffix" in refused(tmp_path / "c")
    (tmp_path / "empty").mkdir()
    assert "no images, it is empty. Supported are .png" in refused(tmp_path / "empty")
    assert "2 files of other kinds (.svs)" in refused(write(tmp_path / "svs", ["a.svs", "b.svs"]))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "no images" in refused(tmp_path / "empty.zip")


def test_phantoms_by_subject_at_the_requested_resolution(tmp_path):
    data = load_dataset("phantoms:3", DataConfig(resolution=32, channels=3))
    assert data.images.shape == (3 * SLICES_PER_SUBJECT, 3, 32, 32)
    assert data.subjects is not None
    assert len(set(data.subjects)) == 3
    assert len(data.unseen) == SLICES_PER_SUBJECT
    second = phantom_subject(1, 32)
    np.testing.assert_array_equal(
        data.images[SLICES_PER_SUBJECT : 2 * SLICES_PER_SUBJECT], second[:, None].repeat(3, 1)
    )
    other = load_dataset("phantoms:2", DataConfig(resolution=32, channels=3))
    assert other.digest != data.digest
    assert data.description == "phantoms of 3 subjects: 96 images, 1 subject (32 images) held out"


def test_importing_and_loading_need_no_torch(tmp_path):
    write(tmp_path / "set", ["a.png", "b.png"])
    code = """if True:
        import sys
        from zoo.core.config import DataConfig
        from zoo.data.dataset import load_dataset
        data = load_dataset(sys.argv[1], DataConfig(resolution=8))
        assert "torch" not in sys.modules
        assert data.take([1, 0]).shape == (2, 1, 8, 8)
        assert "torch" in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")], check=True, cwd=Path(__file__).parents[1])


def test_a_damaged_member_of_any_compression_is_left_out_alone(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f"set{method}.zip"
        with zipfile.ZipFile(path, "w", compression=method) as archive:
            for index in range(4):
                buffer = io.BytesIO()
                Image.fromarray(np.random.default_rng(index).integers(0, 255, (32, 32), np.uint8)).save(buffer, "BMP")
                archive.writestr(f"{index}.bmp", buffer.getvalue())
            start = archive.getinfo("1.bmp").header_offset + 60
        content = bytearray(path.read_bytes())
        content[start : start + 200] = bytes(200)
        path.write_bytes(content)
        data = load_dataset(path, DataConfig(resolution=16))
        assert data.names == ["0.bmp", "2.bmp", "3.bmp"], method
        assert [problem.name for problem in data.problems] == ["1.bmp"]


def test_a_damaged_zip_member_does_not_stop_the_measurement_of_a_window(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for index in range(3):
            buffer = io.BytesIO()
            Image.fromarray(noise(32, 32, seed=index).astype(np.uint16) * 9).save(buffer, "TIFF")
            archive.writestr(f"{index}.tiff", buffer.getvalue())
        start = archive.getinfo("1.tiff").header_offset + 60
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[start : start + 200] = bytes(200)
    (tmp_path / "set.zip").write_bytes(content)
    data = load_dataset(tmp_path / "set.zip", CONFIG)
    assert data.names == ["0.tiff", "2.tiff"]
    readable = np.stack([noise(32, 32, seed=index) for index in (0, 2)]) * 9.0
    assert data.window == tuple(np.percentile(readable, [0.5, 99.5], method="inverted_cdf"))
