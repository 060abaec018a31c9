"""Networks in Haar space: images of 256 pixels at about the cost of 64.

Notable: G makes an image of a quarter of the resolution, enlarges it bilinearly and adds Haar details; D takes the
Haar coefficients of patches, shifted at random by less than a patch so that no fixed grid escapes it, and sees the
variety of a batch. Wavelets as in SWAGAN (Gal et al. 2021, arXiv:2102.06108), G's body of FastGAN (arXiv:2101.04775),
D's blocks of R3GAN (arXiv:2501.05441).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.schema import Count, Positive
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    MinibatchStd,
    clip_output,
    count_doublings,
    glorot_uniform,
    scale_channels,
    scale_widths,
)
from zoo.models.registry import register_architecture
from zoo.models.residual import GAIN, BiasedActivation, normal_convolution, residual_stages
from zoo.models.skip_layer_excitation import FastGANBody, gated_block


def haar_basis(patch: int) -> Tensor:
    """Return the orthonormal 2-D Haar basis of a square patch, (patch^2, patch^2).

    Rows are basis functions: the mean, then details from coarse to fine; columns are pixels, row by row.
    """
    return _haar_bands(patch)[0]


def _haar_bands(patch: int) -> tuple[Tensor, Tensor]:
    """Return the basis, and how much smaller each coefficient of a natural image is than the coarsest detail."""
    rows, falls = [torch.full((patch, patch), 1 / patch)], [1]
    size = patch
    while size > 1:
        half = size // 2
        signs = torch.ones(2, size)
        signs[1, half:] = -1
        for top, left in product(range(0, patch, size), repeat=2):
            for down, across in ((0, 1), (1, 0), (1, 1)):
                row = torch.zeros(patch, patch)
                row[top : top + size, left : left + size] = torch.outer(signs[down], signs[across]) / size
                rows.append(row)
                # Amplitudes fall with frequency (Field 1987): half at each finer scale, half again on diagonals.
                falls.append(patch // size * (2 if down and across else 1))
        size = half
    return torch.stack(rows).flatten(1), torch.tensor(falls)


class HaarTransform(nn.Module):
    """Haar coefficients of square patches: the mean of their pixels, and amplified details.

    Args:
        patch: pixels per side.
        gain: factor of the coarsest details; twice as much at each finer scale, and twice that for diagonals, so that
            all have about the same size in natural images.
    """

    basis: Tensor
    gains: Tensor

    def __init__(self, patch: int, gain: float) -> None:
        super().__init__()
        self.patch = patch
        basis, falls = _haar_bands(patch)
        gains = gain * falls[:, None] / patch
        gains[0] = 1 / patch
        # Part of the state: a generator that is loaded is built without values and takes all of them from its file.
        self.register_buffer("basis", basis)
        self.register_buffer("gains", gains)

    def split(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to coefficients (N, C patch^2, H / patch, W / patch), channel by channel."""
        pixels = F.pixel_unshuffle(x, self.patch).unflatten(1, (x.shape[1], -1))
        matrix = (self.basis * self.gains).to(x.dtype)
        return torch.einsum("dp,ncphw->ncdhw", matrix, pixels).flatten(1, 2)

    def join(self, coefficients: Tensor) -> Tensor:
        """Invert :meth:`split`."""
        bands = coefficients.unflatten(1, (-1, self.patch**2))
        matrix = (self.basis / self.gains).to(coefficients.dtype)
        return F.pixel_shuffle(torch.einsum("dp,ncdhw->ncphw", matrix, bands).flatten(1, 2), self.patch)


def check_patch(resolution: int, patch: int, network: str) -> int:
    """Return the resolution in patches.

    Raises:
        ValueError: ``patch`` is no power of two from 2, or too large for ``resolution``.
    """
    if patch < 2 or patch & (patch - 1):
        raise ValueError(f"patch: must be 2, 4 or a higher power of two, not {patch}")
    count_doublings(resolution, network, least=8 * patch)
    return resolution // patch


@dataclass(frozen=True, kw_only=True)
class HaarGeneratorConfig(NetworkConfig):
    latent: Count = 256  # numbers per latent
    base: Count = 16  # as FastGAN's, of the body that ends at the resolution in patches
    patch: Count = 4  # pixels per side of a patch
    detail: Count = 32  # channels of the details, in patches; half as many at each doubling
    gain: Positive = 4.0  # of the last layer's details, see HaarTransform
    frozen_body: bool = False  # learn details alone, of the small images of a generator that is loaded

    def validate(self, image: ImageSpec) -> None:
        check_patch(image.resolution, self.patch, "a Haar generator")


class HaarGenerator(Generator):
    def __init__(self, config: HaarGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        small, base = image.resolution // config.patch, config.base * config.width
        # Names and shapes are those of a FastGAN generator of the small images: its weights are a good start.
        self.body = FastGANBody(config.latent, image.channels, small, base, deep=True)
        if config.frozen_body:
            # A new D knows no shapes yet: what it teaches first would spoil those of a trained body.
            self.body.requires_grad_(False)
        levels = range(int(math.log2(config.patch)))
        widths = [scale_channels(config.detail / 2**level, config.width) for level in levels]
        ends = pairwise([self.body.to_image.in_channels, *widths])
        # Enlarged by nearest neighbours: constant maps stay constant, and no grid of patches has to be unlearned.
        layers = [gated_block(before, after, double=level > 0) for level, (before, after) in enumerate(ends)]
        self.details = nn.Sequential(*layers)
        self.details.apply(glorot_uniform)
        self.to_details = nn.Conv2d(widths[-1], 4 * image.channels, 3, padding=1)
        nn.init.zeros_(self.to_details.weight)  # training starts from the enlarged small image
        nn.init.zeros_(self.to_details.get_parameter("bias"))
        self.haar = HaarTransform(2, config.gain)
        self.patch = config.patch

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        maps = self.body.features(z)
        image = F.interpolate(self.body.to_image(maps), scale_factor=self.patch, mode="bilinear")
        # Bilinear, so that details need not undo the steps of enlarged pixels.
        return clip_output(image + self.haar.join(self.to_details(self.details(maps))))


@dataclass(frozen=True, kw_only=True)
class HaarDiscriminatorConfig(NetworkConfig):
    spectral: ClassVar[bool] = False

    channels: tuple[Count, ...] = (256, 192, 96, 48, 24)  # at 4, 8, 16, ... patches
    blocks: Count = 1  # per resolution
    group: Count = 16  # channels per group
    expansion: Count = 2  # how much wider the grouped convolutions are
    patch: Count = 4  # pixels per side of a patch
    gain: Positive = 4.0  # of details, see HaarTransform
    shift: bool = True  # shift the images of a pass by less than a patch, in training
    statistics: Count = 8  # images per group of the minibatch standard deviation

    def validate(self, image: ImageSpec) -> None:
        patches = check_patch(image.resolution, self.patch, "a Haar discriminator")
        largest = 4 << (len(self.channels) - 1)
        if patches > largest:
            raise ValueError(
                f"a Haar discriminator with {len(self.channels) - 1} stages and patches of {self.patch} supports up to "
                f"{largest * self.patch} pixels, not {image.resolution}. Add one entry to discriminator.channels for "
                "every further doubling"
            )


class HaarDiscriminator(Discriminator):
    def __init__(self, config: HaarDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        patches = image.resolution // config.patch
        widths = scale_widths(config.channels[count_doublings(patches) :: -1], config.width)
        last = widths[-1]
        self.shift = config.shift
        self.haar = HaarTransform(config.patch, config.gain)
        options = {"blocks": config.blocks, "group": config.group, "expansion": config.expansion}
        self.layers = nn.Sequential(
            normal_convolution(image.channels * config.patch**2, widths[0], 3),
            *residual_stages(widths, up=False, **options),
            MinibatchStd(config.statistics),
            normal_convolution(last + 1, last, 3, gain=GAIN),
            BiasedActivation(last),
        )
        # Depthwise, as R3GAN's.
        self.basis = nn.Conv2d(last, last, 4, groups=last, bias=False)
        nn.init.normal_(self.basis.weight, std=1 / 4)
        self.linear = nn.Linear(last, 1, bias=False)
        nn.init.normal_(self.linear.weight, std=1 / math.sqrt(last))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if self.shift and self.training:
            # One shift per pass: D then compares images with the same grid. On the CPU, which no GPU waits for.
            down, across = torch.randint(self.haar.patch, (2,)).tolist()
            x = x.roll((down, across), (2, 3))
        return self.linear(self.basis(self.layers(self.haar.split(x))).flatten(1)).squeeze(1)


register_architecture(
    "haar",
    generator=(HaarGeneratorConfig, HaarGenerator),
    discriminator=(HaarDiscriminatorConfig, HaarDiscriminator),
    paper="after Gal et al. 2021, arXiv:2102.06108",
)
