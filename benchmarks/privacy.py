"""Measure how often the privacy alarms are triggered, by sets that copy nothing and by sets with copies.

    python benchmarks/privacy.py [--data PATH] [--sizes 28 64] [--generators NAME ...] [--save]

Over many random splits, half of the held-out subjects is the reference, and the other half plays generated images:
alone, blurred, or as images of generators (``--generators``), which must trigger nothing; with a tenth replaced by
copies of training images (shifted by a pixel, brightened by 1.1, or with noise of sigma 10 of 255), and copies alone.
``lowest`` and ``highest`` are of the ratio to the reference, of the attack of the AUC itself.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from alarms import COPY_KINDS, SAMPLE_SIZES, ImagePools, MemorisationBenchmark
from common import Row, append_row, make_parser

import zoo
from zoo.metrics import privacy
from zoo.metrics.nearest_image import correlation_table
from zoo.metrics.value import MetricValue

RESULTS = Path(__file__).parent / "results" / "privacy.jsonl"
METRICS = ("authenticity", "distance_ratio", "membership_distance")
Pool = tuple[np.ndarray, np.ndarray | None]  # correlations with training and held-out images; subjects of held-out ones


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", metavar="PATH", help="default: the built-in phantoms")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64], metavar="R")
    parser.add_argument("--generators", nargs="+", default=[], metavar="NAME", help="that copy nothing")
    parser.add_argument("--splits", type=int, default=50, help="random halves of the held-out subjects")
    parser.add_argument("--pool", type=int, default=320, help="images of each kind to draw from")
    parser.add_argument("--save", action="store_true", help=f"append to results/{RESULTS.name}")
    options = parser.parse_args()
    options.runs, options.reals, options.space = [], None, None  # of ImagePools
    for size in options.sizes:
        for row in PrivacyBenchmark(size, options).rows():
            print(describe_row(row), flush=True)
            if options.save:
                append_row(RESULTS, row)


class PrivacyBenchmark:
    """How often each value of privacy triggers its alarm."""

    def __init__(self, size: int, options: argparse.Namespace) -> None:
        self.images = ImagePools(size, options)
        for name in options.generators:
            generator = zoo.load_generator(name)
            if generator.image.resolution == size:
                self.images.generated[name] = generator.sample(options.pool)
        self.rng, self.options = self.images.rng, options
        self.train_subjects, self.heldout_subjects = self.images.train_subjects, self.images.heldout_subjects
        real = torch.cat([self.images.train, self.images.heldout])
        self.pools: dict[str, Pool] = {}
        for name, images, subjects in MemorisationBenchmark(self.images).make_pools():
            self.pools[name] = correlation_table(images, real).numpy(), subjects
        self.others = self._distances_to_others()

    def rows(self) -> Iterator[Row]:
        """Measure sets that copy nothing, then sets with a tenth of copies, and copies alone."""
        subjects = np.unique(self.heldout_subjects)
        splits = [self.rng.permutation(subjects)[: len(subjects) // 2] for _ in range(self.options.splits)]
        honest = [name for name in self.pools if name not in COPY_KINDS]
        for name in honest:
            for n in SAMPLE_SIZES:
                yield self._measure(name, splits, {name: 1.0}, n)
        for kind in COPY_KINDS:
            for rest in ("unseen", *self.images.generated):
                for n in SAMPLE_SIZES:
                    yield self._measure(f"{rest}, a tenth {kind} copies", splits, {kind: 0.1, rest: 0.9}, n)
            yield self._measure(f"{kind} copies", splits, {kind: 1.0}, SAMPLE_SIZES[1])

    def _distances_to_others(self) -> np.ndarray:
        """Return, for each training image that is the nearest of any image, its distance to other subjects."""
        train, who = self.images.train, self.train_subjects
        nearest = {int(place) for table, _ in self.pools.values() for place in table[:, : len(train)].argmax(axis=1)}
        places = np.array(sorted(nearest))
        table = correlation_table(train[places], train).numpy()
        table[who[places][:, None] == who] = -1
        others = np.full(len(train), np.nan)
        others[places] = 1 - table.max(axis=1)
        return others

    def _measure(self, case: str, splits: list[np.ndarray], shares: dict[str, float], n: int) -> Row:
        """Return, for each value, its mean, its extremes and how often its alarm is triggered over the splits."""
        found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in METRICS}
        for half in splits:
            in_half = np.isin(self.heldout_subjects, half)
            reference = self._heldout_values(in_half)
            for name, value in self._values(self._draw(shares, n, half), in_half, None).items():
                heldout = reference.get(name)
                alarm = privacy.privacy_alarm(name, value, heldout)[1]
                relative = 1.0 if heldout is None else float(heldout.value or np.nan)
                found[name].append((float(value.value or 0), relative, alarm is not None))
        measures = {name: summarise(np.array(values)) for name, values in found.items()}
        facts = {"size": self.images.size, "data": self.images.data.description, "case": case, "n": n}
        return {**facts, "splits": len(splits), "measures": measures}

    def _draw(self, shares: dict[str, float], n: int, half: np.ndarray) -> np.ndarray:
        """Draw ``n`` rows of correlations from pools by their shares, none of subjects in ``half``."""
        parts = []
        for name, share in shares.items():
            table, subjects = self.pools[name]
            places = np.arange(len(table)) if subjects is None else np.flatnonzero(~np.isin(subjects, half))
            count = math.ceil(share * n) if name in COPY_KINDS else math.floor(share * n)
            parts.append(table[self.rng.choice(places, count, replace=count > len(places))])
        return np.concatenate(parts)

    def _heldout_values(self, in_half: np.ndarray) -> dict[str, MetricValue]:
        """Return the values of the held-out images of the reference as if they were fakes."""
        table = self.pools["unseen"][0][in_half]
        values = self._values(table, in_half, self.heldout_subjects[in_half])
        return {name: values[name] for name in privacy.HELDOUT_SHARES}

    def _values(self, table: np.ndarray, in_half: np.ndarray, own: np.ndarray | None) -> dict[str, MetricValue]:
        count, known = len(self.train_subjects), self.heldout_subjects[in_half]
        train, heldout = table[:, :count], table[:, count:][:, in_half]
        if own is not None:
            heldout = np.where(own[:, None] == known, -1, heldout)
        distances, places = 1 - train.max(axis=1), train.argmax(axis=1)
        ratios = privacy.distance_ratios(distances, 1 - heldout.max(axis=1))
        scores = [
            privacy.subject_scores(side.max(axis=0), list(who), by="max")
            for side, who in ((train, self.train_subjects), (heldout, known))
        ]
        return {
            "authenticity": privacy.share_with_interval(
                privacy.authentic(distances, self.others[places]), None, intervals=False
            ),
            "distance_ratio": privacy.ratio_with_interval(ratios, None, intervals=False),
            "membership_distance": privacy.membership_auc(*scores, intervals=False),
        }


def summarise(values: np.ndarray) -> Row:
    """Summarise (S, 3): value, value of the reference, whether the alarm is triggered."""
    relative = values[:, 0] / values[:, 1]
    numbers = {"mean": values[:, 0].mean(), "lowest": relative.min(), "highest": relative.max()}
    return {**{key: round(float(number), 4) for key, number in numbers.items()}, "rings": float(values[:, 2].mean())}


def describe_row(row: Row) -> str:
    """Return a row as one line: the images, then the mean, the lowest and the highest ratio, and the alarms."""
    texts = [
        f"{name} {m['mean']:.2f} ({m['lowest']:.2f} to {m['highest']:.2f}) {m['rings']:4.0%}"
        for name, m in row["measures"].items()
    ]
    return f"{row['size']:>4}  {row['case']:<42.42}  {row['n']:>5}  {'  '.join(texts)}"


if __name__ == "__main__":
    main()
