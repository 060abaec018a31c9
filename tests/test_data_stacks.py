"""Stacks without an orientation, and volumes of SimpleITK."""

import io
import tarfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.sources.registry import open_source
from zoo.data.sources.source import SourceOptions


def stack(seed=0, shape=(6, 16, 20), dtype=np.uint16):
    return np.random.default_rng(seed).integers(100, 250, shape).astype(dtype)


def slices_of(path, **options):
    source = open_source(path, SourceOptions(**{"slices": "all", **options}))
    return np.stack([source.raw(index) for index in range(len(source.names))])


def test_folders_of_arrays_hold_images_or_volumes(tmp_path):
    for folder, shape, count in (("flat", (16, 20), 4), ("deep", (6, 16, 20), 24)):
        (tmp_path / folder).mkdir()
        for number in range(4):
            np.save(tmp_path / folder / f"{number}.npy", stack(number, shape))
        (tmp_path / folder / "bad.npy").write_bytes(b"damaged")
        found = slices_of(tmp_path / folder)
        assert np.array_equal(found, np.concatenate([np.reshape(stack(n, shape), (-1, 16, 20)) for n in range(4)]))
        data = load_dataset(tmp_path / folder, DataConfig(resolution=16), cache_dir=tmp_path / "c")
        assert len(data.names) == count
        assert [problem.name for problem in data.problems] == ["bad.npy"]
        assert (data.subjects is None) == (folder == "flat")


def test_a_tiff_of_several_pages_is_a_volume(tmp_path):
    for number in range(2):
        (tmp_path / "set").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "set" / f"{number}.tif", stack(number), photometric="minisblack")
    assert np.array_equal(slices_of(tmp_path / "set" / "0.tif"), stack(0))
    assert np.array_equal(slices_of(tmp_path / "set"), np.concatenate([stack(0), stack(1)]))
    assert np.array_equal(slices_of(tmp_path / "set", slices="2..4"), np.concatenate([stack(0)[2:4], stack(1)[2:4]]))
    tifffile.imwrite(tmp_path / "one.tif", stack()[0])
    with pytest.raises(ZooError, match="a single image is not a set"):
        open_source(tmp_path / "one.tif", SourceOptions())
    tifffile.imwrite(tmp_path / "set" / "one.tif", stack()[0])  # as ordinary images, stacks are left out
    assert open_source(tmp_path / "set", SourceOptions()).kind == "folder"


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 needs the extra [formats]")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/images"] = stack()
        file["masks"] = stack() > 120
    assert np.array_equal(slices_of(tmp_path / "a.h5"), stack())
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["one"], file["two"] = stack(), stack()
    with pytest.raises(ZooError, match="holds one, two; expected one array"):
        slices_of(tmp_path / "b.h5")


RGB = np.random.default_rng(3).integers(0, 255, (5, 16, 20, 3)).astype(np.uint8)
ALPHA = np.concatenate([RGB, np.full((5, 16, 20, 1), 51, np.uint8)], axis=-1)
MASK = RGB[..., 0] > 128
STACKS = {
    "channels last": (RGB, RGB),
    "channels first": (RGB.transpose(0, 3, 1, 2), RGB),
    "one channel last": (RGB[..., :1], RGB[..., 0]),
    "one channel first": (RGB[..., 0][:, None], RGB[..., 0]),
    "one image": (RGB[:1, ..., 0], RGB[:1, ..., 0]),
    "alpha over black": (ALPHA, np.rint(RGB * 0.2).astype(np.uint8)),
    "bits": (MASK, MASK),
    "volumes": (RGB[..., 0].reshape(5, 2, 8, 20), "an array of 5 x 2 x 8 x 20 is no stack"),
    "deep alpha": (ALPHA.astype(np.uint16), "four channels of uint16; save grey or RGB"),
    "complex": (RGB[..., 0].astype(np.complex64), "complex64 values are not intensities"),
}


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("form", ["npy", "h5", "tif"])
def test_an_array_is_a_stack_of_grey_or_colour_images_or_refused(form, kind, tmp_path):
    array, expected = STACKS[kind]
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / f"a.{form}"
    if form == "npy":
        np.save(path, array)
    elif form == "h5":
        h5py = pytest.importorskip("h5py", reason="HDF5 needs the extra [formats]")
        with h5py.File(path, "w") as file:
            file["images"] = array
        expected = "no array of images" if kind == "complex" else expected
    else:
        if kind in ("one image", "one channel first", "volumes", "deep alpha", "complex", "channels first"):
            pytest.skip("no TIFF of several pages is so")
        photometric = "rgb" if array.shape[-1] in (3, 4) else "minisblack"
        tifffile.imwrite(path, array, photometric=photometric)
    if isinstance(expected, str):
        with pytest.raises(ZooError, match=expected):
            slices_of(tmp_path / "set")
    else:
        assert np.array_equal(slices_of(tmp_path / "set"), expected)


def test_pages_with_a_palette_or_with_white_as_zero(tmp_path):
    places = RGB[..., 0] // 64
    table = np.zeros((3, 256), np.uint16)
    table[:, :4] = np.array([[0, 65535, 1000, 40000], [0, 65535, 2000, 300], [0, 65535, 3000, 9]])
    tifffile.imwrite(tmp_path / "palette.tif", places, photometric="palette", colormap=table)
    assert np.array_equal(slices_of(tmp_path / "palette.tif"), np.moveaxis(table[:, places] >> 8, 0, -1))
    for name, values in (("bits", MASK), ("bytes", RGB[..., 0]), ("words", stack())):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="miniswhite")
        assert np.array_equal(slices_of(tmp_path / f"{name}.tif"), ~values), name


def test_voxels_next_to_their_header_are_part_of_it(tmp_path):
    itk = pytest.importorskip("SimpleITK", reason="NRRD and MHA need the extra [formats]")
    for number, place in enumerate((tmp_path / "one", tmp_path / "set")):
        place.mkdir()
        itk.WriteImage(itk.GetImageFromArray(stack(dtype=np.uint8)), str(place / "v.mhd"))
        path = place / "v.mhd" if number == 0 else place
        config = DataConfig(resolution=16, slices="all")
        before = load_dataset(path, config, cache_dir=tmp_path / "c").images[:].copy()
        raw = place / "v.raw"
        raw.write_bytes(bytes(255 - value for value in raw.read_bytes()))
        assert not np.array_equal(load_dataset(path, config, cache_dir=tmp_path / "c").images[:], before)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("direction", ["LPS", "RAS", "SPR"])
def test_simpleitk_volumes_are_cut_as_others_are(tmp_path, suffix, direction):
    itk = pytest.importorskip("SimpleITK", reason="NRRD and MHA need the extra [formats]")
    volume = np.arange(1, 5 * 6 * 7 + 1, dtype=np.int16).reshape(5, 6, 7)  # in RAS, at -10, -20, -30 mm
    image = itk.GetImageFromArray(volume[::-1, ::-1].transpose(2, 1, 0))
    image.SetOrigin((10 - 4, 20 - 5, -30))  # LPS
    itk.WriteImage(itk.DICOMOrient(image, direction), str(tmp_path / f"v{suffix}"))
    axial = np.stack([volume[::-1, ::-1, z].T for z in range(7)])
    assert np.array_equal(slices_of(tmp_path / f"v{suffix}"), axial)
    assert np.array_equal(slices_of(tmp_path / f"v{suffix}", slices="-29mm..-27mm"), axial[1:4])
    coronal = np.stack([volume[::-1, y, ::-1].T for y in range(6)])
    assert np.array_equal(slices_of(tmp_path / f"v{suffix}", axis="coronal", slices="-20mm..-19mm"), coronal[:2])


def test_a_stack_has_no_axis_and_no_mm(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", stack(), photometric="minisblack")
    with pytest.raises(ZooError, match=r"data\.axis: TIFF .* has no orientation"):
        open_source(tmp_path / "x.tif", SourceOptions(axis="coronal"))
    with pytest.raises(ZooError, match=r"data\.slices: TIFF .* has no positions"):
        open_source(tmp_path / "x.tif", SourceOptions(slices="1mm..2mm"))


def test_medmnist_keeps_its_splits_and_classes(tmp_path):
    counts = {"train": 12, "val": 4, "test": 6}
    arrays = {f"{part}_images": stack(n, (n, 16, 16), np.uint8) for part, n in counts.items()}
    arrays |= {f"{part}_labels": np.arange(n)[:, None] % 3 for part, n in counts.items()}
    np.savez(tmp_path / "mnist.npz", **arrays)
    data = load_dataset(tmp_path / "mnist.npz", DataConfig(resolution=16, labels="label"), cache_dir=tmp_path / "c")
    assert np.array_equal(data.images[:, 0], np.concatenate([arrays[f"{part}_images"] for part in counts]))
    assert data.train.tolist() == list(range(12))
    assert data.unseen.tolist() == list(range(12, 22))
    assert data.labels.tolist() == [index % 3 for n in counts.values() for index in range(n)]
    arrays["train_labels"] = np.zeros((12, 5), int)
    np.savez(tmp_path / "many.npz", **arrays)
    with pytest.raises(ZooError, match="5 labels per image"):
        load_dataset(tmp_path / "many.npz", DataConfig(resolution=16, labels="label"), cache_dir=tmp_path / "c")


def test_volumes_of_medmnist_are_subjects(tmp_path):
    arrays = {f"{part}_images": stack(n, (n, 6, 16, 16), np.uint8) for part, n in (("train", 3), ("test", 2))}
    np.savez(tmp_path / "organ3d.npz", **arrays)
    data = load_dataset(tmp_path / "organ3d.npz", DataConfig(resolution=16), cache_dir=tmp_path / "c")
    assert data.images.shape == (30, 1, 16, 16)
    assert np.array_equal(data.images[:, 0], np.concatenate([a.reshape(-1, 16, 16) for a in arrays.values()]))
    assert len(set(data.subjects)) == 5
    assert len(data.train) == 18


def encode(image, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    return file.getvalue()


def write_tar(path, images, classes):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, image in enumerate(images):
            for suffix, content in (("png", encode(image)), ("cls", str(classes[number]).encode())):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def write_parquet(path, images, classes):
    pa = pytest.importorskip("pyarrow", reason="parquet needs the extra [formats]")
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True)
    rows = [{"bytes": encode(image), "path": None} for image in images]
    parquet.write_table(pa.table({"image": rows, "label": classes}), path, row_group_size=2)


@pytest.mark.parametrize(("write", "suffix"), [(write_tar, "tar"), (write_parquet, "parquet")])
def test_shards_hold_encoded_images_and_classes(write, suffix, tmp_path):
    images, classes = stack(shape=(6, 16, 20), dtype=np.uint8), [3, 12, 3, 12, 3, 12]
    write(tmp_path / f"one.{suffix}", images, classes)
    assert np.array_equal([np.asarray(Image.open(io.BytesIO(raw))) for raw in raws(tmp_path / f"one.{suffix}")], images)
    for part, name in ((slice(3), "train-000"), (slice(3, 6), "train-001")):
        write(tmp_path / "shards" / f"{name}.{suffix}", images[part], classes[part])
    config = DataConfig(resolution=16, labels="label")
    one = load_dataset(tmp_path / f"one.{suffix}", config, cache_dir=tmp_path / "c")
    many = load_dataset(tmp_path / "shards", config, cache_dir=tmp_path / "c")
    for data in (one, many):
        assert list(data.classes) == ["03", "12"]
        assert len(data.names) == 6
    (tmp_path / f"bad.{suffix}").write_bytes(b"damaged" * 200)
    with pytest.raises(ZooError, match=rf"^[^\n]*bad\.{suffix}: not a readable"):
        load_dataset(tmp_path / f"bad.{suffix}", config, cache_dir=tmp_path / "c")


def raws(path):
    source = open_source(path, SourceOptions())
    return [source.raw(index) for index in range(len(source.names))]


def test_parquet_files_by_name_are_splits(tmp_path):
    for name in ("train-0", "validation-0", "test-0"):
        write_parquet(tmp_path / "set" / f"{name}.parquet", stack(shape=(3, 16, 20), dtype=np.uint8), [0, 1, 0])
    listing = open_source(tmp_path / "set", SourceOptions()).listing
    assert listing.splits == [split for split in ("test", "train", "validate") for _ in range(3)]
    write_parquet(tmp_path / "set" / "other.parquet", stack(shape=(3, 16, 20), dtype=np.uint8), [0, 1, 0])
    assert open_source(tmp_path / "set", SourceOptions()).listing.splits is None


SHARDS = {
    "words": (["train-0", "validation-0", "test-0"], True),
    "folders": (["train/0000", "validation/0000", "test/0000"], True),
    "both": (["train/test-0", "test/train-0"], True),  # the folder decides
    "training alone": (["train-0", "train-1"], False),
    "no training": (["valid-0", "test-0"], False),
    "others": (["train-0", "test-0", "other"], False),
    "the beginning of a word": (["trainee-0", "testis-0"], False),
}


@pytest.mark.parametrize(("write", "suffix"), [(write_tar, "tar"), (write_parquet, "parquet")])
@pytest.mark.parametrize("kind", SHARDS)
def test_splits_of_shards(kind, write, suffix, tmp_path):
    """By their folders or names; images of test shards are never trained on, and never share a name with others."""
    names, split = SHARDS[kind]
    images = stack(shape=(3 * len(names), 16, 20), dtype=np.uint8)
    for number, name in enumerate(names):
        path = tmp_path / "set" / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, images[3 * number : 3 * number + 3], [0, 1, 0])
    (tmp_path / "set" / f"._train-9.{suffix}").write_bytes(b"left by another system")
    listing = open_source(tmp_path / "set", SourceOptions()).listing
    assert len(set(listing.names)) == len(listing.names) == 3 * len(names)
    assert (listing.splits is not None) == split
    data = load_dataset(tmp_path / "set", DataConfig(resolution=16, labels="label"), cache_dir=tmp_path / "c")
    if split:
        test = {name for name in listing.names if name.startswith("test")}
        assert test
        assert not test & {data.names[i] for i in data.train}
    with pytest.raises(ZooError, match=r"data\.labels: .*(no folders.* data\.labels=label takes|is of class)"):
        load_dataset(tmp_path / "set", DataConfig(resolution=16, labels="folder"), cache_dir=tmp_path / "c")


@pytest.mark.parametrize("inner", [True, False])
def test_archives_of_a_class_each_are_its_folders(inner, tmp_path):
    images = stack(shape=(8, 16, 20), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    for place, name in enumerate(("benign", "malignant")):
        with tarfile.open(tmp_path / "set" / f"{name}.tar", "w") as archive:
            for number in range(4):
                content = encode(images[4 * place + number])
                info = tarfile.TarInfo(f"{f'{name}/' if inner else ''}{number}.png")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    data = load_dataset(tmp_path / "set", DataConfig(resolution=16, labels="folder"), cache_dir=tmp_path / "c")
    assert list(data.classes) == ["benign", "malignant"]
    assert data.labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_shard_that_is_gone_is_one_line(suffix, tmp_path):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="parquet needs the extra [formats]")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / f"a.{suffix}").symlink_to(tmp_path / "nothing")
    with pytest.raises(ZooError, match=rf"a\.{suffix}: cannot be read \(no such file"):
        load_dataset(tmp_path / "set", DataConfig(resolution=16), cache_dir=tmp_path / "c")


def test_classes_of_medmnist_have_one_name_in_all_parts(tmp_path):
    """A part that lacks the largest class does not write the others with fewer digits."""
    images = np.full((2, 8, 8), 7, np.uint8)
    parts = {f"{part}_images": images for part in ("train", "val", "test")}
    labels = {"train_labels": [[3], [11]], "val_labels": [[3], [3]], "test_labels": [[3], [9]]}
    np.savez(tmp_path / "m.npz", **parts, **{name: np.array(values) for name, values in labels.items()})
    ((_, table),) = open_source(tmp_path / "m.npz", SourceOptions()).manifests()
    assert [line.rpartition(",")[2] for line in table.decode().split()[1:]] == ["03", "11", "03", "03", "03", "09"]
