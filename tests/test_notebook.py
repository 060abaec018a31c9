"""Notebooks: training shows grids and curves in place, runs are tables, and examples/ runs as it is."""

import contextlib
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.report.notebook import curves_html, is_notebook
from zoo.training.notebook import NotebookDisplay, choose_display
from zoo.training.run_folder import Run

EXAMPLES = Path(zoo.__file__).parents[1] / "examples"


class FakeIPython(types.ModuleType):
    """What a notebook shows: one entry of HTML or an image per place."""

    def __init__(self):
        super().__init__("IPython")
        self.version_info = (9, 0)  # which matplotlib reads
        self.shown, self.updates = [], 0
        self.display_module = types.ModuleType("IPython.display")
        self.display_module.HTML = lambda text: text
        self.display_module.display = self.show

    def get_ipython(self):
        return types.SimpleNamespace(kernel=True)

    def show(self, content, display_id=None):
        self.shown.append(content)
        place = len(self.shown) - 1

        def update(content):
            self.updates += 1
            self.shown[place] = content

        return types.SimpleNamespace(update=update) if display_id else None


@pytest.fixture
def notebook(monkeypatch):
    fake = FakeIPython()
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display_module)
    return fake


def test_training_shows_bar_grid_and_curves_in_place(notebook, tmp_path, capsys):
    small = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
    options = {"set": [*small, "train.sample_kimg=0.016", "train.log_kimg=0.008"], "device": "cpu"}
    run = zoo.train("dcgan-64", data="phantoms:4", out=tmp_path, kimg=0.048, **options)
    bars = [text for text in notebook.shown if "<progress" in text]
    looks = [text for text in notebook.shown if "data:image/png" in text]
    assert len(looks) == 1, "grids replace each other"
    assert notebook.updates >= 4
    assert f"training {run.name}" in bars[-1]
    assert "48 of 48" in bars[-1]
    assert "generated images after 0.048 kimg" in looks[0]
    assert looks[0].count("<polyline") >= 2
    assert capsys.readouterr().err == ""


def test_outside_of_a_notebook_nothing_changes(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not is_notebook()
    assert type(choose_display()) is Display
    # IPython in a terminal has no kernel.
    terminal = FakeIPython()
    terminal.get_ipython = lambda: types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert not is_notebook()


def test_a_notebook_has_its_own_display(notebook):
    assert isinstance(choose_display(), NotebookDisplay)


def test_show_makes_a_grid(notebook, monkeypatch):
    images = torch.arange(4 * 32 * 32).reshape(4, 1, 32, 32).remainder(256).to(torch.uint8)
    assert zoo.show(images) is None
    assert notebook.shown[0].size == (2 + 2 * 98, 2 + 2 * 98)
    monkeypatch.delitem(sys.modules, "IPython")
    grid = zoo.show(images[0].numpy())
    assert isinstance(grid, Image.Image)
    assert np.asarray(grid)[2, 2:98:3].tolist() == list(range(32))


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 8, 8), np.zeros((8, 8), np.uint8), torch.zeros(0, 1, 8, 8), "x", None]
)
def test_show_refuses_what_is_no_image(images):
    with pytest.raises(ZooError, match=r"show: .*generator\.sample\(\)") as error:
        zoo.show(images)
    assert "\n" not in str(error.value)


def test_a_run_is_a_table_with_its_grid(runs, tmp_path):
    text = Run(runs / "dcgan-64-000")._repr_html_()
    for part in ("Run dcgan-64-000", "finished, 0.032 of 0.032 kimg", "phantoms", "loss of D", "data:image/png"):
        assert part in text, part
    hostile = tmp_path / "<b>run-000"
    hostile.mkdir()
    text = Run(hostile)._repr_html_()  # neither a log nor run.json
    assert "<b>" not in text
    assert "&lt;b&gt;run" in text


def test_curves_scale_to_their_range():
    rows = [{"nimg": 0, "loss_d": 1.0, "loss_g": 3.0}, {"nimg": 2000, "loss_d": 2.0, "loss_g": None}]
    text = curves_html(rows, {"loss_d": "D", "loss_g": "G", "ssim": "S"})
    # One curve: the other has a single point. From the lower left to the upper right corner.
    assert re.findall(r'points="(.*?)"', text) == ["6.0,174.0 414.0,6.0"]
    assert "1 to 2, over 0 to 2 kimg" in text
    assert curves_html(rows[:1], {"loss_d": "D"}) == ""


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_the_examples_run(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks; `make test` installs it")
    pytest.importorskip("ipykernel", reason="the kernel of notebooks; `make test` installs it")
    pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
    import nbformat

    book = nbformat.read(path, as_version=4)
    book.cells[1].source, count = re.subn(r"KIMG = \d+", "KIMG = 0.6", book.cells[1].source)
    assert count == 1
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    with contextlib.chdir(tmp_path):
        nbclient.NotebookClient(book, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    html = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert sum("<progress" in text for text in html) >= 1
    assert (
        sum(re.search(r"generated images after 0\.6\d* kimg", text) is not None for text in html) == 1
    )  # whole batches
    assert (tmp_path / "explorer.html").stat().st_size < 20e6
    assert (tmp_path / "generator.onnx").is_file()
