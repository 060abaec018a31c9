"""Publish a trained generator: weights, a model card and measured metrics, in a folder or on Hugging Face.

<name>.safetensors   the averaged generator in fp16, with its recipe
recipe.yaml          how it was trained
config.json          the recipe and the hash of the weights, by which `zoo.load_generator` loads the folder
README.md            the model card
LICENSE.md           the terms of use of the weights
samples.png          generated images 0 to 15 of seed 0
card.json            the entry for the catalogue (see ``zoo.hub.pretrained``), and all metrics
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.core.arguments import as_list
from zoo.core.console import Display
from zoo.core.errors import ZooError, error_reason, suggest
from zoo.core.files import is_file, temporary_folder
from zoo.core.options import EvaluationOptions, with_keywords
from zoo.core.wording import count_of
from zoo.evaluation.evaluate_generators import (
    HEADLINE_METRICS,
    HEADLINE_SAMPLES,
    LATENT_SEED,
    REPORTED,
    EvaluatedGroup,
    GeneratorEvaluator,
    evaluate_one,
)
from zoo.evaluation.model_card import SAMPLE_IMAGES, write_card
from zoo.evaluation.targets import Target, find_target
from zoo.hub.load import load_generator
from zoo.hub.model_repository import RECIPE_FILE, write_config
from zoo.hub.pretrained import CARD, EvaluationFacts, MeasuredValue, PretrainedWeights, SampleCheck
from zoo.hub.save_pretrained import DEFAULT_LICENCE, hide_paths
from zoo.hub.upload import ModelRepository
from zoo.metrics.evaluate_images import COPY_METRICS
from zoo.report.image_grid import make_grid, save_png
from zoo.report.table import describe_no_alarm
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.generator_file import load_generator_file, save_generator

CATALOGUE_METRICS = ("fid", "kid", "precision", "recall", "coverage", "ssim_nearest", "ssim_pairwise")
ALARMS = ("collapse", "memorisation", "untrained", "privacy")
TEXT_SUFFIXES = (".md", ".rst", ".text", ".txt")


@torch_defaults()
def publish(
    target: str | os.PathLike[str],
    to: str,
    *,
    evaluation: EvaluationOptions | None = None,
    name: str | None = None,
    best: bool = False,
    force: bool = False,
    private: bool = False,
    data_statement: str | None = None,
    training_statement: str | None = None,
    licence: str | None = None,
    despite_alarm: Sequence[str] = (),
    runs: str | Path = "runs",
    display: Display | None = None,
    **keywords: Any,
) -> str:
    """Evaluate a generator and publish it; the function behind ``zoo publish``.

    The evaluated weights are those of the published file, rounded to fp16.

    Args:
        target: a run, the file of a generator, or a published folder; without a run ``data`` must be given.
        to: ``hf:owner/name``, or a new folder.
        evaluation: what it is evaluated by; always by all metrics.
        name: of the model; default: its recipe's.
        best: publish the run's ``generator-best.safetensors``.
        force: replace what was published there before.
        private: make a new repository private.
        data_statement: statement on the training images, or a text file; default: what the run knows.
        training_statement: what the training took, or a text file; default: what the run knows.
        licence: terms of use of the weights, or a text file.
        despite_alarm: alarms that do not prevent publication: ``memorisation``.
        runs: folder in which names of runs are looked up.
        display: where progress is shown; default: stderr.
        **keywords: fields of :class:`EvaluationOptions`.

    Returns:
        The folder, or the address of the repository.

    Raises:
        ZooError: no such generator, it cannot be evaluated, its training images are not named, it copies them, or the
            place cannot be written. Nothing is left there then.
    """
    options = with_keywords(evaluation or EvaluationOptions(), keywords, function="publish", depth=3)
    headline = HEADLINE_METRICS if (options.num_samples or 0) >= HEADLINE_SAMPLES else ()
    options = replace(options, metrics=(*REPORTED, *headline))  # all: the alarm for copies must not be switched off
    display = display or Display()
    despite_alarm, to = as_list(despite_alarm), os.fspath(to)
    # All input is checked before the evaluation, which takes minutes.
    _check_choices(to, private, despite_alarm)
    source = find_target(os.fspath(target), runs)
    if best:
        source = _best_weights(source)
    name = name or source.recipe.name
    if not re.fullmatch(r"[\w-]+", name):
        raise ZooError(f"{name!r}: a model's name must be letters, digits, '-' and '_'. Give another by --name.")
    statement = _read_text(data_statement, "--data-statement") or _describe_training_data(source)
    training = _read_text(training_statement, "--training-statement") or _describe_training(source)
    licence = _read_text(licence, "--licence") or DEFAULT_LICENCE
    if source.run is None and options.data is None:
        raise ZooError(f"{source.name}: its file does not name the images it was trained on. Name them by --data")
    place = ModelRepository(to, force, private) if to.startswith("hf:") else _OutputFolder(to, force)
    try:
        with temporary_folder(place.prefix, place.workspace) as workspace:
            folder = Path(workspace) / "new"
            folder.mkdir()
            published = _write_weights(source, name, folder)
            evaluator, group = evaluate_one(published, options, display)
            # Images of patients must not leave the machine through a generator that repeats them.
            if "memorisation" not in despite_alarm:
                _refuse_copies(source.name, group)
            entry = replace(_catalogue_entry(published, evaluator, group, statement, licence), training=training)
            if entry.judged is not None and not entry.judged.copies_told:
                display.warn("too few held-out images to recognise copies of training images; the card says so")
            if source.run is None:
                display.warn(
                    "copies are of the images of --data, since the weights do not name their own; the card says so"
                )
            entry = _write_samples(entry, folder)
            write_card(entry, published.recipe, evaluator, group, folder, to)
            files = sorted(path.name for path in folder.iterdir())
            address = place.accept(folder)
            _report_alarms(group, display)
            display.say(f"{address}: {', '.join(files)}")
            return address
    except OSError as error:
        raise ZooError(f"{to}: cannot be written ({error_reason(error)})") from None


def _check_choices(to: str, private: bool, despite_alarm: Sequence[str]) -> None:
    if private and not to.startswith("hf:"):
        raise ZooError(f"--private: {to} is a folder; it goes with --to hf:OWNER/NAME")
    for alarm in despite_alarm:
        if alarm not in ALARMS:
            raise ZooError(f"--despite-alarm {alarm}: must be one of {', '.join(ALARMS)}{suggest(alarm, ALARMS)}")


def _best_weights(target: Target) -> Target:
    if target.kind != "run" or target.run is None:
        raise ZooError(f"--best: applies to runs, and {target.name} is a file")
    file = target.run.best_file
    if not file.is_file():
        raise ZooError(f"{target.name}: has no {file.name}. Train with train.best, which says how it is chosen.")
    return replace(target, kind="file", weights=file)


def _read_text(text: str | None, option: str) -> str | None:
    """Return a text, or that of the file it names, as one line."""
    if text is None:
        return None
    try:
        if is_file(Path(text)):
            text = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ZooError(f"{option} {text}: cannot be read ({error_reason(error)})") from None
    words = text.split()
    if not words:
        raise ZooError(f"{option}: is empty")
    if len(words) == 1 and _looks_like_file(text):
        raise ZooError(f"{option} {text}: no such file. Name one, or write the text itself")
    return " ".join(words)


def _looks_like_file(word: str) -> bool:
    """Return whether one word is meant as a file: the name of a licence (CC-BY-4.0) or an address is not."""
    return "://" not in word and ("/" in word or Path(word).suffix.lower() in TEXT_SUFFIXES)


def _describe_training_data(target: Target) -> str:
    if target.run is None:
        raise ZooError(f"{target.name}: its file does not say what it was trained on. Give --data-statement.")
    source, _, counts = target.run.info["data_description"].partition(": ")
    # Of the source only that it is phantoms: paths of folders can be confidential.
    return f"Trained on {'phantoms, ' if source.startswith('phantoms') else ''}a set of {counts}."


def _describe_training(target: Target) -> str:
    """Return what the training took, or an empty text where that is not known."""
    seconds = target.run.info.get("seconds") if target.run is not None else None
    if target.run is None or not seconds:
        return ""
    environment = target.run.info.get("environment", {})
    hardware = environment.get("cpu") or environment.get("hardware") or target.run.info["device"]
    threads = count_of(environment.get("threads", 1), "thread")
    return f"{sum(seconds.values()) / 60:,.0f} minutes on {hardware}, {threads}."


def _write_weights(target: Target, name: str, folder: Path) -> Target:
    """Write fp16 weights and the recipe; return the written file as a target."""
    generator, recipe, nimg = load_generator_file(target.weights)
    recipe = hide_paths(recipe)
    path = folder / f"{name}.safetensors"
    save_generator(path, generator, recipe=recipe, nimg=nimg, dtype=torch.float16)
    text = f"# As trained, every default filled in. Digest {recipe.digest}.\n{recipe.to_yaml()}"
    (folder / RECIPE_FILE).write_text(text, encoding="utf-8")
    write_config(folder, path, recipe, nimg)
    # With the run: the published file is evaluated against the images of its training.
    return Target(name=name, kind="file", group=name, weights=path, recipe=recipe, run=target.run)


def _refuse_copies(name: str, group: EvaluatedGroup) -> None:
    for alarm in group.rows[0].alarms:
        if alarm["name"] == "memorisation":
            raise ZooError(
                f"{name}: not published, because it copies training images: {alarm['text']} "
                "To publish it nevertheless, use --despite-alarm memorisation."
            )


def _report_alarms(group: EvaluatedGroup, display: Display) -> None:
    """Report every alarm that the card tells of, or that there is none."""
    alarms = group.rows[0].alarms
    for alarm in alarms:
        display.warn(f"{alarm['name']}: {alarm['text']} The card says so.")
    if not alarms:
        display.say(describe_no_alarm([group.rows[0].to_json()]))


def _catalogue_entry(
    target: Target, evaluator: GeneratorEvaluator, group: EvaluatedGroup, statement: str, licence: str
) -> PretrainedWeights:
    recipe, row = target.recipe, group.rows[0]
    metrics = {}
    for name in CATALOGUE_METRICS:
        value = row.values.get(name)
        if value is not None and value.value is not None:
            metrics[name] = MeasuredValue(value=value.value, low=value.low, high=value.high)
    facts = EvaluationFacts(
        samples=row.facts["samples"],
        seed=LATENT_SEED,
        space=evaluator.extractors[0].name if evaluator.extractors else None,
        against=f"{len(group.data.train):,} training and {len(group.data.unseen):,} held-out images",
        alarms=tuple(dict.fromkeys(alarm["name"] for alarm in row.alarms)),
        copies_told=any(name in row.values and row.values[name].value is not None for name in COPY_METRICS),
    )
    return PretrainedWeights(
        name=target.name,
        sha256=hashlib.sha256(target.weights.read_bytes()).hexdigest(),
        size=target.weights.stat().st_size,
        recipe=recipe.name,
        recipe_digest=recipe.digest,
        resolution=recipe.data.resolution,
        channels=recipe.data.channels,
        nimg=row.cost["nimg"],
        data=statement,
        licence=licence,
        train_seeds=(recipe.train.seed,),
        metrics=metrics,
        judged=facts,
    )


def _write_samples(entry: PretrainedWeights, folder: Path) -> PretrainedWeights:
    """Write samples.png; return the entry with the statistics of these images."""
    # In fp32, so that other machines can repeat them.
    images = load_generator(folder / f"{entry.name}.safetensors", precision="fp32").sample(SAMPLE_IMAGES)
    columns = 8 if entry.resolution <= 128 else 4
    save_png(make_grid(images, columns), folder / "samples.png", {"model": entry.name, "seed": 0})
    levels = images.double()
    check = SampleCheck(mean=round(float(levels.mean()), 4), std=round(float(levels.std()), 4), columns=columns)
    return replace(entry, check=check)


class _OutputFolder:
    """A folder that appears complete or not at all."""

    def __init__(self, to: str, force: bool) -> None:
        self.path = Path(to)
        # With the target's name: what a killed process left is put back or removed when this target is published again.
        # Hashed: one target's name may be the beginning of another's.
        name = self.path.absolute().name
        self.prefix = f".zoo-publish-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:12]}-"
        # The same file system: a rename is atomic only there.
        self.workspace = self.path.absolute().parent
        try:
            self._restore()
            occupied = self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))
        except (OSError, ValueError) as error:
            raise ZooError(f"{to}: cannot be written ({error_reason(error)})") from None
        if occupied and not (self.path / CARD).is_file():
            raise ZooError(f"{to}: exists and was not written by `zoo publish`. Name another folder.")
        if occupied and not force:
            raise ZooError(f"{to}: exists. --force replaces it.")
        try:
            self.workspace.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZooError(f"{to}: cannot be written ({error_reason(error)})") from None

    def _restore(self) -> None:
        """Put back what a process moved away that was killed between the two renames of :meth:`accept`."""
        for old in self.workspace.glob(f"{glob.escape(self.prefix)}*/old"):
            if not self.path.exists():
                old.rename(self.path)

    def accept(self, folder: Path) -> str:
        """Move ``folder`` to its place; what was there before is deleted with the workspace."""
        old = folder.with_name("old")
        try:
            if self.path.exists():
                self.path.rename(old)
            folder.rename(self.path)
        except OSError:
            if old.exists() and not self.path.exists():
                old.rename(self.path)
            raise
        return str(self.path)
