"""The metrics: their names, directions, and a sentence on how to read each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoo.core.errors import ZooError, suggest

INCEPTION = "inception"  # the extractor that a bare "FID" or "KID" refers to


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a set of images.

    Attributes:
        name: in JSON and on the command line.
        title: in tables.
        better: ``match``: best if it equals that of held-out real images.
        family: computed from features of a network, SSIM, power spectra, or scores of nearest training images.
        sentence: how to read it.
        decimals: number of decimals shown.
        default: whether it is measured if no metrics are named.
    """

    name: str
    title: str
    better: Literal["lower", "higher", "match"]
    family: Literal["features", "ssim", "spectrum", "copies"]
    sentence: str
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


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="fid",
            title="FID",
            better="lower",
            family="features",
            decimals=1,
            sentence="Frechet distance between Gaussians fitted to the Inception features of fakes and training images "
            "(Heusel et al. 2017): 0 for equal sets, larger the fewer images there are, so compare at equal n.",
        ),
        Metric(
            name="fid_infinity",
            title="FID (infinite n)",
            better="lower",
            family="features",
            decimals=1,
            default=False,
            sentence="FID extrapolated to infinitely many fakes (Chong and Forsyth 2020) from subsets of 1,000 and "
            "more: comparable between numbers of fakes.",
        ),
        Metric(
            name="kid",
            title="KID",
            better="lower",
            family="features",
            decimals=4,
            sentence="Kernel distance between the same features (Binkowski et al. 2018): unbiased, so it may be "
            "slightly negative, and fair for small sets.",
        ),
        Metric(
            name="precision",
            title="precision",
            better="higher",
            family="features",
            sentence="Share of fakes that lie among the training images in feature space (Kynkaanniemi et al. 2019): "
            "low is unrealistic.",
        ),
        Metric(
            name="recall",
            title="recall",
            better="higher",
            family="features",
            sentence="Share of training images that lie among the fakes (Kynkaanniemi et al. 2019): near zero is "
            "collapse, or fakes far from every real image.",
        ),
        Metric(
            name="density",
            title="density",
            better="higher",
            family="features",
            sentence="How densely training images surround the fakes (Naeem et al. 2020): precision that an outlier "
            "cannot inflate; it may exceed 1.",
        ),
        Metric(
            name="coverage",
            title="coverage",
            better="higher",
            family="features",
            sentence="Share of training images with a fake among their nearest neighbours (Naeem et al. 2020): "
            "recall that an outlier cannot inflate.",
        ),
        Metric(
            name="ssim_nearest",
            title="SSIM nearest",
            better="match",
            family="ssim",
            sentence="SSIM of each fake with the most similar of all training images, on average: below that of "
            "held-out subjects is blur or noise, above it is copying.",
        ),
        Metric(
            name="ssim_pairwise",
            title="SSIM pairwise",
            better="match",
            family="ssim",
            sentence="SSIM of fakes with one another, on average: above that of real images they are too alike, near 1 "
            "is collapse.",
        ),
        Metric(
            name="ssim_twins",
            title="SSIM twins",
            better="match",
            family="ssim",
            sentence="Share of pairs of fakes that are the same image, SSIM above 0.99 (Arora and Zhang "
            "2017): one over it estimates how many images the generator can make.",
        ),
        Metric(
            name="ms_ssim_pairwise",
            title="MS-SSIM pairwise",
            better="match",
            family="ssim",
            default=False,
            sentence="Multi-scale SSIM of fakes with one another (Wang et al. 2003; Odena et al. 2017), for images "
            "above 160 pixels.",
        ),
        Metric(
            name="spectrum",
            title="spectrum",
            better="lower",
            family="spectrum",
            default=False,
            sentence="Largest deviation from 1 of the power of fakes over that of training images, in rings of "
            "frequency up to 0.4 cycles per pixel: 0 is as sharp as real, above 0.2 is blur or noise.",
        ),
        Metric(
            name="grid",
            title="grid",
            better="lower",
            family="spectrum",
            decimals=2,
            default=False,
            sentence="How far the power at the frequencies of patches of 2, 4 and 8 pixels stands out, over the same "
            "of training images: about 1 is no grid.",
        ),
        Metric(
            name="ncc_nearest",
            title="NCC nearest",
            better="match",
            family="copies",
            sentence="Highest correlation of each low-passed fake with any training image over shifts of 2 pixels: "
            "near 1 is a copy, whatever its brightness, noise or place.",
        ),
        Metric(
            name="copies_ssim",
            title="copies (SSIM)",
            better="match",
            family="copies",
            decimals=2,
            sentence="Share of fakes that are copies by SSIM: less than half as far from a training image as the "
            "nearest tenth of held-out real images.",
        ),
        Metric(
            name="copies_ncc",
            title="copies (NCC)",
            better="match",
            family="copies",
            decimals=2,
            sentence="The same by correlation, which shifts, brightness and noise do not hide.",
        ),
        Metric(
            name="copies_features",
            title="copies (features)",
            better="match",
            family="copies",
            decimals=2,
            sentence="The same by distance in feature space.",
        ),
    )
}
GROUPS = {"all": list(METRICS)} | {
    family: [metric.name for metric in METRICS.values() if metric.family == family and metric.default]
    for family in ("features", "ssim", "copies")
}


def short_extractor_name(extractor: str) -> str:
    """Return an extractor's name in names of metrics: ``vit_x`` for ``timm:vit_x.y``."""
    return extractor.removeprefix("timm:").partition(".")[0]


def split_names(words: Iterable[str]) -> list[str]:
    """Split words at commas into names."""
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def requires_features(names: Sequence[str] | None) -> bool:
    """Return whether feature metrics were asked for by name, so that missing weights are an error."""
    needing = [metric.name for metric in METRICS.values() if metric.family == "features"]
    return not {"all", "features", "copies_features", *needing}.isdisjoint(split_names(names or ()))


def choose_metrics(names: Sequence[str] | None) -> list[str]:
    """Resolve names and groups (``ssim``) to metric names in registry order; None: the default ones.

    Raises:
        ZooError: an unknown name, or no name at all.
    """
    if names is None:
        return [metric.name for metric in METRICS.values() if metric.default]
    choices = [*METRICS, *GROUPS]
    chosen: set[str] = set()
    for name in split_names(names):
        if name not in choices:
            hint = suggest(name, choices)
            raise ZooError(f"--metrics {name}: unknown metric{hint}. Choose from {', '.join(choices)}")
        chosen.update(GROUPS.get(name, [name]))
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
