"""Which feature spaces a command uses, and what is said of those whose weights are not to be had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter
from zoo.metrics import registry
from zoo.metrics.features.extractor import FeatureExtractor, load_extractor

DEFAULT = ("inception", "dinov2")  # what the field reports, and one that has seen no labels


def select_extractors(
    names: Sequence[str] | None,
    metrics: Sequence[str] | None,
    *,
    weights: str | Path | None,
    device: torch.device,
    reporter: Reporter,
    notes: list[str],
) -> list[FeatureExtractor]:
    """The spaces that ``metrics`` need; where nobody asked for them, those whose weights can be had.

    Args:
        names: what was asked for, commas allowed; None: the default ones.
        metrics: names and groups, as they were asked for; None: the usual ones.
        weights: a file or a folder of weights.
        notes: takes a line for each default space that is not to be had.

    Raises:
        ZooError: weights that were asked for are not to be had, or figures that need them were asked for.
    """
    chosen = registry.choose_metrics(metrics)
    needed = [name for name in chosen if registry.METRICS[name].family == "features" or name == "copies_features"]
    if not needed:
        return []
    asked = registry.split_names(names or ())
    shorts = [registry.short_extractor_name(name) for name in asked]
    if twice := [name for name in asked if shorts.count(registry.short_extractor_name(name)) > 1]:
        raise ZooError(f"--spaces {', '.join(twice)}: would have the same names in tables; give one of them")
    found: list[FeatureExtractor] = []
    for place, name in enumerate(asked or DEFAULT):
        try:
            found.append(load_extractor(name, device=device, weights=weights, reporter=reporter))
        except ZooError as error:
            if asked or (place == 0 and registry.requires_features(metrics)):
                raise
            notes.append(f"{name}: not available: {error}")
            reporter.say(notes[-1])
            if place == 0:
                break  # no ranking by a second space under the first one's name
    return found
