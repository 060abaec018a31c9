"""Images of every kind to uint8: which are refused and why, how they become square, how deep ones are windowed."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.decode import MAX_IMAGE_PIXELS, UnreadableError, decode, silence_pillow
from zoo.data.resize import resize_image, to_8_bit


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def noise(*shape, seed=0, dtype=np.uint8, high=256):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims to be huge and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GIF_FRAMES = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(3)]
BAD = {
    "truncated.png": (encoded(noise(64, 64))[:2000], r"truncated or damaged \(image file is truncated"),
    "truncated.jpg": (encoded(noise(64, 64), "JPEG")[:1500], "truncated or damaged"),
    "truncated.tif": (encoded(noise(64, 64), "TIFF")[:1500], "truncated or damaged|not a"),
    "empty.png": (b"", "empty"),
    "text.png": (b"this is text", "not a PNG, JPEG, BMP, TIFF, WEBP, GIF or PNM image"),
    "other.png": (encoded(noise(8, 8), "ICO"), "not a PNG"),
    "cmyk.jpg": (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "CMYK colours"),
    "animated.webp": (encoded(GIF_FRAMES[0], "WEBP", save_all=True, append_images=GIF_FRAMES[1:]), "animated"),
    "animated.png": (encoded(GIF_FRAMES[0], "PNG", save_all=True, append_images=GIF_FRAMES[1:]), "animated"),
    "pages.tiff": (encoded(GIF_FRAMES[0], "TIFF", save_all=True, append_images=GIF_FRAMES[1:]), "several pages"),
    "large.png": (png_header(8_001, 8_000), "too large \\(64 megapixels"),
    "larger.png": (png_header(10_000, 10_000), "too large \\(100 megapixels"),
    "bomb.png": (png_header(100_000, 100_000), "too large \\(10000 megapixels, at most 64"),
    "nan.tiff": (encoded(np.full((8, 8), np.nan, np.float32), "TIFF"), "NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_reason(name, recwarn):
    raw, reason = BAD[name]
    with silence_pillow(), pytest.raises(UnreadableError, match=reason) as error:
        decode(raw)
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)
    assert not recwarn


def test_every_cut_of_a_file_is_refused_or_read_but_never_a_traceback():
    for raw in (encoded(noise(12, 12, 3)), encoded(noise(12, 12), "JPEG"), encoded(noise(12, 12), "BMP")):
        for length in range(0, len(raw), 7):
            with silence_pillow(), contextlib.suppress(UnreadableError):
                assert decode(raw[:length]).pixels.shape[:2] == (12, 12)


def test_sixteen_bits_of_colour_are_refused_rather_than_halved():
    rows = b"".join(b"\0" + noise(8, 6, seed=row).tobytes() for row in range(8))
    raw = bytearray(png_header(8, 8))
    raw[24:26] = bytes([16, 2])  # bits, colour type
    raw[29:33] = struct.pack(">I", zlib.crc32(bytes(raw[12:29])))
    data = zlib.compress(rows)
    raw[33:] = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    with pytest.raises(UnreadableError, match="16 bits per channel"):
        decode(bytes(raw))


def test_modes_keep_their_pixels():
    grey, colour, deep = noise(5, 7), noise(5, 7, 3), noise(5, 7, dtype=np.uint16, high=65536)
    real = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decode(encoded(grey, kind)).pixels, grey)
        np.testing.assert_array_equal(decode(encoded(colour, kind)).pixels, colour)
    np.testing.assert_array_equal(decode(encoded(colour, "WEBP", lossless=True)).pixels, colour)
    for kind in ("PNG", "TIFF"):
        assert decode(encoded(deep, kind)).pixels.dtype == np.uint16
        np.testing.assert_array_equal(decode(encoded(deep, kind)).pixels, deep)
    np.testing.assert_array_equal(decode(encoded(real, "TIFF")).pixels, real)
    bilevel = decode(encoded(Image.fromarray(grey).convert("1")))
    assert set(np.unique(bilevel.pixels)) <= {0, 255}
    assert bilevel.bits == 1
    assert decode(noise(3, 3, high=2).astype(bool)).pixels.max() == 255


def test_alpha_is_composed_over_black():
    pixels = np.full((2, 2, 4), 200, np.uint8)
    pixels[:, :, 3] = [[0, 128], [255, 255]]
    flat = decode(encoded(pixels)).pixels
    assert flat[0, 0].tolist() == [0, 0, 0]
    assert flat[1, 1].tolist() == [200, 200, 200]
    assert abs(int(flat[0, 1, 0]) - 100) <= 1
    grey = Image.merge("LA", [Image.new("L", (2, 2), 90), Image.new("L", (2, 2), 0)])
    assert decode(encoded(grey)).pixels.tolist() == [[0, 0], [0, 0]]
    keyed = encoded(np.array([[7, 9]], np.uint8), transparency=7)
    assert decode(keyed).pixels.tolist() == [[0, 9]]


def test_exif_orientation_is_respected():
    pixels = noise(6, 4)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees to the right
    np.testing.assert_array_equal(decode(encoded(image, exif=exif)).pixels, np.rot90(pixels, -1))


def test_same_size_changes_no_pixel():
    pixels = noise(16, 16)
    np.testing.assert_array_equal(resize_image(to_8_bit(pixels, None), resolution=16, channels=1, fit="pad")[0], pixels)


def test_pad_centres_on_black_crop_takes_the_middle_stretch_takes_all():
    pixels = np.full((4, 8), 100, np.uint8)
    pixels[:, :2] = 50

    def resized(fit, resolution):
        return resize_image(to_8_bit(pixels, None), resolution=resolution, channels=1, fit=fit)[0]

    assert resized("pad", 8)[:2].max() == resized("pad", 8)[6:].max() == 0
    np.testing.assert_array_equal(resized("pad", 8)[2:6], pixels)
    np.testing.assert_array_equal(resized("crop", 4), pixels[:, 2:6])
    stretched = resized("stretch", 8)
    assert stretched.shape == (8, 8)
    np.testing.assert_array_equal(stretched[0], pixels[0])


@pytest.mark.parametrize("size", [7, 64, 99, 100, 101, 333])
def test_no_ringing_brightens_a_black_background(size):
    values = np.zeros((100, 100), np.float32)
    values[30:61, 40:70] = 255  # an odd box, so that its corners and edges fall between pixels
    image = resize_image(values, resolution=size, channels=1, fit="pad")[0]
    scale = size / 100
    reach = max(1, scale)  # in output pixels: as far as the edge itself is spread
    rows, columns = np.mgrid[:size, :size] + 0.5
    far = (rows < 30 * scale - reach) | (rows > 61 * scale + reach)
    far |= (columns < 40 * scale - reach) | (columns > 70 * scale + reach)
    assert image[far].max() == 0
    assert image.max() > 200


@pytest.mark.parametrize("size", [9, 64, 150])
def test_flat_images_stay_flat(size):
    assert set(resize_image(np.full((100, 100), 37.0, np.float32), resolution=size, channels=1, fit="pad").ravel()) == {
        37
    }


def test_shrinking_keeps_the_mean_and_the_range():
    values = noise(256, 256).astype(np.float32)
    small = resize_image(values, resolution=64, channels=1, fit="pad")
    assert abs(small.mean() - values.mean()) < 1
    assert small.min() >= values.min()
    assert small.max() <= values.max()


def test_channels():
    colour = noise(8, 8, 3).astype(np.float32)
    luminance = np.rint(colour @ [0.299, 0.587, 0.114])
    assert abs(resize_image(colour, resolution=8, channels=1, fit="pad")[0] - luminance).max() <= 1
    np.testing.assert_array_equal(resize_image(colour, resolution=8, channels=3, fit="pad"), colour.transpose(2, 0, 1))
    grey = resize_image(colour[:, :, 0], resolution=8, channels=3, fit="pad")
    assert grey.shape == (3, 8, 8)
    assert (grey == grey[0]).all()


def save(folder, images, kind="png"):
    folder.mkdir(exist_ok=True)
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{index}.{kind}")
    return folder


def windowed(images, low, high):
    scaled = np.clip((np.stack(images).astype(np.float64) - low) / (high - low), 0, 1)
    return np.rint(scaled * 255).astype(np.uint8)


@pytest.mark.parametrize("window", [None, "dtype", (1000.0, 3000.0)])
def test_window_of_sixteen_bits_is_one_for_the_whole_set(tmp_path, window):
    images = [noise(16, 16, seed=seed, dtype=np.uint16, high=high) for seed, high in enumerate((500, 4000, 20000))]
    data = load_dataset(save(tmp_path / "set", images), DataConfig(resolution=16, window=window, holdout=0))
    values = np.stack(images)
    expected = {
        None: tuple(np.percentile(values, [0.5, 99.5], method="inverted_cdf").tolist()),
        "dtype": (0.0, 65535.0),
    }.get(window, window)
    assert data.window == expected
    assert abs(data.images[:, 0].astype(int) - windowed(images, *expected)).max() <= 1
    assert (data.images[:, 0] == windowed(images, *expected)).mean() > 0.999  # ties may round either way
    assert (
        load_dataset(tmp_path / "set", DataConfig(resolution=16, window=window, holdout=0)).window == expected
    )  # warm


@pytest.mark.parametrize("kind", ["tiff", "npy"])
@pytest.mark.parametrize("outlier", [0.0, 1e30])
def test_window_of_floats_is_exact_whatever_the_outliers(tmp_path, kind, outlier):
    images = np.random.default_rng(0).normal(size=(5, 16, 16)).astype(np.float32)
    images[0, 0, 0], images[0, 0, 1] = outlier, -0.0
    if kind == "npy":
        np.save(tmp_path / "set.npy", images)
    else:
        save(tmp_path / "set", images, kind)
    data = load_dataset(tmp_path / ("set.npy" if kind == "npy" else "set"), DataConfig(resolution=16, holdout=0))
    assert data.window == tuple(np.percentile(images, [0.5, 99.5], method="inverted_cdf").tolist())
    assert (data.images[:, 0] == windowed(images, *data.window)).mean() > 0.999


def test_window_of_floats_by_dtype_is_zero_to_one(tmp_path):
    images = np.random.default_rng(0).random((3, 8, 8))
    np.save(tmp_path / "set.npy", images)
    data = load_dataset(tmp_path / "set.npy", DataConfig(resolution=8, window="dtype"))
    assert data.window == (0.0, 1.0)
    assert abs(data.images[:, 0] - images * 255).max() <= 0.51


def test_window_of_signed_integers(tmp_path):
    images = noise(4, 8, 8, dtype=np.int16, high=2000) - 1000  # as Hounsfield units are
    np.save(tmp_path / "set.npy", images.astype(np.int16))
    data = load_dataset(tmp_path / "set.npy", DataConfig(resolution=8))
    assert data.window == tuple(np.percentile(images, [0.5, 99.5], method="inverted_cdf").tolist())


def test_window_of_a_mask_falls_back_to_its_extremes(tmp_path):
    images = np.zeros((4, 32, 32), np.uint16)
    images[:, 3, 3] = 7
    np.save(tmp_path / "set.npy", images)
    data = load_dataset(tmp_path / "set.npy", DataConfig(resolution=32))
    assert data.window == (0.0, 7.0)
    assert data.images.max() == 255


def test_eight_bits_are_taken_as_they_are_unless_a_window_is_given(tmp_path):
    images = [noise(8, 8, seed=seed, high=120) for seed in range(3)]
    folder = save(tmp_path / "set", images)
    for window in (None, "dtype"):
        data = load_dataset(folder, DataConfig(resolution=8, window=window, holdout=0))
        assert data.window is None
        np.testing.assert_array_equal(data.images[:, 0], images)
    data = load_dataset(folder, DataConfig(resolution=8, window=(20.0, 100.0), holdout=0))
    assert data.window == (20.0, 100.0)
    assert abs(data.images[:, 0].astype(int) - windowed(images, 20, 100)).max() <= 1


def test_mixed_depths_are_a_warning_or_an_error(tmp_path):
    folder = save(tmp_path / "set", [noise(8, 8), noise(8, 8, dtype=np.uint16, high=900)])
    data = load_dataset(folder, DataConfig(resolution=8, holdout=0))
    np.testing.assert_array_equal(data.images[0, 0], noise(8, 8))
    assert any("1 image of 8 bits" in problem.reason for problem in data.problems)
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "2.tiff")
    for window in (None, "dtype"):
        with pytest.raises(ZooError, match="has both float32 and uint16 images"):
            load_dataset(folder, DataConfig(resolution=8, window=window))
    assert len(load_dataset(folder, DataConfig(resolution=8, window=(0, 100))).images) == 3


@pytest.mark.parametrize("window", [(3.0, 3.0), (5.0, 1.0), (0.0, float("inf"))])
def test_invalid_windows(tmp_path, window):
    with pytest.raises(ZooError, match=r"data\.window"):
        load_dataset("phantoms:1", DataConfig(resolution=16, window=window))


def test_the_largest_supported_image():
    with pytest.raises(UnreadableError, match="truncated"):  # its header is fine, its pixels are missing
        decode(png_header(8_000, MAX_IMAGE_PIXELS // 8_000))
