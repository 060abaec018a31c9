"""Options of training and evaluation that are passed on together, as plain data."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from zoo.core.arguments import as_list, plain_number
from zoo.core.errors import suggest

# Old keyword: new keyword; the old one works for one more version.
RENAMED_KEYWORDS = {"samples": "num_samples", "spaces": "extractors", "train_kimg": "kimg"}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train a recipe.

    Attributes:
        data: folder, zip, ``.npy`` or ``.npz`` of images, or ``"phantoms[:SUBJECTS]"``; None: ``$ZOO_DATA``, else
            phantoms. Also an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W), a torch data set, or a table of
            paths (``zoo.data.sources.memory``).
        subjects: with an array, data set or table: the subject of each image, or a column's name.
        labels: with these, the class of each image, a column's name, or True for those of the data set or table; sets
            ``data.labels``.
        out: folder in which run folders are made.
        kimg: thousands of images to train for (``train.kimg``); None: as the recipe says.
        epochs: the same as a number of passes over the training images; None: by ``kimg``.
        hours: wall time after which training stops with everything saved, to be continued; None: no limit.
        device: ``auto``, ``cpu``, ``cuda[:INDEX]`` or ``mps``.
        precision: ``auto``, ``fp32`` or ``bf16`` (``train.precision``); None: as the recipe says.
        new: start a new run even if one could be continued.
        deterministic: use only algorithms that repeat bit for bit; slower on CUDA.
        tensorboard: also write for TensorBoard, as ``loggers=["tensorboard"]``.
        loggers: other programs that the log and the sample grids are written for: ``tensorboard``, ``wandb``,
            ``mlflow``, ``csv``; each but the last is an extra.
        callbacks: objects with any of ``on_log(row)``, ``on_images(nimg, images)``, ``on_checkpoint(path)`` and
            ``on_end(run)`` (``zoo.training.callbacks``). One that raises stops the run with everything saved.
        set: overrides as on the command line, ``"train.batch=32"``.
        stop: called after every step; a true value (such as the number of a signal) ends training with everything
            saved. A context manager is entered for as long as steps are taken. None: train to the end.
    """

    data: Any = None
    subjects: Any = None
    labels: Any = None
    out: str | Path = "runs"
    kimg: float | None = None
    epochs: float | None = None
    hours: float | None = None
    device: str = "auto"
    precision: str | None = None
    new: bool = False
    deterministic: bool = False
    tensorboard: bool = False
    loggers: Sequence[str] = dataclasses.field(default_factory=list)
    callbacks: Sequence[Any] = ()
    set: Sequence[str] = ()
    stop: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        _make_plain(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How to evaluate generators or image sets.

    Attributes:
        data: real images to compare with; None: those that the first run was trained on.
        metrics: names and groups of metrics; None: the default ones.
        extractors: feature extractors, the first of which ranks; None: Inception, and DINOv2 if its weights exist.
        weights: file or folder with the extractors' weights; None: ``$ZOO_WEIGHTS``, caches, then a download.
        num_samples: generated images per generator; None: the default of the command.
        device: ``auto``, ``cpu``, ``cuda[:INDEX]`` or ``mps``.
    """

    data: str | Path | None = None
    metrics: Sequence[str] | None = None
    extractors: Sequence[str] | None = None
    weights: str | Path | None = None
    num_samples: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        _make_plain(self)


def _make_plain(options: Any) -> None:
    """Make numbers and lists of words in options what the command line would give.

    Raises:
        ZooError: a field is of another type.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None:
            continue
        if field.type in ("int | None", "float | None"):
            value = plain_number(field.name, value, whole=field.type == "int | None")
        elif str(field.type).startswith("Sequence[str]"):
            value = as_list(value)
        object.__setattr__(options, field.name, value)  # frozen for others


Options = TypeVar("Options", TrainOptions, EvaluationOptions)


def field_names(kind: type[Any]) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [field.name for field in dataclasses.fields(kind)]


def with_keywords(options: Options, keywords: Mapping[str, Any], *, function: str, depth: int = 2) -> Options:
    """Return a copy of ``options`` with fields replaced by ``keywords``; old keywords raise a warning.

    Args:
        function: name of the called function, for messages.
        depth: calls between the user's own and this one, so that the warning points at the user's line.

    Raises:
        TypeError: an unknown keyword, in Python's own words and with the nearest match.
    """
    names, changes = field_names(type(options)), {}
    for key, value in keywords.items():
        name = RENAMED_KEYWORDS.get(key, key)
        if name not in names:
            raise TypeError(f"{function}() got an unexpected keyword argument {key!r}{suggest(key, names)}")
        if name != key:
            warnings.warn(f"{function}({key}=...) is called {name} now", DeprecationWarning, stacklevel=depth + 1)
        changes[name] = value
    return replace(options, **changes)
