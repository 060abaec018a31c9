"""Whether the content of a checkpoint, which is plain data, is that of a run of a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.config import OptimizerConfig, Recipe
from zoo.core.errors import ZooError, shorten
from zoo.losses.objective import Objective
from zoo.models.base import Discriminator
from zoo.recipes import build_networks
from zoo.runtime import rng
from zoo.training.augment import Ada
from zoo.training.generator_file import find_nonfinite
from zoo.training.logger import MeanMeters
from zoo.training.networks import build_helpers
from zoo.training.optimizers import build_optimizer, optimizer_configs
from zoo.training.run_folder import MAX_NIMG

_MAX_THREADS = 4096


def check_content(path: Path, state: Any, recipe: Recipe) -> None:
    """Check that a run of ``recipe`` can continue from the content of a checkpoint.

    Everything is loaded into new networks, optimisers and meters of the recipe, on the CPU.

    Raises:
        ZooError: a part is missing, or of another type, shape or range.
    """
    try:
        _check_progress(state, recipe)
        with rng.fork_rng(torch.device("cpu")):
            G, D = build_networks(recipe)
            helpers = build_helpers(recipe, G.latent.dim)
        _check_networks(state["trainer"], recipe, {"G": G, "D": D, **helpers})
        _check_rest(state["trainer"], recipe, D)
    except KeyError as error:
        raise ZooError(f"{path}: lacks {shorten(error.args[0])}") from None
    except Exception as error:  # what torch raises of tensors of other shapes, and of values that are none
        raise ZooError(f"{path}: does not fit {recipe.name} ({_last_line(error)})") from None


def _last_line(error: Exception) -> str:
    """Return the line of torch's error that names the tensor; the first one is a heading."""
    return (str(error).splitlines() or [type(error).__name__])[-1].strip()


def _check_progress(state: Any, recipe: Recipe) -> None:
    """Check image count, clock, environment and the validator's state."""
    trainer, environment = _mapping("content", state)["trainer"], _mapping("environment", state["environment"])
    nimg = _mapping("trainer", trainer)["nimg"]
    _number("nimg", nimg, high=MAX_NIMG, whole=True)
    if nimg != recipe.train.batches.end(int(nimg)):
        raise ValueError(f"nimg is {nimg}, which is not the end of a step")
    _number("elapsed", state["elapsed"])
    for part, seconds in _mapping("seconds", state.get("seconds", {})).items():
        _word("seconds", part)
        _number("seconds", seconds)
    _number("threads", environment["threads"], low=1, high=_MAX_THREADS, whole=True)
    watch = _mapping("watch", state.get("watch") or {})
    for key in ("spent", "last"):
        _number(key, watch.get(key, 0.0))
    for value in watch.get("ringing", []):
        _number("ringing", value, low=-1)
    best = watch.get("best")
    if best is not None:
        _number("best", _mapping("best", best)["value"], low=-math.inf)
        _word("best", best["metric"])


def _check_networks(trainer: Any, recipe: Recipe, trained: dict[str, nn.Module]) -> None:
    """Check weights and the moments of optimisers."""
    G = trained["G"]
    networks: list[tuple[str, Any, nn.Module]] = [
        ("ema", trainer["ema"], G),
        ("generator", trainer["generator"], G),
        ("discriminator", trainer["discriminator"], trained["D"]),
        *((name, trainer[name], helper) for name, helper in trained.items() if name not in ("G", "D")),
    ]
    snapshots = trainer.get("snapshot_emas", [])  # earlier versions had none
    if not isinstance(snapshots, list) or len(snapshots) != len(recipe.ema.snapshot_stds):
        raise ValueError(f"snapshot_emas is {shorten(snapshots)}")
    networks += [("snapshot_emas", weights, G) for weights in snapshots]
    for key, content, network in networks:
        tensors = _mapping(key, content)
        wanted = network.state_dict()
        # Strict, so that names and shapes are checked. A copy of the mapping: torch notes `assign` in its metadata, and
        # the trainer, which loads the same mapping later, would assign as well.
        network.load_state_dict(dict(tensors), assign=True)
        for name, like in wanted.items():
            if tensors[name].is_floating_point() != like.is_floating_point() or tensors[name].is_complex():
                raise ValueError(f"{key}.{name} holds {tensors[name].dtype}")
        if (bad := find_nonfinite(tensors)) is not None:
            raise ValueError(f"{key}.{bad} is NaN or infinite")
    optimizers = _mapping("optimizers", trainer["optimizers"])
    for name, config in optimizer_configs(recipe).items():
        _check_optimizer(name, optimizers[name], config, trained[name])


def _check_optimizer(side: str, state: Any, config: OptimizerConfig, network: nn.Module) -> None:
    optimizer = build_optimizer(config, network, fused=False)
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(_mapping("optimizers", state))
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        for key in ("betas", "eps", "momentum"):
            value = tuple(group[key]) if isinstance(group.get(key), list) else group.get(key)
            if value != before.get(key):
                raise ValueError(f"optimizers.{side}.{key} is {shorten(group.get(key))}, not {before.get(key)}")
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            shape = torch.Size(()) if key == "step" else parameter.shape
            if value is not None and (not isinstance(value, Tensor) or value.shape != shape):
                raise ValueError(f"optimizers.{side}: {key} of a weight of shape {tuple(parameter.shape)} does not fit")
        if (bad := find_nonfinite({k: v for k, v in moments.items() if v is not None})) is not None:
            raise ValueError(f"optimizers.{side}: {bad} is NaN or infinite")


def _check_rest(trainer: Any, recipe: Recipe, D: Discriminator) -> None:
    """Check the means for the log, the memory of penalties, and ADA's probability."""
    states = trainer["meters"]
    for part in states if isinstance(states, list) and states else [states]:
        meters = MeanMeters()
        meters.load_state_dict(_mapping("meters", part), torch.device("cpu"))
        for names, vector in meters._sums.items():
            if vector.shape != (len(names),) or not vector.is_floating_point():
                raise ValueError(f"meters: {', '.join(names)} have the shape {tuple(vector.shape)}")
        for count in meters._batches.values():
            _number("meters", count)
        if set(meters._sums) != set(meters._batches):
            raise ValueError("meters: sums and numbers of batches differ in their names")
    Objective(recipe, D.auxiliary).memory.load_state_dict(trainer.get("memory", {}))
    if recipe.augment is not None and recipe.augment.name == "ada":
        ada = _mapping("ada", trainer["ada"])
        _number("ada.p", ada["p"], high=recipe.augment.most)
        _number("ada.steps", ada["steps"], high=Ada.UPDATE_EVERY_STEPS, whole=True)
        _number("ada.signs", ada["signs"], low=-math.inf)
    if trainer.get("micro_batch") is not None:
        _number("micro_batch", trainer["micro_batch"], low=1, high=max(recipe.train.batches.sizes), whole=True)


def _mapping(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {shorten(value)}, no mapping")
    return value


def _word(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shorten(value)}, no text")


def _number(name: str, value: Any, *, low: float = 0, high: float = math.inf, whole: bool = False) -> None:
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {shorten(value)}")
