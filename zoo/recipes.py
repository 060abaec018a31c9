"""Recipes: YAML files that name two networks and say how they are trained.

A recipe becomes a :class:`Recipe` in four strict steps: the file is read, ``--set a.b=v`` is applied, architectures
are looked up, and frozen dataclasses are built, ``generator:`` and ``discriminator:`` by the configs of their own
architectures. What does not fit fails here, with its dotted path, and never at step 1. This module is the only reader
of YAML (:func:`read_yaml`), and imports torch only where an architecture is looked up.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from zoo.core.errors import ZooError, nearest, reason
from zoo.core.schedule import Schedule
from zoo.core.schema import Count, NonNegative, Positive, Range, SchemaError, Share, build, plain

if TYPE_CHECKING:
    from zoo.models.base import Discriminator, Generator, ImageSpec, NetworkConfig

Precision = Literal["auto", "fp32", "bf16"]
Switch = Literal["auto"] | bool

# Of `train`: what changes no weight of a run.
_CADENCES = ("kimg", "log_kimg", "sample_kimg", "checkpoint_kimg", "checkpoint_minutes", "keep")
_NO_NUMBERS = (*_CADENCES, "evaluate_share", "best", "stop_on_collapse")
Decay = Annotated[float, Range(low=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What pictures are made into before training."""

    resolution: Annotated[int, Range(low=8)]  # pixels a side
    channels: Count = 1  # 1: grey, 3: RGB
    fit: Literal["pad", "crop", "stretch"] = "pad"  # how a picture becomes square before it is resized
    window: Literal["dtype"] | tuple[float, float] | None = (
        None  # over 8 bits: dtype, [lo, hi], null: 0.5-99.5 percentiles
    )
    holdout: Share = 0.1  # share of the subjects never trained on, where the data bring no splits of their own
    order: Literal["shuffle", "replacement"] = "shuffle"  # every image once an epoch, or drawn with replacement
    xflip: bool = False  # mirror half of the images (loses laterality)
    labels: str | None = None  # where classes are from: "folder", or a column of the set's manifest; null: nowhere
    classes: dict[str, Share] = field(default_factory=dict)  # shares of the training images; {}: found in them

    def __post_init__(self) -> None:
        if self.classes and self.labels is None:
            raise ValueError("classes want labels beside them: folder, or a column of the set's manifest")


@dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """An architecture and its configuration; in YAML one mapping, ``arch`` beside the config's own keys."""

    arch: str
    config: NetworkConfig

    def plain(self) -> dict[str, Any]:
        return {"arch": self.arch, **{key: plain(value) for key, value in vars(self.config).items()}}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The adversarial loss (see ``zoo.losses.adversarial``)."""

    name: str = "nonsaturating"
    label_smoothing: Share = 0.0  # s maps D's targets y to y (1 - s) + s / 2


@dataclass(frozen=True, kw_only=True)
class PenaltyConfig:
    """A regulariser (see ``zoo.losses.penalties``)."""

    weight: Schedule | None = None  # null: the penalty's own default; of r1 and r2, by resolution and batch
    every: Count = (
        1  # steps between applications; the weight is multiplied by it, so that strength does not depend on it
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What images go through before D sees them (see ``zoo.training.augment``)."""

    name: Literal["diffaugment", "ada"]  # always; or as often as overfitting asks for
    policy: tuple[Literal["translation", "brightness", "contrast", "cutout", "xflip"], ...] = (
        "translation",
        "brightness",
        "contrast",
    )
    images: tuple[Literal["real", "fake"], ...] = ("real", "fake")
    target: Share = 0.6  # ada: the mean sign of D's logits on real images that is aimed at
    speed_kimg: Positive = 500.0  # ada: thousands of images in which p could rise from 0 to 1
    most: Annotated[float, Range(low=0, below=1)] = 0.8  # ada: the highest p; what always happens is learnt as real

    def __post_init__(self) -> None:
        if set(self.images) != {"real", "fake"}:
            seen = " and ".join(self.images) or "none"
            raise ValueError(
                f"images: must be [real, fake], not {seen} alone: what D sees on one side only tells the sides apart, "
                "and G would learn to make it"
            )
        if not self.policy:
            raise ValueError("policy: names no transformation; leave the whole section out to augment nothing")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One network's optimiser; ``betas`` and ``eps`` are Adam's, ``momentum`` is SGD's."""

    name: Literal["adam", "sgd"] = "adam"
    lr: Schedule
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Positive = 1e-8
    momentum: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class OptimizersConfig:
    generator: OptimizerConfig
    discriminator: OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """The averaged generator that is sampled, saved and shipped (see ``zoo.training.ema``)."""

    halflife_kimg: NonNegative = 10.0  # thousands of images after which a weight's share has halved; 0: no averaging
    ramp: Positive | None = 0.05  # the half-life is at most this share of the images seen so far
    power_std: Annotated[float, Range(above=0, below=0.28)] | None = (
        None  # instead of both: a power of the images seen, of this width relative to all of them
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batches and cadences. All progress is counted in images shown to D; one kimg is a thousand."""

    kimg: Positive
    batch: Count
    micro_batch: Count | None = None  # images at once; gradients accumulate to the batch; null: the whole batch
    update: Literal["simultaneous", "alternating"] = "alternating"  # see zoo.training.trainer
    d_steps: Count = 1  # batches D is shown for each update of G
    precision: Precision = "auto"  # of forward passes; auto: bf16 where the hardware computes with it
    sync_batch_norm: bool = True  # batch norms see the batch of all processes, not each its own part
    seed: int = 0
    init_from: str | None = None  # a run or a weights file to start from
    log_kimg: Positive = 1.0
    sample_kimg: Positive = 10.0
    checkpoint_kimg: Positive = 10.0
    checkpoint_minutes: Positive = 15.0  # at the latest; no number depends on when a checkpoint is written
    keep: Count = 2  # checkpoints kept, newest first
    evaluate_share: Share = 0.05  # most of the time looks at sample_kimg may take; 1: look every time, 0: at the end
    best: Literal["ssim", "kid", "fid", "none"] = (
        "ssim"  # by what generator-best.safetensors is chosen; see zoo.training.validation
    )
    stop_on_collapse: bool = False  # end a run whose fakes stay much the same

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch {self.batch}")
        if self.d_steps > 1 and self.update == "simultaneous":
            raise ValueError("d_steps: simultaneous updates are one each; more of D's want update: alternating")


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """How fast, and never what: a switch changes numbers by rounding at most. ``auto`` is on where it helps (see
    ``zoo.runtime.speed``); ``train.precision`` is the one that has a name in the numbers.
    """

    channels_last: Switch = "auto"  # pixels' channels side by side in memory, as fast convolutions want them
    tf32: Switch = "auto"  # 19-bit products of fp32 numbers, on NVIDIA since Ampere; auto: where forwards are bf16
    fused: Switch = "auto"  # an optimiser's step in one pass over memory
    compile: Switch = "auto"  # torch.compile; auto: on CUDA
    cuda_graphs: Switch = "auto"  # a step's launches recorded once; auto: on CUDA
    reuse_memory: Switch = "auto"  # freed memory is kept for the next layer and not given back to the system; CPU
    resident: Switch = "auto"  # all training images in the device's memory, if they fit
    resident_share: Share = 0.5  # of the device's free memory they may take


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Trainable parameters, so that lists need not build networks; tests hold them true."""

    generator: int
    discriminator: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    source: str = ""
    data: DataConfig
    generator: NetworkChoice
    discriminator: NetworkChoice
    loss: LossConfig = field(default_factory=LossConfig)
    penalties: dict[str, PenaltyConfig] = field(default_factory=dict)
    augment: AugmentConfig | None = None
    optimizer: OptimizersConfig
    ema: EmaConfig = field(default_factory=EmaConfig)
    train: TrainConfig
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    parameters: ParameterCounts | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]*\w", self.name):  # run folders are named after it
            raise ValueError(f"name: must be letters, digits, '-', '_' and '.', not {self.name!r}")

    @property
    def image(self) -> ImageSpec:
        return _image(self.data)

    def build(self, device: str = "cpu") -> tuple[Generator, Discriminator]:
        """Both networks with fresh weights on ``device``; ``"meta"`` builds shapes without memory."""
        import torch

        from zoo.models.layers import spectrally_normed
        from zoo.models.registry import architecture

        with torch.device(device):
            G = architecture(self.generator.arch).generator(self.generator.config, self.image)  # type: ignore[call-arg]
            D = architecture(self.discriminator.arch).discriminator(self.discriminator.config, self.image)
            for network, choice in ((G, self.generator), (D, self.discriminator)):
                if choice.config.spectral_norm:
                    spectrally_normed(network)
        return G, D

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every default filled in; :func:`from_dict` reads it back."""
        return plain(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=100)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of what changes numbers: not names, length, cadences, speed or what is kept.

        Of what differs from the defaults, so that a key that is new in zoo leaves older recipes what they were.
        """
        content = _unusual(self)
        for key in ("name", "source", "speed", "parameters"):
            content.pop(key, None)
        for key in _NO_NUMBERS:
            content["train"].pop(key, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def with_(self, *overrides: str) -> Recipe:
        """This recipe with ``"a.b=v"`` applied."""
        return from_dict(self.to_dict(), overrides, where=self.name)


# Where recipes lie: beside the package in a checkout, inside it in an installed wheel.
_HERE = Path(__file__).parent
RECIPES = _HERE / "_recipes" if (_HERE / "_recipes").is_dir() else _HERE.parent / "recipes"


def list_models(pattern: str = "*") -> list[str]:
    """Names of the recipes that match a shell pattern, in natural order (``multires-64`` before ``multires-128``)."""
    names = (path.stem for path in RECIPES.glob("*.yaml"))
    return sorted(fnmatch.filter(names, pattern), key=_natural)


def summaries(pattern: str = "*") -> Iterator[dict[str, Any]]:
    """What ``zoo list`` shows of each recipe, read from the YAML alone: no network is built, torch is not imported."""
    for name in list_models(pattern):
        data = read_yaml(RECIPES / f"{name}.yaml")
        generator = _section(data, "generator")
        counts = data.get("parameters", {})
        yield {
            "name": name,
            "arch": generator.get("arch") or data["arch"],
            "resolution": data["data"]["resolution"],
            "channels": data["data"].get("channels", 1),
            "latent": generator.get("latent"),
            "params_g": counts.get("generator"),
            "params_d": counts.get("discriminator"),
            "source": data.get("source", ""),
        }


def load(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called ``name``, or in the YAML file ``name``, with ``"a.b=v"`` overrides applied.

    Raises:
        ZooError: no such recipe or file, unreadable YAML, or something in it does not fit: one line.
    """
    path = find(name)
    return from_dict(read_yaml(path), overrides, where=path.stem if path.parent == RECIPES else str(path))


def create(name: str | Path | Recipe, *overrides: str, device: str = "cpu") -> tuple[Generator, Discriminator]:
    """A recipe's two networks with fresh weights: ``create("lean-256", "data.channels=3")``.

    Raises:
        ZooError: as :func:`load`.
    """
    recipe = name.with_(*overrides) if isinstance(name, Recipe) else load(name, overrides)
    return recipe.build(device)


def find(name: str | Path) -> Path:
    """The YAML file of a recipe's name, or of a path to a user's own.

    Raises:
        ZooError: there is none.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        if not Path(name).is_file():
            raise ZooError(f"no recipe file {text}")
        return Path(name)
    if text not in list_models():
        raise ZooError(f"no recipe {text!r}{nearest(text, list_models())}; `zoo list` shows those there are")
    return RECIPES / f"{text}.yaml"


def from_dict(data: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str) -> Recipe:
    """A recipe from plain data; ``where`` (a name or file) begins every error.

    Raises:
        ZooError: something does not fit: one line with the dotted path, what is allowed and the nearest match.
    """
    content = copy.deepcopy(dict(data))
    try:
        touched = [_override(content, text) for text in overrides]
        for side in ("generator", "discriminator"):
            content[side] = _section(content, side)
        shorthand = content.pop("arch", None)
        for side in ("generator", "discriminator"):
            if "arch" in touched or "arch" not in content[side]:
                content[side]["arch"] = shorthand
        recipe = _build(content)
    except ZooError as error:
        raise ZooError(f"{where}: {error}") from None
    if any(path.split(".")[0] in ("arch", "data", "generator", "discriminator") for path in touched):
        return replace(recipe, parameters=None)  # the stated counts were those of the recipe as written
    return recipe


def _build(content: dict[str, Any]) -> Recipe:
    from zoo.losses.adversarial import LOSSES
    from zoo.losses.penalties import PENALTIES
    from zoo.models.registry import architecture

    data = build(DataConfig, content.get("data", {}), "data")
    networks = {side: _network(side, content[side], data) for side in ("generator", "discriminator")}
    recipe: Recipe = build(Recipe, {**content, "data": data, **networks})
    _choose("loss.name", recipe.loss.name, LOSSES)
    if recipe.loss.label_smoothing and not LOSSES[recipe.loss.name].smooths:
        raise SchemaError("loss.label_smoothing", f"the {recipe.loss.name} loss has no labels to smooth; leave it at 0")
    if recipe.augment is not None and recipe.augment.name == "ada" and not LOSSES[recipe.loss.name].zero:
        raise SchemaError("augment.name", f"ada goes by the sign of logits, which means nothing to {recipe.loss.name}")
    for name in recipe.penalties:
        _choose("penalties", name, PENALTIES)
        if PENALTIES[name].needs_styles and not hasattr(architecture(recipe.generator.arch).generator, "mapping"):
            raise SchemaError(f"penalties.{name}", f"{recipe.generator.arch} has no styles (a mapping network)")
    return recipe


def _image(data: DataConfig) -> ImageSpec:
    from zoo.models.base import ImageSpec

    # Networks must know that there are classes before a set has been looked at: one, until it has.
    shares = tuple(data.classes.values()) or ((1.0,) if data.labels is not None else ())
    return ImageSpec(resolution=data.resolution, channels=data.channels, shares=shares)


def _unusual(value: Any) -> Any:
    """Plain data of a dataclass without what is as its defaults have it."""
    if isinstance(value, NetworkChoice):
        return {"arch": value.arch, **_unusual(value.config)}
    if not dataclasses.is_dataclass(value) or hasattr(value, "plain"):
        return {key: _unusual(item) for key, item in value.items()} if isinstance(value, dict) else plain(value)
    found = {}
    for each in dataclasses.fields(value):
        own = getattr(value, each.name)
        usual = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        if usual is dataclasses.MISSING or own != usual:
            found[each.name] = _unusual(own)
    return found


def _network(side: str, section: dict[str, Any], data: DataConfig) -> NetworkChoice:
    from zoo.models.registry import architecture, list_architectures

    arch = section.pop("arch", None)
    if arch is None:
        raise SchemaError(f"{side}.arch", f"is missing; one of {', '.join(list_architectures())}")
    _choose(f"{side}.arch", arch, list_architectures())
    kind = getattr(architecture(arch), f"{side}_config")
    config = build(kind, section, side)
    if config.spectral_norm and not kind.spectral:
        raise SchemaError(f"{side}.spectral_norm", f"does not go with {arch}, which scales its weights itself")
    if data.labels is not None and not kind.conditional:
        able = ", ".join(a for a in list_architectures() if getattr(architecture(a), f"{side}_config").conditional)
        raise SchemaError("data.labels", f"the {side} of {arch} takes no classes; these do: {able}")
    try:
        config.validate(_image(data))
    except ValueError as error:
        raise SchemaError("data.resolution", str(error)) from None
    return NetworkChoice(arch=arch, config=config)


def _section(content: dict[str, Any], side: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping under ``generator:`` or ``discriminator:``; another recipe's name stands for its whole section."""
    section = content.get(side, {})
    if isinstance(section, str):
        if section in seen:
            raise SchemaError(side, f"goes round in a circle: {' -> '.join((*seen, section))}")
        other = read_yaml(find(section))
        taken = _section(other, side, (*seen, section))
        taken.setdefault("arch", other.get("arch"))
        return taken
    if not isinstance(section, dict):
        raise SchemaError(side, f"must be a mapping or another recipe's name, not {section!r}")
    return section


def _override(content: dict[str, Any], text: str) -> str:
    """Apply one ``a.b=v`` in place and return its dotted path."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ZooError(f"--set {text}: must read KEY=VALUE with a dotted key, such as train.batch=32")
    inner = content
    for depth, key in enumerate(keys[:-1]):
        if depth == 0 and key in ("generator", "discriminator"):
            content[key] = _section(content, key)
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SchemaError(".".join(keys[: depth + 1]), f"is a value, so {path} cannot be set in it")
    try:
        inner[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ZooError(f"--set {text}: the value is not YAML") from None
    return path.strip()


def _choose(path: str, name: str, choices: Any) -> None:
    if name not in choices:
        raise SchemaError(path, f"must be one of {', '.join(choices)}, not {name!r}{nearest(str(name), choices)}")


def read_yaml(path: Path, what: str = "a recipe") -> dict[str, Any]:
    """The mapping in a YAML file, in which each key stands once.

    Raises:
        ZooError: it cannot be read, is not YAML, or holds no mapping, as ``what`` does.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({reason(error)})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ZooError(f"{path}{line}: is not YAML ({getattr(error, 'problem', None) or 'not text'})") from None
    if not isinstance(data, dict):
        raise ZooError(f"{path}: {what} is a mapping of keys to values")
    return data


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a key stands once: a second one is a slip, and YAML's own rule lets it win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _natural(name: str) -> list[tuple[int, str | int]]:
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
