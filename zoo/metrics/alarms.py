"""Alarms: does a generator copy training images, and does it make the same few pictures again and again?

Each is a figure beside what real images show, a threshold, and a sentence for people. The constants here were set from
measurements on brain slices at 28, 64, 128 and 256 pixels: ``benchmarks/alarms.py`` repeats them on any images, and
``benchmarks/README.md`` says what was found.

**Memorisation.** A fake counts as a copy if it is less than half as far (``NEAR``) from a training image as the nearest
tenth (``TENTH``) of the unseen real images come. Unseen images are of people who were not learnt from, so some of them
are near by chance, but hardly twice as near; copies are, by many times. A quantile is used and not the extreme, for one
person who is in both sets by mistake, or a blank slice, must not make the alarm blind; such images then count against
the fakes' share, which must be above that of the unseen images by a binomial test. Slices of one person are alike, so
the unseen images' share gets the margin of its error between people, not between images.

**Collapse.** Fakes are much more alike than reals are (mean SSIM of pairs), many pairs of fakes are one picture (the
birthday paradox test: S. Arora, Y. Zhang, "Do GANs actually learn the distribution? An empirical study", 2017,
arXiv:1706.08224), or in feature space they reach almost none of the training images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
import numpy.typing as npt

from zoo.metrics.value import MetricValue, missing_value

Floats = npt.NDArray[np.float64]
Direction = Literal["higher", "lower"]

NEAR = 0.5  # of the distance of the nearest unseen images: nearer is a copy
TENTH = 0.1  # the share of the unseen images whose distance that is
ALLOWED = 0.01  # share of fakes that may be as near, even if no unseen image is
CHANCE = 0.001  # of a false alarm, by the binomial test
FEWEST = 20  # unseen images, of FEWEST_SUBJECTS people at least: with fewer there is no saying what is near
FEWEST_SUBJECTS = 2
SAME = 1e-5  # a distance that only the same image has

ALIKE = 0.6  # of the way from the likeness of reals to identity: closer is collapse
TWIN = 0.99  # SSIM from which two fakes are one picture
TWINS = 0.03  # share of pairs of fakes that may be: about 33 different pictures
FEWEST_PAIRED = 8  # fakes whose likeness to one another says anything
RECALL = 0.005  # six people's slices reach a tenth of the training images, 500 fakes that are ten pictures 0.001
LIKE_REALS = 0.05  # precision below which fakes are not like reals, and recall says nothing about variety
COVERAGE = 0.3  # of what as many different fakes, as near to the reals, would cover
K_COVERAGE = 5  # neighbours that density and coverage count
FEWEST_FAKES = 200  # for recall: slices of one or two people may reach nobody else
FEWEST_NEAR = 64  # neighbourhoods that fakes must lie in, all told, for coverage


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something is wrong with a set of fakes.

    Attributes:
        name: what: ``collapse`` or ``memorisation``.
        metric: the figure that says so.
        value: that figure.
        threshold: what it should not have passed.
        text: one sentence for people.
    """

    name: Literal["collapse", "memorisation"]
    metric: str
    value: float
    threshold: float
    text: str

    def to_json(self) -> dict[str, Any]:
        """Plain data with all attributes."""
        return asdict(self)


def memorisation_alarm(
    metric: str,
    fakes: npt.ArrayLike,
    unseen: npt.ArrayLike,
    *,
    unseen_subjects: Sequence[str] | None = None,
    closer: Direction = "higher",
) -> tuple[MetricValue, Alarm | None]:
    """The share of fakes that are nearer to a training image than unseen real images come, and whether that is copying.

    Args:
        metric: the share's name, such as ``copies_ssim``.
        fakes: (N,) each fake's score with its nearest training image; those that are NaN are left out.
        unseen: (M,) the same of real images of people who were not trained on.
        unseen_subjects: M subjects; None: unknown, each image is then taken for one of its own.
        closer: ``higher``: scores are likenesses of at most 1, such as SSIM; ``lower``: distances.

    Returns:
        The share with its exact 95 % interval (C. J. Clopper, E. S. Pearson 1934), not available without fakes,
        without enough unseen images (FEWEST of FEWEST_SUBJECTS people), or where these are training images themselves;
        and the alarm, if there is reason for one.

    Raises:
        ValueError: subjects of another number than ``unseen``, or another ``closer``.
    """
    near = _distances(fakes, closer)
    near = near[np.isfinite(near)]
    real = _distances(unseen, closer)
    finite = np.isfinite(real)
    if unseen_subjects is not None and len(unseen_subjects) != len(real):
        raise ValueError(f"{len(unseen_subjects)} subjects of {len(real)} unseen images")
    who = np.arange(len(real)) if unseen_subjects is None else np.unique(unseen_subjects, return_inverse=True)[1]
    real, who = real[finite], who.reshape(-1)[finite]
    people = len(np.unique(who))
    if not len(near):
        return missing_value("no fakes"), None
    if not len(real):
        return missing_value("no unseen real images to tell copies from", len(near)), None
    if len(real) < FEWEST or people < FEWEST_SUBJECTS:
        of = "" if unseen_subjects is None else f" of {people} subject{'s' if people > 1 else ''}"
        least = f"{FEWEST} of {FEWEST_SUBJECTS} subjects"
        why = f"{len(real)} unseen images{of}, too few to tell copies from (at least {least})"
        return missing_value(why, len(near)), None
    limit = NEAR * float(np.quantile(real, TENTH))
    if limit <= max(SAME, SAME * 100 * float(np.median(real))):
        return missing_value("a tenth of the unseen images or more are training images themselves", len(near)), None
    copies, n = int((near < limit).sum()), len(near)
    allowed = max(ALLOWED, _upper_share(real < limit, who))
    most = most_by_chance(n, allowed)
    edge = f"above {1 - limit:.4g}" if closer == "higher" else f"below {limit:.3g}"
    low, high = proportion_interval(copies, n)
    figure = MetricValue(value=copies / n, low=low, high=high, n=n, note=f"copies: {edge}")
    if copies <= most:
        return figure, None
    text = (
        f"{copies} of {n} fakes ({copies / n:.0%}) are copies of training images by {_measure(metric)}: less than half "
        f"as far from one as the nearest tenth of {len(real)} unseen real images ({edge}); by chance it would "
        f"hardly be more than {most}."
    )
    return figure, Alarm(name="memorisation", metric=metric, value=copies / n, threshold=most / n, text=text)


def duplicate_fraction(pairs: npt.ArrayLike) -> float | None:
    """The share of pairs of fakes that are one picture, from the SSIM of all pairs; None: no pairs."""
    ssim = np.asarray(pairs, np.float64)
    ssim = ssim[np.isfinite(ssim)]
    return float((ssim > TWIN).mean()) if len(ssim) else None


def collapse_alarms(
    *,
    ssim_pairwise: float | None,
    ssim_pairwise_real: float | None,
    ssim_twins: float | None = None,
    ssim_twins_real: float | None = None,
    precision: float | None = None,
    recall: float | None = None,
    density: float | None = None,
    coverage: float | None = None,
    n: int,
    paired: int | None = None,
    reals: int | None = None,
) -> list[Alarm]:
    """What says that a generator makes the same few pictures again and again; figures that are None say nothing.

    Args:
        ssim_pairwise: mean SSIM of pairs of fakes; rings when closer to 1 than to that of real images: more than
            ``ALIKE`` of the way.
        ssim_pairwise_real: the same of training images.
        ssim_twins: what :func:`twins` makes of the pairs of fakes; rings above ``TWINS``, if so many are not to be
            expected by chance.
        ssim_twins_real: the same of training images, where some are there twice.
        precision: of T. Kynkaanniemi et al. 2019.
        recall: of the same; rings below ``RECALL``, unless precision is near zero too: then fakes are unlike the
            reals, which is no collapse.
        density: of M. F. Naeem et al. 2020, with five neighbours.
        coverage: of the same; needs ``density`` and ``reals``, and rings below ``COVERAGE`` of what fakes of that
            density would cover if they were spread over the reals (see :func:`spread_coverage`).
        n: how many fakes.
        paired: how many of them were compared with one another; None: all.
        reals: how many training images recall and coverage are of.
    """
    found = []
    paired = n if paired is None else paired
    if _known(ssim_pairwise) and _known(ssim_pairwise_real) and paired >= FEWEST_PAIRED:
        edge = ssim_pairwise_real + ALIKE * (1 - ssim_pairwise_real)
        if ssim_pairwise > edge:
            text = (
                f"The fakes are nearly all one picture: two of them have an SSIM of {ssim_pairwise:.2f} on average, "
                f"two real images {ssim_pairwise_real:.2f}; above {edge:.2f} is collapse."
            )
            found.append(_collapse("ssim_pairwise", ssim_pairwise, edge, text))
    if _known(ssim_twins) and paired >= FEWEST_PAIRED:
        edge = TWINS + (ssim_twins_real if _known(ssim_twins_real) else 0.0)
        pairs = paired * (paired - 1) // 2
        edge = most_by_chance(pairs, edge) / pairs
        if ssim_twins > edge:
            text = (
                f"{ssim_twins:.0%} of the pairs of fakes are the same picture (SSIM above {TWIN:g}), as if the "
                f"generator knew about {max(1, round(1 / ssim_twins))}; more than {edge:.0%} is collapse."
            )
            found.append(_collapse("ssim_twins", ssim_twins, edge, text))
    like_reals = not _known(precision) or precision >= LIKE_REALS
    if _known(recall) and n >= FEWEST_FAKES and recall < RECALL and like_reals:
        look = f"though {precision:.0%} of them look like real images" if _known(precision) else "if they look like any"
        text = (
            f"Recall is {recall:.3f}: {n} fakes reach almost none of the training images, {look}, so they are a few "
            f"pictures, or few kinds of pictures, again and again; below {RECALL:g} is collapse."
        )
        found.append(_collapse("recall", recall, RECALL, text))
    if _known(coverage) and _known(density) and reals and K_COVERAGE * n * density >= FEWEST_NEAR:
        edge = COVERAGE * spread_coverage(n, reals, density)
        if coverage < edge:
            text = (
                f"Coverage is {coverage:.3f}: the fakes that look like real images are near to the same few training "
                f"images, where as many different ones would cover {edge / COVERAGE:.2f}; below {edge:.3f} is collapse."
            )
            found.append(_collapse("coverage", coverage, edge, text))
    return found


def spread_coverage(n: int, reals: int, density: float) -> float:
    """Coverage of ``reals`` images by ``n`` fakes whose places are drawn anew each time.

    Density says how many neighbourhoods the fakes lie in, ``K_COVERAGE * n * density`` all told. If those were spread
    over the reals at random, a real would be missed with the probability that a Poisson variable of their mean is 0.
    """
    return 1 - math.exp(-K_COVERAGE * n * density / reals)


def most_by_chance(n: int, p: float, chance: float = CHANCE) -> int:
    """The count of ``n`` that is passed with a probability of at most ``chance`` where each has ``p``."""
    return int((_more_than(n, p) > chance).sum())


def proportion_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share of which ``count`` of ``n`` were seen (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2

    def solve(k: int, goal: float) -> float:
        """The p at which more than ``k`` of ``n`` has probability ``goal``."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if _more_than(n, middle)[k] < goal else (low, middle)
        return (low + high) / 2

    return (solve(count - 1, tail) if count else 0.0), (solve(count, 1 - tail) if count < n else 1.0)


def _more_than(n: int, p: float) -> Floats:
    """(n + 1,) the probabilities that more than 0, 1, ... n of ``n`` happen, each having ``p``."""
    if p <= 0 or p >= 1:
        return np.where(np.arange(n + 1) < n, float(p >= 1), 0.0)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    logs = factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    upper = np.cumsum(np.exp(logs)[::-1])[::-1]
    return np.clip(np.append(upper[1:], 0.0), 0.0, 1.0)


def _upper_share(near: npt.NDArray[np.bool_], who: npt.NDArray[np.intp]) -> float:
    """The share of images that are near, and two of its standard errors if people were drawn, not images."""
    _, person = np.unique(who, return_inverse=True)
    share = float(near.mean())
    surplus = np.bincount(person, near - share)
    people = len(surplus)
    error = math.sqrt(float((surplus**2).sum()) * people / max(1, people - 1)) / len(near)
    return min(1.0, share + 2 * error)


def _distances(scores: npt.ArrayLike, closer: Direction) -> Floats:
    if closer not in ("higher", "lower"):
        raise ValueError(f"closer is 'higher' or 'lower', not {closer!r}")
    values = np.asarray(scores, np.float64).reshape(-1)
    return 1 - values if closer == "higher" else values


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _measure(metric: str) -> str:
    """What ``copies_ncc`` and its like go by, in words."""
    kind = metric.removeprefix("copies_")
    words = {"ssim": "SSIM", "ncc": "correlation", "features": "what a trained network sees in them"}
    return words.get(kind, kind.replace("_", " "))


def _collapse(metric: str, value: float, threshold: float, text: str) -> Alarm:
    return Alarm(name="collapse", metric=metric, value=value, threshold=threshold, text=text)
