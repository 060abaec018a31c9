"""How well the generator reconstructs real images of people it has not seen."""

from __future__ import annotations

import numpy as np
import torch

from zoo.metrics import confidence
from zoo.metrics.comparison import Comparison, spread_over_subjects, subjects_of
from zoo.metrics.registry import register_metric
from zoo.metrics.ssim.ssim import ssim
from zoo.metrics.value import MetricValue, missing_value

PROJECTED_IMAGES = 32  # held-out images, of as many subjects as possible


def _projection(comparison: Comparison) -> MetricValue:
    networks, heldout = comparison.networks, comparison.heldout
    if networks is None:
        return missing_value("no generator, only its images", len(comparison.fakes))
    if heldout is None:
        return missing_value("no held-out real images", len(comparison.fakes))
    places = spread_over_subjects(heldout, PROJECTED_IMAGES)
    images = np.array(heldout.images[places])
    reconstructions = torch.from_numpy(networks.reconstruct(images))
    values = ssim(torch.from_numpy(images), reconstructions, 255).double().numpy()
    if not comparison.options.intervals:
        return MetricValue(value=float(values.mean()), n=len(values))
    subjects = subjects_of(heldout)
    return confidence.mean_with_interval(values, [subjects[i] for i in places], lowest=-1, highest=1)


register_metric(
    "projection_ssim",
    _projection,
    title="projection SSIM",
    better="higher",
    family="projection",
    default=False,
    sentence="SSIM of held-out real images with the generator's most similar images, found by optimising latents: "
    "high only if the generator can make people it has not seen.",
)
