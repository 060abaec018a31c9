"""The metrics: their names, directions, and a sentence on how to read each."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zoo.core.errors import ZooError, suggest
from zoo.core.registry import Registry

if TYPE_CHECKING:
    from zoo.metrics.comparison import Comparison
    from zoo.metrics.value import MetricValue

INCEPTION = "inception"  # the extractor that a bare "FID" or "KID" refers to
GROUP_FAMILIES = ("features", "ssim", "copies", "privacy")  # that the command line takes as names of groups

# Of several values, by name: a metric of features has one per extractor.
Result: TypeAlias = "MetricValue | dict[str, MetricValue] | float | None"
Compute: TypeAlias = "Callable[[Comparison], Result]"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a set of images.

    Attributes:
        name: in JSON and on the command line.
        title: in tables.
        better: ``match``: best if it equals that of held-out real images.
        family: "features" of a network, "ssim", power "spectrum", "copies", "privacy", or "other".
        sentence: how to read it.
        compute: computes it.
        decimals: number of decimals shown.
        default: whether it is measured if no metrics are named.
    """

    name: str
    title: str
    better: Literal["lower", "higher", "match"]
    family: str
    sentence: str
    compute: Compute
    decimals: int = 3
    default: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return what tables and pages need."""
        keys = ("name", "title", "better", "sentence", "decimals")
        return {key: getattr(self, key) for key in keys}

    def for_extractor(self, extractor: str, name: str) -> Metric:
        """Return the metric, called ``name``, for features of another extractor than Inception."""
        short = short_extractor_name(extractor)
        sentence = self.sentence.replace("the Inception features", f"the features ({short})")
        return replace(self, name=name, title=f"{self.title} ({short})", sentence=sentence)


def _discover() -> None:
    # In this order: it is that of tables.
    for name in ("features", "projection", "ssim", "spectrum", "copies", "privacy"):
        importlib.import_module(f"zoo.metrics.kinds.{name}")


METRICS: Registry[Metric] = Registry("metric", _discover)


def register_metric(
    name: str,
    compute: Compute,
    *,
    better: Literal["lower", "higher", "match"],
    sentence: str,
    title: str = "",
    decimals: int = 3,
    default: bool = True,
    family: str = "other",
) -> None:
    """Register a metric of a set of images: the command line, tables, JSON and the page then have it.

    Args:
        name: in JSON and on the command line: lower case, digits and "_".
        compute: function of a :class:`zoo.metrics.comparison.Comparison` (``fakes.images`` and ``reals.images``: uint8
            (N, C, H, W) and (M, C, H, W)). It returns a number, or what ``comparison.with_interval(function)`` returns.
        better: "match": best if it equals that of held-out real images.
        sentence: how to read it.
        title: in tables; default: the name.
        decimals: number of decimals shown.
        default: whether it is measured if no metrics are named.
        family: "other", or a family of the package.

    Raises:
        ValueError: another metric or group has this name, or it is no name.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in ("all", "default", *GROUP_FAMILIES):
        raise ValueError(f"a metric cannot be called {name!r}: use lower case, digits and '_', and no group's name")
    metric = Metric(
        name=name,
        title=title or name,
        better=better,
        family=family,
        sentence=sentence,
        decimals=decimals,
        default=default,
        compute=compute,
    )
    METRICS.register(name, metric, compute)


def list_groups() -> dict[str, list[str]]:
    """Return the names of metrics by group."""
    groups = {"all": list(METRICS), "default": choose_metrics(None)}
    for family in GROUP_FAMILIES:
        names = of_family(METRICS, family)
        groups[family] = [name for name in names if METRICS[name].default] or names
    return groups


def of_family(names: Iterable[str], family: str) -> list[str]:
    """Return those of some metrics that belong to a family."""
    return [name for name in names if METRICS[name].family == family]


def own_of_family(names: Iterable[str], family: str) -> list[str]:
    """Return like :func:`of_family`, without metrics of plug-ins, which compute their values themselves."""
    return [name for name in of_family(names, family) if METRICS.is_own(name)]


def short_extractor_name(extractor: str) -> str:
    """Return an extractor's name in names of metrics: ``vit_x`` for ``timm:vit_x.y``."""
    return extractor.removeprefix("timm:").partition(".")[0]


def split_names(words: Iterable[str]) -> list[str]:
    """Split words at commas into names."""
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def requires_features(names: Sequence[str] | None) -> bool:
    """Return whether feature metrics were asked for by name, so that missing weights are an error."""
    needing = of_family(METRICS, "features")
    return not {"all", "features", "copies_features", *needing}.isdisjoint(split_names(names or ()))


def choose_metrics(names: Sequence[str] | None) -> list[str]:
    """Resolve names and groups (``ssim``) to metric names in registry order; None: the default ones.

    Raises:
        ZooError: an unknown name, or no name at all.
    """
    if names is None:
        return [metric.name for metric in METRICS.values() if metric.default]
    groups = list_groups()
    choices = [*METRICS, *groups]
    chosen: set[str] = set()
    for name in split_names(names):
        if name not in choices:
            hint = suggest(name, choices)
            raise ZooError(f"--metrics {name}: unknown metric{hint}. Choose from {', '.join(choices)}")
        chosen.update(groups.get(name, [name]))
    if not chosen:
        raise ZooError(f"--metrics: no metric is named. Choose from {', '.join(choices)}")
    return [name for name in METRICS if name in chosen]


def metric_columns(names: Iterable[str], extractors: Sequence[str]) -> list[Metric]:
    """Return the metrics of a table.

    Feature metrics of the first extractor keep their own names; those of the others follow them under names that end
    in the extractor's. An extractor other than Inception is part of the title.
    """
    chosen = [METRICS[name] for name in names]
    features = [metric for metric in chosen if metric.family == "features"]
    columns = list(features)
    if extractors and extractors[0] != INCEPTION:
        columns = [metric.for_extractor(extractors[0], metric.name) for metric in features]
    for extractor in extractors[1:]:
        suffix = short_extractor_name(extractor)
        columns += [metric.for_extractor(extractor, f"{metric.name}_{suffix}") for metric in features]
    return columns + [metric for metric in chosen if metric.family != "features"]
