"""Arrays, tensors, torch data sets and tables as data: the pixels of files, and one line for what is wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.phantoms import phantom
from zoo.data.sources.memory import as_source

CONFIG = DataConfig(resolution=16)
TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
IMAGES = np.stack([phantom(subject, 4 * part, 16) for subject in range(4) for part in range(8)])
SUBJECTS = np.repeat([f"patient {number}" for number in range(4)], 8)
KINDS = np.arange(len(IMAGES)) % 12


class Items(torch.utils.data.Dataset):
    """A data set of whatever ``item`` makes of one image."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return self.item(index)


FLOATS = torch.from_numpy(IMAGES)[:, None].float()
SAME_PIXELS = {
    "uint8 (N, H, W)": IMAGES,
    "uint8 (N, C, H, W)": IMAGES[:, None],
    "uint8 (N, H, W, C)": IMAGES[..., None],
    "a list": list(IMAGES),
    "a tensor": torch.from_numpy(IMAGES),
    "floats in [0, 1]": IMAGES / 255,
    "floats in [-1, 1]": IMAGES / 127.5 - 1,
    "float32 tensor": FLOATS / 255,
    "tensors": Items(lambda i: FLOATS[i] / 127.5 - 1),
    "pairs of PIL images and classes": Items(lambda i: (Image.fromarray(IMAGES[i]), i % 2)),
    "mappings": Items(lambda i: {"image": FLOATS[i] / 255, "label": i % 2}),
}


@pytest.mark.parametrize("name", SAME_PIXELS)
def test_every_kind_has_the_same_pixels(name):
    data = load_dataset(as_source(SAME_PIXELS[name]), CONFIG)
    np.testing.assert_array_equal(data.images[:, 0], IMAGES)
    assert data.digest == load_dataset(as_source(SAME_PIXELS[name]), CONFIG).digest


def test_bool_deep_integers_and_an_explicit_window():
    masks = load_dataset(as_source(IMAGES > 99), CONFIG).images
    np.testing.assert_array_equal(masks[:, 0], np.where(IMAGES > 99, 255, 0))
    scans = load_dataset(as_source(IMAGES.astype(np.int16) * 100), CONFIG)  # by percentiles, like 16-bit files
    assert scans.window is not None
    wide = load_dataset(as_source(IMAGES * 2.0), DataConfig(resolution=16, window=(0, 510)))
    np.testing.assert_array_equal(wide.images[:, 0], IMAGES)


def test_a_table_of_paths(tmp_path):
    pandas = pytest.importorskip("pandas", reason="tables need pandas")
    paths = [tmp_path / f"{index}.png" for index in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    table = pandas.DataFrame({"path": paths, "who": SUBJECTS, "kind": KINDS})
    config = DataConfig(resolution=16, labels="label")
    data = load_dataset(as_source(table, subjects="who", labels="kind"), config)
    np.testing.assert_array_equal(data.images[:, 0], IMAGES)
    assert len(set(data.subjects)) == 4
    np.testing.assert_array_equal(data.labels, KINDS)
    with pytest.raises(ZooError, match=r"kinds'\: the table has no such column \(did you mean 'kind'"):
        as_source(table, labels="kinds")
    with pytest.raises(ZooError, match="no column of paths"):
        as_source(pandas.DataFrame({"x": [1]}))
    paths[3].unlink()
    data = load_dataset(as_source(table), CONFIG)
    assert len(data.images) == len(IMAGES) - 1
    assert [problem.reason for problem in data.problems] == ["No such file or directory"]


def test_subjects_are_held_out_together_and_labels_become_classes(tmp_path):
    source = as_source(IMAGES, subjects=SUBJECTS, labels=KINDS)
    data = load_dataset(source, DataConfig(resolution=16, labels="label", holdout=0.25))
    held_out = set(SUBJECTS[data.unseen])
    assert len(held_out) == 1
    assert not held_out & set(SUBJECTS[data.train])
    np.testing.assert_array_equal(data.labels, KINDS)  # class 10 is not between 1 and 2
    assert "patient" not in " ".join(data.names + data.subjects)


TORN = IMAGES / 255
TORN[5, 3, 3] = np.nan
WRONG = {
    "NaN": (TORN, {}, "array: image 5 holds NaN"),
    "infinite": (np.where(IMAGES == 0, -np.inf, 0.5), {}, "array: image 0 holds NaN or infinite"),
    "range": (IMAGES * 1.0, {}, r"array: floats from 0 to \d+ lie neither in \[0, 1\] nor in \[-1, 1\]"),
    "range of two": (IMAGES / 100 - 1, {}, "lie neither"),
    "texts": (np.full((3, 5, 5), "x"), {}, "array: <U1 values are not intensities"),
    "complex": (IMAGES * 1j, {}, "complex128 values are not"),
    "one image": (IMAGES[0], {}, r"array: shape \(16, 16\) is not a set of images"),
    "one colour image": (np.zeros((9, 9, 3)), {}, r"use \(1, 9, 9, 3\)"),
    "channels": (np.zeros((2, 9, 9, 9)), {}, r"array: shape \(2, 9, 9, 9\) has no axis of 1 or 3 channels"),
    "shapes": ([IMAGES[0], IMAGES[0][:4]], {}, "must have one shape"),
    "nothing": (IMAGES[:0], {}, "array"),
    "few subjects": (IMAGES, {"subjects": [1, 2]}, "subjects: 2 for 32 images"),
    "no label": (IMAGES, {"labels": [None] * 32}, "labels: that of image 0 is missing"),
    "NaN as a label": (IMAGES, {"labels": [float("nan")] * 32}, "labels: that of image 0 is missing"),
    "no data": (7, {}, "data: int is no path, array"),
    "subjects of files": ("x", {"subjects": [1]}, "go with an array"),
    "a broken data set": (Items(lambda i: [][i]), {}, "Items: item 0 cannot be read .IndexError"),
    "keys": (Items(lambda i: {"x": 1}), {}, "Items: item 0 has no key 'image', only x"),
    "mixed": (Items(lambda i: IMAGES[i] if i else IMAGES[i] / 255), {}, "some images are floats, others integers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name):
    data, more, message = WRONG[name]
    with pytest.raises(ZooError, match=message) as caught:
        load_dataset(as_source(data, **more), CONFIG)
    assert "\n" not in str(caught.value)


def test_a_random_data_set_is_refused():
    noise = np.random.default_rng(0)
    with pytest.raises(ZooError, match="changed while it was read"):
        load_dataset(as_source(Items(lambda i: noise.random((16, 16)))), CONFIG)


@pytest.mark.slow
def test_train_on_an_array_and_continue_by_its_content(tmp_path, capsys):
    options = {"out": tmp_path, "device": "cpu", "set": [*TINY, "train.evaluate_share=0"]}
    calls = []

    def stop():
        calls.append(1)
        return len(calls) == 2

    with pytest.raises(zoo.core.errors.Interrupted):
        zoo.train("dcgan-64", data=IMAGES, subjects=SUBJECTS, kimg=0.032, stop=stop, **options)
    run = zoo.train("dcgan-64", data=torch.from_numpy(IMAGES), subjects=list(SUBJECTS), kimg=0.032, **options)
    assert "resuming" in capsys.readouterr().out
    assert run.path.name == "dcgan-64-000"
    assert "patient" not in (run.path / "run.json").read_text()
    other = zoo.train("dcgan-64", data=255 - IMAGES, subjects=SUBJECTS, kimg=0.008, **options)
    assert other.path.name == "dcgan-64-001"
    # By another program, which does not have the array: the cache of prepared sets does.
    longer = zoo.train(resume=run.path, kimg=0.04, device="cpu")
    assert longer.info["nimg"] == 40
    with pytest.raises(ZooError, match="was trained on other images"):
        zoo.train(resume=run.path, data=255 - IMAGES, subjects=SUBJECTS, kimg=0.048, device="cpu")
    address = run.info["data"]
    with pytest.raises(ZooError, match="are not in the cache"):
        load_dataset(address, DataConfig(resolution=32))


@pytest.mark.slow
def test_train_with_classes(tmp_path):
    options = {"out": tmp_path, "device": "cpu", "kimg": 0.008, "set": [*TINY, "train.evaluate_share=0"]}
    pairs = Items(lambda index: (IMAGES[index], index % 2))
    for data, labels in ((IMAGES, np.arange(32) % 2), (pairs, True)):
        run = zoo.train("stylegan2-64", data=data, labels=labels, **options)
        assert zoo.load_recipe(run.recipe_file).data.classes == {"0": 0.5, "1": 0.5}
    assert zoo.load_recipe(zoo.train("stylegan2-64", data=pairs, **options).recipe_file).data.labels is None


@pytest.mark.parametrize("fit", [{}, {"fit": "pad", "resolution": 16}])
def test_compare_arrays_like_their_files(tmp_path, fit):
    options = {"extractors": ["random"], "metrics": ["fid", "ssim"], "intervals": False, "floors": False, **fit}
    fakes, reals = IMAGES[::-1].copy(), IMAGES
    fakes[:, :4] = 0
    for name, images in (("fakes", fakes), ("reals", reals)):
        np.save(tmp_path / f"{name}.npy", images)
    expected = zoo.compare(tmp_path / "fakes.npy", tmp_path / "reals.npy", device="cpu", **options)
    assert expected["fid"]["value"] > 0
    for pair in ((fakes, reals), (torch.from_numpy(fakes)[:, None] / 127.5 - 1, reals / 255)):
        result = zoo.compare(*pair, device="cpu", **options)
        assert result["fid"] == expected["fid"]
        assert result["ssim_nearest"] == expected["ssim_nearest"]
        assert result["fakes"]["path"] == "array"
        json.dumps(result)
