"""Objects of the caller that watch a training; what they do changes no number of it.

A callback is any object with any of these methods, which are called in the process that writes the run:

    on_log(row)               a row of the log: a dict of numbers, with ``nimg``
    on_images(nimg, images)   the images of a sample grid, uint8 (N, C, R, R) on the CPU; the first are of nimg 0
    on_checkpoint(path)       a checkpoint is complete
    on_end(run)               training has ended; ``run.info["status"]`` says how
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import ZooError, describe_error
from zoo.runtime.device import keep_thread_count
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.run_folder import Run

METHODS = ("on_log", "on_images", "on_checkpoint", "on_end")
CALLBACK_FAILED = 2000  # as a reason to stop: above every signal's number, since the largest of all processes counts


class Callbacks:
    """Calls the methods that each callback has, and remembers the first exception.

    Args:
        callbacks: objects with any of ``METHODS``.
        device: of the training, whose random state is restored after each call.

    Attributes:
        failure: which callback raised what, in one line; None: none did.

    Raises:
        ZooError: an object has none of the methods.
    """

    def __init__(self, callbacks: Sequence[Any], device: torch.device) -> None:
        check_callbacks(callbacks)
        self._callbacks = list(callbacks)
        self._devices = [device] if device.type == "cuda" else []
        self.failure: str | None = None

    @property
    def stop_reason(self) -> int | None:
        """Why training must stop now, for the loop; None: it need not."""
        return None if self.failure is None else CALLBACK_FAILED

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass a copy of a row of the log on."""
        self._call("on_log", lambda: (deepcopy(dict(row)),))

    def images(self, nimg: int, images: Tensor) -> None:
        """Pass a copy of uint8 images (N, C, R, R) on."""
        self._call("on_images", lambda: (nimg, images.detach().cpu().clone()))

    def checkpoint(self, path: Path) -> None:
        """Pass the file of a complete checkpoint on."""
        self._call("on_checkpoint", lambda: (path,))

    def end(self, run: Run) -> None:
        """Pass the run on, whose training has ended."""
        self._call("on_end", lambda: (Run(run.path),))

    def _call(self, name: str, arguments: Callable[[], tuple[Any, ...]]) -> None:
        for callback in list(self._callbacks):
            method = getattr(callback, name, None)
            if method is None:
                continue
            try:
                with self._unchanged_state():
                    method(*arguments())
            except Exception as error:
                self._callbacks.remove(callback)  # the others are still called, such as with the last checkpoint
                self.failure = self.failure or f"{type(callback).__name__}.{name} failed ({describe_error(error)})"

    @contextlib.contextmanager
    def _unchanged_state(self) -> Iterator[None]:
        """Keep torch's random state, settings and threads, whatever a callback does to them."""
        with torch.random.fork_rng(self._devices), keep_thread_count(), torch_defaults(gradients=True):
            yield


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Check that each object has a method that is called.

    Raises:
        ZooError: one has none.
    """
    if not isinstance(callbacks, list | tuple):
        raise ZooError(f"callbacks: must be a list of objects, not {type(callbacks).__name__}")
    for index, callback in enumerate(callbacks):
        if not any(callable(getattr(callback, name, None)) for name in METHODS):
            kind = type(callback).__name__
            raise ZooError(f"callbacks[{index}]: {kind} has none of the methods {', '.join(METHODS)}")
