"""``zoo data check``: what a set holds, before anybody trains on it."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from zoo.core.errors import ZooError, error_message
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.threads import map_chunks
from zoo.data.cache import group_equal
from zoo.data.decode import Array, DecodedImage, UnreadableError, decode, silence_pillow
from zoo.data.near_duplicates import HASH_SIDE, difference_hash, near_duplicates
from zoo.data.resize import Window, resize_image, thumbnail, to_8_bit, to_grey
from zoo.data.sources import CHECKED, PhantomSource, Problem, Source, open_source
from zoo.data.subjects import find_subjects
from zoo.data.windowing import DeepError, window_and_range

if TYPE_CHECKING:
    from rich.console import Console

BINS = 256
SHEET = 8  # pictures along a side of the contact sheet


@dataclass(kw_only=True)
class CheckReport:
    """What was found.

    Attributes:
        label: the set, for people.
        images: how many pictures can be used.
        others: how many files are no pictures, or masks.
        splits: pictures in each split, where the set brings its own.
        subjects: how many, where names tell.
        sizes: pictures of each "WxH", most frequent first; likewise ``modes`` (as stored) and ``bits`` a channel.
        range: the intensities at which the histogram begins and ends, both included.
        histogram: 256 counts of intensities, all channels together.
        window: what would become black and white by default; None for 8 bits, which are taken as they are.
        duplicates: names of files that are equal, group by group.
        near_duplicates: pictures that much resemble another; neighbouring slices of one volume do.
        near_groups: how many groups those form.
        shared_subjects: subjects in more than one split.
        problems: what cannot be used, and why.
        files: the pictures that were written.
    """

    label: str
    images: int = 0
    others: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    subjects: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    bits: dict[int, int] = field(default_factory=dict)
    range: tuple[float, float] = (0, 255)
    histogram: list[int] = field(default_factory=list)
    window: Window | None = None
    duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: int = 0
    near_groups: int = 0
    shared_subjects: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as ``json.dumps`` takes it."""
        return asdict(self)


@dataclass
class _Found:
    """What some pictures of a set hold; later ones are merged into it."""

    kept: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    near: list[bytes] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    bits: Counter[int] = field(default_factory=Counter)
    histogram: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    thumbs: list[Array] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def merge(self, other: _Found) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                mine += value


def check_images(
    path: str | Path | None, *, out: Path | None = None, resolution: int = 64, reporter: Reporter | None = None
) -> CheckReport:
    """Look at every picture of a set, and write ``contact_sheet.png`` and ``histogram.png``.

    Args:
        path: as for :func:`zoo.data.load`.
        out: the folder to write to; None: ``data-check-<name>`` where one stands.
        resolution: pixels a side of the pictures on the contact sheet.
        reporter: who is told of progress; None: nobody.

    Raises:
        ZooError: the path will not do, there is not one image, or ``out`` cannot be written.
    """
    if resolution < 1:
        raise ZooError(f"--resolution {resolution}: must be at least 1")
    reporter = reporter or SilentReporter()
    with closing(open_source(path, resolution=resolution, channels=None)) as source, silence_pillow():
        window, span = None, (0.0, 255.0)
        try:
            found = _look(source, resolution, window, span, reporter)
        except DeepError:
            window, span = window_and_range(source, reporter)
            found = _look(source, resolution, window, span, reporter)
        report = _report(source, found, window, span, reporter)
    name = str(path or "phantoms") if isinstance(source, PhantomSource) else Path(str(path)).resolve().stem
    folder = out or Path(CHECKED + re.sub(r"\W+", "-", name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if found.thumbs:
            _contact_sheet(found.thumbs, folder / "contact_sheet.png")
            _histogram(report, folder / "histogram.png")
            report.files = [str(folder / "contact_sheet.png"), str(folder / "histogram.png")]
    except OSError as error:
        raise ZooError(f"{folder}: cannot be written ({error_message(error)}); give another folder") from error
    return report


def print_check_report(report: CheckReport, console: Console) -> None:
    """The report as a table for people."""
    from rich.table import Table

    def counts(table: dict[Any, int], most: int = 6) -> str:
        shown = [f"{name}: {count}" for name, count in list(table.items())[:most]]
        return ", ".join(shown) + (f" and {len(table) - most} more" if len(table) > most else "")

    total = max(1, sum(report.histogram))
    low, high = report.range
    rows = {
        "images": f"{report.images}" + (f" ({counts(report.splits)})" if report.splits else ""),
        "subjects": "not to be told from names" if report.subjects is None else str(report.subjects),
        "sizes": counts(report.sizes),
        "modes": counts(report.modes),
        "bits a channel": counts(report.bits),
        "intensities": f"{low:g} to {high:g}, {sum(report.histogram[:1]) / total:.0%} in the lowest of {BINS} bins",
        "window": "taken as they are" if report.window is None else f"{report.window[0]:g} to {report.window[1]:g}",
        "equal files": f"{sum(map(len, report.duplicates))} in {len(report.duplicates)} groups"
        if report.duplicates
        else "none",
        "look-alikes": f"{report.near_duplicates} in {report.near_groups} groups" if report.near_groups else "none",
        "other files": str(report.others),
        "cannot be used": str(len(report.problems)),
    }
    table = Table(title=report.label, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    lines = [f"{problem.name}: {problem.reason}" for problem in report.problems]
    lines += [f"equal: {', '.join(group)}" for group in report.duplicates]
    if report.shared_subjects:
        lines.append(f"in more than one split: {', '.join(report.shared_subjects)}")
    for line in [*lines[:20], *([f"and {len(lines) - 20} more"] if len(lines) > 20 else [])]:
        console.print(line, markup=False, highlight=False)
    for file in report.files:
        console.print(f"wrote {file}", markup=False, highlight=False)


def _look(source: Source, resolution: int, window: Window | None, span: Window, reporter: Reporter) -> _Found:
    wanted = set(np.linspace(0, len(source.names) - 1, SHEET * SHEET).astype(int).tolist())

    def look(part: range) -> _Found:
        found = _Found()
        for index in part:
            digest, raw, reason = source.digest(index)
            try:
                if raw is None:
                    raise UnreadableError(reason)
                picture = decode(raw)
            except UnreadableError as error:
                found.problems.append(Problem(source.names[index], str(error)))
                continue
            if picture.deep and window is None:
                raise DeepError(picture.pixels.dtype)
            note(found, index, digest, picture)
        return found

    def note(found: _Found, index: int, digest: bytes, picture: DecodedImage) -> None:
        pixels = picture.pixels
        values = to_8_bit(pixels, window if picture.deep else None)
        found.kept.append(index)
        found.digests.append(digest)
        found.near.append(difference_hash(thumbnail(to_grey(values), HASH_SIDE + 1, HASH_SIDE)))
        found.sizes[f"{pixels.shape[1]}x{pixels.shape[0]}"] += 1
        found.modes[picture.mode] += 1
        found.bits[picture.bits] += 1
        places = (pixels.astype(np.float32) - span[0]) * ((BINS - 1) / (span[1] - span[0] or 1))
        found.histogram += np.bincount(np.rint(places.clip(0, BINS - 1)).astype(int).ravel(), minlength=BINS)
        if index in wanted:
            channels = 3 if pixels.ndim == 3 and pixels.shape[2] == 3 else 1
            made = resize_image(values, resolution=resolution, channels=channels, fit="pad")
            found.thumbs.append(np.broadcast_to(made, (3, resolution, resolution)))

    sums = _Found()
    for _, found in map_chunks(look, len(source.names), source.chunk, task="looking", reporter=reporter):
        sums.merge(found)
    return sums


def _report(source: Source, found: _Found, window: Window | None, span: Window, reporter: Reporter) -> CheckReport:
    listing = source.listing
    names = [listing.names[index] for index in found.kept]
    splits = [listing.splits[index] for index in found.kept] if listing.splits else None
    subjects = find_subjects(names, split=splits is not None)
    groups: Counter[int] = Counter()
    if names:
        hashes = np.frombuffer(b"".join(found.near), np.uint8).reshape(len(names), -1)
        groups = Counter(near_duplicates(hashes, reporter).tolist())
    homes: dict[str, set[str]] = {}
    for subject, split in zip(subjects or (), splits or (), strict=False):
        homes.setdefault(subject, set()).add(split)
    return CheckReport(
        label=source.label,
        images=len(names),
        others=listing.others,
        splits=dict(Counter(splits or ())),
        subjects=len(set(subjects)) if subjects else None,
        sizes=dict(found.sizes.most_common()),
        modes=dict(found.modes.most_common()),
        bits=dict(found.bits.most_common()),
        range=span,
        histogram=found.histogram.tolist(),
        window=window,
        duplicates=[[names[index] for index in group] for group in group_equal(found.digests)],
        near_duplicates=sum(count for count in groups.values() if count > 1),
        near_groups=sum(count > 1 for count in groups.values()),
        shared_subjects=sorted(subject for subject, where in homes.items() if len(where) > 1),
        problems=[*listing.problems, *found.problems],
    )


def _contact_sheet(thumbs: list[Array], path: Path, gap: int = 2) -> None:
    side = thumbs[0].shape[1] + gap
    rows = -(-len(thumbs) // SHEET)
    sheet = np.full((rows * side + gap, min(SHEET, len(thumbs)) * side + gap, 3), 64, np.uint8)
    for place, thumb in enumerate(thumbs):
        top, left = (number * side + gap for number in divmod(place, SHEET))
        sheet[top : top + side - gap, left : left + side - gap] = thumb.transpose(1, 2, 0)
    Image.fromarray(sheet).save(path)


def _histogram(report: CheckReport, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    low, high = report.range
    high = max(high, low + 1)  # a set of one intensity still has an axis
    axes.stairs(report.histogram, np.linspace(low, high, BINS + 1), fill=True, color="0.35")
    axes.set(yscale="log", xlim=(low, high), xlabel="intensity as stored", ylabel="pixels")
    axes.set_title(f"{report.label}: {report.images} images", fontsize=10)
    for edge in report.window or ():
        axes.axvline(edge, color="tab:red", linewidth=1, label="default window")
    figure.savefig(path, dpi=120)
