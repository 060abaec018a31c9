"""The time of each part of a training step, compared with the roofline of the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from zoo.runtime.timer import synchronize
from zoo.training.profiling.roofline import DeviceRates, StepWork, count_work, measure_rates, roofline_seconds
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state

WARMUP_PERIODS = 4  # before anything is timed: memory is allocated, kernels chosen, code compiled
PART_TITLES = {
    "data": "data",
    "fakes": "G forward",
    "D": "D forward and backward",
    "G": "D again, backward through D and G",
    "both": "G and D, forward and backward",
    "penalties": "penalties",
    "all-reduce": "all-reduce",
    "optimiser": "optimisers",
    "ema": "average of weights",
    "logging": "logging",
}


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """Where a step spends its time, in seconds.

    Attributes:
        parts: time of each part, in the order of a step; their sum is ``profiled``.
        profiled: time of a step whose parts are timed one by one.
        step: time of an undisturbed step, which is what training takes.
        floor: least possible time of a step, its roofline (see ``zoo.training.profiling.roofline``).
        batch: images of a step.
        work, rates: what the roofline was computed from.
    """

    parts: dict[str, float]
    profiled: float
    step: float
    floor: float
    batch: int
    work: StepWork
    rates: DeviceRates

    def to_json(self) -> dict[str, Any]:
        return {
            **{key: getattr(self, key) for key in ("parts", "profiled", "step", "floor", "batch")},
            "img_per_s": self.batch / self.step,
            "share_of_floor": self.floor / self.step,
            "work": vars(self.work),
            "rates": vars(self.rates),
        }


def profile_steps(trainer: Trainer, seconds: float = 10.0) -> StepProfile:
    """Time undisturbed steps, steps part by part, and (with penalties) steps without them, ``seconds`` each.

    The steps change the networks: the trainer cannot be used afterwards.
    """
    period = trainer.objective.period
    for _ in range(WARMUP_PERIODS * period):
        trainer.step()
    alone, _ = _timed(trainer, seconds, period)
    trainer.timer.on = True
    trainer.step()
    parts = _parts(trainer, seconds, period)
    terms = trainer.objective.terms
    if any(term.differentiates for term in terms):
        trainer.objective.terms = [term for term in terms if not term.differentiates]
        for _ in range(WARMUP_PERIODS):
            trainer.step()
        without = _parts(trainer, seconds, 1)
        trainer.objective.terms = terms
        parts["penalties"] = sum(max(0.0, parts[key] - without.get(key, 0.0)) for key in ("D", "both") if key in parts)
        parts |= {key: min(parts[key], without[key]) for key in ("D", "both") if key in parts}
    start = time.perf_counter()
    trainer.meters.means()
    find_nonfinite_state(trainer)
    rows = trainer.recipe.train.log_kimg * 1000 / trainer.batch
    parts["logging"] = (time.perf_counter() - start) / max(1.0, rows)
    counted, measured = count_work(trainer.recipe, trainer.data), measure_rates(trainer.device)
    local = trainer.batch // trainer.world.size
    return StepProfile(
        parts={key: parts[key] for key in PART_TITLES if key in parts},
        profiled=sum(parts.values()),
        step=alone,
        floor=roofline_seconds(counted, measured, trainer.speed, local),
        batch=trainer.batch,
        work=counted,
        rates=measured,
    )


def _timed(trainer: Trainer, seconds: float, period: int) -> tuple[float, int]:
    """Seconds per step, and steps taken: whole periods of lazy penalties, until ``seconds`` have passed."""
    synchronize(trainer.device)
    start, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - start < seconds:
        for _ in range(period):
            trainer.step()
        steps += period
        synchronize(trainer.device)
    return (time.perf_counter() - start) / steps, steps


def _parts(trainer: Trainer, seconds: float, period: int) -> dict[str, float]:
    """Seconds per step of each part."""
    watch = trainer.timer
    watch.seconds = {}
    _, steps = _timed(trainer, seconds, period)
    return {name: took / steps for name, took in watch.seconds.items()}
