"""G's start as the decoder of a throw-away autoencoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from zoo import recipes
from zoo.core.config import AutoencoderConfig, ImageSpec
from zoo.core.schedule import Schedule
from zoo.data.dataset import load_dataset
from zoo.losses.autoencoder import autoencoder_loss, normal_divergence
from zoo.losses.step_outputs import StepOutputs
from zoo.models.encoder import Encoder, reconstruct_images
from zoo.training.trainer import Trainer

THIN = ["generator.width=0.125", "discriminator.width=0.125", "train.batch=8", "data.resolution=16"]


def make(*overrides: str, name: str = "dcgan-64") -> Trainer:
    recipe = recipes.load_recipe(name, [*THIN, *overrides])
    return Trainer(recipe, load_dataset("phantoms:2", recipe.data), torch.device("cpu"))


def test_divergence_is_torchs() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(normal_divergence(mean, log_variance), expected)


def test_loss_of_a_known_code_by_hand() -> None:
    """A code of mean 2 and no variance, decoded to a constant image; a weight that has faded costs no pass."""

    class Code(Encoder):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((len(x), 3), 2.0), torch.full((len(x), 3), -200.0)

    image = ImageSpec(resolution=4, channels=1)

    class Decoder(nn.Module):
        def forward(self, z: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
            return z.mean(1)[:, None, None, None].expand(-1, 1, 4, 4)

    real = torch.full((2, 1, 4, 4), 0.5)
    step = StepOutputs(
        real=real,
        fake=torch.zeros(2, 1, 4, 4),
        real_logits=None,
        fake_logits=torch.zeros(2),
        nimg=500,
        reconstruct=lambda: reconstruct_images(Decoder(), Code(image, 3, 1), real, None),
    )
    config = AutoencoderConfig(weight=Schedule.parse([[0, 10], [1, 0]]), kl=0.1)
    divergence = 0.5 * (4 + 0 - 1 + 200)
    assert autoencoder_loss(step, config).item() == pytest.approx(1.5 + 0.1 * divergence)
    step.nimg, step.reconstruct = 1000, None
    assert autoencoder_loss(step, config).item() == 0


@pytest.mark.parametrize("resolution", [8, 28, 64])
def test_encoder_fits_every_size(resolution: int) -> None:
    mean, log_variance = Encoder(ImageSpec(resolution=resolution, channels=3), 5, 4)(
        torch.zeros(2, 3, *[resolution] * 2)
    )
    assert mean.shape == log_variance.shape == (2, 5)


@pytest.mark.parametrize("more", [["train.update=simultaneous"], ["train.micro_batch=4", "loss.name=relativistic"]])
def test_reconstruction_improves_then_stops(more: list[str]) -> None:
    trainer = make("autoencoder={weight: [[0.4, 10], [0.401, 0]], lr: 3e-3}", "optimizer.generator.lr=3e-3", *more)
    plain = make(*more)
    assert all(torch.equal(a, b) for a, b in zip(trainer.G.parameters(), plain.G.parameters(), strict=True))
    losses = []
    for _ in range(51):
        trainer.meters.reset()
        trainer.step()
        losses.append(trainer.meters.means()["autoencoder"])
    assert losses[49] < 0.7 * losses[0]
    encoder = trainer.helpers["encoder"]
    before = [parameter.clone() for parameter in encoder.parameters()]
    trainer.meters.reset()
    trainer.step()
    assert trainer.meters.means()["autoencoder"] == 0
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["dcgan-64", "stylegan2-64", "stylegan-256"])
def test_equal_codes_make_equal_images(name: str) -> None:
    """In training some images take styles of a second latent, of which the code knows nothing."""

    class Code(Encoder):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((len(x), latent), 0.5), torch.full((len(x), latent), -200.0)

    torch.manual_seed(0)
    G, _ = recipes.create(name, *THIN)
    latent = G.latent.dim
    for parameter_name, parameter in G.named_parameters():  # noise differs between images, as it should
        if "noise" in parameter_name:
            parameter.data.zero_()
    images, _, _ = reconstruct_images(G.train(), Code(G.image, latent, 1), torch.zeros(16, 1, 16, 16), None)
    torch.testing.assert_close(images, images[:1].expand_as(images))
    mixing = {"stylegan2-64": 0.9, "stylegan-256": 0.5}.get(name)
    assert getattr(G, "mixing", None) == mixing
