"""What surrounds CUDA graphs, with recordings that are made on the CPU: a replay does the segment again, into the
same memory.
"""

import pytest
import torch

from zoo import recipes
from zoo.data.dataset import load_dataset
from zoo.models.batch_norm import batch_norm_momentum
from zoo.training.graphs import WARM, Graphs
from zoo.training.trainer import Trainer

TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=4"]


class Recorded(Graphs):
    """Counts replays; ``wrong`` gives other gradients than the segment, ``broken`` cannot record at all."""

    wrong = broken = False

    def __init__(self, networks, say):
        super().__init__(networks, say)
        self.replays, self.functions = 0, []

    def _capture(self, function):
        if self.broken:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        parameters = [p for network in self.networks for p in network.parameters()]
        static = next(own.static for own in self._variants.values() if own.static is not None and not own.ready)
        number = sum(1 for other, _ in self.functions if other is static)
        function()
        self.functions.append((static, function))
        kept = {p: p.grad for p in parameters if p.grad is not None}
        fake, values = static.fake, list(static.values)

        def replay():
            self.replays += 1
            before = {p: p.grad for p in parameters}
            for p in parameters:
                p.grad = None
            if number == 2:  # autograd's graph of the fakes was used up by the recording; a device's is not
                with batch_norm_momentum(self.networks[0], 0.0):
                    next(first for other, first in self.functions if other is static)()
            static.values = []
            function()
            for p, gradient in kept.items():
                gradient.copy_(p.grad * (-1 if self.wrong else 1))
            for p in parameters:
                p.grad = before[p]
            for (_, vector), (_, made) in zip(values, static.values, strict=True):
                vector.copy_(made)
            if fake is not None and static.fake is not fake:
                fake.data.copy_(static.fake.data)

        return replay


def make(*overrides, graphs=None, said=None):
    resolved = recipes.load_recipe("dcgan-64", [*TINY, *overrides])
    trainer = Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))
    if graphs is not None:
        trainer._graphs = graphs([trainer.G, trainer.D], (said if said is not None else []).append)
    return trainer


def weights(trainer, steps):
    means = []
    for _ in range(steps):
        trainer.step()
        means.append(trainer.meters.means())
        trainer.meters.reset()
    return {f"{side}.{key}": x for side in "GD" for key, x in getattr(trainer, side).state_dict().items()}, means


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.update=alternating"],
        ["train.update=simultaneous"],
        ["train.update=alternating", "penalties.r1.weight=1", "penalties.r1.every=3"],
        ["train.update=simultaneous", "penalties.r1.weight=1", "penalties.r1.every=3"],
    ],
)
def test_a_recorded_step_is_the_step(overrides):
    steps = 3 * (WARM + 4)
    said = []
    recorded = make(*overrides, graphs=Recorded, said=said)
    ours, means = weights(recorded, steps)
    theirs, expected = weights(make(*overrides), steps)
    assert said == []
    variants = 2 if len(overrides) > 1 else 1
    # A replay to hold the recording against the segment, for each variant; then one for every later step.
    segments = 3 if "train.update=alternating" in overrides else 1
    assert recorded._graphs.replays == segments * (steps - WARM * variants)
    for key, value in theirs.items():
        if "tracked" not in key:  # which the stand-in for a replay counts once more
            assert torch.equal(ours[key], value), key
    for mine, other in zip(means, expected, strict=True):
        assert mine == pytest.approx(other)
    assert recorded.meters.batches == {}


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_a_step_that_is_broken_off_begins_recordings_anew(update):
    """Memory runs out, or a compiler fails, in any segment of any step: the rest of that step is done without them."""
    theirs, _ = weights(make(f"train.update={update}"), WARM + 8)
    for step in range(WARM + 3):
        for segment in ("_segment_d", "_segment_g") if update == "alternating" else ("_segment_both",):
            trainer = make(f"train.update={update}", graphs=Recorded)
            original, failed = getattr(trainer, segment), []

            def failing(part, trainer=trainer, original=original, failed=failed, step=step):
                if trainer.nimg == 4 * step and not failed:
                    failed.append(True)
                    raise InductorError("no compiler")
                original(part)

            setattr(trainer, segment, failing)
            ours, _ = weights(trainer, WARM + 8)
            for key, value in theirs.items():
                if "running" not in key and "tracked" not in key:  # a pass that was broken off has moved these
                    assert torch.allclose(ours[key], value, atol=1e-6), (step, segment, key)


class InductorError(RuntimeError):
    __module__ = "torch._inductor.exc"


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
@pytest.mark.parametrize("fault", ["wrong", "broken"])
def test_a_recording_that_gives_something_else_or_cannot_be_made_is_done_without(fault, update):
    faulty = type("Faulty", (Recorded,), {fault: True})
    said = []
    overrides = [f"train.update={update}"]
    ours, _ = weights(make(*overrides, graphs=faulty, said=said), WARM + 4)
    theirs, _ = weights(make(*overrides), WARM + 4)
    why = "gives other gradients" if fault == "wrong" else "operation not permitted when stream is capturing"
    assert len(said) == 1
    assert said[0].startswith("speed.cuda_graphs: ")
    assert why in said[0]
    assert said[0].endswith("; off")
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_scheduled_weights_are_not_recorded():
    """A recording holds the weight it was made with."""
    schedule = "penalties.r1.weight=[[0, 1], [1, 0]]"
    recorded = make(schedule, graphs=Recorded)
    for _ in range(WARM + 3):
        recorded.step()
    assert recorded._graphs.replays == 0
