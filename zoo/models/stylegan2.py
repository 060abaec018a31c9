"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), sized for ten thousand grey slices.

Notable: styles scale the maps that go into a convolution and its outputs are divided by the deviation that this would
give them (demodulation); every resolution adds its image to the one below (skip generator); the discriminator is
residual and sees how varied a batch is.

Differs from the paper in: few mapping layers and thin maps; noise is drawn anew for every layer; upsampling is a
convolution followed by bilinear interpolation, and downsampling blurs first (both the filter 1 3 3 1), so that plain
torch does it all; modulation scales maps instead of weights, which is the same sum and lets all images share one
convolution; an image layer takes the style of the convolution before it. Classes as in ADA (Karras et al. 2020,
arXiv:2006.06676, appendix): an embedding next to the latent, and a projection in the discriminator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count, Share
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import (
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStd,
    blur_down,
    blur_up,
    check_stages,
    count_doublings,
    one_hot,
    scale_channels,
)
from zoo.models.registry import register_architecture

_GAIN = math.sqrt(2)  # keeps deviations at one through a leaky ReLU of slope 0.2, nearly
_SLOPE = 0.2


class ModulatedConv2d(nn.Module):
    """A convolution whose weights are scaled by a style, input channel by input channel (Karras et al. 2020, equations
    1 and 3).

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
        """Maps (N, channels, H, W) and styles (N, style) to maps (N, out, H, W)."""
        scale = self.affine(w)
        weight = self.weight * self.scale
        x = F.conv2d(x * scale[..., None, None].to(x.dtype), weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            # The sum over inputs and places of (style * weight)^2, without a copy of the weights for every image.
            squares = scale.square() @ weight.square().sum((2, 3)).t()
            x = x * (squares + 1e-8).rsqrt()[..., None, None].to(x.dtype)
        return x + self.bias[:, None, None].to(x.dtype)


class StyleGAN2Layer(nn.Module):
    """Modulated convolution, upsampling where asked for, noise, activation."""

    def __init__(self, channels: int, out: int, style: int, *, up: bool) -> None:
        super().__init__()
        self.convolution = ModulatedConv2d(channels, out, 3, style)
        self.strength = nn.Parameter(torch.zeros(()))
        self.up = up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolution(x, w)
        x = blur_up(x) if self.up else x
        x = x + torch.randn(len(x), 1, *x.shape[2:], dtype=x.dtype, device=x.device) * self.strength.to(x.dtype)
        return F.leaky_relu(x, _SLOPE) * _GAIN


@dataclass(frozen=True, kw_only=True)
class StyleGAN2GeneratorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True
    spectral: ClassVar[bool] = False

    latent: Count = 128  # dimension of the latent
    style: Count = 128  # width of w
    depth: Count = 2  # dense layers of the mapping network
    channels: tuple[Count, ...] = (256, 192, 96, 48, 32)  # at 4, 8, 16, ... pixels; larger images want more of them
    mixing: Share = 0.9  # probability that a training image mixes the styles of two latents

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, self.channels, "a StyleGAN2 generator", "generator")


class StyleGAN2Generator(Generator):
    """Implements :class:`zoo.models.base.StyleGenerator`: a style for every convolution."""

    def __init__(self, config: StyleGAN2GeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        stages = count_doublings(image.resolution, "a StyleGAN2 generator")
        widths = [scale_channels(c, config.width) for c in config.channels[: stages + 1]]
        self.mixing = config.mixing
        self.num_styles = 2 * stages + 1
        self.embedding = EqualizedLinear(image.classes, config.latent) if image.classes else None
        inside = config.latent * (2 if image.classes else 1)
        sizes = [inside, *[config.style] * config.depth]
        self.mapping_layers = nn.ModuleList(
            EqualizedLinear(before, after, gain=_GAIN, lr=0.01) for before, after in pairwise(sizes)
        )
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.layers = nn.ModuleList([StyleGAN2Layer(widths[0], widths[0], config.style, up=False)])
        self.to_image = nn.ModuleList()
        for before, after in pairwise(widths):
            self.layers.append(StyleGAN2Layer(before, after, config.style, up=True))
            self.layers.append(StyleGAN2Layer(after, after, config.style, up=False))
        for width in widths:
            self.to_image.append(ModulatedConv2d(width, image.channels, 1, config.style, demodulate=False))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents (N, latent.dim) to images; in training, some of them of two latents (see ``mixed``)."""
        w = repeat(self.mapping(z, label), "n c -> n k c", k=self.num_styles)
        if self.training and self.mixing > 0:
            w = self.mixed(w, self.mapping(torch.randn_like(z), label))
        return self.synthesis(w)

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents (N, latent.dim) to styles (N, style)."""
        x = _unit(z)
        if self.embedding is not None:
            x = torch.cat([x, _unit(self.embedding(one_hot(label, self.image.classes).to(z.dtype)))], 1)
        for layer in self.mapping_layers:
            x = F.leaky_relu(layer(x), _SLOPE)
        return x

    def mixed(self, w: Tensor, other: Tensor) -> Tensor:
        """With probability ``mixing``, an image takes another's styles from a random layer on (Karras et al. 2019,
        section 3.1).

        Args:
            w: styles (N, num_styles, style).
            other: styles (N, style).

        Returns:
            styles (N, num_styles, style).
        """
        mixes = torch.rand(len(w), 1, 1, device=w.device) < self.mixing
        crossover = torch.randint(1, self.num_styles, (len(w), 1, 1), device=w.device)
        later = torch.arange(self.num_styles, device=w.device)[:, None] >= crossover
        return torch.where(mixes & later, other[:, None], w)

    def synthesis(self, w: Tensor) -> Tensor:
        """Styles (N, num_styles, style), the coarsest first, to images (N, C, H, W)."""
        x = self.constant.expand(len(w), -1, -1, -1)
        image = None
        for index, layer in enumerate(self.layers):
            x = layer(x, w[:, index])
            if index % 2 == 0:  # the last layer of its resolution
                more = self.to_image[index // 2](x, w[:, index])
                image = more if image is None else blur_up(image) + more
        assert image is not None
        return image


class StyleGAN2Residual(nn.Module):
    """Two convolutions in parallel with a 1 x 1 convolution; halves the resolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = EqualizedConv2d(channels, channels, 3, gain=_GAIN)
        self.second = EqualizedConv2d(channels, out, 3, gain=_GAIN)
        self.skip = EqualizedConv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first(x), _SLOPE)
        y = F.leaky_relu(self.second(blur_down(y)), _SLOPE)
        return (self.skip(blur_down(x)) + y) * math.sqrt(0.5)  # of two summands of variance one


@dataclass(frozen=True, kw_only=True)
class StyleGAN2DiscriminatorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True
    spectral: ClassVar[bool] = False

    channels: tuple[Count, ...] = (256, 192, 96, 48, 32)  # at 4, 8, 16, ... pixels; larger images want more of them
    group: Count = 4  # images whose deviation from one another is shown to the last convolution; 1: none

    def validate(self, image: ImageSpec) -> None:
        check_stages(image.resolution, self.channels, "a StyleGAN2 discriminator", "discriminator")


class StyleGAN2Discriminator(Discriminator):
    def __init__(self, config: StyleGAN2DiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        stages = count_doublings(image.resolution, "a StyleGAN2 discriminator")
        widths = [scale_channels(c, config.width) for c in reversed(config.channels[: stages + 1])]
        self.from_image = EqualizedConv2d(image.channels, widths[0], 1, gain=_GAIN)
        self.blocks = nn.Sequential(*(StyleGAN2Residual(before, after) for before, after in pairwise(widths)))
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
        return (x * _unit(self.embedding(one_hot(label, self.image.classes).to(x.dtype)))).sum(1) / math.sqrt(
            x.shape[1]
        )


def _unit(x: Tensor) -> Tensor:
    """(N, C), each row with a mean square of one."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


register_architecture(
    "stylegan2",
    generator=(StyleGAN2GeneratorConfig, StyleGAN2Generator),
    discriminator=(StyleGAN2DiscriminatorConfig, StyleGAN2Discriminator),
    paper="Karras et al. 2020, arXiv:1912.04958",
)
