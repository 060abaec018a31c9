"""The plots of a run and of a sweep, from log rows.

A row is a dict with ``nimg`` (images seen) and any of ``loss_d``, ``loss_g``, ``d_real``, ``d_fake`` (mean logits),
``d_acc_real``, ``d_acc_fake`` or ``d_acc_pairs`` (0..1), ``ssim_nearest``, ``ssim_pairwise``. Missing, None and
non-finite values are left out. Each function returns whether there was anything to draw; if not, it writes nothing.
Matplotlib is imported only when something is drawn, and only its object interface is used: no global state, no window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.core.files import replace_file
from zoo.report.series import Series, block_medians, number_or_nan, read_series, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

_Row = Mapping[str, Any]

BLUE, ORANGE = "#0072B2", "#D55E00"  # from Okabe and Ito's colour-blind-safe set: D and real images, G and fakes
TEXT_GREY, AXIS_GREY, GRID_GREY = "#333333", "#8A8A8A", "#E6E6E6"
TITLE_STYLE: dict[str, Any] = {"fontsize": 13, "fontweight": "bold", "color": TEXT_GREY}
REFERENCE_DASHES = (0, (4, 3))
PLOT_MAX_POINTS = 2000  # a longer series is drawn from the medians of as many blocks
MIN_SMOOTHED_POINTS = 10  # a series of fewer points is drawn point by point
MAX_LEGEND_LINE = 75  # characters of a legend on one line
MANY_TICKS_RATIO = 300  # a logarithmic axis over more than this ratio has ticks at powers of ten only


def plot_losses(rows: Sequence[_Row], path: Path, title: str, equilibrium: tuple[float, float] | None = None) -> bool:
    """Draw losses.png: what D and G minimise against images seen.

    The rows are faint and the running median is bold. The axis is logarithmic; where losses are negative (as WGAN's
    are), it is linear around zero and logarithmic beyond.

    Args:
        equilibrium: losses of D and G where D can only guess, drawn as thin lines in their colours, or one if equal.
    """
    lines = [(_series(rows, "loss_d"), BLUE, "D loss"), (_series(rows, "loss_g"), ORANGE, "G loss")]
    values = np.concatenate([y for (_, y), _, _ in lines])
    if not len(values):
        return False
    figure, (axes,) = _new_figure(title, (1,))
    for series, colour, label in lines:
        _draw_series(axes, series, colour, label)
    _set_log_scale(axes, values)  # losses of GANs span decades, above all after a collapse
    if equilibrium is not None:
        levels = [(level, colour, label) for level, (_, colour, label) in zip(equilibrium, lines, strict=True)]
        if equilibrium[0] == equilibrium[1]:  # one line for both, in the colour of neither
            levels = [(equilibrium[0], AXIS_GREY, "both")]
        for level, colour, label in levels:
            if level > 0 or axes.get_yscale() != "log":
                text = f"{label} where D can only guess, {level:.3g}"
                axes.axhline(level, color=colour, linewidth=0.9, linestyle=REFERENCE_DASHES, zorder=1, label=text)
    axes.set_ylabel("loss (linear near 0, then log)" if axes.get_yscale() == "symlog" else "loss (log scale)")
    _save_figure(figure, path)
    return True


def plot_accuracy(rows: Sequence[_Row], path: Path, title: str) -> bool:
    """Draw d_accuracy.png: how often D classifies real and fake images correctly.

    The lower panel shows the sigmoid of the mean logits: 0.5 for both means that D cannot tell them apart. Where logits
    have no zero (``d_acc_pairs``), the panels show the share of pairs of a real image and a fake that D ranks
    correctly, and the difference of their mean logits.
    """
    pairs = _series(rows, "d_acc_pairs")
    if len(pairs[1]):
        accuracies = [(pairs, BLUE, "pairs in which D scores the real image higher")]
        scores, middle, label = [(_series(rows, _logit_difference), BLUE, "")], 0.0, "D(x) - D(G(z)),\nlogits"
    else:
        kinds = (("real", BLUE, "real images"), ("fake", ORANGE, "fakes"))
        accuracies = [(_series(rows, f"d_acc_{kind}"), colour, name) for kind, colour, name in kinds]
        logits = [(_series(rows, f"d_{kind}"), colour, name) for kind, colour, name in kinds]
        if not any(len(y) for (_, y), *_ in accuracies + logits):
            return False
        # 0.5 + 0.5 tanh(x / 2) is the sigmoid of x without overflow.
        scores = [((x, 0.5 + 0.5 * np.tanh(y / 2)), colour, name) for (x, y), colour, name in logits]
        middle, label = 0.5, "sigmoid of\nmean logit"
    figure, (upper, lower) = _new_figure(title, (3, 2))
    for (x, y), colour, name in accuracies:
        _draw_series(upper, (x, 100 * y), colour, name)
    for series, colour, name in scores:
        _draw_series(lower, series, colour, name)
    # 50 % accuracy, and a score in the middle, are what guessing gives.
    for axes, chance in ((upper, 50), (lower, middle)):
        axes.axhline(chance, color=AXIS_GREY, linewidth=1.1, linestyle=REFERENCE_DASHES, zorder=1, label="guessing")
    upper.set(ylim=(-3, 103), yticks=[0, 25, 50, 75, 100], ylabel="D accuracy")
    upper.yaxis.set_major_formatter("{x:.0f} %")
    lower.set_ylabel(label)
    if middle:  # a probability; differences of logits have no bounds
        lower.set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1])
    _save_figure(figure, path)
    return True


def plot_ssim(rows: Sequence[_Row], path: Path, title: str, reals: Mapping[str, float | None]) -> bool:
    """Draw ssim.png: similarity to the nearest real image (copying) and among the fakes (collapse).

    Args:
        reals: the same two values of real images, under the rows' keys ``ssim_nearest`` and ``ssim_pairwise``; each is
            a dashed line in the colour of its curve, and left out where missing or None.
    """
    styles = {
        "ssim_nearest": (BLUE, "fakes to their nearest real image"),
        "ssim_pairwise": (ORANGE, "fakes to one another"),
    }
    lines = [(_series(rows, key), number_or_nan(reals.get(key)), *style) for key, style in styles.items()]
    if not any(len(y) for (_, y), *_ in lines):
        return False
    figure, (axes,) = _new_figure(title, (1,))
    for series, level, colour, label in lines:
        axes.plot(*series, color=colour, linewidth=2, marker="o", markersize=4, label=label)
        if np.isfinite(level):
            text = f"the same of real images, {level:.3g}"
            axes.axhline(level, color=colour, linewidth=1.3, linestyle=REFERENCE_DASHES, zorder=1, label=text)
    axes.set_ylabel("mean SSIM")
    axes.margins(y=0.12)
    _save_figure(figure, path)
    return True


def plot_sweep(runs: Mapping[str, Sequence[_Row]], strips: Mapping[str, Image.Image], path: Path, title: str) -> bool:
    """Draw tune.png: several short runs in the same panels, and below them a strip of images of each.

    Above: the losses, and the difference of D's mean logits of real images and fakes. Below: how far the similarity to
    the nearest real image and among the fakes is from that of real images; 0 is best.

    Args:
        runs: log rows by run name, in the order of their colours.
        strips: the last images of each, by the same names.
    """
    from matplotlib import colormaps

    panels: list[tuple[str, str | Callable[[_Row], float]]] = [
        ("D loss", "loss_d"),
        ("G loss", "loss_g"),
        ("D(x) - D(G(z)), logits", _logit_difference),
        (
            "SSIM nearest, distance from real images",
            lambda row: abs(_difference(row, "ssim_nearest", "ssim_nearest_unseen")),
        ),
        (
            "SSIM pairwise, distance from real images",
            lambda row: abs(_difference(row, "ssim_pairwise", "ssim_pairwise_real")),
        ),
    ]
    series = [[_series(rows, source) for rows in runs.values()] for _, source in panels]
    if not any(len(y) for panel in series for _, y in panel):
        return False
    # 0.9: the last tenth of viridis is too bright for a white page.
    colours = [colormaps["viridis"](0.9 * i / max(1, len(runs) - 1)) for i in range(len(runs))]
    figure, axes = _new_sweep_figure(title, strips)
    for (label, _), lines, panel in zip(panels, series, axes, strict=False):
        for name, line, colour in zip(runs, lines, colours, strict=True):
            _draw_series(panel, line, colour, name)
        panel.set_title(label, loc="left", fontsize=10.5, color=TEXT_GREY)
        _style_axes(panel, 9)
        panel.set_xlabel("thousands of images seen", color=TEXT_GREY, fontsize=9)
        panel.set_xlim(left=0)
    axes[-1].set_axis_off()  # the sixth panel has the legend of all others
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="upper left", frameon=False, fontsize=10.5)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"zoo": "grid"})
    return True


def _new_sweep_figure(title: str, strips: Mapping[str, Image.Image]) -> tuple[Figure, list[Axes]]:
    """Make six panels, the last of them for the legend, above the strips."""
    from matplotlib.figure import Figure

    width = 11.0
    # 0.92: the share of the width that the names of the runs leave to the strips.
    heights = [width * 0.92 * strip.height / strip.width for strip in strips.values()]
    figure = Figure(figsize=(width, 6 + sum(heights)), dpi=120, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=TEXT_GREY)
    # Without strips the lower part still needs a height above zero.
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(6, max(sum(heights), 0.01)))[:, 0]
    if strips:
        panels = lower.subplots(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, strip) in zip(panels, strips.items(), strict=True):
            axes.imshow(np.asarray(strip), cmap="gray", vmin=0, vmax=255)
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10.5, color=TEXT_GREY)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return figure, upper.subplots(2, 3).ravel().tolist()


def _difference(row: _Row, key: str, other: str) -> float:
    return number_or_nan(row.get(key)) - number_or_nan(row.get(other))


def _logit_difference(row: _Row) -> float:
    return _difference(row, "d_real", "d_fake")


def _series(rows: Sequence[_Row], source: str | Callable[[_Row], float]) -> Series:
    """Read a series against thousands of images seen."""
    x, y = block_medians(read_series(rows, source), PLOT_MAX_POINTS)
    return x / 1000, y


def _draw_series(axes: Axes, series: Series, colour: Any, label: str) -> None:
    x, y = series
    if len(y) < MIN_SMOOTHED_POINTS:
        axes.plot(x, y, color=colour, linewidth=2, marker="o", markersize=4, label=label)
        return
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.28)
    half = max(2, len(y) // 40)  # the running median spans a twentieth of the points
    rounded = smooth(smooth(y, half), half // 2, np.mean)  # the mean rounds the steps that a median leaves
    axes.plot(x, rounded, color=colour, linewidth=2, label=label, solid_capstyle="round")


def _set_log_scale(axes: Axes, values: np.ndarray) -> None:
    """Choose a logarithmic scale and readable ticks; symmetric around zero where some values are negative."""
    from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

    sizes = np.abs(values[values != 0])  # zero has no place on a logarithmic axis
    if not len(sizes):
        return
    negative = bool((values < 0).any())
    # Where a symmetric axis changes from linear to logarithmic: the decade of a typical loss.
    smallest = 10 ** np.floor(np.log10(np.median(sizes))) if negative else sizes.min()
    ratio = sizes.max() / smallest
    factors = (1.0,) if ratio > MANY_TICKS_RATIO else (1.0, 2.0, 5.0)
    locator: Locator
    if negative:
        axes.set_yscale("symlog", linthresh=smallest)
        locator = SymmetricalLogLocator(linthresh=smallest, base=10, subs=factors)
    else:
        axes.set_yscale("log", nonpositive="clip")
        # Within less than a decade a logarithmic locator may find no tick at all.
        locator = LogLocator(subs=factors) if ratio > 5 else MaxNLocator(5, steps=[1, 2, 5, 10])
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())  # the default minor ticks have labels that overlap
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _new_figure(title: str, heights: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """Make panels over one shared axis of images seen, with room for the legend below the title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4 if len(heights) == 1 else 5.6), dpi=160, facecolor="white")
    # The constrained layout keeps titles and labels apart whatever their lengths.
    figure.set_layout_engine("constrained", w_pad=0.14, h_pad=0.1)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0].tolist()
    panels[0].set_title(title, loc="left")
    return figure, panels


def _style_axes(axes: Axes, label_size: float, **ticks: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(AXIS_GREY)
    axes.grid(axis="y", color=GRID_GREY, linewidth=0.8)
    axes.tick_params(colors=TEXT_GREY, labelsize=label_size, length=0, **ticks)


def _save_figure(figure: Figure, path: Path) -> None:
    first, last = figure.axes[0], figure.axes[-1]
    for axes in figure.axes:
        _style_axes(axes, 10.5, which="both", pad=5)
        axes.spines["bottom"].set_visible(axes is last)  # the panels share one axis of images seen
        axes.set_axisbelow(True)
        axes.yaxis.label.set(color=TEXT_GREY, fontsize=11)
    _, labels = first.get_legend_handles_labels()
    columns = 3 if len(labels) <= 3 and sum(map(len, labels)) <= MAX_LEGEND_LINE else 2
    lines = -(-len(labels) // columns)
    first.set_title(first.get_title(loc="left"), loc="left", pad=14 + 16 * lines, **TITLE_STYLE)  # above the legend
    legend = first.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.03),
        ncols=columns,
        frameon=False,
        fontsize=10.5,
        labelcolor=TEXT_GREY,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.6,
    )
    legend.set_in_layout(False)  # its width must not make the axes narrower; the title holds its height free
    last.margins(x=0.01)
    last.set_xlim(left=0)
    last.xaxis.set_major_formatter("{x:,g}")
    last.set_xlabel("thousands of images seen", color=TEXT_GREY, fontsize=11)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"zoo": "grid"})
