"""Weights that a new run starts from: another run, a file, or a pretrained backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
from torch import Tensor, nn

from zoo.core.errors import ZooError
from zoo.core.files import is_file, is_folder
from zoo.core.progress import Reporter, SilentReporter
from zoo.metrics.features import backbone_weights
from zoo.models.base import Discriminator
from zoo.models.san import restore_scale
from zoo.training import checkpoint
from zoo.training.generator_file import find_nonfinite
from zoo.training.run_folder import open_run


def warm_start(source: str, networks: dict[str, nn.Module], say: Callable[[str], None]) -> None:
    """Start ``networks`` (``G``, ``D``, ``ema``) from another run's newest checkpoint, or G and ema from a file.

    A source that is neither is the name of pretrained weights. Tensors that do not match by name and shape keep their
    fresh weights and are listed.

    Raises:
        ZooError: nothing to load, nothing that matches, or nothing for a part of G that is not trained.
    """
    for side, tensors in _read_tensors(source, say).items():
        target = networks[side].state_dict()
        fitting = {name: t for name, t in tensors.items() if name in target and target[name].shape == t.shape}
        if not any(t.dim() > 1 for t in fitting.values()):
            raise ZooError(f"train.init_from: no tensor in {source} fits the {side} of this recipe")
        networks[side].load_state_dict(fitting, strict=False)
        if (name := find_nonfinite(fitting)) is not None:
            raise ZooError(f"train.init_from: {name} of the {side} in {source} holds NaN or infinite numbers")
        left = [name for name in target if name not in fitting]
        if side == "G":
            _require_frozen(networks["G"], tensors, left, source)
        scales = [name for name in left if name.endswith("san_scale")]
        if scales:
            restore_scale(networks[side])
            left = [name for name in left if name not in scales]
        say(f"{side}: {len(fitting)} of {len(target)} tensors from {source}")
        if left:
            say(f"{side}: fresh weights, because missing in the source or of another shape: {', '.join(left)}")


def _require_frozen(network: nn.Module, tensors: dict[str, Tensor], left: list[str], source: str) -> None:
    """Check that all of what is never trained, and nothing else of the same part, comes from the source."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    parts = {name.partition(".")[0] for name in frozen}
    missing = [name for name in left if name in frozen]
    target = network.state_dict()
    more = [name for name in tensors if name.partition(".")[0] in parts and name not in target]
    if missing or more:
        example = f"{missing[0]} is missing or has another shape" if missing else f"this one has no {more[0]}"
        raise ZooError(
            f"train.init_from: {source} is of another network than the part of this generator that is never trained "
            f"({example})"
        )


def _read_tensors(source: str, say: Callable[[str], None]) -> dict[str, dict[str, Tensor]]:
    path = Path(source)
    if is_folder(path):
        state = checkpoint.load_newest_checkpoint(open_run(path).state, say)
        if state is None:
            raise ZooError(f"train.init_from: the run {source} has no checkpoint yet")
    elif not is_file(path) and (path := _find_pretrained(source)) is None:  # type: ignore[assignment]
        raise ZooError(f"train.init_from: {source} does not exist, and no pretrained weights have this name")
    elif path.suffix == ".safetensors":
        try:
            state = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError):
            raise ZooError(f"train.init_from: {path} is not a safetensors file, or damaged") from None
    else:
        state = checkpoint.load_tensors(path)
    sides: Any = {"G": state, "ema": state}
    if isinstance(state, dict) and isinstance(trainer := state.get("trainer"), dict):
        sides = {"G": trainer.get("generator"), "D": trainer.get("discriminator"), "ema": trainer.get("ema")}
    for tensors in sides.values():
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ZooError(f"train.init_from: {source} holds no tensors of a network")
    return sides


def _find_pretrained(name: str) -> Path | None:
    from zoo.hub.pretrained import load_named_weights  # here: of a higher level, and only for this

    entry = load_named_weights().get(name)
    return None if entry is None else entry.path(SilentReporter())


def require_start(network: nn.Module, source: str | None) -> None:
    """Check that a generator, part of which is not trained, starts from weights that were.

    Raises:
        ZooError: ``train.init_from`` is not set.
    """
    if source is None and any(not parameter.requires_grad for parameter in network.parameters()):
        raise ZooError(
            "train.init_from: a part of this generator stays as it is at the start, which would be noise. Set it to a "
            "run, a file, or the name of pretrained weights (`zoo weights`)"
        )


def load_pretrained_backbones(network: Discriminator, reporter: Reporter) -> None:
    """Load the weights of the parts of ``network`` that were trained elsewhere (``Discriminator.pretrained``).

    Building a network reads no file, so a new run calls this; a resumed one has the weights in its checkpoint.

    Raises:
        ZooError: a file is unavailable (see ``zoo.metrics.features.backbone_weights``), or of another network.
    """
    for part, name in network.pretrained.items():
        path = backbone_weights.find_timm_weights(name, None, reporter)
        state = backbone_weights.read_state_dict(path)
        try:
            cast(Any, network.get_submodule(part)).adopt(state)
        except KeyError as error:
            raise ZooError(f"{path}: not the weights of timm's {name}: {error.args[0]} is missing") from None
        except RuntimeError as error:
            raise ZooError(
                f"{path}: not the weights of timm's {name} ({str(error).splitlines()[-1].strip()})"
            ) from None
