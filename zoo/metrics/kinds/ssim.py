"""SSIM of fakes with training images, and with one another."""

from __future__ import annotations

from functools import partial

from zoo.metrics.comparison import Comparison
from zoo.metrics.registry import register_metric
from zoo.metrics.ssim.pairs import compare_pairs
from zoo.metrics.value import MetricValue


def _nearest(comparison: Comparison) -> MetricValue:
    return comparison.mean(comparison.nearest_ssim[0])


def _pairs(name: str, comparison: Comparison) -> MetricValue:
    return compare_pairs(comparison.fakes, name, intervals=comparison.options.intervals)


register_metric(
    "ssim_nearest",
    _nearest,
    title="SSIM nearest",
    better="match",
    family="ssim",
    sentence="SSIM of each fake with the most similar of all training images, on average: below that of "
    "held-out subjects is blur or noise, above it is copying.",
)
register_metric(
    "ssim_pairwise",
    partial(_pairs, "ssim_pairwise"),
    title="SSIM pairwise",
    better="match",
    family="ssim",
    sentence="SSIM of fakes with one another, on average: above that of real images they are too alike, near 1 "
    "is collapse.",
)
register_metric(
    "ssim_twins",
    partial(_pairs, "ssim_twins"),
    title="SSIM twins",
    better="match",
    family="ssim",
    sentence="Share of pairs of fakes that are the same image, SSIM above 0.99 (Arora and Zhang "
    "2017): one over it estimates how many images the generator can make.",
)
register_metric(
    "ms_ssim_pairwise",
    partial(_pairs, "ms_ssim_pairwise"),
    title="MS-SSIM pairwise",
    better="match",
    family="ssim",
    default=False,
    sentence="Multi-scale SSIM of fakes with one another (Wang et al. 2003; Odena et al. 2017), for images "
    "above 160 pixels.",
)
