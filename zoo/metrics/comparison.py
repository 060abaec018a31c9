"""Two sets of images that metrics compare, and what several metrics share, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from zoo.core.progress import Reporter, SilentReporter
from zoo.data.image_set import ImageSet
from zoo.metrics import confidence, feature_metrics, nearest_image, registry, result_cache, spectrum
from zoo.metrics.features.extractor import FeatureExtractor
from zoo.metrics.ssim import ssim
from zoo.metrics.ssim.pairs import all_same
from zoo.metrics.value import MetricValue, missing_value

_Array = np.ndarray

INTERVAL_REPLICATES = 24  # half-samples of a metric that is computed anew for each


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """How metrics are computed.

    Attributes:
        metrics: names of all that are wanted.
        extractors: networks whose features are compared; generators are ranked by the first.
        intervals: whether values get intervals.
        reporter: shows progress.
        folder: of the cache; None: the usual one.
    """

    metrics: list[str]
    extractors: list[FeatureExtractor] = field(default_factory=list)
    intervals: bool = True
    reporter: Reporter = field(default_factory=SilentReporter)
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What metrics may ask of the networks that made the fakes.

    Attributes:
        reconstruct: returns the images of the generator that are nearest to real ones, uint8 (N, C, H, W) both.
        discriminate: returns one logit per uint8 image, (N,), higher for real; None: there is no discriminator.
        missing: why there is none.
    """

    reconstruct: Callable[[_Array], _Array]
    discriminate: Callable[[_Array], _Array] | None = None
    missing: str = "no discriminator"


class Comparison:
    """Fakes and the real images that they are compared with.

    Args:
        fakes: uint8 images (N, C, H, W) in ``fakes.images``, their subjects in ``fakes.subjects``.
        reals: the same of the training images, (M, C, H, W).
        options: how metrics are computed.
        whole: the set that fakes and reals may be halves of; its features are cached.
        copies: computes a metric of copies or of privacy; None: nothing was generated that could be a copy.
        heldout: real images of other subjects than those of ``reals``; None: there are none.
        networks: that made the fakes; None: images of unknown origin.
    """

    def __init__(
        self,
        fakes: ImageSet,
        reals: ImageSet,
        options: MetricOptions,
        *,
        whole: ImageSet | None = None,
        copies: Callable[[str, Comparison], MetricValue] | None = None,
        heldout: ImageSet | None = None,
        networks: Networks | None = None,
    ) -> None:
        self.fakes, self.reals, self.options = fakes, reals, options
        self.heldout, self.networks = heldout, networks
        self._whole = whole or reals
        self._copies = copies
        # The mean or black image: one comparison serves for all. Held-out images differ by their subjects.
        self._same = fakes is not heldout and all_same(fakes.images)

    def with_interval(self, compute: Callable[[_Array, _Array], float]) -> MetricValue:
        """Return a value of all images with its 95 % interval from half-samples of the subjects of both sets.

        Args:
            compute: function of uint8 fakes (N, C, H, W) and reals (M, C, H, W); called 25 times.
        """
        ours, theirs = np.asarray(self.fakes.images[:]), np.asarray(self.reals.images[:])
        point = float(compute(ours, theirs))
        groups = [images.subjects or len(images) for images in (self.fakes, self.reals)]
        note = confidence.too_few_note(groups[0]) or confidence.too_few_note(groups[1])
        if note or not self.options.intervals:
            return MetricValue(value=point, n=len(ours), note=note if self.options.intervals else "")
        rng = np.random.default_rng(0)
        halves = [confidence.draw_half_samples(group, INTERVAL_REPLICATES, rng) for group in groups]
        masks = zip(halves[0].masks, halves[1].masks, strict=True)
        low, high = confidence.confidence_interval(
            point, [float(compute(ours[fake], theirs[real])) for fake, real in masks], *halves
        )
        return MetricValue(value=point, low=low, high=high, n=len(ours))

    def mean(self, values: _Array) -> MetricValue:
        """Return the mean of one similarity in [-1, 1] per fake, (N,), with its interval."""
        if not self.options.intervals:
            return MetricValue(value=float(values.mean()), n=len(values))
        return confidence.mean_with_interval(values, self.fakes.subjects, lowest=-1, highest=1)

    @cached_property
    def nearest_ssim(self) -> tuple[_Array, _Array]:
        """SSIM of each fake with the most similar real image, (N,), and the index of that image."""
        similarity, index = ssim.nearest_ssim(self._distinct, self.reals.images, 255, reporter=self.options.reporter)
        return self._repeat(similarity), self._repeat(index)

    @cached_property
    def nearest_copy(self) -> tuple[_Array, _Array, _Array]:
        """Highest correlation of each fake with a real image, the index of that image, and the distance, (N,) each."""
        correlation, index, distance = map(self._repeat, self._nearest[:3])
        return correlation, index, distance

    @property
    def real_correlation(self) -> _Array:
        """Highest correlation of each real image with a fake, (M,)."""
        return self._nearest.real_ncc.numpy()

    @cached_property
    def nearest_heldout(self) -> tuple[_Array, _Array]:
        """Highest correlation of each fake with a held-out image, (N,), and of each held-out image with a fake.

        Held-out images that play fakes are compared with those of other subjects.
        """
        assert self.heldout is not None
        subjects = subjects_of(self.heldout)
        found = nearest_image.nearest_copy(
            self._distinct,
            self.heldout.images,
            subjects=subjects,
            own=subjects if self.fakes is self.heldout else None,
            reporter=self.options.reporter,
        )
        return self._repeat(found.ncc), found.real_ncc.numpy()

    @cached_property
    def correlation_of_nearest(self) -> _Array:
        """Highest correlation of each fake's nearest real image with a real image of another subject, (N,)."""
        places, inverse = np.unique(self.nearest_copy[1], return_inverse=True)
        subjects = subjects_of(self.reals)
        found = nearest_image.nearest_copy(
            torch.from_numpy(np.array(self.reals.images[places])),
            self.reals.images,
            subjects=subjects,
            own=[subjects[place] for place in places],
            reporter=self.options.reporter,
        )
        values: _Array = found.ncc.numpy()[inverse]
        return values

    @cached_property
    def features(self) -> list[tuple[_Array, _Array]]:
        """Features (N, D) of the fakes and (M, D) of the reals by each extractor; empty without weights of any."""
        return [
            (self._extract(self.fakes, self._same, extractor), self._extract(self.reals, False, extractor))
            for extractor in self.options.extractors
        ]

    @cached_property
    def feature_distance(self) -> _Array | None:
        """Distance of each fake to the nearest real image by the first extractor, (N,); None without one."""
        if not self.features:
            return None
        ours, theirs = (torch.from_numpy(np.array(part)) for part in self.features[0])
        distances, _ = nearest_image.nearest_features(ours, theirs, subjects=self.reals.subjects)
        return distances.numpy()

    def feature_values(self, name: str) -> dict[str, MetricValue]:
        """Return a metric of features, by the first extractor under its name and by others with their name added."""
        if not self.features:
            return {name: missing_value("no feature network's weights", len(self.fakes))}
        values = {}
        for place, distances in enumerate(self._feature_distances):
            extractor = self.options.extractors[place].name
            values[f"{name}_{registry.short_extractor_name(extractor)}" if place else name] = distances[name]
        return values

    @cached_property
    def spectra(self) -> dict[str, MetricValue]:
        """The metrics of power spectra that are wanted."""
        return spectrum.compare_spectra(
            self.fakes.images,
            self.reals.images,
            registry.own_of_family(self.options.metrics, "spectrum"),
            fake_subjects=self.fakes.subjects,
            real_subjects=self.reals.subjects,
            intervals=self.options.intervals,
        )

    def copies(self, name: str) -> MetricValue | None:
        """Return the share of copies by one measure; None where nothing was generated."""
        return self._copies(name, self) if self._copies is not None else None

    @cached_property
    def _nearest(self) -> nearest_image.Nearest:
        return nearest_image.nearest_copy(
            self._distinct, self.reals.images, subjects=self.reals.subjects, reporter=self.options.reporter
        )

    @cached_property
    def _distinct(self) -> torch.Tensor:
        return torch.from_numpy(np.array(self.fakes.images[:1] if self._same else self.fakes.images[:]))

    def _repeat(self, column: torch.Tensor) -> _Array:
        values: _Array = column.numpy().repeat(len(self.fakes) if self._same else 1)
        return values

    @cached_property
    def _feature_distances(self) -> list[dict[str, MetricValue]]:
        names = registry.own_of_family(self.options.metrics, "features")
        options = feature_metrics.FeatureOptions(
            fake_subjects=self.fakes.subjects,
            real_subjects=self.reals.subjects,
            replicates=feature_metrics.REPLICATES if self.options.intervals else 0,
            use_cache=True,
            cache_folder=self.options.folder,
        )
        return [
            feature_metrics.feature_distances(*features, names, options=options, reporter=self.options.reporter)
            for features in self.features
        ]

    def _extract(self, images: ImageSet, same: bool, extractor: FeatureExtractor) -> _Array:
        if images.places is not None:  # a half of the training images, whose features are known
            return self._extract(self._whole, False, extractor)[images.places]
        if same:
            return np.repeat(extractor(np.array(images.images[:1])), len(images), axis=0)
        return result_cache.cached_features(
            images.images, extractor, folder=self.options.folder, reporter=self.options.reporter
        )


def subjects_of(images: ImageSet) -> list[str]:
    """Return the subject of each image; where subjects are unknown, each image has its own."""
    return images.subjects or [str(place) for place in range(len(images))]


def spread_over_subjects(images: ImageSet, count: int) -> _Array:
    """Return the sorted places of up to ``count`` images, about as many of each subject, drawn at random."""
    by_subject: dict[str, list[int]] = {}
    for place, subject in enumerate(subjects_of(images)):
        by_subject.setdefault(subject, []).append(place)
    draws = np.random.default_rng(0)
    orders = [draws.permutation(places) for places in by_subject.values()]
    rounds = [order[turn] for turn in range(max(map(len, orders))) for order in orders if turn < len(order)]
    return np.sort(np.array(rounds[:count], np.int64))
