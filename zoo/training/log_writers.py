"""Callbacks that write the log for other programs: ``--logger tensorboard,wandb,mlflow,csv``.

Each is made with the run, its recipe and the images seen so far; a resumed run continues the same series.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from zoo.core.config import Recipe
from zoo.core.errors import ZooError, describe_error, suggest
from zoo.core.files import atomic_file
from zoo.report.image_grid import make_grid
from zoo.training.run_folder import Run

PROJECT = "gan-zoo"  # of Weights & Biases and MLflow, unless their variables name another
MAX_PARAM_CHARACTERS = 500  # of a value that MLflow takes


class LogWriter:
    """A callback that is chosen by name.

    Attributes:
        package: that must be installed, and name of its extra.
    """

    package: ClassVar[str | None] = None

    def __init__(self, run: Run, recipe: Recipe, nimg: int) -> None:
        self.run = run

    def _stored_id(self) -> str | None:
        """Return the id under which an earlier part of the training was written."""
        return self.run.info.get("loggers", {}).get(self.package)

    def _store_id(self, identity: str) -> None:
        self.run.write_info(loggers={**self.run.info.get("loggers", {}), str(self.package): identity})


class TensorBoardWriter(LogWriter):
    """Scalars, sample grids and hyperparameters in the run's folder ``tensorboard``."""

    package = "tensorboard"

    def __init__(self, run: Run, recipe: Recipe, nimg: int) -> None:
        super().__init__(run, recipe, nimg)
        from torch.utils.tensorboard import SummaryWriter

        self._parameters = flatten_recipe(recipe)
        self._last: dict[str, float] = {}
        self._writer = SummaryWriter(run.path / "tensorboard", purge_step=nimg + 1)

    def on_log(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row."""
        self._last |= numbers(row)
        for key, value in numbers(row).items():
            self._writer.add_scalar(key, value, row["nimg"])
        self._writer.flush()

    def on_images(self, nimg: int, images: Tensor) -> None:
        """Write a grid of the images."""
        grid = np.asarray(make_grid(images))
        self._writer.add_image("samples", grid, nimg, dataformats="HW" if grid.ndim == 2 else "HWC")

    def on_end(self, run: Run) -> None:
        """Write the recipe as hyperparameters, with the last numbers."""
        if self._last:
            final = {f"final/{key}": value for key, value in self._last.items()}
            self._writer.add_hparams(self._parameters, final, run_name=".")
        self._writer.close()


class WandbWriter(LogWriter):
    """Numbers, sample grids and the recipe for Weights & Biases; its variables, such as ``WANDB_MODE``, apply."""

    package = "wandb"

    def __init__(self, run: Run, recipe: Recipe, nimg: int) -> None:
        super().__init__(run, recipe, nimg)
        import os

        import wandb

        self._module = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            dir=str(run.path),
            id=self._stored_id(),
            resume="allow",
            config=flatten_recipe(recipe),
        )
        self._store_id(self._run.id)
        # Its own steps may not go back, and a resumed run's do.
        self._run.define_metric("nimg")
        self._run.define_metric("*", step_metric="nimg")

    def on_log(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row."""
        self._run.log({"nimg": row["nimg"], **numbers(row)})

    def on_images(self, nimg: int, images: Tensor) -> None:
        """Write a grid of the images."""
        self._run.log({"nimg": nimg, "samples": self._module.Image(make_grid(images))})

    def on_end(self, run: Run) -> None:
        """Close the run, as failed if it failed."""
        self._run.finish(exit_code=int(run.info["status"] == "failed"))


class MlflowWriter(LogWriter):
    """Numbers, sample grids and the recipe for MLflow; its variables, such as ``MLFLOW_TRACKING_URI``, apply."""

    package = "mlflow"

    def __init__(self, run: Run, recipe: Recipe, nimg: int) -> None:
        super().__init__(run, recipe, nimg)
        import os

        from mlflow import MlflowClient

        self._client = MlflowClient()
        identity = self._stored_id()
        if identity is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            place = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
            identity = str(self._client.create_run(place, run_name=run.name).info.run_id)
            for key, value in flatten_recipe(recipe).items():
                self._client.log_param(identity, key, str(value)[:MAX_PARAM_CHARACTERS])
            self._store_id(identity)
        self._id = identity

    def on_log(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row."""
        for key, value in numbers(row).items():
            self._client.log_metric(self._id, key, value, step=row["nimg"])

    def on_images(self, nimg: int, images: Tensor) -> None:
        """Write a grid of the images."""
        self._client.log_image(self._id, make_grid(images), artifact_file=f"samples/{nimg:012d}.png")

    def on_end(self, run: Run) -> None:
        """Close the run with its status."""
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(run.info["status"], "KILLED")
        self._client.set_terminated(self._id, status=status)


class CsvWriter(LogWriter):
    """``log.csv`` in the run's folder: the numbers of all rows, one column each."""

    def __init__(self, run: Run, recipe: Recipe, nimg: int) -> None:
        super().__init__(run, recipe, nimg)
        self._columns: list[str] = []
        self._rewrite(run.rows())

    def on_log(self, row: Mapping[str, Any]) -> None:
        """Append a row; where it has new columns, as the first validation has, write all rows again."""
        if not {"nimg", *numbers(row)} <= set(self._columns):
            self._rewrite(self.run.rows())  # whose last one is this
            return
        with (self.run.path / "log.csv").open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow({"nimg": row["nimg"], **numbers(row)})

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        table = [{"nimg": row["nimg"], **numbers(row)} for row in rows]
        self._columns = list(dict.fromkeys(("nimg", *(key for row in table for key in row))))
        with atomic_file(self.run.path / "log.csv", "w") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)


LOG_WRITERS: dict[str, type[LogWriter]] = {
    "csv": CsvWriter,
    "mlflow": MlflowWriter,
    "tensorboard": TensorBoardWriter,
    "wandb": WandbWriter,
}


def check_loggers(names: str | Sequence[str], *more: str) -> list[str]:
    """Return names of log writers, each once; ``"a,b"`` is two of them.

    Raises:
        ZooError: an unknown name, or a package is not installed.
    """
    words = [*([names] if isinstance(names, str) else names), *more]
    chosen = list(dict.fromkeys(name.strip() for word in words for name in word.split(",")))
    for name in chosen:
        if name not in LOG_WRITERS:
            choices = ", ".join(LOG_WRITERS)
            raise ZooError(f"--logger {name}: unknown logger{suggest(name, LOG_WRITERS)}. Choose from {choices}")
        package = LOG_WRITERS[name].package
        if package is not None and importlib.util.find_spec(package) is None:
            raise ZooError(f"--logger {name} needs the package {package}: pip install 'gan-zoo[{package}]'")
    return chosen


def open_loggers(names: Sequence[str], run: Run, recipe: Recipe, nimg: int) -> list[LogWriter]:
    """Return the log writers of a run.

    Raises:
        ZooError: one cannot be started, such as without a key.
    """
    writers = []
    for name in names:
        try:
            writers.append(LOG_WRITERS[name](run, recipe, nimg))
        except ZooError:
            raise
        except Exception as error:  # of many kinds: no key, no network, no server
            raise ZooError(f"--logger {name}: cannot be started ({describe_error(error)})") from None
    return writers


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of the log, without ``nimg``."""
    kinds = (int, float)
    return {key: value for key, value in row.items() if isinstance(value, kinds) and key != "nimg"}


def flatten_recipe(recipe: Recipe) -> dict[str, bool | float | str]:
    """Return a recipe with dotted keys; lists and empty values as text."""
    flat: dict[str, bool | float | str] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            flat[prefix] = value if isinstance(value, bool | int | float | str) else str(value)

    add("", recipe.to_dict())
    return flat
