"""Alarms: does a generator copy training images, make the same few images (collapse), or nothing better than noise?

Each compares a value with that of real images. The thresholds were set from measurements on brain slices at 28 to 256
pixels, which ``benchmarks/alarms.py`` repeats on any images; docs/alarms.md explains the alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
import numpy.typing as npt

from zoo.core.wording import count_of
from zoo.metrics.value import MetricValue, missing_value
from zoo.report.number_format import format_distinct

_Floats = npt.NDArray[np.float64]
_Values = Mapping[str, float | None]  # by metric
Direction = Literal["higher", "lower"]
AlarmName = Literal["collapse", "memorisation", "untrained", "privacy"]

COPY_DISTANCE_RATIO = 0.5  # a copy is nearer than this share of the distance of the nearest held-out images
COPY_QUANTILE = 0.1  # the share of held-out images whose distance that is
MAX_COPY_SHARE = 0.01  # share of fakes that may be as near, even if no held-out image is
FALSE_ALARM_PROBABILITY = 0.001  # of the binomial tests
MIN_HELDOUT_IMAGES = 20  # with fewer, it is unknown what is near
MIN_HELDOUT_SUBJECTS = 2
IDENTICAL_DISTANCE = 1e-5  # of an image to itself, at most: rounding

MAX_LIKENESS = 0.6  # of the way from the mean SSIM of real pairs to 1: above is collapse
DUPLICATE_SSIM = 0.99  # SSIM above which two fakes are the same image
MAX_DUPLICATE_SHARE = 0.03  # of pairs of fakes: about 33 different images
MIN_PAIRED_FAKES = 8  # fewer do not tell how alike fakes are
MIN_RECALL = 0.005  # slices of six subjects reach a tenth of the training images, 500 fakes of ten images 0.001
MIN_PRECISION = 0.05  # below, fakes are unlike real images, and recall tells nothing about variety
MIN_COVERAGE_SHARE = 0.3  # of what as many different fakes, as near to the real images, would cover
K_COVERAGE = 5  # neighbours that density and coverage count
MIN_RECALL_FAKES = 200  # slices of one or two subjects may reach no others
MIN_COVERAGE_BALLS = 64  # balls of real images that fakes lie in, in total

BASELINE_PHRASES = {"dataset mean": "the mean image", "black": "a black image", "noise": "noise"}
MIN_SSIM_SHARE = 0.25  # of the way from noise to held-out images; the worst trained networks measured are at 0.35
MIN_NCC_SHARE = 0.9  # of the correlation of held-out images; chequerboards have up to 0.89, trained networks 0.96
ONE_IMAGE_SSIM = 0.999  # mean SSIM of pairs above which fakes are one image
ROUNDING = 1e-6  # between values of equal images

# Part of the keys of cached values, under the names that the constants had when keys were defined.
ALARM_DEFINITION = (
    f"NEAR {COPY_DISTANCE_RATIO}; TENTH {COPY_QUANTILE}; ALLOWED {MAX_COPY_SHARE}; CHANCE {FALSE_ALARM_PROBABILITY}; "
    f"FEWEST {MIN_HELDOUT_IMAGES}; FEWEST_SUBJECTS {MIN_HELDOUT_SUBJECTS}; SAME {IDENTICAL_DISTANCE}; "
    f"ALIKE {MAX_LIKENESS}; TWIN {DUPLICATE_SSIM}; TWINS {MAX_DUPLICATE_SHARE}; FEWEST_PAIRED {MIN_PAIRED_FAKES}; "
    f"RECALL {MIN_RECALL}; LIKE_REALS {MIN_PRECISION}; COVERAGE {MIN_COVERAGE_SHARE}; K_COVERAGE {K_COVERAGE}; "
    f"FEWEST_FAKES {MIN_RECALL_FAKES}; FEWEST_NEAR {MIN_COVERAGE_BALLS}"
)


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A problem with a set of fakes.

    Attributes:
        name: ``collapse``, ``memorisation``, ``untrained`` or ``privacy`` (:mod:`zoo.metrics.privacy`).
        metric: the metric that shows it.
        value: the metric's value.
        threshold: the value that it should not have passed.
        text: one sentence for people.
    """

    name: AlarmName
    metric: str
    value: float
    threshold: float
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return all attributes as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CollapseInputs:
    """Values of one set of fakes that may show collapse; one that is None is not checked.

    Attributes:
        n: number of fakes.
        paired: how many of them were compared with one another.
        reals: number of training images that recall and coverage refer to.
        ssim_pairwise: mean SSIM of pairs of fakes.
        ssim_pairwise_real: the same of training images.
        ssim_twins: :func:`duplicate_fraction` of the pairs of fakes.
        ssim_twins_real: the same of training images, some of which may be there twice.
        precision: T. Kynkaanniemi et al. 2019.
        recall: of the same paper.
        density: M. F. Naeem et al. 2020, with five neighbours.
        coverage: of the same paper; checked if ``density`` and ``reals`` are known.
    """

    n: int
    paired: int
    reals: int | None = None
    ssim_pairwise: float | None = None
    ssim_pairwise_real: float | None = None
    ssim_twins: float | None = None
    ssim_twins_real: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None


def memorisation_alarm(
    metric: str,
    fakes: npt.ArrayLike,
    unseen: npt.ArrayLike,
    *,
    unseen_subjects: Sequence[str] | None = None,
    closer: Direction = "higher",
) -> tuple[MetricValue, Alarm | None]:
    """Return the share of fakes that are copies of training images, and the alarm if it is too high.

    Args:
        metric: name of the share, such as ``copies_ssim``.
        fakes: (N,) each fake's score with its nearest training image; NaN is left out.
        unseen: (M,) the same of held-out real images.
        unseen_subjects: M subjects; None: each image is taken for a subject.
        closer: ``higher``: scores are similarities of at most 1, such as SSIM; ``lower``: distances.

    Returns:
        The share with its exact 95 % interval (C. J. Clopper, E. S. Pearson 1934). It is missing without fakes, with
        too few held-out images or subjects, or if these images are training images themselves.

    Raises:
        ValueError: the number of subjects is not that of ``unseen``, or an unknown ``closer``.
    """
    fake_distances, heldout = _distances(fakes, closer), _distances(unseen, closer)
    fake_distances = fake_distances[np.isfinite(fake_distances)]
    if unseen_subjects is not None and len(unseen_subjects) != len(heldout):
        raise ValueError(f"{len(unseen_subjects)} subjects of {len(heldout)} held-out images")
    subjects = np.arange(len(heldout))
    if unseen_subjects is not None:
        subjects = np.unique(unseen_subjects, return_inverse=True)[1].reshape(-1)
    finite = np.isfinite(heldout)
    heldout, subjects = heldout[finite], subjects[finite]
    n = len(fake_distances)
    # A quantile and not the nearest one: a subject that is in both sets by mistake must not hide copies.
    limit = COPY_DISTANCE_RATIO * float(np.quantile(heldout, COPY_QUANTILE)) if len(heldout) else 0.0
    if reason := _missing_copies_reason(n, heldout, subjects if unseen_subjects is not None else None, limit):
        return missing_value(reason, n), None
    copies = int((fake_distances < limit).sum())
    allowed = most_by_chance(n, max(MAX_COPY_SHARE, _upper_share(heldout < limit, subjects)))
    edge = f"above {1 - limit:.4g}" if closer == "higher" else f"below {limit:.3g}"
    low, high = proportion_interval(copies, n)
    value = MetricValue(value=copies / n, low=low, high=high, n=n, note=f"copies: {edge}")
    if copies <= allowed:
        return value, None
    text = (
        f"{copies} of {n} fakes ({copies / n:.0%}) are copies of training images by {_measure_name(metric)}: less "
        f"than half as far from one as the nearest tenth of {len(heldout)} held-out real images ({edge}); by chance "
        f"it would hardly be more than {allowed}."
    )
    return value, Alarm(name="memorisation", metric=metric, value=copies / n, threshold=allowed / n, text=text)


def duplicate_fraction(pairs: npt.ArrayLike) -> float | None:
    """Return the share of pairs that are the same image, from the SSIM of all pairs; None: no pairs."""
    ssim = np.asarray(pairs, np.float64)
    ssim = ssim[np.isfinite(ssim)]
    return float((ssim > DUPLICATE_SSIM).mean()) if len(ssim) else None


def collapse_alarms(inputs: CollapseInputs) -> list[Alarm]:
    """Return an alarm for each value that shows that a generator makes the same few images."""
    alarms = [check(inputs) for check in (_pairwise_alarm, _duplicates_alarm, _recall_alarm, _coverage_alarm)]
    return [alarm for alarm in alarms if alarm is not None]


def is_collapse_checked(inputs: CollapseInputs) -> bool:
    """Return whether :func:`collapse_alarms` has the values of one of its checks."""
    paired = _is_known(inputs.ssim_twins) or (_is_known(inputs.ssim_pairwise) and _is_known(inputs.ssim_pairwise_real))
    return (
        (paired and inputs.paired >= MIN_PAIRED_FAKES)
        or (_is_known(inputs.recall) and inputs.n >= MIN_RECALL_FAKES)
        or (_is_known(inputs.coverage) and _is_known(inputs.density) and bool(inputs.reals))
    )


def _pairwise_alarm(inputs: CollapseInputs) -> Alarm | None:
    """Check whether fakes are much more alike than real images."""
    fake, real = inputs.ssim_pairwise, inputs.ssim_pairwise_real
    if not _is_known(fake) or not _is_known(real) or inputs.paired < MIN_PAIRED_FAKES:
        return None
    edge = real + MAX_LIKENESS * (1 - real)
    fake_text, real_text, edge_text = format_distinct((fake, real, edge), 2)
    text = (
        f"The fakes are nearly all one image: two of them have an SSIM of {fake_text} on average, "
        f"two real images {real_text}; above {edge_text} is collapse."
    )
    return _collapse("ssim_pairwise", fake, edge, text) if fake > edge else None


def _duplicates_alarm(inputs: CollapseInputs) -> Alarm | None:
    """Check whether many pairs of fakes are the same image (birthday paradox test of Arora and Zhang 2017)."""
    share, paired = inputs.ssim_twins, inputs.paired
    if not _is_known(share) or paired < MIN_PAIRED_FAKES:
        return None
    pairs = paired * (paired - 1) // 2
    expected = MAX_DUPLICATE_SHARE + (inputs.ssim_twins_real if _is_known(inputs.ssim_twins_real) else 0.0)
    edge = most_by_chance(pairs, expected) / pairs
    if share <= edge:
        return None
    share_text, edge_text = format_distinct((100 * share, 100 * edge), 0)
    text = (
        f"{share_text}% of the pairs of fakes are the same image (SSIM above {DUPLICATE_SSIM:g}), as if the "
        f"generator could make about {max(1, round(1 / share))}; more than {edge_text}% is collapse."
    )
    return _collapse("ssim_twins", share, edge, text)


def _recall_alarm(inputs: CollapseInputs) -> Alarm | None:
    """Check whether fakes that look like real images reach almost none of the training images."""
    recall, precision, n = inputs.recall, inputs.precision, inputs.n
    if not _is_known(recall) or recall >= MIN_RECALL or n < MIN_RECALL_FAKES:
        return None
    look = "if they look like any"
    if _is_known(precision):
        if precision < MIN_PRECISION:  # fakes unlike real images have no recall either, which is no collapse
            return None
        look = f"though {precision:.0%} of them look like real images"
    recall_text, edge_text = format_distinct((recall, MIN_RECALL), 3)
    text = (
        f"Recall is {recall_text}: {n} fakes reach almost none of the training images, {look}, so they are a few "
        f"images, or few kinds of images, again and again; below {edge_text} is collapse."
    )
    return _collapse("recall", recall, MIN_RECALL, text)


def _coverage_alarm(inputs: CollapseInputs) -> Alarm | None:
    """Check whether fakes near to real images are near to the same few of them."""
    coverage, density, n = inputs.coverage, inputs.density, inputs.n
    if not _is_known(coverage) or not _is_known(density) or not inputs.reals:
        return None
    edge = MIN_COVERAGE_SHARE * spread_coverage(n, inputs.reals, density)
    if K_COVERAGE * n * density < MIN_COVERAGE_BALLS or coverage >= edge:
        return None
    coverage_text, edge_text = format_distinct((coverage, edge), 3)
    text = (
        f"Coverage is {coverage_text}: the fakes that look like real images are near to the same few training "
        f"images, where as many different ones would cover {edge / MIN_COVERAGE_SHARE:.2f}; below {edge_text} is "
        "collapse."
    )
    return _collapse("coverage", coverage, edge, text)


def untrained_alarms(values: _Values, baselines: Mapping[str, _Values]) -> list[Alarm]:
    """Return an alarm for each value that is no better than that of a black image, of noise or of the mean image.

    Args:
        values: of the fakes, by metric: ``fid`` or else ``kid`` of features of a trained network, ``ncc_nearest``,
            ``ssim_nearest``, ``ssim_pairwise``. What is missing or None is not checked.
        baselines: the same of ``unseen subjects``, ``dataset mean``, ``black`` and ``noise``.
    """
    checks = (_distance_alarm, _noise_alarm, _correlation_alarm, _same_image_alarm)
    alarms = [check(values, baselines) for check in checks]
    return [alarm for alarm in alarms if alarm is not None]


def is_untrained_checked(values: _Values, baselines: Mapping[str, _Values]) -> bool:
    """Return whether :func:`untrained_alarms` has the values of one of its checks."""
    references = {"fid": (*BASELINE_PHRASES,), "kid": (*BASELINE_PHRASES,)}
    references |= {"ssim_nearest": ("noise",), "ncc_nearest": ("unseen subjects",)}
    return any(
        _is_known(values.get(metric)) and any(_is_known(row.get(metric)) for row in _rows(baselines, *names))
        for metric, names in references.items()
    )


def _distance_alarm(values: _Values, baselines: Mapping[str, _Values]) -> Alarm | None:
    """Check whether the distribution of fakes is as far from that of real images as that of a baseline."""
    for metric in ("fid", "kid"):
        value = values.get(metric)
        known = {name: edge for name in BASELINE_PHRASES if _is_known(edge := baselines.get(name, {}).get(metric))}
        if not _is_known(value) or not known:
            continue
        best = min(known, key=known.__getitem__)
        if value < known[best] * (1 - ROUNDING):
            return None
        text, edge_text = format_distinct((value, known[best]), 1 if metric == "fid" else 4)
        reason = f"{metric.upper()} is {text}, no better than that of {BASELINE_PHRASES[best]}, {edge_text}"
        return _untrained(metric, value, known[best], reason)
    return None


def _noise_alarm(values: _Values, baselines: Mapping[str, _Values]) -> Alarm | None:
    """Check whether fakes are nearly as unlike real images as noise is."""
    value, noise, real = (row.get("ssim_nearest") for row in (values, *_rows(baselines, "noise", "unseen subjects")))
    if not _is_known(value) or not _is_known(noise):
        return None
    edge = noise + MIN_SSIM_SHARE * max((real if _is_known(real) else noise) - noise, 0.0)
    if value > edge:
        return None
    text, noise_text, edge_text = format_distinct((value, noise, edge), 2)
    reason = f"Fakes have an SSIM of {text} with their nearest training image, noise {noise_text}"
    if _is_known(real) and real > noise:
        reason += f", held-out images {real:.2f}: up to {edge_text} is little better than noise"
    return _untrained("ssim_nearest", value, edge, reason)


def _correlation_alarm(values: _Values, baselines: Mapping[str, _Values]) -> Alarm | None:
    """Check whether fakes have little of the structure of real images, as black images have."""
    value, real = (row.get("ncc_nearest") for row in (values, *_rows(baselines, "unseen subjects")))
    if not _is_known(value) or not _is_known(real) or value > MIN_NCC_SHARE * real:
        return None
    edge = MIN_NCC_SHARE * real
    text, real_text, edge_text = format_distinct((value, real, edge), 2)
    reason = (
        f"Fakes correlate with their nearest training image by {text}, held-out images by {real_text}: up to "
        f"{edge_text}, noise or a chequerboard in the shape of the mean image has as much"
    )
    return _untrained("ncc_nearest", value, edge, reason)


def _same_image_alarm(values: _Values, baselines: Mapping[str, _Values]) -> Alarm | None:
    """Check whether fakes are one image that is no nearer to real images than the mean image or a black one."""
    value, pairwise = values.get("ssim_nearest"), values.get("ssim_pairwise")
    edges = {
        name: edge
        for name in ("dataset mean", "black")
        if _is_known(edge := baselines.get(name, {}).get("ssim_nearest"))
    }
    if not _is_known(value) or not _is_known(pairwise) or pairwise < ONE_IMAGE_SSIM or not edges:
        return None
    best = max(edges, key=edges.__getitem__)
    if value > edges[best] + ROUNDING:
        return None
    text, edge_text = format_distinct((value, edges[best]), 2)
    reason = (
        f"Fakes are all one image, no nearer to training images than {BASELINE_PHRASES[best]} is (SSIM {text} and "
        f"{edge_text})"
    )
    return _untrained("ssim_nearest", value, edges[best], reason)


def _rows(baselines: Mapping[str, _Values], *names: str) -> list[_Values]:
    return [baselines.get(name, {}) for name in names]


def _untrained(metric: str, value: float, threshold: float, reason: str) -> Alarm:
    text = f"{reason}. The generator needs more training."
    return Alarm(name="untrained", metric=metric, value=value, threshold=threshold, text=text)


def spread_coverage(n: int, reals: int, density: float) -> float:
    """Return the coverage of ``reals`` images by ``n`` fakes at independent random places."""
    # Fakes lie in K n density balls in total; a real image is missed with the probability that a Poisson variable
    # with the mean of that number per real image is 0.
    return 1 - math.exp(-K_COVERAGE * n * density / reals)


def most_by_chance(n: int, p: float, chance: float = FALSE_ALARM_PROBABILITY) -> int:
    """Return the count of ``n`` that is exceeded with at most probability ``chance`` if each has ``p``."""
    return int((_more_than(n, p) > chance).sum())


def proportion_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share of which ``count`` of ``n`` were seen (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2

    def solve(k: int, goal: float) -> float:
        """Bisect for the p at which more than ``k`` of ``n`` has probability ``goal``."""
        low, high = 0.0, 1.0
        for _ in range(50):  # halvings: to the last digit of a float
            middle = (low + high) / 2
            low, high = (middle, high) if _more_than(n, middle)[k] < goal else (low, middle)
        return (low + high) / 2

    return (solve(count - 1, tail) if count else 0.0), (solve(count, 1 - tail) if count < n else 1.0)


def _missing_copies_reason(n: int, heldout: _Floats, subjects: npt.NDArray[np.intp] | None, limit: float) -> str:
    """Return why copies cannot be recognised, or an empty string."""
    people = len(heldout) if subjects is None else len(np.unique(subjects))
    if not n:
        return "no fakes"
    if not len(heldout):
        return "no held-out real images to recognise copies by"
    if len(heldout) < MIN_HELDOUT_IMAGES or people < MIN_HELDOUT_SUBJECTS:
        of = "" if subjects is None else f" of {count_of(people, 'subject')}"
        least = f"{MIN_HELDOUT_IMAGES} of {MIN_HELDOUT_SUBJECTS} subjects"
        return f"{count_of(len(heldout), 'held-out image')}{of}, too few to recognise copies by (at least {least})"
    if limit <= max(IDENTICAL_DISTANCE, IDENTICAL_DISTANCE * 100 * float(np.median(heldout))):
        return "a tenth of the held-out images or more are training images themselves"
    return ""


def _more_than(n: int, p: float) -> _Floats:
    """Return (n + 1,) binomial probabilities that more than 0, 1, ... n of ``n`` happen, each having ``p``."""
    if p <= 0 or p >= 1:
        return np.where(np.arange(n + 1) < n, float(p >= 1), 0.0)
    # Logarithms, since binomial coefficients overflow.
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    logs = factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    upper = np.cumsum(np.exp(logs)[::-1])[::-1]
    return np.clip(np.append(upper[1:], 0.0), 0.0, 1.0)


def _upper_share(near: npt.NDArray[np.bool_], subjects: npt.NDArray[np.intp]) -> float:
    """Return the share of images that are near, plus two standard errors between subjects.

    Images of one subject are alike: the error between images would be far too small.
    """
    _, subject = np.unique(subjects, return_inverse=True)
    share = float(near.mean())
    surplus = np.bincount(subject, near - share)
    people = len(surplus)
    error = math.sqrt(float((surplus**2).sum()) * people / max(1, people - 1)) / len(near)
    return min(1.0, share + 2 * error)


def _distances(scores: npt.ArrayLike, closer: Direction) -> _Floats:
    if closer not in ("higher", "lower"):
        raise ValueError(f"closer is 'higher' or 'lower', not {closer!r}")
    values = np.asarray(scores, np.float64).reshape(-1)
    return 1 - values if closer == "higher" else values


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _measure_name(metric: str) -> str:
    """Return in words what ``copies_ncc`` and similar metrics compare by."""
    kind = metric.removeprefix("copies_")
    words = {"ssim": "SSIM", "ncc": "correlation", "features": "features of a trained network"}
    return words.get(kind, kind.replace("_", " "))


def _collapse(metric: str, value: float, threshold: float, text: str) -> Alarm:
    return Alarm(name="collapse", metric=metric, value=value, threshold=threshold, text=text)
