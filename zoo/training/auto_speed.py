"""What ``auto`` stands for on this CPU: a short measurement, whose result is kept in the cache.

A flag of the CPU says that it has an instruction, not that it is fast (docs/speed.md). Small networks are timed as they
are, forward and backward; of large ones the heaviest convolutions, on a few rows of their images.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.core.config import Recipe
from zoo.core.files import atomic_file, cache_folder
from zoo.core.wording import count_of
from zoo.models.base import Discriminator, Generator
from zoo.recipes import build_networks
from zoo.runtime import distributed, rng
from zoo.runtime.device import cpu_model, keep_thread_count
from zoo.runtime.speed import AutoChoice, Say, Speed, choose_speed, has_bf16

FORWARD_MACS = 0.7e9  # multiply-adds of a timed forward pass: some tens of milliseconds with its backward pass
MAX_TIMED_IMAGES = 16
CONVOLUTION_SHARE = 0.9  # of a large network's multiply-adds, which the timed convolutions cover
ROUNDS = 5  # the first ones still fill the caches of memory
MAX_SECONDS = 0.5  # after which a comparison starts no further round
MAX_KERNEL = 1 << 20  # elements of a timed kernel: wider ones are no different
BUSY_LOAD = 0.75  # runnable programs per core in the last minute
# An alternative must be faster by this share: another program can slow down a short measurement.
MARGINS = {"precision": 0.02, "channels_last": 0.1, "threads": 0.1}

Step = Callable[[], None]
Alternatives = Mapping[str, Sequence[Any]]
Compare = Callable[[AutoChoice, AutoChoice], float]


@dataclass(frozen=True, kw_only=True)
class AutoResult:
    """The choice, and what was measured for it.

    Attributes:
        choice: the fastest settings.
        ratios: seconds of each rejected or replaced setting over those of the one that was kept.
        seconds: duration of the measurement; 0 if it comes from the cache.
    """

    choice: AutoChoice
    ratios: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def followed_by(self, other: AutoResult) -> AutoResult:
        """Return the result of both measurements, of which ``other`` started from this one's choice."""
        return AutoResult(choice=other.choice, ratios=self.ratios | other.ratios, seconds=self.seconds + other.seconds)

    def __str__(self) -> str:
        others = ", ".join(f"{name} takes {ratio:.2f} times as long" for name, ratio in self.ratios.items())
        settings = ", ".join(_setting_name(self.choice, name) for name in MARGINS)
        source = f"measured in {self.seconds:.1f} s" if self.seconds else "measured before"
        return f"auto: {settings} ({others or 'no alternative'}; {source})"


def choose_auto(recipe: Recipe, device: torch.device) -> AutoResult | None:
    """Choose precision, memory layout and thread count for what ``recipe`` leaves at ``auto``.

    The first process of a group measures for all. torch's random state and thread count stay as they are.

    Returns:
        None where nothing is measured: on a GPU, with ``ZOO_MEASURE=0``, and if the recipe leaves nothing open.
    """
    if device.type != "cpu" or os.environ.get("ZOO_MEASURE") == "0":
        return None
    result = _measure_all(recipe, device) if distributed.current_world().first else None
    return distributed.broadcast(result)


def _measure_all(recipe: Recipe, device: torch.device) -> AutoResult | None:
    """Measure precision and layout, then threads: a busy machine, which leaves them out, must not change the others."""
    result, (choice, alternatives) = None, _candidates(recipe, device)
    for names in (("precision", "channels_last"), ("threads",)):
        subset = {name: alternatives[name] for name in names}
        if any(subset.values()):
            stage = _measure_once(recipe, choice, subset)
            choice = stage.choice
            result = stage if result is None else result.followed_by(stage)
    return result


def choose_measured_speed(recipe: Recipe, device: torch.device, say: Say | None = None) -> Speed:
    """Return the switches of ``recipe`` on ``device``, as :func:`choose_auto` measured them."""
    result = choose_auto(recipe, device)
    if say is not None and result is not None:
        say(str(result))
    return choose_speed(recipe, device, say, auto=result.choice if result is not None else None)


def search(first: AutoChoice, alternatives: Alternatives, compare: Compare) -> tuple[AutoChoice, dict[str, float]]:
    """Improve one setting after another, each with the best of those before it.

    Args:
        first: settings to start from.
        alternatives: other values of each field, in the order to try them; the first that is slower ends its field.
        compare: seconds of its second argument over those of its first.

    Returns:
        The best settings, and the ratio of each one that was not chosen to the one that was chosen instead.
    """
    best, ratios = first, {}
    for name, values in alternatives.items():
        for value in values:
            challenger = replace(best, **{name: value})
            ratio = compare(best, challenger)
            if ratio >= 1 - MARGINS[name]:
                ratios[_setting_name(challenger, name)] = ratio
                break
            ratios[_setting_name(best, name)] = 1 / ratio
            best = challenger
    return best, ratios


def _setting_name(choice: AutoChoice, name: str) -> str:
    if name == "channels_last":
        return "channels_last" if choice.channels_last else "NCHW"
    if name == "threads" and choice.threads is not None:
        return count_of(choice.threads, "thread")
    return choice.precision


def _candidates(recipe: Recipe, device: torch.device) -> tuple[AutoChoice, dict[str, list[Any]]]:
    """Return the settings to start from, and the other values of those that the recipe leaves open."""
    precision, layout, threads = recipe.train.precision, recipe.speed.channels_last, recipe.speed.threads
    count = torch.get_num_threads() if threads == "auto" else threads
    alternatives: dict[str, list[Any]] = {"precision": [], "channels_last": [], "threads": []}
    if precision == "auto" and has_bf16(device):  # emulated bf16 is never faster
        alternatives["precision"] = ["bf16"]
    if layout == "auto":
        alternatives["channels_last"] = [False]
    # Fewer threads than cores pay where a container has fewer; a number that was set from outside is obeyed.
    alone = distributed.current_world().size == 1 and not _is_busy()
    if threads == "auto" and alone and "OMP_NUM_THREADS" not in os.environ:
        alternatives["threads"] = [count >> shift for shift in range(1, count.bit_length())]
    first = AutoChoice(
        precision="bf16" if precision == "bf16" else "fp32", channels_last=layout is not False, threads=count
    )
    return first, alternatives


def _is_busy() -> bool:
    """Return whether other programs use the cores, so that threads wait for each other."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY_LOAD * (os.cpu_count() or 1)


def _measure_once(recipe: Recipe, first: AutoChoice, alternatives: Alternatives) -> AutoResult:
    """Return the result in the cache, or measure it and keep it."""
    key = _describe_measurement(recipe, first, alternatives)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "auto" / f"{digest}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # none yet, or damaged: measure
        content = json.loads(path.read_text(encoding="utf-8"))
        return AutoResult(choice=AutoChoice.from_json(content["choice"]), ratios=content["ratios"])
    result = _measure(recipe, first, alternatives)
    with contextlib.suppress(OSError), atomic_file(path, "w") as file:  # a cache that cannot be written is none
        json.dump({**key, "choice": vars(result.choice), "ratios": result.ratios}, file)
    return result


def _describe_measurement(recipe: Recipe, first: AutoChoice, alternatives: Alternatives) -> dict[str, Any]:
    """Return all that the fastest settings depend on, as plain values."""
    networks = {side: getattr(recipe, side).plain() for side in ("generator", "discriminator")}
    image = recipe.image
    return {
        "cpu": cpu_model(),
        "bf16": has_bf16(torch.device("cpu")),  # a virtual machine can hide what the model has
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "first": vars(first),
        "alternatives": dict(alternatives),
        "fused_layers": recipe.speed.fused_layers,
        "networks": networks,
        "image": [image.resolution, image.channels, image.classes],
    }


def _measure(recipe: Recipe, first: AutoChoice, alternatives: Alternatives) -> AutoResult:
    start = time.perf_counter()
    with rng.fork_rng(torch.device("cpu")), keep_thread_count(), torch.enable_grad():
        # As in training: otherwise small steps spend a third of their time on page faults.
        choose_speed(recipe, torch.device("cpu")).begin()
        best, ratios = search(first, alternatives, _StepTimer(recipe, busy=_is_busy()).compare)
    return AutoResult(choice=best, ratios=ratios, seconds=time.perf_counter() - start)


class _StepTimer:
    """Times forward and backward passes of a recipe's networks, or of their convolutions, with given settings."""

    def __init__(self, recipe: Recipe, *, busy: bool) -> None:
        self.recipe, self.busy = recipe, busy
        self._networks = build_networks(recipe, "meta")
        self._packing = recipe.discriminator.config.packing
        self._convolutions = _list_convolutions(recipe, *self._networks)
        self._steps: dict[tuple[str, bool], Step] = {}
        self._warm: set[AutoChoice] = set()

    def compare(self, ours: AutoChoice, theirs: AutoChoice) -> float:
        """Return the seconds of ``theirs`` over those of ``ours``: the shortest of a few steps each, in turns."""
        for choice in (ours, theirs):
            if choice not in self._warm:  # memory is allocated, kernels are generated
                self._warm.add(choice)
                self._time(choice)
        rounds: list[tuple[float, float]] = []
        while len(rounds) < ROUNDS and sum(map(sum, rounds)) < MAX_SECONDS:
            rounds.append((self._time(ours), self._time(theirs)))
        shortest = [min(seconds) for seconds in zip(*rounds, strict=True)]
        return shortest[1] / shortest[0]

    def _time(self, choice: AutoChoice) -> float:
        # The CPU time of a single thread does not depend on other programs.
        threads, clock = (1, time.process_time) if self.busy else (choice.threads, time.perf_counter)
        step = self._step(choice)
        if threads is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        start = clock()
        step()
        return clock() - start

    def _step(self, choice: AutoChoice) -> Step:
        key = (choice.precision, choice.channels_last)
        if key not in self._steps:
            device = torch.device("cpu")
            fused = choose_speed(self.recipe, device).fused_layers
            settings: dict[str, Any] = {"precision": choice.precision, "channels_last": choice.channels_last}
            speed = Speed(device=device, fused_layers=fused, **settings)
            macs = sum(each.macs for each in self._convolutions)
            images = int(min(MAX_TIMED_IMAGES, self.recipe.train.batches.at(0), FORWARD_MACS / max(1, macs)))
            images = 1 << images.bit_length() - 1 if images else 0
            images -= images % self._packing
            if images >= 2:  # batch norms need two
                self._steps[key] = _network_step(self._networks, self.recipe, speed, images)
            else:
                self._steps[key] = _convolution_step(self._convolutions, speed)
        return self._steps[key]


def _network_step(shapes: Sequence[nn.Module], recipe: Recipe, speed: Speed, images: int) -> Step:
    """Return a forward and backward pass of both networks, which are all zeros: only shapes matter here."""
    networks = []
    for shape in shapes:
        network: Any = copy.deepcopy(shape).to_empty(device="cpu").train()
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.detach().zero_()
        networks.append(speed.network(network))
    G, D = networks
    z = torch.zeros(images, G.latent.dim)
    label = torch.zeros(images, dtype=torch.int64) if recipe.image.classes else None

    def step() -> None:
        with speed.autocast():
            logits = D(G(z, label).float(), label)
        logits.float().sum().backward()

    return step


@dataclass(frozen=True, kw_only=True)
class _Convolution:
    """Shapes of a convolution's image and kernel, its other arguments, and its multiply-adds in a pass."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    arguments: tuple[Any, ...]
    macs: int


class _ConvolutionRecorder(TorchDispatchMode):
    """Lists the convolutions of whatever is computed in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: list[_Convolution] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would import its compiler, which takes seconds, to keep it away from a pass that is not compiled.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.convolution:
            x, kernel, _, *arguments = args
            transposed = arguments[3]
            macs = kernel.numel() * len(x) * math.prod((x if transposed else result).shape[2:])
            each = _Convolution(image=tuple(x.shape), kernel=tuple(kernel.shape), arguments=tuple(arguments), macs=macs)
            self.convolutions.append(each)
        return result


def _list_convolutions(recipe: Recipe, G: Generator, D: Discriminator) -> list[_Convolution]:
    """List the convolutions of one image in G and of one image, or pack, in D; both are on the meta device."""
    image = recipe.image
    z = torch.empty(1, G.latent.dim, device="meta")
    x = torch.empty(
        recipe.discriminator.config.packing, image.channels, image.resolution, image.resolution, device="meta"
    )
    label = torch.zeros(1, dtype=torch.int64, device="meta") if image.classes else None
    with torch.no_grad(), _ConvolutionRecorder() as recorder:
        G.eval()(z, label)
        D.eval()(x, label)
    return recorder.convolutions


def _convolution_step(convolutions: Sequence[_Convolution], speed: Speed) -> Step:
    """Return a forward and backward pass of the heaviest ``convolutions``, each with an activation."""
    layers = list(_crop_convolutions(convolutions, speed))

    def step() -> None:
        for x, kernel, arguments in layers:
            y = F.leaky_relu(torch.convolution(x, kernel.to(x.dtype), None, *arguments), 0.2)
            torch.autograd.grad(y.sum(), (x, kernel))

    return step


def _crop_convolutions(
    convolutions: Sequence[_Convolution], speed: Speed
) -> Iterator[tuple[Tensor, Tensor, tuple[Any, ...]]]:
    """Yield image, kernel and arguments of the heaviest convolutions, each cropped to the same share of its rows."""
    total, covered = sum(each.macs for each in convolutions), 0
    dtype = torch.bfloat16 if speed.precision == "bf16" else torch.float32
    for each in sorted(convolutions, key=lambda each: -each.macs):
        if covered >= CONVOLUTION_SHARE * total:
            return
        covered += each.macs
        n, channels, height, *width = each.image
        shrink = math.ceil((math.prod(each.kernel) / MAX_KERNEL) ** 0.5) if each.arguments[-1] == 1 else 1
        rows = min(height, max(each.kernel[2], round(height * FORWARD_MACS / total)))
        # As autocast does: activations are in the precision of the pass already, kernels are cast in it.
        x = speed.images(torch.zeros(n, max(1, channels // shrink), rows, *width, dtype=dtype)).requires_grad_()
        sides = [max(1, side // shrink) for side in each.kernel[:2]]
        kernel = speed.images(torch.zeros(*sides, *each.kernel[2:])).requires_grad_()
        yield x, kernel, each.arguments
