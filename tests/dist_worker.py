"""One process of a group that ``test_dist.py`` starts: does a job, and the first writes what came out."""

import sys

import numpy as np
import torch
from torch import nn

import zoo.runtime.speed
from zoo import recipes
from zoo.data.dataset import load_dataset
from zoo.models.batch_norm import synchronise_batch_norms
from zoo.runtime import distributed
from zoo.training import validation
from zoo.training.logger import MeanMeters
from zoo.training.trainer import Trainer

zoo.runtime.speed.has_bf16 = lambda device: False
CPU = torch.device("cpu")


def trainer(name, *overrides, double):
    resolved = recipes.load_recipe(name, overrides)
    made = Trainer(resolved, load_dataset("phantoms:2", resolved.data), CPU)
    for network in (made.G, made.D, made.ema.module) if double else ():
        network.double()
    return made


def double(name, *overrides):
    """Gradients of each phase in the first of three steps, as the optimisers saw them, and weights after them."""
    made, found = trainer(name, *overrides, double=True), {}
    for phase, network in (("G", made.G), ("D", made.D)):
        original = made.optimizers[phase].step

        def step(phase=phase, network=network, original=original):
            for key, parameter in network.named_parameters():
                found.setdefault(f"grad_{phase}.{key}", parameter.grad.clone())
            original()

        made.optimizers[phase].step = step
    for _ in range(3):
        made.step()
    for phase, network in (("G", made.G), ("D", made.D)):
        found |= {f"{phase}.{key}": value for key, value in network.state_dict().items()}
    return found


def losses(name, *overrides):
    made, steps = trainer(name, *overrides, double=False), []
    for _ in range(20):
        made.step()
        steps.append(made.meters.means())
        made.meters.reset()
    return {key: torch.tensor([means[key] for means in steps]) for key in steps[0]}


def norm():
    """Largest differences between the synchronised norm on halves and torch's on the whole."""
    here, found = distributed.current_world(), {}
    for kind, shape in ((nn.BatchNorm1d, (8, 5)), (nn.BatchNorm2d, (8, 5, 3, 4))):
        for momentum in (0.1, None):
            torch.manual_seed(0)
            whole = torch.randn(shape, dtype=torch.float64) * 3 + 7
            weights = torch.randn(shape, dtype=torch.float64)
            ours, theirs = (kind(5, momentum=momentum).double() for _ in range(2))
            for one in (ours, theirs):
                with torch.no_grad():
                    one.weight.copy_(torch.linspace(0.5, 2, 5))
            synchronise_batch_norms(ours)
            cut = here.cut(8)
            results = []
            for module, x, w in ((ours, whole[cut].clone(), weights[cut]), (theirs, whole.clone(), weights)):
                x.requires_grad_()
                y = module(x)
                (first,) = torch.autograd.grad((y * w).tanh().sum(), x, create_graph=True)
                first.square().sum().backward()
                results.append((y.detach(), first.detach(), x.grad, module))
            (y, first, second, ours), (y_all, first_all, second_all, theirs) = results
            distributed.reduce_gradients(ours.parameters())
            pairs = {
                "output": (y, y_all[cut]),
                "first": (first, first_all[cut]),
                "second": (second, second_all[cut]),
                "weight": (ours.weight.grad, theirs.weight.grad),
                "mean": (ours.running_mean, theirs.running_mean),
                "var": (ours.running_var, theirs.running_var),
            }
            for key, (a, b) in pairs.items():
                found[f"{kind.__name__} {momentum} {key}"] = ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
    return found


def means():
    """What one process alone has met counts beside what all have."""
    meters = MeanMeters()
    meters.add(("loss_d",), torch.tensor([1.0 + distributed.current_world().rank]), 0.5)
    if distributed.current_world().first:
        meters.add(("loss_d", "r1"), torch.tensor([5.0, 4.0]), 1.0)
    return {key: torch.tensor(value) for key, value in meters.means().items()}


def features(name, *overrides):
    made = trainer(name, *overrides, double=False)
    validation.RANKED = 40
    looking = validation.Validator(made, made.reporter)
    looking._space = lambda images: images.flatten(1).numpy().astype(np.float32)
    return {"features": torch.from_numpy(looking.ranked_features())}


if __name__ == "__main__":
    job, out, *arguments = sys.argv[1:]
    with distributed.join_world(CPU) as world:
        result = globals()[job](*arguments)
        if world.first:
            torch.save(result, out)
        distributed.barrier()
