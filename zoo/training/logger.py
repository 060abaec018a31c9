"""Scalars of training: means summed on the device, and rows in ``log.jsonl``."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import torch
from torch import Tensor

from zoo.runtime import distributed
from zoo.training.run_folder import Run


def describe_logits(real: Tensor, fake: Tensor, *, has_zero: bool) -> dict[str, Tensor]:
    """Return means of D's logits (N,), and the shares that it ranks correctly.

    Args:
        has_zero: whether D calls images above 0 real; relativistic and Wasserstein logits have no zero: only their
            differences mean anything.
    """
    values = {"d_real": real.mean(), "d_fake": fake.mean()}
    if has_zero:
        return values | {"d_acc_real": (real > 0).float().mean(), "d_acc_fake": (fake < 0).float().mean()}
    return values | {"d_acc_pairs": (real > fake).float().mean()}


class MeanMeters:
    """Means of scalars between two rows of the log, summed on the device without waiting for it.

    The sums are part of a checkpoint, so that a row that spans a kill is the row of an unbroken run.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # scalars of one vector are summed in one operation
        self._batches: dict[tuple[str, ...], float] = {}

    @property
    def sums(self) -> dict[str, Tensor]:
        """The sum of each scalar so far."""
        sums: dict[str, Tensor] = {}
        for names, vector in self._sums.items():
            for name, value in zip(names, vector.unbind(), strict=True):
                sums[name] = sums[name] + value if name in sums else value
        return sums

    @property
    def batches(self) -> dict[str, float]:
        """The number of batches behind each sum."""
        batches: dict[str, float] = {}
        for names, count in self._batches.items():
            for name in names:
                batches[name] = batches.get(name, 0.0) + count
        return batches

    def add(self, names: tuple[str, ...], vector: Tensor, share: float = 1.0) -> None:
        """Add a vector (len(names),) of scalars; ``share`` is a micro-batch's part of its batch."""
        weighted = vector * share
        self._sums[names] = self._sums[names] + weighted if names in self._sums else weighted
        self._batches[names] = self._batches.get(names, 0.0) + share

    def means(self) -> dict[str, float]:
        """Means since the last reset, over all processes, which must call it together (this waits for the device)."""
        sums = self.sums
        values = torch.stack(list(sums.values())).tolist() if sums else []
        parts = distributed.all_gather((dict(zip(sums, values, strict=True)), self.batches))
        # By name: a process that joined later does not know a penalty that was due before.
        names = dict.fromkeys(name for part, _ in parts for name in part)
        totals, counts = ({n: sum(part[side].get(n, 0.0) for part in parts) for n in names} for side in (0, 1))
        return {name: totals[name] / counts[name] for name in names}

    def merge(self, other: MeanMeters) -> None:
        """Add the sums of ``other``."""
        for names, vector in other._sums.items():
            self._sums[names] = self._sums[names] + vector if names in self._sums else vector
            self._batches[names] = self._batches.get(names, 0.0) + other._batches[names]

    def reset(self) -> None:
        self._sums.clear()
        self._batches.clear()

    def state_dict(self) -> dict[str, Any]:
        """The sums as they are stored, so that later ones round as in an unbroken run."""
        return {
            "sums": {",".join(names): vector.cpu() for names, vector in self._sums.items()},
            "batches": {",".join(names): count for names, count in self._batches.items()},
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self._sums = {tuple(key.split(",")): vector.to(device).reshape(-1) for key, vector in state["sums"].items()}
        self._batches = {tuple(key.split(",")): count for key, count in state["batches"].items()}

    def load_gathered(self, states: Any, world: distributed.World, device: torch.device) -> None:
        """Load what every process of a checkpoint had summed; with another number of processes, the first takes all."""
        states = states if isinstance(states, list) else [states]  # the first versions saved one
        if len(states) == world.size:
            self.load_state_dict(states[world.rank], device)
        elif world.first:
            for state in states:
                other = MeanMeters()
                other.load_state_dict(state, device)
                self.merge(other)


class LogFile:
    """``log.jsonl``, opened for appending; every row is flushed as a whole."""

    def __init__(self, run: Run) -> None:
        self._file = run.log_file.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        # json writes NaN as NaN, which is not JSON: other readers refuse it.
        safe = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        self._file.write(json.dumps(safe) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make all rows durable before the checkpoint that belongs to them is written."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
