"""A model zoo of GANs for small, mostly grey, mostly medical image sets.

    zoo.train("dcgan-64", data="slices/")          # a run folder: weights, sample grids, loss curves, checkpoints
    zoo.load_generator("dcgan-64").sample(16)      # uint8 (16, 1, 64, 64), from the newest run
    zoo.load_generator("brain-64").sample(16)      # the best pretrained generator of 64 pixels

``import zoo`` loads neither torch nor numpy: names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; must list the same names as _MODULES
    from zoo.core.config import Recipe as Recipe
    from zoo.core.errors import ZooError as ZooError
    from zoo.core.plugins import load_plugin as load_plugin
    from zoo.data.sources.registry import register_source as register_source
    from zoo.evaluation.bench import bench as bench
    from zoo.evaluation.compare import compare as compare
    from zoo.evaluation.publish import publish as publish
    from zoo.hub.create_discriminator import create_discriminator as create_discriminator
    from zoo.hub.explorer import explore as explore
    from zoo.hub.export import export as export
    from zoo.hub.generated_dataset import GeneratedDataset as GeneratedDataset
    from zoo.hub.load import LoadedGenerator as LoadedGenerator
    from zoo.hub.load import load_generator as load_generator
    from zoo.hub.pretrained import list_weights as list_weights
    from zoo.losses.adversarial import register_loss as register_loss
    from zoo.losses.penalties import register_penalty as register_penalty
    from zoo.metrics.registry import register_metric as register_metric
    from zoo.models.registry import list_architectures as list_architectures
    from zoo.models.registry import register_architecture as register_architecture
    from zoo.recipes import create as create
    from zoo.recipes import is_model as is_model
    from zoo.recipes import list_models as list_models
    from zoo.recipes import load_recipe as load_recipe
    from zoo.report.notebook import show as show
    from zoo.training.run_folder import Run as Run
    from zoo.training.train import train as train

    __version__: str

# Public name: module that defines it.
_MODULES = {
    "GeneratedDataset": "zoo.hub.generated_dataset",
    "LoadedGenerator": "zoo.hub.load",
    "Recipe": "zoo.core.config",
    "Run": "zoo.training.run_folder",
    "ZooError": "zoo.core.errors",
    "bench": "zoo.evaluation.bench",
    "compare": "zoo.evaluation.compare",
    "create": "zoo.recipes",
    "create_discriminator": "zoo.hub.create_discriminator",
    "explore": "zoo.hub.explorer",
    "export": "zoo.hub.export",
    "is_model": "zoo.recipes",
    "list_architectures": "zoo.models.registry",
    "list_models": "zoo.recipes",
    "list_weights": "zoo.hub.pretrained",
    "load_generator": "zoo.hub.load",
    "load_plugin": "zoo.core.plugins",
    "load_recipe": "zoo.recipes",
    "publish": "zoo.evaluation.publish",
    "register_architecture": "zoo.models.registry",
    "register_loss": "zoo.losses.adversarial",
    "register_metric": "zoo.metrics.registry",
    "register_penalty": "zoo.losses.penalties",
    "register_source": "zoo.data.sources.registry",
    "show": "zoo.report.notebook",
    "train": "zoo.training.train",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # looked up when asked for: reading metadata takes time
        return importlib.import_module("zoo.core.version").version()
    if name not in _MODULES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
