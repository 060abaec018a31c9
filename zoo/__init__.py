"""A model zoo of GANs for small, mostly grey, mostly medical image sets.

    zoo.train("dcgan-64", data="slices/")          # a run: networks, pictures, curves, checkpoints
    zoo.load_generator("dcgan-64").sample(16)      # uint8 (16, 1, 64, 64); packaged weights where none were trained

Names are looked up when they are first used, so that ``import zoo`` loads neither torch nor anything else that takes
time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.benchmark import bench as bench
    from zoo.comparison import compare as compare
    from zoo.errors import ZooError as ZooError
    from zoo.generated import GeneratedDataset as GeneratedDataset
    from zoo.hub import LoadedGenerator as LoadedGenerator
    from zoo.hub import load_generator as load_generator
    from zoo.launch import train as train
    from zoo.publishing import publish as publish
    from zoo.recipe import Recipe as Recipe
    from zoo.recipe import create as create
    from zoo.recipe import list_models as list_models
    from zoo.recipe import load as load_recipe  # noqa: F401
    from zoo.registry import list_architectures as list_architectures
    from zoo.run import Run as Run

_HOMES = {
    "GeneratedDataset": "zoo.generated",
    "LoadedGenerator": "zoo.hub",
    "Recipe": "zoo.recipe",
    "Run": "zoo.run",
    "ZooError": "zoo.errors",
    "bench": "zoo.benchmark",
    "compare": "zoo.comparison",
    "create": "zoo.recipe",
    "list_architectures": "zoo.registry",
    "list_models": "zoo.recipe",
    "load_generator": "zoo.hub",
    "load_recipe": "zoo.recipe:load",
    "publish": "zoo.publishing",
    "train": "zoo.launch",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
