"""Many processes that train one network: who I am among them, and what we tell each other.

``torchrun`` starts the processes and says so in the environment; without it there is one, and every function here is
what one process would do. Networks are never wrapped: after backward, one flat all-reduce a phase makes every
process's gradients those of the global batch (DDP loses gradients of a double backward, silently).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zoo.core.errors import ZooError

TIMEOUT = datetime.timedelta(minutes=30)  # the others wait while the first measures metrics or writes a checkpoint


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: this one's number, 0 to size - 1.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def cut(self, batch: int) -> slice:
        """This process's part of a global batch."""
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)


def is_launched() -> bool:
    """Whether torchrun, or something that speaks as it does, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def was_restarted() -> bool:
    """Whether torchrun started the processes again, after one of them died. All must ask together."""
    return any(all_gather(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0))


def local_rank() -> int:
    """This process's number on its host, which is also its GPU's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """The world this process belongs to, joined for as long as the context lasts.

    Tensors on a GPU travel by NCCL, those on a CPU by gloo.

    Raises:
        ZooError: the processes do not find one another.
    """
    if not is_launched() or dist.is_initialized():
        yield current_world()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        own = dist.PrefixStore(_generation(store, rank, size), store)
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ZooError(f"torchrun's processes do not find one another: {str(error).splitlines()[0]}") from None
    try:
        yield current_world()
    finally:
        dist.destroy_process_group()


def _generation(store: Any, rank: int, size: int) -> str:
    """A name that the processes of this start of the group share, and no earlier start did.

    torchrun may keep its store when it starts a group again, and with it the addresses of processes that are gone; its
    count of restarts is each host's own. So each process says hello by a name of its own, the first answers every
    hello it finds, old ones too, with the name it has chosen, and goes on when all have said that they heard it.
    """
    mine = uuid.uuid4().hex
    until = time.monotonic() + TIMEOUT.total_seconds()
    if rank > 0:
        store.set(f"zoo/hello/{rank}", mine)
        chosen = store.get(f"zoo/answer/{mine}").decode()
        store.set(f"zoo/heard/{chosen}/{rank}", "")
        return f"zoo/{chosen}"
    waiting = set(range(1, size))
    while waiting:
        for other in list(waiting):
            if store.check([f"zoo/heard/{mine}/{other}"]):
                waiting.discard(other)
            elif store.check([f"zoo/hello/{other}"]):
                store.set(f"zoo/answer/{store.get(f'zoo/hello/{other}').decode()}", mine)
        if time.monotonic() > until:
            raise RuntimeError(f"process {min(waiting)} has not come")
        time.sleep(0.01)
    return f"zoo/{mine}"


def current_world() -> World:
    """The world as it is now."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


def barrier() -> None:
    """Go on when all have come here."""
    if dist.is_initialized():
        dist.barrier()


def broadcast(value: Any) -> Any:
    """The first process's plain ``value``, in all of them."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather(value: Any) -> list[Any]:
    """Every process's plain ``value``, in order, in all of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> int:
    """Sum gradients over all processes, in place, in one flat message for each dtype.

    Returns:
        bytes sent by this process's message.
    """
    if not dist.is_initialized():
        return 0
    sent = 0
    grads = [p.grad for p in parameters if p.grad is not None]
    for dtype in dict.fromkeys(grad.dtype for grad in grads):
        same = [grad for grad in grads if grad.dtype == dtype]
        # In the memory's own order, whatever the strides: all processes have the same.
        views = [grad.as_strided((grad.numel(),), (1,)) if _dense(grad) else grad.reshape(-1) for grad in same]
        flat = torch.cat(views)
        dist.all_reduce(flat)
        for grad, view, part in zip(same, views, flat.split([view.numel() for view in views]), strict=True):
            view.copy_(part) if _dense(grad) else grad.copy_(part.view_as(grad))
        sent += flat.nbytes
    return sent


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without holes, in some order (NCHW or channels_last)."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is no longer there."""
    text = str(error).lower()
    words = ("connection closed", "connection reset", "gloo", "nccl", "broken pipe", "timed out", "store")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


class _Sum(torch.autograd.Function):
    """A sum over processes whose gradient, of any order, is the sum over processes of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.apply(gradients[0])


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of every process's ``x``; differentiable as often as one likes, through all of them."""
    return _Sum.apply(x) if dist.is_initialized() else x
