"""The sections of a recipe as frozen dataclasses of plain data; ``zoo.recipes`` reads, checks and builds them.

``kimg`` are thousands of images shown to the discriminator, the unit in which all progress is counted.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import yaml

from zoo.core.errors import shorten
from zoo.core.plugins import Plugin
from zoo.core.schedule import BatchSchedule, Schedule
from zoo.core.schema import Count, NonNegative, Positive, Range, Share, to_plain

Precision = Literal["auto", "fp32", "bf16"]
Switch = Literal["auto"] | bool
Decay = Annotated[float, Range(low=0, below=1)]  # of an exponential average; 1 would never forget
PowerStd = Annotated[float, Range(low=0.001, below=0.28)]  # of a power-function average, relative to the run's length

MAX_RESOLUTION = 8192  # pixels per side
MIN_DIFFERENCE_STEP = 1e-3  # of a finite difference in fp32, whose rounding errors grow with the inverse of the step

# Keys of `train:` that change no weight of a run, and so are left out of its digest.
_TRAIN_KEYS_OUTSIDE_DIGEST = (
    "kimg",
    "log_kimg",
    "sample_kimg",
    "checkpoint_kimg",
    "checkpoint_minutes",
    "keep",
    "evaluate_share",
    "best",
    "stop_on_collapse",
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images are read and prepared (``data:``; see ``zoo.data``)."""

    resolution: Annotated[int, Range(low=8, high=MAX_RESOLUTION)]  # height and width in pixels after resizing
    channels: Annotated[int, Range(low=1, high=1024)] = 1  # 1: grey, 3: RGB
    fit: Literal["pad", "crop", "stretch"] = "pad"  # how an image becomes square before it is resized
    # Intensities of images with more than 8 bits that become black and white: [low, high]; dtype: the data type's
    # full range; volume: the 0.5th and 99.5th percentile of each volume; null: those of all pixels.
    window: Literal["dtype", "volume"] | tuple[float, float] | None = None
    axis: Literal["axial", "coronal", "sagittal"] = "axial"  # along which volumes that have an orientation are cut
    # Slices of volumes: all, or a range such as 40..120 (indices), 20%..80% or -30mm..50mm; null: those that are not
    # almost empty.
    slices: str | None = None
    holdout: Share = 0.1  # share of the subjects held out from training, if the data has no splits
    subjects: Literal["folder", "none"] | None = None  # what one person's images share; null: read from names
    files: Literal["images", "all"] = "images"  # all: masks and this package's own output inside the set too
    order: Literal["shuffle", "replacement"] = "shuffle"  # each image once per epoch; or drawn with replacement
    xflip: bool = False  # mirror half of the images left to right (loses laterality)
    labels: str | None = None  # source of the classes: "folder", or a column of the set's manifest; null: no classes
    classes: dict[str, Share] = field(default_factory=dict)  # share of each class in training images; {}: count them

    def __post_init__(self) -> None:
        if self.classes and self.labels is None:
            raise ValueError("classes needs labels: set labels to folder, or to a column of the set's manifest")


@dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """A network (``generator:`` or ``discriminator:``); in YAML one mapping of ``arch`` and the config's keys."""

    arch: str  # name of an architecture, as in zoo.list_architectures()
    config: NetworkConfig  # of the architecture's own class

    def plain(self) -> dict[str, Any]:
        """Return the mapping for YAML."""
        return {"arch": self.arch, **to_plain(vars(self.config))}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The adversarial loss (``loss:``; see ``zoo.losses.adversarial``)."""

    name: str = "nonsaturating"  # a key of zoo.losses.adversarial.LOSSES
    label_smoothing: Share = 0.0  # s maps D's targets y to y (1 - s) + s / 2


@dataclass(frozen=True, kw_only=True)
class PenaltyConfig:
    """One regulariser (``penalties: {NAME: ...}``; see ``zoo.losses.penalties``)."""

    weight: Schedule | None = None  # null: the penalty's own default; for r1 and r2 from resolution and batch
    every: Count = 1  # steps from one use to the next; the weight is multiplied by it, so that its mean stays
    # r1 and r2: deviation of the noise over which a finite difference estimates the gradient; 0: exact gradient.
    step: NonNegative = 0.0
    share: Annotated[float, Range(above=0, high=1)] = 1.0  # of the images on which the finite difference is taken

    def __post_init__(self) -> None:
        if 0 < self.step < MIN_DIFFERENCE_STEP:
            raise ValueError(
                f"step: must be at least {MIN_DIFFERENCE_STEP:g}, not {self.step:g}: smaller differences lose their "
                "digits; 0 is the exact gradient"
            )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of the images that D sees (``augment:``; see ``zoo.training.augment``)."""

    name: Literal["diffaugment", "ada"]  # diffaugment: on every image; ada: with a probability p that adapts
    # Transformations; their order in the list has no effect.
    policy: tuple[Literal["translation", "brightness", "contrast", "cutout", "xflip"], ...] = (
        "translation",
        "brightness",
        "contrast",
    )
    images: tuple[Literal["real", "fake"], ...] = ("real", "fake")  # must be both; kept for clear errors
    paired: bool = False  # one draw for the real and the fake image of a pair, which relativistic losses compare
    target: Share = 0.6  # ada: desired mean sign of D's logits on real images, above which p rises
    speed_kimg: Positive = 500.0  # ada: kimg in which p could rise from 0 to 1
    most: Annotated[float, Range(low=0, below=1)] = 0.8  # ada: largest p; G learns what is always applied

    def __post_init__(self) -> None:
        if set(self.images) != {"real", "fake"}:
            sides = " and ".join(self.images) or "none"
            raise ValueError(
                f"images: must be [real, fake], not {sides} alone: an augmentation of one side tells D which images "
                "are fake, and G learns to imitate the augmentation"
            )
        if not self.policy:
            raise ValueError("policy: lists no transformation; remove the section `augment` to train without")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """An encoder that G first learns to decode, and that is thrown away (``autoencoder:``; see ``zoo.losses``)."""

    weight: Schedule  # of the reconstruction in G's loss; should fade to 0, as [[0, 10], [5, 0]]
    kl: NonNegative = 0.01  # weight of the divergence of codes from latents within it
    channels: Count = 32  # of the encoder's first convolution
    lr: Positive = 1e-3  # of the encoder's Adam


@dataclass(frozen=True, kw_only=True)
class ScalesConfig:
    """Smaller images from inside G, each with a discriminator (``scales:``; see ``zoo.losses.scales``)."""

    sizes: tuple[Annotated[int, Range(low=4, high=MAX_RESOLUTION)], ...]  # pixels per side, of maps that G has
    # Weights of the mean adversarial loss of the small images, and of their mean squared difference from the final one.
    weight: Schedule = field(default_factory=lambda: Schedule.parse(1.0))
    consistency: Schedule = field(default_factory=lambda: Schedule.parse(10.0))
    channels: Count = 32  # of the first convolution of each discriminator

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes: lists no size; remove the section `scales` to train without")
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes: lists a size twice: {', '.join(map(str, self.sizes))}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser of one network (``optimizer.generator:`` or ``optimizer.discriminator:``)."""

    name: Literal["adam", "sgd"] = "adam"
    lr: Schedule  # learning rate
    betas: tuple[Decay, Decay] = (0.9, 0.999)  # adam: decay of the mean gradient and the mean square per step
    eps: Positive = 1e-8  # adam: added to the denominator
    momentum: Share = 0.0  # sgd


@dataclass(frozen=True, kw_only=True)
class OptimizersConfig:
    """The optimisers of both networks (``optimizer:``)."""

    generator: OptimizerConfig
    discriminator: OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """The average of G's weights that is sampled, evaluated and saved (``ema:``; see ``zoo.training.ema``)."""

    halflife_kimg: NonNegative = 10.0  # kimg after which a weight's share in the average has halved; 0: no averaging
    ramp: Positive | None = 0.05  # limits the half-life to this share of the images seen so far; null: no limit
    # Replaces both by a power-function average (Karras et al. 2024): its standard deviation relative to the training
    # so far; 0.28 is just below that of a plain mean.
    power_std: PowerStd | None = None
    # Further averages by a power of these deviations, whose snapshots `zoo ema` combines to any other.
    snapshot_stds: tuple[PowerStd, ...] = ()
    snapshot_kimg: Positive = 20.0  # kimg from one snapshot to the next


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batches and cadences of training (``train:``)."""

    kimg: Annotated[float, Range(low=0.001, high=1e9)]  # length of the run
    batch: Count | BatchSchedule  # images per step over all processes; or by images seen: [[0, 8], [200, 32]]
    micro_batch: Count | None = None  # images per forward pass, gradients add up to the batch; null: the whole batch
    update: Literal["simultaneous", "alternating"] = "alternating"  # see zoo.training.trainer
    d_steps: Count = 1  # updates of D, each on another batch, for each update of G
    precision: Precision = "auto"  # of forward passes; auto: on a CPU the faster one, on a GPU bf16 if it has it
    sync_batch_norm: bool = True  # batch norms use the statistics of the batches of all processes
    seed: Annotated[int, Range(low=-(2**63), high=2**63 - 1)] = 0  # of weights, image order and every random draw
    init_from: str | None = None  # run folder, weights file, or name of pretrained weights that are the start
    log_kimg: Positive = 1.0  # kimg from one row of the log to the next
    sample_kimg: Positive = 10.0  # kimg from one sample grid and its metrics to the next
    checkpoint_kimg: Positive = 10.0  # kimg from one checkpoint to the next
    checkpoint_minutes: Positive = 15.0  # and the longest time between two; has no effect on weights
    keep: Count = 2  # number of checkpoints to keep, the newest ones
    evaluate_share: Share = 0.02  # largest share of the time spent on metrics; 1: always measured, 0: only at the end
    best: Literal["ssim", "kid", "fid", "none"] = "ssim"  # metric that selects generator-best.safetensors
    stop_on_collapse: bool = False  # end the run when the samples stay nearly identical

    def __post_init__(self) -> None:
        for size in self.batches.sizes:
            if self.micro_batch is not None and size % self.micro_batch:
                raise ValueError(f"micro_batch {self.micro_batch} does not divide batch {size}")
        if self.d_steps > 1 and self.update == "simultaneous":
            raise ValueError("d_steps: simultaneous updates are one each; set update: alternating for more of D")

    @functools.cached_property
    def batches(self) -> BatchSchedule:
        """Return ``batch`` as a schedule, also where it is a number."""
        return self.batch if isinstance(self.batch, BatchSchedule) else BatchSchedule(((0.0, self.batch),))


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Switches that change the speed and, apart from rounding, no result (``speed:``; see ``zoo.runtime.speed``).

    ``auto`` is on where the switch was measured to help.
    """

    channels_last: Switch = "auto"  # memory layout NHWC, which most convolutions prefer
    threads: Literal["auto"] | Count = "auto"  # of torch on the CPU
    tf32: Switch = "auto"  # fp32 products with 10 bits of mantissa, on NVIDIA Ampere and later; auto: with bf16
    fused: Switch = "auto"  # one kernel for the whole optimiser step
    fused_layers: Switch = "auto"  # CPU: compiled kernels for groups and gates, fast gradients of gradients
    # torch.compile; auto: off; reduce-overhead: also with CUDA graphs, for steps of many small kernels.
    compile: Literal["auto", "reduce-overhead"] | bool = "auto"
    cuda_graphs: Switch = "auto"  # without effect; accepted for older recipes, see `compile: reduce-overhead`
    reuse_memory: Switch = "auto"  # CPU: malloc keeps freed memory for the next layer
    resident: Switch = "auto"  # keep all training images in the device's memory; auto: if they fit
    resident_share: Share = 0.5  # largest share of the device's free memory they may take


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Numbers of trainable parameters, so that ``zoo list`` builds no network; a test compares them with it."""

    generator: int
    discriminator: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Two networks and how to train them: the content of a recipe file, with all defaults filled in."""

    name: str  # also the name of run folders
    source: str = ""  # paper or author
    data: DataConfig
    generator: NetworkChoice
    discriminator: NetworkChoice
    loss: LossConfig = field(default_factory=LossConfig)
    penalties: dict[str, PenaltyConfig] = field(default_factory=dict)  # by keys of zoo.losses.penalties.PENALTIES
    augment: AugmentConfig | None = None  # null: no augmentation
    autoencoder: AutoencoderConfig | None = None  # null: G starts from random weights
    scales: ScalesConfig | None = None  # null: losses of the final image alone
    optimizer: OptimizersConfig
    ema: EmaConfig = field(default_factory=EmaConfig)
    train: TrainConfig
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    parameters: ParameterCounts | None = None  # null: unknown, as after an override that may change them
    plugins: tuple[Plugin, ...] = ()  # files and modules that register what the recipe names (zoo.core.plugins)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]{0,99}\w", self.name):  # no path separators: run folders are named after it
            raise ValueError(f"name: must be letters, digits, '-', '_' and '.' (at most 100), not {shorten(self.name)}")

    @property
    def image(self) -> ImageSpec:
        """Shape and classes of the images of both networks."""
        return image_spec(self.data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with every default filled in; ``zoo.recipes.recipe_from_dict`` reads it."""
        content: dict[str, Any] = to_plain(self)
        if not self.plugins:  # so that older versions read it too
            del content["plugins"]
        return content

    def to_yaml(self) -> str:
        """Return :meth:`to_dict` as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=100)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of everything that changes results: not names, length, cadences, speed or what is kept.

        Defaults are left out, so that a key added in a later version leaves the digests of older recipes unchanged.
        """
        content = _non_default_values(self)
        for key in ("name", "source", "speed", "parameters", "plugins"):
            content.pop(key, None)
        for key in _TRAIN_KEYS_OUTSIDE_DIGEST:
            content["train"].pop(key, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _non_default_values(value: Any) -> Any:
    """Return plain data of a dataclass without the fields that have their default."""
    if isinstance(value, NetworkChoice):
        return {"arch": value.arch, **_non_default_values(value.config)}
    if isinstance(value, dict):
        return {key: _non_default_values(item) for key, item in value.items()}
    if not dataclasses.is_dataclass(value) or hasattr(value, "plain"):
        return to_plain(value)
    values = {}
    for each in dataclasses.fields(value):
        current = getattr(value, each.name)
        default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        if default is dataclasses.MISSING or current != default:
            values[each.name] = _non_default_values(current)
    return values


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Shape and classes of square images.

    Attributes:
        resolution: height and width in pixels.
        channels: 1 for grey, 3 for RGB, or any other number.
        shares: share of each class in the set; empty if networks get no labels.
    """

    resolution: int
    channels: int
    shares: tuple[float, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes; 0 if networks get no labels."""
        return len(self.shares)


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """A generator's input: ``dim`` independent standard normal numbers per image."""

    dim: int


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Options of every network; architectures add fields of plain data, which are keys of ``generator:`` in YAML."""

    conditional: ClassVar[bool] = False  # whether the network takes class labels
    spectral: ClassVar[bool] = True  # False: spectral norm does not suit it (weights scaled in use, or zero at first)

    # factor of every channel count in the network (zoo.models.layers.scale_channels)
    width: Annotated[float, Range(above=0, high=64)] = 1.0
    spectral_norm: bool = False  # divide each weight matrix by its largest singular value (Miyato et al. 2018)
    # Of discriminators only, against generators without variety (zoo.models.minibatch_std and packing).
    minibatch_std: Annotated[int, Range(low=0)] = 0  # images per group whose standard deviation D sees; 0: none
    packing: Count = 1  # neighbours in the batch that D classifies together
    san: bool = False  # the last layer of D is a direction with a loss of its own (zoo.models.san)

    def validate(self, image: ImageSpec) -> None:
        """Check that the network can generate or classify images of this shape.

        Raises:
            ValueError: it cannot; one line that names the sizes it takes.
        """


def image_spec(data: DataConfig) -> ImageSpec:
    """Return the image shape and class shares of a ``data:`` section."""
    # Networks are built before the set is read and need to know whether there are classes: one stands for all.
    shares = tuple(data.classes.values()) or ((1.0,) if data.labels is not None else ())
    return ImageSpec(resolution=data.resolution, channels=data.channels, shares=shares)
