"""Build a recipe's discriminator alone, fresh or from a run, and its feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

import torch

from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError, error_reason
from zoo.core.progress import Reporter
from zoo.models.base import Discriminator
from zoo.models.discriminator_features import DiscriminatorFeatures
from zoo.recipes import build_networks, keyword_overrides, load_recipe, override_recipe
from zoo.runtime import rng
from zoo.training import checkpoint
from zoo.training.run_folder import Run
from zoo.training.warm_start import load_pretrained_backbones, warm_start


@overload
def create_discriminator(
    name: str | Path | Recipe,
    *overrides: str,
    features_only: Literal[False] = False,
    init_from: str | Path | None = None,
    device: str | None = None,
    **keywords: Any,
) -> Discriminator: ...
@overload
def create_discriminator(
    name: str | Path | Recipe,
    *overrides: str,
    features_only: Literal[True],
    init_from: str | Path | None = None,
    device: str | None = None,
    **keywords: Any,
) -> DiscriminatorFeatures: ...
def create_discriminator(
    name: str | Path | Recipe,
    *overrides: str,
    features_only: bool = False,
    init_from: str | Path | None = None,
    device: str | None = None,
    **keywords: Any,
) -> Discriminator | DiscriminatorFeatures:
    """Build a recipe's discriminator: ``create_discriminator("dcgan-64", features_only=True)``.

    Args:
        name: of a recipe, the path of a YAML file, or a recipe.
        *overrides: as on the command line, ``"discriminator.width=0.5"``.
        **keywords: the same as ``discriminator__width=0.5``.
        features_only: return a module that maps images to a list of feature maps.
        init_from: run folder or checkpoint whose discriminator it becomes; None: fresh weights.
        device: None: torch's default device.

    Raises:
        ZooError: as :func:`zoo.create`; nothing in ``init_from`` fits.
    """
    words = [*overrides, *keyword_overrides(keywords, "create_discriminator")]
    recipe = override_recipe(name, *words) if isinstance(name, Recipe) else load_recipe(name, words)
    G, D = build_networks(recipe, device)
    if init_from is not None:
        display = Display()
        load_pretrained_backbones(D, display)
        warm_start(str(init_from), {"G": G, "D": D, "ema": G}, lambda line: None)
    return DiscriminatorFeatures(D) if features_only else D


def load_discriminator(run: Run, reporter: Reporter) -> tuple[Discriminator, int]:
    """Return a run's discriminator in eval mode and the number of images it has seen, from the newest checkpoint.

    Raises:
        ZooError: there is no checkpoint, or it is damaged or of another network.
    """
    state = checkpoint.load_newest_checkpoint(run.state, reporter.warn)
    if state is None:
        raise ZooError(f"{run.path}: has no checkpoint yet, and so no discriminator")
    with rng.fork_rng(torch.device("cpu")):
        _, D = build_networks(load_recipe(run.recipe_file))
    try:
        D.load_state_dict(state["trainer"]["discriminator"])
        nimg = int(state["trainer"]["nimg"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ZooError(
            f"{run.path}: the checkpoint holds no discriminator of its recipe ({error_reason(error)})"
        ) from None
    return D.eval().requires_grad_(False), nimg
