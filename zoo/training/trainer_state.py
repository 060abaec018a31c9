"""The state of a trainer: what a checkpoint holds, and whether it is finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo.runtime import distributed
from zoo.training.optimizers import load_optimizer_state

if TYPE_CHECKING:
    from zoo.training.trainer import Trainer


def collect_state(trainer: Trainer) -> dict[str, Any]:
    """Return tensors and plain values that later steps depend on. All processes must call it together."""
    return {
        "nimg": trainer.nimg,
        "generator": trainer.G.state_dict(),
        "discriminator": trainer.D.state_dict(),
        "ema": trainer.ema.module.state_dict(),
        "optimizers": {phase: optimizer.state_dict() for phase, optimizer in trainer.optimizers.items()},
        "meters": distributed.all_gather(trainer.meters.state_dict()),
        "memory": trainer.objective.memory.state_dict(),
        "ada": trainer.ada.state_dict() if trainer.ada is not None else None,
        "micro_batch": trainer.micro_batch if trainer.micro_batch < trainer.local_batch else None,
        **{name: helper.state_dict() for name, helper in trainer.helpers.items()},
        "snapshot_emas": [ema.module.state_dict() for ema in trainer.snapshot_emas],
    }


def restore_state(trainer: Trainer, state: dict[str, Any]) -> None:
    """Set a new trainer to what :func:`collect_state` returned."""
    trainer.nimg = state["nimg"]
    trainer.G.load_state_dict(state["generator"])
    trainer.D.load_state_dict(state["discriminator"])
    trainer.ema.module.load_state_dict(state["ema"])
    for name, helper in trainer.helpers.items():
        helper.load_state_dict(state[name])
    for ema, weights in zip(trainer.snapshot_emas, state.get("snapshot_emas", []), strict=True):
        ema.module.load_state_dict(weights)
    for phase, optimizer in trainer.optimizers.items():
        load_optimizer_state(optimizer, state["optimizers"][phase], fused=trainer.speed.fused)
    trainer.meters.load_gathered(state["meters"], trainer.world, trainer.device)
    trainer.objective.memory.load_state_dict(state.get("memory", {}))
    if trainer.ada is not None:
        trainer.ada.load_state_dict(state["ada"], trainer.device)
    # Earlier versions halved micro-batches by themselves; such a run continues with what it saved.
    trainer.wanted_micro_batch = state.get("micro_batch") or trainer.recipe.train.micro_batch


def find_nonfinite_state(trainer: Trainer) -> str | None:
    """Return the name of a mean or weight that is NaN or infinite, or None; this waits for the device."""
    named = dict(trainer.meters.sums)
    for side, network in (("generator", trainer.G), ("discriminator", trainer.D)):
        named |= {f"{side}.{key}": x for key, x in network.state_dict().items() if x.is_floating_point()}
    finite = torch.stack([tensor.isfinite().all() for tensor in named.values()]).cpu()  # one wait for all
    return next((name for name, good in zip(named, finite.tolist(), strict=True) if not good), None)
