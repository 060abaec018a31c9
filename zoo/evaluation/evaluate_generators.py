"""Generators of any shapes, each judged beside those of its own: rows, baselines, pictures, and what is kept."""

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
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.image_set import ImageSet, describe_shape, train_and_heldout
from zoo.evaluation.results import Plain, ResultRow, Target, merge_seeds, rank_rows, row_from_json
from zoo.hub.load import LoadedGenerator, load_generator
from zoo.metrics import registry
from zoo.metrics.evaluate_images import ImageEvaluator, NearestPair
from zoo.metrics.features.extractor import FeatureExtractor
from zoo.metrics.ssim import ssim
from zoo.models import sampling
from zoo.recipes import summarise_recipe
from zoo.report.html.page import RowPictures
from zoo.runtime.device import describe_environment

SEED = 0  # of the latents that fakes are made from
SHOWN = {64: 64, 128: 25}  # images in a grid, by the largest size they are for
WALK = 12  # pictures of an interpolation

Array = np.ndarray[Any, Any]


@dataclass(kw_only=True)
class EvaluatedGroup:
    """Rows of one shape, best first, with the pictures of each and some real images."""

    shape: tuple[int, int, int]
    data: Dataset
    rows: list[ResultRow] = field(default_factory=list)
    baselines: list[ResultRow] = field(default_factory=list)
    ranked_by: str | None = None
    pictures: dict[str, RowPictures] = field(default_factory=dict)
    reals: Array = field(default_factory=lambda: np.empty((0, 1, 8, 8), np.uint8))

    @property
    def name(self) -> str:
        return describe_shape(self.shape)

    def to_json(self) -> Plain:
        """As the page takes it."""
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
    """Judges entries, group by group.

    Args:
        data: the images; None: those that the first run of a group was trained on.
        metrics: names of metrics.
        spaces: feature spaces.
        samples: fakes a row.
        keep: a folder in which finished rows are kept, so that the same call again judges only what is new.
        device: where generators run.
        notes: takes lines that readers of the results should know.
    """

    def __init__(
        self,
        *,
        data: str | Path | None,
        metrics: Sequence[str],
        spaces: Sequence[FeatureExtractor],
        samples: int,
        keep: Path,
        device: torch.device,
        display: Display,
        notes: list[str],
    ) -> None:
        self.data, self.metrics, self.spaces, self.samples = data, list(metrics), list(spaces), samples
        self.keep, self.device, self.display, self.notes = keep, device, display, notes
        self.columns = registry.metric_columns(metrics, [space.name for space in spaces])

    def groups(self, entries: Sequence[Target]) -> tuple[list[EvaluatedGroup], list[ResultRow]]:
        """All groups, and the rows that belong to none because they are broken from the start."""
        shapes: dict[tuple[int, int, int], list[Target]] = {}
        lost = []
        for entry in entries:
            if entry.recipe is None:
                lost.append(_broken(entry, entry.error or "has no recipe"))
                continue
            config = entry.recipe.data
            shapes.setdefault((config.channels, config.resolution, config.resolution), []).append(entry)
        if len(shapes) > 1:
            sizes = "; ".join(
                f"{describe_shape(shape)}: {', '.join(dict.fromkeys(entry.name for entry in found))}"
                for shape, found in sorted(shapes.items())
            )
            self.display.say(f"figures of different sizes do not compare, so each is ranked by itself: {sizes}")
        made = []
        for shape, found in sorted(shapes.items()):
            try:
                made.append(self._group(shape, found))
            except ZooError as error:  # of the reference, so that nothing of this shape can be judged
                self.display.warn(str(error))
                lost += [_broken(entry, entry.error or str(error)) for entry in found]
        for row in lost:
            row.facts |= {"group": None, "data_digest": None}
        if made:  # in sight, at the end of the last table
            made[-1].rows += lost
        return made, lost

    def _group(self, shape: tuple[int, int, int], entries: Sequence[Target]) -> EvaluatedGroup:
        """One shape's rows.

        Raises:
            ZooError: there is no reference to judge them by.
        """
        reference, config = self._reference(entries)
        reals, unseen = train_and_heldout(reference)
        judge = ImageEvaluator(reals, unseen, metrics=self.metrics, spaces=self.spaces, reporter=self.display)
        group = EvaluatedGroup(shape=shape, data=reference)
        group.baselines = [
            ResultRow(
                name=name,
                kind="baseline",
                figures=verdict.figures,
                alarms=[alarm.to_json() for alarm in verdict.alarms],
            )
            for name, verdict in judge.floors().items()
        ]
        together: dict[str, list[ResultRow]] = {}
        for entry in entries:
            row = self._row(entry, judge, reference, config, group.pictures)
            together.setdefault(entry.group, []).append(row)
        rows = [merge_seeds(rows) for rows in together.values()]
        ideal = group.baselines[0].figures if unseen is not None else {}
        group.rows, group.ranked_by = rank_rows(rows, self.columns, ideal)
        source = unseen if unseen is not None else reals
        some = np.random.default_rng(0).permutation(len(source))[:40]
        group.reals = np.array(source.images[some])
        return group

    def _reference(self, entries: Sequence[Target]) -> tuple[Dataset, DataConfig]:
        """The images that were asked for, or those of the first run that has them."""
        configs = [entry.recipe.data for entry in entries if entry.recipe is not None]
        path = self.data or os.environ.get("ZOO_DATA")
        trained = [entry for entry in entries if entry.run is not None and entry.recipe is not None]
        if self.data is None and trained:
            error = ZooError("nothing to judge by")
            for entry in trained:
                assert entry.run is not None
                assert entry.recipe is not None
                try:
                    config = entry.recipe.data
                    return load_dataset(entry.run.info["data"], config, reporter=self.display), config
                except ZooError as found:
                    error = found
            raise error
        if path is None:
            raise ZooError(f"{entries[0].name}: does not say what it was trained on; give --data")
        return load_dataset(path, configs[0], reporter=self.display), configs[0]

    def _row(
        self,
        entry: Target,
        judge: ImageEvaluator,
        reference: Dataset,
        config: DataConfig,
        pictures: dict[str, RowPictures],
    ) -> ResultRow:
        """One generator; whatever is wrong with it is said in its row and stops no other."""
        if entry.error is not None:
            return _broken(entry, entry.error)
        try:
            note = self._related(entry, reference, config)
            row, shown = self._judged(entry, judge)
        except Interrupted:
            raise
        except Exception as error:  # no memory, a damaged log, a network's own mistake: none may cost the other rows
            why = describe_error(error)
            self.display.warn(f"{entry.name}: {why}")
            return _broken(entry, why)
        if note:
            row.facts["trained_on"] = note
        row.facts |= {"data_digest": reference.digest, "data": reference.description}
        pictures.setdefault(entry.name, shown)
        return row

    def _related(self, entry: Target, reference: Dataset, config: DataConfig) -> str | None:
        """Make sure that a run saw the reference, or a part of it, and none of the unseen images.

        Raises:
            ZooError: it saw others.
        """
        if entry.run is None or entry.recipe is None:
            return "images that its file does not name"
        info = entry.run.info
        if info["data_digest"] == reference.digest:
            return None
        other = f"was trained on other images ({info['data_description']}) than it is judged by"
        own_config = entry.recipe.data
        if (own_config.fit, own_config.window) != (config.fit, config.window):
            raise ZooError(f"{other}: fitted by {own_config.fit}, not {config.fit}, or windowed otherwise")
        try:
            own = load_dataset(info["data"], own_config, reporter=self.display)
        except ZooError as error:
            raise ZooError(f"{other}, and those cannot be looked at ({error})") from None
        if own.digest != info["data_digest"]:
            raise ZooError(f"{other}, and those have changed since")
        seen, known, unseen = (
            _hashes(own, own.train),
            _hashes(reference, reference.train),
            _hashes(reference, reference.unseen),
        )
        if leaked := len(seen & (unseen - known)):
            raise ZooError(f"{other}: it has seen {leaked} of the unseen ones")
        if strange := len(seen - known):
            raise ZooError(f"{other}: {strange} of its {len(seen)} are not among them")
        return f"{len(own.train):,} of the {len(reference.train):,} training images"

    def _judged(self, entry: Target, judge: ImageEvaluator) -> tuple[ResultRow, RowPictures]:
        assert entry.weights is not None
        generator = load_generator(entry.weights, device=str(self.device))
        with entry.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        key = hashlib.sha256(json.dumps([digest, judge.key, self.samples, SEED]).encode()).hexdigest()[:24]
        kept = self._recall(key)
        if kept is None:
            kept = self._measure(entry, generator, judge)
            self._remember(key, *kept)
        else:
            self.display.say(f"{entry.name}: judged before, with the same weights, images and metrics")
        row, arrays, pairs = kept
        row.name, row.kind, row.error = entry.name, entry.kind, None
        row.cost |= _costs(entry)
        row.facts |= {"key": key, "weights_sha256": digest}
        nearest = [pair.real for pair in pairs]
        shown = RowPictures(
            fakes=arrays["fakes"],
            pairs=arrays["pairs"],
            nearest=np.array(judge.reals.images[nearest]) if nearest else arrays["pairs"][:0],
            pair_notes=[_caption(pair, judge.reals) for pair in pairs],
            strip=arrays["strip"],
            log=entry.run.rows() if entry.run is not None else [],
        )
        return row, shown

    def _measure(
        self, entry: Target, generator: LoadedGenerator, judge: ImageEvaluator
    ) -> tuple[ResultRow, dict[str, Array], list[NearestPair]]:
        self.display.start(f"sampling {entry.name}", self.samples)
        began = time.monotonic()
        try:
            fakes = generator.sample(self.samples, SEED, advance=self.display.advance).numpy()
        finally:
            self.display.stop()
        seconds = time.monotonic() - began
        self.display.say(f"judging {entry.name}: {self.samples} images")
        verdict = judge.judge(ImageSet(images=fakes, label=entry.name))
        recipe = generator.recipe
        row = ResultRow(
            name=entry.name,
            kind=entry.kind,
            figures=verdict.figures,
            alarms=[alarm.to_json() for alarm in verdict.alarms],
            cost={"nimg": generator.nimg, "sample_img_per_s": round(self.samples / seconds, 3)},
            facts={
                "recipe": recipe.name,
                "recipe_digest": recipe.digest,
                "seeds": [recipe.train.seed],
                "samples": self.samples,
                "sample_seed": SEED,
                "environment": describe_environment(self.device, "fp32"),
                "ssim_engine": ssim.engine(),
                "judged": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            },
        )
        shown = next((count for size, count in SHOWN.items() if recipe.data.resolution <= size), 16)
        pairs = verdict.pairs
        arrays = {
            "fakes": fakes[:shown],
            "pairs": fakes[[pair.fake for pair in pairs]] if pairs else fakes[:0],
            "strip": _walk(generator),
        }
        return row, arrays, pairs

    def _recall(self, key: str) -> tuple[ResultRow, dict[str, Array], list[NearestPair]] | None:
        """A row that was finished before; None where there is none or it is damaged."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            plain = json.loads((self.keep / f"{key}.json").read_text(encoding="utf-8"))
            with (self.keep / f"{key}.npz").open("rb") as file:  # opened here: numpy never closes a damaged one
                archive = np.load(file, allow_pickle=False)
                arrays = {name: archive[name] for name in ("fakes", "pairs", "strip")}
            return row_from_json(plain["row"]), arrays, [NearestPair(**pair) for pair in plain["pairs"]]
        return None

    def _remember(self, key: str, row: ResultRow, arrays: dict[str, Array], pairs: Sequence[NearestPair]) -> None:
        """Generated pictures only: of real ones their numbers."""
        try:
            with replace_file(self.keep / f"{key}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            with atomic_file(self.keep / f"{key}.json", "w") as file:
                json.dump({"row": row.to_json(), "pairs": [vars(pair) for pair in pairs]}, file)
        except OSError as error:
            self.display.warn(
                f"{self.keep}: cannot be written ({error_message(error)}): the same call will judge this row again"
            )


def _broken(entry: Target, why: str) -> ResultRow:
    seeds = [entry.recipe.train.seed] if entry.recipe is not None else []
    return ResultRow(name=entry.name, kind=entry.kind, error=why, facts={"seeds": seeds})


def _costs(entry: Target) -> Plain:
    """What a network is made of, and what its training took, from its run."""
    assert entry.recipe is not None
    assert entry.weights is not None
    G, D = summarise_recipe(entry.recipe)
    rows = entry.run.rows() if entry.run is not None else []
    speeds = [row["img_per_s"] for row in rows if row.get("img_per_s")]
    info = entry.run.info if entry.run is not None else {}
    return {
        "parameters_g": G.parameters,
        "parameters_d": D.parameters,
        "macs_g": G.macs,
        "macs_d": D.macs,
        "checkpoint_bytes": entry.weights.stat().st_size,
        "train_img_per_s": round(statistics.median(speeds), 3) if speeds else None,
        "peak_memory_bytes": info.get("peak_memory_bytes"),
        "wall_s": rows[-1].get("time") if rows else None,
    }


def _walk(generator: LoadedGenerator) -> Array:
    """A round trip between three latents."""
    corners = generator.latents(3, seed=1)
    each = WALK // len(corners)
    points = [
        sampling.slerp(corners[i : i + 1], corners[(i + 1) % len(corners)][None], step / each)
        for i in range(len(corners))
        for step in range(each)
    ]
    return generator.decode(torch.cat(points), seed=1, label=0 if generator.classes else None).numpy()


def _caption(pair: NearestPair, reals: ImageSet) -> str:
    figures = [f"{name} {value:.3f}" for name, value in (("NCC", pair.ncc), ("SSIM", pair.ssim)) if value is not None]
    return ", ".join([*figures, reals.names[pair.real] if reals.names else f"image {pair.real}"])


def _hashes(data: Dataset, positions: Array) -> set[bytes]:
    return {hashlib.blake2b(data.images[i].tobytes(), digest_size=16).digest() for i in positions}
