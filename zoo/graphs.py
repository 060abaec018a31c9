"""CUDA graphs: a small network's step is hundreds of launches, each shorter than what it takes to ask for it.

A segment (a forward pass, or forward, backward and loss) is run as it is a few times, then recorded once and replayed.
Before a recording counts it must give what the segment itself gives on the same images; one that cannot be made, or
gives something else, is done without, in a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

WARM = 3  # calls before a recording: cuDNN's choices and compilers must have come to rest
ALIKE = 0.99  # cosine between gradients of a recording and of the segment itself: the order of additions may differ


class Part(Protocol):
    """What goes in and comes out of segments."""

    real: Tensor
    z: Tensor


P = TypeVar("P", bound=Part)


@dataclass
class _Record:
    calls: int = 0
    replay: Callable[[], None] | None = None
    gradients: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)


class Graphs:
    """Recordings of the segments of a step; one pool of memory for all of them.

    Args:
        networks: whose parameters get gradients and whose buffers move.
        say: is told, in a line, of recordings that are done without.
    """

    def __init__(self, networks: Sequence[nn.Module], say: Callable[[str], None]) -> None:
        self.networks, self.say = networks, say
        self.off = False
        self._records: dict[tuple[str, ...], _Record] = {}
        self._static: dict[tuple[str, ...], Part] = {}
        self._pool: Any = None

    def run(
        self, name: str, variant: tuple[str, ...], part: P, segment: Callable[[P], None], seed: Callable[[], None]
    ) -> None:
        """Do ``segment(part)``, by its recording if there is one.

        Args:
            name: of the segment.
            variant: what else decides which operations it consists of: the terms that are due.
            part: its images and latents; what it makes is set on it.
            segment: operations on tensors alone, the same ones each time.
            seed: sets the state of random numbers that the segment begins with.
        """
        record = self._records.setdefault((name, *variant), _Record())
        if record.replay is not None and not self.off:
            static = self._fill(variant, part)
            seed()
            record.replay()
            for parameter, gradient in record.gradients:
                parameter.grad = gradient
            vars(part).update(vars(static))
            return
        record.calls += 1
        if self.off or record.calls <= WARM:
            seed()
            segment(part)
            return
        recorded = self._record(record, variant, part, segment, seed)
        seed()
        segment(part)
        if recorded is not None and not _alike(recorded, self._gradients()):
            self._without(f"the recording of {name} gives other gradients")

    def _record(
        self,
        record: _Record,
        variant: tuple[str, ...],
        part: P,
        segment: Callable[[P], None],
        seed: Callable[[], None],
    ) -> list[Tensor] | None:
        """Record, replay once, and give copies of its gradients; buffers and gradients are then as before."""
        static = self._fill(variant, part)
        before = {p: p.grad for network in self.networks for p in network.parameters()}
        buffers = [(b, b.clone()) for network in self.networks for b in network.buffers()]
        for parameter in before:
            parameter.grad = None
        try:
            replay = self._capture(lambda: segment(static))
            record.gradients = [(p, p.grad) for p in before if p.grad is not None]
            seed()
            replay()
            copies = [gradient.clone() for _, gradient in record.gradients]
            record.replay = replay
            return copies
        except torch.OutOfMemoryError:
            self._without("there is no memory for recordings")
        except RuntimeError as error:
            self._without(str(error).splitlines()[0])
        finally:
            for parameter, gradient in before.items():
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, value in buffers:
                    if not torch.equal(buffer, value):  # others may belong to a graph whose backward is still to come
                        buffer.copy_(value)
        return None

    def _capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record what ``function`` launches, and give what launches it again."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            function()
        return graph.replay

    def _fill(self, variant: tuple[str, ...], part: P) -> P:
        """The tensors that a variant's recordings read, filled from ``part``."""
        static = self._static.get(variant)
        if static is None:
            own = {"real": part.real.clone(), "z": part.z.clone()}
            static = self._static[variant] = type(part)(**{**vars(part), **own})
        if static.real is not part.real:  # else an earlier segment of this step has filled them
            static.real.copy_(part.real)
            static.z.copy_(part.z)
        return static  # type: ignore[return-value]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for network in self.networks for p in network.parameters() if p.grad is not None]

    def _without(self, why: str) -> None:
        self.off = True
        self._records.clear()
        self.say(f"speed.cuda_graphs: {why}; off")


def _alike(recorded: list[Tensor], own: list[Tensor]) -> bool:
    if len(recorded) != len(own):
        return False
    if not own:
        return True
    a, b = (torch.cat([gradient.flatten().float() for gradient in side]) for side in (recorded, own))
    return bool(torch.nn.functional.cosine_similarity(a, b, dim=0) > ALIKE)
