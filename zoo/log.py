"""Numbers while training: sums kept on the device, rows in ``log.jsonl``."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.precision import full
from zoo.run import Run


class Meters:
    """Means of scalars between two rows of the log, summed on the device without waiting for it.

    The sums are part of a checkpoint, so that a row that spans a kill is the row of an unbroken run.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.batches: dict[str, float] = {}

    def add(self, values: dict[str, Tensor], share: float = 1.0) -> None:
        """Add scalar tensors; ``share`` is a micro-batch's part of its batch."""
        for name, value in values.items():
            weighted = full(value.detach()) * share
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
            self.batches[name] = self.batches.get(name, 0.0) + share

    def means(self) -> dict[str, float]:
        """Means since the last reset (this waits for the device)."""
        return {name: total.item() / self.batches[name] for name, total in self.sums.items()}

    def reset(self) -> None:
        self.sums.clear()
        self.batches.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: value.cpu() for name, value in self.sums.items()}, "batches": dict(self.batches)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.batches = dict(state["batches"])


class LogFile:
    """``log.jsonl``, opened for appending; every row is whole and flushed."""

    def __init__(self, run: Run) -> None:
        self._file = run.log_file.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        # json writes NaN as NaN, which no other reader takes.
        safe = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        self._file.write(json.dumps(safe) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make all rows durable; called before a checkpoint, which promises them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Board:
    """The same numbers for TensorBoard, in the run's folder ``tensorboard``.

    Raises:
        ZooError: the package tensorboard is not installed.
    """

    def __init__(self, run: Run, nimg: int) -> None:
        self.require()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run.path / "tensorboard", purge_step=nimg + 1)

    @staticmethod
    def require() -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ZooError("--tensorboard needs the package tensorboard: pip install 'gan-zoo[tensorboard]'")

    def write(self, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, int | float) and key != "nimg":
                self._writer.add_scalar(key, value, row["nimg"])
        self._writer.flush()
