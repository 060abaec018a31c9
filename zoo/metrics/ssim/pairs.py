"""SSIM of the images of a set with one another: are they too alike?"""

from __future__ import annotations

import numpy as np
import torch

from zoo.data.image_set import ImageSet
from zoo.metrics import alarms, confidence
from zoo.metrics.ssim import ssim
from zoo.metrics.value import MetricValue, missing_value

SSIM_PAIRED_IMAGES = 256  # images whose pairs are compared by SSIM: 32,640 pairs
PAIR_REPLICATES = 200  # half-samples of paired images

_Array = np.ndarray


def compare_pairs(images: ImageSet, name: str, *, intervals: bool) -> MetricValue:
    """Compute a mean over the pairs of up to 256 images, with an interval from halves of these images.

    Args:
        images: the set.
        name: ``ssim_pairwise``, ``ssim_twins`` or ``ms_ssim_pairwise``.
        intervals: whether there is an interval.
    """
    if len(images) < 2:
        return missing_value("fewer than 2 images", len(images))
    multi_scale = name == "ms_ssim_pairwise"
    if multi_scale and min(images.shape[1:]) <= ssim.MS_SSIM_SMALLEST:
        return missing_value(f"MS-SSIM takes images above {ssim.MS_SSIM_SMALLEST} pixels", len(images))
    places = np.sort(np.random.default_rng(0).permutation(len(images))[:SSIM_PAIRED_IMAGES])
    values, count = _pair_ssim(images.images, places, multi_scale), len(places)
    is_share = name == "ssim_twins"
    if is_share:
        values = (values > alarms.DUPLICATE_SSIM).astype(np.float64)
    point = float(values.mean())
    groups = [images.subjects[i] for i in places] if images.subjects else count
    note = confidence.too_few_note(groups)
    if note or not intervals:
        return MetricValue(value=point, n=count, note=note if intervals else "")
    table = np.zeros((count, count))
    table[np.triu_indices(count, 1)] = values
    halves = confidence.draw_half_samples(groups, PAIR_REPLICATES, np.random.default_rng(0))
    means = [table[mask][:, mask].sum() / (mask.sum() * (mask.sum() - 1) / 2) for mask in halves.masks]
    if is_share:
        low, high = confidence.share_interval(point, means, halves, of=halves)
    else:
        low, high = confidence.confidence_interval(point, means, halves, lowest=-1, highest=1)
    return MetricValue(value=point, low=low, high=high, n=count)


def all_same(images: _Array) -> bool:
    """Return whether all images are equal, so that values need be computed only once."""
    first = np.asarray(images[:1])
    return len(images) > 1 and all((images[i : i + 256] == first).all() for i in range(0, len(images), 256))


def _pair_ssim(images: _Array, places: _Array, multi_scale: bool) -> _Array:
    """Compute the SSIM of all pairs of the images at these places."""
    if all_same(images):
        return np.ones(len(places) * (len(places) - 1) // 2)
    x = torch.from_numpy(np.array(images[places]))
    if not multi_scale:
        return ssim.pairwise_ssim(x, 255).double().numpy()
    one, other = np.triu_indices(len(x), 1)
    parts = [ssim.ms_ssim(x[one[i : i + 64]], x[other[i : i + 64]], 255) for i in range(0, len(one), 64)]
    return torch.cat(parts).double().numpy()
