"""CUDA graphs: a small network's step is hundreds of launches, each shorter than what it takes to ask for it.

A step's segments (a forward pass; forward, backward and loss) are run as they are a few times, then recorded, in the
order in which they will be replayed. Before a recording counts it must give the gradients that the segment itself gives
on the same images; one that cannot be made, or gives something else, is done without, in a line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

WARM = 3  # steps before a recording: cuDNN's choices and compilers must have come to rest
ALIKE = 0.99  # cosine between gradients of a recording and of the segment itself: the order of additions may differ


class Part(Protocol):
    """What goes in and comes out of segments."""

    fake: Tensor | None
    values: list[tuple[tuple[str, ...], Tensor]]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What goes in, by attribute: the same ones in every step."""
        ...


P = TypeVar("P", bound=Part)


@dataclass
class _Record:
    replay: Callable[[], None]
    gradients: list[tuple[nn.Parameter, Tensor]]
    values: list[tuple[tuple[str, ...], Tensor]]
    fake: Tensor | None


@dataclass
class _Variant(Generic[P]):
    """The recordings of steps in which the same terms are due."""

    steps: int = 0
    static: P | None = None  # what recordings read and write, from the step on in which they are made
    records: dict[str, _Record] = field(default_factory=dict)
    ready: bool = False


class Graphs(Generic[P]):
    """Recordings of the segments of a step; one pool of memory for all of them.

    Args:
        networks: whose parameters get gradients and whose buffers move.
        say: is told, in a line, of recordings that are done without.
    """

    def __init__(self, networks: Sequence[nn.Module], say: Callable[[str], None]) -> None:
        self.networks, self.say = networks, say
        self.off = False
        self._variants: dict[tuple[str, ...], _Variant[P]] = {}
        self._pool: Any = None

    def run(
        self,
        name: str,
        variant: tuple[str, ...],
        part: P,
        segment: Callable[[P], None],
        seed: Callable[[], None],
        *,
        first: bool,
        last: bool,
    ) -> None:
        """Do ``segment(part)``, by its recording if there is one.

        Args:
            name: of the segment.
            variant: what else decides which operations it consists of: the terms that are due.
            part: its images and latents; what it makes is set on it.
            segment: operations on tensors alone, the same ones each time.
            seed: sets the state of random numbers that the segment begins with.
            first, last: whether a step begins or ends with it.
        """
        if first and not self.off:
            self._begin(variant, part)
        own = self._variants.get(variant)  # none in the rest of a step in which recordings were dropped
        if own is None or own.static is None:
            seed()
            segment(part)
            return
        if own.ready:
            record = own.records[name]
            seed()
            record.replay()
            for parameter, gradient in record.gradients:
                parameter.grad = gradient
            part.fake, part.values = record.fake, list(record.values)
            return
        recorded = self._record(own, name, segment, seed)
        seed()
        segment(part)
        if recorded is not None and not _alike(recorded, self._gradients()):
            self.stop(f"the recording of {name} gives other gradients")
        own.ready = last and not self.off

    def reset(self) -> None:
        """Forget all recordings, and what they hold; new ones are made after some steps."""
        self._variants.clear()
        self._pool = None

    def stop(self, why: str) -> None:
        """Do without, from here on."""
        self.off = True
        self.reset()
        self.say(f"speed.cuda_graphs: {why}; off")

    def _begin(self, variant: tuple[str, ...], part: P) -> None:
        own = self._variants.setdefault(variant, _Variant())
        own.steps += 1
        if own.static is not None and not own.ready:  # the step in which it was recorded was broken off
            own.static, own.steps = None, 1
            own.records.clear()
        if own.static is None and own.steps > WARM:
            fresh: dict[str, Any] = {name: tensor.clone() for name, tensor in part.inputs.items()}
            own.static = type(part)(**{**vars(part), **fresh, "fake": None, "values": []})
        elif own.static is not None:
            for name, tensor in part.inputs.items():
                own.static.inputs[name].copy_(tensor)

    def _record(
        self, own: _Variant[P], name: str, segment: Callable[[P], None], seed: Callable[[], None]
    ) -> list[Tensor] | None:
        """Record, replay once, and give copies of its gradients; buffers and gradients are then as before."""
        static = own.static
        assert static is not None
        before = {p: p.grad for network in self.networks for p in network.parameters()}
        buffers = [(b, b.clone()) for network in self.networks for b in network.buffers()]
        for parameter in before:
            parameter.grad = None
        static.values = []
        try:
            replay = self._capture(lambda: segment(static))
            gradients = [(p, p.grad) for p in before if p.grad is not None]
            own.records[name] = _Record(replay, gradients, list(static.values), static.fake)
            seed()
            replay()
            return [gradient.clone() for _, gradient in gradients]
        except torch.OutOfMemoryError:
            self.stop("there is no memory for recordings")
        except RuntimeError as error:
            self.stop(str(error).splitlines()[0])
        finally:
            for parameter, gradient in before.items():
                parameter.grad = gradient
            for buffer, value in buffers:
                buffer.data.copy_(value)  # .data: a graph whose backward is still to come must not mind
        return None

    def _capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record what ``function`` launches, and give what launches it again."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Another thread, which fetches images, may go on with what it does.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            function()
        return graph.replay

    def _gradients(self) -> list[Tensor]:
        return [p.grad for network in self.networks for p in network.parameters() if p.grad is not None]


def _alike(recorded: list[Tensor], own: list[Tensor]) -> bool:
    if len(recorded) != len(own):
        return False
    if not own:
        return True
    a, b = (torch.cat([gradient.flatten().float() for gradient in side]) for side in (recorded, own))
    return bool(torch.nn.functional.cosine_similarity(a, b, dim=0) > ALIKE)
