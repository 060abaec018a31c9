"""Write trained generators as ONNX files, which other programs and browsers run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file
from zoo.core.output_place import check_file
from zoo.core.version import version
from zoo.hub.load import LoadedGenerator, load_generator
from zoo.hub.onnx_graph import OPSET, NetworkPart, copy_to_cpu, require_onnx, run_graph, trace_graph
from zoo.models.base import Generator
from zoo.runtime import rng
from zoo.runtime.torch_defaults import torch_defaults

ONNX_SUFFIX = ".onnx"
NOT_FOR_DIAGNOSIS = "For research, not for diagnosis."
MAX_MEAN_DIFFERENCE = 1.0  # grey levels between torch's images and those of an exported network
_TRACE_BATCH, _CHECK_BATCHES = 2, (1, 3)  # other sizes than that of tracing show whether the batch is dynamic
_GREY_LEVELS = 127.5  # in a unit of an image from -1 to 1


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How much ONNX Runtime's images differ from torch's, in grey levels of 256.

    Attributes:
        max_difference: the largest of all pixels.
        mean_difference: their mean.
        images: number of images that were compared.
    """

    max_difference: float
    mean_difference: float
    images: int

    def __str__(self) -> str:
        values = f"mean {self.mean_difference:.2g}, largest {self.max_difference:.2g} grey levels"
        return f"difference from torch in {self.images} images: {values}"


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """An exported file.

    Attributes:
        path: of the file.
        size: in bytes.
        inputs: shape of one image's share of each input, by name.
        parity: with torch.
        opset: version of the ONNX operators.
        fp16: whether weights are stored with 16 bits.
    """

    path: Path
    size: int
    inputs: dict[str, list[int]]
    parity: Parity
    fp16: bool
    opset: int = OPSET


@torch_defaults()
def export(
    source: str | os.PathLike[str] | LoadedGenerator,
    to: str | os.PathLike[str],
    *,
    fp16: bool = False,
    runs: str | Path = "runs",
) -> OnnxExport:
    """Write a generator as an ONNX file, after comparing its images with torch's.

    Inputs are ``z`` (N, latent.dim), ``label`` (N,) int64 where there are classes, and ``noise`` (N, K), standard
    normal numbers (0: none), where the network draws noise. The output ``images`` is (N, C, H, W) in about [-1, 1].

    Args:
        source: what :func:`zoo.load_generator` takes, or a loaded generator.
        to: the file to write.
        fp16: store weights with 16 bits; arithmetic stays fp32.
        runs: folder in which names are looked up.

    Raises:
        ZooError: no such generator; a package is missing; a network that ONNX cannot express; images that differ by
            more than ``MAX_MEAN_DIFFERENCE``; or the file cannot be written. An older file then stays as it was.
    """
    path = Path(to)
    require_onnx("zoo export")
    loaded = source if isinstance(source, LoadedGenerator) else load_generator(source, runs=runs)
    check_file(path, (ONNX_SUFFIX,), "an exported generator")
    generator = copy_to_cpu(loaded.ready())
    graph, parity, part = export_part(generator, generator, "images", _notes(loaded), fp16=fp16)
    try:
        with atomic_file(path) as file:
            file.write(graph)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error_reason(error)})") from None
    inputs = {name: list(value.shape[1:]) for name, value in part.inputs.items()}
    return OnnxExport(path=path, size=len(graph), inputs=inputs, parity=parity, fp16=fp16)


def export_part(
    generator: Generator,
    function: Callable[..., Tensor],
    output: str,
    notes: dict[str, str] | None = None,
    *,
    fp16: bool,
) -> tuple[bytes, Parity, NetworkPart]:
    """Return a generator or one of its methods as ONNX, compared with torch.

    Args:
        generator: see :func:`copy_to_cpu`.
        function: ``generator``, its ``mapping`` or its ``synthesis``.
        output: name of the output.

    Raises:
        ZooError: see :func:`export`.
    """
    with rng.fork_rng(torch.device("cpu")):
        part = NetworkPart(generator, function, example_inputs(generator, function, _TRACE_BATCH))
        graph = trace_graph(part, output, notes or {}, fp16=fp16)
        differences = []
        for seed, size in enumerate(_CHECK_BATCHES, 1):
            torch.manual_seed(seed)
            inputs = part.add_noise(example_inputs(generator, function, size, seed))
            wanted, got = part(*inputs.values()), run_graph(graph, inputs)
            if got.shape != wanted.shape:
                shapes = f"{tuple(got.shape)} instead of {tuple(wanted.shape)}"
                raise ZooError(f"exported network: makes {shapes} for another batch size")
            differences.append((got.clamp(-1, 1) - wanted.clamp(-1, 1)).abs().flatten() * _GREY_LEVELS)
    values = torch.cat(differences)
    parity = Parity(
        max_difference=values.max().item(), mean_difference=values.mean().item(), images=sum(_CHECK_BATCHES)
    )
    if output == "images" and not parity.mean_difference < MAX_MEAN_DIFFERENCE:  # also NaN
        raise ZooError(
            f"exported network: {parity}, more than {MAX_MEAN_DIFFERENCE:g} on average. Nothing was written."
        )
    return graph, parity, part


def example_inputs(generator: Generator, function: Callable[..., Tensor], n: int, seed: int = 0) -> dict[str, Tensor]:
    """Return ``n`` inputs of a generator or of one of its methods, by name."""
    z = rng.fixed_latents(seed, n, generator.latent.dim)
    label = rng.fixed_labels(seed, n, generator.image.shares)
    if getattr(function, "__name__", "") == "synthesis":
        w = generator.mapping(z, label)  # type: ignore[operator]
        return {"w": w[:, None].repeat(1, generator.num_styles, 1)}
    return {"z": z} if label is None else {"z": z, "label": label}


def _notes(loaded: LoadedGenerator) -> dict[str, str]:
    return {
        "recipe": json.dumps(loaded.recipe.to_dict()),
        "nimg": str(loaded.nimg),
        "zoo": version(),
        "classes": json.dumps(loaded.classes),
        "use": NOT_FOR_DIAGNOSIS,
    }
