"""Measure how often the alarms are triggered, on images that should trigger them and on images that should not.

    python benchmarks/alarms.py [--data PATH] [--sizes 28 64 128 256] [--runs RUN ...] [--space NAME] [--save]

Memorisation: over many random splits, half of the held-out subjects is the reference for copies, and the other half
plays generated images. Alone, blurred, or as images of a trained generator (``--runs``) they must trigger nothing.
With a tenth replaced by copies of training images (shifted by a pixel, brightened by 1.1, or noise of sigma 10 of 255)
one of the measures must be triggered. Collapse: one image, the mean image or ten images repeated must trigger an
alarm; real images, also those of two subjects or of one slice level, must not.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Row, append_row, make_parser
from torch import Tensor

import zoo
from zoo.core.config import DataConfig
from zoo.data.dataset import load_dataset
from zoo.metrics import alarms, feature_metrics, nearest_image
from zoo.metrics.ssim import ssim
from zoo.metrics.ssim.pairs import SSIM_PAIRED_IMAGES

RESULTS = Path(__file__).parent / "results" / "alarms.jsonl"
SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
COPY_KINDS = ("shifted", "brightened", "noisy")
SAMPLE_SIZES = (64, 500, 2000)  # generated images evaluated at once
COLLAPSE_METRICS = ("ssim_pairwise", "ssim_twins", "precision", "recall", "density", "coverage")
MIN_HELDOUT_SUBJECTS = 4  # two per half
FEATURE_BATCH = 64

Scores = dict[str, np.ndarray]  # measure: (N,) distance or similarity to the nearest training image


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", metavar="PATH", help="default: the built-in phantoms")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64, 128, 256], metavar="R")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN", help="trained generators that copy nothing")
    parser.add_argument("--space", help="feature extractor, such as inception; default: no features")
    parser.add_argument("--splits", type=int, default=50, help="random halves of the held-out subjects")
    parser.add_argument("--pool", type=int, default=320, help="copies of each kind, and blurred images, to draw from")
    parser.add_argument("--reals", type=int, help="training images whose features are computed; default: all")
    parser.add_argument("--save", action="store_true", help=f"append to results/{RESULTS.name}")
    options = parser.parse_args()
    print("For each measure: the share of images that it takes for copies, and the share of splits with an alarm.")
    print("ncc, features: relative to other subjects; alone: as if subjects were unknown.")
    for size in options.sizes:
        images = ImagePools(size, options)
        for row in itertools.chain(MemorisationBenchmark(images).rows(), collapse_rows(images)):
            print(describe_row(row), flush=True)
            if options.save:
                append_row(RESULTS, row)


class ImagePools:
    """Images of one size: training images, held-out images, and images of generators.

    Attributes:
        train, heldout: uint8 images (N, C, H, W).
        train_subjects, heldout_subjects: (N,) subject of each.
        generated: images of each run with this resolution, by the run's name.
        reference: indices of the training images whose features are computed, and which are copied.
        reference_features: (M, D) their features; empty without an extractor.
    """

    def __init__(self, size: int, options: argparse.Namespace) -> None:
        self.size, self.options = size, options
        self.rng = np.random.default_rng(size)
        self.data = data = load_dataset(options.data, DataConfig(resolution=size))
        subjects = data.subjects
        if subjects is None or len({subjects[i] for i in data.unseen}) < MIN_HELDOUT_SUBJECTS:
            raise SystemExit(f"{data.description}: needs held-out images of at least {MIN_HELDOUT_SUBJECTS} subjects.")
        self.train, self.heldout = data.take(data.train), data.take(data.unseen)
        self.train_subjects = np.array([subjects[i] for i in data.train])
        self.heldout_subjects = np.array([subjects[i] for i in data.unseen])
        self.reference = np.sort(self.rng.permutation(len(self.train))[: options.reals])
        self.generated = {}
        for run in map(zoo.Run, options.runs):
            if zoo.load_recipe(run.recipe_file).data.resolution == size:
                self.generated[run.path.name] = zoo.load_generator(run).sample(options.pool)
        # As many real pairs as evaluation compares fakes.
        pairs = self.train[self.rng.permutation(len(self.train))[:SSIM_PAIRED_IMAGES]]
        self.train_pairs = ssim.pairwise_ssim(pairs, 255)
        self.extractor: Any = None
        self.reference_features = torch.empty(0)
        self._features_by_pixels: dict[bytes, np.ndarray] = {}
        if options.space:
            from zoo.metrics.features.extractor import load_extractor

            self.extractor = load_extractor(options.space)
            self.reference_features = self.features(self.train[self.reference])

    def features(self, images: Tensor) -> Tensor:
        """Return features (N, D); each distinct image is evaluated once."""
        keys = [image.numpy().tobytes() for image in images]
        new = list({key: i for i, key in enumerate(keys) if key not in self._features_by_pixels}.values())
        for start in range(0, len(new), FEATURE_BATCH):
            batch = new[start : start + FEATURE_BATCH]
            for i, row in zip(batch, self.extractor(images[batch]), strict=True):
                self._features_by_pixels[keys[i]] = row
        return torch.from_numpy(np.stack([self._features_by_pixels[key] for key in keys]))

    def describe_case(self, case: str, n: int) -> Row:
        """Return the part of a row that says what was measured on which images."""
        row: Row = {"size": self.size, "data": self.data.description, "case": case, "n": n}
        if self.extractor:
            row |= {"space": self.options.space, "space_reals": len(self.reference)}
        return row


class MemorisationBenchmark:
    """How often each measure of the memorisation alarm is triggered."""

    def __init__(self, images: ImagePools) -> None:
        self.images, self.rng = images, images.rng
        self.measures = ["ssim", "ncc", "ncc_alone"]
        if images.extractor:
            self.measures += ["features", "features_alone"]
        # For each pool the scores and, for held-out images, their subjects.
        self.pools: dict[str, tuple[Scores, np.ndarray | None]] = {}

    def rows(self) -> Iterator[Row]:
        """Measure images that copy nothing, then the same with a tenth of copies."""
        for name, pool, subjects in self.make_pools():
            self.pools[name] = (self._score(pool), subjects)
        subjects = np.unique(self.images.heldout_subjects)
        num_splits = self.images.options.splits
        splits = [self.rng.permutation(subjects)[: len(subjects) // 2] for _ in range(num_splits)]
        heldout_pools = [name for name, (_, pool_subjects) in self.pools.items() if pool_subjects is not None]
        for name in (*heldout_pools, *self.images.generated):
            yield self._measure(name, splits, {name: 1.0}, 0)
            yield self._measure(name, splits, {name: 1.0}, SAMPLE_SIZES[0])
        for kind in COPY_KINDS:
            for rest in ("unseen", *self.images.generated):
                for n in SAMPLE_SIZES:
                    yield self._measure(f"{rest}, a tenth {kind} copies", splits, {kind: 0.1, rest: 0.9}, n)

    def make_pools(self) -> Iterator[tuple[str, Tensor, np.ndarray | None]]:
        """Yield name, images and subjects (None: not held-out images) of each pool."""
        images, size = self.images, self.images.options.pool
        # The draws below come in a fixed order, so that results of earlier versions can be repeated.
        selected = np.sort(self.rng.permutation(len(images.heldout))[:size])
        source = images.train[self.rng.permutation(images.reference)[:size]]
        noise = torch.from_numpy(self.rng.normal(0, 10, source.shape))
        yield "unseen", images.heldout, images.heldout_subjects
        for sigma in (0.6, 1.0):
            yield f"blurred {sigma}", blur(images.heldout[selected], sigma), images.heldout_subjects[selected]
        yield "shifted", shift(source), None
        yield "brightened", to_pixels(source * 1.1), None
        yield "noisy", to_pixels(source + noise), None
        for name, generated in images.generated.items():
            yield name, generated, None

    def _score(self, pool: Tensor) -> Scores:
        images = self.images
        subjects: Any = images.train_subjects
        copy = nearest_image.nearest_copy(pool, images.train, subjects=subjects)
        nearest = ssim.nearest_ssim(pool, images.train, 255)[0]
        scores = {"ssim": nearest, "ncc": copy.distance, "ncc_alone": 1 - copy.ncc}
        if images.extractor:
            features, table = images.features(pool), images.reference_features
            reference_subjects = subjects[images.reference]
            scores["features"] = nearest_image.nearest_features(features, table, subjects=reference_subjects)[0]
            scores["features_alone"] = nearest_image.nearest_features(features, table)[0]
        return {name: values.numpy() for name, values in scores.items()}

    def _draw(self, shares: dict[str, float], n: int, reference_half: np.ndarray) -> Scores:
        """Draw ``n`` images (0: a whole pool) from pools by their shares, none of subjects in ``reference_half``."""
        parts: list[Scores] = []
        for name, share in shares.items():
            scores, subjects = self.pools[name]
            if subjects is None:
                indices = np.arange(len(scores["ncc"]))
            else:
                indices = np.flatnonzero(~np.isin(subjects, reference_half))
            if n:
                # At least a tenth of copies, at most nine tenths of the rest, so that the counts add up to n.
                count = math.ceil(share * n) if name in COPY_KINDS else math.floor(share * n)
                indices = self.rng.choice(indices, count, replace=count > len(indices))
            parts.append({key: values[indices] for key, values in scores.items()})
        return {key: np.concatenate([part[key] for part in parts]) for key in self.measures}

    def _measure(self, case: str, splits: list[np.ndarray], shares: dict[str, float], n: int) -> Row:
        """Return the share of splits in which each measure is triggered, and in which any relative one is."""
        drawn = [self._draw(shares, n, half) for half in splits]
        rows: dict[str, Row] = {}
        triggered = {}
        for measure in self.measures:
            rows[measure], triggered[measure] = self._measure_one(measure, splits, drawn)
        # A dataset with subjects never uses the measures "alone".
        relative = np.array([triggered[measure] for measure in self.measures if "alone" not in measure])
        mean_size = round(float(np.mean([len(scores["ncc"]) for scores in drawn])))
        any_triggered = round(float(relative.any(axis=0).mean()), 4)
        facts = self.images.describe_case(case, mean_size)
        return {**facts, "splits": len(splits), "measures": rows, "rings": any_triggered}

    def _measure_one(
        self, measure: str, splits: list[np.ndarray], drawn: list[Scores]
    ) -> tuple[Row, np.ndarray[Any, Any]]:
        """Return the row of a measure, and for each split whether it is triggered."""
        heldout_scores, heldout_subjects = self.pools["unseen"][0][measure], self.images.heldout_subjects
        shares: list[float] = []
        thresholds: list[float] = []
        triggered = []
        for half, scores in zip(splits, drawn, strict=True):
            in_half = np.isin(heldout_subjects, half)
            subjects: Any = None if "alone" in measure else heldout_subjects[in_half]
            value, alarm = alarms.memorisation_alarm(
                f"copies_{measure}",
                scores[measure],
                heldout_scores[in_half],
                unseen_subjects=subjects,
                closer="higher" if measure == "ssim" else "lower",
            )
            triggered.append(alarm is not None)
            if value.value is not None:
                shares.append(value.value)
                thresholds.append(_last_number(value.note))
        row = {
            "edge": round(float(np.median(thresholds)), 5) if shares else None,
            "share": round(float(np.mean(shares)), 4) if shares else None,
            "highest": round(float(np.max(shares)), 4) if shares else None,
            "rings": round(float(np.mean(triggered)), 4),
        }
        return row, np.array(triggered)


def _last_number(note: str) -> float:
    """Return the threshold that ends the note of a share of copies."""
    return float(re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", note)[-1])


def collapse_rows(images: ImagePools) -> Iterator[Row]:
    """Measure collapsed sets, which must trigger the alarm, and varied ones, which must not."""
    train, heldout, rng = images.train, images.heldout, images.rng
    mean = to_pixels(train.double().mean(dim=0, keepdim=True))
    subjects = dict.fromkeys(images.train_subjects)
    # Slices of a subject follow each other, so their position is the slice level.
    levels = np.concatenate([np.arange((images.train_subjects == subject).sum()) for subject in subjects])
    middle_level = train[levels == levels.max() // 2]
    first_two = np.unique(images.heldout_subjects)[:2]
    two_subjects = heldout[np.isin(images.heldout_subjects, first_two)]
    order = torch.from_numpy(rng.permutation(len(train)))
    for n in SAMPLE_SIZES[:2]:
        drawn = torch.from_numpy(rng.integers(0, 10, n))
        yield measure_variety(images, "one training image", train[order[:1]].expand(n, -1, -1, -1))
        yield measure_variety(images, "the mean image", mean.expand(n, -1, -1, -1))
        yield measure_variety(images, "ten training images", train[order[:10]][drawn])
        yield measure_variety(images, "ten unseen images", heldout[:: len(heldout) // 10][:10][drawn])
        yield measure_variety(images, "unseen", heldout[rng.permutation(len(heldout))[:n]])
        yield measure_variety(images, "one slice level", middle_level[:n])
        for name, generated in images.generated.items():
            yield measure_variety(images, name, generated[:n])
    yield measure_variety(images, "two unseen subjects", two_subjects)


def measure_variety(images: ImagePools, case: str, sample: Tensor) -> Row:
    """Return the metrics of a set of images, and which of them trigger the collapse alarm."""
    pairs = ssim.pairwise_ssim(sample[:SSIM_PAIRED_IMAGES], 255)
    values: dict[str, float | None] = {
        "ssim_pairwise": pairs.mean().item(),
        "ssim_twins": alarms.duplicate_fraction(pairs),
    }
    if images.extractor:
        distances = feature_metrics.feature_distances(
            images.features(sample).numpy(),
            images.reference_features.numpy(),
            metrics=feature_metrics.FEATURE_METRICS[2:],
            options=feature_metrics.FeatureOptions(replicates=0),
        )
        values |= {name: value.value for name, value in distances.items()}
    real_pairwise = images.train_pairs.mean().item()
    arguments: dict[str, Any] = dict(values)
    inputs = alarms.CollapseInputs(
        **arguments,
        ssim_pairwise_real=real_pairwise,
        ssim_twins_real=alarms.duplicate_fraction(images.train_pairs),
        n=len(sample),
        paired=min(len(sample), SSIM_PAIRED_IMAGES),
        reals=len(images.reference),
    )
    triggered = alarms.collapse_alarms(inputs)
    return {
        **images.describe_case(case, len(sample)),
        "ssim_pairwise_real": round(real_pairwise, 4),
        **{name: None if value is None else round(value, 4) for name, value in values.items()},
        "ringing": [alarm.metric for alarm in triggered],
    }


def to_pixels(images: Tensor) -> Tensor:
    """Round to uint8."""
    return images.round().clamp(0, 255).to(torch.uint8)


def shift(images: Tensor) -> Tensor:
    """Shift each image by one pixel, in eight directions by turns; edge pixels are repeated."""
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    height, width = images.shape[2:]
    shifted = []
    for i, image in enumerate(padded):
        down, right = SHIFTS[i % len(SHIFTS)]
        shifted.append(image[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width])
    return torch.stack(shifted).to(torch.uint8)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian of ``sigma`` pixels."""
    radius = round(4 * sigma)  # beyond four sigma the kernel is below 0.04 % of its peak
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images.float(), (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel, groups=images.shape[1])
    return to_pixels(F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1]))


def describe_row(row: Row) -> str:
    """Return a row as one line: the images, then the values."""
    case = f"{row['size']:>4}  {row['case']:<42.42}  {row['n']:>5}"
    if "measures" in row:
        shares = [
            f"{name} {measure['share'] or 0:6.1%} {measure['rings']:4.0%}" for name, measure in row["measures"].items()
        ]
        return f"{case}  {'  '.join(shares)}  any {row['rings']:4.0%}"
    values = "  ".join(f"{name} {row[name]:.3f}" for name in COLLAPSE_METRICS if row.get(name) is not None)
    return f"{case}  {values}  alarms: {', '.join(row['ringing']) or 'none'}"


if __name__ == "__main__":
    main()
