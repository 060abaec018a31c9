"""Publish a trained generator: its weights, a model card, and measured values.

A published folder, like a model repository of Hugging Face, holds ``<name>.safetensors`` (the averaged generator in
fp16, recipe inside), ``recipe.yaml``, ``README.md`` (the model card), ``samples.png`` (images 0 to 15 of seed 0) and
``card.json`` (the entry of the catalogue, see ``zoo.hub.pretrained``, and all values). Only generated images are in it.
The published file is what is evaluated, not the file it was made from.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.core.console import Display
from zoo.core.errors import ZooError, error_reason, suggest
from zoo.core.options import EvaluationOptions, with_keywords
from zoo.evaluation.bench import evaluate_target
from zoo.evaluation.model_card import CardTexts, write_card
from zoo.evaluation.results import Target
from zoo.evaluation.targets import find_target
from zoo.hub.pretrained import CARD
from zoo.hub.upload import HubRepository
from zoo.recipes import override_recipe
from zoo.training.generator_file import load_generator_file, save_generator

ALARMS = ("collapse", "memorisation")
MAX_PATH_LENGTH = 200  # characters; longer text is text and no file's name
LICENCE = (
    "Weights: for research, under the terms of the images they were trained on. The code that loads them: Apache-2.0."
)


def publish(
    target: str | os.PathLike[str],
    to: str,
    *,
    name: str | None = None,
    best: bool = False,
    force: bool = False,
    evaluation: EvaluationOptions | None = None,
    data_statement: str | None = None,
    licence: str | None = None,
    despite_alarm: Sequence[str] = (),
    runs: str | Path = "runs",
    display: Display | None = None,
    **keywords: Any,
) -> str:
    """Evaluate a generator and write what others need to use it; return the folder or the address.

    Args:
        target: a run or a generator's file.
        to: ``hf:OWNER/NAME``, or the folder to create.
        name: name of the model; default: that of its recipe.
        best: take the run's ``generator-best.safetensors``.
        force: replace what was published there before.
        evaluation: what to evaluate by.
        data_statement: a statement on the training images, or a text file with it; default: what the run knows.
        licence: terms of use of the weights, or a text file with them.
        despite_alarm: alarms that do not prevent publication: ``memorisation``.
        runs: folder in which a run's name is looked up.
        display: where progress is shown; default: stderr.
        **keywords: fields of :class:`EvaluationOptions`.

    Raises:
        ZooError: unknown generator, it cannot be evaluated, it copies training images, or the place cannot be written.
            Nothing is left there then.
    """
    display = display or Display()
    evaluation = with_keywords(evaluation or EvaluationOptions(), keywords, function="publish")
    for alarm in despite_alarm:
        if alarm not in ALARMS:
            raise ZooError(f"--despite-alarm {alarm}: must be one of {', '.join(ALARMS)}{suggest(alarm, ALARMS)}")
    source = _select(target, runs, best)
    name = name or source.recipe.name
    if not re.fullmatch(r"[\w-]+", name):
        raise ZooError(f"--name {name!r}: must be letters, digits, '-' and '_'")
    data = _read_text(data_statement, "--data-statement") or _known_data(source)
    texts = CardTexts(data=data, licence=_read_text(licence, "--licence") or LICENCE)
    place: HubRepository | _Folder = HubRepository(to, force) if to.startswith("hf:") else _Folder(to, force)
    with place as folder:
        try:
            published = _write_weights(source, name, folder)
            evaluator, groups = evaluate_target(published, evaluation, display)
            _refuse_copies(source.name, groups[0].rows[0].alarms, despite_alarm)
            entry = write_card(published, evaluator, groups[0], texts, folder, to)
        except OSError as error:
            raise ZooError(f"{to}: cannot be written ({error_reason(error)})") from None
        if entry.judged is not None and not entry.judged.copies_told:
            display.warn("too few held-out images to detect copies of training images; the card says so")
        return place.take(folder)


def _refuse_copies(name: str, alarms: Sequence[dict[str, Any]], despite_alarm: Sequence[str]) -> None:
    for alarm in alarms:
        if alarm["name"] == "memorisation" and "memorisation" not in despite_alarm:
            raise ZooError(
                f"{name}: is not published, because it copies training images: {alarm['text']} "
                "(--despite-alarm memorisation publishes it anyway)"
            )


def _select(target: str | os.PathLike[str], runs: str | Path, best: bool) -> Target:
    found = find_target(os.fspath(target), runs)
    if not best:
        return found
    if found.kind != "run" or found.run is None:
        raise ZooError(f"--best: needs a run, and {target} is a file")
    file = found.run.best_file
    if not file.is_file():
        raise ZooError(f"{target}: has no {file.name}; train.best says by which metric it is chosen")
    return replace(found, kind="file", weights=file)


def _read_text(given: str | None, option: str) -> str | None:
    """Text, or that of the file it names, on one line."""
    if given is None:
        return None
    try:
        if len(given) < MAX_PATH_LENGTH and Path(given).is_file():
            given = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ZooError(f"{option} {given}: cannot be read ({error_reason(error)})") from None
    if not given.strip():
        raise ZooError(f"{option}: is empty")
    if len(given.split()) == 1 and ("/" in given or Path(given).suffix):
        raise ZooError(f"{option} {given}: no such file")
    return " ".join(given.split())


def _known_data(target: Target) -> str:
    if target.run is None:
        raise ZooError(f"{target.name}: its file does not say what it was trained on; state it by --data-statement")
    where, _, counts = target.run.info["data_description"].partition(": ")
    return f"Trained on {'phantoms: ' if where.startswith('phantoms') else ''}{counts}."  # the folder stays private


def _write_weights(source: Target, name: str, folder: Path) -> Target:
    """Write fp16 weights and the recipe; return them as what is to be evaluated."""
    generator, recipe, nimg = load_generator_file(source.weights)
    if recipe.train.init_from is not None:  # its folder stays private
        recipe = override_recipe(recipe, f"train.init_from={json.dumps(Path(recipe.train.init_from).name)}")
    path = folder / f"{name}.safetensors"
    save_generator(path, generator, recipe=recipe, nimg=nimg, dtype=torch.float16)
    text = f"# As trained, every default filled in. Digest {recipe.digest}.\n{recipe.to_yaml()}"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return Target(name=name, kind="file", group=name, weights=path, recipe=recipe, run=source.run)


class _Folder:
    """A folder that is written next to its place and moved there in one step."""

    def __init__(self, to: str, force: bool) -> None:
        self.path = Path(to)
        taken = self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))
        if taken and not (self.path / CARD).is_file():
            raise ZooError(f"{to}: exists and was not written by `zoo publish`; name another folder")
        if taken and not force:
            raise ZooError(f"{to}: exists; --force replaces it")
        try:
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            self._work = tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.absolute().parent)
        except OSError as error:
            raise ZooError(f"{to}: cannot be written ({error_reason(error)})") from None

    def __enter__(self) -> Path:
        folder = Path(self._work.__enter__()) / "new"
        folder.mkdir()
        return folder

    def __exit__(self, *error: Any) -> None:
        self._work.__exit__(*error)

    def take(self, folder: Path) -> str:
        """Move the folder to its place; what was there is removed with the temporary folder."""
        try:
            if self.path.exists():
                self.path.rename(folder.with_name("old"))
            folder.rename(self.path)
        except OSError as error:
            if (folder.with_name("old")).exists() and not self.path.exists():
                folder.with_name("old").rename(self.path)
            raise ZooError(f"{self.path}: cannot be written ({error_reason(error)})") from None
        return str(self.path)
