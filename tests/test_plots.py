"""The plots of a run: whether all lines are drawn, also of unusual logs."""

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

from zoo.losses.adversarial import LOSSES
from zoo.report import plots
from zoo.report.plots import plot_accuracy, plot_losses, plot_ssim, plot_sweep
from zoo.report.series import smooth


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
    """Count the pixels in the colour of each line."""
    with Image.open(path) as image:
        assert image.width == 1280
        assert image.height in (704, 896)
        array = np.asarray(image.convert("RGB")).astype(int)
    names = {"blue": (0x00, 0x72, 0xB2), "orange": (0xD5, 0x5E, 0x00)}
    return {name: int((np.abs(array - rgb).max(axis=-1) < 8).sum()) for name, rgb in names.items()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("count", [10, 5000])  # with smoothing, and thinned out
def test_plots_are_drawn(tmp_path: Path, plot: Plot, count: int) -> None:
    assert plot(log(count), tmp_path / "plot.png", "DCGAN, 64 px")
    assert min(colours(tmp_path / "plot.png").values()) > 500
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize(
    ("plot", "labels"),
    [
        (
            lambda rows, path, title: plot_losses(rows, path, title, (1.386, 0.693)),
            {"D loss": "blue", "G loss": "orange", "D loss where": "blue", "G loss where": "orange"},
        ),
        (
            lambda rows, path, title: plot_losses(rows, path, title, (0.693, 0.693)),
            {"D loss": "blue", "G loss": "orange", "both where D can only guess, 0.693": "grey"},
        ),
        (ssim_plot, {"fakes to their": "blue", "real images, 0.62": "blue", "another": "orange", "0.2": "orange"}),
        (plot_accuracy, {"real": "blue", "fakes": "orange", "guessing": "grey"}),
    ],
)
def test_legends_have_the_colours_of_their_lines(tmp_path, monkeypatch, plot, labels):
    figures = []
    save = plots._save_figure
    monkeypatch.setattr(plots, "_save_figure", lambda figure, path: (figures.append(figure), save(figure, path)))
    assert plot(log(30), tmp_path / "plot.png", "a title")
    axes = figures[0].axes[0]
    names = {plots.BLUE: "blue", plots.ORANGE: "orange", plots.AXIS_GREY: "grey"}
    legend = axes.get_legend()
    entries = [
        (text.get_text(), names[line.get_color()])
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    ]
    assert len(entries) == len(labels)
    for (text, colour), (label, expected) in zip(entries, labels.items(), strict=True):
        assert label in text
        assert colour == expected, text
    boxes = [axes.get_window_extent(), legend.get_window_extent()]
    assert boxes[0].width > 1000  # of 1280: the legend takes nothing from the axes
    assert boxes[1].x1 < 1280
    assert boxes[1].y0 > boxes[0].y1


ONE_ROW = log(1, ssim_nearest=0.5)
NOT_FINITE = log(30, loss_d=torch.nan, d_acc_real=torch.nan, d_real=torch.inf, ssim_pairwise=None)
UNORDERED = [*log(30)[::-1], {"nimg": 5}, {"time": 1.0}]
EXTREMES = log(30, loss_d=0.0, loss_g=0.0, d_real=-1e4, d_fake=1e4, d_acc_real=1.0, d_acc_fake=0.0, ssim_nearest=1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("rows", [ONE_ROW, NOT_FINITE, UNORDERED, EXTREMES])
def test_unusual_rows_are_drawn(tmp_path: Path, plot: Plot, rows: list[dict[str, Any]]) -> None:
    assert plot(rows, tmp_path / "plot.png", "unusual")
    assert max(colours(tmp_path / "plot.png").values()) > 50


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("losses", [(-40.0, None), (1.386, 1.387), (1e-9, None)], ids=["negative", "narrow", "wide"])
def test_unusual_losses_are_drawn(tmp_path: Path, losses: tuple[float, float | None]) -> None:
    fixed = {"loss_d": losses[0]} | ({} if losses[1] is None else {"loss_g": losses[1]})
    assert plot_losses(log(30, **fixed), tmp_path / "plot.png", "unusual")
    assert max(colours(tmp_path / "plot.png").values()) > 50


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("rows", [[], [{"nimg": 1000, "time": 3.0, "loss_d": torch.nan}]], ids=["no rows", "nothing"])
def test_nothing_to_draw(tmp_path: Path, plot: Plot, rows: list[dict[str, Any]]) -> None:
    assert not plot(rows, tmp_path / "plot.png", "empty")
    assert list(tmp_path.iterdir()) == []


def test_accuracy_of_pairs_is_one_curve(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("nimg", "d_real", "d_fake")} | {"d_acc_pairs": 0.7} for row in log(30)]
    assert plot_accuracy(rows, tmp_path / "plot.png", "pairs")
    assert colours(tmp_path / "plot.png")["blue"] > 500
    assert colours(tmp_path / "plot.png")["orange"] == 0


def test_ssim_without_values_of_real_images(tmp_path: Path) -> None:
    assert plot_ssim(log(30), tmp_path / "with.png", "t", {"ssim_nearest": 0.62, "ssim_pairwise": 0.2})
    assert plot_ssim(log(30), tmp_path / "without.png", "t", {"ssim_nearest": None})
    assert colours(tmp_path / "with.png")["blue"] > colours(tmp_path / "without.png")["blue"]


def test_sweep_shows_curves_and_strips(tmp_path: Path) -> None:
    strips = {name: Image.fromarray(np.full((40, 400), level, np.uint8)) for name, level in (("a", 60), ("b", 200))}
    assert plot_sweep({"a": log(30), "b": log(12)}, strips, tmp_path / "tune.png", "t")
    with Image.open(tmp_path / "tune.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min((pixels == 60).sum(), (pixels == 200).sum()) > 10_000
    assert not plot_sweep({"a": []}, strips, tmp_path / "none.png", "t")


@pytest.mark.parametrize("reach", [1, 3, 20])
def test_smoothing_starts_and_ends_at_the_data(reach: int) -> None:
    y = np.geomspace(1.15, 0.3, 40)  # falls steeply at first
    smooth_y = smooth(smooth(y, reach), max(1, reach // 2), np.mean)
    assert (smooth_y[0], smooth_y[-1]) == (y[0], y[-1])
    assert (np.diff(smooth_y) < 0).all()
    np.testing.assert_allclose(smooth(np.arange(9.0), reach), np.arange(9.0))  # a line stays a line


def test_equilibrium_is_a_thin_line(tmp_path: Path) -> None:
    assert plot_losses(log(30), tmp_path / "with.png", "t", (2 * np.log(2), np.log(2)))
    assert plot_losses(log(30), tmp_path / "without.png", "t")
    assert colours(tmp_path / "with.png")["blue"] > colours(tmp_path / "without.png")["blue"]
    assert plot_losses(log(30, loss_d=-4.0), tmp_path / "negative.png", "t", (0.0, 0.0))


@pytest.mark.parametrize("name", LOSSES)
def test_equilibrium_is_the_loss_of_logits_that_say_nothing(name: str) -> None:
    loss, zero = LOSSES[name], torch.zeros(8)
    logits = zero + 0.5 if name == "least_squares" else zero  # which codes real as 1 and fake as 0
    both = (loss.discriminator(logits, logits, 0.0).item(), loss.generator(logits, logits).item())
    assert both == pytest.approx(loss.equilibrium)


def test_matplotlib_is_imported_only_to_draw(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import zoo.report.image_grid; from zoo.report.plots import plot_losses\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plot_losses([{'nimg': 1, 'loss_d': 1.0}], Path(sys.argv[1]), 't')\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[1]
    run([sys.executable, "-c", code, str(tmp_path / "plot.png")], check=True, cwd=root)
