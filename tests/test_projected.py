"""Projected GAN: frozen features equal timm's and stay frozen; heads, labels and pretrained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.config import ImageSpec
from zoo.core.errors import ZooError
from zoo.core.progress import SilentReporter
from zoo.models.batch_norm import batch_norms
from zoo.models.projected import (
    TIMM_BACKBONE,
    FrozenFeatures,
    ProjectedDiscriminator,
    ProjectedDiscriminatorConfig,
    ProjectedGenerator,
    ProjectedGeneratorConfig,
    RandomProjection,
)
from zoo.training.warm_start import load_pretrained_backbones


def discriminator(
    resolution: int = 32, classes: int = 0, channels: int = 1, **config: object
) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(
        ProjectedDiscriminatorConfig(**{"base": 4, "input": 64, **config}),  # type: ignore[arg-type]
        ImageSpec(resolution=resolution, channels=channels, shares=(1 / classes,) * classes if classes else ()),
    )


def images(resolution: int = 32, channels: int = 1) -> Tensor:
    return torch.rand(3, channels, resolution, resolution) * 2 - 1


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """timm's network with random weights and random statistics of its norms."""
    torch.manual_seed(1)
    network = timm.create_model(TIMM_BACKBONE, pretrained=False)
    for norm in batch_norms(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.1)
    return network.eval()


@pytest.fixture
def weights(classifier: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with these as timm's pretrained weights."""
    torch.save(classifier.state_dict(), tmp_path / f"{TIMM_BACKBONE}.pth")
    monkeypatch.setenv("ZOO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_features_equal_timms(classifier: nn.Module, weights: Path, channels: int) -> None:
    """Resized and normalised by timm's own data configuration, without folded norms."""
    D = discriminator(channels=channels)
    load_pretrained_backbones(D, SilentReporter())
    reference = timm.create_model(TIMM_BACKBONE, features_only=True, pretrained=False, out_indices=(1, 2, 3, 4)).eval()
    state = classifier.state_dict()
    reference.load_state_dict({name: state[name] for name in reference.state_dict()})
    data = timm.data.resolve_data_config({}, model=classifier)
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = images(channels=channels)
    resized = F.interpolate((x + 1) / 2, size=64, mode="bilinear", align_corners=False)
    with torch.no_grad():
        for ours, expected in zip(D.features(x), reference((resized - mean) / std), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


def test_frozen_features_pass_gradients_and_never_learn() -> None:
    D = discriminator().train()
    assert not any(module.training for module in D.features.modules())
    frozen = {name: t.clone() for name, t in D.state_dict().items() if name.startswith(("features.", "mixing."))}
    assert not frozen.keys() & dict(D.named_parameters()).keys()
    assert len(batch_norms(D)) == sum(isinstance(m, nn.BatchNorm2d) for m in D.heads.modules())
    optimiser = torch.optim.SGD(D.parameters(), lr=0.1)
    x = images().requires_grad_()
    D.requires_grad_(True)
    D(x).sum().backward()
    optimiser.step()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert all(torch.equal(D.state_dict()[name], t) for name, t in frozen.items())


def test_features_do_not_depend_on_the_batch() -> None:
    D = discriminator().train()
    x = images()
    for alone, together in zip(D.features(x[:1]), D.features(x), strict=True):
        torch.testing.assert_close(alone, together[:1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("size", "pixels"),
    [(32, 1), (64, 4), (96, 9), (128, 16), (224, 49), (256, 16)],  # 4 x 4 at 256 px, as in the paper
)
def test_every_head_has_as_many_logits(size: int, pixels: int) -> None:
    D = discriminator(input=size, base=1).eval()
    for number, head in enumerate(D.heads):
        head.verdict = nn.Conv2d(head.verdict.in_channels, 1, 3, padding=1)
        nn.init.zeros_(head.verdict.weight)
        nn.init.constant_(head.verdict.bias, number)
    with torch.no_grad():
        logits = D(images())
    assert logits.tolist() == [[float(number) for number in range(4) for _ in range(pixels)]] * 3


def test_random_projection_by_hand() -> None:
    """Weights of one: a coarse map, summed over channels and nine pixels, is added to the finer one."""
    layer = RandomProjection([2, 3], [2, 2])
    for convolution in (*layer.channels, *layer.scales):
        convolution.weight.fill_(1.0)
    fine, coarse = torch.rand(1, 2, 4, 4), torch.rand(1, 3, 2, 2)
    first, second = layer([fine, coarse])
    channels = coarse.sum(1, keepdim=True).expand(1, 2, 2, 2)
    torch.testing.assert_close(second, channels)
    everything = 2 * coarse.sum()  # all four pixels are neighbours of each other
    torch.testing.assert_close(first, fine.sum(1, keepdim=True).expand(1, 2, 4, 4) + everything)
    assert not list(layer.parameters())


def test_input_size_of_the_frozen_network() -> None:
    config = ProjectedDiscriminatorConfig()
    sizes = [config.input_size(ImageSpec(resolution=size, channels=1)) for size in (28, 64, 128, 150, 256)]
    assert sizes == [128, 128, 128, 160, 256]
    with pytest.raises(ValueError, match=r"discriminator\.input: must be a multiple of 32 pixels, not 100"):
        discriminator(input=100)
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        discriminator(channels=4)


def test_random_features_load_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrozenFeatures, "adopt", lambda *_: pytest.fail("loaded"))
    D = discriminator(pretrained=False)
    assert D.pretrained == {}
    load_pretrained_backbones(D, SilentReporter())


def test_missing_and_wrong_weights_are_reported_in_one_line(weights: Path) -> None:
    D = discriminator()
    path = weights / f"{TIMM_BACKBONE}.pth"
    state = torch.load(path, weights_only=True)
    first = next(iter(state))
    torch.save({name: t for name, t in state.items() if name != first}, path)
    with pytest.raises(ZooError, match=f"^[^\n]*{path.name}: not the weights[^\n]*{first} is missing$"):
        load_pretrained_backbones(D, SilentReporter())
    torch.save(state | {first: torch.zeros(1)}, path)
    with pytest.raises(ZooError, match=f"^[^\n]*{path.name}: not the weights[^\n]*$"):
        load_pretrained_backbones(D, SilentReporter())
    path.unlink()
    with pytest.raises(ZooError, match=f"^no weights of {TIMM_BACKBONE}[^\n]*$"):
        load_pretrained_backbones(D, SilentReporter())


def test_labels_are_projected() -> None:
    """A label adds to each logit the inner product of its embedding with the maps (Miyato & Koyama 2018)."""
    D = discriminator(classes=3, input=128).eval()
    x, labels = images(), torch.tensor([0, 1, 2])
    head = D.heads[3]
    maps = D.mixing(D.features(x))[3]
    h = head.layers(maps)
    expected = (h * head.embedding(labels)[..., None, None]).sum(1) / h.shape[1] ** 0.5
    torch.testing.assert_close(
        head(maps, labels) - head.verdict(h).flatten(1), expected.flatten(1), atol=1e-4, rtol=1e-3
    )
    assert not torch.equal(D(x, labels), D(x, labels.flip(0)))
    with pytest.raises(ValueError, match="needs labels"):
        D(x)


def test_generator_takes_labels() -> None:
    torch.manual_seed(0)
    image = ImageSpec(resolution=32, channels=1, shares=(0.5, 0.5))
    G = ProjectedGenerator(ProjectedGeneratorConfig(base=4, latent=8), image).eval()
    assert G.latent.dim == 8
    z = torch.randn(1, 8).expand(2, 8)
    first, second = G(z, torch.tensor([0, 1]))
    assert first.shape == (1, 32, 32)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="needs labels"):
        G(z)
