"""One reference, any number of sets of fakes: every figure with its interval, its floors, and the alarms."""

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
from zoo.metrics import alarms, confidence, feature_metrics, nearest_image, registry, result_cache
from zoo.metrics.alarms import Alarm
from zoo.metrics.baselines import baseline_images
from zoo.metrics.features.extractor import FeatureExtractor
from zoo.metrics.prdc import K_DENSITY, K_PRECISION
from zoo.metrics.ssim import ssim
from zoo.metrics.value import MetricValue, missing_value

Array = np.ndarray[Any, Any]

PAIRED = 256  # images whose pairs are compared: 32,640 pairs
NOISE = 256  # pictures of noise
PAIRS = 8  # nearest pairs kept to be shown
PAIR_REPLICATES = 200  # half-samples of pairs
DISTRIBUTION = (
    "Frechet distance of sample covariances; KID: cubic kernel, 100 subsets of up to 1,000; "
    f"precision and recall: {K_PRECISION} neighbours, density and coverage: {K_DENSITY}; "
    "nearest features: squared distance over that to other subjects; "
    f"pairs of {PAIRED} images; 95 % intervals from half-samples of subjects: {feature_metrics.REPLICATES} of features, "
    f"{feature_metrics.FEW_REPLICATES} of FID and of neighbours in very large sets, {PAIR_REPLICATES} of pairs; of shares "
    "near 0 or 1, and of copies, from their number"
)
THRESHOLDS = "; ".join(
    f"{name} {value}" for name, value in vars(alarms).items() if name.isupper() and isinstance(value, int | float)
)
COPIES: dict[str, alarms.Direction] = {"copies_ssim": "higher", "copies_ncc": "lower", "copies_features": "lower"}


@dataclass(frozen=True, kw_only=True)
class NearestPair:
    """A fake and the training image nearest to it."""

    fake: int
    real: int
    ssim: float | None = None
    ncc: float | None = None


@dataclass(kw_only=True)
class Evaluation:
    """What was found of one set of fakes."""

    figures: dict[str, MetricValue] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    pairs: list[NearestPair] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Metric names to figures, and ``alarms``."""
        plain: dict[str, Any] = {name: figure.to_json() for name, figure in self.figures.items()}
        return {**plain, "alarms": [alarm.to_json() for alarm in self.alarms]}


class ImageEvaluator:
    """Judges sets of fakes against training images, and against what unseen real images score.

    Args:
        reals: the reference.
        unseen: real images of other subjects: the ceiling, and what copying is told from; None: there are none.
        metrics: names, as :func:`zoo.metrics.registry.choose_metrics` gives them.
        spaces: feature spaces, the first the one that ranks.
        reporter: who is told how far it is.
        folder: the cache; None: the usual one.
        intervals: whether figures get intervals.

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

    def judge(self, fakes: ImageSet) -> Evaluation:
        """All metrics of ``fakes``, and the alarms.

        Raises:
            ZooError: their shape is not the reference's.
        """
        check_shapes(fakes, self.reals)
        scores = self._scores(fakes, self.reals)
        verdict = Evaluation(figures=self._figures(fakes, self.reals, scores), pairs=_pairs(scores))
        self._memorisation(scores, verdict, len(fakes))
        verdict.alarms[:0] = self._collapse(verdict.figures, len(fakes), len(self.reals))
        verdict.figures = {name: verdict.figures[name] for name in self._order() if name in verdict.figures}
        return verdict

    def _collapse(self, figures: Mapping[str, MetricValue], n: int, reals: int) -> list[Alarm]:
        values = {name: figure.value for name, figure in figures.items()}
        paired = {"ssim_pairwise", "ssim_twins"} & set(self.metrics)
        real = self.real_pairs if paired else {}
        return alarms.collapse_alarms(
            ssim_pairwise=values.get("ssim_pairwise"),
            ssim_pairwise_real=real.get("ssim_pairwise"),
            ssim_twins=values.get("ssim_twins"),
            ssim_twins_real=real.get("ssim_twins"),
            precision=values.get("precision"),
            # Recall near zero says collapse only of fakes that look like reals, which precision tells.
            recall=values.get("recall") if values.get("precision") is not None else None,
            density=values.get("density"),
            coverage=values.get("coverage"),
            n=n,
            paired=min(n, PAIRED),
            reals=reals,
        )

    @cached_property
    def real_pairs(self) -> dict[str, float | None]:
        """Mean SSIM of pairs of training images, and the share of pairs that are one picture."""

        def compute() -> dict[str, Any]:
            return {name: self._pairwise(self.reals, name).value for name in ("ssim_pairwise", "ssim_twins")}

        key = ["pairs", result_cache.digest_images(self.reals.images), ssim.DEFINITION, PAIRED, alarms.TWIN]
        return result_cache.cached_result(key, compute, folder=self.folder)

    def floors(self) -> dict[str, Evaluation]:
        """The same figures of what nobody trained: unseen subjects (the ceiling), one half of the training images
        against the other, the mean image, black, and noise. Remembered by content.
        """
        found: dict[str, Evaluation] = {}
        if self.unseen is not None:
            found["unseen subjects"] = self._floor("unseen", self.unseen, self.reals)
        if halves := self.reals.halves():
            found["train half against half"] = self._floor("halves", *halves)
        count = min(len(self.reals), NOISE)
        for name, images in baseline_images(self.reals, count).items():
            every = np.broadcast_to(images, (count, *self.reals.shape))
            found[name] = self._floor(name, ImageSet(images=every, label=name), self.reals)
        return found

    def _floor(self, name: str, fakes: ImageSet, reals: ImageSet) -> Evaluation:
        def compute() -> dict[str, Any]:
            self.reporter.say(f"measuring the baseline {name!r}: {len(fakes)} images")
            figures = self._figures(fakes, reals, self._scores(fakes, reals))
            why = "these are what copies are told from" if name == "unseen" else "nothing was generated"
            copied = {metric: missing_value(why, len(fakes)) for metric in self._of("copies") if metric not in figures}
            return {metric: figure.to_json() for metric, figure in (figures | copied).items()}

        figures = result_cache.cached_result(["floor", name, self.key], compute, folder=self.folder)
        found = {metric: MetricValue(**figures[metric]) for metric in self._order() if metric in figures}
        return Evaluation(figures=found, alarms=self._collapse(found, len(fakes), len(reals)))

    @cached_property
    def key(self) -> list[Any]:
        """What figures depend on besides the fakes."""
        unseen = result_cache.digest_images(self.unseen.images) if self.unseen is not None else None
        spaces = [space.identity for space in self.spaces]
        texts = list(metric_definitions(self.spaces).values())
        people = [
            subject_indices(some.subjects) if some is not None and some.subjects is not None else None
            for some in (self.reals, self.unseen)
        ]
        return [
            result_cache.digest_images(self.reals.images),
            unseen,
            people,
            spaces,
            self.metrics,
            self.intervals,
            texts,
        ]

    def _order(self) -> list[str]:
        return [metric.name for metric in registry.metric_columns(self.metrics, [space.name for space in self.spaces])]

    def _of(self, family: str) -> list[str]:
        return [name for name in self.metrics if registry.METRICS[name].family == family]

    def _scores(self, images: ImageSet, reals: ImageSet) -> _Scores:
        """Each image's scores with the training image nearest to it, as far as they are wanted."""
        wanted, scores = set(self.metrics), _Scores()
        once = _unique(images.images)
        x = torch.from_numpy(np.array(images.images[:1] if once else images.images[:]))
        count = len(images) if once else 1
        if wanted & {"ssim_nearest", "copies_ssim"}:
            values, index = ssim.nearest_ssim(x, reals.images, 255, reporter=self.reporter)
            scores.ssim, scores.ssim_index = values.numpy().repeat(count), index.numpy().repeat(count)
        if wanted & {"ncc_nearest", "copies_ncc"}:
            found = nearest_image.nearest_copy(x, reals.images, subjects=reals.subjects, reporter=self.reporter)
            scores.ncc, scores.ncc_index, scores.distance = (column.numpy().repeat(count) for column in found)
        if self.spaces and (wanted & set(self._of("features")) or "copies_features" in wanted):
            scores.features = [
                (self._features(images, once, space), self._features(reals, False, space)) for space in self.spaces
            ]
            if "copies_features" in wanted:
                ours, theirs = (torch.from_numpy(np.array(part)) for part in scores.features[0])
                scores.feature_distance = nearest_image.nearest_features(ours, theirs, subjects=reals.subjects)[
                    0
                ].numpy()
        return scores

    def _features(self, images: ImageSet, once: bool, space: FeatureExtractor) -> Array:
        if images.places is not None:  # half of the reals, which need not be looked at again
            return self._features(self.reals, False, space)[images.places]
        if not once:
            return result_cache.cached_features(images.images, space, folder=self.folder, reporter=self.reporter)
        return np.repeat(space(np.array(images.images[:1])), len(images), axis=0)

    def _figures(self, fakes: ImageSet, reals: ImageSet, scores: _Scores) -> dict[str, MetricValue]:
        """What can be said of any two sets."""
        figures: dict[str, MetricValue] = {}
        wanted = self._of("features")
        if wanted and not self.spaces:
            figures |= {name: missing_value("no feature network's weights", len(fakes)) for name in wanted}
        for place, (ours, theirs) in enumerate(scores.features if wanted else []):
            suffix = f"_{registry.short_extractor_name(self.spaces[place].name)}" if place else ""
            found = feature_metrics.feature_distances(
                ours,
                theirs,
                fake_groups=fakes.subjects,
                real_groups=reals.subjects,
                metrics=wanted,
                replicates=feature_metrics.REPLICATES if self.intervals else 0,
                reporter=self.reporter,
                remember=True,
                folder=self.folder,
            )
            figures |= {name + suffix: figure for name, figure in found.items()}
        for name in self._of("ssim"):
            if name == "ssim_nearest":
                figures[name] = self._mean(scores.ssim, fakes)
            else:
                figures[name] = self._pairwise(fakes, name)
        if "ncc_nearest" in self.metrics:
            figures["ncc_nearest"] = self._mean(scores.ncc, fakes)
        return figures

    def _mean(self, values: Array | None, images: ImageSet) -> MetricValue:
        assert values is not None
        if not self.intervals:
            return MetricValue(value=float(values.mean()), n=len(values))
        return confidence.mean_with_interval(values, images.subjects, lowest=-1, highest=1)

    def _pairwise(self, images: ImageSet, name: str) -> MetricValue:
        """Mean over the pairs of up to PAIRED images; halves of them for the interval."""
        pairs = self._pairs_of(images, name)
        if isinstance(pairs, MetricValue):
            return pairs
        values, places = pairs
        count = len(places)
        value = float(values.mean())
        share = name == "ssim_twins"
        if share:
            values = (values > alarms.TWIN).astype(np.float64)
            value = float(values.mean())
        if not self.intervals or count < confidence.FEWEST:
            return MetricValue(value=value, n=count)
        groups = [images.subjects[i] for i in places] if images.subjects else count
        if not isinstance(groups, int) and len(set(groups)) < confidence.FEWEST:
            return MetricValue(value=value, n=count, note=confidence.too_few_note(len(set(groups)), subjects=True))
        table = np.zeros((count, count))
        table[np.triu_indices(count, 1)] = values
        halves = confidence.draw_half_samples(groups, PAIR_REPLICATES, np.random.default_rng(0))
        means = [table[mask][:, mask].sum() / (mask.sum() * (mask.sum() - 1) / 2) for mask in halves.masks]
        if share:
            low, high = confidence.share_interval(value, means, halves, of=halves)
        else:
            low, high = confidence.confidence_interval(value, means, halves, lowest=-1, highest=1)
        return MetricValue(value=value, low=low, high=high, n=count)

    def _pairs_of(self, images: ImageSet, name: str) -> tuple[Array, Array] | MetricValue:
        """The SSIM of all pairs of some images, and which; or why there is none."""
        if len(images) < 2:
            return missing_value("fewer than 2 images", len(images))
        places = np.sort(np.random.default_rng(0).permutation(len(images))[:PAIRED])
        multi = name == "ms_ssim_pairwise"
        if multi and min(images.shape[1:]) <= ssim.MS_SSIM_SMALLEST:
            return missing_value(f"MS-SSIM takes images above {ssim.MS_SSIM_SMALLEST} pixels", len(images))
        if _unique(images.images):
            return np.ones(len(places) * (len(places) - 1) // 2), places
        x = torch.from_numpy(np.array(images.images[places]))
        if not multi:
            return ssim.pairwise_ssim(x, 255).double().numpy(), places
        one, other = np.triu_indices(len(x), 1)
        parts = [ssim.ms_ssim(x[one[i : i + 64]], x[other[i : i + 64]], 255) for i in range(0, len(one), 64)]
        return torch.cat(parts).double().numpy(), places

    def _memorisation(self, scores: _Scores, verdict: Evaluation, n: int) -> None:
        """Three ways to tell copies, each against what unseen images score."""
        for name, direction in COPIES.items():
            if name not in self.metrics:
                continue
            ours = scores.of(name)
            if ours is None:
                verdict.figures[name] = missing_value("no feature network's weights", n)
                continue
            if self.unseen is None:
                verdict.figures[name] = missing_value("no unseen real images to tell copies from", n)
                continue
            verdict.figures[name], alarm = alarms.memorisation_alarm(
                name,
                ours,
                np.asarray(self._unseen_scores[name]),
                unseen_subjects=self.unseen.subjects,
                closer=direction,
            )
            verdict.alarms += [alarm] if alarm is not None else []

    @cached_property
    def _unseen_scores(self) -> dict[str, list[float]]:
        """What copies are told from; remembered by content."""
        assert self.unseen is not None
        unseen = self.unseen

        def compute() -> dict[str, Any]:
            self.reporter.say(f"measuring how near unseen images come: {len(unseen)}")
            scores = self._scores(unseen, self.reals)
            found = {name: scores.of(name) for name in COPIES if name in self.metrics}
            return {name: values.tolist() for name, values in found.items() if values is not None}

        return result_cache.cached_result(["unseen", self.key], compute, folder=self.folder)


@dataclass
class _Scores:
    """Of each image with the training image nearest to it; None where it was not wanted."""

    ssim: Array | None = None
    ssim_index: Array | None = None
    ncc: Array | None = None
    ncc_index: Array | None = None
    distance: Array | None = None
    features: list[tuple[Array, Array]] = field(default_factory=list)  # of the images and of the reals, by space
    feature_distance: Array | None = None

    def of(self, metric: str) -> Array | None:
        return {"copies_ssim": self.ssim, "copies_ncc": self.distance, "copies_features": self.feature_distance}[metric]


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
            f"{describe_shape(reals.shape)}: they are compared as they are and must share one shape, or be fitted with "
            "--fit pad --resolution R"
        )


def metric_definitions(spaces: Sequence[FeatureExtractor]) -> dict[str, str]:
    """What every figure is, to the letter."""
    texts = {"alarms": THRESHOLDS, "ssim": ssim.DEFINITION, "ms_ssim": ssim.MS_DEFINITION}
    texts |= {"ncc": nearest_image.DEFINITION, "distribution": DISTRIBUTION}
    return texts | {f"features_{registry.short_extractor_name(space.name)}": space.identity for space in spaces}


def _pairs(scores: _Scores) -> list[NearestPair]:
    """The fakes most like one training image, most alike first: by correlation, else by SSIM."""
    order = scores.ncc if scores.ncc is not None else scores.ssim
    index = scores.ncc_index if scores.ncc is not None else scores.ssim_index
    if order is None or index is None:
        return []
    found = []
    for fake in np.argsort(-order, kind="stable")[:PAIRS].tolist():
        same = scores.ssim_index is not None and scores.ssim_index[fake] == index[fake]
        found.append(
            NearestPair(
                fake=fake,
                real=int(index[fake]),
                ssim=float(scores.ssim[fake]) if scores.ssim is not None and same else None,
                ncc=float(scores.ncc[fake]) if scores.ncc is not None else None,
            )
        )
    return found


def _unique(images: Any) -> bool:
    """Whether all are one picture: its figures need be taken only once."""
    first = np.asarray(images[:1])
    return len(images) > 1 and all((images[i : i + 256] == first).all() for i in range(0, len(images), 256))
