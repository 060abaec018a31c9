"""What fakes, and the discriminator, tell about the people whose images were trained on."""

from __future__ import annotations

from functools import partial

from zoo.metrics.comparison import Comparison
from zoo.metrics.registry import register_metric
from zoo.metrics.value import MetricValue


def _risk(name: str, comparison: Comparison) -> MetricValue | None:
    return comparison.copies(name)


register_metric(
    "authenticity",
    partial(_risk, "authenticity"),
    title="authenticity",
    better="match",
    family="privacy",
    default=False,
    sentence="Share of fakes that are further from their nearest training image than that image is from every other "
    "subject (Alaa et al. 2022): well below that of held-out images is copying.",
)
register_metric(
    "distance_ratio",
    partial(_risk, "distance_ratio"),
    title="distance ratio",
    better="match",
    family="privacy",
    default=False,
    sentence="Distance of a fake to the nearest training image over that to the nearest held-out image, of the nearest "
    "twentieth of fakes: well below that of held-out images is copying.",
)
register_metric(
    "membership_distance",
    partial(_risk, "membership_distance"),
    title="membership (distance)",
    better="lower",
    family="privacy",
    default=False,
    sentence="How well the likeness of a person's images to the nearest fake tells whether the person was trained on "
    "(AUC over subjects, Chen et al. 2020): 0.5 is a guess, 1 is certain.",
)
register_metric(
    "membership_discriminator",
    partial(_risk, "membership_discriminator"),
    title="membership (discriminator)",
    better="lower",
    family="privacy",
    default=False,
    sentence="The same by the discriminator's output for a person's images (Hayes et al. 2019): a risk where "
    "checkpoints of the run are shared, not where the generator alone is.",
)
