"""Networks that enlarge small images, and the penalty that teaches them from real ones."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.core.config import ImageSpec
from zoo.core.errors import ZooError
from zoo.data.resize import resize_image
from zoo.hub import pretrained
from zoo.losses.restoration import degrade, restoration, shrink_images
from zoo.losses.step_outputs import StepOutputs
from zoo.models.fastgan import FastGANGenerator, FastGANGeneratorConfig
from zoo.models.haar_transform import HaarTransform, haar_basis
from zoo.models.layers import clip_output
from zoo.models.upscale import (
    UpscaleDiscriminator,
    UpscaleDiscriminatorConfig,
    UpscaleGenerator,
    UpscaleGeneratorConfig,
)
from zoo.recipes import build_generator, load_recipe
from zoo.training.generator_file import save_generator


def generator(resolution: int = 32, channels: int = 1, **config: object) -> UpscaleGenerator:
    torch.manual_seed(0)
    options = {"latent": 8, "base": 2, "channels": 8, "blocks": 2, **config}
    image = ImageSpec(resolution=resolution, channels=channels)
    return UpscaleGenerator(UpscaleGeneratorConfig(**options), image)  # type: ignore[arg-type]


def discriminator(resolution: int = 32, **config: object) -> UpscaleDiscriminator:
    torch.manual_seed(0)
    options = {"channels": 8, **config}
    return UpscaleDiscriminator(UpscaleDiscriminatorConfig(**options), ImageSpec(resolution=resolution, channels=1))  # type: ignore[arg-type]


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_basis_is_orthonormal(patch: int) -> None:
    basis = haar_basis(patch)
    assert basis.shape == (patch**2, patch**2)
    torch.testing.assert_close(basis @ basis.T, torch.eye(patch**2))


def test_basis_of_two_pixels_by_hand() -> None:
    expected = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    torch.testing.assert_close(haar_basis(2), expected)


def test_four_pixels_are_two_levels() -> None:
    """The mean and coarse details of 4 x 4 pixels are those of the sums of 2 x 2 pixels; fine ones those of 2 x 2."""
    torch.manual_seed(0)
    x = torch.randn(4, 4)
    coefficients = haar_basis(4) @ x.flatten()
    sums = F.avg_pool2d(x[None, None], 2) * 2  # orthonormal: the sum over 2
    torch.testing.assert_close(coefficients[:4], haar_basis(2) @ sums.flatten())
    corner = haar_basis(2) @ x[2:, :2].flatten()
    torch.testing.assert_close(coefficients[10:13], corner[1:])


@pytest.mark.parametrize(("patch", "channels"), [(2, 1), (4, 3)])
def test_transform_is_inverted(patch: int, channels: int) -> None:
    torch.manual_seed(0)
    x, transform = torch.randn(2, channels, 16, 16), HaarTransform(patch, 3.0)
    coefficients = transform.split(x)
    assert coefficients.shape == (2, channels * patch**2, 16 // patch, 16 // patch)
    torch.testing.assert_close(transform.join(coefficients), x)
    torch.testing.assert_close(coefficients[:, :: patch**2], F.avg_pool2d(x, patch))  # means in the range of pixels


def test_details_are_scaled_by_the_gain() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    plain, amplified = HaarTransform(4, 1.0).split(x), HaarTransform(4, 5.0).split(x)
    torch.testing.assert_close(amplified[:, :1], plain[:, :1])
    torch.testing.assert_close(amplified[:, 1:], 5 * plain[:, 1:])


def test_details_of_a_falling_spectrum_have_one_size() -> None:
    """Images whose amplitudes fall as 1 / frequency: no band of details is twice as large as another."""
    torch.manual_seed(0)
    frequency = torch.fft.fftfreq(64)
    radius = torch.hypot(frequency[:, None], frequency).clamp(min=1 / 64)
    x = torch.fft.ifft2(torch.fft.fft2(torch.randn(64, 1, 64, 64)) / radius).real
    sizes = HaarTransform(4, 1.0).split(x)[:, 1:].std((0, 2, 3))
    assert sizes.max() < 2 * sizes.min()


@pytest.mark.parametrize(("factor", "channels"), [(2, 1), (4, 3)])
def test_generator_starts_as_an_enlarged_fastgan(factor: int, channels: int) -> None:
    """Weights of a FastGAN generator of the small images fit by name and shape."""
    small = ImageSpec(resolution=8, channels=channels)
    torch.manual_seed(1)
    source = FastGANGenerator(FastGANGeneratorConfig(latent=8, base=2), small).eval()
    G = generator(8 * factor, channels, factor=factor).eval()
    missing, unexpected = G.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected
    assert {name.partition(".")[0] for name in missing} == {"enlarger"}
    z = torch.randn(2, 8)
    expected = clip_output(F.interpolate(clip_output(source.body(z)), scale_factor=factor, mode="bilinear"))
    torch.testing.assert_close(G(z), expected)


@pytest.mark.parametrize(("frozen", "expected"), [(True, {"enlarger"}), (False, {"enlarger", "body"})])
def test_a_frozen_body_keeps_its_weights(frozen: bool, expected: set[str]) -> None:
    G = generator(frozen_body=frozen)
    G(torch.randn(2, 8)).mean().backward()
    trained = {name.partition(".")[0] for name, parameter in G.named_parameters() if parameter.grad is not None}
    assert trained == expected


def test_the_step_is_local() -> None:
    """A pixel of the small image changes its neighbourhood only: shapes are the body's own."""
    G = generator(256)
    for parameter in G.enlarger.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    small = torch.zeros(2, 1, 64, 64)
    small[1, 0, 32, 32] = 1
    before, after = G.enlarge(small)
    changed = (before != after)[0].nonzero()
    assert changed.min() > 256 // 2 - 4 * 16
    assert changed.max() < 256 // 2 + 4 * 16


def test_patches_are_shifted_in_training_only() -> None:
    D = discriminator()
    x = torch.randn(4, 1, 32, 32)
    assert len({D(x).sum().item() for _ in range(20)}) > 4
    D.eval()
    assert torch.equal(D(x), D(x))
    still = discriminator(shift=False)
    assert torch.equal(still(x), still(x))


def test_there_is_one_logit_for_eight_pixels_of_56_around_it() -> None:
    D = discriminator(128).eval()
    assert D(torch.randn(2, 1, 128, 128)).shape == (2, 16 * 16)
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    D(x)[0, 8 * 16 + 8].backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 56


@pytest.mark.parametrize("side", ["generator", "discriminator"])
@pytest.mark.parametrize(
    ("resolution", "factor", "message"),
    [
        (28, 4, "supports powers of two from 32 .*not 28"),
        (16, 4, "supports powers of two from 32 .*not 16"),
        (32, 3, ": must be 2, 4 or a higher power of two, not 3"),
        (32, 1, ": must be 2, 4 or a higher power of two, not 1"),
    ],
)
def test_unsupported_sizes_are_refused_in_one_line(side: str, resolution: int, factor: int, message: str) -> None:
    build = partial(generator, factor=factor) if side == "generator" else partial(discriminator, patch=factor)
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}"):
        build(resolution)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_images_are_made_small_as_the_cache_does(factor: int) -> None:
    """Away from the edge, where the cache's filter has less than all its weights."""
    x = np.random.default_rng(0).uniform(0, 255, (64, 64)).astype(np.float32)
    expected = resize_image(x, resolution=64 // factor, channels=1, fit="pad")[None]
    small = shrink_images(torch.from_numpy(x)[None, None], factor).numpy()
    assert np.abs(small - expected)[..., 1:-1, 1:-1].max() <= 0.5001  # the cache rounds


def test_degraded_images_are_blurred_and_noisy_by_random_amounts() -> None:
    torch.manual_seed(0)
    flat, point = torch.zeros(2000, 1, 9, 9), torch.zeros(2000, 1, 9, 9)
    point[:, :, 4, 4] = 1
    noise = degrade(flat).std((1, 2, 3))
    assert 0.45 < (noise == 0).float().mean() < 0.55
    assert 0.03 < noise.max() < 0.07
    blurred = degrade(point)
    torch.testing.assert_close(blurred.sum((1, 2, 3)).mean(), torch.tensor(1.0), atol=0.02, rtol=0)
    weight = torch.exp(torch.tensor(-0.5 / 0.6**2))
    least = (1 / (1 + 2 * weight)) ** 2  # of the centre, at the largest deviation
    assert blurred[:, 0, 4, 4].min() > least - 4 * 0.05
    assert 0.2 < (blurred == point).all((1, 2, 3)).float().mean() < 0.35  # the slightest blur rounds to none


def test_restoration_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without degradation, and with a step that only enlarges: the difference of real images and blurred ones."""
    monkeypatch.setattr("zoo.losses.restoration.degrade", lambda images: images)
    torch.manual_seed(0)
    G, real = generator(32), torch.rand(2, 1, 32, 32)
    step = StepOutputs(real=real, fake=real, real_logits=None, fake_logits=torch.zeros(2), nimg=0, G=G)
    expected = F.interpolate(shrink_images(real, 4), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(restoration(step), (real - expected).abs().mean())


def test_restoration_is_refused_where_nothing_enlarges() -> None:
    with pytest.raises(ZooError, match=r"penalties\.restoration: dcgan has no step that enlarges images"):
        load_recipe("dcgan-64", ["penalties.restoration.weight=1"])


@pytest.mark.slow
def test_training_starts_from_weights_with_a_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = ["train.batch=2", "train.precision=fp32"]
    keywords = {"data": "phantoms:2", "out": tmp_path, "kimg": 0.004}
    with pytest.raises(ZooError, match=r"^train\.init_from: a part of this generator stays as it is"):
        zoo.train("upscale-128", set=small, **keywords)
    with pytest.raises(ZooError, match=r"train\.init_from: brain-65 does not exist, and no pretrained"):
        zoo.train("upscale-128", set=[*small, "train.init_from=brain-65"], **keywords)
    assert not list(tmp_path.iterdir())
    run = zoo.train("upscale-128", set=[*small, "train.init_from=fastgan-r3-64-packed"], **keywords)
    assert "tensors from fastgan-r3-64-packed" in capfd.readouterr().err
    body = zoo.load_generator(run.path).generator.body.start[1].weight
    torch.testing.assert_close(body, zoo.load_generator("fastgan-r3-64-packed").generator.body.start[1].weight)


@pytest.mark.parametrize(
    "change", ["generator.base=11", "generator.latent=255", "data.resolution=32", "data.resolution=128"]
)
def test_a_body_of_another_shape_is_refused(tmp_path: Path, change: str) -> None:
    """It is never trained, so that the tensors that do not fit would stay noise."""
    recipe = load_recipe("fastgan-r3-128", ["generator.base=16", "data.resolution=64", change])
    path = tmp_path / "small.safetensors"
    save_generator(path, build_generator(recipe), recipe=recipe, nimg=8)
    settings = ["train.batch=2", f"train.init_from={path}"]
    keywords = {"data": "phantoms:2", "out": tmp_path / "runs", "kimg": 0.004, "device": "cpu"}
    message = r"^train\.init_from: (no tensor in .* fits|.*small\.safetensors is of another network .*\(.*body\.)"
    with pytest.raises(ZooError, match=message):
        zoo.train("upscale-128", set=settings, **keywords)
    assert not list(tmp_path.glob("runs/*"))


def _run_script(*arguments: str | Path) -> None:
    script = pretrained.ROOT / "benchmarks" / "upscale_weights.py"
    subprocess.run([sys.executable, script, *map(str, arguments)], check=True)


@pytest.mark.slow
def test_another_body_and_a_smaller_step(tmp_path: Path) -> None:
    """The packaged weights of 256 pixels with another body, and a step of factor 2 that learns from them."""
    other, smaller = tmp_path / "other.safetensors", tmp_path / "smaller.safetensors"
    _run_script("body", "brain-256", "--body", "fastgan-r3-64", "--out", other)
    before, after, body = (zoo.load_generator(name, precision="fp32") for name in ("brain-256", other, "fastgan-r3-64"))
    small = body.generator(body.latents(1))
    torch.testing.assert_close(after.generator.body.state_dict(), body.generator.body.state_dict())
    torch.testing.assert_close(after.generator.enlarge(small), before.generator.enlarge(small))
    _run_script("distil", other, "--body", "fastgan-r3-64", "--minutes", "0.05", "--out", smaller)
    student = zoo.load_generator(smaller, precision="fp32").generator
    target = F.avg_pool2d(after.generator.enlarge(small).clamp(-1, 1), 2)
    untrained = F.interpolate(small, scale_factor=2, mode="bilinear")
    assert F.l1_loss(student.enlarge(small), target) < F.l1_loss(untrained, target)
