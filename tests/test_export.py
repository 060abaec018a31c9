"""`zoo export`: the file makes the images that torch makes, for every architecture, or nothing is written."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.hub import export as export_module
from zoo.hub.load import LoadedGenerator
from zoo.models.registry import list_architectures
from zoo.recipes import build_generator, load_recipe
from zoo.runtime import rng
from zoo.training.generator_file import save_generator

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
pytest.importorskip("onnx", reason="the extra [export] is not installed")

# Architecture, smallest recipe, overrides: tiny networks of every generator, two of them with classes.
TINY = {
    "dcgan": ("dcgan-64", ["generator.width=0.1", "data.resolution=16"]),
    "dcgan_dense": ("dcgan-256", ["generator.width=0.1"]),
    "fastgan": ("fastgan-64", ["generator.width=0.1"]),
    "lean": ("lean-256", ["generator.width=0.1"]),
    "multires": ("multires-28", ["generator.width=0.1"]),
    "r3gan": ("r3gan-64", ["generator.width=0.2", "data.resolution=16"]),
    "r3gan with classes": (
        "r3gan-64",
        ["generator.width=0.2", "data.resolution=16", "data.labels=folder", "data.classes={a: 0.5, b: 0.3, c: 0.2}"],
    ),
    "r3gan of few latents": ("r3gan-64", ["generator.width=0.2", "data.resolution=16", "generator.latent=10"]),
    "upscale": ("upscale-128", ["generator.width=0.1"]),
    "stylegan": ("stylegan-256", ["generator.width=0.1", "data.resolution=16"]),
    "stylegan2": ("stylegan2-64", ["generator.width=0.1", "data.resolution=16"]),
    "stylegan2 with classes": (
        "stylegan2-64",
        ["generator.width=0.1", "data.resolution=16", "data.labels=folder", "data.classes={a: 0.6, b: 0.4}"],
    ),
}


def make_generator(name):
    recipe = load_recipe(*TINY[name])
    torch.manual_seed(0)
    generator = build_generator(recipe).eval()
    for key, parameter in generator.named_parameters():
        if key.endswith("strength"):  # of the noise, 0 in a new network
            nn.init.constant_(parameter, 0.5)
    return LoadedGenerator(generator, recipe, 7)


def noise_of_sample(generator, shapes, seed, n):
    """The noise that ``sample`` draws for the first ``n`` images, as the input of the file."""
    with rng.fork_rng(torch.device("cpu")):
        torch.manual_seed(rng.derive_seed(seed, "noise", 0))
        return torch.cat([torch.randn(16, *shape)[:n].flatten(1) for shape in shapes], 1).numpy()


def run_file(path, generator, seed, n):
    """Images (n, C, H, W) as uint8, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    inputs = {"z": generator.latents(n, seed).numpy()}
    if "label" in names:
        inputs["label"] = generator.labels(None, n, seed).numpy()
    if "noise" in names:
        sides = {"stylegan": [16], "stylegan2": [4, 8, 8, 16, 16]}[generator.recipe.generator.arch]
        inputs["noise"] = noise_of_sample(generator, [(1, side, side) for side in sides], seed, n)
    assert set(inputs) == set(names)
    (images,) = session.run(["images"], inputs)
    return np.clip(np.round((images.clip(-1, 1) + 1) * 127.5), 0, 255)


def test_the_table_has_every_generator():
    made = {make_generator(name).recipe.generator.arch for name in TINY}
    assert made >= {arch for arch in list_architectures() if arch != "projected"}  # whose G is FastGAN's


@pytest.mark.parametrize("name", TINY)
def test_the_file_makes_the_images_of_sample(name, tmp_path):
    generator = make_generator(name)
    for fp16, limit in ((False, 0.01), (True, 0.5)):
        result = zoo.export(generator, tmp_path / "g.onnx", fp16=fp16)
        assert result.parity.mean_difference < limit
        assert result.size == (tmp_path / "g.onnx").stat().st_size
        for n in (1, 5):  # the batch is dynamic
            images = run_file(tmp_path / "g.onnx", generator, seed=3, n=n)
            difference = np.abs(images - generator.sample(n, seed=3).numpy().astype(float))
            assert difference.mean() < limit + 0.1  # rounding to uint8 may differ in single pixels
    assert not generator.generator.training


def test_half_weights_halve_the_file(tmp_path):
    recipe = load_recipe("multires-28")
    generator = LoadedGenerator(build_generator(recipe).eval(), recipe, 0)
    sizes = [zoo.export(generator, tmp_path / "g.onnx", fp16=fp16).size for fp16 in (False, True)]
    assert 0.49 < sizes[1] / sizes[0] < 0.52


def test_the_command_prints_the_parity(runs, tmp_path, capsys):
    out = tmp_path / "g.onnx"
    assert main(["export", str(runs / "dcgan-64-000"), "--to", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["size"] == out.stat().st_size
    assert 0 <= document["parity"]["mean_difference"] <= document["parity"]["max_difference"] < 0.1
    assert document["inputs"] == {"z": [zoo.load_generator(runs / "dcgan-64-000").latent.dim]}
    assert main(["export", str(runs / "dcgan-64-000"), "--to", str(out)]) == 0
    captured = capsys.readouterr()
    assert "difference from torch in 4 images: mean " in captured.out
    assert captured.err == ""  # the exporter is silent


class Different(nn.Module):
    """Draws numbers that are no inputs, so that the file cannot make torch's images."""

    def forward(self, x):
        return x + torch.rand(x.shape)


class Fixed(nn.Module):
    """Works for the batch size of tracing alone."""

    def forward(self, x):
        return x + torch.ones(len(x), 1, 1, 1)


class Inexpressible(nn.Module):
    def forward(self, x):
        return torch.fft.fft(torch.linalg.svd(x)[1]).real


WRONG = {
    "suffix": (None, "g.onx", "Change the suffix"),
    "package": (None, "g.onnx", "pip install 'gan-zoo[export]'"),
    "different images": (Different(), "g.onnx", "grey levels, more than 1 on average"),
    "fixed batch": (Fixed(), "g.onnx", "another batch size"),
    "operation": (Inexpressible(), "g.onnx", "ONNX cannot express"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_exported_leaves_the_old_file(name, tmp_path, monkeypatch):
    layer, file, message = WRONG[name]
    generator = make_generator("dcgan")
    if layer is not None:
        generator.generator.layers = nn.Sequential(generator.generator.layers, layer)
    if name == "package":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / file
    path.write_text("old")
    with pytest.raises(ZooError, match=message.replace("[", r"\[")) as error:
        zoo.export(generator, path)
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_large_difference_counts_on_average(monkeypatch, tmp_path):
    monkeypatch.setattr(export_module, "MAX_MEAN_DIFFERENCE", 0.0)
    save_generator(
        tmp_path / "g.safetensors", make_generator("r3gan").generator, recipe=load_recipe(*TINY["r3gan"]), nimg=1
    )
    assert main(["export", str(tmp_path / "g.safetensors"), "--to", str(tmp_path / "g.onnx")]) == 2
    assert not (tmp_path / "g.onnx").exists()
