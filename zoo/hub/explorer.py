"""Write a generator as one HTML file in which it runs: sliders, interpolation and style mixing without Python.

The file holds the generator as ONNX, ONNX Runtime as WebAssembly and the page of ``_explorer``. A policy in it forbids
the browser every request. Directions are those of GANSpace (Haerkoenen et al. 2020, arXiv:2004.02546).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor, nn

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file
from zoo.core.output_place import HTML_SUFFIXES, check_file, name_result
from zoo.core.version import version
from zoo.hub.export import Parity, export_part
from zoo.hub.generator_card import card_items
from zoo.hub.load import LoadedGenerator, load_generator
from zoo.hub.onnx_graph import copy_to_cpu, require_onnx
from zoo.models.base import Generator, StyleGenerator
from zoo.models.sampling import SAMPLING_BATCH, mean_style
from zoo.runtime import rng
from zoo.runtime.torch_defaults import torch_defaults

PAGE_FILES = Path(__file__).with_name("_explorer")
NUM_DIRECTIONS = 8  # sliders
_PCA_LATENTS = 2048


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """A page that was written.

    Attributes:
        path: of the file.
        size: in bytes.
        parity: of the network in the page with torch.
    """

    path: Path
    size: int
    parity: Parity


@torch_defaults()
def explore(
    source: str | os.PathLike[str] | LoadedGenerator,
    out: str | os.PathLike[str] | None = None,
    *,
    runs: str | Path = "runs",
) -> Explorer:
    """Write one HTML file that runs a generator in a browser, without other files or the network.

    The images of a seed are those of :meth:`LoadedGenerator.sample`. No real image is in the file. Weights are stored
    with 16 bits; the difference from torch is measured as in :func:`zoo.export`.

    Args:
        source: what :func:`zoo.load_generator` takes, or a loaded generator.
        out: the file to write; default: ``<name>-explorer.html`` in the current folder.
        runs: folder in which names are looked up.

    Raises:
        ZooError: no such generator; a package is missing; a network that ONNX cannot express; or the file cannot be
            written.
    """
    loaded = source if isinstance(source, LoadedGenerator) else load_generator(source, runs=runs)
    name = loaded.recipe.name if isinstance(source, LoadedGenerator) else name_result(os.fspath(source))
    path = Path(out if out is not None else f"{name}-explorer.html")
    check_file(path, HTML_SUFFIXES, "an explorer")
    require_onnx("zoo explore")
    generator = copy_to_cpu(loaded.ready())
    networks, shapes, parity = _export_networks(generator)
    content = {
        "name": name,
        "recipe": loaded.recipe.name,
        "resolution": loaded.image.resolution,
        "channels": loaded.image.channels,
        "latent": loaded.latent.dim,
        "styles": generator.num_styles if isinstance(generator, StyleGenerator) else 0,
        "classes": loaded.classes,
        "shares": list(loaded.image.shares),
        "noise": [list(shape) for shape in shapes],
        "batch": SAMPLING_BATCH,
        **find_directions(generator),
    }
    page = _render(content, networks, card_items(loaded)).encode("utf-8", "replace")
    try:
        with atomic_file(path) as file:
            file.write(page)
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error_reason(error)})") from None
    return Explorer(path=path, size=len(page), parity=parity)


def _export_networks(generator: Generator) -> tuple[dict[str, bytes], list[tuple[int, ...]], Parity]:
    """Return ONNX files by name, shapes of the noise maps, and the parity of the images."""
    networks = {}
    if isinstance(generator, StyleGenerator):
        # fp32: it is small, and errors of styles would add to those of the synthesis.
        networks["mapping"] = export_part(generator, generator.mapping, "w", fp16=False)[0]
        graph, parity, part = export_part(generator, generator.synthesis, "images", fp16=True)
    else:
        graph, parity, part = export_part(generator, generator, "images", fp16=True)
    networks["synthesis"] = graph
    return networks, part.shapes, parity


@torch.no_grad()
def find_directions(generator: Generator) -> dict[str, Any]:
    """Return the first principal directions of what a generator computes first, as plain data.

    With styles: principal components of w. Without: those of the first layer's output, as directions of z that change
    it most nearly so (least squares). Both as in GANSpace, sections 2.1 and 2.2.

    Returns:
        ``directions``, each one standard deviation long; ``variance``, their shares; ``mean``, the mean w or [].
    """
    z = rng.fixed_latents(0, _PCA_LATENTS, generator.latent.dim)
    label = rng.fixed_labels(0, len(z), generator.image.shares)
    if isinstance(generator, StyleGenerator):
        values, mean = generator.mapping(z, label), mean_style(generator, z)
    else:
        values, mean = _first_output(generator, z, label), torch.empty(0)
    centred = values.flatten(1).double() - values.flatten(1).double().mean(0)
    components, deviations, total = _principal_components(centred)
    if isinstance(generator, StyleGenerator):
        directions = components * deviations[:, None]
    else:
        coordinates = centred @ components.t() / deviations
        directions = torch.linalg.lstsq(coordinates, z.double()).solution
    return {
        "directions": _rounded(_fix_signs(directions)),
        "variance": _rounded(deviations.square() / total),
        "mean": _rounded(mean),
    }


def _principal_components(centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return components (K, D), their deviations (K,), and the whole variance, of centred values (N, D)."""
    total = centred.square().sum() / len(centred)
    if centred.shape[1] <= len(centred):
        _, singular, rows = torch.linalg.svd(centred.t() @ centred / len(centred))
        deviations = singular.sqrt()
    else:  # with fewer samples than numbers the matrix of products is the smaller one
        left, singular, _ = torch.linalg.svd(centred @ centred.t() / len(centred))
        deviations = singular.sqrt()
        rows = left.t() @ centred / (deviations[:, None] * len(centred) ** 0.5).clamp_min(1e-12)
    count = min(NUM_DIRECTIONS, int((deviations > 1e-6 * deviations[0]).sum()))
    return rows[:count], deviations[:count], total


def _fix_signs(directions: Tensor) -> Tensor:
    """Make the largest number of each direction positive: the sign of a component is arbitrary."""
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * largest.sign()


def _first_output(generator: Generator, z: Tensor, label: Tensor | None) -> Tensor:
    """Return what the first layer with weights makes of latents; of a generator without layers, its images."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        # An embedding sees the class alone.
        if not outputs and isinstance(output, Tensor) and not isinstance(module, nn.Embedding):
            outputs.append(output)

    leaves = [module for module in generator.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(keep) for module in leaves if list(module.parameters(recurse=False))]
    try:
        parts = []
        for index in range(0, len(z), SAMPLING_BATCH):
            outputs.clear()
            part = slice(index, index + SAMPLING_BATCH)
            images = generator(z[part], None if label is None else label[part])
            parts.append(outputs[0] if outputs else images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(parts)


def _rounded(values: Tensor) -> Any:
    return (
        [[float(f"{x:.6g}") for x in row] for row in values]
        if values.dim() > 1
        else [float(f"{x:.6g}") for x in values]
    )


def _render(content: Mapping[str, Any], networks: Mapping[str, bytes], card: list[tuple[str, str]]) -> str:
    folder = PAGE_FILES / "onnxruntime-web"
    runtime = _as_script((folder / "ort.wasm.bundle.min.mjs").read_text(encoding="utf-8"))
    script, style = ((PAGE_FILES / name).read_text(encoding="utf-8") for name in ("explorer.js", "explorer.css"))
    script, style = script.replace("\r\n", "\n"), style.replace("\r\n", "\n")  # browsers hash "\n"
    blocks = {name: base64.b64encode(gzip.compress(graph, mtime=0)).decode() for name, graph in networks.items()}
    wasm = base64.b64encode((folder / "ort-wasm-simd-threaded.wasm.gz").read_bytes()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE_FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("explorer.html.j2").render(
        content=content,
        # "<" would end the block in which the text stands
        json=json.dumps(content).replace("<", "\\u003c"),
        blocks={**blocks, "wasm": wasm},
        card=card,
        licence=(folder / "LICENSE").read_text(encoding="utf-8"),
        runtime=runtime,
        script=script,
        style=style,
        digests=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (runtime, script)],
        version=version(),
    )


def _as_script(module: str) -> str:
    """Turn the exports of an ECMAScript module into ``globalThis.ort``, for a script in a page."""
    before, _, names = module.replace("\r\n", "\n").rpartition("export{")
    pairs = re.findall(r"([\w$]+) as ([\w$]+)", names)
    return f"{before}globalThis.ort={{{','.join(f'{name}:{local}' for local, name in pairs)}}};\n"
