"""Projection: known latents are found, images are prepared as for training, and files continue where it ended."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.cli.main import main
from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.phantoms import phantom
from zoo.hub.load import LoadedGenerator
from zoo.hub.projection import image_loss, keep_length, load_latents
from zoo.models.base import Generator
from zoo.recipes import build_networks
from zoo.training.generator_file import save_generator

SIDE, DIM = 16, 12
DATA = [f"data.resolution={SIDE}"]
CLASSES = ["data.labels=folder", "data.classes={dark: 0.5, bright: 0.5}"]


class Linear(Generator):
    """Images are sums of smooth, orthogonal ones, so that each image has one latent."""

    def __init__(self, shares=(), noise=0.0):
        super().__init__(NetworkConfig(), ImageSpec(resolution=SIDE, channels=1, shares=shares), LatentSpec(dim=DIM))
        coarse = np.random.default_rng(0).normal(size=(4, 4, DIM))
        basis = np.linalg.qr(np.kron(coarse, np.ones((4, 4, 1))).reshape(SIDE * SIDE, DIM))[0]
        self.basis = nn.Parameter(torch.tensor(1.2 * basis, dtype=torch.float32))
        self.noise = noise

    def forward(self, z, label=None):
        images = (z @ self.basis.T).unflatten(1, (1, SIDE, SIDE))
        if label is not None:
            images = images * 0.3 + (label.view(-1, 1, 1, 1) - 0.5)
        return images + self.noise * torch.randn(images.shape) if self.noise else images


def linear(*, classes=False, noise=0.0):
    recipe = zoo.load_recipe("dcgan-64", [*DATA, *(CLASSES if classes else [])])
    return LoadedGenerator(Linear(recipe.image.shares, noise), recipe, nimg=1)


@pytest.fixture(scope="module")
def noisy_file(tmp_path_factory):
    """A small StyleGAN2, which draws noise."""
    recipe = zoo.load_recipe("stylegan2-64", ["generator.width=0.05", *DATA])
    torch.manual_seed(0)
    generator, _ = build_networks(recipe)
    for name, parameter in generator.named_parameters():
        if name.endswith("strength"):
            nn.init.constant_(parameter, 0.3)
    path = tmp_path_factory.mktemp("noisy") / "g.safetensors"
    save_generator(path, generator, recipe=recipe, nimg=7)
    return path


def test_latents_of_a_linear_generator_are_found():
    generator = linear()
    z = generator.latents(20, seed=5)  # two chunks
    images = generator.decode(z)
    found = generator.project(images, steps=150, candidates=8)
    torch.testing.assert_close(found.latents, z, rtol=0, atol=0.05)  # images have 8 bits
    assert found.ssim.min() > 0.99
    assert torch.equal(found.images, images)
    assert torch.equal(found.reconstructions, generator.decode(found.latents))
    assert len(found) == 20
    # One image has the latents that it has among others.
    alone = generator.project(images[3:4], steps=150, candidates=8)
    torch.testing.assert_close(alone.latents, found.latents[3:4], rtol=0, atol=1e-3)


def test_without_steps_it_is_the_best_candidate():
    generator = linear()
    images = generator.sample(3, seed=5)
    found = generator.project(images, steps=0, candidates=30, seed=2)
    pool = generator.latents(30, seed=2)
    errors = (generator(pool)[None].clamp(-1, 1) - (images.float() / 127.5 - 1)[:, None]).square().sum(dim=(2, 3, 4))
    assert torch.equal(found.latents, pool[errors.argmin(dim=1)])


def test_latents_keep_the_length_of_random_ones():
    z = torch.tensor([[30.0] + [0.0] * 15, [0.1] + [0.0] * 15, [0.0, 4.5] + [0.0] * 14])
    keep_length(z)
    assert z.norm(dim=1).tolist() == pytest.approx([6, 2, 4.5])  # 4 +- 2 of 16 dimensions
    assert z[:, :2].argmax(dim=1).tolist() == [0, 0, 1]
    generator = linear()
    white = torch.full((1, 1, SIDE, SIDE), 255, dtype=torch.uint8)
    assert generator.project(white, steps=60).latents.norm() < math.sqrt(DIM) + 2.001


def test_loss_equals_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 2, 8, 12))
    expected = np.zeros(3)
    for factor in (1, 2, 4):
        means = [a.reshape(3, 2, 8 // factor, factor, 12 // factor, factor).mean(axis=(3, 5)) for a in (x, y)]
        expected += ((means[0] - means[1]) ** 2).mean(axis=(1, 2, 3)) / 3
    np.testing.assert_allclose(image_loss(torch.from_numpy(x), torch.from_numpy(y)), expected, rtol=1e-12)


def test_noise_is_that_of_sampling(noisy_file):
    generator = zoo.load_generator(noisy_file)
    images = generator.sample(18, seed=3)
    before = torch.get_rng_state()
    found, again = (generator.project(images, steps=3, candidates=40, seed=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found.latents, again.latents)
    assert torch.equal(found.reconstructions, generator.decode(found.latents, seed=4))
    # Own latents and own noise: nothing is left to find.
    own = generator.project(images, steps=0, candidates=18, seed=3)
    assert torch.equal(own.latents, generator.latents(18, seed=3))
    assert own.ssim.min() == 1


def test_classes_are_those_of_the_images():
    generator = linear(classes=True)
    labels = torch.tensor([0, 1, 1])
    images = generator.decode(generator.latents(3, seed=9), label=labels)
    found = generator.project(images, steps=5)
    assert torch.equal(found.labels, labels)
    assert [row["class"] for row in found.to_json()["images"]] == [0, 1, 1]
    assert generator.project(images, steps=1, label="bright").labels.tolist() == [1, 1, 1]
    for each in (1 - labels, ["bright", "dark", "dark"], np.array([1, 0, 0])):
        assert generator.project(images, steps=1, label=each).labels.tolist() == [1, 0, 0]
    with pytest.raises(ZooError, match="did you mean 'bright'"):
        generator.project(images, label="brigt")


def test_images_are_prepared_as_for_training(tmp_path):
    """Files of another size, in colour, and arrays of other ranges, against the data pipeline."""
    generator, folder = linear(), tmp_path / "slices"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (40, 30, 3), np.uint8), rng.integers(0, 256, (9, 20, 3), np.uint8)]
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"slice_{index}.png")
    expected = np.array(load_dataset(folder, generator.recipe.data).images)

    def prepared(images):
        return generator.project(images, steps=0, candidates=1).images.numpy()

    np.testing.assert_array_equal(prepared(folder), expected)
    np.testing.assert_array_equal(prepared(sorted(folder.iterdir())), expected)
    np.testing.assert_array_equal(prepared(str(folder / "slice_1.png")), expected[1:])
    levels = expected[:, 0]
    for images in (levels, expected, torch.from_numpy(expected), levels / 255, levels / 127.5 - 1):
        np.testing.assert_array_equal(prepared(images), expected)


def test_commands_write_and_continue(tmp_path, noisy_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for slice_ in (10, 14):
        Image.fromarray(phantom(3, slice_, 32)).save(f"{slice_}.png")
    words = ["project", "10.png", "14.png", "--generator", str(noisy_file), "--steps", "2", "--candidates", "4"]
    words += ["--seed", "6", "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    folder = tmp_path / document.pop("out")
    assert sorted(path.name for path in folder.iterdir()) == ["latents.npz", "projection.json", "projection.png"]
    assert document == json.loads((folder / "projection.json").read_text())
    assert [row["name"] for row in document["images"]] == ["10.png", "14.png"]
    assert document["ssim"] == pytest.approx(np.mean([row["ssim"] for row in document["images"]]))
    latents = load_latents(folder / "latents.npz")
    assert latents.seed == 6
    with Image.open(folder / "projection.png") as picture:
        assert picture.text["steps"] == "2"
        first = np.asarray(picture)[2 : 2 + 96, 2 : 2 + 96][::6, ::6]  # cells of 96 pixels
    generator = zoo.load_generator(noisy_file)
    found = generator.project(["10.png", "14.png"], steps=2, candidates=4, seed=6)
    np.testing.assert_array_equal(first, found.images[0, 0])
    assert main(["sample", str(noisy_file), "--latents", str(folder / "latents.npz"), "--out", "again.npz"]) == 0
    np.testing.assert_array_equal(np.load("again.npz")["images"], found.reconstructions)
    np.save("plain.npy", found.latents.numpy())
    assert main(["sample", str(noisy_file), "--latents", "plain.npy", "--seed", "6", "--out", "plain.npz"]) == 0
    np.testing.assert_array_equal(np.load("plain.npz")["images"], found.reconstructions)


def tear(path):
    """Write a compressed archive with a wrong byte within its first array."""
    np.savez_compressed(path, latents=np.random.default_rng(0).normal(size=(20, 20)))
    content = bytearray(path.read_bytes())
    content[200:204] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["project", "10.pgn"], "there is no '10.pgn' in"),
        (["project", "10.png", "none.png"], "there is no 'none.png' in"),
        (["project", "10.png", "."], "is a set of images. Give it alone, or give image files"),
        (["project", "bad.png"], "bad.png not a PNG"),
        (["project", "10.png", "--steps", "-1"], "number of steps -1: must be a whole number from 0"),
        (["project", "10.png", "--candidates", "0"], "number of candidates 0: must be a whole number from 1"),
        (["project", "10.png", "--class", "x"], "was trained without classes"),
        (["project", "10.png", "--out", "bad.png"], "--out bad.png: is a file. Name a folder"),
        (["sample", "--latents", "bad.png"], "bad.png: is no .npy or .npz file of numbers"),
        (["sample", "--latents", "none.npz"], "none.npz: cannot be read (no such file or directory)"),
        (["sample", "--latents", "ints.npy"], "latents must be floats of shape (N, dim), not int64 (3,)"),
        (["sample", "--latents", "other.npz"], "has no array 'latents', only images"),
        (["sample", "--latents", "wide.npy"], "latents: must be a floating tensor of shape (N, "),
        (["sample", "--latents", "torn.npz"], "torn.npz: is no .npy or .npz file of numbers"),
        (["sample", "--latents", "seeded.npz", "--seed", "5"], "--seed 5: seeded.npz has seed 6; leave it out"),
        (["sample", "--latents", "words.npz"], "labels must be 2 whole numbers, the classes' places, not <U3 (2,)"),
        (["sample", "--latents", "parts.npz"], "labels must be 2 whole numbers, the classes' places, not float64 (2,)"),
        (["sample", "--latents", "one.npz"], "labels must be 2 whole numbers, the classes' places, not int64 (1,)"),
        (["sample", "--latents", "wide.npy", "-n", "3"], "--latents: sets the number of images; leave out -n, --mix"),
    ],
)
def test_bad_input_is_one_line(words, line, tmp_path, noisy_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(phantom(3, 10, 32)).save("10.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    np.save("ints.npy", np.arange(3))
    np.save("wide.npy", np.zeros((2, 3), np.float32))
    np.savez("other.npz", images=np.zeros(3))
    z = np.zeros((2, 3), np.float32)
    np.savez("seeded.npz", latents=z, seed=6)
    for name, labels in (("words", ["abc", "abd"]), ("parts", [0.9, 1.9]), ("one", [1])):
        np.savez(f"{name}.npz", latents=z, labels=labels)
    tear(tmp_path / "torn.npz")
    command, *rest = words
    words = (
        [command, *rest, "--generator", str(noisy_file)] if command == "project" else [command, str(noisy_file), *rest]
    )
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in error
    assert error.startswith("zoo: ")
    assert not list(tmp_path.glob("*projection*"))
