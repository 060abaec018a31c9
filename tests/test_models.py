"""All architectures at a small size, every recipe's parameter counts, and the style-based generator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.core.config import ImageSpec
from zoo.models import Discriminator, Generator
from zoo.models.base import StyleGenerator
from zoo.models.registry import get_architecture, list_architectures
from zoo.models.stylegan import NoiseInjection, StyleGANGenerator, adain
from zoo.recipes import build_networks, list_models, load_recipe

# Architectures whose generators have a linear output; all others must stay in [-1, 1].
LINEAR = {"lean", "projected", "stylegan2"}

# The smallest resolution at which all kinds of layers are present: skip-layer excitation starts at 64 px.
SMALLEST = {"dcgan": 16, "dcgan_dense": 32, "fastgan": 64, "projected": 64, "upscale": 32}

every_architecture = pytest.mark.parametrize("arch", list_architectures())
SIDES = ("generator", "discriminator")


def build(arch: str, side: str, resolution: int, channels: int = 1, **config: object) -> nn.Module:
    """Build one freshly seeded network of an architecture."""
    torch.manual_seed(0)
    network, kind = (getattr(get_architecture(arch), attribute) for attribute in (side, f"{side}_config"))
    return network(kind(**config), ImageSpec(resolution=resolution, channels=channels))


def build_thin(arch: str, channels: int = 1) -> tuple[Generator, Discriminator]:
    """Build an architecture's networks at its smallest size and an eighth of its width, in training mode."""
    resolution = SMALLEST.get(arch, 16)
    G, D = (build(arch, side, resolution, channels, width=0.125) for side in SIDES)
    assert isinstance(G, Generator)
    assert isinstance(D, Discriminator)
    return G, D


def latents(generator: Generator, count: int = 2) -> Tensor:
    return torch.randn(count, generator.latent.dim)


def random_images(image: ImageSpec, count: int = 2) -> Tensor:
    return 2 * torch.rand(count, image.channels, image.resolution, image.resolution) - 1


def check_gradients(network: nn.Module) -> None:
    """All are finite, and those of weights are no rounding errors; a bias before a norm has none by construction."""
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    weights = {name: g.abs().max().item() for name, g in gradients.items() if not name.endswith("bias")}
    assert min(weights.values()) > 1e-5 * max(weights.values()), min(weights, key=weights.__getitem__)


def fill_zero_weights(network: nn.Module) -> None:
    """Replace weights that start at zero by design: until they move, no gradient reaches the layers before them."""
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def losses(discriminator: Discriminator, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the adversarial loss of real images and the sum of the discriminator's own losses."""
    logits, others = discriminator.judged(x)
    return F.softplus(-logits.float()).mean(), sum(others.values(), torch.zeros(()))


# Every recipe


@pytest.mark.parametrize("name", list_models())
def test_parameter_counts_and_shapes(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.parameters is not None
    G, D = build_networks(recipe, "meta")
    counts = [sum(p.numel() for p in network.parameters() if p.requires_grad) for network in (G, D)]
    assert counts == [recipe.parameters.generator, recipe.parameters.discriminator]
    assert G.image == D.image == recipe.image
    images = G(torch.empty(2, G.latent.dim, device="meta"))
    assert images.shape == (2, recipe.data.channels, recipe.data.resolution, recipe.data.resolution)
    assert D(images).shape[0] == 2 // recipe.discriminator.config.packing


def test_every_architecture_has_a_recipe() -> None:
    assert {load_recipe(name).generator.arch for name in list_models()} == set(list_architectures())


# Every architecture


@every_architecture
@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_logits(arch: str, channels: int) -> None:
    G, D = build_thin(arch, channels)
    with torch.no_grad():
        images = G(latents(G))
        logits = D(images)
        extreme = G(100 * latents(G))
    assert images.shape == (2, channels, G.image.resolution, G.image.resolution)
    assert logits.shape[0] == 2
    assert images.isfinite().all()
    assert extreme.isfinite().all()
    assert logits.isfinite().all()
    assert images.std() > 0.01
    assert not torch.equal(images[0], images[1])
    if arch not in LINEAR:
        assert images.abs().max() <= 1
        assert extreme.abs().max() <= 1


@every_architecture
def test_every_weight_learns(arch: str) -> None:
    G, D = build_thin(arch)
    fill_zero_weights(G)
    fill_zero_weights(D)
    images = G(latents(G))
    (images * torch.randn_like(images)).mean().backward()
    check_gradients(G)
    sum(losses(D, random_images(D.image))).backward()
    check_gradients(D)


@every_architecture
def test_double_backward(arch: str) -> None:
    """R1 (Mescheder et al. 2018, equation 9) trains the discriminator."""
    _, D = build_thin(arch)
    fill_zero_weights(D)
    real = random_images(D.image).requires_grad_()
    (slope,) = torch.autograd.grad(D(real).sum(), real, create_graph=True)
    (slope.square().sum((1, 2, 3)).mean() + losses(D, real)[1]).backward()
    weights = {name: parameter.grad for name, parameter in D.named_parameters() if not name.endswith("bias")}
    assert all(g is not None and g.isfinite().all() and g.any() for g in weights.values())


@every_architecture
def test_bfloat16(arch: str) -> None:
    G, D = build_thin(arch)
    with torch.autocast("cpu", torch.bfloat16):
        images = G(latents(G))
        total = F.softplus(-D(images).float()).mean() + sum(losses(D, random_images(D.image)))
    assert images.isfinite().all()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for m in (G, D) for p in m.parameters())


@every_architecture
def test_state_dict_round_trip(arch: str) -> None:
    networks, others = build_thin(arch), build_thin(arch)
    inputs = latents(networks[0]), random_images(networks[1].image)
    for network, other, x in zip(networks, others, inputs, strict=True):
        for parameter in other.parameters():
            nn.init.normal_(parameter)
        with torch.no_grad():
            network(x)  # running statistics are then no longer those of a fresh network
            other.load_state_dict(network.state_dict())
            torch.manual_seed(2)
            expected = network.eval()(x)
            torch.manual_seed(2)
            assert torch.equal(other.eval()(x), expected)


# Sizes


@pytest.mark.parametrize("arch", ["dcgan", "stylegan"])
@pytest.mark.parametrize("size", [8, 128])
def test_powers_of_two(arch: str, size: int) -> None:
    G, D = (build(arch, side, size, width=1 / 32) for side in SIDES)
    assert D(G(latents(G))).shape == (2,)


@pytest.mark.parametrize(
    ("arch", "generator_factor", "discriminator_factor"), [("multires", 8, 8), ("dcgan_dense", 32, 16)]
)
@pytest.mark.parametrize("times", [1, 3])
def test_multiples(arch: str, generator_factor: int, discriminator_factor: int, times: int) -> None:
    G = build(arch, "generator", generator_factor * times, width=1 / 32)
    D = build(arch, "discriminator", discriminator_factor * times, width=1 / 32)
    assert G(latents(G)).shape == (2, 1, generator_factor * times, generator_factor * times)
    assert D(random_images(D.image)).shape == (2,)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("arch", "size", "supported"),
    [
        ("dcgan", 28, "8, 16, 32"),
        ("stylegan", 28, "8, 16, 32"),
        ("stylegan", 4, "8, 16, 32"),
        ("multires", 100, "multiples of 8"),
        ("dcgan_dense", 100, "multiples of"),
        ("lean", 100, "multiples of 8"),
        ("stylegan2", 256, "8, 16, 32, 64 pixels"),
        ("r3gan", 512, "8, 14, 16, 28, 32, 56, 64, 112, 128, 224, 256, 448 pixels"),
    ],
)
def test_unsupported_resolutions_are_refused_in_one_line(arch: str, side: str, size: int, supported: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{supported}[^\n]*not {size}") as error:
        build(arch, side, size)
    assert "\n" not in str(error.value)


def test_contradictory_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="dropouts: need as many entries as channels: 4, not 1"):
        build("dcgan_dense", "discriminator", 64, dropouts=(0.1,))
    with pytest.raises(ValueError, match="transposes: must list at least one"):
        build("multires", "generator", 64, transposes=())


def test_stylegan_discriminator_lists_its_resolutions() -> None:
    with pytest.raises(ValueError, match="supports 8, 16, 32, 64, 128, 256 pixels, not 512"):
        build("stylegan", "discriminator", 512)


def test_stylegan_discriminator_keeps_its_last_stages() -> None:
    D = build("stylegan", "discriminator", 16)
    assert [layer.out_channels for layer in D.modules() if isinstance(layer, nn.Conv2d)] == [256, 512, 512]


# The style-based generator


@pytest.fixture
def stylegan() -> StyleGANGenerator:
    """A generator of 32 pixels and four blocks."""
    return build("stylegan", "generator", 32, width=1 / 16)


def styles_used(generator: StyleGANGenerator, z: Tensor) -> Tensor:
    """Record the styles (N, num_styles, channels) of all blocks in one forward pass."""
    styles: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: styles.append(args[1])) for block in generator.blocks]
    with torch.no_grad():
        generator(z)
    for hook in hooks:
        hook.remove()
    return torch.stack(styles, 1)


def test_forward_equals_mapping_then_synthesis(stylegan: StyleGANGenerator) -> None:
    assert isinstance(stylegan, StyleGenerator)
    assert stylegan.num_styles == 4
    z = latents(stylegan.eval())
    w = repeat(stylegan.mapping(z), "n c -> n k c", k=stylegan.num_styles)
    torch.manual_seed(1)
    expected = stylegan(z)
    torch.manual_seed(1)
    assert torch.equal(stylegan.synthesis(w), expected)


def test_styles_are_mixed_in_training_only(stylegan: StyleGANGenerator) -> None:
    z = latents(stylegan)
    own = stylegan.mapping(z)
    patterns = set()
    for _ in range(20):
        replaced = (styles_used(stylegan, z) != own[:, None]).any(2)
        patterns |= {tuple(image) for image in replaced.tolist()}
    assert (False,) * 4 in patterns
    assert len(patterns) > 5
    assert torch.equal(styles_used(stylegan.eval(), z), own[:, None].expand(-1, 4, -1))


def test_style_mixing_can_be_switched_off() -> None:
    G = build("stylegan", "generator", 32, width=1 / 16, mixing=0.0)
    z = latents(G)
    assert torch.equal(styles_used(G, z), G.mapping(z)[:, None].expand(-1, 4, -1))


def test_style_mixing_draws_blocks_independently(stylegan: StyleGANGenerator) -> None:
    images, blocks = 4000, stylegan.num_styles
    replaced = stylegan.mix_styles(torch.zeros(images, blocks, 1), torch.ones(images, 1)).squeeze(2)
    untouched = (replaced.sum(1) == 0).double().mean().item()
    assert untouched == pytest.approx(0.5 + 0.5 * 0.5**blocks, abs=0.03)  # not mixed, or mixed with no block replaced
    torch.testing.assert_close(replaced.mean(0), torch.full((blocks,), 0.25), atol=0.03, rtol=0)
    pairs = replaced.T @ replaced / images  # two blocks of a mixing image are both replaced a quarter of the time
    torch.testing.assert_close(pairs.fill_diagonal_(0.125), torch.full((blocks, blocks), 0.125), atol=0.03, rtol=0)


def test_adain_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[1e-8, 3e-8], [1e-8, 3e-8]]]], dtype=torch.float64)
    scale, shift = torch.tensor([[1.0, -0.5]]).double(), torch.tensor([[10.0, 0.25]]).double()
    # Means 3 and 2e-8; population deviations sqrt((4 + 1 + 0 + 9) / 4) and 1e-8, which 1e-8 outside the root doubles.
    std = 3.5**0.5 + 1e-8
    first = [[10 - 4 / std, 10 - 2 / std], [10.0, 10 + 6 / std]]
    second = [[0.25 - 0.25, 0.25 + 0.25], [0.25 - 0.25, 0.25 + 0.25]]
    torch.testing.assert_close(adain(x, scale, shift), torch.tensor([[first, second]], dtype=torch.float64))


def test_all_layers_share_one_noise_map(stylegan: StyleGANGenerator) -> None:
    maps: list[Tensor] = []
    layers = [layer for layer in stylegan.modules() if isinstance(layer, NoiseInjection)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, args: maps.append(args[1]))
    stylegan(latents(stylegan))
    assert len(maps) == len(layers) == 2 * stylegan.num_styles
    assert all(noise is maps[0] for noise in maps)
    assert maps[0].shape == (2, 1, 32, 32)


@pytest.mark.parametrize("depth", [1, 2])
def test_noise_equals_its_dense_layers_at_every_pixel(depth: int) -> None:
    torch.manual_seed(0)
    layer = NoiseInjection(5, depth)  # torch's own initialisation, where biases are not zero
    x, noise = torch.randn(2, 5, 4, 4), torch.randn(2, 1, 16, 16)
    pixels = rearrange(noise[:, :, :4, :4], "n 1 h w -> n h w 1")
    expected = x + rearrange(layer.dense(pixels), "n h w c -> n c h w")
    torch.testing.assert_close(layer(x, noise), expected)


def test_noise_varies_the_image_and_follows_the_seed(stylegan: StyleGANGenerator) -> None:
    z = latents(stylegan.eval())
    with torch.no_grad():
        first, second = stylegan(z), stylegan(z)
        torch.manual_seed(3)
        third = stylegan(z)
        torch.manual_seed(3)
        assert torch.equal(stylegan(z), third)
    assert not torch.equal(first, second)
