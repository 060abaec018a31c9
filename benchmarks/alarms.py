"""Do the alarms ring when they should, and only then?

    python benchmarks/alarms.py [--data PATH] [--sizes 28 64 128 256] [--runs RUN ...] [--space NAME] [--save]

Memorisation: one half of the unseen subjects is what copies are told from, the other half stands for honest fakes, over
many random splits. Alone, blurred, or as fakes of a trained generator (``--runs``) they must not ring; with a tenth of
them replaced by copies of training images that are shifted by a pixel, brightened by 1.1 or noisy (sigma 10 of 255),
one of the measures must. Collapse: one image, the mean image or ten images again and again must ring; reals, those of
two subjects and those of one slice level must not. ``--save`` appends what is printed to ``results/alarms.jsonl``.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import append
from torch import Tensor

import zoo
from zoo.core.config import DataConfig
from zoo.data.dataset import load_dataset
from zoo.metrics import alarms, feature_metrics, nearest_image
from zoo.metrics.evaluate_images import PAIRED
from zoo.metrics.ssim import ssim

DIRECTIONS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
KINDS = ("shifted", "brightened", "noisy")
SIZES = (64, 500, 2000)  # fakes judged at once
RESULTS = Path(__file__).parent / "results" / "alarms.jsonl"
Row = dict[str, Any]
Scores = dict[str, np.ndarray]  # measure -> (N,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PATH", help="default: the built-in phantoms")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64, 128, 256], metavar="R")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN", help="trained generators that copy nothing")
    parser.add_argument("--space", help="feature space, such as inception; default: features are left out")
    parser.add_argument("--splits", type=int, default=50, help="random halves of the unseen subjects")
    parser.add_argument("--pool", type=int, default=320, help="copies of each kind, and blurred images, to draw from")
    parser.add_argument("--reals", type=int, help="training images that features are taken of; default: all")
    parser.add_argument("--save", action="store_true", help=f"append to {RESULTS.name}")
    options = parser.parse_args()
    print("Of each measure: the share of fakes it takes for copies, and in how many of the splits it rings.")
    print("ncc, features: relative to other subjects; alone: as where subjects are not known.")
    for size in options.sizes:
        bench = Bench(size, options)
        for row in itertools.chain(bench.memorisation(), bench.collapse()):
            print(line(row), flush=True)
            if options.save:
                RESULTS.parent.mkdir(exist_ok=True)
                append(RESULTS, row)


class Bench:
    """Everything of one image size."""

    def __init__(self, size: int, options: argparse.Namespace) -> None:
        self.size, self.options = size, options
        self.rng = np.random.default_rng(size)
        self.data = found = load_dataset(options.data, DataConfig(resolution=size))
        if found.subjects is None or len({found.subjects[i] for i in found.unseen}) < 4:
            raise SystemExit(f"{found.description}: needs unseen images of at least 4 subjects")
        self.train, self.unseen = found.take(found.train), found.take(found.unseen)
        self.who = np.array([found.subjects[i] for i in found.train])
        self.unseen_who = np.array([found.subjects[i] for i in found.unseen])
        some = self.rng.permutation(len(self.train))[: options.reals]
        self.some = np.sort(some)  # whose features are taken, and what is copied
        self.fakes = {}
        for run in map(zoo.Run, options.runs):
            if zoo.load_recipe(run.recipe_file).data.resolution == size:
                self.fakes[run.path.name] = zoo.load_generator(run).sample(options.pool)
        self.real_pairs = ssim.pairwise_ssim(self.train[self.rng.permutation(len(self.train))[:PAIRED]], 255)
        self.space, self.taken, self.seen = None, {}, {}
        if options.space:
            from zoo.metrics.features.extractor import load_extractor

            self.space = load_extractor(options.space)
            self.taken = {"space": options.space, "space_reals": len(some)}
        self.table = self.features(self.train[self.some]) if self.space else torch.empty(0)

    def memorisation(self) -> Iterator[Row]:
        """False alarms of the unseen, blurred and generated; then each of them with a tenth of copies."""
        self.found = {name: (self.scores(images), who) for name, images, who in self.pools()}
        subjects = np.unique(self.unseen_who)
        splits = [self.rng.permutation(subjects)[: len(subjects) // 2] for _ in range(self.options.splits)]
        unseen = [name for name, (_, who) in self.found.items() if who is not None]
        for name in (*unseen, *self.fakes):
            yield self.rings(name, splits, {name: 1.0}, 0)
            yield self.rings(name, splits, {name: 1.0}, SIZES[0])
        for copy in KINDS:
            for rest in ("unseen", *self.fakes):
                for n in SIZES:
                    yield self.rings(f"{rest}, a tenth {copy} copies", splits, {copy: 0.1, rest: 0.9}, n)

    def draw(self, shares: dict[str, float], n: int, half: np.ndarray) -> Scores:
        """Scores of ``n`` fakes made of pools by their shares (0: a whole pool), none of subjects in ``half``."""
        drawn: list[np.ndarray] = []
        parts: list[Scores] = []
        for name, share in shares.items():
            scores, who = self.found[name]
            rows = np.arange(len(scores["ncc"])) if who is None else np.flatnonzero(~np.isin(who, half))
            if n:
                count = math.ceil(share * n) if name in KINDS else math.floor(share * n)
                rows = self.rng.choice(rows, count, replace=count > len(rows))
            drawn.append(rows)
            parts.append({key: values[rows] for key, values in scores.items()})
        return {key: np.concatenate([part[key] for part in parts]) for key in self.measures}

    def rings(self, case: str, splits: list[np.ndarray], shares: dict[str, float], n: int) -> Row:
        """How often each measure rings over the splits, and any of the three."""
        unseen = self.found["unseen"][0]
        rows: dict[str, Row] = {}
        ringing = {}
        drawn = [self.draw(shares, n, half) for half in splits]
        for key in self.measures:
            found = []
            for half, fakes in zip(splits, drawn, strict=True):
                ours = np.isin(self.unseen_who, half)
                found.append(
                    alarms.memorisation_alarm(
                        f"copies_{key}",
                        fakes[key],
                        unseen[key][ours],
                        unseen_subjects=None if "alone" in key else self.unseen_who[ours],
                        closer="higher" if key == "ssim" else "lower",
                    )
                )
            ringing[key] = np.array([alarm is not None for _, alarm in found])
            figures = [figure for figure, _ in found if figure.value is not None]
            edges = [float(figure.note.split()[-1]) for figure in figures]
            rows[key] = {
                "edge": round(float(np.median(edges)), 5) if figures else None,
                "share": round(float(np.mean([figure.value for figure in figures])), 4) if figures else None,
                "highest": round(float(np.max([figure.value for figure in figures])), 4) if figures else None,
                "rings": round(float(ringing[key].mean()), 4),
            }
        three = np.array([ringing[key] for key in self.measures if "alone" not in key])
        n = round(float(np.mean([len(fakes["ncc"]) for fakes in drawn])))
        any_of = round(float(three.any(axis=0).mean()), 4)
        return {**self.of(case, n), "splits": len(splits), "measures": rows, "rings": any_of}

    def of(self, case: str, n: int) -> Row:
        return {"size": self.size, "data": self.data.description, "case": case, "n": n, **self.taken}

    @property
    def measures(self) -> list[str]:
        return ["ssim", "ncc", "ncc_alone", *(["features", "features_alone"] if self.space else [])]

    def pools(self) -> Iterator[tuple[str, Tensor, np.ndarray | None]]:
        """Name, images, and the subject of each where it is an unseen one."""
        some = np.sort(self.rng.permutation(len(self.unseen))[: self.options.pool])
        source = self.train[self.rng.permutation(self.some)[: self.options.pool]]
        noisy = source + torch.from_numpy(self.rng.normal(0, 10, source.shape))
        yield "unseen", self.unseen, self.unseen_who
        for sigma in (0.6, 1.0):
            yield f"blurred {sigma}", blur(self.unseen[some], sigma), self.unseen_who[some]
        yield "shifted", shifted(source), None
        yield "brightened", pixels(source * 1.1), None
        yield "noisy", pixels(noisy), None
        for name, fakes in self.fakes.items():
            yield name, fakes, None

    def scores(self, images: Tensor) -> Scores:
        found = nearest_image.nearest_copy(images, self.train, subjects=self.who)
        near = ssim.nearest_ssim(images, self.train, 255)[0]
        scores = {"ssim": near, "ncc": found.distance, "ncc_alone": 1 - found.ncc}
        if self.space:
            features = self.features(images)
            scores["features"] = nearest_image.nearest_features(features, self.table, subjects=self.who[self.some])[0]
            scores["features_alone"] = nearest_image.nearest_features(features, self.table)[0]
        return {name: values.numpy() for name, values in scores.items()}

    def features(self, images: Tensor) -> Tensor:
        """(N, D), looking at every picture once."""
        keys = [image.numpy().tobytes() for image in images]
        new = list({key: i for i, key in enumerate(keys) if key not in self.seen}.values())
        for start in range(0, len(new), 64):
            some = new[start : start + 64]
            self.seen |= {keys[i]: row for i, row in zip(some, self.space(images[some]), strict=True)}
        return torch.from_numpy(np.stack([self.seen[key] for key in keys]))

    def collapse(self) -> Iterator[Row]:
        mean = pixels(self.train.double().mean(dim=0, keepdim=True))
        levels = np.concatenate([np.arange((self.who == one).sum()) for one in dict.fromkeys(self.who)])
        level = self.train[levels == levels.max() // 2]
        two = self.unseen[np.isin(self.unseen_who, np.unique(self.unseen_who)[:2])]
        order = torch.from_numpy(self.rng.permutation(len(self.train)))
        for n in SIZES[:2]:
            drawn = torch.from_numpy(self.rng.integers(0, 10, n))
            yield self.variety("one training image", self.train[order[:1]].expand(n, -1, -1, -1))
            yield self.variety("the mean image", mean.expand(n, -1, -1, -1))
            yield self.variety("ten training images", self.train[order[:10]][drawn])
            yield self.variety("ten unseen images", self.unseen[:: len(self.unseen) // 10][:10][drawn])
            yield self.variety("unseen", self.unseen[self.rng.permutation(len(self.unseen))[:n]])
            yield self.variety("one slice level", level[:n])
            for name, fakes in self.fakes.items():
                yield self.variety(name, fakes[:n])
        yield self.variety("two unseen subjects", two)

    def variety(self, case: str, images: Tensor) -> Row:
        pairs = ssim.pairwise_ssim(images[:PAIRED], 255)
        figures = {"ssim_pairwise": pairs.mean().item(), "ssim_twins": alarms.duplicate_fraction(pairs)}
        if self.space:
            found = feature_metrics.feature_distances(
                self.features(images).numpy(),
                self.table.numpy(),
                metrics=feature_metrics.FEATURE_METRICS[2:],
                options=feature_metrics.FeatureOptions(replicates=0),
            )
            figures |= {name: figure.value for name, figure in found.items()}
        inputs = alarms.CollapseInputs(
            **figures,
            ssim_pairwise_real=self.real_pairs.mean().item(),
            ssim_twins_real=alarms.duplicate_fraction(self.real_pairs),
            n=len(images),
            paired=min(len(images), PAIRED),
            reals=len(self.some),
        )
        ringing = alarms.collapse_alarms(inputs)
        return {
            **self.of(case, len(images)),
            "ssim_pairwise_real": round(self.real_pairs.mean().item(), 4),
            **{name: None if value is None else round(value, 4) for name, value in figures.items()},
            "ringing": [alarm.metric for alarm in ringing],
        }


def pixels(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def shifted(images: Tensor) -> Tensor:
    """Each by one pixel, in the eight directions by turns; what enters at an edge repeats it."""
    wide = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    height, width = images.shape[2:]
    places = [DIRECTIONS[i % 8] for i in range(len(images))]
    moved = [wide[i, :, 1 + y : 1 + y + height, 1 + x : 1 + x + width] for i, (y, x) in enumerate(places)]
    return torch.stack(moved).to(torch.uint8)


def blur(images: Tensor, sigma: float) -> Tensor:
    """By a Gaussian of ``sigma`` pixels."""
    reach = round(4 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell = (bell / bell.sum()).expand(images.shape[1], 1, 1, -1)
    wide = F.pad(images.float(), (reach,) * 4, mode="replicate")
    rows = F.conv2d(wide, bell, groups=images.shape[1])
    return pixels(F.conv2d(rows, bell.transpose(2, 3), groups=images.shape[1]))


def line(row: Row) -> str:
    """A row as text: what it is of, then its figures."""
    of = f"{row['size']:>4}  {row['case']:<42.42}  {row['n']:>5}"
    if "measures" in row:
        each = [f"{key} {one['share'] or 0:6.1%} {one['rings']:4.0%}" for key, one in row["measures"].items()]
        return f"{of}  {'  '.join(each)}  any {row['rings']:4.0%}"
    names = ("ssim_pairwise", "ssim_twins", "precision", "recall", "density", "coverage")
    figures = "  ".join(f"{name} {row[name]:.3f}" for name in names if row.get(name) is not None)
    return f"{of}  {figures}  rings: {', '.join(row['ringing']) or 'nothing'}"


if __name__ == "__main__":
    main()
