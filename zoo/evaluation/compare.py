"""Any two sets of images, wherever the fakes came from: the same figures, floors and alarms as a bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.data.image_set import ImageSet, describe_shape, match_image_sets, read_images
from zoo.evaluation.results import ResultRow
from zoo.metrics import evaluate_images, registry
from zoo.metrics.features.select_extractors import select_extractors
from zoo.metrics.ssim import ssim
from zoo.runtime.device import choose_device, describe_environment


def compare(
    fakes: str | Path,
    reals: str | Path,
    *,
    unseen: str | Path | None = None,
    metrics: Sequence[str] | None = None,
    spaces: Sequence[str] | None = None,
    weights: str | Path | None = None,
    fit: str | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    floors: bool = True,
    intervals: bool = True,
    device: str = "auto",
    display: Display | None = None,
) -> dict[str, Any]:
    """Judge ``fakes`` against ``reals``; the command ``zoo compare`` is a thin caller of this.

    Args:
        fakes, reals: folders, zips, ``.npy`` or ``.npz``; images are taken as they are.
        unseen: real images of subjects that are not among ``reals``: what copies are told from.
        metrics: names and groups; None: the usual ones.
        spaces: feature spaces; None: Inception, and DINOv2 where its weights are.
        weights: a feature network's weights, or a folder of such.
        fit: ``pad``, ``crop`` or ``stretch`` to ``resolution`` first, as for training; None: not. Images of more than
            8 bits are then windowed: all sets alike, by the 0.5 and 99.5 percentiles of the reals, or, where the reals
            are of 8 bits, by all that their type can hold.
        channels: 1 or 3, with ``fit``; None: grey if all images are.
        floors: whether unseen, mean, black and noise images are judged beside.
        intervals: whether figures get intervals.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        display: where progress is shown; default: stderr.

    Returns:
        A figure ``{"value", "low", "high", "n"}`` under each metric's name, ``alarms``, ``floors``, ``nearest`` (the
        fakes nearest to a training image), and what was compared how.

    Raises:
        ZooError: bad input, shapes that differ, or weights that are not to be had.
    """
    display = display or Display()
    wanted, where = registry.choose_metrics(metrics), choose_device(device)
    notes: list[str] = []
    config = _fit(fit, resolution, channels)
    paths = [path for path in (fakes, reals, unseen) if path is not None]
    sets = [read_images(path, fit=config, reporter=display) for path in paths]
    if config is not None:
        sets = _through_one_window(sets, paths, config, display)
    made, real, *others = match_image_sets(sets)
    for images in (made, *others):
        evaluate_images.check_shapes(images, real)  # before weights are looked for
    other = others[0] if others else None
    found = select_extractors(spaces, metrics, weights=weights, device=where, reporter=display, notes=notes)
    judged = evaluate_images.ImageEvaluator(
        real, other, metrics=wanted, spaces=found, reporter=display, intervals=intervals
    )
    verdict = judged.judge(made)
    beside = judged.floors() if floors else {}
    return {
        "fakes": _facts(fakes, made),
        "reals": _facts(reals, real),
        "unseen": _facts(unseen, other) if unseen is not None and other is not None else None,
        "shape": describe_shape(real.shape),
        "fit": {"fit": fit, "resolution": resolution, "channels": real.shape[0]} if config else None,
        **verdict.to_json(),
        "floors": {name: floor.to_json() for name, floor in beside.items()},
        "nearest": [
            {
                "fake": made.names[pair.fake],
                "real": real.names[pair.real],
                "ssim": pair.ssim,
                "ncc": pair.ncc,
            }
            for pair in verdict.pairs
        ],
        "metrics": [metric.to_json() for metric in registry.metric_columns(wanted, [space.name for space in found])],
        "definitions": evaluate_images.metric_definitions(found),
        "environment": {**describe_environment(where, "fp32"), "ssim_engine": ssim.engine()},
        "notes": notes,
    }


def as_group(found: dict[str, Any]) -> dict[str, Any]:
    """What :func:`compare` returned, as a bench's group with one row, for :mod:`zoo.report.table`."""
    names = [metric["name"] for metric in found["metrics"]]

    def row(name: str, kind: str, figures: dict[str, Any]) -> dict[str, Any]:
        plain = ResultRow(name=name, kind=kind).to_json()
        picked = {metric: figures[metric] for metric in names if metric in figures}
        return {**plain, "figures": picked, "alarms": figures["alarms"]}

    baselines = [row(name, "baseline", figures) for name, figures in found["floors"].items()]
    return {"name": found["shape"], "rows": [row(found["fakes"]["path"], "file", found)], "baselines": baselines}


def _through_one_window(
    sets: Sequence[ImageSet], paths: Sequence[str | Path], fit: DataConfig, display: Display
) -> list[ImageSet]:
    """Those of more than 8 bits, all through that of the reals: each by its own would hide how bright they are."""
    window = sets[1].window
    fit = replace(fit, window=window or "dtype")
    return [
        some if some.window in (None, window) else read_images(path, fit=fit, reporter=display)
        for some, path in zip(sets, paths, strict=True)
    ]


def _fit(fit: str | None, resolution: int | None, channels: int | None) -> DataConfig | None:
    if fit is None and resolution is None:
        if channels is not None:
            raise ZooError(f"--channels {channels}: goes with --fit; without it images stay as they are")
        return None
    if fit not in ("pad", "crop", "stretch") or resolution is None:
        raise ZooError("--fit pad|crop|stretch and --resolution R go together")
    if resolution < 8:
        raise ZooError(f"--resolution {resolution}: must be at least 8")
    return DataConfig(resolution=resolution, channels=channels or 3, fit=fit, holdout=0.0)  # type: ignore[arg-type]


def _facts(path: str | Path, images: ImageSet) -> dict[str, Any]:
    subjects = len(set(images.subjects)) if images.subjects else None
    facts = {"path": str(path), "label": images.label, "n": len(images), "subjects": subjects}
    return facts if images.window is None else facts | {"window": list(images.window)}
