"""Copies of training images, by several measures."""

from __future__ import annotations

from functools import partial

from zoo.metrics.comparison import Comparison
from zoo.metrics.registry import register_metric
from zoo.metrics.value import MetricValue


def _correlation(comparison: Comparison) -> MetricValue:
    return comparison.mean(comparison.nearest_copy[0])


def _share(name: str, comparison: Comparison) -> MetricValue | None:
    return comparison.copies(name)


register_metric(
    "ncc_nearest",
    _correlation,
    title="NCC nearest",
    better="match",
    family="copies",
    sentence="Highest correlation of each low-passed fake with any training image over shifts of 2 pixels: "
    "near 1 is a copy, whatever its brightness, noise or place.",
)
register_metric(
    "copies_ssim",
    partial(_share, "copies_ssim"),
    title="copies (SSIM)",
    better="match",
    family="copies",
    decimals=2,
    sentence="Share of fakes that are copies by SSIM: less than half as far from a training image as the "
    "nearest tenth of held-out real images.",
)
register_metric(
    "copies_ncc",
    partial(_share, "copies_ncc"),
    title="copies (NCC)",
    better="match",
    family="copies",
    decimals=2,
    sentence="The same by correlation, which shifts, brightness and noise do not hide.",
)
register_metric(
    "copies_features",
    partial(_share, "copies_features"),
    title="copies (features)",
    better="match",
    family="copies",
    decimals=2,
    sentence="The same by distance in feature space.",
)
