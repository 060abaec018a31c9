"""Validation during training: likeness to real images, alarms, and the choice of the best generator so far."""

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
from zoo.metrics.alarms import Alarm, CollapseInputs
from zoo.metrics.baselines import baseline_images
from zoo.metrics.features.extractor import load_extractor
from zoo.metrics.fid import frechet_distance
from zoo.metrics.kid import kernel_distance
from zoo.metrics.ssim import ssim
from zoo.models import sampling
from zoo.runtime import distributed, rng
from zoo.training.trainer import Trainer

CACHE_VERSION = 1  # raise it whenever the same real images would have other values
NUM_VALIDATION_IMAGES = 64  # images of the averaged generator at every validation
MAX_HELDOUT_IMAGES = 256  # held-out images they are compared with, spread over all held-out subjects
NUM_RANKING_IMAGES = 500  # generated images for `best: kid` and `best: fid`
COLLAPSE_PATIENCE_CHECKS = 5  # validations in a row that must trigger collapse, without improvement, to stop a run

_Row = dict[str, Any]


class Validator:
    """Values of the averaged generator for the log, from the same latents every time.

    Args:
        trainer: whose generator is evaluated.
        reporter: receives a line when an alarm is triggered or ends.
        state: result of :meth:`state_dict` in the checkpoint that is resumed; None at the start.

    Attributes:
        best: metric, value and image count of the best validation so far, or None.
    """

    def __init__(self, trainer: Trainer, reporter: Reporter, state: _Row | None = None) -> None:
        self.trainer, self.reporter = trainer, reporter
        self.config = trainer.recipe.train
        state = state or {}
        self.seconds_spent: float = state.get("spent", 0.0)
        self.last_duration: float = state.get("last", 0.0)
        self.best: _Row | None = state.get("best")
        self._collapsed_ssim: list[float] = state.get(
            "ringing", []
        )  # pairwise SSIM of the latest collapsed validations
        self._active_alarms: set[tuple[str, str]] = set()
        self._cached_scores: _Row | None = None
        self.train_images, self.heldout_images = self._image_sets()
        # Loaded before the first step, so that missing weights are reported at once.
        self._extractor = None
        if self.config.best in ("kid", "fid"):
            self._extractor = load_extractor("inception", device=trainer.device, reporter=reporter)

    def state_dict(self) -> _Row:
        """Plain values, under the keys of all versions."""
        ringing = list(self._collapsed_ssim)
        return {"spent": self.seconds_spent, "last": self.last_duration, "best": self.best, "ringing": ringing}

    def due(self, elapsed: float) -> bool:
        """Whether another validation keeps all of them within their share of ``elapsed`` seconds."""
        share = self.config.evaluate_share
        if share <= 0:
            return False
        is_first = self.last_duration == 0
        return share >= 1 or is_first or self.seconds_spent + self.last_duration <= share * elapsed

    def record_duration(self, seconds: float) -> None:
        """Add the cost of one validation."""
        self.seconds_spent, self.last_duration = self.seconds_spent + seconds, seconds

    def ranking_features(self) -> np.ndarray | None:
        """Features (NUM_RANKING_IMAGES, dim) of more fakes where the best generator is chosen by FID or KID, else None.

        Every process generates and evaluates its part; all must call it together.
        """
        if self._extractor is None:
            return None
        seed, world = self.config.seed, distributed.current_world()
        size = sampling.SAMPLING_BATCH
        # Whole sampling batches per process: what a generator draws inside is drawn batch by batch.
        batches = np.array_split(np.arange(-(-NUM_RANKING_IMAGES // size)), world.size)[world.rank]
        part = slice(batches[0] * size, (batches[-1] + 1) * size) if len(batches) else slice(0, 0)
        z = rng.fixed_latents(seed, NUM_RANKING_IMAGES, self.trainer.G.latent.dim)[part]
        own = None
        if len(z):
            averaged, speed = self.trainer.averaged(), self.trainer.speed
            images = sampling.generate_images(averaged, z, seed=seed, first=int(batches[0]), speed=speed)
            own = self._extractor(to_uint8(images))
        return np.concatenate([features for features in distributed.all_gather(own) if features is not None])

    def validate(self, fakes: Tensor, ranking_features: np.ndarray | None = None) -> _Row:
        """Values, baselines and alarms of uint8 ``fakes`` (NUM_VALIDATION_IMAGES, C, R, R), as they stand in the log.

        Args:
            ranking_features: result of :meth:`ranking_features`.
        """
        reference = self.reference()
        nearest = ssim.nearest_ssim(fakes, self.train_images.images, 255)[0]
        copy = nearest_image.nearest_copy(fakes, self.train_images.images, subjects=self.train_images.subjects)
        pairs = ssim.pairwise_ssim(fakes, 255)
        pairwise = pairs.mean().item()
        triggered = self._collapse_alarms(pairs, len(fakes), reference["ssim_pairwise_real"])
        self._collapsed_ssim = [*self._collapsed_ssim, pairwise] if triggered else []
        shares: _Row = {}
        for metric, values, kind in (("copies_ssim", nearest, "ssim"), ("copies_ncc", copy.distance, "distance")):
            shares[metric], alarm = self._copy_share(metric, values, kind)
            triggered += [alarm] if alarm is not None else []
        row = {
            "ssim_nearest": nearest.mean().item(),
            "ssim_pairwise": pairwise,
            "ncc_nearest": copy.ncc.mean().item(),
            **shares,
            **reference,
            **self._ranking_metric(ranking_features),
        }
        triggered += alarms.untrained_alarms(row, self._baselines())
        self._report_changes(triggered)
        return {**row, "alarms": [alarm.to_json() for alarm in triggered]}

    def _baselines(self) -> dict[str, dict[str, float | None]]:
        """Values of real images and of images that no generator made, under the names of the alarms."""
        scores, names = self._scores, {"mean": "dataset mean", "black": "black", "noise": "noise"}
        baselines = {names[name]: {"ssim_nearest": value} for name, value in scores["floors"].items()}
        heldout = {f"{name}_nearest": _mean(scores[name]) for name in ("ssim", "ncc")}
        return {**baselines, "unseen subjects": heldout}

    def _collapse_alarms(self, pairs: Tensor, count: int, pairwise_real: float | None) -> list[Alarm]:
        return alarms.collapse_alarms(
            CollapseInputs(
                ssim_pairwise=pairs.mean().item(),
                ssim_pairwise_real=pairwise_real,
                ssim_twins=alarms.duplicate_fraction(pairs.cpu().numpy()),
                ssim_twins_real=self._scores["twins"],
                n=count,
                paired=count,
            )
        )

    def _copy_share(self, metric: str, values: Tensor, kind: str) -> tuple[float | None, Alarm | None]:
        """The share of copies by one measure, and the alarm it triggers."""
        value, alarm = alarms.memorisation_alarm(
            metric,
            values.cpu().numpy(),
            self._scores[kind],
            unseen_subjects=self.heldout_images.subjects if self.heldout_images is not None else None,
            closer="higher" if kind == "ssim" else "lower",
        )
        return value.value, alarm

    def improved(self, row: _Row, nimg: int) -> bool:
        """Whether ``row`` is the best so far by ``train.best``; remembers it if so."""
        metric = self.config.best
        value = _ssim_gap(row) if metric == "ssim" else row.get(metric)
        before = self.best if self.best is not None and self.best["metric"] == metric else None
        if value is None or (before is not None and not value < before["value"]):
            return False
        self.best = {"metric": metric, "value": value, "nimg": nimg}
        return True

    def has_collapsed(self) -> bool:
        """Whether several validations in a row triggered collapse and variety did not grow over them."""
        recent = self._collapsed_ssim[-COLLAPSE_PATIENCE_CHECKS:]
        return len(recent) == COLLAPSE_PATIENCE_CHECKS and recent[-1] >= recent[0]

    def reference(self) -> _Row:
        """The same values of real images: held-out against training images, and training images among themselves."""
        scores = self._scores
        definition = f"{ssim.SSIM_DEFINITION}; {NUM_VALIDATION_IMAGES} EMA fakes, nearest of {len(self.train_images)}"
        return {
            **{f"{name}_nearest_unseen": _mean(scores[name]) for name in ("ssim", "ncc")},
            **{f"ssim_nearest_{name}": value for name, value in scores["floors"].items()},
            "ssim_pairwise_real": scores["pairwise"],
            "ssim_definition": f"{definition} training images",
        }

    @property
    def _scores(self) -> _Row:
        """Scores of real images; cached by content, since every run on a set needs them."""
        if self._cached_scores is None:
            start = time.monotonic()
            self._cached_scores = result_cache.cached_result(["watch", *self._cache_key()], self._measure_real_images)
            # Paid once per set, so it counts towards all validations and not towards what one takes.
            self.seconds_spent += time.monotonic() - start
        return self._cached_scores

    def _cache_key(self) -> list[Any]:
        heldout = result_cache.digest_images(self.heldout_images.images) if self.heldout_images is not None else None
        train = self.train_images
        subjects = subject_indices(train.subjects) if train.subjects is not None else None
        versions = [CACHE_VERSION, NUM_VALIDATION_IMAGES, ssim.SSIM_DEFINITION, nearest_image.NCC_DEFINITION]
        return [result_cache.digest_images(train.images), heldout, subjects, *versions]

    def _measure_real_images(self) -> _Row:
        train = self.train_images
        order = rng.ImageOrder(rng.derive_seed("reals"), len(train))
        some = torch.from_numpy(np.array(train.images[order.take(0, min(NUM_VALIDATION_IMAGES, len(train)))]))
        pairs = ssim.pairwise_ssim(some, 255)
        pairwise = pairs.mean().item() if len(pairs) else None
        baselines = np.concatenate(list(baseline_images(train).values()))
        nearest = ssim.nearest_ssim(torch.from_numpy(baselines), train.images, 255)[0]
        scores: _Row = {
            "pairwise": pairwise,
            "twins": alarms.duplicate_fraction(pairs.numpy()),
            "floors": dict(zip(("mean", "black", "noise"), nearest.tolist(), strict=True)),
        }
        if self.heldout_images is None:
            return scores | {"ssim": [], "ncc": [], "distance": []}
        self.reporter.say(f"measuring how near held-out images are to training images: {len(self.heldout_images)}")
        images = torch.from_numpy(np.array(self.heldout_images.images[:]))
        copy = nearest_image.nearest_copy(images, train.images, subjects=train.subjects)
        return scores | {
            "ssim": ssim.nearest_ssim(images, train.images, 255)[0].tolist(),
            "ncc": copy.ncc.tolist(),
            "distance": copy.distance.tolist(),
        }

    def _image_sets(self) -> tuple[ImageSet, ImageSet | None]:
        train, heldout = train_and_heldout(self.trainer.data)
        if heldout is not None and len(heldout) > MAX_HELDOUT_IMAGES:
            spread = np.linspace(0, len(heldout) - 1, MAX_HELDOUT_IMAGES).round().astype(int)
            heldout = heldout.part(spread, heldout.label)
        return train, heldout

    def _ranking_metric(self, fake_features: np.ndarray | None) -> _Row:
        """FID or KID where the best generator is chosen by it."""
        if self._extractor is None or fake_features is None:
            return {}
        features = result_cache.cached_features(self.train_images.images, self._extractor, reporter=self.reporter)
        if self.config.best == "fid":
            return {"fid": frechet_distance(fake_features, features)}
        return {"kid": kernel_distance(fake_features, features)[0]}

    def _report_changes(self, triggered: list[Alarm]) -> None:
        """Report each alarm once when it is triggered, and once when it ends."""
        active: set[tuple[str, str]] = set()
        for alarm in triggered:
            # Every run starts untrained, by several metrics at once: one line says so.
            key = (alarm.name, "" if alarm.name == "untrained" else f" ({alarm.metric})")
            if key not in self._active_alarms | active:
                self.reporter.warn(f"{alarm.name} at nimg {self.trainer.nimg}: {alarm.text}")
            active.add(key)
        for name, metric in sorted(self._active_alarms - active):
            self.reporter.say(f"{name}{metric}: no longer at nimg {self.trainer.nimg}")
        self._active_alarms = active


def _ssim_gap(row: _Row) -> float | None:
    """Sum of the distances of likeness and variety from those of real images."""
    gaps = []
    for value, target in (("ssim_nearest", "ssim_nearest_unseen"), ("ssim_pairwise", "ssim_pairwise_real")):
        if row.get(value) is not None and row.get(target) is not None:
            gaps.append(abs(row[value] - row[target]))
    return sum(gaps) if gaps else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
