"""Compare any two sets of images by the metrics, baselines and alarms of a bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.core.options import EvaluationOptions, with_keywords
from zoo.data.image_set import ImageSet, describe_shape, match_image_sets, read_images
from zoo.evaluation.results import ResultRow
from zoo.metrics.evaluate_images import ImageEvaluator, check_shapes, metric_definitions
from zoo.metrics.features.select_extractors import select_extractors
from zoo.metrics.registry import choose_metrics, metric_columns
from zoo.metrics.ssim import ssim
from zoo.runtime.device import choose_device, describe_environment

MIN_RESOLUTION = 8  # pixels a side


def compare(
    fakes: str | Path,
    reals: str | Path,
    *,
    unseen: str | Path | None = None,
    evaluation: EvaluationOptions | None = None,
    fit: str | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    floors: bool = True,
    intervals: bool = True,
    display: Display | None = None,
    **keywords: Any,
) -> dict[str, Any]:
    """Evaluate ``fakes`` against ``reals``.

    Args:
        fakes, reals: folders, zips, ``.npy`` or ``.npz``; images are taken as they are.
        unseen: real images of subjects that are not among ``reals``, by which copies are told from chance.
        evaluation: metrics, extractors, weights and device.
        fit: ``pad``, ``crop`` or ``stretch`` to ``resolution`` first, as for training. Images of more than 8 bits are
            then windowed, all sets alike: by the 0.5 and 99.5 percentiles of the reals or, if the reals have 8 bits,
            by the whole range of their type.
        channels: 1 or 3, with ``fit``; None: grey if all images are grey.
        floors: also evaluate baselines: held-out, mean, black and noise images.
        intervals: compute confidence intervals.
        display: where progress is shown; default: stderr.
        **keywords: fields of :class:`EvaluationOptions`.

    Returns:
        ``{"value", "low", "high", "n"}`` under each metric's name, ``alarms``, ``floors`` (the baselines), ``nearest``
        (fakes nearest to a training image), and what was compared how.

    Raises:
        ZooError: bad input, shapes that differ, or unavailable weights.
    """
    options = with_keywords(evaluation or EvaluationOptions(), keywords, function="compare")
    display = display or Display()
    metrics, device = choose_metrics(options.metrics), choose_device(options.device)
    config = _fit_config(fit, resolution, channels)
    paths = [path for path in (fakes, reals, unseen) if path is not None]
    made, real, *others = _read_sets(paths, config, display)
    heldout = others[0] if others else None
    notes: list[str] = []
    extractors = select_extractors(
        options.extractors,
        options.metrics,
        weights=options.weights,
        device=device,
        reporter=display,
        notes=notes,
    )
    evaluator = ImageEvaluator(real, heldout, metrics=metrics, spaces=extractors, reporter=display, intervals=intervals)
    result = evaluator.judge(made)
    baselines = evaluator.floors() if floors else {}
    return {
        "fakes": _describe_set(fakes, made),
        "reals": _describe_set(reals, real),
        "unseen": _describe_set(unseen, heldout) if unseen is not None and heldout is not None else None,
        "shape": describe_shape(real.shape),
        "fit": {"fit": fit, "resolution": resolution, "channels": real.shape[0]} if config else None,
        **result.to_json(),
        "floors": {name: baseline.to_json() for name, baseline in baselines.items()},
        "nearest": [
            {"fake": made.names[pair.fake], "real": real.names[pair.real], "ssim": pair.ssim, "ncc": pair.ncc}
            for pair in result.pairs
        ],
        "metrics": [
            metric.to_json() for metric in metric_columns(metrics, [extractor.name for extractor in extractors])
        ],
        "definitions": metric_definitions(extractors),
        "environment": {**describe_environment(device, "fp32"), "ssim_engine": ssim.engine()},
        "notes": notes,
    }


def as_group(document: dict[str, Any]) -> dict[str, Any]:
    """The result of :func:`compare` as a bench's group of one row, for :mod:`zoo.report.table`."""
    names = [metric["name"] for metric in document["metrics"]]

    def row(name: str, kind: str, values: dict[str, Any]) -> dict[str, Any]:
        figures = {metric: values[metric] for metric in names if metric in values}
        return {**ResultRow(name=name, kind=kind).to_json(), "figures": figures, "alarms": values["alarms"]}

    baselines = [row(name, "baseline", values) for name, values in document["floors"].items()]
    rows = [row(document["fakes"]["path"], "file", document)]
    return {"name": document["shape"], "rows": rows, "baselines": baselines}


def _read_sets(paths: Sequence[str | Path], config: DataConfig | None, display: Display) -> list[ImageSet]:
    """Fakes, reals and held-out images, of one shape and through one window."""
    sets = [read_images(path, fit=config, reporter=display) for path in paths]
    if config is not None:
        # Each set through its own window would hide how bright it is: all use the window of the reals.
        window = sets[1].window
        config = replace(config, window=window or "dtype")
        for index, images in enumerate(sets):
            if images.window not in (None, window):
                sets[index] = read_images(paths[index], fit=config, reporter=display)
    fakes, reals, *others = match_image_sets(sets)
    for images in (fakes, *others):
        check_shapes(images, reals)  # before extractors' weights are looked for
    return [fakes, reals, *others]


def _fit_config(fit: str | None, resolution: int | None, channels: int | None) -> DataConfig | None:
    if fit is None and resolution is None:
        if channels is not None:
            raise ZooError(f"--channels {channels}: needs --fit; without it images stay as they are")
        return None
    if fit not in ("pad", "crop", "stretch") or resolution is None:
        raise ZooError("--fit pad|crop|stretch and --resolution R go together")
    if resolution < MIN_RESOLUTION:
        raise ZooError(f"--resolution {resolution}: must be at least {MIN_RESOLUTION}")
    return DataConfig(resolution=resolution, channels=channels or 3, fit=fit, holdout=0.0)  # type: ignore[arg-type]


def _describe_set(path: str | Path, images: ImageSet) -> dict[str, Any]:
    subjects = len(set(images.subjects)) if images.subjects else None
    facts = {"path": str(path), "label": images.label, "n": len(images), "subjects": subjects}
    return facts if images.window is None else facts | {"window": list(images.window)}
