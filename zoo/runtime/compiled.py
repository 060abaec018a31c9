"""Networks through ``torch.compile``, and without it where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def is_compilers(error: BaseException) -> bool:
    """Whether it was the compiler that failed, and not what it compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))


class Compiled:
    """A network's forward pass, compiled at its first call.

    Random numbers are drawn by torch's own kernels, as in the network itself. A network that cannot be compiled runs
    as it is, and a line says so.

    Args:
        network: what to call.
        on: compile it.
        say: is told that compilation begins, how long it took, and of failures.
    """

    def __init__(self, network: nn.Module, on: bool, say: Callable[[str], None]) -> None:
        self.network, self.say = network, say
        self._function: Callable[[Tensor, Tensor | None], Tensor] | None = None
        self._called = False
        if on:
            import torch._inductor.config as inductor

            inductor.fallback_random = True
            self._function = torch.compile(network, dynamic=False)

    def __call__(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        if self._function is None:
            return self.network(x, label)
        name, start = type(self.network).__name__, time.monotonic()
        if not self._called:
            self.say(f"compiling {name} (once: it is kept for later runs)")
        try:
            result = self._function(x, label)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler, or its absence, may answer
            self.give_up(error)
            return self.network(x, label)
        if not self._called:
            self._called = True
            self.say(f"compiled {name} in {time.monotonic() - start:.1f} s")
        return result

    def give_up(self, error: Exception) -> None:
        """Call the network itself from here on."""
        if self._function is not None:
            self._function = None
            words = str(error).strip().splitlines() or [type(error).__name__]
            self.say(f"speed.compile: {type(self.network).__name__}: {words[0]}; off")
