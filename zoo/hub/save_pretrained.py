"""Write a generator to a folder of the layout that the Hugging Face Hub expects, without evaluating it."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from zoo.core.config import Recipe
from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file
from zoo.hub.model_repository import CARD_FILE, LICENCE_FILE, RECIPE_FILE, card_header, write_config
from zoo.recipes import override_recipe
from zoo.training.generator_file import save_generator

WEIGHTS_FILE = "model.safetensors"
DEFAULT_LICENCE = (
    "Weights: for research, under the terms of the images they were trained on. The code that loads them: Apache-2.0."
)
_CARD = """{header}
# {name}

A generator of images of {side} x {side} pixels: `{arch}`, trained by the recipe `{name}` on {nimg:,} images seen.
It was not evaluated: whether it copies its training images is not known.

```python
import zoo

generator = zoo.LoadedGenerator.from_pretrained("OWNER/NAME")  # or this folder
images = generator.sample(16, seed=0)
```
"""


def hide_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with the name alone of the run it started from: a path can be confidential."""
    if recipe.train.init_from is None:
        return recipe
    return override_recipe(recipe, f"train.init_from={json.dumps(Path(recipe.train.init_from).name)}")


def write_pretrained(folder: Path, generator: nn.Module, recipe: Recipe, nimg: int, licence: str | None) -> Path:
    """Write weights, ``config.json``, recipe, card and licence, and return the folder.

    Raises:
        ZooError: it cannot be written.
    """
    recipe = hide_paths(recipe)
    side, arch = recipe.data.resolution, recipe.generator.arch
    header = card_header(recipe, name=recipe.name)
    texts = {
        RECIPE_FILE: f"# As trained, every default filled in. Digest {recipe.digest}.\n{recipe.to_yaml()}",
        LICENCE_FILE: f"# Licence of {recipe.name}\n\n{licence or DEFAULT_LICENCE}\n",
        CARD_FILE: _CARD.format(header=header, name=recipe.name, side=side, arch=arch, nimg=nimg),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_generator(folder / WEIGHTS_FILE, generator, recipe=recipe, nimg=nimg)
        for name, text in texts.items():
            with atomic_file(folder / name, "w") as file:
                file.write(text)
        write_config(folder, folder / WEIGHTS_FILE, recipe, nimg)  # last: it describes the weights
    except OSError as error:
        raise ZooError(f"{folder}: cannot be written ({error_reason(error)})") from None
    return folder
