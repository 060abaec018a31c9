"""The three plots of a run, from its log rows; and one of several runs side by side.

A row is a dict with ``nimg`` (images seen) and any of ``loss_d``, ``loss_g``, ``d_real``, ``d_fake`` (mean logits),
``d_acc_real``, ``d_acc_fake`` or ``d_acc_pairs`` (0..1), ``ssim_nearest``, ``ssim_pairwise``. Missing, None and
non-finite figures are left out. Each function says whether there was anything to draw; where there was not, it writes
nothing.

Matplotlib is imported only when something is drawn, and only its object interface is used: no global state, no window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.core.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

Row = Mapping[str, Any]
Series = tuple[np.ndarray, np.ndarray]  # thousands of images seen, ascending, and the figure there; all finite

BLUE, ORANGE = "#0072B2", "#D55E00"  # from Okabe and Ito's colour-blind-safe set: D and reals, G and fakes
INK, FAINT, RULE = "#333333", "#8A8A8A", "#E6E6E6"
DASHES = (0, (4, 3))
_POINTS = 2000  # a line of more is drawn from the medians of as many blocks


def plot_losses(rows: Sequence[Row], path: Path, title: str) -> bool:
    """losses.png: what D and G minimise, against images seen; the rows faint, the running median bold.

    The axis is logarithmic; where losses go below zero (as WGAN's do), linear around zero and logarithmic beyond.
    """
    lines = [(_series(rows, "loss_d"), BLUE, "D loss"), (_series(rows, "loss_g"), ORANGE, "G loss")]
    values = np.concatenate([y for (_, y), _, _ in lines])
    if not len(values):
        return False
    figure, (axes,) = _figure(title, (1,))
    for series, colour, label in lines:
        _line(axes, series, colour, label)
    _log_scale(axes, values)
    axes.set_ylabel("loss")
    _finish(figure, path)
    return True


def plot_accuracy(rows: Sequence[Row], path: Path, title: str) -> bool:
    """d_accuracy.png: how often D is right about real and fake images; below, how real it takes either to be.

    The lower panel shows the sigmoid of the mean logit: 0.5 for both means that D cannot tell. Where logits have no
    zero (``d_acc_pairs``), the share of pairs of a real image and a fake that D ranks rightly, and below, by how much.
    """
    pairs = _series(rows, "d_acc_pairs")
    if len(pairs[1]):
        return _plot_pairs(rows, pairs, path, title)
    shares = [_series(rows, key) for key in ("d_acc_real", "d_acc_fake")]
    logits = [_series(rows, key) for key in ("d_real", "d_fake")]
    if not any(len(y) for _, y in shares + logits):
        return False
    figure, (upper, lower) = _figure(title, (3, 2))
    kinds = (BLUE, "real images"), (ORANGE, "fakes")
    for (seen, share), (colour, label) in zip(shares, kinds, strict=True):
        _line(upper, (seen, 100 * share), colour, label)
    for (seen, logit), (colour, label) in zip(logits, kinds, strict=True):
        _line(lower, (seen, 0.5 + 0.5 * np.tanh(logit / 2)), colour, label)
    _percent(upper)
    lower.axhline(0.5, color=FAINT, linewidth=1.1, linestyle=DASHES, zorder=1)
    lower.set_ylim(-0.03, 1.03)
    lower.set_yticks([0, 0.5, 1])
    lower.set_ylabel("sigmoid of\nmean logit")
    _finish(figure, path)
    return True


def _plot_pairs(rows: Sequence[Row], pairs: Series, path: Path, title: str) -> bool:
    figure, (upper, lower) = _figure(title, (3, 2))
    seen, share = pairs
    _line(upper, (seen, 100 * share), BLUE, "pairs in which D finds the real image the more real")
    _line(lower, _series(rows, _logits_apart), BLUE, "")
    _percent(upper)
    lower.axhline(0, color=FAINT, linewidth=1.1, linestyle=DASHES, zorder=1)
    lower.set_ylabel("D(x) - D(G(z)),\nlogits")
    _finish(figure, path)
    return True


def _percent(axes: Axes) -> None:
    axes.axhline(50, color=FAINT, linewidth=1.1, linestyle=DASHES, zorder=1)
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_ylabel("D accuracy")


def plot_ssim(rows: Sequence[Row], path: Path, title: str, reals: Mapping[str, float | None]) -> bool:
    """ssim.png: likeness to the nearest real image (copying) and among the fakes (collapse), against images seen.

    Args:
        reals: the same two figures of the real images, under the rows' keys ``ssim_nearest`` and ``ssim_pairwise``;
            each is a dashed line in the colour of its curve, and left out where missing or None.
    """
    lines = [
        (_series(rows, "ssim_nearest"), _number(reals.get("ssim_nearest")), BLUE, "fakes to their nearest real"),
        (_series(rows, "ssim_pairwise"), _number(reals.get("ssim_pairwise")), ORANGE, "fakes to one another"),
    ]
    if not any(len(y) for (_, y), *_ in lines):
        return False
    figure, (axes,) = _figure(title, (1,))
    for series, level, colour, label in lines:
        axes.plot(*series, color=colour, linewidth=2, marker="o", markersize=4, label=label)
        if np.isfinite(level):
            axes.axhline(level, color=colour, linewidth=1.3, linestyle=DASHES, zorder=1)
    if any(np.isfinite(level) for _, level, *_ in lines):
        axes.plot([], [], color=FAINT, linewidth=1.3, linestyle=DASHES, label="the same of real images")
    axes.set_ylabel("mean SSIM")
    axes.margins(y=0.12)
    _finish(figure, path)
    return True


def plot_sweep(runs: Mapping[str, Sequence[Row]], strips: Mapping[str, Image.Image], path: Path, title: str) -> bool:
    """tune.png: several short runs in the same panels, and below them a strip of pictures each.

    Above: losses, and how far apart D holds reals and fakes (mean logits). Below: how far likeness to the nearest real
    image and among the fakes are from those of real images, 0 being best.

    Args:
        runs: log rows under the runs' names, in the order of their colours.
        strips: the last pictures of each, under the same names.
    """
    from matplotlib import colormaps

    panels: list[tuple[str, Callable[[Row], Any]]] = [
        ("D loss", lambda row: row.get("loss_d")),
        ("G loss", lambda row: row.get("loss_g")),
        ("D(x) - D(G(z)), logits", _logits_apart),
        ("SSIM nearest, distance from reals'", lambda row: abs(_gap(row, "ssim_nearest", "ssim_nearest_unseen"))),
        ("SSIM pairwise, distance from reals'", lambda row: abs(_gap(row, "ssim_pairwise", "ssim_pairwise_real"))),
    ]
    series = [[_series(rows, of) for rows in runs.values()] for _, of in panels]
    if not any(len(y) for panel in series for _, y in panel):
        return False
    colours = [colormaps["viridis"](0.9 * i / max(1, len(runs) - 1)) for i in range(len(runs))]
    figure, axes = _sheet(title, strips)
    for (label, _), lines, one in zip(panels, series, axes, strict=False):
        for name, line, colour in zip(runs, lines, colours, strict=True):
            _line(one, line, colour, name)
        one.set_title(label, loc="left", fontsize=10.5, color=INK)
        _plain(one)
    axes[-1].set_axis_off()
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="upper left", frameon=False, fontsize=10.5)
    with replace_file(path) as temp:
        figure.savefig(temp, format="png")
    return True


def _sheet(title: str, strips: Mapping[str, Image.Image]) -> tuple[Figure, list[Axes]]:
    """Six panels, the last for the legend, over the strips."""
    from matplotlib.figure import Figure

    wide = 11.0
    heights = [wide * 0.92 * strip.height / strip.width for strip in strips.values()]
    figure = Figure(figsize=(wide, 6 + sum(heights)), dpi=120, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(6, max(sum(heights), 0.01)))[:, 0]
    if strips:
        for one, (name, strip) in zip(
            lower.subplots(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0], strips.items(), strict=True
        ):
            one.imshow(np.asarray(strip), cmap="gray", vmin=0, vmax=255)
            one.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10.5, color=INK)
            one.set(xticks=[], yticks=[])
            one.spines[:].set_visible(False)
    return figure, upper.subplots(2, 3).ravel().tolist()


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_xlabel("thousands of images seen", color=INK, fontsize=9)
    axes.set_xlim(left=0)


def _gap(row: Row, one: str, other: str) -> float:
    return _number(row.get(one)) - _number(row.get(other))


def _logits_apart(row: Row) -> float:
    return _gap(row, "d_real", "d_fake")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) else np.nan


def _series(rows: Iterable[Row], what: str | Callable[[Row], Any]) -> Series:
    """A key of the rows, or what a function makes of each."""
    of = what if callable(what) else lambda row: row.get(what)
    pairs = np.array([(_number(row.get("nimg")) / 1000, _number(of(row))) for row in rows]).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    if len(pairs) > _POINTS:
        pairs = np.array([np.median(block, axis=0) for block in np.array_split(pairs, _POINTS)])
    return pairs[:, 0], pairs[:, 1]


def _smooth(y: np.ndarray) -> np.ndarray:
    """Running median over a twentieth of the rows (at least five), then a mean over half of that to round its steps."""
    half = max(2, len(y) // 40)
    for reach, middle in ((half, np.median), (half // 2, np.mean)):
        y = np.array([middle(y[max(0, i - reach) : i + reach + 1]) for i in range(len(y))])
    return y


def _line(axes: Axes, series: Series, colour: Any, label: str) -> None:
    seen, y = series
    if len(y) < 10:  # too few to smooth
        axes.plot(seen, y, color=colour, linewidth=2, marker="o", markersize=4, label=label)
        return
    axes.plot(seen, y, color=colour, linewidth=0.8, alpha=0.28)
    axes.plot(seen, _smooth(y), color=colour, linewidth=2, label=label, solid_capstyle="round")


def _log_scale(axes: Axes, values: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

    sizes = np.abs(values[values != 0])
    if not len(sizes):
        return
    locator: Locator
    if (values < 0).any():
        linear = 10 ** np.floor(np.log10(np.median(sizes)))
        axes.set_yscale("symlog", linthresh=linear)
        subs = (1.0,) if sizes.max() / linear > 300 else (1.0, 2.0, 5.0)
        locator = SymmetricalLogLocator(linthresh=linear, base=10, subs=subs)
    else:
        axes.set_yscale("log", nonpositive="clip")
        span = sizes.max() / sizes.min()
        locator = (
            LogLocator(subs=(1.0,) if span > 300 else (1.0, 2.0, 5.0))
            if span > 5
            else MaxNLocator(5, steps=[1, 2, 5, 10])
        )
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _figure(title: str, heights: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """Panels over one shared axis of images seen; the title at the top left, with room for the legend below it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4 if len(heights) == 1 else 5.6), dpi=160, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.14, h_pad=0.1)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0].tolist()
    panels[0].set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=30)
    return figure, panels


def _finish(figure: Figure, path: Path) -> None:
    first, last = figure.axes[0], figure.axes[-1]
    for axes in figure.axes:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set(color=FAINT, visible=axes is last)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=10.5, length=0, which="both", pad=5)
        axes.yaxis.label.set(color=INK, fontsize=11)
    first.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.03),
        ncols=3,
        frameon=False,
        fontsize=10.5,
        labelcolor=INK,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.6,
    )
    last.margins(x=0.01)
    last.set_xlim(left=0)
    last.xaxis.set_major_formatter("{x:,g}")
    last.set_xlabel("thousands of images seen", color=INK, fontsize=11)
    with replace_file(path) as temp:
        figure.savefig(temp, format="png")
