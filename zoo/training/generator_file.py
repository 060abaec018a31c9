"""Generator weights in files: safetensors, with the recipe that builds the network in the metadata; and weights that
other files bring to fresh networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from zoo.core.config import Recipe
from zoo.core.errors import ZooError
from zoo.core.files import atomic_file
from zoo.core.version import version
from zoo.models.base import Generator
from zoo.recipes import build_networks, recipe_from_dict


def save_generator(
    path: Path,
    generator: nn.Module,
    *,
    recipe: Recipe,
    nimg: int,
    dtype: torch.dtype | None = None,
    **notes: str,
) -> None:
    """Write a generator's weights, and in their metadata ``recipe`` (JSON), ``nimg``, versions, the hash of the tensors
    as they are stored, and ``notes``.

    Args:
        dtype: of floating tensors in the file, such as ``torch.float16``; those that do not survive it (what overflows,
            tiny variances) stay as they are. None: all stay. :func:`load_generator_file` gives fp32 in either case.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file is intact.
    """
    learnt = {name for name, _ in generator.named_parameters()}
    tensors = {
        name: _stored(tensor.detach().cpu(), dtype, learnt=name in learnt).contiguous()
        for name, tensor in generator.state_dict().items()
    }
    metadata = {
        "format": "pt",
        "recipe": json.dumps(recipe.to_dict()),
        "nimg": str(nimg),
        "zoo": version(),
        "torch": str(torch.__version__),
        "sha256": _hash(tensors),
        **notes,
    }
    with atomic_file(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))


def load_generator_file(path: Path) -> tuple[Generator, Recipe, int]:
    """The generator in a file that :func:`save_generator` wrote, in eval mode on the CPU; its recipe; images it was
    trained on.

    Raises:
        ZooError: not such a file, damaged, or made for a network this version builds otherwise.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise ZooError(f"{path}: is not a safetensors file, or damaged ({str(error).splitlines()[0]})") from None
    if "sha256" in metadata and metadata["sha256"] != _hash(tensors):
        raise ZooError(f"{path}: its weights are not those it was written with (wrong hash); fetch or train it again")
    if "recipe" not in metadata:
        raise ZooError(f"{path}: holds weights but no recipe in its metadata, so the network cannot be built")
    try:
        recipe, nimg = recipe_from_dict(json.loads(metadata["recipe"]), where=str(path)), int(metadata.get("nimg", 0))
    except (ValueError, TypeError):
        raise ZooError(f"{path}: the recipe in its metadata is damaged, so the network cannot be built") from None
    generator, _ = build_networks(recipe, "meta")
    generator = generator.to_empty(device="cpu").eval()
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise ZooError(f"{path}: does not fit {recipe.name} ({str(error).splitlines()[-1].strip()})") from None
    return generator, recipe, nimg


def _stored(tensor: Tensor, dtype: torch.dtype | None, *, learnt: bool) -> Tensor:
    """``tensor`` as ``dtype`` if nothing but rounding is lost by it, else as it is.

    Of weights, the error must be small beside the largest of them: those near 0 add little. Of running statistics each
    must be kept by itself, for a variance divides.
    """
    if dtype is None or not tensor.is_floating_point() or not tensor.numel():
        return tensor
    lower = tensor.to(dtype)
    size = tensor.abs().max() if learnt else tensor.abs()
    close = (lower.to(tensor.dtype) - tensor).abs() <= size * (torch.finfo(dtype).eps / 2)  # false for inf and NaN
    return lower if bool(close.all()) else tensor


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and every byte."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return state.hexdigest()
