"""Grids, PNGs, GIFs and plots: what is in the files, and that nothing is left of those that failed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.core.errors import ZooError
from zoo.data.pixel_range import from_uint8, to_uint8
from zoo.report import image_grid
from zoo.report.image_grid import BACKGROUND, animate, make_gif, make_grid, save_png
from zoo.report.plots import plot_accuracy, plot_losses, plot_ssim


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
    picture = make_grid(torch.from_numpy(noise(count, channels, side, side)), columns=columns)
    assert picture.size == size
    assert picture.mode == ("RGB" if channels == 3 else "L")


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
def test_grid_refuses(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 images"):
        make_grid(images)


def test_png_keeps_pixels_and_metadata(tmp_path: Path) -> None:
    picture = make_grid(noise(4, 1, 28, 28))
    save_png(picture, tmp_path / "new" / "grid.png", {"kimg": 120, "recipe": "Größe 64"})
    with Image.open(tmp_path / "new" / "grid.png") as saved:
        assert saved.text == {"kimg": "120", "recipe": "Größe 64"}  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(picture))
    assert files(tmp_path / "new") == ["grid.png"]


def frames_in(folder: Path, count: int, channels: int = 1, side: int = 64) -> list[Path]:
    paths = [folder / f"fakes{i:06d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        save_png(Image.fromarray(np.squeeze(noise(side, side, channels, seed=i))), path)
    return paths


def read_gif(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """RGB frames and their milliseconds."""
    shown, held = [], []
    with Image.open(path) as gif:
        for i in range(gif.n_frames):  # type: ignore[attr-defined]
            gif.seek(i)
            shown.append(np.asarray(gif.convert("RGB")))
            held.append(gif.info["duration"])
        assert gif.info.get("loop", 0) == 0
    return shown, held


def test_gif_keeps_every_grey_level(tmp_path: Path) -> None:
    paths = frames_in(tmp_path / "in", 5)
    make_gif(paths, tmp_path / "training.gif", seconds=1.0)
    shown, held = read_gif(tmp_path / "training.gif")
    assert held == [200, 200, 200, 200, 2200]
    for path, frame in zip(paths, shown, strict=True):
        with Image.open(path) as saved:
            np.testing.assert_array_equal(frame, np.asarray(saved.convert("RGB")))


def test_gif_picks_frames_evenly_and_scales_down(tmp_path: Path) -> None:
    paths = frames_in(tmp_path / "in", 130, side=8)
    save_png(Image.fromarray(noise(350, 700)), paths[-1])
    make_gif(paths, tmp_path / "training.gif", captions=[f"{i} kimg" for i in range(130)])
    shown, held = read_gif(tmp_path / "training.gif")
    assert len(shown) == 60
    assert {frame.shape for frame in shown} == {(340, 640, 3)}  # a caption's strip of 20 below
    assert held[-1] > 10 * held[0]
    strips = {frame[-20:, :80].tobytes() for frame in shown}
    assert len(strips) == 60  # each with its own kimg
    assert shown[0][-20:].max() > 200


def test_gif_in_colour_stays_close(tmp_path: Path) -> None:
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0:256:4, 0:256:4], np.uint8(90)), axis=-1).astype(np.uint8)
    save_png(Image.fromarray(ramp), tmp_path / "a.png")
    save_png(Image.fromarray(ramp[::-1]), tmp_path / "b.png")
    make_gif([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "training.gif", captions=["0 kimg", "1 kimg"])
    shown, _ = read_gif(tmp_path / "training.gif")
    assert np.abs(shown[0][:64].astype(int) - ramp).mean() < 12


def test_gif_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_grid, "GIF_MAX_BYTES", 600_000)
    make_gif(frames_in(tmp_path / "in", 3, side=640), tmp_path / "training.gif")
    assert (tmp_path / "training.gif").stat().st_size <= 600_000
    assert read_gif(tmp_path / "training.gif")[0][0].shape == (360, 360, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_animate(tmp_path: Path, channels: int) -> None:
    animate(torch.from_numpy(noise(7, channels, 32, 32)), tmp_path / "walk.gif", fps=25)
    shown, held = read_gif(tmp_path / "walk.gif")
    assert {frame.shape for frame in shown} == {(96, 96, 3)}
    assert held == [40] * 7
    animate([make_grid(noise(4, channels, 32, 32, seed=i)) for i in range(3)], tmp_path / "grids.gif", fps=1000)
    assert read_gif(tmp_path / "grids.gif")[1] == [20] * 3


def test_gif_refusals(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
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


def log(count: int, **fixed: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        t = (i + 1) / count
        row = {
            "nimg": 1000 * (i + 1),
            "loss_d": 1.4 - t + 0.3 * rng.random(),
            "loss_g": 0.7 + 2 * t + rng.random(),
            "d_real": 2 * t + rng.normal(0, 0.3),
            "d_fake": -2 * t + rng.normal(0, 0.3),
            "d_acc_real": 0.5 + 0.4 * t,
            "d_acc_fake": 0.6 + 0.3 * t,
            "img_per_s": 500.0,
            "time": 2.0 * i,
        }
        if i % 10 == 9:
            row |= {"ssim_nearest": 0.3 + 0.3 * t, "ssim_pairwise": 0.5 - 0.3 * t}
        rows.append(row | fixed)
    return rows


def ssim_plot(rows: list[dict[str, Any]], path: Path, title: str) -> bool:
    return plot_ssim(rows, path, title, {"ssim_nearest": 0.62, "ssim_pairwise": 0.2})


PLOTS = {"losses": plot_losses, "accuracy": plot_accuracy, "ssim": ssim_plot}
Plot = Callable[[list[dict[str, Any]], Path, str], bool]


def colours(path: Path) -> dict[str, int]:
    """How many pixels have each line's colour."""
    with Image.open(path) as picture:
        assert picture.width == 1280
        assert picture.height in (704, 896)
        array = np.asarray(picture.convert("RGB")).astype(int)
    names = {"blue": (0x00, 0x72, 0xB2), "orange": (0xD5, 0x5E, 0x00)}
    return {name: int((np.abs(array - rgb).max(axis=-1) < 8).sum()) for name, rgb in names.items()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("count", [10, 300, 5000])
def test_plots_are_drawn(tmp_path: Path, plot: Plot, count: int) -> None:
    assert plot(log(count), tmp_path / "plot.png", "DCGAN, 64 px")
    assert min(colours(tmp_path / "plot.png").values()) > 500
    assert files(tmp_path) == ["plot.png"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize(
    "rows",
    [
        log(1, ssim_nearest=0.5),
        log(30, loss_d=0.0, loss_g=0.0, d_real=-1e4, d_fake=1e4, d_acc_real=1.0, d_acc_fake=0.0, ssim_nearest=1.0),
        log(30, loss_d=torch.nan, d_acc_real=torch.nan, d_real=torch.inf, ssim_pairwise=None),
        log(30, loss_d=-40.0),  # Wasserstein
        log(30, loss_d=1.386, loss_g=1.387),
        log(30, loss_d=1e-9),
        [*log(30)[::-1], {"nimg": 5}, {"time": 1.0}],
    ],
    ids=["one row", "0 and 1", "not finite", "negative", "narrow", "wide", "unordered and bare"],
)
def test_odd_rows_are_drawn(tmp_path: Path, plot: Plot, rows: list[dict[str, Any]]) -> None:
    assert plot(rows, tmp_path / "plot.png", "odd")
    assert max(colours(tmp_path / "plot.png").values()) > 50


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("rows", [[], [{"nimg": 1000, "time": 3.0, "loss_d": torch.nan}]], ids=["no rows", "nothing"])
def test_nothing_to_draw(tmp_path: Path, plot: Plot, rows: list[dict[str, Any]]) -> None:
    assert not plot(rows, tmp_path / "plot.png", "empty")
    assert files(tmp_path) == []


def test_accuracy_of_pairs(tmp_path: Path) -> None:
    """Where logits have no zero there is one curve: none of fakes alone."""
    rows = [{key: row[key] for key in ("nimg", "d_real", "d_fake")} | {"d_acc_pairs": 0.7} for row in log(30)]
    assert plot_accuracy(rows, tmp_path / "plot.png", "pairs")
    assert colours(tmp_path / "plot.png")["blue"] > 500
    assert colours(tmp_path / "plot.png")["orange"] == 0


def test_ssim_without_reals(tmp_path: Path) -> None:
    assert plot_ssim(log(30), tmp_path / "with.png", "t", {"ssim_nearest": 0.62, "ssim_pairwise": 0.2})
    assert plot_ssim(log(30), tmp_path / "without.png", "t", {"ssim_nearest": None})
    assert colours(tmp_path / "with.png")["blue"] > colours(tmp_path / "without.png")["blue"]


def test_no_half_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves the old file and nothing else."""

    def fail(self: object, file: Path, *args: object, **kwargs: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    picture, old = make_grid(noise(1, 1, 28, 28)), tmp_path / "a.png"
    old.write_bytes(b"old")
    monkeypatch.setattr("PIL.Image.Image.save", fail)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(picture, old)
    with pytest.raises(OSError, match="disk full"):
        plot_losses(log(10), old, "t")
    monkeypatch.undo()
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda self, data: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        animate([picture], old)
    assert files(tmp_path) == ["a.png"]
    assert old.read_bytes() == b"old"


def test_matplotlib_waits_until_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import zoo.report.image_grid; from zoo.report.plots import plot_losses\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plot_losses([{'nimg': 1, 'loss_d': 1.0}], Path(sys.argv[1]), 't')\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[1]
    run([sys.executable, "-c", code, str(tmp_path / "plot.png")], check=True, cwd=root)
