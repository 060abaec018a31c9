"""One process of a group that ``test_distributed.py`` starts: runs jobs, and the first process saves their results.

Arguments: a JSON file of ``{key: [job, *arguments]}``, in which a job is a function below, and the file of results.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import zoo
import zoo.runtime.speed
from zoo import recipes
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.models.batch_norm import synchronise_batch_norms
from zoo.runtime import distributed
from zoo.training import validation
from zoo.training.logger import MeanMeters
from zoo.training.trainer import Trainer

zoo.runtime.speed.has_bf16 = lambda device: False
CPU = torch.device("cpu")


def make_trainer(name, *overrides):
    recipe = recipes.load_recipe(name, overrides)
    return Trainer(recipe, load_dataset("phantoms:2", recipe.data), CPU)


def double(name, *overrides):
    """Gradients of both phases in the first of three steps, as the optimisers see them, and weights after all three."""
    trainer, results = make_trainer(name, *overrides), {}
    networks = {"G": trainer.G, "D": trainer.D, **trainer.helpers}
    for network in (*networks.values(), trainer.ema.module):
        network.double()
    for phase, network in networks.items():
        original = trainer.optimizers[phase].step

        def step(phase=phase, network=network, original=original):
            for key, parameter in network.named_parameters():
                results.setdefault(f"grad_{phase}.{key}", parameter.grad.clone())
            original()

        trainer.optimizers[phase].step = step
    for _ in range(3):
        trainer.step()
    for phase, network in networks.items():
        results |= {f"{phase}.{key}": value for key, value in network.state_dict().items()}
    return results


def losses(name, *overrides):
    """Mean losses of each of twenty steps."""
    trainer, steps = make_trainer(name, *overrides), []
    for _ in range(20):
        trainer.step()
        steps.append(trainer.meters.means())
        trainer.meters.reset()
    return {key: torch.tensor([means[key] for means in steps]) for key in steps[0]}


def norm():
    """Largest differences between the synchronised norm on half batches and torch's on the whole batch."""
    world, differences = distributed.current_world(), {}
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
            cut = world.cut(8)
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
                differences[f"{kind.__name__} {momentum} {key}"] = (
                    (a - b).abs().max() / b.abs().max().clamp(min=1)
                ).item()
    return differences


def means():
    """Means of meters to which the processes added different losses."""
    meters = MeanMeters()
    meters.add(("loss_d",), torch.tensor([1.0 + distributed.current_world().rank]), 0.5)
    if distributed.current_world().first:
        meters.add(("loss_d", "r1"), torch.tensor([5.0, 4.0]), 1.0)
    return {key: torch.tensor(value) for key, value in meters.means().items()}


def features(name, *overrides):
    """Features of the images that rank snapshots, with pixels for features."""
    trainer = make_trainer(name, *overrides)
    validation.NUM_RANKING_IMAGES = 40
    validator = validation.Validator(trainer, trainer.reporter)
    validator._extractor = lambda images: images.flatten(1).numpy().astype(np.float32)
    return {"features": torch.from_numpy(validator.ranking_features())}


def refusal(name, *overrides):
    """The error of a recipe that these processes cannot train, in every process."""
    try:
        make_trainer(name, *overrides)
    except ZooError as error:
        return {"errors": distributed.all_gather(str(error))}
    return {}


def train(out, kimg, *overrides):
    """Train in this group, as ``zoo train`` does under torchrun."""
    run = zoo.train("dcgan-64", data="phantoms:2", out=out, kimg=float(kimg), device="cpu", set=overrides)
    return {"folder": str(run.path)}


def lost_peer():
    """For each collective, the error that it raises after the other process was killed, and what it is taken for."""
    x = torch.ones(3, requires_grad=True)
    total = distributed.all_reduce_sum(x).sum()
    if not distributed.current_world().first:
        os.kill(os.getpid(), signal.SIGKILL)
    x.grad = torch.ones(3)
    collectives = {
        "backward": total.backward,
        "all_reduce_sum": lambda: distributed.all_reduce_sum(x),
        "reduce_gradients": lambda: distributed.reduce_gradients([x]),
        "broadcast": lambda: distributed.broadcast(1),
        "all_gather": lambda: distributed.all_gather(1),
        "barrier": distributed.barrier,
    }
    errors = {}
    for name, call in collectives.items():
        try:
            call()
        except Exception as error:
            errors[name] = (type(error).__name__, distributed.is_lost_peer(error))
    return errors


if __name__ == "__main__":
    jobs, out = map(Path, sys.argv[1:])
    with distributed.join_world(CPU) as world:
        results = {key: globals()[job](*arguments) for key, (job, *arguments) in json.loads(jobs.read_text()).items()}
        if world.first:
            torch.save(results, out)
        if "lost_peer" not in results:
            distributed.barrier()
