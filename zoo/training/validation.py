"""A run watched on the way: likeness to real images, alarms, and which of its generators was the best so far."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.progress import Reporter
from zoo.data.image_set import ImageSet, train_and_heldout
from zoo.data.pixel_range import to_uint8
from zoo.data.subjects import subject_indices
from zoo.metrics import alarms, nearest_image, result_cache
from zoo.metrics.alarms import Alarm
from zoo.metrics.baselines import baseline_images
from zoo.metrics.features.extractor import load_extractor
from zoo.metrics.fid import frechet_distance
from zoo.metrics.kid import kernel_distance
from zoo.metrics.ssim import ssim
from zoo.models import sampling
from zoo.runtime import distributed, rng
from zoo.training.trainer import Trainer

VERSION = 1  # to be raised whenever the same real images would have other figures
NUM_VALIDATION_IMAGES = 64  # averaged fakes at every look
UNSEEN = 256  # unseen images they are held against, from all unseen subjects
RANKED = 500  # fakes for `best: kid` and `best: fid`
COLLAPSE_PATIENCE_CHECKS = 5  # looks at which collapse must ring, without getting better, before it stops a run

Plain = dict[str, Any]


class Validator:
    """Figures of the averaged generator for the log, from the same latents every time.

    Args:
        trainer: whose generator.
        reporter: who is told of alarms.
        state: what :meth:`state_dict` gave at the checkpoint that the run goes on from.

    Attributes:
        best: metric, value and image count of the best look so far, or None.
    """

    def __init__(self, trainer: Trainer, reporter: Reporter, state: Plain | None = None) -> None:
        self.trainer, self.reporter = trainer, reporter
        self.config = trainer.recipe.train
        state = state or {}
        self.spent: float = state.get("spent", 0.0)  # seconds spent on looks
        self.last: float = state.get("last", 0.0)  # seconds the last look took
        self.best: Plain | None = state.get("best")
        self.ringing: list[float] = state.get(
            "ringing", []
        )  # pairwise SSIM of the looks at which collapse rang, in a row
        self._known: set[tuple[str, str]] = set()  # alarms that were told of
        self._scores: Plain | None = None
        self.reals, self.unseen = self._sets()
        # Before the first step: weights that are not to be had are known at once.
        self._space = None
        if self.config.best in ("kid", "fid"):
            self._space = load_extractor("inception", device=trainer.device, reporter=reporter)

    def state_dict(self) -> Plain:
        return {"spent": self.spent, "last": self.last, "best": self.best, "ringing": list(self.ringing)}

    def due(self, elapsed: float) -> bool:
        """Whether a look keeps all of them within their share of the ``elapsed`` seconds."""
        share = self.config.evaluate_share
        first = self.last == 0 and share > 0
        return share >= 1 or first or self.spent + self.last <= share * elapsed

    def took(self, seconds: float) -> None:
        """A look is paid for."""
        self.spent, self.last = self.spent + seconds, seconds

    def ranked_features(self) -> np.ndarray | None:
        """Features of more fakes, where the best checkpoint is chosen by FID or KID: (RANKED, dim).

        Every process makes and judges its part of the fakes; all must ask together.
        """
        if self._space is None:
            return None
        seed, here = self.config.seed, distributed.current_world()
        chunks = np.array_split(np.arange(-(-RANKED // sampling.SAMPLING_BATCH)), here.size)[here.rank]
        part = (
            slice(chunks[0] * sampling.SAMPLING_BATCH, (chunks[-1] + 1) * sampling.SAMPLING_BATCH)
            if len(chunks)
            else slice(0, 0)
        )
        z = rng.fixed_latents(seed, RANKED, self.trainer.G.latent.dim)[part]
        if not len(z):
            return np.concatenate([rows for rows in distributed.all_gather(None) if rows is not None])
        made = sampling.generate_images(
            self.trainer.averaged(), z, seed=seed, first=int(chunks[0]), speed=self.trainer.speed
        )
        rows = distributed.all_gather(self._space(to_uint8(made)))
        return np.concatenate([part for part in rows if part is not None])

    def look(self, fakes: Tensor, ranked: np.ndarray | None = None) -> Plain:
        """Figures, floors and alarms of uint8 ``fakes`` (JUDGED, C, R, R), as they stand in the log.

        ``ranked``: what :meth:`ranked_features` gave.
        """
        reference = self.reference()
        nearest = ssim.nearest_ssim(fakes, self.reals.images, 255)[0]
        copied = nearest_image.nearest_copy(fakes, self.reals.images, subjects=self.reals.subjects)
        pairs = ssim.pairwise_ssim(fakes, 255)
        pairwise = pairs.mean().item()
        inputs = alarms.CollapseInputs(
            ssim_pairwise=pairwise,
            ssim_pairwise_real=reference["ssim_pairwise_real"],
            ssim_twins=alarms.duplicate_fraction(pairs.cpu().numpy()),
            ssim_twins_real=self._unseen_scores["twins"],
            n=len(fakes),
            paired=len(fakes),
        )
        found: list[Alarm] = alarms.collapse_alarms(inputs)
        shares: Plain = {}
        for metric, values, kind in (
            ("copies_ssim", nearest, "ssim"),
            ("copies_ncc", copied.distance, "distance"),
        ):
            figure, alarm = alarms.memorisation_alarm(
                metric,
                values.cpu().numpy(),
                self._unseen_scores[kind],
                unseen_subjects=self.unseen.subjects if self.unseen is not None else None,
                closer="higher" if kind == "ssim" else "lower",
            )
            shares[metric] = figure.value
            found += [alarm] if alarm is not None else []
        self._tell(found)
        self.ringing = [*self.ringing, pairwise] if any(alarm.name == "collapse" for alarm in found) else []
        return {
            "ssim_nearest": nearest.mean().item(),
            "ssim_pairwise": pairwise,
            "ncc_nearest": copied.ncc.mean().item(),
            **shares,
            **reference,
            **self._rank(ranked),
            "alarms": [alarm.to_json() for alarm in found],
        }

    def improved(self, row: Plain, nimg: int) -> bool:
        """Whether the look of ``row`` is the best so far by ``train.best``; remembers it if so."""
        metric = self.config.best
        value = _distance(row) if metric == "ssim" else row.get(metric)
        before = self.best if self.best is not None and self.best["metric"] == metric else None
        if value is None or (before is not None and not value < before["value"]):
            return False
        self.best = {"metric": metric, "value": value, "nimg": nimg}
        return True

    def collapsed(self) -> bool:
        """Whether collapse has rung at several looks running and variety did not grow over them."""
        recent = self.ringing[-COLLAPSE_PATIENCE_CHECKS:]
        return len(recent) == COLLAPSE_PATIENCE_CHECKS and recent[-1] >= recent[0]

    def reference(self) -> Plain:
        """The same figures of real images: unseen ones against training images, and these among themselves."""
        scores = self._unseen_scores
        return {
            **{f"{name}_nearest_unseen": _mean(scores[name]) for name in ("ssim", "ncc")},
            **{f"ssim_nearest_{name}": value for name, value in scores["floors"].items()},
            "ssim_pairwise_real": scores["pairwise"],
            "ssim_definition": (
                f"{ssim.DEFINITION}; {NUM_VALIDATION_IMAGES} EMA fakes, nearest of {len(self.reals)} training images"
            ),
        }

    @property
    def _unseen_scores(self) -> Plain:
        """Scores of unseen images against training images; remembered by content, since every run asks for them."""
        if self._scores is None:
            start = time.monotonic()
            self._scores = result_cache.cached_result(["watch", *self._key()], self._measure)
            self.spent += time.monotonic() - start  # paid once: it is no part of what a look takes
        return self._scores

    def _key(self) -> list[Any]:
        unseen = result_cache.digest_images(self.unseen.images) if self.unseen is not None else None
        people = subject_indices(self.reals.subjects) if self.reals.subjects is not None else None
        what = [VERSION, NUM_VALIDATION_IMAGES, ssim.DEFINITION, nearest_image.DEFINITION]
        return [result_cache.digest_images(self.reals.images), unseen, people, *what]

    def _measure(self) -> Plain:
        order = rng.ImageOrder(rng.derive_seed("reals"), len(self.reals))
        some = torch.from_numpy(np.array(self.reals.images[order.take(0, min(NUM_VALIDATION_IMAGES, len(self.reals)))]))
        pairs = ssim.pairwise_ssim(some, 255)
        found: Plain = {
            "pairwise": pairs.mean().item() if len(pairs) else None,
            "twins": alarms.duplicate_fraction(pairs.numpy()),
        }
        floors = baseline_images(self.reals)
        values = ssim.nearest_ssim(torch.from_numpy(np.concatenate(list(floors.values()))), self.reals.images, 255)[0]
        found["floors"] = dict(zip(("mean", "black", "noise"), values.tolist(), strict=True))
        if self.unseen is None:
            return found | {"ssim": [], "ncc": [], "distance": []}
        self.reporter.say(f"measuring how near unseen images come: {len(self.unseen)}")
        images = torch.from_numpy(np.array(self.unseen.images[:]))
        copied = nearest_image.nearest_copy(images, self.reals.images, subjects=self.reals.subjects)
        return found | {
            "ssim": ssim.nearest_ssim(images, self.reals.images, 255)[0].tolist(),
            "ncc": copied.ncc.tolist(),
            "distance": copied.distance.tolist(),
        }

    def _sets(self) -> tuple[ImageSet, ImageSet | None]:
        reals, unseen = train_and_heldout(self.trainer.data)
        if unseen is not None and len(unseen) > UNSEEN:
            some = np.linspace(0, len(unseen) - 1, UNSEEN).round().astype(int)
            unseen = unseen.part(some, unseen.label)
        return reals, unseen

    def _rank(self, ours: np.ndarray | None) -> Plain:
        """FID or KID of more fakes, where the best checkpoint is chosen by it."""
        if self._space is None or ours is None:
            return {}
        theirs = result_cache.cached_features(self.reals.images, self._space, reporter=self.reporter)
        if self.config.best == "fid":
            return {"fid": frechet_distance(ours, theirs)}
        return {"kid": kernel_distance(ours, theirs)[0]}

    def _tell(self, found: list[Alarm]) -> None:
        now: set[tuple[str, str]] = {(alarm.name, alarm.metric) for alarm in found}
        for alarm in found:
            if (alarm.name, alarm.metric) not in self._known:
                self.reporter.warn(f"{alarm.name} at nimg {self.trainer.nimg}: {alarm.text}")
        for name, metric in sorted(self._known - now):
            self.reporter.say(f"{name} ({metric}): no longer at nimg {self.trainer.nimg}")
        self._known = now


def _distance(row: Plain) -> float | None:
    """How far likeness and variety are from those of real images, taken together."""
    pairs = [("ssim_nearest", "ssim_nearest_unseen"), ("ssim_pairwise", "ssim_pairwise_real")]
    known = [(ours, theirs) for ours, theirs in pairs if None not in (row.get(ours), row.get(theirs))]
    gaps = [abs(row[ours] - row[theirs]) for ours, theirs in known]
    return sum(gaps) if gaps else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
