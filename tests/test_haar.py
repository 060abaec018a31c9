"""Haar-space networks: the basis, the transform, and what the generator starts from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zoo.core.config import ImageSpec
from zoo.models.fastgan import FastGANGenerator, FastGANGeneratorConfig
from zoo.models.haar import (
    HaarDiscriminator,
    HaarDiscriminatorConfig,
    HaarGenerator,
    HaarGeneratorConfig,
    HaarTransform,
    haar_basis,
)
from zoo.models.layers import clip_output


def generator(resolution: int = 32, channels: int = 1, **config: float) -> HaarGenerator:
    torch.manual_seed(0)
    image = ImageSpec(resolution=resolution, channels=channels)
    return HaarGenerator(HaarGeneratorConfig(latent=8, base=2, **config), image)  # type: ignore[arg-type]


def discriminator(resolution: int = 32, **config: object) -> HaarDiscriminator:
    torch.manual_seed(0)
    options = {"channels": (16, 16), **config}
    return HaarDiscriminator(HaarDiscriminatorConfig(**options), ImageSpec(resolution=resolution, channels=1))  # type: ignore[arg-type]


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


@pytest.mark.parametrize("channels", [1, 3])
def test_generator_starts_as_an_enlarged_fastgan(channels: int) -> None:
    """Weights of a FastGAN generator of the small images fit by name and shape."""
    small = ImageSpec(resolution=8, channels=channels)
    torch.manual_seed(1)
    source = FastGANGenerator(FastGANGeneratorConfig(latent=8, base=2), small).eval()
    G = generator(32, channels).eval()
    missing, unexpected = G.load_state_dict(source.state_dict(), strict=False)
    assert not unexpected
    assert {name.partition(".")[0] for name in missing} == {"details", "to_details", "haar"}
    z = torch.randn(2, 8)
    expected = clip_output(F.interpolate(source.body(z), scale_factor=4, mode="bilinear"))
    torch.testing.assert_close(G(z), expected)


@pytest.mark.parametrize(("patch", "resolution"), [(2, 16), (4, 32), (8, 64)])
def test_details_reach_every_pixel(patch: int, resolution: int) -> None:
    G = generator(resolution, patch=patch, detail=64).eval()
    z = torch.randn(1, 8)
    before = G(z)
    torch.nn.init.normal_(G.to_details.weight)
    changed = (G(z) != before).float().mean()
    assert before.shape == (1, 1, resolution, resolution)
    assert changed > 0.9


def test_patches_are_shifted_in_training_only() -> None:
    D = discriminator()
    for layer in D.modules():
        for parameter in layer.parameters(recurse=False):
            torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(4, 1, 32, 32)
    assert len({D(x).sum().item() for _ in range(20)}) > 4
    D.eval()
    assert torch.equal(D(x), D(x))
    still = discriminator(shift=False)
    assert torch.equal(still(x), still(x))


def test_logits_see_the_variety_of_a_batch() -> None:
    D = discriminator(shift=False)
    x = torch.randn(1, 1, 32, 32).expand(4, 1, 32, 32)
    other = torch.cat([x[:1], torch.randn(3, 1, 32, 32)])
    assert not torch.allclose(D(x)[0], D(other)[0])


@pytest.mark.parametrize("side", ["generator", "discriminator"])
@pytest.mark.parametrize(
    ("resolution", "patch", "message"),
    [
        (28, 4, "supports powers of two from 32 .*not 28"),
        (16, 4, "supports powers of two from 32 .*not 16"),
        (32, 3, "patch: must be 2, 4 or a higher power of two, not 3"),
        (32, 1, "patch: must be 2, 4 or a higher power of two, not 1"),
    ],
)
def test_unsupported_sizes_are_refused_in_one_line(side: str, resolution: int, patch: int, message: str) -> None:
    build = generator if side == "generator" else discriminator
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}"):
        build(resolution, patch=patch)  # type: ignore[operator]


def test_discriminator_names_its_stages() -> None:
    with pytest.raises(ValueError, match="supports up to 32 pixels, not 64"):
        discriminator(64)


def test_a_frozen_body_keeps_its_weights() -> None:
    G = generator(frozen_body=True)  # type: ignore[arg-type]
    G(torch.randn(2, 8)).mean().backward()
    trained = {name.partition(".")[0] for name, parameter in G.named_parameters() if parameter.grad is not None}
    assert trained == {"details", "to_details"}


def test_constant_maps_have_details_without_a_grid_of_patches() -> None:
    G = generator(64, detail=8).eval()
    torch.nn.init.normal_(G.to_details.weight)
    maps = torch.randn(1, G.body.to_image.in_channels, 1, 1).expand(-1, -1, 16, 16)
    inside = G.haar.join(G.to_details(G.details(maps)))[..., 16:-16, 16:-16]  # away from the padding
    assert inside.std() > 0
    torch.testing.assert_close(inside, inside.roll(2, 2))  # of pairs of pixels at most
    torch.testing.assert_close(inside, inside.roll(2, 3))
