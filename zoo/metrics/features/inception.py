"""The Inception-v3 of FID, rearranged to be fast on a CPU: the same features in a third of the time.

C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, in the version of 2015-12-05
with which FID is defined. Layers and weights are those of torch-fidelity's ``FeatureExtractorInceptionV3``; what is
done differently changes rounding only:

- Batch normalisation is folded into the convolution before it.
- Average pooling and the 1x1 convolution after it change places: both are linear, and pooling sums to one everywhere.
- All 1x1 convolutions of one input are one convolution.
- The resize of TensorFlow 1 (bilinear, corners not centred) is two small matrix products, of one channel for grey
  images, whose first convolution has the sum of its weights over the channels.
- Channels last, four images at a time, which stay in the cache; on a CPU oneDNN's own convolution with the ReLU in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.progress import Reporter

SIZE = 299
DIM = 2048
BATCH = 4

_AGREE = 1e-4  # of the largest feature; 1e-6 is usual


def reference(state: dict[str, Tensor]) -> nn.Module:
    """torch-fidelity's network with these weights (without ``fc``, which features do not need)."""
    import io

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    whole = {**state, "fc.weight": torch.zeros(1008, DIM), "fc.bias": torch.zeros(1008)}
    file = io.BytesIO()  # it takes its weights from a file only, and not with weights_only: this one is ours
    torch.save(whole, file)
    file.seek(0)
    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=file)


def build_inception(state: dict[str, Tensor], device: torch.device, reporter: Reporter) -> Inception | Plain:
    """The fastest form that agrees with torch-fidelity's on this machine."""
    original = reference(state)
    count = BATCH * 3 * 48 * 40
    images = torch.arange(count).mul(7919).remainder(251).to(torch.uint8).reshape(BATCH, 3, 48, 40)
    samples = [images, images[:, :1]]
    expected = [Plain(original)(sample) for sample in samples]
    for fused in (True, False) if device.type == "cpu" else (False,):
        try:
            network = Inception(original, device, fused=fused)
            found = [network(sample.to(device)).cpu() for sample in samples]
        except (RuntimeError, AttributeError, NotImplementedError):
            continue  # a torch or a device without these operators
        if all((a - b).abs().max() <= _AGREE * b.abs().max() for a, b in zip(found, expected, strict=True)):
            return network
    reporter.warn("the fast form of Inception does not agree with torch-fidelity's here, whose own is used")
    return Plain(original.to(device))


class Plain:
    """torch-fidelity's network as it is."""

    batch = BATCH

    def __init__(self, original: nn.Module) -> None:
        self._original = original

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) to float32 (N, 2048)."""
        features: Tensor = self._original(images.expand(-1, 3, -1, -1))[0]
        return features


class Inception:
    """The network in its fast form.

    Args:
        original: torch-fidelity's, on the CPU.
        device: where this one is to run.
        fused: with oneDNN's operators, which torch does not document; on the CPU only.
    """

    def __init__(self, original: nn.Module, device: torch.device, *, fused: bool) -> None:
        self._device, self._fused = device, fused
        self.batch = BATCH if device.type == "cpu" else 64
        blocks: dict[str, Any] = dict(original.named_children())
        stem = [name for name in blocks if name.startswith("Conv2d")]
        self._first = {channels: self._conv(blocks[stem[0]], channels=channels) for channels in (1, 3)}
        self._stem = [self._conv(blocks[name]) for name in stem[1:]]
        self._blocks = [_KINDS[type(block).__name__](self, block) for name, block in blocks.items() if "Mixed" in name]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) to float32 (N, 2048)."""
        count = len(images)
        if self._fused and count < self.batch:  # weights are laid out for one batch size
            images = torch.cat([images, images[-1:].expand(self.batch - count, -1, -1, -1)])
        x = resize_for_inception(images)
        x = self._first[x.shape[1]](x.contiguous(memory_format=torch.channels_last))
        x = F.max_pool2d(self._stem[1](self._stem[0](x)), 3, 2)
        x = F.max_pool2d(self._stem[3](self._stem[2](x)), 3, 2)
        for block in self._blocks:
            x = block(x)
        return x.mean(dim=(2, 3))[:count]

    def _conv(self, *layers: Any, relu: bool = True, channels: int = 3) -> _Conv:
        return _Conv(layers, self._device, relu=relu, fused=self._fused, grey=channels == 1)


class _Conv:
    """Convolutions of one input and one shape as one, with their normalisations, and with ReLU or without."""

    def __init__(self, layers: Sequence[Any], device: torch.device, *, relu: bool, fused: bool, grey: bool) -> None:
        folded = [_fold(layer) for layer in layers]
        weight = torch.cat([weight for weight, _ in folded])
        weight = weight.sum(dim=1, keepdim=True) if grey else weight
        self._weight = weight.float().to(device).contiguous(memory_format=torch.channels_last)
        self._bias = torch.cat([bias for _, bias in folded]).float().to(device)
        self._stride, self._padding = list(layers[0].conv.stride), list(layers[0].conv.padding)
        self._relu, self._fused, self._packed = relu, fused, False

    def __call__(self, x: Tensor) -> Tensor:
        if not self._fused:
            y = F.conv2d(x, self._weight, self._bias, self._stride, self._padding)
            return y.relu_() if self._relu else y
        if not self._packed:  # oneDNN's blocked layout, which depends on the input's shape
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._weight = reorder(self._weight.to_mkldnn(), self._padding, self._stride, [1, 1], 1, list(x.shape))
            self._packed = True
        after = "relu" if self._relu else "none"
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        done: Tensor = convolve(x, self._weight, self._bias, self._padding, self._stride, [1, 1], 1, after, [], "")
        return done


def _fold(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its batch normalisation, in float64."""
    norm = layer.bn
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return layer.conv.weight.double() * scale[
        :, None, None, None
    ], norm.bias.double() - norm.running_mean.double() * scale


class _Heads:
    """The 1x1 convolutions that a block begins with, one of them before average pooling."""

    def __init__(self, network: Inception, block: Any, names: Sequence[str], *, pool: bool) -> None:
        layers = [getattr(block, name) for name in names]
        self._sizes = [layer.conv.out_channels for layer in layers]
        self._convs = network._conv(*layers)
        self._pooled = network._conv(block.branch_pool, relu=False) if pool else None

    def __call__(self, x: Tensor) -> list[Tensor]:
        heads = list(self._convs(x).split(self._sizes, dim=1))
        if self._pooled is not None:
            heads.append(F.avg_pool2d(self._pooled(x), 3, 1, 1, count_include_pad=False).relu_())
        return heads


def _chain(network: Inception, block: Any, *names: str) -> list[_Conv]:
    return [network._conv(getattr(block, name)) for name in names]


def _through(convs: Sequence[_Conv], x: Tensor) -> Tensor:
    for conv in convs:
        x = conv(x)
    return x


class _A:
    def __init__(self, network: Inception, block: Any) -> None:
        self._heads = _Heads(network, block, ["branch1x1", "branch5x5_1", "branch3x3dbl_1"], pool=True)
        self._five = _chain(network, block, "branch5x5_2")
        self._double = _chain(network, block, "branch3x3dbl_2", "branch3x3dbl_3")

    def __call__(self, x: Tensor) -> Tensor:
        one, five, double, pool = self._heads(x)
        return torch.cat([one, _through(self._five, five), _through(self._double, double), pool], dim=1)


class _B:
    def __init__(self, network: Inception, block: Any) -> None:
        self._three = _chain(network, block, "branch3x3")
        self._double = _chain(network, block, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([_through(self._three, x), _through(self._double, x), F.max_pool2d(x, 3, 2)], dim=1)


class _C:
    def __init__(self, network: Inception, block: Any) -> None:
        self._heads = _Heads(network, block, ["branch1x1", "branch7x7_1", "branch7x7dbl_1"], pool=True)
        self._seven = _chain(network, block, "branch7x7_2", "branch7x7_3")
        self._double = _chain(network, block, *(f"branch7x7dbl_{number}" for number in (2, 3, 4, 5)))

    def __call__(self, x: Tensor) -> Tensor:
        one, seven, double, pool = self._heads(x)
        return torch.cat([one, _through(self._seven, seven), _through(self._double, double), pool], dim=1)


class _D:
    def __init__(self, network: Inception, block: Any) -> None:
        self._heads = _Heads(network, block, ["branch3x3_1", "branch7x7x3_1"], pool=False)
        self._three = _chain(network, block, "branch3x3_2")
        self._seven = _chain(network, block, *(f"branch7x7x3_{number}" for number in (2, 3, 4)))

    def __call__(self, x: Tensor) -> Tensor:
        three, seven = self._heads(x)
        return torch.cat([_through(self._three, three), _through(self._seven, seven), F.max_pool2d(x, 3, 2)], dim=1)


class _E:
    """The first of its kind pools by mean; the second, by an old mistake that belongs to FID, by maximum."""

    def __init__(self, network: Inception, block: Any) -> None:
        mean = type(block).__name__ == "InceptionE_1"
        self._heads = _Heads(network, block, ["branch1x1", "branch3x3_1", "branch3x3dbl_1"], pool=mean)
        self._pooled = None if mean else network._conv(block.branch_pool)
        self._double = _chain(network, block, "branch3x3dbl_2")
        self._ends = _chain(network, block, "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b")

    def __call__(self, x: Tensor) -> Tensor:
        one, three, double, *pool = self._heads(x)
        double = _through(self._double, double)
        ends = [conv(part) for conv, part in zip(self._ends, (three, three, double, double), strict=True)]
        pool = pool if self._pooled is None else [self._pooled(F.max_pool2d(x, 3, 1, 1))]
        return torch.cat([one, *ends, *pool], dim=1)


_KINDS: dict[str, Any] = {
    "InceptionA": _A,
    "InceptionB": _B,
    "InceptionC": _C,
    "InceptionD": _D,
    "InceptionE_1": _E,
    "InceptionE_2": _E,
}


def resize_for_inception(images: Tensor, size: int = SIZE) -> Tensor:
    """uint8 (N, C, H, W) to float32 (N, C, size, size) in [-1, 1), as TensorFlow 1 resizes; (x - 128) / 128."""
    rows, columns = (resize_matrix(length, size).to(images.device) for length in images.shape[2:])
    x = (images.float() - 128) / 128
    return torch.matmul(torch.matmul(rows, x), columns.T)


def resize_matrix(length: int, size: int) -> Tensor:
    """(size, length): row i weighs the neighbours of i * length / size; in float32, as TensorFlow does."""
    place = torch.arange(size, dtype=torch.float32) * torch.tensor(length / size, dtype=torch.float32)
    low = place.long()
    high = (low + 1).clamp_max(length - 1)
    share = place - low.float()
    matrix, index = torch.zeros(size, length), torch.arange(size)
    matrix.index_put_((index, low), 1 - share, accumulate=True)
    return matrix.index_put_((index, high), share, accumulate=True)
