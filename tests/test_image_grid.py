"""Grids, PNGs and GIFs: what the files contain, and that a failed write leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.core.errors import ZooError
from zoo.data.pixel_range import from_uint8, to_uint8
from zoo.report import image_grid
from zoo.report.image_grid import BACKGROUND, CAPTION_PIXELS, animate, make_gif, make_grid, open_grid, save_png
from zoo.report.plots import plot_losses


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uint8_round_trip_is_exact(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = from_uint8(levels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_uint8(floats.to(dtype)), levels)


def test_to_uint8_clamps_rounds_and_blackens_nan() -> None:
    x = torch.tensor([-9.0, -1.0, 0.001, 1.0, 9.0, torch.inf, -torch.inf, torch.nan], requires_grad=True)
    assert to_uint8(x).tolist() == [0, 0, 128, 255, 255, 255, 0, 0]


@pytest.mark.parametrize(
    ("count", "channels", "side", "columns", "size"),
    [
        (16, 1, 28, None, (4 * 114 + 2, 4 * 114 + 2)),  # 28 px: four times
        (16, 3, 64, None, (4 * 130 + 2, 4 * 130 + 2)),  # 64 px: twice
        (10, 1, 65, None, (4 * 67 + 2, 3 * 67 + 2)),  # larger images as they are
        (5, 3, 128, 5, (5 * 130 + 2, 132)),
        (3, 2, 128, 8, (3 * 130 + 2, 132)),  # no empty columns
    ],
)
def test_grid_geometry(count: int, channels: int, side: int, columns: int | None, size: tuple[int, int]) -> None:
    grid = make_grid(torch.from_numpy(noise(count, channels, side, side)), columns=columns)
    assert grid.size == size
    assert grid.mode == ("RGB" if channels == 3 else "L")


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_images_row_by_row(channels: int) -> None:
    images = noise(5, channels, 32, 32)
    sheet = np.asarray(make_grid(images, columns=3, pad=4)).reshape(2 * 100 + 4, 3 * 100 + 4, channels)
    for i, image in enumerate(images):
        top, left = 4 + i // 3 * 100, 4 + i % 3 * 100
        cell = sheet[top : top + 96, left : left + 96]
        np.testing.assert_array_equal(cell[1::3, 1::3], image.transpose(1, 2, 0))
    assert (sheet[104:, 204:] == BACKGROUND).all()  # the cell left over
    assert (sheet[:4] == BACKGROUND).all()


@pytest.mark.parametrize(
    "images", [np.zeros((2, 1, 8, 8)), np.zeros((2, 8, 8), np.uint8), np.zeros((0, 1, 8, 8), np.uint8)]
)
def test_grid_refuses_other_arrays(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 images"):
        make_grid(images)


def test_png_keeps_pixels_and_metadata(tmp_path: Path) -> None:
    grid = make_grid(noise(4, 1, 28, 28))
    save_png(grid, tmp_path / "new" / "grid.png", {"kimg": 120, "recipe": "Größe 64"})
    with Image.open(tmp_path / "new" / "grid.png") as saved:
        assert saved.text == {"zoo": "grid", "kimg": "120", "recipe": "Größe 64"}  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(grid))
    assert files(tmp_path / "new") == ["grid.png"]


def frames_in(folder: Path, count: int, channels: int = 1, side: int = 64) -> list[Path]:
    paths = [folder / f"fakes{i:06d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        save_png(Image.fromarray(np.squeeze(noise(side, side, channels, seed=i))), path)
    return paths


def read_gif(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Return RGB frames and their durations in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as gif:
        for i in range(gif.n_frames):  # type: ignore[attr-defined]
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
        assert gif.info.get("loop", 0) == 0
    return frames, durations


def test_gif_keeps_every_grey_level(tmp_path: Path) -> None:
    paths = frames_in(tmp_path / "in", 5)
    make_gif(paths, tmp_path / "training.gif", seconds=1.0)
    frames, durations = read_gif(tmp_path / "training.gif")
    assert durations == [200, 200, 200, 200, 2200]
    for path, frame in zip(paths, frames, strict=True):
        with Image.open(path) as saved:
            np.testing.assert_array_equal(frame, np.asarray(saved.convert("RGB")))


def test_gif_chooses_frames_evenly_and_scales_down(tmp_path: Path) -> None:
    paths = frames_in(tmp_path / "in", 130, side=8)
    save_png(Image.fromarray(noise(350, 700)), paths[-1])
    make_gif(paths, tmp_path / "training.gif", captions=[f"{i} kimg" for i in range(130)])
    frames, durations = read_gif(tmp_path / "training.gif")
    assert len(frames) == 60
    assert {frame.shape for frame in frames} == {(340, 640, 3)}  # a caption's strip of 20 below
    assert durations[-1] > 10 * durations[0]
    strips = {frame[-20:, :80].tobytes() for frame in frames}
    assert len(strips) == 60  # each with its own kimg
    assert frames[0][-20:].max() > 200


def test_gif_in_colour_stays_close(tmp_path: Path) -> None:
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0:256:4, 0:256:4], np.uint8(90)), axis=-1).astype(np.uint8)
    save_png(Image.fromarray(ramp), tmp_path / "a.png")
    save_png(Image.fromarray(ramp[::-1]), tmp_path / "b.png")
    make_gif([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "training.gif", captions=["0 kimg", "1 kimg"])
    frames, _ = read_gif(tmp_path / "training.gif")
    assert np.abs(frames[0][:64].astype(int) - ramp).mean() < 12


def test_gif_stays_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_grid, "GIF_MAX_BYTES", 600_000)
    make_gif(frames_in(tmp_path / "in", 3, side=640), tmp_path / "training.gif")
    assert (tmp_path / "training.gif").stat().st_size <= 600_000
    assert read_gif(tmp_path / "training.gif")[0][0].shape == (360, 360, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_animate(tmp_path: Path, channels: int) -> None:
    animate(torch.from_numpy(noise(7, channels, 32, 32)), tmp_path / "walk.gif", fps=25)
    frames, durations = read_gif(tmp_path / "walk.gif")
    assert {frame.shape for frame in frames} == {(96, 96, 3)}
    assert durations == [40] * 7
    animate([make_grid(noise(4, channels, 32, 32, seed=i)) for i in range(3)], tmp_path / "grids.gif", fps=1000)
    assert read_gif(tmp_path / "grids.gif")[1] == [20] * 3


def test_gif_without_readable_frames(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ZooError, match="no images"):
        make_gif([], tmp_path / "x.gif")
    with pytest.raises(ZooError, match="no images"):
        animate([], tmp_path / "x.gif")
    for name in ("broken.png", "absent.png"):
        with pytest.raises(ZooError, match=f"{name}: cannot read the image"):
            make_gif([tmp_path / name], tmp_path / "x.gif")
    with pytest.raises(ValueError, match="2 captions for 1 frames"):
        make_gif([tmp_path / "broken.png"], tmp_path / "x.gif", captions=["a", "b"])
    assert files(tmp_path) == ["broken.png"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, file: Path, *args: object, **kwargs: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    grid, old = make_grid(noise(1, 1, 28, 28)), tmp_path / "a.png"
    old.write_bytes(b"old")
    monkeypatch.setattr("PIL.Image.Image.save", fail)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(grid, old)
    with pytest.raises(OSError, match="disk full"):
        plot_losses([{"nimg": 1, "loss_d": 1.0}], old, "t")
    monkeypatch.undo()
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda self, data: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        animate([grid], old)
    assert files(tmp_path) == ["a.png"]
    assert old.read_bytes() == b"old"


def test_a_caption_is_below_the_grid_and_left_out_again(tmp_path):
    for channels in (1, 3):
        grid = make_grid(np.random.default_rng(0).integers(0, 256, (4, channels, 32, 32), np.uint8))
        save_png(grid, tmp_path / "plain.png")
        save_png(grid, tmp_path / "grid.png", {"seed": 0}, caption="dcgan-64, 12.0 kimg, seed 0")
        with Image.open(tmp_path / "grid.png") as image:
            assert image.size == (grid.width, grid.height + CAPTION_PIXELS)
            assert image.text == {"zoo": "grid", "seed": "0", "caption": "dcgan-64, 12.0 kimg, seed 0"}
            strip = np.asarray(image.crop((0, grid.height, *image.size)).convert("L"))
            assert (strip == BACKGROUND).any()
            assert (strip > 200).any()  # text
        for name in ("plain", "grid"):
            assert open_grid(tmp_path / f"{name}.png").tobytes() == grid.tobytes()
