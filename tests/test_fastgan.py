"""FastGAN: skip-layer excitation, and a discriminator that reconstructs its inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo.core.config import ImageSpec
from zoo.models.fastgan import FastGANDiscriminator, FastGANDiscriminatorConfig, crop_quarters
from zoo.models.skip_layer_excitation import FastGANBody, GatedLinearUnit, SkipLayerExcitation


def discriminator(resolution: int = 32, **config: float) -> FastGANDiscriminator:
    torch.manual_seed(0)
    config = {"base": 4, **config}
    return FastGANDiscriminator(
        FastGANDiscriminatorConfig(**config),  # type: ignore[arg-type]
        ImageSpec(resolution=resolution, channels=1),
    )


def test_discriminator_depends_on_contrast() -> None:
    """A batch norm undoes a factor, unless a bias precedes it."""
    D = discriminator().train()
    x = torch.rand(8, 1, 32, 32) * 2 - 1
    assert not torch.allclose(D(x), D(2 * x), atol=0.05)
    nn.init.zeros_(D.large[0].bias)  # type: ignore[arg-type]
    torch.testing.assert_close(D(x), D(2 * x), atol=5e-3, rtol=0)


def test_excitation_gates_channels() -> None:
    """With weights of zero, the last bias alone sets the gates, as sigmoid(bias)."""
    layer = SkipLayerExcitation(3, 2)
    last = layer.gates[3]
    nn.init.zeros_(last.weight)
    last.bias = nn.Parameter(torch.tensor([0.0, 100.0]))
    large = torch.randn(2, 2, 16, 16)
    gated = layer(torch.randn(2, 3, 4, 4), large)
    torch.testing.assert_close(gated, large * torch.tensor([0.5, 1.0]).view(2, 1, 1))


def test_excitation_has_one_gate_per_channel() -> None:
    torch.manual_seed(0)
    layer = SkipLayerExcitation(3, 2)
    gates = layer(torch.randn(2, 3, 8, 8), torch.ones(2, 2, 32, 32))
    assert gates.min() > 0
    assert gates.max() < 1
    assert torch.equal(gates, gates[..., :1, :1].expand_as(gates))
    assert len(gates[..., 0, 0].unique()) == 4


def test_excitation_connects_resolutions_sixteen_times_apart() -> None:
    body = FastGANBody(8, 1, 256, 32, deep=True)
    ends = [(layer.gates[1].in_channels, layer.gates[1].out_channels) for layer in body.excitations]
    assert ends == [(512, 64), (256, 32), (128, 16)]  # 4 to 64, 8 to 128, 16 to 256
    body = FastGANBody(8, 1, 112, 14, deep=True)
    ends = [(layer.gates[1].in_channels, layer.gates[1].out_channels) for layer in body.excitations]
    assert ends == [(128, 16)]  # 7 to 112


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        (14, [(128, 7), (64, 14)]),
        (28, [(128, 7), (64, 14), (32, 28)]),
        (112, [(128, 7), (64, 14), (32, 28), (16, 56), (16, 112)]),
    ],
)
def test_body_starts_at_seven_pixels_for_28_and_its_doubles(size: int, shapes: list[tuple[int, int]]) -> None:
    body = FastGANBody(8, 3, size, 14, deep=True).eval()
    x = body.start(torch.randn(2, 8))
    found = [tuple(x.shape[1:3])]
    for block in body.blocks:
        x = block(x)
        found.append(tuple(x.shape[1:3]))
    assert found == shapes
    assert body(torch.randn(2, 8)).shape == (2, 3, size, size)


def test_gated_linear_unit_equals_torchs() -> None:
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(GatedLinearUnit()(x), nn.GLU(dim=1)(x))


@pytest.mark.parametrize("resolution", [32, 64])
def test_judged_returns_the_same_logits(resolution: int) -> None:
    D = discriminator(resolution).eval()
    x = torch.rand(2, 1, resolution, resolution) * 2 - 1
    logits, others = D.judged(x)
    assert torch.equal(logits, D(x))
    assert logits.shape == (2, 25)
    assert others.keys() == D.auxiliary.keys() == {"reconstruction"}
    assert others["reconstruction"].shape == ()
    assert others["reconstruction"] > 0


def test_auxiliary_weight_comes_from_the_config() -> None:
    assert discriminator(reconstruction=0.5).auxiliary == {"reconstruction": 0.5}


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_decoders_of_constant_images_have_the_expected_loss(value: float) -> None:
    """Decoders that return an image's one grey have no loss; 0.5 off, each adds 0.5."""
    D = discriminator(64)
    for decoder in (D.whole, D.quarter):
        last = decoder[-1]
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(torch.tensor([value]))
    for grey, expected in ((value, 0.0), (value + 0.5, 1.0)):
        _, others = D.judged(torch.full((3, 1, 64, 64), grey))
        assert others["reconstruction"].item() == pytest.approx(expected, abs=1e-6)


def test_decoder_targets_are_the_halved_image_and_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders replaced by their target have no loss."""
    D = discriminator(64).eval()
    x = torch.rand(4, 1, 64, 64) * 2 - 1

    class Target(nn.Module):
        def __init__(self, image: Tensor) -> None:
            super().__init__()
            self.image = image

        def forward(self, maps: Tensor) -> Tensor:
            assert maps.shape[2:] == (8, 8)
            return self.image

    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([0, 1, 2, 3]))
    corners = [x[0, :, :32, :32], x[1, :, :32, 32:], x[2, :, 32:, :32], x[3, :, 32:, 32:]]
    half = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    D.whole, D.quarter = Target(half), Target(torch.stack(corners))  # type: ignore[assignment]
    _, others = D.judged(x)
    assert others["reconstruction"].item() == pytest.approx(0, abs=1e-6)


def test_crop_quarters_by_hand() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(4, 1, 4, 4)
    cut = crop_quarters(x, torch.tensor([0, 1, 2, 3]))
    assert cut.flatten(1).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("size", [16, 48, 100])
def test_unsupported_resolutions_are_refused_in_one_line(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*32, 64, 128[^\n]*not {size}$"):
        discriminator(size)
