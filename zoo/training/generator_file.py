"""Generators in safetensors files, with the recipe that builds the network in the metadata."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.core.config import Recipe
from zoo.core.errors import ZooError, error_message, shorten
from zoo.core.files import atomic_file
from zoo.core.version import version
from zoo.models.base import Generator
from zoo.recipes import build_generator, recipe_from_dict
from zoo.runtime import rng
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.run_folder import MAX_NIMG


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


@torch_defaults(gradients=True)
def load_generator_file(path: Path) -> tuple[Generator, Recipe, int]:
    """The generator of a file (in eval mode on the CPU), its recipe, and the images it was trained on.

    Raises:
        ZooError: another kind of file, damaged, with NaN or infinite weights, or for a network that this version
            builds differently.
    """
    tensors, metadata = _read_tensors(path)
    if "sha256" in metadata and metadata["sha256"] != _hash(tensors):
        raise ZooError(f"{path}: its weights differ from those that were written (wrong hash); fetch or train it again")
    if "recipe" not in metadata:
        raise ZooError(f"{path}: holds weights but no recipe in its metadata, so the network cannot be built")
    try:
        recipe, nimg = recipe_from_dict(json.loads(metadata["recipe"]), where=str(path)), int(metadata.get("nimg", 0))
    except (ValueError, TypeError, RecursionError):
        raise ZooError(f"{path}: the recipe in its metadata is damaged, so the network cannot be built") from None
    if not 0 <= nimg <= MAX_NIMG:
        raise ZooError(f"{path}: nimg {shorten(nimg)} in its metadata is no number of images; fetch or train it again")
    return _load_network(path, recipe, tensors), recipe, nimg


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        ZooError: another kind of file, or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a mapping)
    except Exception as error:  # types of numbers that torch lacks raise anything
        raise ZooError(f"{path}: is not a safetensors file, or damaged ({error_message(error)})") from None


def _load_network(path: Path, recipe: Recipe, tensors: dict[str, Tensor]) -> Generator:
    """Build a generator in eval mode, with these weights.

    Raises:
        ZooError: names, shapes or types differ from the network's, or a number is NaN or infinite.
    """
    with rng.fork_rng(torch.device("cpu")), _SizeLimit(path, recipe, tensors):
        # Not on the meta device: tensors that are in no state dict must be what __init__ makes them, as in training.
        torch.manual_seed(rng.derive_seed(recipe.train.seed, "weights"))
        generator = build_generator(recipe)
    _check_tensors(path, recipe, generator.state_dict(), tensors)
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise ZooError(f"{path}: does not fit {recipe.name} ({str(error).splitlines()[-1].strip()})") from None
    # After loading: a number can be finite in the file and too large for fp32.
    if (name := find_nonfinite(generator.state_dict())) is not None:
        raise ZooError(f"{path}: {name} holds NaN or infinite numbers; fetch or train it again")
    return generator.eval()


def _check_tensors(path: Path, recipe: Recipe, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    misfit = f"{path}: does not fit {recipe.name}"
    for problem, names in (("lacks", set(wanted) - set(tensors)), ("has unknown", set(tensors) - set(wanted))):
        if names:
            rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ZooError(f"{misfit} ({problem} {min(names)}{rest})")
    for name, like in wanted.items():
        tensor = tensors[name]
        if tensor.shape != like.shape:
            raise ZooError(f"{misfit} ({name} has the shape {tuple(tensor.shape)}, not {tuple(like.shape)})")
        if tensor.is_floating_point() != like.is_floating_point() or tensor.is_complex():
            raise ZooError(f"{misfit} ({name} holds {tensor.dtype}, not {like.dtype})")


class _SizeLimit(TorchFunctionMode):
    """Refuses to allocate tensors far larger than those of a file, whose recipe may ask for any."""

    def __init__(self, path: Path, recipe: Recipe, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.message = f"{path}: does not fit {recipe.name} (it holds far fewer numbers than that network)"
        self.limit = max(10**7, 4 * sum(tensor.numel() for tensor in tensors.values()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn):
            shape = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            if math.prod(shape) > self.limit:
                raise ZooError(self.message)
        return func(*args, **kwargs)


def find_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor with NaN or infinite numbers, or None."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            return name
    return None


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
