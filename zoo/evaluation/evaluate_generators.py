"""Evaluate generators, grouped and ranked by image shape."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import Interrupted, ZooError, describe_error, error_message
from zoo.core.files import atomic_file, replace_file
from zoo.core.options import EvaluationOptions
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.image_set import ImageSet, describe_shape, train_and_heldout
from zoo.evaluation.results import FailedTarget, ResultRow, Target, merge_seeds, rank_rows, row_from_json
from zoo.evaluation.targets import AnyTarget
from zoo.hub.load import LoadedGenerator, load_generator
from zoo.metrics.evaluate_images import ImageEvaluator, NearestPair
from zoo.metrics.features.select_extractors import select_extractors
from zoo.metrics.registry import choose_metrics, metric_columns
from zoo.metrics.ssim import ssim
from zoo.models import sampling
from zoo.recipes import summarise_recipe
from zoo.report.html.page import RowPictures
from zoo.runtime.device import choose_device, describe_environment

DEFAULT_NUM_SAMPLES = 2000  # generated images per row; FID depends on it, so it does not depend on the device
SAMPLE_SEED = 0  # of the latents of generated images
GRID_COUNTS = {64: 64, 128: 25}  # images in a grid, by largest resolution in pixels
LARGE_GRID_COUNT = 16
WALK_IMAGES = 12  # of an interpolation
MAX_REAL_IMAGES = 40  # real images per group for the page

_Shape = tuple[int, int, int]
_Evaluated = tuple[ResultRow, dict[str, np.ndarray], list[NearestPair]]


@dataclass(kw_only=True)
class EvaluatedGroup:
    """Rows of one image shape, best first, with the images of each and some real ones."""

    shape: _Shape
    data: Dataset
    rows: list[ResultRow] = field(default_factory=list)
    baselines: list[ResultRow] = field(default_factory=list)
    ranked_by: str | None = None
    images: dict[str, RowPictures] = field(default_factory=dict)
    real_images: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 8, 8), np.uint8))

    @property
    def name(self) -> str:
        return describe_shape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as the page takes it."""
        data = self.data
        return {
            "name": self.name,
            "resolution": self.shape[1],
            "channels": self.shape[0],
            "data": {
                "description": data.description,
                "digest": data.digest,
                "train": len(data.train),
                "unseen": len(data.unseen),
            },
            "ranked_by": self.ranked_by,
            "rows": [row.to_json() for row in self.rows],
            "baselines": [row.to_json() for row in self.baselines],
        }


class GeneratorEvaluator:
    """Evaluates targets, group by group.

    Args:
        options: what to evaluate by.
        cache: folder of finished rows, so that the same call again evaluates only what is new.

    Attributes:
        notes: lines that readers of the results should know.

    Raises:
        ZooError: unknown metrics or extractors, missing weights, or too few samples.
    """

    def __init__(self, options: EvaluationOptions, *, cache: Path, display: Display) -> None:
        count = options.num_samples
        if count is not None and count < 2:
            raise ZooError(f"--samples {count}: must be at least 2")
        self.data, self.cache, self.display = options.data, cache, display
        self.num_samples = DEFAULT_NUM_SAMPLES if count is None else count
        self.metrics, self.device = choose_metrics(options.metrics), choose_device(options.device)
        self.notes: list[str] = []
        self.extractors = select_extractors(
            options.extractors,
            options.metrics,
            weights=options.weights,
            device=self.device,
            reporter=display,
            notes=self.notes,
        )
        self.columns = metric_columns(self.metrics, [extractor.name for extractor in self.extractors])

    def groups(self, targets: Sequence[AnyTarget]) -> tuple[list[EvaluatedGroup], list[ResultRow]]:
        """All groups, and the failed rows that belong to none."""
        shapes: dict[_Shape, list[AnyTarget]] = {}
        failed = []
        for target in targets:
            if target.recipe is None:
                failed.append(_failed_row(target, getattr(target, "error", "has no recipe")))
                continue
            config = target.recipe.data
            shapes.setdefault((config.channels, config.resolution, config.resolution), []).append(target)
        if len(shapes) > 1:
            self._explain_shapes(shapes)
        groups = []
        for shape, members in sorted(shapes.items()):
            try:
                groups.append(self._evaluate_group(shape, members))
            except ZooError as error:  # the images to evaluate by: nothing of this shape can be evaluated
                self.display.warn(str(error))
                failed += [_failed_row(target, getattr(target, "error", str(error))) for target in members]
        for row in failed:
            row.facts |= {"group": None, "data_digest": None}
        if groups:  # at the end of the last table, where they are seen
            groups[-1].rows += failed
        return groups, failed

    def _explain_shapes(self, shapes: dict[_Shape, list[AnyTarget]]) -> None:
        parts = []
        for shape, members in sorted(shapes.items()):
            names = dict.fromkeys(target.name for target in members)
            parts.append(f"{describe_shape(shape)}: {', '.join(names)}")
        self.display.say(f"values of different sizes cannot be compared, so each is ranked alone: {'; '.join(parts)}")

    def _evaluate_group(self, shape: _Shape, targets: Sequence[AnyTarget]) -> EvaluatedGroup:
        """Evaluate the targets of one shape.

        Raises:
            ZooError: there are no images to evaluate by.
        """
        reference, config = self._load_reference(targets)
        train, heldout = train_and_heldout(reference)
        evaluator = ImageEvaluator(train, heldout, metrics=self.metrics, spaces=self.extractors, reporter=self.display)
        group = EvaluatedGroup(shape=shape, data=reference)
        for name, result in evaluator.floors().items():
            alarms = [alarm.to_json() for alarm in result.alarms]
            group.baselines.append(ResultRow(name=name, kind="baseline", figures=result.figures, alarms=alarms))
        by_variant: dict[str, list[ResultRow]] = {}
        for target in targets:
            row = self._evaluate_target(target, evaluator, config, group)
            by_variant.setdefault(target.group, []).append(row)
        rows = [merge_seeds(rows) for rows in by_variant.values()]
        ideal = group.baselines[0].figures if heldout is not None else {}
        group.rows, group.ranked_by = rank_rows(rows, self.columns, ideal)
        source = heldout if heldout is not None else train
        group.real_images = np.array(source.images[np.random.default_rng(0).permutation(len(source))[:MAX_REAL_IMAGES]])
        return group

    def _load_reference(self, targets: Sequence[AnyTarget]) -> tuple[Dataset, DataConfig]:
        """The images that were given, else those of the first run that has them."""
        configs = [target.recipe.data for target in targets if target.recipe is not None]
        trained = [target for target in targets if isinstance(target, Target) and target.run is not None]
        if self.data is None and trained:
            error = ZooError("no images to evaluate by; give --data")
            for target in trained:
                assert target.run is not None
                config = target.recipe.data
                try:
                    return load_dataset(target.run.info["data"], config, reporter=self.display), config
                except ZooError as failure:
                    error = failure
            raise error
        source = self.data or os.environ.get("ZOO_DATA")
        if source is None:
            raise ZooError(f"{targets[0].name}: does not say what it was trained on; give --data")
        return load_dataset(source, configs[0], reporter=self.display), configs[0]

    def _evaluate_target(
        self, target: AnyTarget, evaluator: ImageEvaluator, config: DataConfig, group: EvaluatedGroup
    ) -> ResultRow:
        """One row; a failure is recorded in it and stops no other."""
        if isinstance(target, FailedTarget):
            return _failed_row(target, target.error)
        reference = group.data
        try:
            note = self._check_training_images(target, reference, config)
            row, images = self._evaluate(target, evaluator)
        except Interrupted:
            raise
        except Exception as error:  # no memory, a damaged log, a network's own fault: none may cost the other rows
            why = describe_error(error)
            self.display.warn(f"{target.name}: {why}")
            return _failed_row(target, why)
        if note:
            row.facts["trained_on"] = note
        row.facts |= {"data_digest": reference.digest, "data": reference.description}
        group.images.setdefault(target.name, images)
        return row

    def _check_training_images(self, target: Target, reference: Dataset, config: DataConfig) -> str | None:
        """Make sure that a run was trained on images of the reference, and on none of the held-out ones.

        Returns:
            what it was trained on, where that is not the whole reference.

        Raises:
            ZooError: it was trained on others.
        """
        if target.run is None:
            return "images that its file does not name"
        info = target.run.info
        if info["data_digest"] == reference.digest:
            return None
        other = f"was trained on other images ({info['data_description']}) than it is evaluated by"
        own_config = target.recipe.data
        if (own_config.fit, own_config.window) != (config.fit, config.window):
            raise ZooError(f"{other}: fitted by {own_config.fit}, not {config.fit}, or windowed differently")
        try:
            own = load_dataset(info["data"], own_config, reporter=self.display)
        except ZooError as error:
            raise ZooError(f"{other}, and those cannot be read ({error})") from None
        if own.digest != info["data_digest"]:
            raise ZooError(f"{other}, and those have changed since")
        trained = _image_hashes(own, own.train)
        train = _image_hashes(reference, reference.train)
        heldout = _image_hashes(reference, reference.unseen)
        if leaked := len(trained & (heldout - train)):
            raise ZooError(f"{other}: {leaked} of the held-out images were among them")
        if unknown := len(trained - train):
            raise ZooError(f"{other}: {unknown} of its {len(trained)} are not among the training images here")
        return f"{len(own.train):,} of the {len(reference.train):,} training images"

    def _evaluate(self, target: Target, evaluator: ImageEvaluator) -> tuple[ResultRow, RowPictures]:
        generator = load_generator(target.weights, device=str(self.device))
        with target.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        content = json.dumps([digest, evaluator.key, self.num_samples, SAMPLE_SEED])
        key = hashlib.sha256(content.encode()).hexdigest()[:24]
        evaluated = self._load_row(key)
        if evaluated is None:
            evaluated = self._measure(target, generator, evaluator)
            self._save_row(key, *evaluated)
        else:
            self.display.say(f"{target.name}: already evaluated with the same weights, images and metrics")
        row, arrays, pairs = evaluated
        row.name, row.kind, row.error = target.name, target.kind, None
        row.cost |= _costs(target)
        row.facts |= {"key": key, "weights_sha256": digest}
        train = evaluator.reals
        nearest = [pair.real for pair in pairs]
        images = RowPictures(
            fakes=arrays["fakes"],
            pairs=arrays["pairs"],
            nearest=np.array(train.images[nearest]) if nearest else arrays["pairs"][:0],
            pair_notes=[_caption(pair, train) for pair in pairs],
            strip=arrays["strip"],
            log=target.run.rows() if target.run is not None else [],
        )
        return row, images

    def _measure(self, target: Target, generator: LoadedGenerator, evaluator: ImageEvaluator) -> _Evaluated:
        """Generate and evaluate images: the row, the images to keep, and the nearest pairs."""
        self.display.start(f"sampling {target.name}", self.num_samples)
        start = time.monotonic()
        try:
            fakes = generator.sample(self.num_samples, SAMPLE_SEED, advance=self.display.advance).numpy()
        finally:
            self.display.stop()
        seconds = time.monotonic() - start
        self.display.say(f"evaluating {target.name}: {self.num_samples} images")
        result = evaluator.judge(ImageSet(images=fakes, label=target.name))
        recipe = generator.recipe
        row = ResultRow(
            name=target.name,
            kind=target.kind,
            figures=result.figures,
            alarms=[alarm.to_json() for alarm in result.alarms],
            cost={"nimg": generator.nimg, "sample_img_per_s": round(self.num_samples / seconds, 3)},
            facts={
                "recipe": recipe.name,
                "recipe_digest": recipe.digest,
                "seeds": [recipe.train.seed],
                "samples": self.num_samples,
                "sample_seed": SAMPLE_SEED,
                "environment": describe_environment(self.device, "fp32"),
                "ssim_engine": ssim.engine(),
                "judged": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            },
        )
        resolution = recipe.data.resolution
        count = next((count for size, count in GRID_COUNTS.items() if resolution <= size), LARGE_GRID_COUNT)
        arrays = {
            "fakes": fakes[:count],
            "pairs": fakes[[pair.fake for pair in result.pairs]] if result.pairs else fakes[:0],
            "strip": _interpolate(generator),
        }
        return row, arrays, result.pairs

    def _load_row(self, key: str) -> _Evaluated | None:
        """A row that was finished before; None where there is none or it is damaged."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            plain = json.loads((self.cache / f"{key}.json").read_text(encoding="utf-8"))
            with (self.cache / f"{key}.npz").open("rb") as file:  # opened here: numpy never closes a damaged one
                archive = np.load(file, allow_pickle=False)
                arrays = {name: archive[name] for name in ("fakes", "pairs", "strip")}
            return row_from_json(plain["row"]), arrays, [NearestPair(**pair) for pair in plain["pairs"]]
        return None

    def _save_row(self, key: str, row: ResultRow, arrays: dict[str, np.ndarray], pairs: Sequence[NearestPair]) -> None:
        """Keep a row with generated images; of real ones only their numbers."""
        try:
            with replace_file(self.cache / f"{key}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            with atomic_file(self.cache / f"{key}.json", "w") as file:
                json.dump({"row": row.to_json(), "pairs": [vars(pair) for pair in pairs]}, file)
        except OSError as error:
            self.display.warn(
                f"{self.cache}: cannot be written ({error_message(error)}); the same call evaluates this row again"
            )


def _failed_row(target: AnyTarget, why: str) -> ResultRow:
    seeds = [target.recipe.train.seed] if target.recipe is not None else []
    return ResultRow(name=target.name, kind=target.kind, error=why, facts={"seeds": seeds})


def _costs(target: Target) -> dict[str, Any]:
    """Size of the networks, and what training took according to the run."""
    G, D = summarise_recipe(target.recipe)
    rows = target.run.rows() if target.run is not None else []
    speeds = [row["img_per_s"] for row in rows if row.get("img_per_s")]
    info = target.run.info if target.run is not None else {}
    return {
        "parameters_g": G.parameters,
        "parameters_d": D.parameters,
        "macs_g": G.macs,
        "macs_d": D.macs,
        "checkpoint_bytes": target.weights.stat().st_size,
        "train_img_per_s": round(statistics.median(speeds), 3) if speeds else None,
        "peak_memory_bytes": info.get("peak_memory_bytes"),
        "wall_s": rows[-1].get("time") if rows else None,
    }


def _interpolate(generator: LoadedGenerator) -> np.ndarray:
    """Images of a round trip between three latents, uint8 (WALK_IMAGES, C, R, R)."""
    corners = generator.latents(3, seed=1)
    steps = WALK_IMAGES // len(corners)
    latents = []
    for index in range(len(corners)):
        start, end = corners[index : index + 1], corners[(index + 1) % len(corners)][None]
        latents += [sampling.slerp(start, end, step / steps) for step in range(steps)]
    return generator.decode(torch.cat(latents), seed=1, label=0 if generator.classes else None).numpy()


def _caption(pair: NearestPair, train: ImageSet) -> str:
    values = [f"{name} {value:.3f}" for name, value in (("NCC", pair.ncc), ("SSIM", pair.ssim)) if value is not None]
    return ", ".join([*values, train.names[pair.real] if train.names else f"image {pair.real}"])


def _image_hashes(data: Dataset, positions: np.ndarray) -> set[bytes]:
    return {hashlib.blake2b(data.images[i].tobytes(), digest_size=16).digest() for i in positions}
