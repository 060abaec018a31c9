"""Projected GAN (Sauer et al. 2021, arXiv:2111.01007): a discriminator that looks through a frozen network.

Notable: images are shown to a network that was trained to tell photographs apart; maps of four of its scales are mixed
across channels and across scales by random convolutions, and a small discriminator learns on each. Nothing that is
frozen is a parameter: all of it is buffers, with the network's batch norms folded into its convolutions.

Differs from the paper in: the smaller EfficientNet-Lite0; images are resized to ``input`` pixels, on which the logits'
resolution follows; projected labels (Miyato & Koyama 2018, arXiv:1802.05637) where there are classes; the generator,
FastGAN's as in the paper, has one convolution a doubling, no noise inputs and a linear output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.core.config import ImageSpec, LatentSpec, NetworkConfig
from zoo.core.schema import Count
from zoo.models.base import Discriminator, Generator
from zoo.models.layers import (
    ExcitedBody,
    apply_spectral_norm,
    count_doublings,
    glorot_uniform,
    require_label,
    scale_channels,
)
from zoo.models.registry import register_architecture

FEATURES = "tf_efficientnet_lite0"  # timm's name of the frozen network
COARSEST = 32  # pixels of what it is shown to one of its last maps; the three scales before have half as many each


@dataclass(frozen=True, kw_only=True)
class ProjectedGeneratorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True

    latent: Count = 256  # dimension of the latent
    base: Count = 64  # channels at 128 px; twice as many at 64 and 32 px, and from there at each halving, down to 4 x 4
    embedding: Count = 128  # numbers a class adds to them, where there are classes

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a projected GAN's generator")


class ProjectedGenerator(Generator):
    def __init__(self, config: ProjectedGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        self.embedding = nn.Embedding(image.classes, config.embedding) if image.classes else None
        inputs = config.latent + (config.embedding if image.classes else 0)
        base = config.base * config.width
        self.body = ExcitedBody(inputs, image.channels, image.resolution, base, deep=False)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """``z`` (N, latent.dim) and, where there are classes, labels (N,) to images (N, C, H, W).

        Raises:
            ValueError: there are classes and no labels.
        """
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(require_label(label)).to(z.dtype)], dim=1)
        return self.body(z)


class Features(nn.Module):
    """timm's frozen network: images (N, 1 or 3, H, W) in [-1, 1] to its maps at a fourth of ``size``, an eighth, a
    sixteenth and a thirty-second, finest first; random ones until :meth:`adopt`.

    Attributes:
        size: pixels a side that images are brought to (bilinear) before they are shown.
        channels: of the four maps.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        import timm

        self.size = size
        network = _timm_network()
        self.channels: list[int] = network.feature_info.channels()  # type: ignore[operator, union-attr]
        self.network = frozen(folded(network))
        known = timm.get_pretrained_cfg(FEATURES)
        assert known is not None
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (known.mean, known.std))
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", 0.5 / std)  # from [-1, 1] to [0, 1], and from there as it was trained
        self.register_buffer("shift", (0.5 - mean) / std)
        self.train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        x = x * self.gain + self.shift  # a grey image becomes three channels here
        if x.device.type != "cpu":
            return self.network(x)
        # Convolutions of single channels are faster in this layout there, and their gradients in this precision.
        with torch.autocast("cpu", enabled=False):
            return self.network(x.to(self.gain.dtype, memory_format=torch.channels_last))

    def train(self, mode: bool = True) -> Features:
        return super().train(False)

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of timm's whole classifier, of which the classifier itself is left.

        Raises:
            KeyError: a tensor is missing, by this name.
            RuntimeError: one is of another shape.
        """
        with torch.device("cpu"):
            network = _timm_network()
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        self.network.load_state_dict(frozen(folded(network)).state_dict())


def _timm_network() -> nn.Module:
    """With random weights, in eval mode, of which only the maps of the last four scales are asked."""
    import timm

    return timm.create_model(FEATURES, features_only=True, pretrained=False, out_indices=(1, 2, 3, 4)).eval()


def folded(network: nn.Module) -> nn.Module:
    """``network``, in eval mode, with every batch norm folded into the convolution before it; activations stay."""
    convolution = ("", nn.Conv2d(1, 1, 1))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = (name, module)
        elif isinstance(module, nn.BatchNorm2d):
            network.set_submodule(convolution[0], fuse_conv_bn_eval(convolution[1], module))
            network.set_submodule(name, getattr(module, "act", nn.Identity()))  # timm's norms end in an activation
    return network


def frozen(module: nn.Module) -> nn.Module:
    """``module`` with buffers for parameters: no optimiser, no switch of gradients and no count finds them."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module


class Mixing(nn.Module):
    """Random and frozen: 1 x 1 convolutions mix the channels of each map; then, from the coarsest on, a 3 x 3
    convolution of what is mixed, enlarged, is added to the next finer map (Sauer et al. 2021, section 3.2).

    Args:
        channels: of the maps, finest first.
        out: of the mixed maps.
    """

    def __init__(self, channels: list[int], out: list[int]) -> None:
        super().__init__()
        self.channels = nn.ModuleList(nn.Conv2d(c, o, 1, bias=False) for c, o in zip(channels, out, strict=True))
        pairs = zip(out[1:], out, strict=False)
        self.scales = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1, bias=False) for coarse, fine in pairs)
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.kaiming_normal_(convolution.weight)
        frozen(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        mixed = [mix(x) for mix, x in zip(self.channels, maps, strict=True)]
        for index in reversed(range(len(self.scales))):
            coarse = self.scales[index](mixed[index + 1])
            coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
            mixed[index] = mixed[index] + coarse
        return mixed


class Head(nn.Module):
    """A small discriminator: halves its map several times, doubling channels up to ``most``; one logit per position."""

    def __init__(self, channels: int, halvings: int, most: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(halvings):
            out = min(2 * channels, most)
            layers += [
                nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.LeakyReLU(0.2),
            ]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.verdict = nn.Conv2d(channels, 1, 3, padding=1)
        self.embedding = nn.Embedding(classes, channels) if classes else None

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """Maps (N, channels, h, w) and, where there are classes, labels (N,) to logits (N, places)."""
        x = self.layers(x)
        logits = self.verdict(x)
        if self.embedding is not None:
            label_is = self.embedding(require_label(label))
            logits = logits + torch.einsum("nchw, nc -> nhw", x, label_is.to(x.dtype)).unsqueeze(1) / x.shape[1] ** 0.5
        return logits.flatten(1)


@dataclass(frozen=True, kw_only=True)
class ProjectedDiscriminatorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True

    base: Count = 64  # channels of the finest mixed map; the next have 2, 4 and 8 times as many, and so much the heads
    input: Count | None = None  # pixels the frozen network is shown, a multiple of 32; null: the image's, at least 128
    pretrained: bool = True  # false: its weights stay random

    def size(self, image: ImageSpec) -> int:
        """Pixels a side that the frozen network is shown."""
        return self.input or max(128, -(-image.resolution // COARSEST) * COARSEST)

    def validate(self, image: ImageSpec) -> None:
        if image.channels not in (1, 3):
            raise ValueError(f"a projected discriminator takes 1 or 3 channels, not {image.channels}")
        if self.size(image) % COARSEST:
            raise ValueError(f"discriminator.input: takes multiples of {COARSEST} pixels, not {self.input}")


class ProjectedDiscriminator(Discriminator):
    """Logits (N, 4 k), of each head the same number k, finest first."""

    def __init__(self, config: ProjectedDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        self.pretrained = {"features": FEATURES} if config.pretrained else {}
        self.features = Features(config.size(image))
        widths = [scale_channels(config.base * 2**scale, config.width) for scale in range(len(self.features.channels))]
        self.mixing = Mixing(self.features.channels, widths)
        coarsest = config.size(image) // COARSEST
        further = max(0, (coarsest // 4).bit_length() - 1)  # to at most 7 x 7 logits; 4 x 4 from 128 px or 256
        self.heads = nn.ModuleList(
            Head(width, len(widths) - 1 - scale + further, widths[-1], image.classes)
            for scale, width in enumerate(widths)
        )
        apply_spectral_norm(self.heads.apply(glorot_uniform))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        maps = self.mixing(self.features(x))
        return torch.cat([head(each, label) for head, each in zip(self.heads, maps, strict=True)], dim=1)


register_architecture(
    "projected",
    generator=(ProjectedGeneratorConfig, ProjectedGenerator),
    discriminator=(ProjectedDiscriminatorConfig, ProjectedDiscriminator),
    paper="Sauer et al. 2021, arXiv:2111.01007",
)
