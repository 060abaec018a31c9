"""StyleGAN2 against the paper's equations."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from zoo.core.config import ImageSpec
from zoo.models.base import StyleGenerator
from zoo.models.stylegan2 import ModulatedConv2d, StyleGAN2Generator, StyleGAN2GeneratorConfig


def test_modulating_maps_equals_modulating_weights() -> None:
    """Equations 1 and 3, with weights per image, as in the paper."""
    torch.manual_seed(0)
    layer = ModulatedConv2d(5, 7, 3, style=4).double()
    x, w = torch.randn(3, 5, 6, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    styles = layer.affine(w)
    expected = []
    for image, style in zip(x, styles, strict=True):
        weight = layer.weight * layer.scale * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected.append(F.conv2d(image[None], weight, padding=1)[0])
    torch.testing.assert_close(layer(x, w), torch.stack(expected) + layer.bias[:, None, None])


def test_demodulated_outputs_have_deviation_one_for_any_style() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(64, 32, 3, style=4)
    y = layer(torch.randn(4, 64, 32, 32), 10 * torch.randn(4, 4))
    torch.testing.assert_close(y[..., 1:-1, 1:-1].std((2, 3)).mean(), torch.tensor(1.0), atol=0.05, rtol=0)


def generator(**config: float) -> StyleGAN2Generator:
    torch.manual_seed(0)
    resolved = StyleGAN2GeneratorConfig(latent=4, style=4, channels=(8, 8, 8), **config)  # type: ignore[arg-type]
    return StyleGAN2Generator(resolved, ImageSpec(resolution=16, channels=1))


def test_forward_equals_mapping_then_synthesis() -> None:
    G = generator()
    assert isinstance(G, StyleGenerator)
    assert G.num_styles == 5  # 4, 8, 8, 16, 16 px
    z = torch.randn(2, 4)
    w = G.mapping(z)
    torch.testing.assert_close(G.mapping(3 * z), w)  # latents are normalised
    torch.manual_seed(1)
    whole = G.eval()(z)
    torch.manual_seed(1)
    torch.testing.assert_close(G.synthesis(w[:, None].expand(-1, 5, -1)), whole)


def test_coarse_styles_change_more_than_fine_ones() -> None:
    G = generator().eval()
    w, other = G.mapping(torch.randn(2, 4))[:, None].expand(-1, 5, -1)
    mixed = [torch.cat([w[:cut], other[cut:]]) for cut in range(6)]  # from none to all of w's styles
    images = G.synthesis(torch.stack(mixed))
    from_w = (images - images[5]).square().mean((1, 2, 3))
    assert from_w[5] == 0
    assert from_w[0] > from_w[4] > 0


def test_style_mixing_starts_at_a_random_layer() -> None:
    G = generator(mixing=1.0)
    w, other = torch.zeros(400, 5, 4), torch.ones(400, 4)
    torch.manual_seed(0)
    mixed = G.mix_styles(w, other)[..., 0]
    assert (mixed[:, 0] == 0).all()  # the first layer always keeps its own
    assert (mixed[:, 4] == 1).all()
    assert (mixed.diff(dim=1) >= 0).all()
    counts = mixed.sum(1).long().bincount()
    assert (counts[1:] > 70).all()  # crossovers at 1, 2, 3 and 4 alike
    assert torch.equal(generator(mixing=0.0).mix_styles(w, other), w)


def test_noise_starts_at_strength_zero() -> None:
    G = generator().eval()
    w = G.mapping(torch.randn(1, 4))[:, None].expand(-1, 5, -1)
    assert torch.equal(G.synthesis(w), G.synthesis(w))
    for layer in G.layers:
        layer.strength.data.fill_(1.0)
    assert not torch.equal(G.synthesis(w), G.synthesis(w))
