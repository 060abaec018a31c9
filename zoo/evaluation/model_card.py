"""The model card of a published generator: README.md for people, card.json for the catalogue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.core.config import Recipe
from zoo.core.schema import to_plain
from zoo.core.version import version
from zoo.evaluation.evaluate_generators import SAMPLE_SEED, EvaluatedGroup, GeneratorEvaluator
from zoo.evaluation.results import ResultRow, Target
from zoo.hub.load import load_generator
from zoo.hub.pretrained import CARD, EvaluationFacts, MeasuredValue, PretrainedWeights, SampleCheck
from zoo.metrics.evaluate_images import COPIES
from zoo.report import image_grid
from zoo.report.number_format import join_words
from zoo.report.table import markdown_table, quality

CARD_IMAGES = 16  # images in the grid, whose mean and standard deviation are recorded
CARD_METRICS = ("fid", "kid", "precision", "recall", "coverage", "ssim_nearest", "ssim_pairwise")

_CARD = """---
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

All images here are generated; none shows a patient.

## Load it

```python
import zoo

{load}
generator = zoo.load_generator(path)
images = generator.sample(16, seed=0)  # uint8 {array}; the images above
```
{classes}

`{file}`: {size}, SHA-256 `{sha256}`.

## Metrics

{against}{space}. In brackets: baselines.

{table}{remarks}

## Alarms

{alarms}

## Data

{data}

## Licence

{licence}

## Citation

Cite what the data ask for, and the zoo by its `CITATION.cff`.{source}
"""


@dataclass(frozen=True, kw_only=True)
class CardTexts:
    """What people say about a generator: its training images, and the terms of use."""

    data: str
    licence: str


def write_card(
    target: Target, evaluator: GeneratorEvaluator, group: EvaluatedGroup, texts: CardTexts, folder: Path, to: str
) -> PretrainedWeights:
    """Write samples.png, card.json and README.md into ``folder``, and return the entry for the catalogue.

    Args:
        target: the published weights in ``folder``.
        group: the evaluation of the target, in its only row.
        to: where it is published, ``hf:OWNER/NAME`` or a folder.
    """
    row = group.rows[0]
    extractor = evaluator.extractors[0].name if evaluator.extractors else None
    entry = _entry(target, row, group, texts, extractor)
    entry = replace(entry, check=_write_samples(entry, folder))
    document = group.to_json()
    plain_row = document["rows"][0]
    content: dict[str, Any] = {
        "entry": to_plain(entry),
        "figures": plain_row["figures"],
        "alarms": plain_row["alarms"],
        "baselines": {baseline["name"]: baseline["figures"] for baseline in document["baselines"]},
        "zoo": version(),
        "environment": plain_row["environment"],
        "made": plain_row["judged"],
    }
    (folder / CARD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    metrics = [metric.to_json() for metric in evaluator.columns]
    table = markdown_table(*quality(document, metrics, intervals=True))
    text = _format_card(entry, target.recipe, plain_row, table, evaluator.notes, to)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return entry


def _entry(
    target: Target, row: ResultRow, group: EvaluatedGroup, texts: CardTexts, extractor: str | None
) -> PretrainedWeights:
    metrics = {}
    for name in CARD_METRICS:
        value = row.figures.get(name)
        if value is not None and value.value is not None:
            metrics[name] = MeasuredValue(value=value.value, low=value.low, high=value.high)
    data, recipe = group.data, target.recipe
    return PretrainedWeights(
        name=target.name,
        sha256=hashlib.sha256(target.weights.read_bytes()).hexdigest(),
        size=target.weights.stat().st_size,
        recipe=recipe.name,
        recipe_digest=recipe.digest,
        resolution=recipe.data.resolution,
        channels=recipe.data.channels,
        nimg=row.cost["nimg"],
        data=texts.data,
        licence=texts.licence,
        train_seeds=(recipe.train.seed,),
        metrics=metrics,
        judged=EvaluationFacts(
            samples=row.facts["samples"],
            seed=SAMPLE_SEED,
            space=extractor,
            against=f"{len(data.train):,} training and {len(data.unseen):,} unseen images",
            alarms=tuple(dict.fromkeys(alarm["name"] for alarm in row.alarms)),
            copies_told=any(name in row.figures and row.figures[name].value is not None for name in COPIES),
        ),
    )


def _write_samples(entry: PretrainedWeights, folder: Path) -> SampleCheck:
    """Write a grid of the first images; return their mean and standard deviation, which tests compare."""
    generator = load_generator(folder / f"{entry.name}.safetensors", precision="fp32")
    images = generator.sample(CARD_IMAGES)
    columns = 8 if entry.resolution <= 128 else 4
    metadata = {"model": entry.name, "seed": 0}
    image_grid.save_png(image_grid.make_grid(images, columns), folder / "samples.png", metadata)
    values = images.double()
    return SampleCheck(mean=round(float(values.mean()), 4), std=round(float(values.std()), 4), columns=columns)


def _format_card(
    entry: PretrainedWeights, recipe: Recipe, row: dict[str, Any], table: str, notes: Sequence[str], to: str
) -> str:
    """The model card, in Markdown under the header that Hugging Face reads."""
    facts = entry.judged
    assert facts is not None
    file, side = f"{entry.name}.safetensors", entry.resolution
    load = f'path = "{file}"  # in this folder'
    if to.startswith("hf:"):
        load = f'from huggingface_hub import hf_hub_download\n\npath = hf_hub_download("{to[3:]}", "{file}")'
    # Why something is not available concerns one machine alone: only what and that it is not.
    remarks = [f"- {': '.join(note.split(': ')[:2])}" for note in notes]
    return _CARD.format(
        name=entry.name,
        arch=recipe.generator.arch,
        task="image-generation" if recipe.data.classes else "unconditional-image-generation",
        classes=_describe_classes(recipe),
        shape=f"{side} x {side} pixels, {'grey' if entry.channels == 1 else 'RGB'}",
        array=f"(16, {entry.channels}, {side}, {side})",
        recipe=entry.recipe,
        digest=entry.recipe_digest,
        nimg=f"{entry.nimg:,}",
        seeds=join_words([str(seed) for seed in entry.train_seeds]),
        last=CARD_IMAGES - 1,
        load=load,
        file=file,
        size=f"{entry.size / 1e6:.2f} MB",
        sha256=entry.sha256,
        against=f"{facts.samples:,} images of seed {facts.seed} against {facts.against}",
        space=f", FID and KID in the features of {facts.space}" if facts.space else "",
        table=table.rstrip(),
        remarks="\n".join(["\n", *remarks]) if remarks else "",
        alarms="\n".join(_describe_alarms(facts, row)),
        data=entry.data,
        licence=entry.licence,
        source=f" The recipe comes from: {recipe.source}." if recipe.source else "",
    )


def _describe_alarms(facts: EvaluationFacts, row: dict[str, Any]) -> list[str]:
    lines = [f"- **{alarm['name']}**: {alarm['text']}" for alarm in row["alarms"]] or ["- None was triggered."]
    if not facts.copies_told:
        lines.append("- There were too few held-out images to detect copies: whether it copies is not known.")
    return lines


def _describe_classes(recipe: Recipe) -> str:
    classes = list(recipe.data.classes)
    return f"\nClasses: {', '.join(classes)}; `generator.sample(16, label={classes[0]!r})`.\n" if classes else ""
