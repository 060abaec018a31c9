"""Write the model card of a published generator: README.md and LICENSE.md for people, card.json for the catalogue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.core.config import Recipe
from zoo.core.schema import to_plain
from zoo.core.version import version
from zoo.evaluation.evaluate_generators import EvaluatedGroup, GeneratorEvaluator
from zoo.evaluation.results import UNNAMED_IMAGES
from zoo.hub.model_repository import LICENCE_FILE, card_header
from zoo.hub.pretrained import CARD, PretrainedWeights
from zoo.metrics.registry import metric_columns
from zoo.report.number_format import join_words
from zoo.report.table import (
    PRIVACY_METRICS,
    describe_no_alarm,
    markdown_table,
    privacy_table,
    quality_table,
    unevaluated_alarms,
)

SAMPLE_IMAGES = 16  # in samples.png

PRIVACY_LIMITS = (
    "None of these values proves that nothing is learned about a person: each is one attack, or one measure of "
    "nearness, and a better one may exist. They are no anonymisation in the sense of data protection law."
)

CARD_TEXT = """{header}
# {name}

A generator of images of {shape}: `{arch}`, trained by the recipe `{recipe}` (`recipe.yaml`, digest {digest}) on {nimg}
images seen, training seed {seeds}. For research, not for diagnosis.

![Generated images 0 to {last} of seed 0](samples.png)

All images here are generated; none is of a patient.

## Load it

```python
import zoo

{load}
generator = zoo.load_generator(path)
images = generator.sample({count}, seed=0)  # uint8 {array}; those above
```
{classes}

`{file}`: {size}, SHA-256 `{sha256}`.

## Metrics

{against}{space}. In brackets: baselines, which need no training.

{table}{remarks}

## Alarms

{alarms}

## Privacy

{privacy}

## Training

{training}

## Data

{data}

## Licence

{licence}

## Citation

Cite what the data above ask for, and the zoo by its `CITATION.cff`.{source}
"""


def write_card(
    entry: PretrainedWeights,
    recipe: Recipe,
    evaluator: GeneratorEvaluator,
    group: EvaluatedGroup,
    folder: Path,
    to: str,
) -> None:
    """Write README.md, LICENSE.md and card.json into ``folder``.

    Args:
        group: the results, of this generator only.
        to: ``hf:owner/name``, or the folder that it will be.
    """
    document = group.to_json()
    row = document["rows"][0]
    content = {
        "entry": to_plain(entry),
        "figures": row["figures"],
        "alarms": row["alarms"],
        "checked_alarms": row.get("checked_alarms", []),
        "trained_on": row.get("trained_on"),
        "baselines": {baseline["name"]: baseline["figures"] for baseline in document["baselines"]},
        "zoo": version(),
        "environment": row["environment"],
        "made": row["judged"],
    }
    (folder / CARD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    metrics = [metric.to_json() for metric in evaluator.columns]
    shown = [metric for metric in metrics if metric["name"] not in PRIVACY_METRICS]  # which have a table of their own
    table = markdown_table(*quality_table(document, shown, intervals=True))
    privacy = format_privacy(row, document["baselines"], metrics)
    text = format_card(entry, recipe, _alarm_lines(entry, row), table.rstrip(), evaluator.notes, to, privacy)
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / LICENCE_FILE).write_text(f"# Licence of {entry.name}\n\n{entry.licence}\n", encoding="utf-8")


def format_card(
    entry: PretrainedWeights,
    recipe: Recipe,
    alarms: Sequence[str],
    table: str,
    notes: Sequence[str],
    to: str,
    privacy: str = "Not measured.",
) -> str:
    """Return the model card in Markdown, with the header that Hugging Face reads."""
    facts = entry.judged
    assert facts is not None
    file, side = f"{entry.name}.safetensors", entry.resolution
    load = f'path = "{file}"  # in this folder'
    if to.startswith("hf:"):
        load = f'path = "{to}"'
    # The third part of a note names paths of this machine, which are of no use to others.
    remarks = [f"- {': '.join(note.split(': ')[:2])}" for note in notes]
    classes = list(recipe.data.classes)
    example = f"\nClasses: {', '.join(classes)}; `generator.sample(16, label={classes[0]!r})`.\n" if classes else ""
    return CARD_TEXT.format(
        **{key: getattr(entry, key) for key in ("name", "recipe", "sha256", "data", "licence")},
        arch=recipe.generator.arch,
        header=_header(entry, recipe),
        classes=example,
        training=entry.training or "What it took is not known.",
        shape=f"{side} x {side} pixels, {'grey' if entry.channels == 1 else 'RGB'}",
        array=f"({SAMPLE_IMAGES}, {entry.channels}, {side}, {side})",
        digest=entry.recipe_digest,
        nimg=f"{entry.nimg:,}",
        seeds=join_words([str(seed) for seed in entry.train_seeds]),
        count=SAMPLE_IMAGES,
        last=SAMPLE_IMAGES - 1,
        load=load,
        file=file,
        size=f"{entry.size / 1e6:.2f} MB",
        against=f"{facts.samples:,} images of seed {facts.seed} against {facts.against}",
        space=f", FID and KID in the features of {facts.space}" if facts.space else "",
        table=table,
        remarks="\n".join(["\n", *remarks]) if remarks else "",
        alarms="\n".join(alarms),
        privacy=privacy,
        source=f" The recipe comes from: {recipe.source}." if recipe.source else "",
    )


def format_privacy(row: dict[str, Any], baselines: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]]) -> str:
    """Return the values of privacy as a table, each with its meaning, and what they do not prove."""
    headings, rows = privacy_table(row, baselines, metrics)
    if not rows:
        return "Not measured."
    titles = [cells[0] for cells in rows]
    lines = [f"- {metric['title']}: {metric['sentence']}" for metric in metrics if metric["title"] in titles]
    return "\n".join([markdown_table(headings, rows), *lines, "", PRIVACY_LIMITS])


def _header(entry: PretrainedWeights, recipe: Recipe) -> str:
    titles = {metric.name: metric.title for metric in metric_columns(entry.metrics, [])}
    space = f" ({entry.judged.space})" if entry.judged is not None and entry.judged.space else ""
    metrics = {}
    for name, value in entry.metrics.items():
        suffix = space if name in ("fid", "kid") else ""
        metrics[name] = (f"{titles.get(name, name)}{suffix}", value.value)
    # Phantoms are drawn: a search for medical images must not find them.
    tags = [] if "phantom" in entry.data.lower() else ["medical-imaging"]
    return card_header(recipe, name=entry.name, tags=tags, data=entry.data, metrics=metrics)


def _alarm_lines(entry: PretrainedWeights, row: dict[str, Any]) -> list[str]:
    lines = [f"- **{alarm['name']}**: {alarm['text']}" for alarm in row["alarms"]]
    if not lines:
        lines = [f"- {describe_no_alarm([row])}" if unevaluated_alarms([row]) else "- None was triggered."]
    if entry.judged is not None and not entry.judged.copies_told:
        lines.append("- There were too few held-out images to recognise copies: whether it copies is not known.")
    if row.get("trained_on") == UNNAMED_IMAGES:
        lines.append("- The weights do not name the images they were trained on: the publisher named them.")
    return lines
