"""Select the feature extractors of a command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter
from zoo.metrics import registry
from zoo.metrics.features.extractor import FeatureExtractor, load_extractor

DEFAULT_EXTRACTORS = ("inception", "dinov2")  # what papers report, and one trained without labels


def select_extractors(
    names: Sequence[str] | None,
    metrics: Sequence[str] | None,
    *,
    weights: str | Path | None,
    device: torch.device,
    reporter: Reporter,
    notes: list[str],
) -> list[FeatureExtractor]:
    """Load the extractors that ``metrics`` need; default ones only if their weights are available.

    Args:
        names: extractors asked for, commas allowed; None: the default ones.
        metrics: metrics and groups asked for; None: the default ones.
        weights: a file or a folder of weights.
        notes: gets a line for each default extractor that is not available.

    Raises:
        ZooError: no weights for extractors, or for feature metrics, that were asked for.
    """
    chosen = registry.choose_metrics(metrics)
    if not any(registry.METRICS[name].family == "features" or name == "copies_features" for name in chosen):
        return []
    requested = registry.split_names(names or ())
    short_names = [registry.short_extractor_name(name) for name in requested]
    if len(set(short_names)) < len(short_names):
        raise ZooError(f"--spaces {', '.join(requested)}: two would have the same names in tables. Name one of them")
    extractors: list[FeatureExtractor] = []
    for place, name in enumerate(requested or DEFAULT_EXTRACTORS):
        try:
            extractors.append(load_extractor(name, device=device, weights=weights, reporter=reporter))
        except ZooError as error:
            if requested or (place == 0 and registry.requires_features(metrics)):
                raise
            notes.append(f"{name}: not available: {error}")
            reporter.say(notes[-1])
            if place == 0:
                break  # the second extractor must not rank generators under the first one's name
    return extractors
