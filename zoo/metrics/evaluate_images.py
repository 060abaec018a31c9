"""Evaluate sets of fakes against training images: every metric with its interval, baselines and alarms."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.errors import ZooError
from zoo.core.plugins import explain_error
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.wording import count_of
from zoo.data.image_set import ImageSet, describe_shape
from zoo.data.subjects import subject_indices
from zoo.metrics import alarms, feature_metrics, nearest_image, privacy, registry, result_cache, spectrum
from zoo.metrics.alarms import Alarm, AlarmName
from zoo.metrics.baselines import baseline_images
from zoo.metrics.comparison import Comparison, MetricOptions, Networks
from zoo.metrics.features.extractor import FeatureExtractor
from zoo.metrics.prdc import K_DENSITY, K_PRECISION
from zoo.metrics.ssim import ssim
from zoo.metrics.ssim.pairs import PAIR_REPLICATES, SSIM_PAIRED_IMAGES, compare_pairs
from zoo.metrics.value import MetricValue, missing_value

_Array = np.ndarray

MAX_NOISE_IMAGES = 256
SHOWN_PAIRS = 8  # nearest pairs kept for display
# Part of the keys of cached values.
DISTRIBUTION = (
    "Frechet distance of sample covariances; KID: cubic kernel, 100 subsets of up to 1,000; "
    f"precision and recall: {K_PRECISION} neighbours, density and coverage: {K_DENSITY}; "
    "nearest features: squared distance over that to other subjects; "
    f"pairs of {SSIM_PAIRED_IMAGES} images; 95 % intervals from half-samples of subjects: "
    f"{feature_metrics.REPLICATES} of features, {feature_metrics.FEW_REPLICATES} of FID and of neighbours in very "
    f"large sets, {PAIR_REPLICATES} of pairs; of shares "
    "near 0 or 1, and of copies, from their number"
)
COPY_METRICS: dict[str, alarms.Direction] = {"copies_ssim": "higher", "copies_ncc": "lower", "copies_features": "lower"}
# One score per image, by which copies are recognised; None: it is not available.
COPY_SCORES: dict[str, Callable[[Comparison], _Array | None]] = {
    "copies_ssim": lambda comparison: comparison.nearest_ssim[0],
    "copies_ncc": lambda comparison: comparison.nearest_copy[2],
    "copies_features": lambda comparison: comparison.feature_distance,
}


@dataclass(frozen=True, kw_only=True)
class NearestPair:
    """Indices of a fake and of the training image nearest to it, with their similarities."""

    fake: int
    real: int
    ssim: float | None = None
    ncc: float | None = None


@dataclass(kw_only=True)
class Evaluation:
    """The results for one set of fakes; ``checked``: alarms for which there were values and enough images."""

    figures: dict[str, MetricValue] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    checked: list[AlarmName] = field(default_factory=list)
    pairs: list[NearestPair] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return metric names to values, ``alarms`` and ``checked_alarms``."""
        plain: dict[str, Any] = {name: value.to_json() for name, value in self.figures.items()}
        return {**plain, "alarms": [alarm.to_json() for alarm in self.alarms], "checked_alarms": self.checked}


class ImageEvaluator:
    """Evaluate sets of fakes against training images and against what held-out images score.

    Args:
        reals: the training images.
        unseen: real images of other subjects, by which copies are recognised; None: there are none.
        metrics: names, as :func:`zoo.metrics.registry.choose_metrics` returns them.
        spaces: feature extractors; generators are ranked by the first.
        reporter: shows progress.
        folder: of the cache; None: the usual one.
        intervals: whether values get intervals.

    Raises:
        ZooError: sets of different shapes.
    """

    def __init__(
        self,
        reals: ImageSet,
        unseen: ImageSet | None = None,
        *,
        metrics: Sequence[str],
        spaces: Sequence[FeatureExtractor] = (),
        reporter: Reporter | None = None,
        folder: Path | None = None,
        intervals: bool = True,
    ) -> None:
        self.reals, self.unseen = reals, unseen
        self.metrics, self.spaces = list(metrics), list(spaces)
        self.reporter = reporter or SilentReporter()
        self.folder, self.intervals = folder, intervals
        self.options = MetricOptions(
            metrics=self.metrics,
            extractors=self.spaces,
            intervals=intervals,
            reporter=self.reporter,
            folder=folder,
        )
        if unseen is not None:
            check_shapes(unseen, reals)

    def evaluate(self, fakes: ImageSet, networks: Networks | None = None) -> Evaluation:
        """Compute all metrics of ``fakes`` and the alarms.

        Args:
            fakes: the images.
            networks: that made them; None: unknown.

        Raises:
            ZooError: their shape is not that of the training images.
        """
        check_shapes(fakes, self.reals)
        memorisation: list[Alarm] = []

        def copies(name: str, comparison: Comparison) -> MetricValue:
            measure = self._copies if name in COPY_METRICS else self._privacy
            value, alarm = measure(name, comparison)
            memorisation.extend([alarm] if alarm is not None else [])
            return value

        comparison = Comparison(
            fakes, self.reals, self.options, whole=self.reals, copies=copies, heldout=self.unseen, networks=networks
        )
        values = compute_metrics(comparison)
        collapse = self._collapse(values, len(fakes), len(self.reals))
        return Evaluation(
            figures=self._ordered(values), alarms=collapse + memorisation, pairs=_nearest_pairs(comparison)
        )

    def baselines(self) -> dict[str, Evaluation]:
        """Evaluate the baselines, cached by content.

        These are held-out subjects (the best to be expected), one half of the training images against the other, the
        mean image, black, and noise.
        """
        baselines: dict[str, Evaluation] = {}
        if self.unseen is not None:
            baselines["unseen subjects"] = self._baseline("unseen", self.unseen, self.reals)
        if halves := self.reals.halves():
            baselines["train half against half"] = self._baseline("halves", *halves)
        count = min(len(self.reals), MAX_NOISE_IMAGES)
        for name, images in baseline_images(self.reals, count).items():
            repeated = np.broadcast_to(images, (count, *self.reals.shape))
            baselines[name] = self._baseline(name, ImageSet(images=repeated, label=name), self.reals)
        return baselines

    def untrained_alarms(
        self, values: Mapping[str, MetricValue], baselines: Mapping[str, Mapping[str, MetricValue]]
    ) -> list[Alarm]:
        """Return the alarms of fakes that are no better than :meth:`baselines`, from the values of both."""
        rows = {name: self._untrained_values(figures) for name, figures in baselines.items()}
        return alarms.untrained_alarms(self._untrained_values(values), rows)

    def checked_alarms(
        self, values: Mapping[str, MetricValue], n: int, baselines: Mapping[str, Mapping[str, MetricValue]]
    ) -> list[AlarmName]:
        """Return which alarms ``n`` fakes with these values could trigger; nothing is known of others."""
        rows = {name: self._untrained_values(figures) for name, figures in baselines.items()}
        checked: dict[AlarmName, bool] = {
            "collapse": alarms.is_collapse_checked(self._collapse_inputs(values, n, len(self.reals))),
            "memorisation": any(values[name].value is not None for name in COPY_METRICS if name in values),
            "untrained": alarms.is_untrained_checked(self._untrained_values(values), rows),
        }
        return [name for name, is_checked in checked.items() if is_checked]

    def _untrained_values(self, figures: Mapping[str, MetricValue]) -> dict[str, float | None]:
        """Return the values that show whether a generator was trained."""
        # Distances of random features are too uncertain.
        skipped = ("fid", "kid") if self.spaces and self.spaces[0].name == "random" else ()
        return {name: figure.value for name, figure in figures.items() if name not in skipped}

    @cached_property
    def real_pairs(self) -> dict[str, float | None]:
        """Mean SSIM of pairs of training images, and the share of pairs that are the same image."""

        def compute() -> dict[str, Any]:
            return {
                name: compare_pairs(self.reals, name, intervals=self.intervals).value
                for name in ("ssim_pairwise", "ssim_twins")
            }

        digest = result_cache.digest_images(self.reals.images)
        key = ["pairs", digest, ssim.SSIM_DEFINITION, SSIM_PAIRED_IMAGES, alarms.DUPLICATE_SSIM]
        return result_cache.cached_result(key, compute, folder=self.folder)

    @cached_property
    def key(self) -> list[Any]:
        """What values depend on besides the fakes."""
        sets = [self.reals] if self.unseen is None else [self.reals, self.unseen]
        digests: list[str | None] = [result_cache.digest_images(images.images) for images in sets]
        subjects = [None if images.subjects is None else subject_indices(images.subjects) for images in sets]
        missing = [None] * (2 - len(sets))
        extractors = [extractor.identity for extractor in self.spaces]
        texts = metric_definitions(self.spaces)
        for family in ("spectrum", "privacy"):
            if not registry.of_family(self.metrics, family):
                del texts[family]  # values that were cached before these were measured stay valid
        definitions = list(texts.values())
        plugins = [_code_digest(name) for name in self.metrics if not registry.METRICS.is_own(name)]
        settings = [extractors, self.metrics, self.intervals, definitions, *plugins]
        return [*digests, *missing, subjects + missing, *settings]

    def _baseline(self, name: str, images: ImageSet, reals: ImageSet) -> Evaluation:
        def compute() -> dict[str, Any]:
            self.reporter.say(f"evaluating the baseline {name!r}: {count_of(len(images), 'image')}")
            values = compute_metrics(Comparison(images, reals, self.options, whole=self.reals))
            if name == "unseen":
                values |= self._heldout_privacy
            reason = "copies are recognised by these" if name == "unseen" else "nothing was generated"
            for family in ("copies", "privacy"):
                for metric in registry.of_family(self.metrics, family):
                    values.setdefault(metric, missing_value(reason, len(images)))
            return {metric: value.to_json() for metric, value in values.items()}

        plain = result_cache.cached_result(
            ["floor", name, self.key],
            compute,
            folder=self.folder,
            is_cacheable=lambda values: not any(value.get("failed") for value in values.values()),
        )
        values = self._ordered({metric: MetricValue(**value).finite() for metric, value in plain.items()})
        return Evaluation(figures=values, alarms=self._collapse(values, len(images), len(reals)))

    def _collapse(self, values: Mapping[str, MetricValue], n: int, reals: int) -> list[Alarm]:
        return alarms.collapse_alarms(self._collapse_inputs(values, n, reals))

    def _collapse_inputs(self, values: Mapping[str, MetricValue], n: int, reals: int) -> alarms.CollapseInputs:
        names = ("ssim_pairwise", "ssim_twins", "precision", "recall", "density", "coverage")
        inputs = {name: values[name].value for name in names if name in values}
        if inputs.get("precision") is None:
            inputs["recall"] = None  # low recall means collapse only if fakes look like real images, which this tells
        real = self.real_pairs if {"ssim_pairwise", "ssim_twins"} & set(self.metrics) else {}
        inputs |= {f"{name}_real": value for name, value in real.items()}
        return alarms.CollapseInputs(n=n, paired=min(n, SSIM_PAIRED_IMAGES), reals=reals, **inputs)

    def _ordered(self, values: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
        columns = registry.metric_columns(self.metrics, [extractor.name for extractor in self.spaces])
        return {metric.name: values[metric.name] for metric in columns if metric.name in values}

    def _copies(self, name: str, comparison: Comparison) -> tuple[MetricValue, Alarm | None]:
        """Compute the share of copies by one measure, and the alarm if it is too high."""
        scores, n = COPY_SCORES[name](comparison), len(comparison.fakes)
        if scores is None:
            return missing_value("no feature network's weights", n), None
        if self.unseen is None:
            return missing_value("no held-out real images to recognise copies by", n), None
        return alarms.memorisation_alarm(
            name,
            scores,
            np.asarray(self._heldout_scores[name]),
            unseen_subjects=self.unseen.subjects,
            closer=COPY_METRICS[name],
        )

    def _privacy(self, name: str, comparison: Comparison) -> tuple[MetricValue, Alarm | None]:
        """Compute a metric of privacy, and the alarm if it shows a risk."""
        value = privacy.measure_privacy(name, comparison)
        return privacy.privacy_alarm(name, value, self._heldout_privacy.get(name))

    @cached_property
    def _heldout_privacy(self) -> dict[str, MetricValue]:
        """Metrics of privacy of the held-out images as if they were fakes, which alarms compare with; cached."""
        names = [name for name in privacy.HELDOUT_SHARES if name in self.metrics]
        heldout = self.unseen
        if heldout is None or not names:
            return {}

        def compute() -> dict[str, Any]:
            comparison = Comparison(heldout, self.reals, self.options, whole=self.reals, heldout=heldout)
            return {name: privacy.measure_privacy(name, comparison).to_json() for name in names}

        plain = result_cache.cached_result(["privacy", self.key], compute, folder=self.folder)
        return {name: MetricValue(**value) for name, value in plain.items()}

    @cached_property
    def _heldout_scores(self) -> dict[str, list[float]]:
        """Scores of the held-out images by which copies are recognised; cached by content."""
        heldout = self.unseen
        assert heldout is not None

        def compute() -> dict[str, Any]:
            self.reporter.say(f"measuring how near held-out images are to training images: {len(heldout)}")
            comparison = Comparison(heldout, self.reals, self.options, whole=self.reals)
            scores = {name: COPY_SCORES[name](comparison) for name in COPY_METRICS if name in self.metrics}
            return {name: values.tolist() for name, values in scores.items() if values is not None}

        return result_cache.cached_result(["unseen", self.key], compute, folder=self.folder)


def check_shapes(images: ImageSet, reals: ImageSet) -> None:
    """Make sure that two sets can be compared.

    Raises:
        ZooError: one is empty, or their shapes differ.
    """
    for some in (images, reals):
        if not len(some):
            raise ZooError(f"{some.label}: holds no image")
    if images.shape != reals.shape:
        raise ZooError(
            f"{images.label} has images of {describe_shape(images.shape)}, {reals.label} of "
            f"{describe_shape(reals.shape)}. They are compared as they are and must share one shape: add "
            f"--fit pad --resolution {min(max(images.shape[1:]), max(reals.shape[1:]))} to resize them"
        )


def _code_digest(metric: str) -> str:
    """Return what tells two definitions of a metric from outside the package apart in the cache."""
    plugin = registry.METRICS.plugin_of(metric)
    # Of a metric that a notebook defines nothing is known: its values are never taken from the cache.
    return plugin.sha256 if plugin is not None and plugin.sha256 else uuid.uuid4().hex


def metric_definitions(spaces: Sequence[FeatureExtractor]) -> dict[str, str]:
    """Return the exact definition of every metric."""
    texts = {"alarms": alarms.ALARM_DEFINITION, "ssim": ssim.SSIM_DEFINITION, "ms_ssim": ssim.MS_DEFINITION}
    texts |= {"ncc": nearest_image.NCC_DEFINITION, "distribution": DISTRIBUTION}
    texts |= {"spectrum": spectrum.SPECTRUM_DEFINITION, "privacy": privacy.PRIVACY_DEFINITION}
    for extractor in spaces:
        texts[f"features_{registry.short_extractor_name(extractor.name)}"] = extractor.identity
    return texts


def compute_metrics(comparison: Comparison) -> dict[str, MetricValue]:
    """Compute the metrics of a comparison; one of a plug-in that fails has no value, and the reason."""
    values: dict[str, MetricValue] = {}
    for name in comparison.options.metrics:
        try:
            value = registry.METRICS[name].compute(comparison)
        except Exception as error:
            if registry.METRICS.is_own(name):
                raise
            value = missing_value(explain_error(error), len(comparison.fakes), failed=True)
        if isinstance(value, dict):
            values |= value
        elif isinstance(value, MetricValue):
            values[name] = value
        elif value is not None:
            values[name] = MetricValue(value=float(value), n=len(comparison.fakes))
    return {name: value.finite() for name, value in values.items()}


def _nearest_pairs(comparison: Comparison) -> list[NearestPair]:
    """Select the fakes most like a training image, most alike first: by correlation, else by SSIM."""
    wanted = set(comparison.options.metrics)
    ssim_scores = comparison.nearest_ssim if wanted & {"ssim_nearest", "copies_ssim"} else None
    ncc_scores = comparison.nearest_copy if wanted & {"ncc_nearest", "copies_ncc"} else None
    best = ncc_scores or ssim_scores
    if best is None:
        return []
    pairs = []
    for fake in np.argsort(-best[0], kind="stable")[:SHOWN_PAIRS].tolist():
        real, similarity = int(best[1][fake]), dict[str, float]()
        if ncc_scores is not None:
            similarity["ncc"] = float(ncc_scores[0][fake])
        # SSIM was computed with its own nearest training image, which may be another.
        if ssim_scores is not None and ssim_scores[1][fake] == real:
            similarity["ssim"] = float(ssim_scores[0][fake])
        pairs.append(NearestPair(fake=fake, real=real, **similarity))
    return pairs
