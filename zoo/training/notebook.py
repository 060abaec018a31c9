"""Training in a notebook: a live bar, the newest grid and the curves in one place below the cell; runs as tables."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from zoo.core.console import Display, format_training_row
from zoo.core.errors import ZooError
from zoo.report.image_grid import make_grid, open_grid
from zoo.report.notebook import curves_html, image_html, is_notebook, load_display, table_html
from zoo.training.run_folder import Run

LOOK_IMAGES = 16  # of a grid of training that a cell shows
GRID_PIXELS = 420  # width of grids
_BAR_PERIOD_S = 0.5  # between updates
_LOSSES = {"loss_d": "loss of D", "loss_g": "loss of G"}
_LIKENESS = {"ssim_nearest": "SSIM nearest", "ssim_pairwise": "SSIM pairwise"}


def choose_display() -> Display:
    """Return the display of a notebook in one, else that of a terminal."""
    return NotebookDisplay() if is_notebook() else Display()


class NotebookDisplay(Display):
    """Shows progress below the cell of a notebook; also a callback of training, from which it has grids and rows."""

    def __init__(self) -> None:
        super().__init__()
        self._task, self._total, self._done, self._line = "", 0, 0, ""
        self._rows: list[dict[str, Any]] = []
        self._places: dict[str, Any] = {}  # display handles: what they show is replaced

    def start(self, task: str, total: int) -> None:
        """Start a bar called ``task`` of ``total`` steps, below those that ended."""
        self.stop()
        self._task, self._total, self._done, self._line = task, total, 0, ""
        self._show_bar()

    def advance(self, n: int) -> None:
        """Count ``n`` more steps as done."""
        self._done += n
        if self.due():
            self._show_bar()

    def moved(self, nimg: int, row: dict[str, Any]) -> None:
        """Show that training has seen ``nimg`` images; ``row`` holds mean losses, with the keys of the log."""
        self._done, self._line = nimg, format_training_row(row)
        self._show_bar()

    def due(self) -> bool:
        """Return whether the bar was last updated a while ago."""
        if time.monotonic() - self._last_update < _BAR_PERIOD_S:
            return False
        self._last_update = time.monotonic()
        return True

    def stop(self) -> None:
        """End the bar, if there is one; it stays in the notebook."""
        if self._task:
            self._show_bar()
        self._task = ""
        self._places.pop("bar", None)

    def say(self, message: str) -> None:
        """Print one line of information."""
        print(message)

    def warn(self, message: str) -> None:
        """Print one line about a problem that does not stop the work."""
        print(f"warning: {message}")

    def on_log(self, row: dict[str, Any]) -> None:
        """Keep a row of the log for the curves."""
        self._rows.append(row)

    def on_images(self, nimg: int, images: Tensor) -> None:
        """Show a new grid and the curves so far."""
        text = f"generated images after {nimg / 1000:g} kimg"
        grid = image_html(make_grid(images[:LOOK_IMAGES]), text, GRID_PIXELS)
        curves = Markup("").join(curves_html(self._rows, names) for names in (_LOSSES, _LIKENESS))
        box = (
            '<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">'
            "<div>{}<div>{}</div></div><div>{}</div></div>"
        )
        self._show("look", Markup(box).format(Markup(grid), text, curves))

    def _show_bar(self) -> None:
        share = min(self._done / self._total, 1) if self._total else 1
        bar = (
            '<div style="max-width:860px"><div>{} <progress value="{:.4f}" max="1" style="width:40%;vertical-align:'
            'middle"></progress> {:,} of {:,}</div><code>{}</code></div>'
        )
        self._show("bar", Markup(bar).format(self._task, share, self._done, self._total, self._line))

    def _show(self, place: str, html: str) -> None:
        """Show HTML in its place, instead of what was there."""
        ipython = load_display()
        if place in self._places:
            self._places[place].update(ipython.HTML(html))
        else:
            self._places[place] = ipython.display(ipython.HTML(html), display_id=True)


def run_html(run: Run) -> str:
    """Return a run as a small HTML table with its newest grid; what cannot be read is left out."""
    items: list[tuple[str, str]] = [("folder", str(run.path))]
    with contextlib.suppress(ZooError):
        info = run.info
        length = f"{info['nimg'] / 1000:g} of {info['kimg']:g} kimg"
        items += [("status", f"{info['status']}, {length}"), ("data", info["data_description"])]
        if info.get("best"):
            items.append(("best", f"{info['best']['metric']} {info['best']['value']:.3g}"))
    with contextlib.suppress(OSError):
        rows = run.rows()
        for key, title in {**_LOSSES, **_LIKENESS}.items():
            values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
            if values:
                items.append((title, f"{values[-1]:.3f}"))
    table = table_html(items, f"Run {run.name}")
    grid = _newest_grid(run)
    return Markup('<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">{}{}</div>').format(
        table, Markup(image_html(grid, "generated images", GRID_PIXELS)) if grid is not None else ""
    )


def _newest_grid(run: Run) -> Image.Image | None:
    grids: list[Path] = run.grids()
    for path in reversed(grids):
        with contextlib.suppress(OSError, ValueError):
            return open_grid(path)
    return None
