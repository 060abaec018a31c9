"""FastGAN's own parts: gates, and a discriminator that rebuilds what it sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo.core.config import ImageSpec
from zoo.models.fastgan import FastGANDiscriminator, FastGANDiscriminatorConfig, quarters
from zoo.models.layers import ExcitedBody, GatedLinearUnit, SkipLayerExcitation


def discriminator(resolution: int = 32, **config: float) -> FastGANDiscriminator:
    torch.manual_seed(0)
    config = {"base": 4, **config}
    return FastGANDiscriminator(
        FastGANDiscriminatorConfig(**config),  # type: ignore[arg-type]
        ImageSpec(resolution=resolution, channels=1),
    )


def test_discriminator_sees_contrast() -> None:
    """A batch norm undoes a factor; a bias before it does not let it."""
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


def test_excitation_is_one_number_a_channel() -> None:
    torch.manual_seed(0)
    layer = SkipLayerExcitation(3, 2)
    gates = layer(torch.randn(2, 3, 8, 8), torch.ones(2, 2, 32, 32))
    assert gates.min() > 0
    assert gates.max() < 1
    assert torch.equal(gates, gates[..., :1, :1].expand_as(gates))
    assert len(gates[..., 0, 0].unique()) == 4


def test_excitation_joins_resolutions_sixteen_apart() -> None:
    body = ExcitedBody(8, 1, 256, 32, deep=True)
    ends = [(layer.gates[1].in_channels, layer.gates[1].out_channels) for layer in body.excitations]
    assert ends == [(512, 64), (256, 32), (128, 16)]  # 4 to 64, 8 to 128, 16 to 256


def test_gated_linear_unit_is_torchs() -> None:
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(GatedLinearUnit()(x), nn.GLU(dim=1)(x))


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_judged_gives_the_same_logits(resolution: int) -> None:
    D = discriminator(resolution).eval()
    x = torch.rand(2, 1, resolution, resolution) * 2 - 1
    logits, others = D.judged(x)
    assert torch.equal(logits, D(x))
    assert logits.shape == (2, 25)
    assert others.keys() == D.auxiliary.keys() == {"reconstruction"}
    assert others["reconstruction"].shape == ()
    assert others["reconstruction"] > 0


def test_auxiliary_weight_is_the_recipes() -> None:
    assert discriminator(reconstruction=0.5).auxiliary == {"reconstruction": 0.5}


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_perfect_decoders_have_no_loss(value: float) -> None:
    """Of an image of one grey, decoders that paint it; and off by 0.5 each is a loss of 1."""
    D = discriminator(64)
    for decoder in (D.whole, D.quarter):
        last = decoder[-1]
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(torch.tensor([value]))
    for grey, expected in ((value, 0.0), (value + 0.5, 1.0)):
        _, others = D.judged(torch.full((3, 1, 64, 64), grey))
        assert others["reconstruction"].item() == pytest.approx(expected, abs=1e-6)


def test_decoders_aim_at_the_shrunk_image_and_at_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders replaced by the answer itself have no loss on any image."""
    D = discriminator(64).eval()
    x = torch.rand(4, 1, 64, 64) * 2 - 1
    drawn: list[Tensor] = []

    def draw(*args: int, **kwargs: object) -> Tensor:
        drawn.append(torch.tensor([0, 1, 2, 3]))
        return drawn[-1]

    class Answer(nn.Module):
        def __init__(self, image: Tensor) -> None:
            super().__init__()
            self.image = image

        def forward(self, maps: Tensor) -> Tensor:
            assert maps.shape[2:] == (8, 8)
            return self.image

    monkeypatch.setattr(torch, "randint", draw)
    corners = [x[0, :, :32, :32], x[1, :, :32, 32:], x[2, :, 32:, :32], x[3, :, 32:, 32:]]
    half = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    D.whole, D.quarter = Answer(half), Answer(torch.stack(corners))  # type: ignore[assignment]
    _, others = D.judged(x)
    assert others["reconstruction"].item() == pytest.approx(0, abs=1e-6)


def test_quarters_by_hand() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(4, 1, 4, 4)
    cut = quarters(x, torch.tensor([0, 1, 2, 3]))
    assert cut.flatten(1).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("size", [16, 48, 100])
def test_other_sizes_are_refused_in_one_line(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*32, 64, 128[^\n]*not {size}$"):
        discriminator(size)
