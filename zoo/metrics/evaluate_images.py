"""Evaluate sets of fakes against training images: every metric with its interval, baselines and alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.core.errors import ZooError
from zoo.core.progress import Reporter, SilentReporter
from zoo.data.image_set import ImageSet, describe_shape
from zoo.data.subjects import subject_indices
from zoo.metrics import alarms, confidence, feature_metrics, nearest_image, registry, result_cache, spectrum
from zoo.metrics.alarms import Alarm
from zoo.metrics.baselines import baseline_images
from zoo.metrics.features.extractor import FeatureExtractor
from zoo.metrics.prdc import K_DENSITY, K_PRECISION
from zoo.metrics.ssim import ssim
from zoo.metrics.value import MetricValue, missing_value

_Array = np.ndarray

SSIM_PAIRED_IMAGES = 256  # images whose pairs are compared by SSIM: 32,640 pairs
MAX_NOISE_IMAGES = 256
SHOWN_PAIRS = 8  # nearest pairs kept for display
PAIR_REPLICATES = 200  # half-samples of paired images
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


@dataclass(frozen=True, kw_only=True)
class NearestPair:
    """Indices of a fake and of the training image nearest to it, with their similarities."""

    fake: int
    real: int
    ssim: float | None = None
    ncc: float | None = None


@dataclass(kw_only=True)
class Evaluation:
    """The results for one set of fakes."""

    figures: dict[str, MetricValue] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    pairs: list[NearestPair] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return metric names to values, and ``alarms``."""
        plain: dict[str, Any] = {name: value.to_json() for name, value in self.figures.items()}
        return {**plain, "alarms": [alarm.to_json() for alarm in self.alarms]}


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
        if unseen is not None:
            check_shapes(unseen, reals)

    def evaluate(self, fakes: ImageSet) -> Evaluation:
        """Compute all metrics of ``fakes`` and the alarms.

        Raises:
            ZooError: their shape is not that of the training images.
        """
        check_shapes(fakes, self.reals)
        scores = self._nearest_scores(fakes, self.reals)
        values = self._measure(fakes, self.reals, scores)
        memorisation = []
        for name in COPY_METRICS:
            if name in self.metrics:
                values[name], alarm = self._copies(name, scores, len(fakes))
                memorisation += [alarm] if alarm is not None else []
        collapse = self._collapse(values, len(fakes), len(self.reals))
        return Evaluation(figures=self._ordered(values), alarms=collapse + memorisation, pairs=_nearest_pairs(scores))

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
        # Distances of random features are too uncertain to tell.
        skipped = ("fid", "kid") if self.spaces and self.spaces[0].name == "random" else ()

        def plain(figures: Mapping[str, MetricValue]) -> dict[str, float | None]:
            return {name: figure.value for name, figure in figures.items() if name not in skipped}

        return alarms.untrained_alarms(plain(values), {name: plain(figures) for name, figures in baselines.items()})

    @cached_property
    def real_pairs(self) -> dict[str, float | None]:
        """Mean SSIM of pairs of training images, and the share of pairs that are the same image."""

        def compute() -> dict[str, Any]:
            return {name: self._pairwise(self.reals, name).value for name in ("ssim_pairwise", "ssim_twins")}

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
        if not self._of_family("spectrum"):
            del texts["spectrum"]  # values that were cached before spectra were measured stay valid
        definitions = list(texts.values())
        return [*digests, *missing, subjects + missing, extractors, self.metrics, self.intervals, definitions]

    def _baseline(self, name: str, images: ImageSet, reals: ImageSet) -> Evaluation:
        def compute() -> dict[str, Any]:
            self.reporter.say(f"evaluating the baseline {name!r}: {len(images)} images")
            values = self._measure(images, reals, self._nearest_scores(images, reals))
            reason = "copies are recognised by these" if name == "unseen" else "nothing was generated"
            for metric in self._of_family("copies"):
                values.setdefault(metric, missing_value(reason, len(images)))
            return {metric: value.to_json() for metric, value in values.items()}

        plain = result_cache.cached_result(["floor", name, self.key], compute, folder=self.folder)
        values = self._ordered({metric: MetricValue(**value) for metric, value in plain.items()})
        return Evaluation(figures=values, alarms=self._collapse(values, len(images), len(reals)))

    def _collapse(self, values: Mapping[str, MetricValue], n: int, reals: int) -> list[Alarm]:
        names = ("ssim_pairwise", "ssim_twins", "precision", "recall", "density", "coverage")
        inputs = {name: values[name].value for name in names if name in values}
        if inputs.get("precision") is None:
            inputs["recall"] = None  # low recall means collapse only if fakes look like real images, which this tells
        real = self.real_pairs if {"ssim_pairwise", "ssim_twins"} & set(self.metrics) else {}
        inputs |= {f"{name}_real": value for name, value in real.items()}
        return alarms.collapse_alarms(
            alarms.CollapseInputs(n=n, paired=min(n, SSIM_PAIRED_IMAGES), reals=reals, **inputs)
        )

    def _ordered(self, values: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
        columns = registry.metric_columns(self.metrics, [extractor.name for extractor in self.spaces])
        return {metric.name: values[metric.name] for metric in columns if metric.name in values}

    def _of_family(self, family: str) -> list[str]:
        return [name for name in self.metrics if registry.METRICS[name].family == family]

    def _nearest_scores(self, images: ImageSet, reals: ImageSet) -> _NearestScores:
        """Compare each image with the training image nearest to it, as far as the metrics need it."""
        wanted, scores = set(self.metrics), _NearestScores()
        same = _all_same(images.images)  # the mean or black image: one comparison serves for all
        x = torch.from_numpy(np.array(images.images[:1] if same else images.images[:]))
        count = len(images) if same else 1
        if wanted & {"ssim_nearest", "copies_ssim"}:
            nearest = ssim.nearest_ssim(x, reals.images, 255, reporter=self.reporter)
            scores.ssim, scores.ssim_index = (column.numpy().repeat(count) for column in nearest)
            scores.copies["copies_ssim"] = scores.ssim
        if wanted & {"ncc_nearest", "copies_ncc"}:
            copy = nearest_image.nearest_copy(x, reals.images, subjects=reals.subjects, reporter=self.reporter)
            scores.ncc, scores.ncc_index, distance = (column.numpy().repeat(count) for column in copy)
            scores.copies["copies_ncc"] = distance
        if not wanted.isdisjoint([*self._of_family("features"), "copies_features"]):
            for extractor in self.spaces:
                pair = self._features(images, same, extractor), self._features(reals, False, extractor)
                scores.features.append(pair)
        if scores.features and "copies_features" in wanted:
            ours, theirs = (torch.from_numpy(np.array(part)) for part in scores.features[0])
            distances, _ = nearest_image.nearest_features(ours, theirs, subjects=reals.subjects)
            scores.copies["copies_features"] = distances.numpy()
        return scores

    def _features(self, images: ImageSet, same: bool, extractor: FeatureExtractor) -> _Array:
        if images.places is not None:  # a half of the training images, whose features are known
            return self._features(self.reals, False, extractor)[images.places]
        if same:
            return np.repeat(extractor(np.array(images.images[:1])), len(images), axis=0)
        return result_cache.cached_features(images.images, extractor, folder=self.folder, reporter=self.reporter)

    def _measure(self, fakes: ImageSet, reals: ImageSet, scores: _NearestScores) -> dict[str, MetricValue]:
        """Compute the metrics that are defined for any two sets."""
        values: dict[str, MetricValue] = {}
        names = self._of_family("features")
        if not self.spaces:
            values |= {name: missing_value("no feature network's weights", len(fakes)) for name in names}
        options = feature_metrics.FeatureOptions(
            fake_subjects=fakes.subjects,
            real_subjects=reals.subjects,
            replicates=feature_metrics.REPLICATES if self.intervals else 0,
            use_cache=True,
            cache_folder=self.folder,
        )
        for place, features in enumerate(scores.features if names else ()):
            suffix = f"_{registry.short_extractor_name(self.spaces[place].name)}" if place else ""
            distances = feature_metrics.feature_distances(*features, names, options=options, reporter=self.reporter)
            values |= {name + suffix: value for name, value in distances.items()}
        for name in self._of_family("ssim"):
            if name != "ssim_nearest":
                values[name] = self._pairwise(fakes, name)
        if names := self._of_family("spectrum"):
            values |= spectrum.compare_spectra(
                fakes.images,
                reals.images,
                names,
                fake_subjects=fakes.subjects,
                real_subjects=reals.subjects,
                intervals=self.intervals,
            )
        for name, similarities in (("ssim_nearest", scores.ssim), ("ncc_nearest", scores.ncc)):
            if name in self.metrics and similarities is not None:
                values[name] = self._mean(similarities, fakes)
        return values

    def _mean(self, similarities: _Array, images: ImageSet) -> MetricValue:
        if not self.intervals:
            return MetricValue(value=float(similarities.mean()), n=len(similarities))
        return confidence.mean_with_interval(similarities, images.subjects, lowest=-1, highest=1)

    def _pairwise(self, images: ImageSet, name: str) -> MetricValue:
        """Compute a mean over the pairs of up to ``PAIRED`` images, with an interval from halves of these images."""
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
        if note or not self.intervals:
            return MetricValue(value=point, n=count, note=note if self.intervals else "")
        table = np.zeros((count, count))
        table[np.triu_indices(count, 1)] = values
        halves = confidence.draw_half_samples(groups, PAIR_REPLICATES, np.random.default_rng(0))
        means = [table[mask][:, mask].sum() / (mask.sum() * (mask.sum() - 1) / 2) for mask in halves.masks]
        if is_share:
            low, high = confidence.share_interval(point, means, halves, of=halves)
        else:
            low, high = confidence.confidence_interval(point, means, halves, lowest=-1, highest=1)
        return MetricValue(value=point, low=low, high=high, n=count)

    def _copies(self, name: str, scores: _NearestScores, n: int) -> tuple[MetricValue, Alarm | None]:
        """Compute the share of copies by one measure, and the alarm if it is too high."""
        if name not in scores.copies:
            return missing_value("no feature network's weights", n), None
        if self.unseen is None:
            return missing_value("no held-out real images to recognise copies by", n), None
        return alarms.memorisation_alarm(
            name,
            scores.copies[name],
            np.asarray(self._heldout_scores[name]),
            unseen_subjects=self.unseen.subjects,
            closer=COPY_METRICS[name],
        )

    @cached_property
    def _heldout_scores(self) -> dict[str, list[float]]:
        """Scores of the held-out images by which copies are recognised; cached by content."""
        heldout = self.unseen
        assert heldout is not None

        def compute() -> dict[str, Any]:
            self.reporter.say(f"measuring how near held-out images are to training images: {len(heldout)}")
            scores = self._nearest_scores(heldout, self.reals).copies
            return {name: scores[name].tolist() for name in COPY_METRICS if name in self.metrics and name in scores}

        return result_cache.cached_result(["unseen", self.key], compute, folder=self.folder)


@dataclass
class _NearestScores:
    """Scores of each image with the training image nearest to it; None or missing if no metric needs them."""

    ssim: _Array | None = None
    ssim_index: _Array | None = None
    ncc: _Array | None = None
    ncc_index: _Array | None = None
    copies: dict[str, _Array] = field(default_factory=dict)  # scores by which copies are recognised
    features: list[tuple[_Array, _Array]] = field(default_factory=list)  # of images and reals, by extractor


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


def metric_definitions(spaces: Sequence[FeatureExtractor]) -> dict[str, str]:
    """Return the exact definition of every metric."""
    texts = {"alarms": alarms.ALARM_DEFINITION, "ssim": ssim.SSIM_DEFINITION, "ms_ssim": ssim.MS_DEFINITION}
    texts |= {"ncc": nearest_image.NCC_DEFINITION, "distribution": DISTRIBUTION}
    texts["spectrum"] = spectrum.SPECTRUM_DEFINITION
    for extractor in spaces:
        texts[f"features_{registry.short_extractor_name(extractor.name)}"] = extractor.identity
    return texts


def _pair_ssim(images: _Array, places: _Array, multi_scale: bool) -> _Array:
    """Compute the SSIM of all pairs of the images at these places."""
    if _all_same(images):
        return np.ones(len(places) * (len(places) - 1) // 2)
    x = torch.from_numpy(np.array(images[places]))
    if not multi_scale:
        return ssim.pairwise_ssim(x, 255).double().numpy()
    one, other = np.triu_indices(len(x), 1)
    parts = [ssim.ms_ssim(x[one[i : i + 64]], x[other[i : i + 64]], 255) for i in range(0, len(one), 64)]
    return torch.cat(parts).double().numpy()


def _nearest_pairs(scores: _NearestScores) -> list[NearestPair]:
    """Select the fakes most like a training image, most alike first: by correlation, else by SSIM."""
    order, index = scores.ncc, scores.ncc_index
    if order is None:
        order, index = scores.ssim, scores.ssim_index
    if order is None or index is None:
        return []
    pairs = []
    for fake in np.argsort(-order, kind="stable")[:SHOWN_PAIRS].tolist():
        similarity: dict[str, float] = {}
        if scores.ncc is not None:
            similarity["ncc"] = float(scores.ncc[fake])
        # SSIM was computed with its own nearest training image, which may be another.
        if scores.ssim is not None and scores.ssim_index is not None and scores.ssim_index[fake] == index[fake]:
            similarity["ssim"] = float(scores.ssim[fake])
        pairs.append(NearestPair(fake=fake, real=int(index[fake]), **similarity))
    return pairs


def _all_same(images: _Array) -> bool:
    """Return whether all images are equal, so that values need be computed only once."""
    first = np.asarray(images[:1])
    return len(images) > 1 and all((images[i : i + 256] == first).all() for i in range(0, len(images), 256))
