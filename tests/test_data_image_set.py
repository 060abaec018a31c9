"""Sets of images that are evaluated with their own pixels."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.image_set import LazyRows, describe_shape, match_image_sets, read_images


def write(folder, count=4, shape=(12, 10), name="case_{}_slice_{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pixels_written = rng.integers(0, 256, (count, *shape), np.uint8)
    for i, pixels in enumerate(pixels_written):
        Image.fromarray(pixels).save(folder / name.format(i // 2, i % 2))
    return pixels_written


def test_pixels_are_unchanged(tmp_path):
    pixels_written = write(tmp_path / "a")
    image_set = read_images(tmp_path / "a")
    assert (image_set.images == pixels_written[:, None]).all()
    assert image_set.shape == (1, 12, 10)
    assert describe_shape(image_set.shape) == "12 x 10 grey"
    assert image_set.subjects == ["case_0", "case_0", "case_1", "case_1"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted((tmp_path / "a").iterdir()):
            archive.write(path, path.name)
    assert (read_images(tmp_path / "a.zip").images == image_set.images).all()
    np.savez(tmp_path / "a.npz", images=pixels_written)
    assert (read_images(tmp_path / "a.npz").images == image_set.images).all()


def test_grey_saved_as_colour_is_grey_and_colour_is_colour(tmp_path):
    pixels_written = write(tmp_path / "grey")
    write(tmp_path / "rgb", shape=(12, 10, 3))
    np.save(tmp_path / "three.npy", np.repeat(pixels_written[..., None], 3, axis=3))
    three, colour, grey = (read_images(tmp_path / name) for name in ("three.npy", "rgb", "grey"))
    assert (three.shape, colour.shape) == ((3, 12, 10), (3, 12, 10))
    for some in match_image_sets([three, grey]):
        assert some.shape == (1, 12, 10)
        assert (some.images == pixels_written[:, None]).all()
    assert [some.shape for some in match_image_sets([three, colour])] == [
        (3, 12, 10)
    ] * 2  # grey among colours stays as it is


def test_different_sizes_are_an_error(tmp_path):
    write(tmp_path)
    Image.new("L", (9, 9)).save(tmp_path / "zz.png")
    with pytest.raises(ZooError, match=r"case_0_slice_0.png is 12 x 10 grey, zz.png is 9 x 9 grey. .*--fit"):
        read_images(tmp_path)
    fitted = read_images(tmp_path, fit=DataConfig(resolution=8, holdout=0.0))
    assert fitted.images.shape == (5, 1, 8, 8)


def test_unreadable_images_are_left_out_and_deep_ones_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    warnings = []

    class Listener:
        def __getattr__(self, name):
            return warnings.append if name == "warn" else lambda *_: None

    assert len(read_images(tmp_path, reporter=Listener())) == 4
    assert "bad.png" in warnings[0]
    Image.fromarray(np.zeros((12, 10), np.uint16)).save(tmp_path / "deep.png")
    for path in tmp_path.glob("case*"):
        path.unlink()
    with pytest.raises(ZooError, match=r"16 bits per channel|not a PNG"):
        read_images(tmp_path)
    with pytest.raises(ZooError, match="there is no"):
        read_images(tmp_path / "nowhere")
    with pytest.raises(ZooError, match="--resolution"):
        read_images("phantoms:2")


def test_halves_share_no_subject(tmp_path):
    write(tmp_path, count=10)
    one, other = read_images(tmp_path).halves()
    assert len(one) + len(other) == 10
    assert not set(one.subjects) & set(other.subjects)
    write(tmp_path / "single", count=2)
    single = read_images(tmp_path / "single")
    assert single.subjects is None
    assert [len(half) for half in single.halves()] == [1, 1]


def test_parts_are_read_lazily(tmp_path):
    pixels_written = write(tmp_path, count=10)
    images = read_images(tmp_path)
    odd = images.part([1, 3, 5], "odd")
    assert isinstance(odd.images, LazyRows)
    assert odd.images.shape == (3, 1, 12, 10)
    assert (odd.images[1:] == pixels_written[[3, 5], None]).all()
    assert (np.asarray(odd.images) == pixels_written[[1, 3, 5], None]).all()
    assert (odd.part([2], "last").images[:] == pixels_written[5, None]).all()
    assert odd.names[0] == images.names[1]
    row = images.part(range(2, 6), "middle").images
    assert np.shares_memory(row, images.images)
