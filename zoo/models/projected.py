"""Projected GAN (Sauer et al. 2021, arXiv:2111.01007).

Notable: the discriminator works on the features of a frozen classifier of photographs. Random frozen convolutions mix
the maps of four scales, and a small discriminator learns on each. Everything frozen is a buffer, with batch norms
folded into convolutions. Differs from the paper in: EfficientNet-Lite0, ``input`` pixels, projected labels (Miyato &
Koyama 2018, arXiv:1802.05637), and FastGAN's generator without noise and with a linear output (docs/architectures.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.core.schema import Count
from zoo.models import Discriminator, Generator, ImageSpec, LatentSpec, NetworkConfig
from zoo.models.layers import (
    apply_spectral_norm,
    count_doublings,
    glorot_uniform,
    halving_conv,
    require_label,
    scale_channels,
    with_batch_norm,
)
from zoo.models.registry import register_architecture
from zoo.models.skip_layer_excitation import FastGANBody

TIMM_BACKBONE = "tf_efficientnet_lite0"  # timm's name of the frozen network
BACKBONE_STRIDE = 32  # input pixels per pixel of the coarsest map; each finer one has half of that


@dataclass(frozen=True, kw_only=True)
class ProjectedGeneratorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True

    latent: Count = 256  # numbers per latent
    base: Count = 64  # channels at 128 px; twice as many at 64 and 32 px, and from there at each halving, down to 4 x 4
    embedding: Count = 128  # numbers per class, appended to the latent

    def validate(self, image: ImageSpec) -> None:
        count_doublings(image.resolution, "a projected GAN's generator")


class ProjectedGenerator(Generator):
    def __init__(self, config: ProjectedGeneratorConfig, image: ImageSpec) -> None:
        super().__init__(config, image, LatentSpec(dim=config.latent))
        self.embedding = nn.Embedding(image.classes, config.embedding) if image.classes else None
        inputs = config.latent + (config.embedding if image.classes else 0)
        self.body = FastGANBody(inputs, image.channels, image.resolution, config.base * config.width, deep=False)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate images (N, C, H, W) with a linear output.

        Raises:
            ValueError: there are classes and ``label`` is None.
        """
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(require_label(label)).to(z.dtype)], dim=1)
        return self.body(z)


class FrozenFeatures(nn.Module):
    """Map images to four maps of timm's frozen network, finest first.

    Images are (N, 1 or 3, H, W) in [-1, 1].
    Their sides are 1/4, 1/8, 1/16 and 1/32 of ``size``. Weights are random until :meth:`adopt`.

    Attributes:
        size: pixels per side that images are resized to (bilinear).
        channels: of the four maps.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        import timm

        self.size = size
        network = _timm_network()
        self.channels: list[int] = network.feature_info.channels()  # type: ignore[operator, union-attr]
        # Folded: in eval mode a batch norm is an affine map of the convolution's output.
        self.network = freeze_as_buffers(fold_batch_norms(network))
        pretrained = timm.get_pretrained_cfg(TIMM_BACKBONE)
        assert pretrained is not None
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pretrained.mean, pretrained.std))
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", 0.5 / std)  # from [-1, 1] to [0, 1], then to timm's normalisation
        self.register_buffer("shift", (0.5 - mean) / std)
        self.train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        x = x * self.gain + self.shift  # grey images become three channels by broadcasting
        if x.device.type != "cpu":
            return self.network(x)
        # On a CPU, depthwise convolutions are faster in channels_last, and their gradients in fp32.
        with torch.autocast("cpu", enabled=False):
            return self.network(x.to(self.gain.dtype, memory_format=torch.channels_last))

    def train(self, mode: bool = True) -> FrozenFeatures:
        return super().train(False)  # the outer network's train() must not reach it

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of timm's classifier, all but its last layer.

        Raises:
            KeyError: a tensor is missing; the argument is its name.
            RuntimeError: a tensor has another shape.
        """
        with torch.device("cpu"):  # where the tensors of the file are
            network = _timm_network()
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        self.network.load_state_dict(freeze_as_buffers(fold_batch_norms(network)).state_dict())


def _timm_network() -> nn.Module:
    """Build the backbone with random weights, in eval mode.

    Its outputs are the maps of its last four scales.
    """
    import timm

    return timm.create_model(TIMM_BACKBONE, features_only=True, pretrained=False, out_indices=(1, 2, 3, 4)).eval()


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch norm of a timm network into the convolution before it.

    In eval mode and in place; activations stay.
    """
    convolution = ("", nn.Conv2d(1, 1, 1))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = (name, module)
        elif isinstance(module, nn.BatchNorm2d):
            network.set_submodule(convolution[0], fuse_conv_bn_eval(convolution[1], module))
            network.set_submodule(name, getattr(module, "act", nn.Identity()))  # timm's norms contain the activation
    return network


def freeze_as_buffers(module: nn.Module) -> nn.Module:
    """Replace parameters by buffers, in place.

    Optimisers, requires_grad_() and parameter counts then leave them out.
    """
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)  # a name cannot be a parameter and a buffer
            part.register_buffer(name, parameter.detach())
    return module


class RandomProjection(nn.Module):
    """Mix maps across channels and scales by random frozen convolutions.

    Sauer et al. 2021, section 3.2.
    1 x 1 convolutions mix the channels of each map. Then, from the coarsest on, a 3 x 3 convolution of each mixed map
    is upsampled and added to the next finer one.

    Args:
        channels: of the maps, finest first.
        out: of the mixed maps.
    """

    def __init__(self, channels: list[int], out: list[int]) -> None:
        super().__init__()
        self.channels = nn.ModuleList(
            nn.Conv2d(before, after, 1, bias=False) for before, after in zip(channels, out, strict=True)
        )
        self.scales = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1, bias=False) for fine, coarse in pairwise(out))
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.kaiming_normal_(convolution.weight)
        freeze_as_buffers(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        mixed = [mix(x) for mix, x in zip(self.channels, maps, strict=True)]
        for index in reversed(range(len(self.scales))):
            coarse = self.scales[index](mixed[index + 1])
            coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
            mixed[index] = mixed[index] + coarse
        return mixed


class DiscriminatorHead(nn.Module):
    """Small discriminator on one map, with a logit per pixel.

    ``halvings`` of the resolution double channels up to ``limit``.
    """

    def __init__(self, channels: int, halvings: int, limit: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(halvings):
            out = min(2 * channels, limit)
            layers += with_batch_norm(halving_conv(channels, out, 4), nn.LeakyReLU(0.2))
            channels = out
        self.layers = nn.Sequential(*layers)
        self.verdict = nn.Conv2d(channels, 1, 3, padding=1)
        self.embedding = nn.Embedding(classes, channels) if classes else None

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """Map (N, channels, h, w), and labels (N,) or None, to logits (N, pixels)."""
        x = self.layers(x)
        logits = self.verdict(x)
        if self.embedding is not None:
            embedded = self.embedding(require_label(label)).to(x.dtype)
            # Projection (Miyato & Koyama 2018), scaled to the variance of a single product.
            logits = logits + torch.einsum("nchw, nc -> nhw", x, embedded).unsqueeze(1) / x.shape[1] ** 0.5
        return logits.flatten(1)


@dataclass(frozen=True, kw_only=True)
class ProjectedDiscriminatorConfig(NetworkConfig):
    conditional: ClassVar[bool] = True

    base: Count = 64  # channels of the finest mixed map; the next have 2, 4 and 8 times as many, at which heads end
    input: Count | None = None  # pixels of the backbone's input, a multiple of 32; null: the image's, at least 128
    pretrained: bool = True  # false: its weights stay random

    def input_size(self, image: ImageSpec) -> int:
        """Return the pixels per side of the frozen network's input."""
        return self.input or max(128, -(-image.resolution // BACKBONE_STRIDE) * BACKBONE_STRIDE)

    def validate(self, image: ImageSpec) -> None:
        if image.channels not in (1, 3):
            raise ValueError(f"a projected discriminator supports 1 or 3 channels, not {image.channels}")
        if self.input_size(image) % BACKBONE_STRIDE:
            raise ValueError(f"discriminator.input: must be a multiple of {BACKBONE_STRIDE} pixels, not {self.input}")


class ProjectedDiscriminator(Discriminator):
    """Return logits (N, 4 k): k from each head, finest first."""

    def __init__(self, config: ProjectedDiscriminatorConfig, image: ImageSpec) -> None:
        super().__init__(config, image)
        self.pretrained = {"features": TIMM_BACKBONE} if config.pretrained else {}
        self.features = FrozenFeatures(config.input_size(image))
        widths = [scale_channels(config.base * 2**scale, config.width) for scale in range(len(self.features.channels))]
        self.mixing = RandomProjection(self.features.channels, widths)
        coarsest = config.input_size(image) // BACKBONE_STRIDE
        # Logits at most 7 x 7 per head: 4 x 4 at 128 px and 256 px, as in the paper.
        further = max(0, (coarsest // 4).bit_length() - 1)
        self.heads = nn.ModuleList(
            DiscriminatorHead(width, len(widths) - 1 - scale + further, widths[-1], image.classes)
            for scale, width in enumerate(widths)
        )
        apply_spectral_norm(self.heads.apply(glorot_uniform))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        maps = self.mixing(self.features(x))
        return torch.cat([head(x, label) for head, x in zip(self.heads, maps, strict=True)], dim=1)


register_architecture(
    "projected",
    generator=(ProjectedGeneratorConfig, ProjectedGenerator),
    discriminator=(ProjectedDiscriminatorConfig, ProjectedDiscriminator),
    paper="Sauer et al. 2021, arXiv:2111.01007",
)
