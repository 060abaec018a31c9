"""Weights that load by name: the catalogue says what is wrong with it, and what it ships is what it was."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import recipes
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.hub import pretrained
from zoo.hub.pretrained import PretrainedWeights, load_catalogue
from zoo.metrics.ssim.ssim import ssim
from zoo.report import image_grid
from zoo.training.generator_file import load_generator_file

SHIPPED = [entry for entry in load_catalogue().values() if entry.local is not None]


def holds(entry):
    """What is promised of an entry whose file is here: it is whole, fits, and makes the images it made."""
    path = entry.path()
    loaded, resolved, nimg = load_generator_file(path)
    assert (resolved.digest, nimg) == (entry.recipe_digest, entry.nimg)
    assert (loaded.image.resolution, loaded.image.channels) == (entry.resolution, entry.channels)
    images = zoo.load_generator(path, precision="fp32").sample(16)
    levels = images.double()
    assert float(levels.mean()) == pytest.approx(entry.check.mean, abs=0.5)
    assert float(levels.std()) == pytest.approx(entry.check.std, abs=0.5)
    with Image.open(pretrained.ROOT / entry.check.grid) as picture:
        kept = torch.from_numpy(np.array(picture))
    made = torch.from_numpy(np.array(image_grid.make_grid(images, entry.check.columns)))
    assert kept.shape == made.shape
    kept, made = (x.reshape(1, *x.shape[:2], -1).permute(0, 3, 1, 2) for x in (kept, made))
    assert float(ssim(kept.float(), made.float(), 255)) > 0.98
    assert (pretrained.ROOT / entry.card).is_file()
    assert "memorisation" not in entry.judged.alarms


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_shipped_weights_are_what_they_were(entry):
    holds(entry)


@pytest.fixture
def shelf(tmp_path, published, monkeypatch):
    """A repository with a catalogue of its own, which is the one in use."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "pretrained.yaml").write_text("# What there is.\n{}\n")
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    monkeypatch.setattr(pretrained, "CATALOGUE", tmp_path / "zoo" / "pretrained.yaml")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add(shelf, published, **more):
    return pretrained.add_to_catalogue(published, root=shelf, listed=shelf / "zoo" / "pretrained.yaml", **more)


def test_the_catalogue_that_ships_is_sound():
    for name, entry in load_catalogue().items():
        assert entry.name == name
        assert entry.judged is not None


def test_a_published_folder_becomes_an_entry_that_loads(shelf, published):
    entry = add(shelf, published)
    assert entry.file == "zoo/hub/_weights/tiny.safetensors"
    assert load_catalogue() == {"tiny": entry}
    text = (shelf / "zoo" / "pretrained.yaml").read_text()
    assert text.startswith("# What there is.\ntiny:\n")
    assert "(tiny.png)" in (shelf / "zoo" / "hub" / "_weights" / "tiny.md").read_text()
    assert entry.where == "packaged"
    holds(entry)
    assert zoo.load_generator("tiny").nimg == entry.nimg
    assert add(shelf, published, to=pretrained.IN_REPOSITORY).where == "in the repository"
    assert list(load_catalogue()) == ["tiny"]


def test_a_run_comes_before_what_is_packaged(shelf, published, runs):
    entry = replace(add(shelf, published), name="dcgan-64")
    pretrained.CATALOGUE.write_text(pretrained._to_yaml({"dcgan-64": entry}, ""))
    here = zoo.load_generator("dcgan-64", runs=shelf / "none")
    assert here.recipe.name == "dcgan-64"
    local = zoo.load_generator("dcgan-64", runs=runs)
    assert not torch.equal(next(here.parameters()), next(local.parameters()))  # rounded to fp16, and not


def test_another_file_is_refused(shelf, published):
    entry = add(shelf, published)
    data = bytearray(entry.local.read_bytes())
    data[-1] ^= 1
    entry.local.write_bytes(data)
    with pytest.raises(ZooError, match="is not the file of the catalogue"):
        zoo.load_generator("tiny")
    with pytest.raises(ZooError, match="`zoo publish` did not make it"):
        pretrained.read_published_folder(shelf)


def test_what_has_no_address_says_which_file_goes_where(shelf, published):
    entry = add(shelf, published, to=None)
    assert (entry.local, entry.url) == (None, None)
    assert entry.where == f"to be put into {entry.cached}"
    with pytest.raises(ZooError, match="no public address: put tiny-") as error:
        zoo.load_generator("tiny")
    assert str(entry.cached.parent) in str(error.value)
    entry.cached.parent.mkdir(parents=True)
    shutil.copyfile(published / "tiny.safetensors", entry.cached)
    assert entry.where == "cached"
    assert zoo.load_generator("tiny").recipe.name == "dcgan-64"


def test_offline_says_which_file_goes_where(shelf, published):
    add(shelf, published, to=None, url="hf:owner/models/tiny.safetensors")
    address = "https://huggingface.co/owner/models/resolve/main/tiny.safetensors"
    with pytest.raises(ZooError, match=f"ZOO_OFFLINE is set: put {address} as tiny-"):
        zoo.load_generator("tiny")


def test_by_name_on_the_command_line(shelf, published, capsys):
    assert main(["weights"]) == 0
    assert "no weights come with this version" in capsys.readouterr().out
    add(shelf, published)
    assert main(["weights"]) == 0
    out = capsys.readouterr().out
    assert "tiny" in out
    assert "packaged" in out
    assert main(["weights", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["where"] == "packaged"
    assert row["metrics"]["fid"]["value"] > 0
    assert main(["sample", "tiny", "-n", "4", "--device", "cpu", "--out", "x.npz"]) == 0
    assert np.load("x.npz")["images"].shape == (4, 1, 16, 16)
    assert main(["sample", "tine", "-n", "4"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
    words = ["--data", "phantoms:4", "--spaces", "random", "--metrics", "fid", "--samples", "24", "--device", "cpu"]
    assert main(["report", "tiny", *words]) == 0
    assert (shelf / "tiny-report.html").is_file()
    assert main(["bench", "tiny", *words]) == 0
    assert "| tiny |" in (shelf / "bench" / "table.md").read_text()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sha256": "0"}, "sha256: must be 64 hexadecimal digits"),
        ({"url": "http://example.org/x"}, "url: must be https://"),
        ({"file": "/etc/passwd"}, "must be a path from the repository's root"),
        ({"file": "zoo/../../x"}, "must be a path from the repository's root"),
        ({"sise": 3}, "unknown key \\(did you mean 'size'\\?\\)"),
        ({"nimg": "many"}, "x.nimg: must be a whole number"),
    ],
)
def test_a_slip_in_the_catalogue_is_named(change, why, tmp_path):
    import yaml

    keys = {"sha256": "0" * 64, "size": 1, "recipe": "x", "recipe_digest": "y", "resolution": 8, "nimg": 1}
    keys |= {"data": "", "licence": "", **change}
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump({"x": keys}))
    with pytest.raises(ZooError, match=why):
        load_catalogue(tmp_path / "weights.yaml")


def test_an_entry_survives_the_file(shelf, published):
    entry = pretrained.read_published_folder(published)
    assert isinstance(entry, PretrainedWeights)
    resolved = recipes.load_recipe(published / "recipe.yaml")
    assert resolved.digest == entry.recipe_digest
    (shelf / "card.json").write_text("{")
    with pytest.raises(ZooError, match="is damaged"):
        pretrained.read_published_folder(shelf)
