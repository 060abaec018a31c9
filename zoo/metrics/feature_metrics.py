"""FID, KID, precision, recall, density and coverage of two sets of features, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.errors import ZooError, suggest
from zoo.core.progress import Reporter, SilentReporter
from zoo.data.subjects import subject_indices
from zoo.metrics import result_cache
from zoo.metrics.confidence import HalfSamples, confidence_interval, draw_half_samples, share_interval, too_few_note
from zoo.metrics.fid import FID_INFINITY_SMALLEST, fid_infinity, frechet_distance, half_fids
from zoo.metrics.kid import KID_MAX_IMAGES, KID_MIN_IMAGES, half_kids, kernel_distance
from zoo.metrics.prdc import K_DENSITY, K_PRECISION, Neighbours
from zoo.metrics.value import MetricValue, missing_value

_Array = np.ndarray

FEATURE_METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")
# Measured only where it is asked for by name: it takes fifteen FIDs.
EXTRAPOLATED = "fid_infinity"
# Fakes and reals without which a metric is not defined.
_MIN_IMAGES = {"fid": (2, 2), "kid": (2, 2), "density": (1, K_DENSITY + 1), "coverage": (1, K_DENSITY + 1)}
_MIN_IMAGES[EXTRAPOLATED] = (2 * FID_INFINITY_SMALLEST, 2)
_MIN_IMAGES |= dict.fromkeys(("precision", "recall"), (K_PRECISION + 1, K_PRECISION + 1))
_SHARE_OF = {"precision": 0, "recall": 1, "coverage": 1}  # of the fakes (0) or the reals (1)

FEATURE_METRICS_VERSION = 2  # of cached values: raise it when the same features would give other values
REPLICATES = 100
# Where one replicate takes 0.1 s or more: FID, and neighbours in very large sets. A spread from 24 is accurate to
# 15 %, for which the quantile of Student's distribution allows.
FEW_REPLICATES = 24


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are compared.

    Attributes:
        fake_subjects: the subject of each fake; None: each image is a unit.
        real_subjects: the subject of each real.
        replicates: half-samples for intervals; 0: no intervals. FID takes at most 24 of them.
        seed: of the half-samples. KID's subsets are always those of torch-fidelity.
        use_cache: whether values are cached, by the content of all arguments.
        cache_folder: of the values; None: the usual one.
    """

    fake_subjects: Sequence[Hashable] | None = None
    real_subjects: Sequence[Hashable] | None = None
    replicates: int = REPLICATES
    seed: int = 0
    use_cache: bool = False
    cache_folder: Path | None = None


def feature_distances(
    fakes: _Array,
    reals: _Array,
    metrics: Sequence[str] = FEATURE_METRICS,
    *,
    options: FeatureOptions | None = None,
    reporter: Reporter | None = None,
) -> dict[str, MetricValue]:
    """Compute metrics of features, each with a 95 % interval (:mod:`zoo.metrics.confidence`).

    Args:
        fakes: (N, D) features.
        reals: (M, D) features.
        metrics: from ``FEATURE_METRICS``, or ``fid_infinity``.

    Returns:
        A value for each metric, ``n`` the number of fakes. Too few images, or features that are not finite, give a
        missing value with the reason; too few subjects a value without an interval.

    Raises:
        ZooError: an unknown metric.
        ValueError: features of different lengths, or subjects whose number is not that of the images.
    """
    for name in metrics:
        if name not in _MIN_IMAGES:
            hint = suggest(name, _MIN_IMAGES)
            raise ZooError(f"unknown metric {name!r} of features{hint}. Choose from {', '.join(_MIN_IMAGES)}")
    options = options or FeatureOptions()
    comparison = _Comparison(np.asarray(fakes), np.asarray(reals), options)
    if not options.use_cache:
        return comparison.measure(metrics, reporter or SilentReporter())

    def compute() -> dict[str, Any]:
        values = comparison.measure(metrics, reporter or SilentReporter())
        return {name: value.to_json() for name, value in values.items()}

    sides = [
        [result_cache.digest_array(features), None if subjects is None else subject_indices(subjects)]
        for features, subjects in comparison.sets
    ]
    key = ["distances", FEATURE_METRICS_VERSION, *sides, list(metrics), options.replicates, options.seed]
    plain = result_cache.cached_result(key, compute, folder=options.cache_folder)
    return {name: MetricValue(**plain[name]) for name in metrics}


class _Comparison:
    """Two sets of features and half-samples of both."""

    def __init__(self, fakes: _Array, reals: _Array, options: FeatureOptions) -> None:
        if fakes.ndim != 2 or reals.ndim != 2 or fakes.shape[1] != reals.shape[1]:
            raise ValueError(f"feature_distances takes features (N, D) and (M, D), not {fakes.shape} and {reals.shape}")
        self.fakes, self.reals = fakes, reals
        self.sets = ((fakes, options.fake_subjects), (reals, options.real_subjects))
        for features, subjects in self.sets:
            if subjects is not None and len(subjects) != len(features):
                raise ValueError(f"{len(subjects)} subjects for {len(features)} images")
        self.options = options
        self.half_samples: list[HalfSamples] = []  # of the fakes and of the reals; empty without intervals
        self.note = ""  # why there are no intervals

    def measure(self, metrics: Sequence[str], reporter: Reporter) -> dict[str, MetricValue]:
        """Compute the metrics, those of one family together."""
        values: dict[str, MetricValue] = {}
        for name in metrics:
            if reason := self._missing_reason(*_MIN_IMAGES[name]):
                values[name] = missing_value(reason, len(self.fakes))
        self._draw_half_samples()
        reporter.start("measuring", len(metrics))
        neighbours = (self._neighbours, FEATURE_METRICS[2:])
        singles = ((self._fid, ("fid",)), (self._fid_infinity, (EXTRAPOLATED,)), (self._kid, ("kid",)))
        for compute, family in (*singles, neighbours):
            names = [name for name in family if name in metrics]
            if possible := [name for name in names if name not in values]:
                values |= compute(possible)
            reporter.advance(len(names))
        reporter.stop()
        return {name: values[name] for name in metrics}

    def _missing_reason(self, fakes: int, reals: int) -> str:
        """Return why a metric that needs so many images cannot be computed, or an empty string."""
        for kind, features, least in (("fakes", self.fakes, fakes), ("reals", self.reals, reals)):
            if not np.isfinite(features).all():
                return f"the features of the {kind} are not all finite"
            if len(features) < least:
                return f"{len(features)} {kind}, fewer than {least}"
        return ""

    def _draw_half_samples(self) -> None:
        groups = [len(features) if subjects is None else subjects for features, subjects in self.sets]
        self.note = too_few_note(groups[0]) or too_few_note(groups[1])
        if not self.note and self.options.replicates >= 2:
            rng = np.random.default_rng(self.options.seed)
            self.half_samples = [draw_half_samples(side, self.options.replicates, rng) for side in groups]

    def _half_masks(self, fakes: int, reals: int) -> list[_Array]:
        """Return the masks of both sets, or nothing if there are none or a half has fewer images than this."""
        masks = [side.masks for side in self.half_samples]
        enough = all(mask.sum(axis=1).min() >= least for mask, least in zip(masks, (fakes, reals), strict=False))
        return masks if enough else []

    def _with_interval(
        self,
        name: str,
        point: float,
        replicates: Sequence[float] | _Array,
        *,
        note: str = "",
        error: float | None = None,
    ) -> MetricValue:
        """Return the value with the interval of its replicates, or with the reason why it has none."""
        low = high = None
        if len(replicates) < 2:
            reason = self.note or ("no interval: too few images to halve" if self.half_samples else "")
            note = "; ".join(filter(None, [note, reason]))
        elif name in _SHARE_OF:
            of = self.half_samples[_SHARE_OF[name]]
            low, high = share_interval(point, replicates, *self.half_samples, of=of)
        else:
            lowest = -np.inf if name == "kid" else 0.0  # KID is unbiased, and so may be negative
            low, high = confidence_interval(point, replicates, *self.half_samples, lowest=lowest)
        return MetricValue(value=point, low=low, high=high, n=len(self.fakes), note=note, error=error)

    def _fid(self, names: Sequence[str]) -> dict[str, MetricValue]:
        fewest, width = min(len(self.fakes), len(self.reals)), self.fakes.shape[1]
        note = ""
        if fewest <= width:
            note = f"{fewest} images span {fewest - 1} of {width} dimensions: read KID as well"
        replicates: list[float] = []
        if masks := self._half_masks(2, 2):
            replicates = half_fids(self.fakes, self.reals, *(mask[:FEW_REPLICATES] for mask in masks))
        return {"fid": self._with_interval("fid", frechet_distance(self.fakes, self.reals), replicates, note=note)}

    def _fid_infinity(self, names: Sequence[str]) -> dict[str, MetricValue]:
        # Halves have too few images to be extrapolated.
        value, note = fid_infinity(self.fakes, self.reals), "no interval: extrapolated from subsets"
        return {EXTRAPOLATED: MetricValue(value=value, n=len(self.fakes), note=note)}

    def _kid(self, names: Sequence[str]) -> dict[str, MetricValue]:
        replicates: _Array = np.empty(0)
        if masks := self._half_masks(2, 2):
            # The cost is quadratic in the images; halves of fewer images vary a little more, never less.
            rows = [_some_rows(features, seed) for seed, (features, _) in enumerate(self.sets)]
            left, right = (mask[:, chosen] for mask, chosen in zip(masks, rows, strict=True))
            replicates = half_kids(self.fakes[rows[0]], self.reals[rows[1]], left, right)
        kid = kernel_distance(self.fakes, self.reals)
        fewest, note = min(len(self.fakes), len(self.reals)), ""
        if fewest < KID_MIN_IMAGES:
            note = f"KID of {fewest} images scatters more than generators differ: use {KID_MIN_IMAGES} or more"
        return {"kid": self._with_interval("kid", kid.mean, replicates, note=note, error=kid.error)}

    def _neighbours(self, names: Sequence[str]) -> dict[str, MetricValue]:
        precision = K_PRECISION if {"precision", "recall"} & set(names) else 0
        density = K_DENSITY if {"density", "coverage"} & set(names) else 0
        search = Neighbours(self.reals, self.fakes, precision=precision, density=density)
        replicates: list[dict[str, float]] = []
        if masks := self._half_masks(precision + 1, max(precision, density) + 1):
            most = None if search.in_memory else FEW_REPLICATES
            pairs = zip(masks[1][:most], masks[0][:most], strict=True)
            replicates = [search.values(real, fake) for real, fake in pairs]
        points = search.values()
        return {
            name: self._with_interval(name, points[name], [replicate[name] for replicate in replicates])
            for name in names
        }


def _some_rows(features: _Array, seed: int) -> _Array | slice:
    """Select all rows, or ``KID_MAX_IMAGES`` random ones of a larger set."""
    if len(features) <= KID_MAX_IMAGES:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(len(features), KID_MAX_IMAGES, replace=False))
