"""Compare any two sets of images by the metrics, baselines and alarms of a benchmark."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.core.arguments import plain_number
from zoo.core.config import MAX_RESOLUTION, DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.core.files import is_file, is_folder
from zoo.core.options import EvaluationOptions, with_keywords
from zoo.core.progress import QuietReporter
from zoo.data.image_set import ImageSet, describe_shape, match_image_sets, read_images
from zoo.data.resize import IntensityWindow
from zoo.data.sources.memory import MemorySource, as_source
from zoo.data.sources.source import Source
from zoo.data.value_range import MIN_COVERED_SHARE, ValueRange, measure_range, unclear_range_error
from zoo.evaluation.results import ResultRow
from zoo.hub.pretrained import load_named_weights
from zoo.metrics import registry
from zoo.metrics.evaluate_images import ImageEvaluator, check_shapes, metric_definitions
from zoo.metrics.features.select_extractors import select_extractors
from zoo.metrics.ssim import ssim
from zoo.recipes import list_models
from zoo.runtime.device import choose_device, describe_environment
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.run_folder import find_runs


@torch_defaults()
def compare(
    fakes: Any,
    reals: Any,
    *,
    evaluation: EvaluationOptions | None = None,
    unseen: Any = None,
    fit: str | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    window: Sequence[float] | None = None,
    floors: bool = True,
    intervals: bool = True,
    display: Display | None = None,
    **keywords: Any,
) -> dict[str, Any]:
    """Evaluate ``fakes`` against ``reals``; the function behind ``zoo compare``.

    Args:
        fakes: folder, zip, ``.npy`` or ``.npz``; images are taken as they are. Also an array, tensor, torch data set or
            table of paths, where floats must lie in [0, 1] or [-1, 1] (``zoo.data.sources.memory``).
        reals: the same, of real images.
        evaluation: metrics, extractors, weights and device; ``data`` and ``num_samples`` are ignored.
        unseen: real images of subjects that are not in ``reals``, by which copies are recognised.
        fit: ``pad``, ``crop`` or ``stretch`` images to ``resolution`` first, as for training; None: leave them. Values
            other than 8 unsigned bits are then mapped, each set by one range: 0 to 255, 0 to 1 or -1 to 1 where they
            lie in it, else the 0.5 and 99.5 percentiles of ``reals``. A line says which.
        resolution: pixels per side, with ``fit``.
        channels: 1 or 3, with ``fit``; None: grey if all images are.
        window: the values of black and white in sets that are not of 8 unsigned bits, with ``fit``; None: as above.
        floors: whether baselines are evaluated too: unseen, mean, black and noise images.
        intervals: whether values get intervals.
        display: where progress is shown; default: stderr.
        **keywords: fields of :class:`EvaluationOptions`.

    Returns:
        A value ``{"value", "low", "high", "n"}`` under each metric's name, ``alarms``, ``floors`` (the baselines),
        ``nearest`` (the fakes that are closest to a training image), and how the sets were compared.

    Raises:
        ZooError: bad input, different shapes, or weights that are not available.
    """
    options = with_keywords(evaluation or EvaluationOptions(), keywords, function="compare", depth=3)
    display = display or Display()
    metrics, device = registry.choose_metrics(options.metrics), choose_device(options.device)
    # Before images are read: errors in arguments are reported at once.
    config = _fit_config(fit, resolution, channels)
    black_white = _check_window(window, config)
    for name, images in (("fakes", fakes), ("reals", reals)):
        if images is None:
            raise ZooError(f"{name}: is None. Name images; only unseen= may be left out")
    paths = [path for path in map(as_source, (fakes, reals, unseen)) if path is not None]
    names = [path.label if isinstance(path, Source) else str(path) for path in paths]
    for path in paths:
        if not isinstance(path, Source):
            _refuse_generator(path, names[1])
    fake_images, real_images, *others = _read_sets(paths, config, black_white, display)
    for images in (fake_images, *others):
        check_shapes(images, real_images)  # first: loading or downloading weights takes longer
    unseen_images = others[0] if others else None
    notes = [
        *_describe_common(names[0], fake_images, names[1], real_images),
        *(_describe_common(names[2], others[0], names[1], real_images) if others else ()),
    ]
    for note in notes:
        display.say(note)
    extractors = select_extractors(
        options.extractors, options.metrics, weights=options.weights, device=device, reporter=display, notes=notes
    )
    evaluator = ImageEvaluator(
        real_images, unseen_images, metrics=metrics, spaces=extractors, reporter=display, intervals=intervals
    )
    result = evaluator.evaluate(fake_images)
    baselines = evaluator.baselines() if floors else {}
    figures = {name: baseline.figures for name, baseline in baselines.items()}
    result.alarms += evaluator.untrained_alarms(result.figures, figures)
    result.checked = evaluator.checked_alarms(result.figures, len(fake_images), figures)
    nearest = [
        {"fake": fake_images.names[pair.fake], "real": real_images.names[pair.real], "ssim": pair.ssim, "ncc": pair.ncc}
        for pair in result.pairs
    ]
    columns = registry.metric_columns(metrics, [extractor.name for extractor in extractors])
    return {
        "fakes": _describe_set(fakes, fake_images),
        "reals": _describe_set(reals, real_images),
        "unseen": _describe_set(unseen, unseen_images) if unseen is not None and unseen_images is not None else None,
        "shape": describe_shape(real_images.shape),
        "fit": {"fit": fit, "resolution": resolution, "channels": real_images.shape[0]} if config else None,
        **result.to_json(),
        "floors": {name: baseline.to_json() for name, baseline in baselines.items()},
        "nearest": nearest,
        "metrics": [metric.to_json() for metric in columns],
        "definitions": metric_definitions(extractors),
        "environment": {**describe_environment(device, "fp32"), "ssim_engine": ssim.engine()},
        "notes": notes,
    }


def as_group(document: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`compare` returned in the form of a benchmark's group, for :mod:`zoo.report.table`."""
    names = [metric["name"] for metric in document["metrics"]]

    def row(name: str, kind: str, result: dict[str, Any]) -> dict[str, Any]:
        values = {metric: result[metric] for metric in names if metric in result}
        alarms = {key: result[key] for key in ("alarms", "checked_alarms")}
        return {**ResultRow(name=name, kind=kind).to_json(), "figures": values, **alarms}

    baselines = [row(name, "baseline", result) for name, result in document["floors"].items()]
    rows = [row(document["fakes"]["path"], "file", document)]
    return {"name": document["shape"], "rows": rows, "baselines": baselines}


def _refuse_generator(path: str | Path, reals: str) -> None:
    """Check that a path is not a generator, which has to be sampled first."""
    place = Path(path)
    is_generator = is_file(place / "run.json") or place.suffix == ".safetensors"
    if not (is_file(place) or is_folder(place)):
        known = {*load_named_weights(), *list_models(), *(run.name for run in find_runs(Path("runs")))}
        is_generator = is_generator or str(path) in known
    if is_generator:
        raise ZooError(
            f"{path}: is a generator, not a set of images. `zoo bench {path} --data {reals}` evaluates it; "
            f"`zoo sample {path} -n 2000 --out fakes/` writes images to compare"
        )


def _describe_common(path: str, images: ImageSet, reals: str, real_images: ImageSet) -> list[str]:
    """Say how many images of a set are in ``reals`` too, pixel by pixel; such values tell nothing about a generator."""
    own, real = ([hashlib.sha256(image.tobytes()).digest() for image in some.images] for some in (images, real_images))
    common = sum(map(set(real).__contains__, own))
    if not common:
        return []
    if set(own) == set(real):
        return [f"{path} and {reals} hold the same images: FID is about 0, and SSIM with the nearest image 1, for that"]
    return [f"{common} of {len(own)} images of {path} are in {reals} too, pixel by pixel"]


def _read_sets(
    paths: Sequence[str | Path | Source], config: DataConfig | None, window: IntensityWindow | None, display: Display
) -> list[ImageSet]:
    """Read fakes, reals and others; those of more than 8 bits through a window that suits all sets."""
    if config is None:
        return match_image_sets([read_images(path, reporter=display) for path in paths])
    # Windows of the single sets are provisional, and not worth a line.
    sets = [_read_set(path, config, window, display) for path in paths]
    deep = [index for index, images in enumerate(sets) if images.window is not None]
    if window is not None and not deep:
        display.warn("--window: changes nothing, since all images have 8 bits")
    ranges: dict[int, ValueRange] = {}
    if window is None:
        deep = [index for index in deep if not _has_window(paths[index])]
        ranges = {index: measure_range(paths[index], config, display) for index in deep}
    for index in deep:
        own = window or _choose_window(ranges[index], ranges.get(1), sets[1].window)
        if own != sets[index].window:
            sets[index] = read_images(paths[index], fit=replace(config, window=own), reporter=QuietReporter(display))
        display.say(f"{paths[index]}: {own[0]:g} is black, {own[1]:g} white; --window BLACK WHITE changes this")
    return match_image_sets(sets)


def _read_set(
    path: str | Path | Source, config: DataConfig, window: IntensityWindow | None, display: Display
) -> ImageSet:
    """Read a set by its own window; by ``window`` where it has none, as with files of several types."""
    quiet = QuietReporter(display)
    try:
        return read_images(path, fit=config, reporter=quiet)
    except ZooError as error:
        if window is not None:
            return read_images(path, fit=replace(config, window=window), reporter=quiet)
        # The text is that for recipes, which this command has none of.
        raise ZooError(str(error).replace("Set data.window to [black, white]", "Give --window BLACK WHITE")) from None


def _has_window(path: str | Path | Source) -> bool:
    """Return whether a set in memory says itself which values are black and white."""
    return isinstance(path, MemorySource) and path.window is not None


def _choose_window(own: ValueRange, reals: ValueRange | None, percentiles: IntensityWindow | None) -> IntensityWindow:
    """Return the values of black and white in a set of more than 8 bits.

    Args:
        own: the range of the set.
        reals: that of the reals, which may be the same set; None: they have 8 bits.
        percentiles: those of the reals.

    Raises:
        ZooError: they cannot be known.
    """
    if reals is not None and percentiles is not None and reals.dtype == own.dtype and reals.nominal is None:
        return percentiles  # each set's own ones would hide that one is brighter than the other
    if own.nominal is not None:
        return own.nominal
    if reals is not None or own.dtype != "uint16" or own.high < MIN_COVERED_SHARE * 65535:
        raise unclear_range_error(own)
    return 0.0, 65535.0  # next to reals of 8 bits, all 16 bits are more likely than a part of them


def _check_window(window: Sequence[float] | None, config: DataConfig | None) -> IntensityWindow | None:
    if window is None:
        return None
    if config is None:
        raise ZooError("--window: needs --fit. Without it images stay as they are.")
    values = [plain_number("--window", value) for value in (window if isinstance(window, Iterable) else [window])]
    if len(values) != 2:
        raise ZooError(f"--window: takes two values, black and white, not {len(values)}")
    black, white = values
    if not (math.isfinite(black) and math.isfinite(white) and black < white):
        raise ZooError(f"--window {black:g} {white:g}: is not a range from black to white")
    return float(black), float(white)


def _fit_config(fit: str | None, resolution: int | None, channels: int | None) -> DataConfig | None:
    if fit is None and resolution is None:
        if channels is not None:
            raise ZooError(f"--channels {channels}: needs --fit. Without it images stay as they are.")
        return None
    if fit not in ("pad", "crop", "stretch") or resolution is None:
        raise ZooError("--fit pad|crop|stretch and --resolution R go together")
    resolution = plain_number("--resolution", resolution, whole=True)
    channels = None if channels is None else plain_number("--channels", channels, whole=True)
    if channels not in (None, 1, 3):
        raise ZooError(f"--channels {channels}: must be 1 or 3")
    if not 8 <= resolution <= MAX_RESOLUTION:
        raise ZooError(f"--resolution {resolution}: must be at least 8, and at most {MAX_RESOLUTION}")
    # RGB until all sets are read: match_image_sets() makes them grey if all are.
    return DataConfig(resolution=resolution, channels=channels or 3, fit=fit, holdout=0.0)  # type: ignore[arg-type]


def _describe_set(path: Any, images: ImageSet) -> dict[str, Any]:
    subjects = len(set(images.subjects)) if images.subjects else None
    place = str(path) if isinstance(path, str | Path) else images.label.partition(":")[0]
    facts = {"path": place, "label": images.label, "n": len(images), "subjects": subjects}
    return facts if images.window is None else facts | {"window": list(images.window)}
