"""FID, KID, precision, recall, density and coverage of the features of a network."""

from __future__ import annotations

from functools import partial

from zoo.metrics.comparison import Comparison
from zoo.metrics.registry import register_metric
from zoo.metrics.value import MetricValue


def _features(name: str, comparison: Comparison) -> dict[str, MetricValue]:
    return comparison.feature_values(name)


register_metric(
    "fid",
    partial(_features, "fid"),
    title="FID",
    better="lower",
    family="features",
    decimals=1,
    sentence="Frechet distance between Gaussians fitted to the Inception features of fakes and training images "
    "(Heusel et al. 2017): 0 for equal sets, larger the fewer images there are, so compare at equal n.",
)
register_metric(
    "fid_infinity",
    partial(_features, "fid_infinity"),
    title="FID (infinite n)",
    better="lower",
    family="features",
    decimals=1,
    default=False,
    sentence="FID extrapolated to infinitely many fakes (Chong and Forsyth 2020) from subsets of 1,000 and "
    "more: comparable between numbers of fakes.",
)
register_metric(
    "kid",
    partial(_features, "kid"),
    title="KID",
    better="lower",
    family="features",
    decimals=4,
    sentence="Kernel distance between the same features (Binkowski et al. 2018): unbiased, so it may be "
    "slightly negative, and fair for small sets.",
)
register_metric(
    "precision",
    partial(_features, "precision"),
    title="precision",
    better="higher",
    family="features",
    sentence="Share of fakes that lie among the training images in feature space (Kynkaanniemi et al. 2019): "
    "low is unrealistic.",
)
register_metric(
    "recall",
    partial(_features, "recall"),
    title="recall",
    better="higher",
    family="features",
    sentence="Share of training images that lie among the fakes (Kynkaanniemi et al. 2019): near zero is "
    "collapse, or fakes far from every real image.",
)
register_metric(
    "density",
    partial(_features, "density"),
    title="density",
    better="higher",
    family="features",
    sentence="How densely training images surround the fakes (Naeem et al. 2020): precision that an outlier "
    "cannot inflate; it may exceed 1.",
)
register_metric(
    "coverage",
    partial(_features, "coverage"),
    title="coverage",
    better="higher",
    family="features",
    sentence="Share of training images with a fake among their nearest neighbours (Naeem et al. 2020): "
    "recall that an outlier cannot inflate.",
)
