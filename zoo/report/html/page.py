"""A benchmark or one run as one HTML file that needs no network, no other file and no installed font.

The texts, numbers, drawings and images come from the other modules of this package; ``page.html.j2`` arranges them, and
``page.css`` and ``page.js`` are copied into it. A policy in the file forbids the browser every request and every
other script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from zoo.core.files import atomic_file
from zoo.report.html.album import Album, RowPictures
from zoo.report.html.group_section import GroupSection
from zoo.report.html.quiz import make_quiz
from zoo.report.html.summary_text import summarise_groups, write_sentence
from zoo.report.html.svg_charts import draw_swatch
from zoo.report.number_format import format_whole

__all__ = ["RowPictures", "write_page"]

PAGE_FILES = Path(__file__).parent


def write_page(
    path: Path,
    document: Mapping[str, Any],
    pictures: Mapping[str, RowPictures],
    reals: Mapping[str, np.ndarray],
    *,
    no_reals: bool = False,
) -> None:
    """Write the document of a benchmark and its images as one HTML file, completely or not at all.

    Args:
        document: plain data: ``title``, ``kind`` (``bench`` or ``report``: the page of one run), ``metrics``,
            ``groups`` of ``rows`` (best first, broken ones last) and ``baselines``, ``notes``, ``environment`` ...
        pictures: images by row name; rows may be missing.
        reals: real images for the quiz by group name, uint8 (n, C, R, R).
        no_reals: leave out every real image that ``pictures`` and ``reals`` hold.

    Raises:
        OSError: the file cannot be written.
        ValueError: images that are not uint8 (n, C, R, R).
    """
    # The album comes first: it checks all images, before anything is written.
    album = Album(document, pictures, {} if no_reals else reals, no_reals=no_reals)
    groups = [GroupSection(index, group, document, pictures, album) for index, group in enumerate(document["groups"])]
    script = _read_source("page.js")
    # Names of runs and error texts come from users: everything is escaped unless the template marks it safe.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE_FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda place: f"{100 * place:.2f}%"
    environment.filters |= {"whole": format_whole, "swatch": draw_swatch, "sentence": write_sentence}
    page = environment.get_template("page.html.j2").render(
        document=document,
        single=document["kind"] == "report",
        summary=summarise_groups(document),
        groups=groups,
        quiz=make_quiz(document, groups, album),
        no_reals=no_reals,
        style=_read_source("page.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    with atomic_file(path) as file:
        file.write(page.encode("utf-8", "replace"))  # a file name that is not Unicode must not spoil the page


def _read_source(name: str) -> str:
    # Browsers read "\r\n" as "\n", and the policy names the script by its hash.
    return (PAGE_FILES / name).read_text(encoding="utf-8").replace("\r\n", "\n")
