"""Sharpness and grids, by power spectra."""

from __future__ import annotations

from functools import partial

from zoo.metrics.comparison import Comparison
from zoo.metrics.registry import register_metric
from zoo.metrics.value import MetricValue


def _spectra(name: str, comparison: Comparison) -> MetricValue:
    return comparison.spectra[name]


register_metric(
    "spectrum",
    partial(_spectra, "spectrum"),
    title="spectrum",
    better="lower",
    family="spectrum",
    default=False,
    sentence="Largest deviation from 1 of the power of fakes over that of training images, in rings of "
    "frequency up to 0.4 cycles per pixel: 0 is as sharp as real, above 0.2 is blur or noise.",
)
register_metric(
    "grid",
    partial(_spectra, "grid"),
    title="grid",
    better="lower",
    family="spectrum",
    decimals=2,
    default=False,
    sentence="How far the power at the frequencies of patches of 2, 4 and 8 pixels stands out, over the same "
    "of training images: about 1 is no grid.",
)
