"""Loading and sampling generators: the same images for the same seed, and files of images."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.core.errors import ZooError
from zoo.hub import save_images

TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8", "train.kimg=0.008"]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    zoo.train("dcgan-64", data="phantoms:2", out=out, device="cpu", set=TINY)
    zoo.train("stylegan-256", data="phantoms:2", out=out, device="cpu", set=[*TINY, "generator.width=0.05"])
    return out


@pytest.fixture(scope="module")
def plain(two_runs):
    return zoo.load_generator(two_runs / "dcgan-64-000")


@pytest.fixture(scope="module")
def styled(two_runs):
    return zoo.load_generator("stylegan-256", runs=two_runs)


def test_load_by_run_file_and_name(two_runs, plain):
    for source in (two_runs / "dcgan-64-000" / "generator.safetensors", "dcgan-64", "dcgan-64-000"):
        other = zoo.load_generator(source, runs=two_runs)
        assert torch.equal(other.sample(3), plain.sample(3))
    assert plain.latent.dim == 100
    assert (plain.image.resolution, plain.image.channels) == (16, 1)
    assert plain.recipe.name == "dcgan-64"
    assert plain.nimg == 8
    assert not plain.training
    assert not any(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize("which", ["plain", "styled"])
def test_same_seed_gives_same_images_for_any_number(which, request):
    generator = request.getfixturevalue(which)
    images = generator.sample(20, seed=3)
    assert images.shape == (20, 1, 16, 16)
    assert images.dtype == torch.uint8
    torch.manual_seed(99)
    assert torch.equal(generator.sample(20, seed=3), images)
    assert torch.equal(generator.sample(5, seed=3), images[:5])
    assert not torch.equal(generator.sample(20, seed=4), images)


def test_sampling_keeps_the_random_state_of_torch(styled):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    styled.sample(2)
    assert torch.equal(torch.rand(1), expected)


def test_forward_is_differentiable_and_unclamped(plain):
    z = plain.latents(2).requires_grad_()
    plain(z).sum().backward()
    assert z.grad.abs().sum() > 0


def test_truncation_and_mixing_of_styles(styled, plain):
    assert styled.has_styles
    assert not plain.has_styles
    assert torch.equal(styled.sample(4, truncation=1.0), styled.sample(4))
    mean = styled.generator.mapping(torch.randn(10_000, 256)).mean(0)
    w = styled.generator.mapping(styled.latents(50))
    from zoo.models.sampling import truncate_styles

    half = truncate_styles(styled.generator, w, 0.5)
    torch.testing.assert_close((half - mean).norm(dim=1), (w - mean).norm(dim=1) / 2, rtol=0.1, atol=0.02)
    table = styled.mix(2, 3)
    assert table.shape == (12, 1, 16, 16)
    assert (table[0] == 0).all()
    assert torch.equal(table, styled.mix(2, 3))
    for call in (lambda: plain.sample(1, truncation=0.5), lambda: plain.mix(2, 2)):
        with pytest.raises(ZooError, match="has no styles"):
            call()


def test_save_images(plain, tmp_path):
    images = plain.sample(10)
    save_images.save_images(images, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        assert np.array_equal(file["images"], images.numpy())
    save_images.save_images(images, tmp_path / "folder", metadata={"seed": 0})
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == [f"{i}.png" for i in range(10)]
    with Image.open(tmp_path / "folder" / "7.png") as image:
        assert np.array_equal(np.asarray(image), images[7, 0].numpy())
    save_images.save_images(images, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.width > 4 * 96
    with pytest.raises(ZooError, match=r"Use \.png \(one grid\), \.npz"):
        save_images.save_images(images, tmp_path / "x.jpg")


def test_save_walk_as_closed_animation(plain, tmp_path):
    assert save_images.save_walk(plain, tmp_path / "walk.gif", walks=2, points=3, frames=4) == 12
    with Image.open(tmp_path / "walk.gif") as animation:
        assert animation.n_frames > 2
    with pytest.raises(ZooError, match=r"written as \.gif"):
        save_images.save_walk(plain, tmp_path / "walk.mp4")


def test_names_may_have_dots(tmp_path, two_runs):
    (run,) = (path for path in two_runs.glob("*") if path.name.startswith("stylegan"))
    shutil.copytree(run, tmp_path / "mine.v2-000")
    for name in ("mine.v2", "mine.v2-000"):
        assert zoo.load_generator(name, runs=tmp_path).nimg == zoo.load_generator(run).nimg
    with pytest.raises(ZooError, match=r"did you mean 'mine\.v2-000'"):
        zoo.load_generator("mine.v3-000", runs=tmp_path)


def test_missing_generators_are_reported(tmp_path, two_runs):
    with pytest.raises(ZooError, match=r"No trained weights for 'lean-256'.*`zoo train lean-256`"):
        zoo.load_generator("lean-256", runs=two_runs)
    with pytest.raises(ZooError, match="did you mean 'dcgan-64'"):
        zoo.load_generator("dcgan-65", runs=two_runs)
    with pytest.raises(ZooError, match="no run or file"):
        zoo.load_generator(tmp_path / "x.safetensors")
    with pytest.raises(ZooError, match="is not a run"):
        zoo.load_generator(tmp_path)
