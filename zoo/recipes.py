"""Recipes: YAML files that name two networks and say how they are trained.

A recipe becomes a :class:`Recipe` in four strict steps: the file is read, ``--set a.b=v`` is applied, architectures
are looked up, and frozen dataclasses are built, ``generator:`` and ``discriminator:`` by the configs of their own
architectures. What does not fit fails here, with its dotted path, and never at step 1. This module is the only reader
of YAML (:func:`read_yaml`), and imports torch only where an architecture is looked up.
"""

from __future__ import annotations

import copy
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from zoo.core.config import DataConfig, NetworkChoice, Recipe, image_spec
from zoo.core.errors import ZooError, suggest
from zoo.core.schema import SchemaError, from_plain
from zoo.core.yaml_io import read_yaml

if TYPE_CHECKING:
    from zoo.models.base import Discriminator, Generator
    from zoo.models.summary import NetworkSummary


# Where recipes lie: beside the package in a checkout, inside it in an installed wheel.
_HERE = Path(__file__).parent
RECIPES = _HERE / "_recipes" if (_HERE / "_recipes").is_dir() else _HERE.parent / "recipes"


def list_models(pattern: str = "*") -> list[str]:
    """Names of the recipes that match a shell pattern, in natural order (``multires-64`` before ``multires-128``)."""
    names = (path.stem for path in RECIPES.glob("*.yaml"))
    return sorted(fnmatch.filter(names, pattern), key=_natural)


def summarise_recipes(pattern: str = "*") -> Iterator[dict[str, Any]]:
    """What ``zoo list`` shows of each recipe, read from the YAML alone: no network is built, torch is not imported."""
    for name in list_models(pattern):
        data = read_yaml(RECIPES / f"{name}.yaml")
        generator = _section(data, "generator")
        counts = data.get("parameters", {})
        yield {
            "name": name,
            "arch": generator.get("arch") or data["arch"],
            "resolution": data["data"]["resolution"],
            "channels": data["data"].get("channels", 1),
            "latent": generator.get("latent"),
            "params_g": counts.get("generator"),
            "params_d": counts.get("discriminator"),
            "source": data.get("source", ""),
        }


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called ``name``, or in the YAML file ``name``, with ``"a.b=v"`` overrides applied.

    Raises:
        ZooError: no such recipe or file, unreadable YAML, or something in it does not fit: one line.
    """
    path = find_recipe_file(name)
    return recipe_from_dict(read_yaml(path), overrides, where=path.stem if path.parent == RECIPES else str(path))


def create(name: str | Path | Recipe, *overrides: str, device: str = "cpu") -> tuple[Generator, Discriminator]:
    """A recipe's two networks with fresh weights: ``create("lean-256", "data.channels=3")``.

    Raises:
        ZooError: as :func:`load`.
    """
    recipe = override_recipe(name, *overrides) if isinstance(name, Recipe) else load_recipe(name, overrides)
    return build_networks(recipe, device)


def build_networks(recipe: Recipe, device: str = "cpu") -> tuple[Generator, Discriminator]:
    """A recipe's generator and discriminator with fresh weights; ``device="meta"`` builds shapes without memory."""
    import torch

    from zoo.models.layers import apply_spectral_norm
    from zoo.models.registry import get_architecture

    with torch.device(device):
        G = get_architecture(recipe.generator.arch).generator(recipe.generator.config, recipe.image)  # type: ignore[call-arg]
        D = get_architecture(recipe.discriminator.arch).discriminator(recipe.discriminator.config, recipe.image)
        for network, choice in ((G, recipe.generator), (D, recipe.discriminator)):
            if choice.config.spectral_norm:
                apply_spectral_norm(network)
    return G, D


def summarise_recipe(recipe: Recipe) -> tuple[NetworkSummary, NetworkSummary]:
    """Layer tables of a recipe's generator and discriminator, from shapes alone."""
    from zoo.models.summary import summarise_networks

    return summarise_networks(*build_networks(recipe, "meta"), recipe.image)


def override_recipe(recipe: Recipe, *overrides: str) -> Recipe:
    """A copy of ``recipe`` with ``"a.b=v"`` overrides applied.

    Raises:
        ZooError: an unknown key or a value that does not fit.
    """
    return recipe_from_dict(recipe.to_dict(), overrides, where=recipe.name)


def find_recipe_file(name: str | Path) -> Path:
    """The YAML file of a recipe's name, or of a path to a user's own.

    Raises:
        ZooError: there is none.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        if not Path(name).is_file():
            raise ZooError(f"no recipe file {text}")
        return Path(name)
    if text not in list_models():
        raise ZooError(f"no recipe {text!r}{suggest(text, list_models())}; `zoo list` shows those there are")
    return RECIPES / f"{text}.yaml"


def recipe_from_dict(data: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str) -> Recipe:
    """A recipe from plain data; ``where`` (a name or file) begins every error.

    Raises:
        ZooError: something does not fit: one line with the dotted path, what is allowed and the nearest match.
    """
    content = copy.deepcopy(dict(data))
    try:
        touched = [_override(content, text) for text in overrides]
        for side in ("generator", "discriminator"):
            content[side] = _section(content, side)
        shorthand = content.pop("arch", None)
        for side in ("generator", "discriminator"):
            if "arch" in touched or "arch" not in content[side]:
                content[side]["arch"] = shorthand
        recipe = _build(content)
    except ZooError as error:
        raise ZooError(f"{where}: {error}") from None
    if any(path.split(".")[0] in ("arch", "data", "generator", "discriminator") for path in touched):
        return replace(recipe, parameters=None)  # the stated counts were those of the recipe as written
    return recipe


def _build(content: dict[str, Any]) -> Recipe:
    from zoo.losses.adversarial import LOSSES
    from zoo.losses.penalties import PENALTIES
    from zoo.models.registry import get_architecture

    data = from_plain(DataConfig, content.get("data", {}), "data")
    networks = {side: _network(side, content[side], data) for side in ("generator", "discriminator")}
    recipe: Recipe = from_plain(Recipe, {**content, "data": data, **networks})
    _choose("loss.name", recipe.loss.name, LOSSES)
    if recipe.loss.label_smoothing and not LOSSES[recipe.loss.name].smooths:
        raise SchemaError("loss.label_smoothing", f"the {recipe.loss.name} loss has no labels to smooth; leave it at 0")
    if recipe.augment is not None and recipe.augment.name == "ada" and not LOSSES[recipe.loss.name].zero:
        raise SchemaError("augment.name", f"ada goes by the sign of logits, which means nothing to {recipe.loss.name}")
    for name in recipe.penalties:
        _choose("penalties", name, PENALTIES)
        if PENALTIES[name].needs_styles and not hasattr(get_architecture(recipe.generator.arch).generator, "mapping"):
            raise SchemaError(f"penalties.{name}", f"{recipe.generator.arch} has no styles (a mapping network)")
    return recipe


def _network(side: str, section: dict[str, Any], data: DataConfig) -> NetworkChoice:
    from zoo.models.registry import get_architecture, list_architectures

    arch = section.pop("arch", None)
    if arch is None:
        raise SchemaError(f"{side}.arch", f"is missing; one of {', '.join(list_architectures())}")
    _choose(f"{side}.arch", arch, list_architectures())
    kind = getattr(get_architecture(arch), f"{side}_config")
    config = from_plain(kind, section, side)
    if config.spectral_norm and not kind.spectral:
        raise SchemaError(f"{side}.spectral_norm", f"does not go with {arch}, which scales its weights itself")
    if data.labels is not None and not kind.conditional:
        able = ", ".join(a for a in list_architectures() if getattr(get_architecture(a), f"{side}_config").conditional)
        raise SchemaError("data.labels", f"the {side} of {arch} takes no classes; these do: {able}")
    try:
        config.validate(image_spec(data))
    except ValueError as error:
        raise SchemaError("data.resolution", str(error)) from None
    return NetworkChoice(arch=arch, config=config)


def _section(content: dict[str, Any], side: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping under ``generator:`` or ``discriminator:``; another recipe's name stands for its whole section."""
    section = content.get(side, {})
    if isinstance(section, str):
        if section in seen:
            raise SchemaError(side, f"goes round in a circle: {' -> '.join((*seen, section))}")
        other = read_yaml(find_recipe_file(section))
        taken = _section(other, side, (*seen, section))
        taken.setdefault("arch", other.get("arch"))
        return taken
    if not isinstance(section, dict):
        raise SchemaError(side, f"must be a mapping or another recipe's name, not {section!r}")
    return section


def _override(content: dict[str, Any], text: str) -> str:
    """Apply one ``a.b=v`` in place and return its dotted path."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ZooError(f"--set {text}: must read KEY=VALUE with a dotted key, such as train.batch=32")
    inner = content
    for depth, key in enumerate(keys[:-1]):
        if depth == 0 and key in ("generator", "discriminator"):
            content[key] = _section(content, key)
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SchemaError(".".join(keys[: depth + 1]), f"is a value, so {path} cannot be set in it")
    try:
        inner[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ZooError(f"--set {text}: the value is not YAML") from None
    return path.strip()


def _choose(path: str, name: str, choices: Any) -> None:
    if name not in choices:
        raise SchemaError(path, f"must be one of {', '.join(choices)}, not {name!r}{suggest(str(name), choices)}")


def _natural(name: str) -> list[tuple[int, str | int]]:
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
