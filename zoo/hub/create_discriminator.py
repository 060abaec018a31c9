"""Build a recipe's discriminator alone, fresh or from a run, and its feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.models.base import Discriminator
from zoo.models.discriminator_features import DiscriminatorFeatures
from zoo.recipes import build_networks, keyword_overrides, load_recipe, override_recipe
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
