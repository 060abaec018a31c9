"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), for 10,000 grey slices.

Notable: styles scale the inputs of a convolution, whose outputs are divided by the deviation this would cause
(demodulation); every resolution adds its image to the one below (skip generator); the discriminator is residual and
sees the variety of a batch. Differs from the paper in: few mapping layers, thin maps, resampling in plain torch, the
style of to_image, and classes as in ADA (arXiv:2006.06676); details in docs/architectures.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from zoo.core.schema import Count, Share
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStd,
    blur_down,
    blur_up,
    check_stages,
    count_doublings,
    draw_noise,
    one_hot,
    scale_widths,
)
from zoo.models.registry import register_architecture

_GAIN = math.sqrt(2)  # keeps deviations near one through a leaky ReLU of slope 0.2
_SLOPE = 0.2


class ModulatedConv2d(nn.Module):
    """Convolution whose weights are scaled by a style per input channel.

    Karras et al. 2020, equations 1 and 3.

    Args:
        channels: of the input.
        out: of the output.
        kernel: odd.
        style: width of w.
        demodulate: divide each output channel by the deviation it would have for inputs of deviation one.
    """

    def __init__(self, channels: int, out: int, kernel: int, style: int, *, demodulate: bool = True) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style, channels, start=1.0)  # A in the paper's figure 2
        self.weight = nn.Parameter(torch.randn(out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out))
        self.scale = 1 / math.sqrt(channels * kernel**2)
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map (N, channels, H, W), with styles (N, style), to (N, out, H, W)."""
        scale = self.affine(w)
        weight = self.weight * self.scale
        # Scaling maps instead of weights is the same sum, and all images share one convolution.
        x = F.conv2d(x * scale[..., None, None].to(x.dtype), weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            # Equation 3: the sum of (style * weight)^2 over inputs and kernel, without a copy of the weights per image.
            squares = scale.square() @ weight.square().sum((2, 3)).t()
            x = x * (squares + 1e-8).rsqrt()[..., None, None].to(x.dtype)
        return x + self.bias[:, None, None].to(x.dtype)


class SynthesisLayer(nn.Module):
    """Modulated convolution, upsampling with ``up``, noise, activation."""

    def __init__(self, channels: int, out: int, style: int, *, up: bool) -> None:
        super().__init__()
        self.convolution = ModulatedConv2d(channels, out, 3, style)
        # Of the noise; 0 at the start, as in the authors' code.
        self.strength = nn.Parameter(torch.zeros(()))
        self.up = up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolution(x, w)
        # After the convolution, at whose lower resolution it costs a quarter.
        x = blur_up(x) if self.up else x
        x = x + draw_noise(len(x), 1, *x.shape[2:], like=x) * self.strength.to(x.dtype)
        return F.leaky_relu(x, _SLOPE) * _GAIN


@dataclass(frozen=True, kw_only=True)
class StyleGAN2GeneratorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True
    spectral: ClassVar[bool] = False

    latent: Count = 128  # numbers per latent
    style: Count = 128  # width of w
    depth: Count = 2  # dense layers of the mapping network
    channels: tuple[Count, ...] = (256, 192, 96, 48, 32)  # at 4, 8, 16, ... pixels; larger images need more of them
    mixing: Share = 0.9  # probability that a training image mixes the styles of two latents

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, len(self.channels) - 1, "a StyleGAN2 generator")


class StyleGAN2Generator(Generator):
    """A ``StyleGenerator`` with one style per convolution."""

    layers: nn.ModuleList

    def __init__(self, config: StyleGAN2GeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        stages = count_doublings(image.resolution)
        widths = scale_widths(config.channels[: stages + 1], config.width)
        self.mixing = config.mixing
        self.num_styles = 2 * stages + 1
        self.embedding = EqualizedLinear(image.classes, config.latent) if image.classes else None
        inputs = config.latent * (2 if image.classes else 1)
        sizes = [inputs, *[config.style] * config.depth]
        self.mapping_layers = nn.ModuleList(
            # Learns a hundred times slower than the rest, as in the paper.
            EqualizedLinear(before, after, gain=_GAIN, lr=0.01)
            for before, after in pairwise(sizes)
        )
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.layers = nn.ModuleList([SynthesisLayer(widths[0], widths[0], config.style, up=False)])
        for before, after in pairwise(widths):
            self.layers.append(SynthesisLayer(before, after, config.style, up=True))
            self.layers.append(SynthesisLayer(after, after, config.style, up=False))
        self.to_image = nn.ModuleList(
            ModulatedConv2d(width, image.channels, 1, config.style, demodulate=False) for width in widths
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate images; in training, some mix the styles of two latents."""
        w = repeat(self.mapping(z, label), "n c -> n k c", k=self.num_styles)
        if self.training and self.mixing > 0:
            w = self.mix_styles(w, self.mapping(torch.randn_like(z), label))
        return self.synthesis(w)

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Map latents (N, latent.dim) to styles (N, style)."""
        # Normalised to length sqrt(dim): only the direction of a latent counts.
        x = _normalise(z)
        if self.embedding is not None:
            x = torch.cat([x, _normalise(self.embedding(one_hot(label, self.image.classes).to(z.dtype)))], 1)
        for layer in self.mapping_layers:
            x = F.leaky_relu(layer(x), _SLOPE)
        return x

    def mix_styles(self, w: Tensor, other: Tensor) -> Tensor:
        """Replace the styles of mixed images by ``other`` from a random layer on.

        Images are mixed with probability ``mixing``.
        Style mixing of Karras et al. 2019, section 3.1.

        Args:
            w: styles (N, num_styles, style).
            other: styles (N, style).

        Returns:
            styles (N, num_styles, style).
        """
        mixed = torch.rand(len(w), 1, 1, device=w.device) < self.mixing
        # From 1: the coarsest style always stays the image's own.
        crossover = torch.randint(1, self.num_styles, (len(w), 1, 1), device=w.device)
        later = torch.arange(self.num_styles, device=w.device)[:, None] >= crossover
        return torch.where(mixed & later, other[:, None], w)

    def synthesis(self, w: Tensor) -> Tensor:
        """Generate images (N, C, H, W) from styles, the coarsest first.

        ``w`` is (N, num_styles, style).
        """
        x = self.constant.expand(w.shape[0], -1, -1, -1)  # traced by zoo export, unlike len(w)
        image = None
        for index, layer in enumerate(self.layers):
            x = layer(x, w[:, index])
            if index % 2 == 0:  # the last layer of its resolution
                residual = self.to_image[index // 2](x, w[:, index])
                image = residual if image is None else blur_up(image) + residual
        assert image is not None
        return image


class DiscriminatorBlock(nn.Module):
    """Residual block at half the resolution: two 3 x 3 and a 1 x 1 convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = EqualizedConv2d(channels, channels, 3, gain=_GAIN)
        self.second = EqualizedConv2d(channels, out, 3, gain=_GAIN)
        self.skip = EqualizedConv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Both paths are blurred before every second pixel is dropped, against aliasing.
        y = F.leaky_relu(self.first(x), _SLOPE)
        y = F.leaky_relu(self.second(blur_down(y)), _SLOPE)
        return (self.skip(blur_down(x)) + y) * math.sqrt(0.5)  # the sum of two terms of variance one


@dataclass(frozen=True, kw_only=True)
class StyleGAN2DiscriminatorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True
    spectral: ClassVar[bool] = False

    channels: tuple[Count, ...] = (256, 192, 96, 48, 32)  # at 4, 8, 16, ... pixels; larger images need more of them
    group: Count = 4  # images whose standard deviation the last convolution sees (see MinibatchStd); 1: none

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, len(self.channels) - 1, "a StyleGAN2 discriminator")


class StyleGAN2Discriminator(Discriminator):
    def __init__(self, config: StyleGAN2DiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        widths = scale_widths(config.channels[count_doublings(image.resolution) :: -1], config.width)
        self.from_image = EqualizedConv2d(image.channels, widths[0], 1, gain=_GAIN)
        self.blocks = nn.Sequential(*starmap(DiscriminatorBlock, pairwise(widths)))
        self.deviation = MinibatchStd(config.group) if config.group > 1 else None
        last = widths[-1]
        self.last = EqualizedConv2d(last + (config.group > 1), last, 3, gain=_GAIN)
        self.dense = EqualizedLinear(last * 16, last, gain=_GAIN)
        self.embedding = EqualizedLinear(image.classes, last) if image.classes else None
        self.verdict = EqualizedLinear(last, last if image.classes else 1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.blocks(F.leaky_relu(self.from_image(x), _SLOPE))
        x = self.deviation(x) if self.deviation is not None else x
        x = F.leaky_relu(self.last(x), _SLOPE)
        x = F.leaky_relu(self.dense(x.flatten(1)), _SLOPE)
        x = self.verdict(x)
        if self.embedding is None:
            return x.squeeze(1)
        embedded = _normalise(self.embedding(one_hot(label, self.image.classes).to(x.dtype)))
        # Projection (Miyato & Koyama 2018), scaled to the variance of a single product.
        return (x * embedded).sum(1) / math.sqrt(x.shape[1])


def _normalise(x: Tensor) -> Tensor:
    """Scale each row of (N, C) to a mean square of one."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


register_architecture(
    "stylegan2",
    generator=(StyleGAN2GeneratorConfig, StyleGAN2Generator),
    discriminator=(StyleGAN2DiscriminatorConfig, StyleGAN2Discriminator),
    paper="Karras et al. 2020, arXiv:1912.04958",
)
