"""What can be measured: names, directions, and a sentence on how to read each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoo.core.errors import ZooError, suggest

INCEPTION = "inception"  # the space that FID and its like are understood to be of


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that a set of images can have.

    Attributes:
        name: in JSON and on the command line.
        title: in tables.
        better: ``match``: best where it equals that of unseen real images.
        family: what it is computed from: features of a network, SSIM, or scores of nearest training images.
        sentence: how to read it.
        decimals: how many are shown.
        default: whether it is measured unless something else is asked for.
    """

    name: str
    title: str
    better: Literal["lower", "higher", "match"]
    family: Literal["features", "ssim", "copies"]
    sentence: str
    decimals: int = 3
    default: bool = True

    def to_json(self) -> dict[str, Any]:
        keys = ("name", "title", "better", "sentence", "decimals")
        return {key: getattr(self, key) for key in keys}

    def of_space(self, space: str, name: str) -> Metric:
        """The same, called ``name``, in another feature space than Inception's."""
        sentence = self.sentence.replace("the Inception features", f"the features ({short_extractor_name(space)})")
        return replace(self, name=name, title=f"{self.title} ({short_extractor_name(space)})", sentence=sentence)


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
            "unseen subjects is blur or noise, above it is copying.",
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
            sentence="Share of pairs of fakes that are one and the same picture, SSIM above 0.99 (Arora and Zhang "
            "2017): one over it is about how many pictures the generator knows.",
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
            "nearest tenth of unseen real images.",
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


def short_extractor_name(space: str) -> str:
    """A feature space's name in the names of figures: ``timm:vit_x.y`` is ``vit_x``."""
    return space.removeprefix("timm:").partition(".")[0]


def split_names(words: Iterable[str]) -> list[str]:
    """Names from words that may hold several, with commas between them."""
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def requires_features(wanted: Sequence[str] | None) -> bool:
    """Whether figures of features were asked for as such, so that a command without weights must not go on."""
    return not {"all", "features", "copies_features", *GROUPS["features"]}.isdisjoint(split_names(wanted or ()))


def choose_metrics(wanted: Sequence[str] | None) -> list[str]:
    """Names of metrics, in the order of the catalogue, from names and groups (``ssim``); None: the default ones.

    Raises:
        ZooError: a name that is none.
    """
    if wanted is None:
        return [metric.name for metric in METRICS.values() if metric.default]
    chosen: set[str] = set()
    for name in split_names(wanted):
        if name not in METRICS and name not in GROUPS:
            known = [*METRICS, *GROUPS]
            raise ZooError(f"--metrics {name}: is none{suggest(name, known)}; one of {', '.join(known)}")
        chosen.update(GROUPS.get(name, [name]))
    if not chosen:
        raise ZooError(f"--metrics: names none; some of {', '.join([*METRICS, *GROUPS])}")
    return [name for name in METRICS if name in chosen]


def metric_columns(names: Iterable[str], spaces: Sequence[str]) -> list[Metric]:
    """The metrics of a table: those of the first space under their own names, those of others behind them with the
    space's. A space that is not Inception stands in the title.
    """
    chosen = [METRICS[name] for name in names]
    others = [
        m.of_space(space, f"{m.name}_{short_extractor_name(space)}")
        for space in spaces[1:]
        for m in chosen
        if m.family == "features"
    ]
    if spaces and spaces[0] != INCEPTION:
        chosen = [m.of_space(spaces[0], m.name) if m.family == "features" else m for m in chosen]
    at = next((i for i, metric in enumerate(chosen) if metric.family != "features"), len(chosen))
    return [*chosen[:at], *others, *chosen[at:]]
