"""Recipes: YAML files that describe two networks and how to train them.

Reading one takes four steps: read the file, apply overrides such as ``train.batch=32``, look up the architectures and
build frozen dataclasses (``zoo.core.config``). A mistake is an error here, with its dotted path, never at step 1 of
training. Torch is imported only when an architecture is looked up.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from zoo.core.arguments import as_list
from zoo.core.config import DataConfig, NetworkChoice, Recipe, image_spec
from zoo.core.errors import ZooError, shorten, suggest
from zoo.core.files import is_file
from zoo.core.plugins import Plugin, explain_missing, load_plugin, loaded_plugins, report_change
from zoo.core.schema import SchemaError, from_plain
from zoo.core.yaml_io import parse_yaml, read_yaml, yaml_problem

if TYPE_CHECKING:
    from zoo.models.base import Discriminator, Generator
    from zoo.models.summary import NetworkSummary


# Next to the package in a checkout, inside it in an installed wheel.
_PACKAGE = Path(__file__).parent
RECIPES = _PACKAGE / "_recipes" if (_PACKAGE / "_recipes").is_dir() else _PACKAGE.parent / "recipes"
_SIDES = ("generator", "discriminator")


def list_models(
    filter: str | Sequence[str] = "*",
    *,
    pretrained: bool = False,
    exclude_filters: str | Sequence[str] = (),
) -> list[str]:
    """List recipes in natural order (``multires-64`` before ``multires-128``).

    Args:
        filter: shell patterns, of which one must match: ``"dcgan*"``.
        pretrained: only those with pretrained weights (see :func:`zoo.list_weights`).
        exclude_filters: shell patterns of which none may match.
    """
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    if pretrained:
        from zoo.hub.pretrained import load_catalogue  # here: of a higher level, and only for this

        names &= {entry.recipe for entry in load_catalogue().values()}
    return sorted(match_names(names, filter) - match_names(names, exclude_filters), key=_natural_key)


def is_model(name: str) -> bool:
    """Return whether there is a recipe of this name."""
    return name in list_models()


def match_names(names: Iterable[str], patterns: str | Sequence[str]) -> set[str]:
    """Return the names that match one of some shell patterns."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    names = list(names)
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def summarise_recipes(pattern: str = "*") -> Iterator[dict[str, Any]]:
    """Yield a row of ``zoo list`` per recipe, from its YAML alone: builds no network and imports no torch."""
    for name in list_models(pattern):
        data = read_yaml(RECIPES / f"{name}.yaml")
        generator = _read_section(data, "generator")
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
    """Load a recipe by name or from a YAML file, with ``"a.b=v"`` overrides applied.

    Runs the files and modules that a recipe file lists as ``plugins:``, relative to its folder; but never those that a
    run folder's own recipe.yaml lists, which came with the run.

    Raises:
        ZooError: no such recipe or file, unreadable YAML, or a key or value that does not fit.
    """
    path = find_recipe_file(name)
    data = read_yaml(path)
    where = path.stem if path.parent == RECIPES else str(path)
    if not is_run_file(path):
        data.setdefault("name", path.stem)
        data = {**data, "plugins": _load_listed_plugins(data.get("plugins", []), path.parent, where)}
    return recipe_from_dict(data, as_list(overrides), where=where)


def is_run_file(path: Path) -> bool:
    """Return whether a recipe file lies in a run folder, from which no code is started."""
    return (path.parent / "run.json").exists()


def _load_listed_plugins(names: Any, folder: Path, where: str) -> list[Plugin]:
    if not isinstance(names, list) or not all(isinstance(name, str | dict) for name in names):
        raise ZooError(f"{where}: plugins: must be a list of files and modules, such as [./mygan.py]")
    listed: list[Plugin] = []
    for name in names:
        if isinstance(name, dict):  # a resolved recipe that was copied: it names no place
            listed.append(from_plain(Plugin, name, "plugins"))
            continue
        try:
            listed.append(load_plugin(name, folder=folder))
        except ZooError as error:
            raise ZooError(f"{where}: {error}") from error
    return listed


def create(
    name: str | Path | Recipe, *overrides: str, pretrained: bool = False, device: str | None = None, **keywords: Any
) -> tuple[Generator, Discriminator]:
    """Build a recipe's generator and discriminator: ``create("lean-256", data__channels=3)``.

    Args:
        name: of a recipe, the path of a YAML file, or a recipe; with ``pretrained`` that of weights.
        overrides: as on the command line, ``"data.channels=3"``.
        pretrained: start G with its pretrained weights; D is fresh, since only generators are published.
        device: None: torch's default device, as of ``with torch.device(...)``.
        **keywords: overrides with double underscores for dots (``generator__width=0.5``).

    Raises:
        ZooError: as :func:`load_recipe`; there are no such weights, or an override changes their network.
    """
    words = [*overrides, *keyword_overrides(keywords, "create")]
    if device not in (None, "meta"):
        from zoo.runtime.device import choose_device

        device = str(choose_device(device))
    if pretrained:
        from zoo.hub.load import load_pretrained_networks  # here: of a higher level, and only for this

        return load_pretrained_networks(name.name if isinstance(name, Recipe) else str(name), words, device)
    recipe = override_recipe(name, *words) if isinstance(name, Recipe) else load_recipe(name, words)
    return build_networks(recipe, device)


def keyword_overrides(keywords: Mapping[str, Any], function: str) -> list[str]:
    """Return keywords with double underscores as overrides: ``train__batch=32`` is ``"train.batch=32"``.

    Raises:
        TypeError: a keyword without them, in Python's own words.
    """
    for key in keywords:
        if "__" not in key:
            raise TypeError(f"{function}() got an unexpected keyword argument {key!r}")
    return [f"{key.replace('__', '.')}={json.dumps(value, default=_plain_value)}" for key, value in keywords.items()]


def _plain_value(value: Any) -> Any:
    """Return numpy's and torch's numbers and arrays as Python's, and paths as text."""
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def build_networks(recipe: Recipe, device: str | None = "cpu") -> tuple[Generator, Discriminator]:
    """Build a recipe's networks with fresh weights; on ``device="meta"`` they have shapes and take no memory.

    None stands for torch's default device.
    """
    import torch

    from zoo.models.layers import apply_spectral_norm
    from zoo.models.minibatch_std import add_minibatch_std
    from zoo.models.packing import PackedDiscriminator
    from zoo.models.registry import get_architecture
    from zoo.models.san import slice_last_layer

    config = recipe.discriminator.config
    packed = replace(recipe.image, channels=recipe.image.channels * config.packing)
    build_discriminator = get_architecture(recipe.discriminator.arch).discriminator
    with torch.device(device) if device is not None else contextlib.nullcontext():
        G = get_architecture(recipe.generator.arch).generator(recipe.generator.config, recipe.image)  # type: ignore[call-arg]
        D = build_discriminator(config, packed)
        for network, choice in ((G, recipe.generator), (D, recipe.discriminator)):
            if choice.config.spectral_norm:
                apply_spectral_norm(network)
    if config.san or config.minibatch_std:
        with torch.device("meta"):
            probe = build_discriminator(config, packed)
        if config.san:  # before minibatch_std, which may add to the layer's output
            slice_last_layer(D, probe)
        if config.minibatch_std:
            add_minibatch_std(D, probe, config.minibatch_std)
    return G, D if config.packing == 1 else PackedDiscriminator(D, recipe.image, config.packing)


def build_generator(recipe: Recipe, device: str = "cpu") -> Generator:
    """Build a recipe's generator alone; given the same random state, the first of :func:`build_networks`."""
    import torch

    from zoo.models.layers import apply_spectral_norm
    from zoo.models.registry import get_architecture

    with torch.device(device):
        G = get_architecture(recipe.generator.arch).generator(recipe.generator.config, recipe.image)  # type: ignore[call-arg]
        if recipe.generator.config.spectral_norm:
            apply_spectral_norm(G)
    return G


def summarise_recipe(recipe: Recipe) -> tuple[NetworkSummary, NetworkSummary]:
    """Return the layer tables of a recipe's generator and discriminator, from shapes alone."""
    from zoo.models.summary import summarise_networks

    return summarise_networks(*build_networks(recipe, "meta"), recipe.image)


def override_recipe(recipe: Recipe, *overrides: str) -> Recipe:
    """Return a copy of ``recipe`` with ``"a.b=v"`` overrides applied.

    Raises:
        ZooError: an unknown key or a value that does not fit.
    """
    return recipe_from_dict(recipe.to_dict(), overrides, where=recipe.name)


def find_recipe_file(name: str | Path) -> Path:
    """Return the YAML file of a recipe, given its name or a path to a user's own file.

    Raises:
        ZooError: there is no such recipe or file.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        if not is_file(Path(name)):
            raise ZooError(_explain_missing_file(Path(name)))
        return Path(name)
    if text not in list_models():
        raise ZooError(f"no recipe {shorten(text, 200)}{suggest(text, list_models())}; `zoo list` shows all recipes")
    return RECIPES / f"{text}.yaml"


def _explain_missing_file(path: Path) -> str:
    if is_file(path / "recipe.yaml"):
        return (
            f"{path} is the folder of a run: its recipe is {path / 'recipe.yaml'}, and "
            f"`zoo train --resume {path}` continues it"
        )
    names: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        names = sorted(item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml"))
    return f"no recipe file {path}{suggest(path.name, [*names, *list_models()])}"


def recipe_from_dict(data: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str) -> Recipe:
    """Build a recipe from plain data; ``where``, a name or file, is put before every error.

    Raises:
        ZooError: a key or value does not fit; one line with the dotted path, what is allowed and the nearest match.
    """
    content = copy.deepcopy(dict(data))
    try:
        changed = {_apply_override(content, text) for text in overrides}
        if "plugins" in {path.partition(".")[0] for path in changed}:
            raise SchemaError("plugins", "is a key of recipe files alone; on the command line use --plugin FILE")
        for side in _SIDES:
            content[side] = _read_section(content, side)
            # `arch: x` at the top is short for both networks; as an override it wins over the networks' own.
            if "arch" in changed or "arch" not in content[side]:
                content[side]["arch"] = content.get("arch")
        content.pop("arch", None)
        recipe = _build_recipe(content)
    except ZooError as error:
        raise ZooError(f"{where}: {error}") from None
    if {path.partition(".")[0] for path in changed}.isdisjoint(("arch", "data", *_SIDES)):
        return recipe
    return replace(recipe, parameters=None)  # the counts in the file may no longer be those of these networks


def _build_recipe(content: dict[str, Any]) -> Recipe:
    """Build a recipe from complete sections, and check what depends on more than one of them."""
    from zoo.losses.adversarial import LOSSES
    from zoo.losses.penalties import PENALTIES
    from zoo.models.contract import check_networks
    from zoo.models.registry import ARCHITECTURES, get_architecture

    data = from_plain(DataConfig, content.get("data", {}), "data")
    recorded = from_plain(tuple[Plugin, ...], content.pop("plugins", []), "plugins")
    networks = {side: _build_choice(side, content[side], data, recorded) for side in _SIDES}
    recipe: Recipe = from_plain(Recipe, {**content, "data": data, **networks})
    loss = recipe.loss.name
    _check_choice("loss.name", loss, LOSSES, recorded)
    if recipe.loss.label_smoothing and not LOSSES[loss].smooths:
        raise SchemaError("loss.label_smoothing", f"the {loss} loss has no labels to smooth; leave it at 0")
    if recipe.augment is not None and recipe.augment.name == "ada" and not LOSSES[loss].zero:
        # Relativistic and Wasserstein losses see differences of logits only, so that their zero is arbitrary.
        raise SchemaError("augment.name", f"ada goes by the sign of logits, which means nothing to {loss}")
    for name in recipe.penalties:
        _check_choice("penalties", name, PENALTIES, recorded)
        needs = PENALTIES[name].needs
        if needs is not None and not hasattr(get_architecture(recipe.generator.arch).generator, needs[0]):
            raise SchemaError(f"penalties.{name}", f"{recipe.generator.arch} has no {needs[1]}")
        step, share = recipe.penalties[name].step, recipe.penalties[name].share
        if step and PENALTIES[name].estimate is None:
            able = [key for key, penalty in PENALTIES.items() if penalty.estimate is not None]
            raise SchemaError(f"penalties.{name}.step", f"finite differences estimate {' and '.join(able)} only")
        if share < 1 and not step:
            raise SchemaError(f"penalties.{name}.share", "exact gradients are of all images; set step, such as 0.01")
    if recipe.scales is not None and (large := max(recipe.scales.sizes)) >= data.resolution:
        raise SchemaError("scales.sizes", f"must be below data.resolution, which is {data.resolution}, not {large}")
    _check_batch(recipe)
    archs = {networks[side].arch for side in _SIDES}
    used = [ARCHITECTURES.plugin_of(arch) for arch in sorted(archs)]
    used += [LOSSES.plugin_of(loss), *(PENALTIES.plugin_of(name) for name in recipe.penalties)]
    recipe = replace(recipe, plugins=_current_plugins(recorded, filter(None, used)))
    if not all(map(ARCHITECTURES.is_own, archs)):
        check_networks(lambda: build_networks(recipe, "meta"), recipe.image)
    return recipe


def _current_plugins(recorded: Iterable[Plugin], used: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Return the plug-ins of a recipe as they are loaded now; a changed one is reported."""
    plugins = {plugin.key: plugin for plugin in recorded}
    for plugin in plugins.values():
        report_change(plugin)
    plugins |= {plugin.key: plugin for plugin in loaded_plugins() if plugin.key in plugins}
    plugins |= {plugin.key: plugin for plugin in used}
    return tuple(plugins[key] for key in sorted(plugins))


def _check_batch(recipe: Recipe) -> None:
    """Check what compares the images of a batch."""
    if "mode_seeking" in recipe.penalties:
        if recipe.image.classes:
            raise SchemaError("penalties.mode_seeking", "does not go with classes: images of two must differ anyway")
        if getattr(recipe.generator.config, "mixing", 0.0):
            raise SchemaError("penalties.mode_seeking", "compares images by their latents; set generator.mixing to 0")
        if (recipe.train.micro_batch or min(recipe.train.batches.sizes)) < 2:
            raise SchemaError("penalties.mode_seeking", "compares images; at least 2 must pass through G at once")
    _check_packing(recipe)


def _check_packing(recipe: Recipe) -> None:
    """Check that D can classify several images together."""
    packing = recipe.discriminator.config.packing
    if packing == 1:
        return
    path = "discriminator.packing"
    if recipe.image.classes:
        raise SchemaError(path, "does not go with classes, which may differ within a pack; leave it at 1")
    for size in recipe.train.batches.sizes:
        size = recipe.train.micro_batch or size
        if size % packing:
            raise SchemaError(path, f"{packing} does not divide the {size} images that pass through D at once")
    try:
        recipe.discriminator.config.validate(replace(recipe.image, channels=packing * recipe.image.channels))
    except ValueError as error:
        raise SchemaError(path, f"{error} (packing times data.channels)") from None


def _build_choice(side: str, section: dict[str, Any], data: DataConfig, plugins: Sequence[Plugin]) -> NetworkChoice:
    """Build one network's section with the config class of its architecture."""
    from zoo.models.registry import ARCHITECTURES, get_architecture, list_architectures

    arch = section.pop("arch")
    if arch is None:
        raise SchemaError(f"{side}.arch", f"is missing; one of {', '.join(list_architectures())}")
    _check_choice(f"{side}.arch", arch, ARCHITECTURES, plugins)
    kind = getattr(get_architecture(arch), f"{side}_config")
    config = from_plain(kind, section, side)
    if config.spectral_norm and not kind.spectral:
        raise SchemaError(f"{side}.spectral_norm", f"does not go with {arch}, which scales its weights itself")
    for key, off in (("minibatch_std", 0), ("packing", 1), ("san", False)):
        if side == "generator" and getattr(config, key) != off:
            raise SchemaError(f"generator.{key}", f"is of discriminators; set discriminator.{key}")
    if config.san and data.labels is not None:
        raise SchemaError(f"{side}.san", "does not go with classes, whose embeddings take the place of the last layer")
    if config.minibatch_std == 1:
        raise SchemaError(f"{side}.minibatch_std", "a group of 1 has no deviation; set 0 for none, or at least 2")
    if data.labels is not None and not kind.conditional:
        able = [a for a in list_architectures() if getattr(get_architecture(a), f"{side}_config").conditional]
        raise SchemaError("data.labels", f"the {side} of {arch} takes no classes; these do: {', '.join(able)}")
    try:
        config.validate(image_spec(data))
    except ValueError as error:
        raise SchemaError("data.resolution", str(error)) from None
    return NetworkChoice(arch=arch, config=config)


def _read_section(content: dict[str, Any], side: str, visited: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the mapping of one network; if it is another recipe's name, that recipe's section."""
    section = content.get(side, {})
    if isinstance(section, str):
        if section in visited:
            raise SchemaError(side, f"refers to itself: {' -> '.join((*visited, section))}")
        other = read_yaml(find_recipe_file(section))
        section = _read_section(other, side, (*visited, section))
        section.setdefault("arch", other.get("arch"))
    if not isinstance(section, dict):
        raise SchemaError(side, f"must be a mapping or another recipe's name, not {shorten(section)}")
    return section


def _apply_override(content: dict[str, Any], text: str) -> str:
    """Apply one ``a.b=v`` in place and return its dotted path."""
    if not isinstance(text, str):
        raise ZooError(f"{shorten(text)}: must be an override such as 'generator.width=0.5'")
    path, equals, value = text.partition("=")
    path = path.strip()
    keys = path.split(".")
    if not equals or not all(keys):
        raise ZooError(f"--set {text}: must be KEY=VALUE with a dotted key, such as train.batch=32")
    if len(keys) > 1 and keys[0] in _SIDES:
        content[keys[0]] = _read_section(content, keys[0])  # the name of another recipe becomes its section
    section = content
    for depth, key in enumerate(keys[:-1], start=1):
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise SchemaError(".".join(keys[:depth]), f"is a value, not a section, so {path} cannot be set")
    try:
        section[keys[-1]] = parse_yaml(value)
    except yaml.YAMLError as error:
        raise ZooError(f"--set {text[:200]}: the value is not YAML ({yaml_problem(error)})") from None
    return path


def _check_choice(path: str, name: str, choices: Mapping[str, Any], plugins: Sequence[Plugin]) -> None:
    if not isinstance(name, str) or name not in choices:
        if isinstance(name, str) and (missing := explain_missing(plugins)):
            raise SchemaError(path, f"{shorten(name)} {missing}")
        close = suggest(name, choices) if isinstance(name, str) else ""
        raise SchemaError(path, f"must be one of {', '.join(choices)}, not {shorten(name)}{close}")


def _natural_key(name: str) -> list[Any]:
    """Return a sort key in which digits count as numbers."""
    # Text and digits alternate, starting with (perhaps empty) text, so that equal positions can be compared.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
