"""How far a set of fakes is from a set of reals, measured in one feature space: all figures, with their intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.errors import ZooError, suggest
from zoo.core.progress import Reporter, SilentReporter
from zoo.data.subjects import subject_indices
from zoo.metrics import result_cache
from zoo.metrics.confidence import (
    FEWEST,
    HalfSamples,
    confidence_interval,
    draw_half_samples,
    share_interval,
    too_few_note,
)
from zoo.metrics.fid import frechet_distance, half_fids
from zoo.metrics.kid import KID_MAX_IMAGES, half_kids, kernel_distance
from zoo.metrics.prdc import K_DENSITY, K_PRECISION, Neighbours
from zoo.metrics.value import MetricValue, missing_value

Array = np.ndarray[Any, Any]

FEATURE_METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")

VERSION = 2  # to be raised whenever the same features would have other figures
REPLICATES = 100
FEW_REPLICATES = 24  # where one costs from a tenth of a second up: of FID, and of neighbours in very large sets
_SHARES = {"precision": 0, "recall": 1, "coverage": 1}  # of the fakes (0) or the reals (1)


def feature_distances(
    fakes: Array,
    reals: Array,
    *,
    fake_groups: Sequence[Hashable] | None = None,
    real_groups: Sequence[Hashable] | None = None,
    metrics: Sequence[str] = FEATURE_METRICS,
    replicates: int = REPLICATES,
    seed: int = 0,
    reporter: Reporter | None = None,
    remember: bool = False,
    folder: Path | None = None,
) -> dict[str, MetricValue]:
    """The figures asked for, each with its 95 % interval from half-samples (`zoo.metrics.confidence`).

    Args:
        fakes: (N, D) features.
        reals: (M, D) features.
        fake_groups: the subject of each fake; None: every image is a unit of its own.
        real_groups: the subject of each real.
        metrics: of `METRICS`.
        replicates: half-samples; FID takes at most 24 of them (a spread from 24 is good to 15 %, which the quantile
            of Student's distribution allows for).
        seed: of the half-samples. KID's subsets are always those of torch-fidelity.
        remember: whether figures are kept in the cache, known by the content of all arguments, and taken from there.
        folder: where they are kept; None: figures in the cache.

    Returns:
        A Figure for each metric, ``n`` the number of fakes. One that cannot be had of so few images, or of features
        that are not finite, has no value and says why; one of too few units has no interval and says so.

    Raises:
        ZooError: a metric that there is not.
        ValueError: features of different spaces, or groups that are not one an image.
    """
    for name in metrics:
        if name not in FEATURE_METRICS:
            raise ZooError(
                f"no metric {name!r} of features; there are {', '.join(FEATURE_METRICS)}{suggest(name, FEATURE_METRICS)}"
            )
    fakes, reals = np.asarray(fakes), np.asarray(reals)
    if fakes.ndim != 2 or reals.ndim != 2 or fakes.shape[1] != reals.shape[1]:
        raise ValueError(f"distances takes features (N, D) and (M, D), not {fakes.shape} and {reals.shape}")
    for features, groups in ((fakes, fake_groups), (reals, real_groups)):
        if groups is not None and len(groups) != len(features):
            raise ValueError(f"{len(groups)} groups for {len(features)} images")
    if remember:
        sides = [
            [result_cache.digest_array(features), None if groups is None else subject_indices(groups)]
            for features, groups in ((fakes, fake_groups), (reals, real_groups))
        ]
        key = ["distances", VERSION, *sides, list(metrics), replicates, seed]

        def compute() -> dict[str, Any]:
            found = feature_distances(
                fakes,
                reals,
                metrics=metrics,
                fake_groups=fake_groups,
                real_groups=real_groups,
                replicates=replicates,
                seed=seed,
                reporter=reporter,
            )
            return {name: figure.to_json() for name, figure in found.items()}

        kept = result_cache.cached_result(key, compute, folder=folder)
        return {name: MetricValue(**kept[name]) for name in metrics}
    for features, kind in ((fakes, "fakes"), (reals, "reals")):
        if not np.isfinite(features).all():
            return {
                name: missing_value(f"the features of the {kind} are not all finite", len(fakes)) for name in metrics
            }
    work = _Work(fakes, reals, fake_groups, real_groups, replicates, seed)
    reporter = reporter or SilentReporter()
    found: dict[str, MetricValue] = {}
    families = (
        (work.fid, FEATURE_METRICS[:1]),
        (work.kid, FEATURE_METRICS[1:2]),
        (work.neighbours, FEATURE_METRICS[2:]),
    )
    wanted = [(family, [name for name in names if name in metrics]) for family, names in families]
    reporter.start("measuring", len(metrics))
    for family, names in wanted:
        if names:
            found |= family(names)
            reporter.advance(len(names))
    reporter.stop()
    return {name: found[name] for name in metrics}


class _Work:
    """Two sets, and half-samples of both."""

    def __init__(
        self,
        fakes: Array,
        reals: Array,
        fake_groups: Sequence[Hashable] | None,
        real_groups: Sequence[Hashable] | None,
        replicates: int,
        seed: int,
    ) -> None:
        self.fakes, self.reals = fakes, reals
        self.groups = (fake_groups, real_groups)
        self.sides: tuple[HalfSamples, HalfSamples] | None = None
        self.why = ""  # there is no interval
        for features, groups in ((fakes, fake_groups), (reals, real_groups)):
            units = len(features) if groups is None else len(set(groups))
            if units < FEWEST:
                self.why = self.why or too_few_note(units, groups is not None)
        if not self.why and replicates >= 2:
            rng = np.random.default_rng(seed)
            left, right = (
                draw_half_samples(len(features) if groups is None else groups, replicates, rng)
                for features, groups in ((fakes, fake_groups), (reals, real_groups))
            )
            self.sides = (left, right)

    def smallest(self, side: int) -> int:
        """Images in the smallest half of the fakes (0) or the reals (1)."""
        return int(self.sides[side].masks.sum(axis=1).min()) if self.sides else 0

    def figure(
        self,
        point: float,
        values: Sequence[float] | Array,
        *,
        lowest: float = -np.inf,
        share_of: int | None = None,
        note: str = "",
        error: float | None = None,
    ) -> MetricValue:
        """A figure with the interval of its replicates; without, if there are none."""
        if not self.sides or len(values) < 2:
            note = "; ".join(filter(None, [note, self.why]))
            return MetricValue(value=point, n=len(self.fakes), note=note, error=error)
        if share_of is None:
            low, high = confidence_interval(point, values, *self.sides, lowest=lowest)
        else:
            low, high = share_interval(point, values, *self.sides, of=self.sides[share_of])
        return MetricValue(value=point, low=low, high=high, n=len(self.fakes), note=note, error=error)

    def lacking(self, fakes: int, reals: int) -> str:
        """Why a figure that needs so many images cannot be had, or nothing."""
        for name, have, need in (("fakes", len(self.fakes), fakes), ("reals", len(self.reals), reals)):
            if have < need:
                return f"{have} {name}, fewer than {need}"
        return ""

    def halves_lack(self, fakes: int, reals: int) -> bool:
        """Whether there are no half-samples, or some of fewer images; notes why."""
        if self.sides and (self.smallest(0) < fakes or self.smallest(1) < reals):
            self.why = "no interval: too few images to halve"
            return True
        return not self.sides

    def fid(self, names: Sequence[str]) -> dict[str, MetricValue]:
        if why := self.lacking(2, 2):
            return dict.fromkeys(names, missing_value(why, len(self.fakes)))
        fewest, width = min(len(self.fakes), len(self.reals)), self.fakes.shape[1]
        note = f"{fewest} images span {fewest - 1} of {width} dimensions: read KID beside it" if fewest <= width else ""
        values: list[float] = []
        if not self.halves_lack(2, 2) and self.sides:
            few = slice(FEW_REPLICATES)
            values = half_fids(self.fakes, self.reals, self.sides[0].masks[few], self.sides[1].masks[few])
        return {"fid": self.figure(frechet_distance(self.fakes, self.reals), values, lowest=0.0, note=note)}

    def kid(self, names: Sequence[str]) -> dict[str, MetricValue]:
        if why := self.lacking(2, 2):
            return dict.fromkeys(names, missing_value(why, len(self.fakes)))
        values: Array = np.empty(0)
        if not self.halves_lack(2, 2) and self.sides:
            some = [self._some(side) for side in (0, 1)]  # its price is the square of their number
            left, right = (side.masks[:, chosen] for side, chosen in zip(self.sides, some, strict=True))
            values = half_kids(self.fakes[some[0]], self.reals[some[1]], left, right)
        found = kernel_distance(self.fakes, self.reals)
        return {"kid": self.figure(found.mean, values, error=found.error)}

    def _some(self, side: int) -> Array | slice:
        """All images of a side, or 10,000 of them, whose halves vary a little more than those of all: never less."""
        count = len((self.fakes, self.reals)[side])
        if count <= KID_MAX_IMAGES:
            return slice(None)
        return np.sort(np.random.default_rng(side).choice(count, KID_MAX_IMAGES, replace=False))

    def neighbours(self, names: Sequence[str]) -> dict[str, MetricValue]:
        found: dict[str, MetricValue] = {}
        k_precision: int | None = K_PRECISION if {"precision", "recall"} & set(names) else None
        k_density: int | None = K_DENSITY if {"density", "coverage"} & set(names) else None
        if k_precision and (why := self.lacking(K_PRECISION + 1, K_PRECISION + 1)):
            found |= dict.fromkeys(("precision", "recall"), missing_value(why, len(self.fakes)))
            k_precision = None
        if k_density and (why := self.lacking(1, K_DENSITY + 1)):
            found |= dict.fromkeys(("density", "coverage"), missing_value(why, len(self.fakes)))
            k_density = None
        if k_precision or k_density:
            search = Neighbours(self.reals, self.fakes, precision=k_precision, density=k_density)
            points = search.figures()
            replicates: list[dict[str, float]] = []
            need = (k_precision + 1 if k_precision else 1, max(k_precision or 0, k_density or 0) + 1)
            if not self.halves_lack(*need) and self.sides:
                most = None if search.kept else FEW_REPLICATES
                pairs = zip(self.sides[1].masks[:most], self.sides[0].masks[:most], strict=True)
                replicates = [search.figures(real, fake) for real, fake in pairs]
            for name, point in points.items():
                values = [replicate[name] for replicate in replicates]
                found[name] = self.figure(point, values, lowest=0.0, share_of=_SHARES.get(name))
        return {name: found[name] for name in names}
