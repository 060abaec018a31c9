"""Images, tables and curves in the cells of a notebook.

IPython is used where it already runs, and never imported otherwise.
"""

from __future__ import annotations

import base64
import importlib
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.report.image_grid import make_grid
from zoo.report.series import block_medians, read_series

_CURVE_POINTS = 200
_CURVE_WIDTH, _CURVE_HEIGHT, _MARGIN = 420, 180, 6  # pixels
_COLOURS = ("#0b7ab8", "#c9641a", "#1f9a6d", "#a04bc0")  # legible on white and on black


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def show(images: Tensor | np.ndarray, columns: int | None = None) -> Image.Image | None:
    """Show images as a grid: in a notebook below the cell, elsewhere by returning it as a Pillow image.

    Args:
        images: uint8 (N, C, H, W), or one image (C, H, W).
        columns: images per row; default: as close to a square as N allows.

    Raises:
        ZooError: other images.
    """
    try:
        grid = make_grid(images[None] if getattr(images, "ndim", 0) == 3 else images, columns)
    except (ValueError, TypeError, AttributeError) as error:
        raise ZooError(f"show: {error}. generator.sample() and generator.decode() return such images") from None
    if not is_notebook():
        return grid
    load_display().display(grid)
    return None


def load_display() -> Any:
    """Return IPython's functions that display, in a notebook."""
    return importlib.import_module("IPython.display")


def image_html(image: Image.Image, text: str, width: int) -> str:
    """Return an image as HTML with its data inside.

    Args:
        text: what it shows, for those who cannot see it.
        width: in pixels, at most.
    """
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    style = f"width:100%;max-width:{min(width, image.width)}px;height:auto;margin:0"
    return Markup('<img alt="{}" style="{}" src="data:image/png;base64,{}">').format(text, style, data)


def table_html(rows: Iterable[tuple[str, str]], caption: str) -> str:
    """Return a small HTML table of headings and texts."""
    cells = Markup("").join(
        Markup('<tr><th style="text-align:left">{}</th><td style="text-align:left">{}</td></tr>').format(*row)
        for row in rows
    )
    return Markup('<table><caption style="text-align:left;font-weight:bold">{}</caption>{}</table>').format(
        caption, cells
    )


def curves_html(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """Return curves of a run's log over images seen as one SVG, or "" where there are not two points yet.

    Args:
        rows: of the log.
        names: titles by key; keys that no row has are left out.
    """
    curves = {title: block_medians(read_series(rows, key), _CURVE_POINTS) for key, title in names.items()}
    curves = {title: (x, y) for title, (x, y) in curves.items() if len(x) > 1}
    if not curves:
        return ""
    left, right = (f(f(x) for x, _ in curves.values()) for f in (_least, _most))
    low, high = (f(f(y) for _, y in curves.values()) for f in (_least, _most))
    lines, keys = [], []
    for (title, (x, y)), colour in zip(curves.items(), _COLOURS, strict=False):
        across = _MARGIN + (x - left) / max(right - left, 1e-9) * (_CURVE_WIDTH - 2 * _MARGIN)
        down = _MARGIN + (high - y) / max(high - low, 1e-9) * (_CURVE_HEIGHT - 2 * _MARGIN)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
        lines.append(
            Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="1.5"/>').format(points, colour)
        )
        key = '<span style="color:{};margin-right:1em;white-space:nowrap">&#9632; {} {}</span>'
        keys.append(Markup(key).format(colour, title, f"{y[-1]:.3g}"))
    caption = f"{low:.3g} to {high:.3g}, over {left / 1000:.3g} to {right / 1000:.3g} kimg"
    return Markup(
        '<div style="font-size:12px">{}<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{c}"'
        ' style="display:block;max-width:100%;height:auto;border:1px solid #8886">{}</svg>{c}</div>'
    ).format(Markup("").join(keys), Markup("").join(lines), w=_CURVE_WIDTH, h=_CURVE_HEIGHT, c=caption)


def _least(values: Iterable[Any]) -> float:
    return float(min(values))


def _most(values: Iterable[Any]) -> float:
    return float(max(values))
