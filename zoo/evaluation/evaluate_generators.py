"""Evaluate generators, grouped and ranked by image shape and data set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import time
import zipfile
import zlib
from collections import Counter
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
from zoo.core.files import atomic_file, cache_folder, replace_file
from zoo.core.options import EvaluationOptions
from zoo.core.wording import count_of
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.image_set import ImageSet, describe_shape, train_and_heldout
from zoo.data.sources.memory import as_source
from zoo.data.sources.registry import choose_data
from zoo.data.sources.source import Source
from zoo.evaluation.networks import open_networks
from zoo.evaluation.results import UNNAMED_IMAGES, ResultRow, merge_seeds, rank_rows, row_from_json
from zoo.evaluation.targets import AnyTarget, FailedTarget, Target
from zoo.hub.load import LoadedGenerator, load_generator
from zoo.metrics import registry
from zoo.metrics.evaluate_images import Evaluation, ImageEvaluator, NearestPair
from zoo.metrics.features.extractor import FeatureExtractor
from zoo.metrics.features.select_extractors import select_extractors
from zoo.metrics.ssim import ssim
from zoo.models.sampling import slerp
from zoo.recipes import summarise_recipe
from zoo.report.html.page import RowPictures
from zoo.runtime.device import choose_device, describe_environment
from zoo.training import checkpoint

NUM_SAMPLES = 2000  # generated images per generator; FID depends on it, so it must not depend on the device
MAX_SAMPLES = 10**6
LATENT_SEED = 0
REPORTED = ("default", "privacy")  # metrics of one generator that is reported or published
HEADLINE_METRICS = ("fid_infinity", "spectrum", "grid")  # take minutes
HEADLINE_SAMPLES = 5000  # images of a published generator, or of the leaderboard, from which on it has these as well
GRID_IMAGES = {64: 64, 128: 25}  # shown images by the largest resolution they are for
LARGE_GRID_IMAGES = 16  # for resolutions above
WALK_IMAGES = 12
QUIZ_REAL_IMAGES = 40

# What a damaged file of an earlier result raises.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(kw_only=True)
class EvaluatedGroup:
    """Results for generators of one image shape and data set.

    Attributes:
        shape: (C, H, W).
        data: the images they were evaluated against.
        data_name: of the images, where other groups have the same shape; else empty.
        rows: best first, failed ones last.
        baselines: held-out images first, if there are any.
        ranked_by: name of the metric; None: they could not be ranked.
        images: what the page shows, by name of the row.
        real_images: uint8 (n, C, H, W), for the page.
    """

    shape: tuple[int, int, int]
    data: Dataset
    data_name: str = ""
    rows: list[ResultRow] = field(default_factory=list)
    baselines: list[ResultRow] = field(default_factory=list)
    ranked_by: str | None = None
    images: dict[str, RowPictures] = field(default_factory=dict)
    real_images: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 8, 8), np.uint8))

    @property
    def name(self) -> str:
        return describe_shape(self.shape) + (f" ({self.data_name})" if self.data_name else "")

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as the page takes it."""
        data = {"description": self.data.description, "digest": self.data.digest}
        return {
            "name": self.name,
            "resolution": self.shape[1],
            "channels": self.shape[0],
            "data": data | {"train": len(self.data.train), "unseen": len(self.data.unseen)},
            "ranked_by": self.ranked_by,
            "rows": [row.to_json() for row in self.rows],
            "baselines": [row.to_json() for row in self.baselines],
        }


@dataclass(frozen=True)
class _Result:
    """A generator's row, its generated images (``fakes``, ``pairs``, ``strip``), and its nearest pairs."""

    row: ResultRow
    images: dict[str, np.ndarray]
    pairs: list[NearestPair]


@dataclass(kw_only=True)
class GeneratorEvaluator:
    """Evaluates generators group by group.

    Attributes:
        data: images to evaluate against; None: those that the runs were trained on.
        metrics: names of metrics.
        extractors: feature extractors; the first one ranks.
        num_samples: generated images per generator.
        cache: folder that keeps finished rows, so that the same call again evaluates only new generators.
        device: where generators run.
        notes: lines that readers of the results should know.
    """

    data: str | Path | Source | None
    metrics: Sequence[str]
    extractors: Sequence[FeatureExtractor]
    num_samples: int
    cache: Path
    device: torch.device
    display: Display
    notes: list[str]

    @property
    def columns(self) -> list[registry.Metric]:
        """The metrics of all extractors, in the order of tables."""
        return registry.metric_columns(self.metrics, [extractor.name for extractor in self.extractors])

    def groups(self, targets: Sequence[AnyTarget]) -> tuple[list[EvaluatedGroup], list[ResultRow]]:
        """Evaluate ``targets``.

        Returns:
            One group per image shape and data set, and the failed rows that belong to none; the last group contains
            them too.
        """
        by_shape: dict[tuple[int, int, int], list[AnyTarget]] = {}
        failed = []
        for target in targets:
            if target.recipe is None:
                failed.append(_failed_row(target, "has no recipe"))
                continue
            config = target.recipe.data
            by_shape.setdefault((config.channels, config.resolution, config.resolution), []).append(target)
        parts = [(shape, part) for shape, members in sorted(by_shape.items()) for part in self._split_by_data(members)]
        if len(parts) > 1:
            texts = [f"{describe_shape(shape)}: {', '.join(_names(members))}" for shape, members in parts]
            kinds = "sizes" if len(parts) == len(by_shape) else "data sets" if len(by_shape) == 1 else "sizes and data"
            self.display.say(
                f"values of different {kinds} do not compare, so there is one table for each: {'; '.join(texts)}"
            )
        groups = []
        for shape, members in parts:
            try:
                groups.append(self._evaluate_group(shape, members))
            except ZooError as error:  # no data: nothing of this group can be evaluated
                failed += [_failed_row(target, str(error)) for target in members]
        _name_data(groups)
        for row in failed:
            row.facts |= {"group": None, "data_digest": None}
        if groups:
            groups[-1].rows += failed  # the end of the last table, where they are seen
        return groups, failed

    def _split_by_data(self, targets: Sequence[AnyTarget]) -> list[list[AnyTarget]]:
        """Split generators of one shape by the images they were trained on.

        A run that was trained on a part of another one's images is compared with it; files of unknown images, and runs
        that failed, are in the first part.
        """
        by_digest: dict[str, list[AnyTarget]] = {}
        others: list[AnyTarget] = []
        for target in targets:
            if isinstance(target, Target) and target.run is not None:
                by_digest.setdefault(target.run.info["data_digest"], []).append(target)
            else:
                others.append(target)
        if self.data is not None or len(by_digest) < 2:
            return [[*targets]]
        parts: list[list[AnyTarget]] = []
        for members in by_digest.values():
            part = next((part for part in parts if self._is_part(members[0], part)), None)
            if part is None:
                parts.append(members)
            else:
                part += members
        parts[0] += others
        return parts

    def _is_part(self, target: AnyTarget, others: Sequence[AnyTarget]) -> bool:
        """Return whether ``target`` was trained on a part of the images that ``others`` are evaluated against."""
        assert isinstance(target, Target)
        try:
            self._check_training_images(target, *self._load_data(others))
        except ZooError:
            return False
        return True

    def _evaluate_group(self, shape: tuple[int, int, int], targets: Sequence[AnyTarget]) -> EvaluatedGroup:
        """Evaluate generators of one shape and data set.

        Raises:
            ZooError: there are no images to evaluate against.
        """
        data, config = self._load_data(targets)
        train_images, heldout_images = train_and_heldout(data)
        evaluator = ImageEvaluator(
            train_images, heldout_images, metrics=self.metrics, spaces=self.extractors, reporter=self.display
        )
        group = EvaluatedGroup(shape=shape, data=data)
        group.baselines = [_result_row(name, "baseline", result) for name, result in evaluator.baselines().items()]
        # Seeds of one variant become one row.
        by_variant: dict[str, list[ResultRow]] = {}
        for target in targets:
            row = self._evaluate_target(target, evaluator, group, config)
            by_variant.setdefault(target.group, []).append(row)
        rows = [merge_seeds(seeds) for seeds in by_variant.values()]
        # What a perfect generator would score: held-out images, which come first.
        ideal = group.baselines[0].values if heldout_images is not None else {}
        group.rows, group.ranked_by = rank_rows(rows, self.columns, ideal)
        real = heldout_images if heldout_images is not None else train_images
        group.real_images = np.array(real.images[np.random.default_rng(0).permutation(len(real))[:QUIZ_REAL_IMAGES]])
        return group

    def _load_data(self, targets: Sequence[AnyTarget]) -> tuple[Dataset, DataConfig]:
        """Load the images asked for, or those of the first run whose images can still be read."""
        if self.data is None:
            failures = []
            for target in targets:
                if isinstance(target, Target) and target.run is not None:
                    try:
                        config = target.recipe.data
                        return load_dataset(target.run.info["data"], config, reporter=self.display), config
                    except ZooError as error:
                        failures.append(error)
            if failures:
                raise failures[-1]
        path = choose_data(self.data)
        if path is None:
            raise ZooError("the files do not say what images they were trained on. Give --data.")
        config = next(target.recipe for target in targets if target.recipe is not None).data
        return load_dataset(path, config, reporter=self.display), config

    def _evaluate_target(
        self, target: AnyTarget, evaluator: ImageEvaluator, group: EvaluatedGroup, config: DataConfig
    ) -> ResultRow:
        """Evaluate one generator; an error becomes its row and does not stop the others."""
        if isinstance(target, FailedTarget):
            return _failed_row(target, target.error)
        try:
            note = self._check_training_images(target, group.data, config)
            row, images = self._evaluate_weights(target, evaluator, group)
        except Interrupted:
            raise
        except Exception as error:  # no memory, a damaged log, a bug in one network
            return _failed_row(target, describe_error(error))
        if note:
            row.facts["trained_on"] = note
        row.facts |= {"data_digest": group.data.digest, "data": group.data.description}
        group.images.setdefault(target.name, images)  # of several seeds the first
        return row

    def _check_training_images(self, target: Target, data: Dataset, config: DataConfig) -> str | None:
        """Check that a run was trained on ``data`` or a part of it, and on no held-out image; describe a part.

        Raises:
            ZooError: it was trained on other images.
        """
        if target.run is None:
            return UNNAMED_IMAGES
        info, own_config = target.run.info, target.recipe.data
        if info["data_digest"] == data.digest:
            return None
        problem = f"was trained on other images ({info['data_description']}) than it is evaluated against"
        if (own_config.fit, own_config.window) != (config.fit, config.window):
            raise ZooError(f"{problem}: fitted by {own_config.fit}, not {config.fit}, or windowed differently")
        try:
            own = load_dataset(info["data"], own_config, reporter=self.display)
        except ZooError as error:
            raise ZooError(f"{problem}, and those cannot be read ({error})") from None
        if own.digest != info["data_digest"]:
            raise ZooError(f"{problem}, and those have changed since")
        trained_on = _hash_images(own, own.train)
        train, heldout = _hash_images(data, data.train), _hash_images(data, data.unseen)
        # An image can be in both sets, as black slices often are: that is no leak.
        if leaked := len(trained_on & (heldout - train)):
            raise ZooError(f"{problem}: it has seen {leaked} of the held-out images")
        if unknown := len(trained_on - train):
            raise ZooError(f"{problem}: {unknown} of its {len(trained_on)} are not among them")
        return f"{len(own.train):,} of the {len(data.train):,} training images"

    def _evaluate_weights(
        self, target: Target, evaluator: ImageEvaluator, group: EvaluatedGroup
    ) -> tuple[ResultRow, RowPictures]:
        generator = load_generator(target.weights, device=str(self.device))
        with target.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Everything that the values depend on; `evaluator.key` covers real images, metrics and extractors.
        state = self._discriminator_state(target)
        parts = json.dumps([digest, evaluator.key, self.num_samples, LATENT_SEED, *state])
        key = hashlib.sha256(parts.encode()).hexdigest()[:24]
        result = self._load_result(key)
        if result is None:
            result = self._measure(target, generator, evaluator)
            if not any(value.failed for value in result.row.values.values()):
                self._save_result(key, result)
        else:
            self.display.say(f"{target.name}: evaluated before, with the same weights, images and metrics")
        row, pairs, train_images = result.row, result.pairs, evaluator.reals
        # Not part of the cached result: it also depends on baselines.
        baselines = {baseline.name: baseline.values for baseline in group.baselines}
        row.alarms += [alarm.to_json() for alarm in evaluator.untrained_alarms(row.values, baselines)]
        checked = evaluator.checked_alarms(row.values, self.num_samples, baselines)
        row.name, row.kind, row.error = target.name, target.kind, None
        row.cost |= _costs(target)
        row.facts |= {"key": key, "weights_sha256": digest, "checked_alarms": checked}
        return row, RowPictures(
            **result.images,
            nearest=np.array(train_images.images[[pair.real for pair in pairs]]) if pairs else result.images["pairs"],
            pair_notes=[_caption(pair, train_images) for pair in pairs],
            log=target.run.rows() if target.run is not None else [],
        )

    def _discriminator_state(self, target: Target) -> list[str]:
        """Return what the discriminator of a run depends on, where a metric asks for it."""
        if "membership_discriminator" not in self.metrics or target.run is None:
            return []
        newest = checkpoint.newest_checkpoint(target.run.state)
        return [] if newest is None else [newest.name, str(newest.stat().st_size)]

    def _measure(self, target: Target, generator: LoadedGenerator, evaluator: ImageEvaluator) -> _Result:
        self.display.start(f"sampling {target.name}", self.num_samples)
        start = time.monotonic()
        try:
            fakes = generator.sample(self.num_samples, LATENT_SEED, advance=self.display.advance).numpy()
        finally:
            self.display.stop()
        seconds = time.monotonic() - start  # without the metrics: the speed of the generator
        self.display.say(f"evaluating {target.name}: {count_of(self.num_samples, 'image')}")
        networks = open_networks(generator, target.run, self.display)
        evaluation = evaluator.evaluate(ImageSet(images=fakes, label=target.name), networks)
        recipe = generator.recipe
        row = _result_row(target.name, target.kind, evaluation)
        row.cost = {"nimg": generator.nimg, "sample_img_per_s": round(self.num_samples / seconds, 3)}
        row.facts = {
            "recipe": recipe.name,
            "recipe_digest": recipe.digest,
            "seeds": [recipe.train.seed],
            "samples": self.num_samples,
            "sample_seed": LATENT_SEED,
            "environment": describe_environment(self.device, "fp32"),
            "ssim_engine": ssim.engine(),
            "judged": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        counts = (count for resolution, count in GRID_IMAGES.items() if recipe.data.resolution <= resolution)
        images = {
            "fakes": fakes[: next(counts, LARGE_GRID_IMAGES)],
            "pairs": fakes[[pair.fake for pair in evaluation.pairs]] if evaluation.pairs else fakes[:0],
            "strip": _walk(generator),
        }
        return _Result(row, images, evaluation.pairs)

    def _load_result(self, key: str) -> _Result | None:
        """Return the result of an earlier call; None: there is none, or it is damaged."""
        with contextlib.suppress(*_DAMAGED):
            plain = json.loads((self.cache / f"{key}.json").read_text(encoding="utf-8"))
            with (self.cache / f"{key}.npz").open("rb") as file:  # opened here: numpy does not close a damaged file
                archive = np.load(file, allow_pickle=False)
                images = {name: archive[name] for name in ("fakes", "pairs", "strip")}
            return _Result(row_from_json(plain["row"]), images, [NearestPair(**pair) for pair in plain["pairs"]])
        return None

    def _save_result(self, key: str, result: _Result) -> None:
        """Keep a result: generated images only, and of real ones their indices, since those may be confidential."""
        plain = {"row": result.row.to_json(), "pairs": [vars(pair) for pair in result.pairs]}
        try:
            with replace_file(self.cache / f"{key}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **result.images)  # type: ignore[arg-type]
            with atomic_file(self.cache / f"{key}.json", "w") as file:  # last: it says that the images are complete
                json.dump(plain, file)
        except OSError as error:
            self.display.warn(
                f"{self.cache}: cannot be written ({error_message(error)}). The same call will evaluate this row again."
            )


def create_evaluator(options: EvaluationOptions, *, cache: Path, display: Display) -> GeneratorEvaluator:
    """Return an evaluator with its extractors loaded.

    Raises:
        ZooError: unknown metrics, extractors or device, or weights that are not available.
    """
    if options.num_samples is not None and not 2 <= options.num_samples <= MAX_SAMPLES:
        raise ZooError(f"--samples {options.num_samples}: must be at least 2, and at most {MAX_SAMPLES:,}")
    metrics, device = registry.choose_metrics(options.metrics), choose_device(options.device)
    notes: list[str] = []
    extractors = select_extractors(
        options.extractors, options.metrics, weights=options.weights, device=device, reporter=display, notes=notes
    )
    return GeneratorEvaluator(
        data=as_source(options.data),
        metrics=metrics,
        extractors=extractors,
        num_samples=options.num_samples or NUM_SAMPLES,
        cache=cache,
        device=device,
        display=display,
        notes=notes,
    )


def evaluate_one(
    target: Target, options: EvaluationOptions, display: Display
) -> tuple[GeneratorEvaluator, EvaluatedGroup]:
    """Evaluate one generator; return the evaluator, and a group with this row only.

    Raises:
        ZooError: it cannot be evaluated.
    """
    evaluator = create_evaluator(options, cache=cache_folder() / "judged", display=display)
    groups, failed = evaluator.groups([target])
    for row in failed or groups[0].rows:
        if row.error is not None:
            raise ZooError(f"{target.name}: {row.error}")
    return evaluator, groups[0]


def _names(targets: Sequence[AnyTarget]) -> list[str]:
    """Return the names of targets, each once."""
    return list(dict.fromkeys(target.name for target in targets))


def _name_data(groups: Sequence[EvaluatedGroup]) -> None:
    """Name the images of groups that have the shape of another group: by their source, and its digest if need be."""
    for shape, count in Counter(group.shape for group in groups).items():
        equal = [group for group in groups if group.shape == shape]
        sources = [group.data.description.partition(": ")[0] for group in equal]
        for group, source in zip(equal, sources, strict=True):
            if count > 1:
                group.data_name = source if sources.count(source) == 1 else f"{source}, {group.data.digest[:8]}"


def _result_row(name: str, kind: str, evaluation: Evaluation) -> ResultRow:
    alarms = [alarm.to_json() for alarm in evaluation.alarms]
    return ResultRow(name=name, kind=kind, values=evaluation.figures, alarms=alarms)


def _failed_row(target: AnyTarget, reason: str) -> ResultRow:
    """Return a row with the target's own error if it has one, else ``reason``."""
    error = target.error if isinstance(target, FailedTarget) else reason
    seeds = [target.recipe.train.seed] if target.recipe is not None else []
    return ResultRow(name=target.name, kind=target.kind, error=error, facts={"seeds": seeds})


def _costs(target: Target) -> dict[str, Any]:
    """Return the sizes of the networks, and what the run's log says of time and memory."""
    G, D = summarise_recipe(target.recipe)
    rows = target.run.rows() if target.run is not None else []
    speeds = [row["img_per_s"] for row in rows if row.get("img_per_s")]
    return {
        "parameters_g": G.parameters,
        "parameters_d": D.parameters,
        "macs_g": G.macs,
        "macs_d": D.macs,
        "checkpoint_bytes": target.weights.stat().st_size,
        "train_img_per_s": round(statistics.median(speeds), 3) if speeds else None,
        "peak_memory_bytes": target.run.info.get("peak_memory_bytes") if target.run is not None else None,
        "wall_s": rows[-1].get("time") if rows else None,
    }


def _walk(generator: LoadedGenerator) -> np.ndarray:
    """Return uint8 (WALK_IMAGES, C, H, W): a closed walk between three latents."""
    corners = generator.latents(3, seed=1)
    steps = WALK_IMAGES // len(corners)
    points = []
    for start, end in zip(corners[:, None], corners.roll(-1, 0)[:, None], strict=True):
        points += [slerp(start, end, step / steps) for step in range(steps)]
    one_class = generator.classes[0] if generator.classes else None
    return generator.decode(torch.cat(points), seed=1, label=one_class).numpy()


def _caption(pair: NearestPair, train_images: ImageSet) -> str:
    scores = [("NCC", pair.ncc), ("SSIM", pair.ssim)]
    name = train_images.names[pair.real] if train_images.names else f"image {pair.real}"
    return ", ".join([*(f"{label} {score:.3f}" for label, score in scores if score is not None), name])


def _hash_images(data: Dataset, indices: np.ndarray) -> set[bytes]:
    return {hashlib.blake2b(data.images[i].tobytes(), digest_size=16).digest() for i in indices}
