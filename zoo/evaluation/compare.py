"""Compare any two sets of images by the metrics, baselines and alarms of a benchmark."""

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
from zoo.metrics import registry
from zoo.metrics.evaluate_images import ImageEvaluator, check_shapes, metric_definitions
from zoo.metrics.features.select_extractors import select_extractors
from zoo.metrics.ssim import ssim
from zoo.runtime.device import choose_device, describe_environment


def compare(
    fakes: str | Path,
    reals: str | Path,
    *,
    evaluation: EvaluationOptions | None = None,
    unseen: str | Path | None = None,
    fit: str | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    floors: bool = True,
    intervals: bool = True,
    display: Display | None = None,
    **keywords: Any,
) -> dict[str, Any]:
    """Evaluate ``fakes`` against ``reals``; the function behind ``zoo compare``.

    Args:
        fakes: folder, zip, ``.npy`` or ``.npz``; images are taken as they are.
        reals: the same, of real images.
        evaluation: metrics, extractors, weights and device; ``data`` and ``num_samples`` are ignored.
        unseen: real images of subjects that are not in ``reals``, by which copies are recognised.
        fit: ``pad``, ``crop`` or ``stretch`` images to ``resolution`` first, as for training; None: leave them. Images
            of more than 8 bits are then windowed, all sets alike: by the 0.5 and 99.5 percentiles of ``reals``, or, if
            these have 8 bits, by the range of their type.
        resolution: pixels per side, with ``fit``.
        channels: 1 or 3, with ``fit``; None: grey if all images are.
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
    options = with_keywords(evaluation or EvaluationOptions(), keywords, function="compare")
    display = display or Display()
    metrics, device = registry.choose_metrics(options.metrics), choose_device(options.device)
    # Before images are read: errors in arguments are reported at once.
    config = _fit_config(fit, resolution, channels)
    paths = [path for path in (fakes, reals, unseen) if path is not None]
    fake_images, real_images, *others = _read_sets(paths, config, display)
    for images in (fake_images, *others):
        check_shapes(images, real_images)  # first: loading or downloading weights takes longer
    unseen_images = others[0] if others else None
    notes: list[str] = []
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
        return {**ResultRow(name=name, kind=kind).to_json(), "figures": values, "alarms": result["alarms"]}

    baselines = [row(name, "baseline", result) for name, result in document["floors"].items()]
    rows = [row(document["fakes"]["path"], "file", document)]
    return {"name": document["shape"], "rows": rows, "baselines": baselines}


def _read_sets(paths: Sequence[str | Path], config: DataConfig | None, display: Display) -> list[ImageSet]:
    """Read fakes, reals and others; those of more than 8 bits through one intensity window, that of the reals."""
    sets = [read_images(path, fit=config, reporter=display) for path in paths]
    if config is not None:
        window = sets[1].window
        # Each set's own window would hide that one is brighter than the other.
        shared = replace(config, window=window or "dtype")
        for index, path in enumerate(paths):
            if sets[index].window not in (None, window):
                sets[index] = read_images(path, fit=shared, reporter=display)
    return match_image_sets(sets)


def _fit_config(fit: str | None, resolution: int | None, channels: int | None) -> DataConfig | None:
    if fit is None and resolution is None:
        if channels is not None:
            raise ZooError(f"--channels {channels}: needs --fit. Without it images stay as they are.")
        return None
    if fit not in ("pad", "crop", "stretch") or resolution is None:
        raise ZooError("--fit pad|crop|stretch and --resolution R go together")
    if resolution < 8:
        raise ZooError(f"--resolution {resolution}: must be at least 8")
    # RGB until all sets are read: match_image_sets() makes them grey if all are.
    return DataConfig(resolution=resolution, channels=channels or 3, fit=fit, holdout=0.0)  # type: ignore[arg-type]


def _describe_set(path: str | Path, images: ImageSet) -> dict[str, Any]:
    subjects = len(set(images.subjects)) if images.subjects else None
    facts = {"path": str(path), "label": images.label, "n": len(images), "subjects": subjects}
    return facts if images.window is None else facts | {"window": list(images.window)}
