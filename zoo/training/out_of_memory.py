"""The error for a step that does not fit the memory: it names the largest micro-batch that does."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import torch

from zoo.core.errors import ZooError
from zoo.models.batch_norm import has_batch_statistics
from zoo.training.networks import check_micro_batch

if TYPE_CHECKING:
    from zoo.training.trainer import Trainer


def is_out_of_memory(error: BaseException) -> bool:
    # On a CPU torch raises a plain RuntimeError with this text.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def explain_out_of_memory(trainer: Trainer) -> ZooError:
    """The error to raise after a step of ``trainer`` ran out of memory; the trainer cannot be used afterwards."""
    tried = trainer.micro_batch
    text = f"train.micro_batch: {tried} images at once do not fit the memory of {trainer.device}"
    if trainer.world.size > 1:
        # The others wait in a collective: this process cannot probe alone.
        local = trainer.batch // trainer.world.size
        return ZooError(f"{text} in process {trainer.world.rank}; set a smaller one that divides {local}")
    fitting = _largest_fitting(trainer)
    if fitting is None:
        advice = "use a smaller network, resolution or device"
        return ZooError(f"{text}, and neither does any smaller part that the recipe allows; {advice}")
    normalised = [
        side
        for side, network in (("generator", trainer.G), ("discriminator", trainer.D))
        if has_batch_statistics(network)
    ]
    note = ""
    if normalised:
        note = f" (the {' and the '.join(normalised)} normalises over the batch, so smaller ones change numbers)"
    return ZooError(f"{text}; {fitting} is the most that fits: --set train.micro_batch={fitting}{note}")


def _largest_fitting(trainer: Trainer) -> int | None:
    """Return the largest smaller micro-batch of which two fit; None where none does that the recipe allows."""
    tried = trainer.micro_batch
    for size in (size for size in range(tried // 2, 0, -1) if tried % size == 0 and _accepted(trainer, size)):
        _free(trainer)
        trainer.micro_batch = size
        try:
            # Gradients of the first micro-batch are in memory when the second passes.
            trainer.probe(trainer.next_batch()[:2])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        except ValueError:  # a batch norm over one value
            return None
        else:
            return size
    return None


def _accepted(trainer: Trainer, size: int) -> bool:
    """Return whether a run may be started with this micro-batch: a step alone also passes with parts of a pack."""
    try:
        check_micro_batch(trainer.recipe, trainer.D, trainer.batch, size)
    except ZooError:
        return False
    return True


def _free(trainer: Trainer) -> None:
    for optimizer in trainer.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
