"""The Inception-v3 of FID (C. Szegedy et al., CVPR 2016, in the version of 2015-12-05), rearranged for speed on a CPU.

Same features as torch-fidelity's ``FeatureExtractorInceptionV3`` up to rounding, in a third of the time: batch
normalisation is folded into convolutions, average pooling and the 1x1 convolution after it change places, 1x1
convolutions of one input become one, and the resize is two matrix products; see docs/metrics.md.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.progress import Reporter

INCEPTION_PIXELS = 299
INCEPTION_DIM = 2048
CPU_BATCH = 4  # activations of four images fit into the cache

_TOLERANCE = 1e-4  # of the largest feature; 1e-6 is usual


def reference(state: dict[str, Tensor]) -> nn.Module:
    """Build torch-fidelity's network with these weights (without ``fc``, which features do not need)."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    whole = {**state, "fc.weight": torch.zeros(1008, INCEPTION_DIM), "fc.bias": torch.zeros(1008)}
    file = io.BytesIO()  # it reads weights from a file only, and executes code in it: this file is written here
    torch.save(whole, file)
    file.seek(0)
    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=file)


def build_inception(
    state: dict[str, Tensor], device: torch.device, reporter: Reporter
) -> Inception | OriginalInception:
    """Build the fastest form whose features agree with torch-fidelity's on this machine."""
    original = reference(state)
    count = CPU_BATCH * 3 * 48 * 40
    images = torch.arange(count).mul(7919).remainder(251).to(torch.uint8).reshape(CPU_BATCH, 3, 48, 40)
    samples = [images, images[:, :1]]
    expected = [OriginalInception(original)(sample) for sample in samples]
    for fused in (True, False) if device.type == "cpu" else (False,):
        try:
            network = Inception(original, device, fused=fused)
            features = [network(sample.to(device)).cpu() for sample in samples]
        except (RuntimeError, AttributeError, NotImplementedError):
            continue  # a version of torch or a device without these operators
        if all((a - b).abs().max() <= _TOLERANCE * b.abs().max() for a, b in zip(features, expected, strict=True)):
            return network
    reporter.warn("the fast form of Inception does not agree with torch-fidelity's here, which is used instead")
    return OriginalInception(original.to(device))


class OriginalInception:
    """torch-fidelity's network as it is."""

    batch = CPU_BATCH

    def __init__(self, original: nn.Module) -> None:
        self._original = original

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, 1 or 3, H, W) into float32 (N, 2048)."""
        features: Tensor = self._original(images.expand(-1, 3, -1, -1))[0]
        return features


class Inception:
    """The network in its fast form.

    Args:
        original: torch-fidelity's, on the CPU.
        device: where this one runs.
        fused: whether to use oneDNN's undocumented operators of torch; on the CPU only.
    """

    def __init__(self, original: nn.Module, device: torch.device, *, fused: bool) -> None:
        self._device, self._fused = device, fused
        self.batch = CPU_BATCH if device.type == "cpu" else 64
        layers: dict[str, Any] = dict(original.named_children())
        first, *stem = [name for name in layers if name.startswith("Conv2d")]
        self._first = {channels: self.conv(layers[first], channels=channels) for channels in (1, 3)}
        self._stem = [self.conv(layers[name]) for name in stem]
        self._blocks = [_Block(self, layers[name]) for name in layers if "Mixed" in name]

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, 1 or 3, H, W) into float32 (N, 2048)."""
        count = len(images)
        if self._fused and count < self.batch:  # the layout of the weights is for one batch size
            images = torch.cat([images, images[-1:].expand(self.batch - count, -1, -1, -1)])
        x = resize_for_inception(images)
        x = self._first[x.shape[1]](x.contiguous(memory_format=torch.channels_last))
        x = F.max_pool2d(_apply(self._stem[:2], x), 3, 2)
        x = F.max_pool2d(_apply(self._stem[2:], x), 3, 2)
        for block in self._blocks:
            x = block(x)
        return x.mean(dim=(2, 3))[:count]

    def conv(self, *layers: Any, relu: bool = True, channels: int = 3) -> _Conv:
        """Merge convolutions of one input into one, for this device."""
        return _Conv(layers, self._device, relu=relu, fused=self._fused, grey=channels == 1)


class _Conv:
    """Convolutions of one input and shape as one, with their normalisations, and with or without ReLU."""

    def __init__(self, layers: Sequence[Any], device: torch.device, *, relu: bool, fused: bool, grey: bool) -> None:
        folded = [_fold_norm(layer) for layer in layers]
        weight = torch.cat([weight for weight, _ in folded])
        if grey:  # the three channels would be equal, so their weights are added up
            weight = weight.sum(dim=1, keepdim=True)
        self._weight = weight.float().to(device).contiguous(memory_format=torch.channels_last)
        self._bias = torch.cat([bias for _, bias in folded]).float().to(device)
        self._stride, self._padding = list(layers[0].conv.stride), list(layers[0].conv.padding)
        self._relu, self._fused, self._packed = relu, fused, False

    def __call__(self, x: Tensor) -> Tensor:
        if not self._fused:
            y = F.conv2d(x, self._weight, self._bias, self._stride, self._padding)
            return y.relu_() if self._relu else y
        if not self._packed:  # oneDNN's blocked layout depends on the shape of the input
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._weight = reorder(self._weight.to_mkldnn(), self._padding, self._stride, [1, 1], 1, list(x.shape))
            self._packed = True
        activation = "relu" if self._relu else "none"
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        result: Tensor = convolve(
            x, self._weight, self._bias, self._padding, self._stride, [1, 1], 1, activation, [], ""
        )
        return result


def _fold_norm(layer: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with its batch normalisation folded in, in float64."""
    norm = layer.bn
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = layer.conv.weight.double() * scale[:, None, None, None]
    return weight, norm.bias.double() - norm.running_mean.double() * scale


def _apply(convs: Sequence[_Conv], x: Tensor) -> Tensor:
    for conv in convs:
        x = conv(x)
    return x


# Of each kind of block, the convolutions of its branches. Those that begin with a 1x1 convolution of the block's input
# come first, as many as the number says.
_BRANCHES: dict[str, tuple[int, tuple[tuple[str, ...], ...]]] = {
    "InceptionA": (
        3,
        (("1x1",), ("5x5_1", "5x5_2"), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3")),
    ),
    "InceptionB": (0, (("3x3",), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"))),
    "InceptionC": (
        3,
        (("1x1",), ("7x7_1", "7x7_2", "7x7_3"), tuple(f"7x7dbl_{number}" for number in range(1, 6))),
    ),
    "InceptionD": (2, (("3x3_1", "3x3_2"), tuple(f"7x7x3_{number}" for number in range(1, 5)))),
    "InceptionE": (3, (("1x1",), ("3x3_1",), ("3x3dbl_1", "3x3dbl_2"))),
}


class _Block:
    """One of the mixed blocks: parallel branches of convolutions, and one that pools."""

    def __init__(self, network: Inception, block: Any) -> None:
        kind, _, variant = type(block).__name__.partition("_")
        heads, branches = _BRANCHES[kind]

        def conv(*names: str, relu: bool = True) -> _Conv:
            return network.conv(*(getattr(block, f"branch{name}") for name in names), relu=relu)

        self._heads = conv(*(branch[0] for branch in branches[:heads])) if heads else None
        self._sizes = [getattr(block, f"branch{branch[0]}").conv.out_channels for branch in branches[:heads]]
        self._chains = [[conv(name) for name in branch[min(heads, 1) :]] for branch in branches]
        # The last two branches of E end in two convolutions each, whose results are both used.
        ends = ("3x3_2a", "3x3_2b", "3x3dbl_3a", "3x3dbl_3b") if kind == "InceptionE" else ()
        self._ends = [conv(name) for name in ends]
        # The first E pools by mean; the second by maximum, an old mistake that belongs to FID.
        self._max_pools = variant == "2"
        halves_resolution = kind in ("InceptionB", "InceptionD")
        self._pooled = None if halves_resolution else conv("_pool", relu=self._max_pools)

    def __call__(self, x: Tensor) -> Tensor:
        inputs = [x] * len(self._chains) if self._heads is None else self._heads(x).split(self._sizes, dim=1)
        parts = [_apply(chain, part) for chain, part in zip(self._chains, inputs, strict=True)]
        if self._ends:
            one, three, double = parts
            parts = [one, *(end(part) for end, part in zip(self._ends, (three, three, double, double), strict=True))]
        return torch.cat([*parts, self._pool(x)], dim=1)

    def _pool(self, x: Tensor) -> Tensor:
        if self._pooled is None:
            return F.max_pool2d(x, 3, 2)
        if self._max_pools:
            return self._pooled(F.max_pool2d(x, 3, 1, 1))
        # Averages over the 1x1 convolution and not before it, which is the same and has fewer channels to pool.
        return F.avg_pool2d(self._pooled(x), 3, 1, 1, count_include_pad=False).relu_()


def resize_for_inception(images: Tensor, size: int = INCEPTION_PIXELS) -> Tensor:
    """Resize uint8 (N, C, H, W) as TensorFlow 1 does, to float32 (N, C, size, size) in [-1, 1): (x - 128) / 128."""
    rows, columns = (resize_matrix(length, size).to(images.device) for length in images.shape[2:])
    x = (images.float() - 128) / 128
    return torch.matmul(torch.matmul(rows, x), columns.T)


def resize_matrix(length: int, size: int) -> Tensor:
    """Return weights (size, length): row i interpolates at i * length / size; in float32, as TensorFlow does."""
    place = torch.arange(size, dtype=torch.float32) * torch.tensor(length / size, dtype=torch.float32)
    low = place.long()
    high = (low + 1).clamp_max(length - 1)
    share = place - low.float()
    matrix, index = torch.zeros(size, length), torch.arange(size)
    matrix.index_put_((index, low), 1 - share, accumulate=True)
    return matrix.index_put_((index, high), share, accumulate=True)
