"""What is known of a generator, in a few words: for pages and notebooks."""

from __future__ import annotations

import contextlib
from pathlib import Path

from zoo.core.errors import ZooError
from zoo.hub.load import LoadedGenerator
from zoo.hub.pretrained import PretrainedWeights, load_catalogue
from zoo.training.run_folder import open_run
from zoo.training.validation import NUM_RANKING_IMAGES


def card_items(loaded: LoadedGenerator) -> list[tuple[str, str]]:
    """Return headings and texts: network, recipe, length of training, FID, data, licence, use."""
    recipe, image = loaded.recipe, loaded.image
    items = [
        (
            "Network",
            f"{recipe.generator.arch}, {sum(p.numel() for p in loaded.parameters()) / 1e6:.1f} million weights",
        ),
        ("Recipe", f"{recipe.name}, digest {recipe.digest}"),
        ("Trained on", f"{loaded.nimg / 1000:,.1f} kimg (thousands of images seen)"),
        ("Images", f"{image.resolution} x {image.resolution} pixels, {'grey' if image.channels == 1 else 'colour'}"),
    ]
    entry = _find_entry(loaded.weights)
    if entry is not None:
        items += [("FID", _published_fid(entry)), ("Data", entry.data), ("Licence", entry.licence)]
    else:
        items += [
            ("FID", _logged_fid(loaded.weights)),
            ("Licence", "that of the images it was trained on; none is stated"),
        ]
    return [*items, ("Use", "For research, not for diagnosis.")]


def _find_entry(path: Path | None) -> PretrainedWeights | None:
    for entry in load_catalogue().values():
        if path is not None and path in (entry.local, entry.cached):
            return entry
    return None


def _published_fid(entry: PretrainedWeights) -> str:
    fid = entry.metrics.get("fid")
    if fid is None or entry.judged is None:
        return "not measured"
    interval = f" ({fid.low:.1f} to {fid.high:.1f})" if fid.low is not None and fid.high is not None else ""
    space = "" if entry.judged.space in (None, "inception") else f", features of {entry.judged.space}"
    return f"{fid.value:.1f}{interval}, of {entry.judged.samples:,} generated images{space}"


def _logged_fid(path: Path | None) -> str:
    """Return the last FID of a run's log, if it was trained with ``best: fid``."""
    with contextlib.suppress(ZooError, OSError):
        if path is not None:
            for row in reversed(open_run(path.parent).rows()):
                if isinstance(row.get("fid"), float):
                    return f"{row['fid']:.1f} in training, of {NUM_RANKING_IMAGES:,} generated images"
    return "not measured (zoo bench measures it)"
