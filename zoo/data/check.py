"""``zoo data check``: inspect a set before training on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoo.core.errors import ZooError, error_message
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.wording import count_of
from zoo.data.cache import Row, collect_facts, strict_error, unusable_error
from zoo.data.decode import silence_pillow
from zoo.data.folder_layout import CHECK_FOLDER_PREFIX, Problem
from zoo.data.near_duplicates import difference_hash
from zoo.data.resize import IntensityWindow, resize_image, to_8_bit
from zoo.data.sources.registry import is_path, open_source
from zoo.data.sources.source import Source, SourceOptions
from zoo.data.sources.volumes import SLICE_MARK
from zoo.data.subjects import abbreviate_list, describe_missing_subjects, printable_name, subject_indices
from zoo.data.windowing import DeepError, percentile_window

if TYPE_CHECKING:
    from rich.console import Console

HISTOGRAM_BINS = 256
CONTACT_SHEET_COLUMNS = 8  # and rows, at most
CONTACT_SHEET_GREY = 64  # between the images: neither black nor as bright as tissue
MAX_PRINTED_COUNTS = 6
MAX_PRINTED_LINES = 20


@dataclass(kw_only=True)
class CheckReport:
    """The result of a check.

    Attributes:
        label: the set, for messages.
        images: number of usable images.
        others: number of files that are not images, or are masks.
        splits: number of images in each split, where the set has split folders.
        subjects: number of subjects, where names contain them.
        sizes: images of each "WxH", most frequent first; likewise ``modes`` (as stored) and ``bits`` per channel.
        range: the intensities at which the histogram begins and ends, both included.
        histogram: 256 counts of intensities, all channels together.
        window: the intensities that become black and white by default; None for 8 bits, which are taken as they are.
        duplicates: names of files that are equal, group by group.
        near_duplicates: number of images that closely resemble another; neighbouring slices of one volume do.
        near_groups: number of groups they form.
        groups_are_subjects: whether these groups are the subjects.
        missing_subjects: which files have no subject in their names, and what that means; empty if there are none.
        shared_subjects: subjects in more than one split.
        problems: what cannot be used, and why.
        files: the images that were written.
        unusable: why the set cannot be used; empty where it can.
    """

    label: str
    images: int
    others: int
    splits: dict[str, int]
    subjects: int | None
    sizes: dict[str, int]
    modes: dict[str, int]
    bits: dict[int, int]
    range: IntensityWindow = (0, 255)
    histogram: list[int]
    window: IntensityWindow | None = None
    duplicates: list[list[str]]
    near_duplicates: int
    near_groups: int
    groups_are_subjects: bool
    missing_subjects: str
    shared_subjects: list[str]
    problems: list[Problem]
    files: list[str] = field(default_factory=list)
    unusable: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as ``json.dumps`` accepts it."""
        return asdict(self)


class _Image(NamedTuple):
    """What is measured on a usable image."""

    size: str
    mode: str
    bits: int
    histogram: ndarray
    thumbnail: ndarray | None


def check_images(
    path: str | Path | None, *, out: Path | None = None, resolution: int = 64, reporter: Reporter | None = None
) -> CheckReport:
    """Inspect every image of a set; write a contact sheet and a histogram.

    Args:
        path: as for :func:`zoo.data.dataset.load_dataset`.
        out: the folder for ``contact_sheet.png`` and ``histogram.png``; None: ``data-check-<name>`` in the current one.
        resolution: pixels per side of the images on the contact sheet.
        reporter: receives progress; None: nothing is reported.

    Raises:
        ZooError: the path is invalid, there is no image, or ``out`` cannot be written.
    """
    if resolution < 1:
        raise ZooError(f"--resolution {resolution}: must be at least 1")
    reporter = reporter or SilentReporter()
    with closing(open_source(path, SourceOptions(resolution=resolution))) as source, silence_pillow():
        window, span = None, (0.0, 255.0)
        try:
            inspection = _inspect(source, resolution, window, span, reporter)
        except DeepError:  # most sets have 8 bits, so the depth is not measured first
            window, span = percentile_window(source, reporter)
            inspection = _inspect(source, resolution, window, span, reporter)
        report = _build_report(source, *inspection, reporter)
        report.window, report.range = window, span
        failed = [(name, row.problem) for name, row in zip(source.names, inspection[0], strict=True) if row.problem]
        if not report.images:
            report.unusable = str(unusable_error(source, inspection[0]))
        elif source.strict and failed:
            report.unusable = str(strict_error(source, *failed[0]))
    thumbnails = [image.thumbnail for image in inspection[1] if image.thumbnail is not None]
    name = Path(str(path)).resolve().stem if is_path(path) else str(path or "phantoms")
    folder = out or Path(CHECK_FOLDER_PREFIX + re.sub(r"\W+", "-", name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if thumbnails:  # there is nothing to draw for a set without usable images
            paths = folder / "contact_sheet.png", folder / "histogram.png"
            _save_contact_sheet(thumbnails, paths[0])
            _save_histogram(report, paths[1])
            report.files = list(map(str, paths))
    except OSError as error:
        raise ZooError(f"{folder}: cannot be written ({error_message(error)}). Choose another folder") from error
    return report


def print_check_report(report: CheckReport, console: Console) -> None:
    """Print a report as a table, with its problems below."""
    from rich.table import Table
    from rich.text import Text

    def counts(table: dict[Any, int]) -> str:
        return abbreviate_list((f"{name}: {count}" for name, count in table.items()), MAX_PRINTED_COUNTS)

    # Mostly background; a large share explains why percentiles are not those of the tissue.
    background = sum(report.histogram[:1]) / max(1, sum(report.histogram))
    low, high = report.range
    equal = f"{sum(map(len, report.duplicates))} in {count_of(len(report.duplicates), 'group')}"
    alike = f"{report.near_duplicates} in {count_of(report.near_groups, 'group')}"
    if report.groups_are_subjects:
        alike += ", one for each subject"
    rows = {
        "images": f"{report.images}" + (f" ({counts(report.splits)})" if report.splits else ""),
        "subjects": "not contained in names" if report.subjects is None else str(report.subjects),
        "sizes": counts(report.sizes),
        "modes": counts(report.modes),
        "bits per channel": counts(report.bits),
        "intensities": f"{low:g} to {high:g}, {background:.0%} in the lowest of {HISTOGRAM_BINS} bins",
        "window": "taken as they are" if report.window is None else f"{report.window[0]:g} to {report.window[1]:g}",
        "equal files": equal if report.duplicates else "none",
        "near-duplicates": alike if report.near_groups else "none",
        "other files": str(report.others),
        "cannot be used": str(sum(problem.count for problem in report.problems)),
    }
    # Names are plain text: rich would read [v1] as markup.
    table = Table(title=Text(printable_name(report.label)), show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(table)
    lines = []
    if report.near_groups:
        meaning = "near-duplicates look alike when much reduced, as neighbouring slices of one subject do; no fault."
        if report.subjects is None:
            meaning += " Without subjects in the names, each group is held out or trained on as a whole."
        lines.append(meaning)
    if report.missing_subjects:
        lines.append(report.missing_subjects)
    lines += [f"{problem.name}: {problem.reason}" for problem in report.problems]
    lines += [f"equal: {', '.join(group)}" for group in report.duplicates]
    if report.shared_subjects:
        lines.append(f"in more than one split: {', '.join(report.shared_subjects)}")
    if len(lines) > MAX_PRINTED_LINES:
        lines[MAX_PRINTED_LINES:] = [f"and {len(lines) - MAX_PRINTED_LINES} more"]
    for line in [*lines, *(f"wrote {file}" for file in report.files)]:
        console.print(printable_name(line), markup=False, highlight=False)


def _inspect(
    source: Source, resolution: int, window: IntensityWindow | None, span: IntensityWindow, reporter: Reporter
) -> tuple[list[Row], list[_Image], ndarray]:
    """Return a row per image, the measurements of usable ones, and their histogram."""
    on_sheet = _choose_for_sheet(source)
    # Both ends of the range are the centre of a bin; a set of one intensity has no width to divide by.
    scale = (HISTOGRAM_BINS - 1) / (span[1] - span[0] or 1)

    def inspect_image(index: int) -> tuple[Row, _Image | None]:
        digest, image = source.read_and_decode(index)
        if isinstance(image, str):
            return Row(digest, image), None
        pixels = image.pixels
        if image.deep and window is None:
            raise DeepError(pixels.dtype)
        values = to_8_bit(pixels, window if image.deep else None)
        # Intensities as stored, before the window: the histogram shows what the window cuts off.
        bins = np.rint(((pixels.astype(np.float32) - span[0]) * scale).clip(0, HISTOGRAM_BINS - 1)).astype(int)
        counts = np.bincount(bins.ravel(), minlength=HISTOGRAM_BINS)
        thumbnail = None
        if index in on_sheet:
            channels = 3 if pixels.ndim == 3 and pixels.shape[2] == 3 else 1
            thumbnail = resize_image(values, resolution=resolution, channels=channels, fit="pad")
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        row = Row(digest, near_hash=difference_hash(values))
        return row, _Image(size, image.mode, image.bits, counts, thumbnail)

    rows: list[Row] = []
    images: list[_Image] = []
    histogram = np.zeros(HISTOGRAM_BINS, np.int64)
    for row, image in source.map_images(inspect_image, "inspecting", reporter):
        rows.append(row)
        if image is not None:
            histogram += image.histogram
            images.append(image._replace(histogram=histogram))  # to keep one per image would take memory
    return rows, images, histogram


def _choose_for_sheet(source: Source) -> set[int]:
    """Return the positions of images that are evenly spaced over the set, so that all of its folders are covered.

    Of volumes, each of up to 8 fills a row with slices that are evenly spaced over it.
    """

    def spread(positions: Sequence[int], count: int) -> list[int]:
        return [positions[index] for index in np.linspace(0, len(positions) - 1, count).astype(int)]

    everything = range(len(source.names))
    if not source.cuts_volumes:
        return set(spread(everything, CONTACT_SHEET_COLUMNS**2))
    volumes: dict[str, list[int]] = {}
    for index in everything:
        volumes.setdefault(source.names[index].rpartition(SLICE_MARK)[0], []).append(index)
    deep = [positions for positions in volumes.values() if len(positions) >= CONTACT_SHEET_COLUMNS]
    if len(deep) < len(volumes):  # rows would not be full
        return set(spread(everything, CONTACT_SHEET_COLUMNS**2))
    rows = spread(range(len(deep)), min(len(deep), CONTACT_SHEET_COLUMNS))
    return {index for row in rows for index in spread(deep[row], CONTACT_SHEET_COLUMNS)}


def _build_report(
    source: Source, rows: list[Row], images: list[_Image], histogram: ndarray, reporter: Reporter
) -> CheckReport:
    facts = collect_facts(source, rows, reporter, compare=True)
    group_sizes = [count for count in Counter(facts.groups).values() if count > 1]
    subjects, splits = facts.subjects or [], facts.splits or []
    # A subject in two splits would leak from training into the held-out images.
    places = Counter(subject for subject, _ in set(zip(subjects, splits, strict=False)))
    return CheckReport(
        label=source.label,
        images=len(images),
        others=source.listing.others,
        splits=dict(Counter(splits)),
        subjects=len(set(subjects)) or None,
        sizes=dict(Counter(image.size for image in images).most_common()),
        modes=dict(Counter(image.mode for image in images).most_common()),
        bits=dict(Counter(image.bits for image in images).most_common()),
        histogram=histogram.tolist(),
        duplicates=[[facts.names[index] for index in group] for group in facts.duplicates],
        near_duplicates=sum(group_sizes),
        near_groups=len(group_sizes),
        groups_are_subjects=bool(subjects) and subject_indices(subjects) == subject_indices(facts.groups or ()),
        missing_subjects=describe_missing_subjects(facts.names, facts.subjects, split=facts.splits is not None),
        shared_subjects=sorted(subject for subject, count in places.items() if count > 1),
        problems=[*source.listing.problems, *(Problem(*problem) for problem in facts.problems)],
    )


def _save_contact_sheet(thumbnails: list[ndarray], path: Path, gap: int = 2) -> None:
    side = thumbnails[0].shape[1] + gap
    rows = -(-len(thumbnails) // CONTACT_SHEET_COLUMNS)
    columns = min(CONTACT_SHEET_COLUMNS, len(thumbnails))
    sheet = np.full((rows * side + gap, columns * side + gap, 3), CONTACT_SHEET_GREY, np.uint8)
    for index, thumbnail in enumerate(thumbnails):
        top, left = (number * side + gap for number in divmod(index, CONTACT_SHEET_COLUMNS))
        sheet[top : top + side - gap, left : left + side - gap] = thumbnail.transpose(1, 2, 0)
    mark = PngInfo()
    mark.add_text("zoo", "grid")  # see zoo.data.own_images
    Image.fromarray(sheet).save(path, pnginfo=mark)


def _save_histogram(report: CheckReport, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    low, high = report.range
    high = max(high, low + 1)  # a set of one intensity still needs an axis
    axes.stairs(report.histogram, np.linspace(low, high, HISTOGRAM_BINS + 1), fill=True, color="0.35")
    axes.set(yscale="log", xlim=(low, high), xlabel="intensity as stored", ylabel="pixels")
    axes.set_title(f"{report.label}: {count_of(report.images, 'image')}", fontsize=10)
    for edge in report.window or ():
        axes.axvline(edge, color="tab:red", linewidth=1, label="default window")
    figure.savefig(path, dpi=120, metadata={"zoo": "grid"})
