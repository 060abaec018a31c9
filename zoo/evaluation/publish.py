"""A trained generator made ready for others: its weights, a card that says what it is, and figures that were measured.

A published folder, and a model repository of Hugging Face alike, holds

    <name>.safetensors   the averaged generator in fp16, recipe inside
    recipe.yaml          how it was trained
    README.md            the model card
    samples.png          images 0 to 15 of seed 0; generated ones, as are all pictures here
    card.json            what an entry of the catalogue is made of (see ``zoo.hub.pretrained``), and all figures

What is judged is the file that is published, not the one it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.core.config import Recipe
from zoo.core.console import Display
from zoo.core.errors import ZooError, error_message, error_reason, suggest
from zoo.core.schema import to_plain
from zoo.core.version import version
from zoo.evaluation.bench import evaluate_target, find_target
from zoo.evaluation.evaluate_generators import SEED, EvaluatedGroup
from zoo.evaluation.results import Plain, ResultRow, Target
from zoo.hub.download import offline_reason
from zoo.hub.load import load_generator
from zoo.hub.pretrained import CARD, EvaluationFacts, MeasuredValue, PretrainedWeights, SampleCheck
from zoo.metrics.evaluate_images import COPIES
from zoo.recipes import override_recipe
from zoo.report import image_grid
from zoo.report.number_format import join_words
from zoo.report.table import markdown_table, quality
from zoo.training.generator_file import load_generator_file, save_generator

CHECKED = 16  # images in the picture, and those whose mean and spread are kept
KEPT = ("fid", "kid", "precision", "recall", "coverage", "ssim_nearest", "ssim_pairwise")  # of the figures
ALARMS = ("collapse", "memorisation")
LICENCE = (
    "Weights: for research, under the terms of the images they were trained on. The code that loads them: Apache-2.0."
)

CARD_TEXT = """---
license: other
license_name: see-below
library_name: gan-zoo
pipeline_tag: {task}
tags: [gan, {arch}, medical-imaging]
---

# {name}

A generator of images of {shape}: `{arch}`, trained by the recipe `{recipe}` (`recipe.yaml`, digest {digest}) on {nimg}
images seen, training seed {seeds}. For research, not for diagnosis.

![Generated images 0 to {last} of seed 0](samples.png)

All pictures here are generated; none is of a patient.

## Load it

```python
import zoo

{load}
generator = zoo.load_generator(path)
images = generator.sample(16, seed=0)  # uint8 {array}; those above
```
{classes}

`{file}`: {size}, SHA-256 `{sha256}`.

## Figures

{against}{space}. In brackets: what nobody trained.

{table}{remarks}

## Alarms

{alarms}

## Data

{data}

## Licence

{licence}

## Citation

Cite what the data above ask for, and the zoo by its `CITATION.cff`.{source}
"""


def publish(
    target: str | os.PathLike[str],
    to: str,
    *,
    name: str | None = None,
    best: bool = False,
    force: bool = False,
    data: str | Path | None = None,
    samples: int | None = None,
    spaces: Sequence[str] | None = None,
    weights: str | Path | None = None,
    data_statement: str | None = None,
    licence: str | None = None,
    despite_alarm: Sequence[str] = (),
    runs: str | Path = "runs",
    device: str = "auto",
    display: Display | None = None,
) -> str:
    """Judge a generator and write what others need of it; the command ``zoo publish`` is a thin caller of this.

    Args:
        target: a run or a generator's file.
        to: ``hf:owner/name``, or the folder to be made.
        name: of the model; default: its recipe's.
        best: take the run's ``generator-best.safetensors``.
        force: replace what was published there before.
        data: the images to judge by; None: those it was trained on.
        samples: fakes to judge.
        spaces: feature spaces, as for :func:`zoo.bench`.
        weights: a feature network's weights, or a folder of such.
        data_statement: what is to be said of the training images, or a text file; default: what the run knows.
        licence: under which terms the weights may be used, or a text file.
        despite_alarm: alarms that do not keep it from being published: ``memorisation``.
        runs: where a run's name is looked for.
        device: where it is judged.
        display: where progress is shown; default: stderr.

    Returns:
        The folder, or the address.

    Raises:
        ZooError: no such generator, it cannot be judged, it copies training images, or the place does not take it.
            Nothing is left there then.
    """
    display = display or Display()
    for alarm in despite_alarm:
        if alarm not in ALARMS:
            raise ZooError(f"--despite-alarm {alarm}: must be one of {', '.join(ALARMS)}{suggest(alarm, ALARMS)}")
    entry = _chosen(target, runs, best)
    assert entry.recipe is not None
    name = name or entry.recipe.name
    if not re.fullmatch(r"[\w-]+", name):
        raise ZooError(
            f"{name!r} will not do for weights, for it must be letters, digits, '-' and '_'; --name gives another"
        )
    said = _text(data_statement, "--data-statement") or _known_data(entry)
    licence = _text(licence, "--licence") or LICENCE
    place: _Hub | _Folder = _Hub(to, name, force) if to.startswith("hf:") else _Folder(to, force)
    with place as folder:
        try:
            small = _write_weights(entry, name, folder)
            judging, groups = evaluate_target(
                small,
                data=data,
                metrics=None,
                spaces=spaces,
                weights=weights,
                samples=samples,
                device=device,
                display=display,
            )
            row = groups[0].rows[0]
            rang = list(dict.fromkeys(alarm["name"] for alarm in row.alarms))
            if "memorisation" in rang and "memorisation" not in despite_alarm:
                text = next(alarm["text"] for alarm in row.alarms if alarm["name"] == "memorisation")
                raise ZooError(
                    f"{entry.name}: is not published, for it copies training images: {text} "
                    "(--despite-alarm memorisation publishes it all the same)"
                )
            found = _described(small, row, groups[0], said, licence, judging.spaces[0].name if judging.spaces else None)
            assert found.judged is not None
            if not found.judged.copies_told:
                display.warn("too few unseen images to tell whether it copies training images; its card says so")
            found = _draw(found, folder)
            _write_card(found, groups[0], judging.columns, judging.notes, folder, to)
        except OSError as error:
            raise ZooError(f"{to}: cannot be written ({error_reason(error)})") from None
        return place.take(folder)


def _chosen(target: str | os.PathLike[str], runs: str | Path, best: bool) -> Target:
    entry = find_target(os.fspath(target), runs)
    if not best:
        return entry
    if entry.kind != "run" or entry.run is None:
        raise ZooError(f"--best: is of runs, and {target} is a file")
    file = entry.run.best_file
    if not file.is_file():
        raise ZooError(f"{target}: has no {file.name}; train.best says by what it is chosen")
    return Target(name=entry.name, kind="file", group=entry.group, weights=file, recipe=entry.recipe, run=entry.run)


def _text(given: str | None, option: str) -> str | None:
    """Text, or that of the file it names, on one line."""
    if given is None:
        return None
    try:
        if len(given) < 200 and Path(given).is_file():
            given = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ZooError(f"{option} {given}: cannot be read ({error_reason(error)})") from None
    if not given.strip():
        raise ZooError(f"{option}: says nothing")
    if len(given.split()) == 1 and ("/" in given or Path(given).suffix):
        raise ZooError(f"{option} {given}: no such file")
    return " ".join(given.split())


def _known_data(entry: Target) -> str:
    if entry.run is None:
        raise ZooError(f"{entry.name}: its file does not say what it was trained on; say it by --data-statement")
    where, _, counts = entry.run.info["data_description"].partition(": ")
    return f"Trained on {'phantoms: ' if where.startswith('phantoms') else ''}{counts}."  # no word of their folder


def _write_weights(entry: Target, name: str, folder: Path) -> Target:
    """fp16 weights and the recipe; returns what is to be judged."""
    assert entry.weights is not None
    generator, recipe, nimg = load_generator_file(entry.weights)
    if recipe.train.init_from is not None:  # whose folder is nobody's business
        recipe = override_recipe(recipe, f"train.init_from={json.dumps(Path(recipe.train.init_from).name)}")
    path = folder / f"{name}.safetensors"
    save_generator(path, generator, recipe=recipe, nimg=nimg, dtype=torch.float16)
    text = f"# As trained, every default filled in. Digest {recipe.digest}.\n{recipe.to_yaml()}"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return Target(name=name, kind="file", group=name, weights=path, recipe=recipe, run=entry.run)


def _described(
    entry: Target, row: ResultRow, group: EvaluatedGroup, said: str, licence: str, space: str | None
) -> PretrainedWeights:
    """What the catalogue says of it."""
    recipe, path = entry.recipe, entry.weights
    assert recipe is not None
    assert path is not None
    figures = {name: row.figures[name] for name in KEPT if name in row.figures}
    data = group.data
    return PretrainedWeights(
        name=entry.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size,
        recipe=recipe.name,
        recipe_digest=recipe.digest,
        resolution=recipe.data.resolution,
        channels=recipe.data.channels,
        nimg=row.cost["nimg"],
        data=said,
        licence=licence,
        train_seeds=(recipe.train.seed,),
        metrics={
            name: MeasuredValue(value=figure.value, low=figure.low, high=figure.high)
            for name, figure in figures.items()
            if figure.value is not None
        },
        judged=EvaluationFacts(
            samples=row.facts["samples"],
            seed=SEED,
            space=space,
            against=f"{len(data.train):,} training and {len(data.unseen):,} unseen images",
            alarms=tuple(dict.fromkeys(alarm["name"] for alarm in row.alarms)),
            copies_told=any(name in row.figures and row.figures[name].value is not None for name in COPIES),
        ),
    )


def _draw(entry: PretrainedWeights, folder: Path) -> PretrainedWeights:
    """Write the picture of the first images; returns the entry with what they are."""
    generator = load_generator(folder / f"{entry.name}.safetensors", precision="fp32")
    images = generator.sample(CHECKED)
    columns = 8 if entry.resolution <= 128 else 4
    image_grid.save_png(image_grid.make_grid(images, columns), folder / "samples.png", {"model": entry.name, "seed": 0})
    levels = images.double()
    check = SampleCheck(mean=round(float(levels.mean()), 4), std=round(float(levels.std()), 4), columns=columns)
    return PretrainedWeights(**{**vars(entry), "check": check})


def _write_card(
    entry: PretrainedWeights, group: EvaluatedGroup, columns: Sequence[Any], notes: Sequence[str], folder: Path, to: str
) -> None:
    """README.md and card.json."""
    document = group.to_json()
    row = document["rows"][0]
    content: Plain = {
        "entry": to_plain(entry),
        "figures": row["figures"],
        "alarms": row["alarms"],
        "baselines": {base["name"]: base["figures"] for base in document["baselines"]},
        "zoo": version(),
        "environment": row["environment"],
        "made": row["judged"],
    }
    (folder / CARD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    table = markdown_table(*quality(document, [metric.to_json() for metric in columns], intervals=True))
    recipe = load_generator_file(folder / f"{entry.name}.safetensors")[1]
    (folder / "README.md").write_text(_card(entry, recipe, row, table, notes, to), encoding="utf-8")


def _card(entry: PretrainedWeights, recipe: Recipe, row: Plain, table: str, notes: Sequence[str], to: str) -> str:
    """The model card, in Markdown under the header that Hugging Face reads."""
    judged = entry.judged
    assert judged is not None
    file, side = f"{entry.name}.safetensors", entry.resolution
    load = f'path = "{file}"  # in this folder'
    if to.startswith("hf:"):
        load = f'from huggingface_hub import hf_hub_download\n\npath = hf_hub_download("{to[3:]}", "{file}")'
    alarms = [f"- **{alarm['name']}**: {alarm['text']}" for alarm in row["alarms"]]
    if not alarms:
        alarms.append("- None rang.")
    if not judged.copies_told:
        alarms.append("- There were too few unseen images to tell copies from: whether it copies is not known.")
    # Of what is not available, why is about one machine and concerns nobody else.
    remarks = [f"- {': '.join(note.split(': ')[:2])}" for note in notes]
    return CARD_TEXT.format(
        name=entry.name,
        arch=recipe.generator.arch,
        task="image-generation" if recipe.data.classes else "unconditional-image-generation",
        classes=_classes(recipe),
        shape=f"{side} x {side} pixels, {'grey' if entry.channels == 1 else 'RGB'}",
        array=f"(16, {entry.channels}, {side}, {side})",
        recipe=entry.recipe,
        digest=entry.recipe_digest,
        nimg=f"{entry.nimg:,}",
        seeds=join_words([str(seed) for seed in entry.train_seeds]),
        last=CHECKED - 1,
        load=load,
        file=file,
        size=f"{entry.size / 1e6:.2f} MB",
        sha256=entry.sha256,
        against=f"{judged.samples:,} images of seed {judged.seed} against {judged.against}",
        space=f", FID and KID in the features of {judged.space}" if judged.space else "",
        table=table.rstrip(),
        remarks="\n".join(["\n", *remarks]) if remarks else "",
        alarms="\n".join(alarms),
        data=entry.data,
        licence=entry.licence,
        source=f" The recipe comes from: {recipe.source}." if recipe.source else "",
    )


def _classes(recipe: Recipe) -> str:
    known = list(recipe.data.classes)
    return f"\nClasses: {', '.join(known)}; `generator.sample(16, label={known[0]!r})`.\n" if known else ""


class _Folder:
    """A folder that is made beside its place and takes it in one step."""

    def __init__(self, to: str, force: bool) -> None:
        self.path = Path(to)
        taken = self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))
        if taken and not (self.path / CARD).is_file():
            raise ZooError(f"{to}: is there already, and `zoo publish` did not make it; name another folder")
        if taken and not force:
            raise ZooError(f"{to}: is there already; --force replaces it")
        try:
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            self._work = tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.absolute().parent)
        except OSError as error:
            raise ZooError(f"{to}: cannot be written ({error_reason(error)})") from None

    def __enter__(self) -> Path:
        made = Path(self._work.__enter__()) / "new"
        made.mkdir()
        return made

    def __exit__(self, *error: Any) -> None:
        self._work.__exit__(*error)

    def take(self, made: Path) -> str:
        """Put the folder in its place; what was there goes with the temporary one."""
        try:
            if self.path.exists():
                self.path.rename(made.with_name("old"))
            made.rename(self.path)
        except OSError as error:
            if (made.with_name("old")).exists() and not self.path.exists():
                made.with_name("old").rename(self.path)
            raise ZooError(f"{self.path}: cannot be written ({error_reason(error)})") from None
        return str(self.path)


class _Hub:
    """A model repository of Hugging Face: one commit, or none."""

    def __init__(self, to: str, name: str, force: bool) -> None:
        self.repo = to.removeprefix("hf:")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise ZooError(f"--to {to}: must read hf:owner/name")
        if why := offline_reason():
            raise ZooError(f"--to {to}: {why}; publish to a folder, and upload that later")
        import huggingface_hub

        if not huggingface_hub.get_token():
            raise ZooError(f"--to {to}: no token for Hugging Face; `hf auth login` or HF_TOKEN gives one")
        self.api = huggingface_hub.HfApi()
        try:
            there = self.api.repo_exists(self.repo) and self.api.file_exists(self.repo, CARD)
        except Exception as error:  # of many kinds: no network, no rights, no such owner
            raise ZooError(f"--to {to}: {error_message(error)}") from None
        if there and not force:
            raise ZooError(f"--to {to}: holds published weights already; --force replaces their card and picture")
        self._work = tempfile.mkdtemp(prefix="zoo-publish-")

    def __enter__(self) -> Path:
        return Path(self._work)

    def __exit__(self, *error: Any) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def take(self, made: Path) -> str:
        """Upload the folder."""
        try:
            self.api.create_repo(self.repo, exist_ok=True)
            self.api.upload_folder(
                repo_id=self.repo, folder_path=str(made), commit_message=f"Published by zoo {version()}"
            )
        except Exception as error:
            raise ZooError(f"hf:{self.repo}: cannot be uploaded ({error_message(error)})") from None
        return f"https://huggingface.co/{self.repo}"
