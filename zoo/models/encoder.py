"""A throw-away encoder, with which a generator starts as the decoder of a variational autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.core.config import ImageSpec
from zoo.models.base import Generator
from zoo.models.batch_norm import batch_norm_momentum
from zoo.models.layers import halving_layers
from zoo.models.style_mixing import without_mixing


class Encoder(nn.Module):
    """Map images to normal distributions of latents (Kingma & Welling 2014, arXiv:1312.6114).

    Convolutions of stride 2 down to 4 x 4, each with twice the channels of the last, up to 8 times the first.

    Args:
        image: shape of the images.
        latent: numbers per latent.
        channels: of the first convolution.
    """

    def __init__(self, image: ImageSpec, latent: int, channels: int) -> None:
        super().__init__()
        layers, features = halving_layers(image.channels, image.resolution, channels)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 2 * latent))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (N, C, H, W) in [-1, 1] to means and log variances, both (N, latent)."""
        mean, log_variance = self.layers(x).chunk(2, 1)
        # Bounded: exp() of a first, bad guess must not overflow.
        return mean, 10 * torch.tanh(log_variance / 10)


def reconstruct_images(
    G: Generator, encoder: Encoder, images: Tensor, label: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``G`` makes of one code drawn for each image (N, C, H, W), and the codes' means and log variances."""
    mean, log_variance = encoder(images.detach())
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)
    # Running statistics are those of the images of latents; a style of another latent would be of another image.
    with batch_norm_momentum(G, 0.0), without_mixing(G):
        return G(z, label), mean, log_variance
