"""Generators in safetensors files, with the recipe that builds the network in the metadata."""

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
    """Write a generator's weights, with recipe (JSON), ``nimg``, versions, hash and ``notes`` in the metadata.

    Args:
        dtype: type of floating tensors in the file, such as ``torch.float16``; tensors that lose more than rounding
            (overflow, tiny variances) keep their type. None: all keep it. Loading always gives fp32.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file stays intact.
    """
    trainable = {name for name, _ in generator.named_parameters()}
    tensors = {
        name: _convert(tensor.detach().cpu(), dtype, trainable=name in trainable).contiguous()
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
    """The generator of a file (in eval mode on the CPU), its recipe, and the images it was trained on.

    Raises:
        ZooError: another kind of file, damaged, or for a network that this version builds differently.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise ZooError(f"{path}: is not a safetensors file, or damaged ({str(error).splitlines()[0]})") from None
    if "sha256" in metadata and metadata["sha256"] != _hash(tensors):
        raise ZooError(f"{path}: its weights differ from those that were written (wrong hash); fetch or train it again")
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


def _convert(tensor: Tensor, dtype: torch.dtype | None, *, trainable: bool) -> Tensor:
    """``tensor`` as ``dtype`` if only rounding is lost, else unchanged.

    Weights may have an error relative to the largest of them, since those near 0 add little. Running statistics must
    each be accurate by themselves, since activations are divided by a variance.
    """
    if dtype is None or not tensor.is_floating_point() or not tensor.numel():
        return tensor
    lower = tensor.to(dtype)
    size = tensor.abs().max() if trainable else tensor.abs()
    close = (lower.to(tensor.dtype) - tensor).abs() <= size * (torch.finfo(dtype).eps / 2)  # false for inf and NaN
    return lower if bool(close.all()) else tensor


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return state.hexdigest()
