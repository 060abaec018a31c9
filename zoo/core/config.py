"""All recipe dataclasses: frozen plain data, built and checked by ``zoo.recipes``."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import yaml

from zoo.core.schedule import Schedule
from zoo.core.schema import Count, NonNegative, Positive, Range, Share, to_plain

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
        return {"arch": self.arch, **{key: to_plain(value) for key, value in vars(self.config).items()}}


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
    compile: Literal["reduce-overhead"] | Switch = "auto"  # torch.compile; auto: on CUDA; reduce-overhead: CUDA graphs
    cuda_graphs: Switch = "auto"  # accepted from older recipes, without effect
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
        """Shape and classes of the images that both networks work on."""
        return image_spec(self.data)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every default filled in; :func:`from_dict` reads it back."""
        return to_plain(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=100)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of what changes numbers: not names, length, cadences, speed or what is kept.

        Of what differs from the defaults, so that a key that is new in zoo leaves older recipes what they were.
        """
        content = _non_default_values(self)
        for key in ("name", "source", "speed", "parameters"):
            content.pop(key, None)
        for key in _NO_NUMBERS:
            content["train"].pop(key, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _non_default_values(value: Any) -> Any:
    """Plain data of a dataclass without what is as its defaults have it."""
    if isinstance(value, NetworkChoice):
        return {"arch": value.arch, **_non_default_values(value.config)}
    if not dataclasses.is_dataclass(value) or hasattr(value, "plain"):
        return (
            {key: _non_default_values(item) for key, item in value.items()}
            if isinstance(value, dict)
            else to_plain(value)
        )
    found = {}
    for each in dataclasses.fields(value):
        own = getattr(value, each.name)
        usual = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        if usual is dataclasses.MISSING or own != usual:
            found[each.name] = _non_default_values(own)
    return found


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What pictures are: square, ``resolution`` pixels a side, with 1 (grey), 3 (RGB) or any number of channels; and of
    which classes, as shares of the set, where networks are told them.
    """

    resolution: int
    channels: int
    shares: tuple[float, ...] = ()

    @property
    def classes(self) -> int:
        """How many classes; 0: networks are told none."""
        return len(self.shares)


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a generator is fed: ``dim`` independent standard normal numbers an image."""

    dim: int


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What every network can be told. Architectures add their own fields; all are plain data and round-trip to YAML."""

    conditional: ClassVar[bool] = False  # whether the network can be told classes
    spectral: ClassVar[bool] = (
        True  # whether spectral norm suits it: not where weights are scaled in use, or begin at 0
    )

    width: Positive = 1.0  # scales every channel count inside the network (see zoo.models.layers.scale_channels)
    spectral_norm: bool = (
        False  # weights divided by their largest singular values (see zoo.models.layers.apply_spectral_norm)
    )

    def validate(self, image: ImageSpec) -> None:
        """Refuse pictures this network cannot make or judge.

        Raises:
            ValueError: one line naming the sizes it takes.
        """


def image_spec(data: DataConfig) -> ImageSpec:
    """The image shape and class shares that a data section asks for."""
    # Networks must know that there are classes before a set has been looked at: one, until it has.
    shares = tuple(data.classes.values()) or ((1.0,) if data.labels is not None else ())
    return ImageSpec(resolution=data.resolution, channels=data.channels, shares=shares)
