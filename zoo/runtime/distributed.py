"""Training one network in several processes, started by ``torchrun``.

Without torchrun there is one process, and every function here does what is right for one. Networks are not wrapped in
DistributedDataParallel, which silently loses gradients of a double backward (R1, R2): one all-reduce after the backward
passes of a phase sums the gradients instead. See docs/scaling.md.
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

TIMEOUT = datetime.timedelta(minutes=30)  # the others wait while the first computes metrics or writes a checkpoint


class LostPeerError(RuntimeError):
    """A collective operation failed because another process is gone."""


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: number of this process, 0 to size - 1.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.rank == 0

    def cut(self, batch: int) -> slice:
        """Return this process's part of a global batch."""
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)


def is_launched() -> bool:
    """Return whether torchrun, or a compatible launcher, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def was_restarted() -> bool:
    """Return whether torchrun restarted the processes after one died; a collective, to be called by all."""
    return any(all_gather(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0))


def local_rank() -> int:
    """Return the number of this process on its host, which is also the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Join the process group for the duration of the block: NCCL for tensors on a GPU, gloo for those on the CPU.

    Raises:
        ZooError: the processes cannot connect to each other.
    """
    if not is_launched() or dist.is_initialized():
        yield current_world()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        own_store = dist.PrefixStore(_agree_on_prefix(store, rank, size), store)
        dist.init_process_group(backend, store=own_store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ZooError(f"torchrun's processes cannot connect to each other: {str(error).splitlines()[0]}") from None
    try:
        yield current_world()
    finally:
        dist.destroy_process_group()


def _agree_on_prefix(store: Any, rank: int, size: int) -> str:
    """Return a key prefix shared by the processes of this start of the group and by no earlier start.

    torchrun may keep its store when it restarts a group, with the addresses of dead processes in it, and its restart
    count differs between hosts. So each process greets under a random name; the first answers every greeting it finds,
    old ones too, with the prefix it chose, and continues when all have confirmed it.
    """
    name = uuid.uuid4().hex
    if rank > 0:
        store.set(f"zoo/hello/{rank}", name)
        prefix = store.get(f"zoo/answer/{name}").decode()
        store.set(f"zoo/heard/{prefix}/{rank}", "")
        return f"zoo/{prefix}"
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    waiting = set(range(1, size))
    while waiting:
        for other in list(waiting):
            if store.check([f"zoo/heard/{name}/{other}"]):
                waiting.discard(other)
            elif store.check([f"zoo/hello/{other}"]):
                store.set(f"zoo/answer/{store.get(f'zoo/hello/{other}').decode()}", name)
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {min(waiting)} did not start")
        time.sleep(0.01)
    return f"zoo/{name}"


def current_world() -> World:
    """Return rank and size of the current process group."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    """Turn errors of a collective into :class:`LostPeerError`.

    gloo raises a plain RuntimeError when a connection breaks, so the type must come from the place it is raised at.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostPeerError(str(error)) from error


def is_lost_peer(error: BaseException) -> bool:
    """Return whether ``error`` means that another process is gone; NCCL and torch's stores raise DistError."""
    return isinstance(error, LostPeerError | dist.DistError)


def barrier() -> None:
    """Wait until all processes have called this."""
    if dist.is_initialized():
        with _collective():
            dist.barrier()


def broadcast(value: Any) -> Any:
    """Return the first process's plain ``value`` in all of them."""
    values = [value]
    if dist.is_initialized():
        with _collective():
            dist.broadcast_object_list(values, src=0)
    return values[0]


def all_gather(value: Any) -> list[Any]:
    """Return the plain ``value`` of every process, by rank, in all of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    with _collective():
        dist.all_gather_object(values, value)
    return values


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> int:
    """Sum gradients over all processes, in place, in one flat message per dtype.

    Returns:
        bytes that this process sent.
    """
    if not dist.is_initialized():
        return 0
    bytes_sent = 0
    grads = [p.grad for p in parameters if p.grad is not None]
    for dtype in dict.fromkeys(grad.dtype for grad in grads):
        group = [grad for grad in grads if grad.dtype == dtype]
        # Dense gradients in the order of their memory, whatever their strides, to avoid a copy: all processes agree.
        views = [grad.as_strided((grad.numel(),), (1,)) if _is_dense(grad) else grad.reshape(-1) for grad in group]
        flat = torch.cat(views)
        _all_reduce(flat)
        for grad, view, part in zip(group, views, flat.split([view.numel() for view in views]), strict=True):
            view.copy_(part) if _is_dense(grad) else grad.copy_(part.view_as(grad))
        bytes_sent += flat.nbytes
    return bytes_sent


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill their memory without holes, as NCHW or channels_last."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def _all_reduce(x: Tensor) -> None:
    with _collective():
        dist.all_reduce(x)


class _Sum(torch.autograd.Function):
    """A sum over processes; the gradient of a sum over processes is the sum over processes of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        _all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.apply(gradients[0])  # through itself, so that it can be differentiated again (R1, R2)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all processes; differentiable any number of times, through all of them."""
    return _Sum.apply(x) if dist.is_initialized() else x
