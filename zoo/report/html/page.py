"""A bench, or one run, as one HTML file that needs nothing else: no network, no other file, no installed font.

The words, numbers, drawings and pictures are made in the modules beside this one; ``page.html.j2`` puts them in place,
``page.css`` and ``page.js`` go into it whole. A policy inside the file forbids the browser every request, and every
script but that one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from zoo.core.files import atomic_file
from zoo.report import number_format
from zoo.report.html import svg_charts
from zoo.report.html.album import Album, RowPictures
from zoo.report.html.group_section import GroupSection
from zoo.report.html.quiz import make_quiz
from zoo.report.html.sprites import Array
from zoo.report.html.summary_text import Name, summarise_group

__all__ = ["RowPictures", "write_page"]

HOME = Path(__file__).parent
Plain = Mapping[str, Any]


def write_page(
    path: Path,
    document: Plain,
    pictures: Mapping[str, RowPictures],
    reals: Mapping[str, Array],
    *,
    no_reals: bool = False,
) -> None:
    """Write a bench's document and its pictures as one HTML file, whole or not at all.

    Args:
        document: plain data: ``title``, ``kind`` (``bench`` or ``report``: the page of one run), ``metrics``,
            ``groups`` of ``rows`` (best first, broken ones last) and ``baselines``, ``notes``, ``environment`` ...
        pictures: by the name of a row; rows may be missing.
        reals: by the name of a group: real images for the quiz, uint8 (n, C, R, R).
        no_reals: leave every real image out, whatever ``pictures`` and ``reals`` hold.

    Raises:
        OSError: the file cannot be written.
        ValueError: pictures that are not uint8 (n, C, R, R).
    """
    page = _render(document, pictures, {} if no_reals else reals, no_reals=no_reals)
    with atomic_file(path) as file:
        file.write(page.encode("utf-8", "replace"))


def _render(document: Plain, pictures: Mapping[str, RowPictures], reals: Mapping[str, Array], *, no_reals: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HOME),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["name"] = lambda part: isinstance(part, Name)
    environment.filters["percent"] = lambda place: f"{100 * place:.2f}%"
    environment.filters |= {"whole": number_format.format_whole, "swatch": svg_charts.swatch}
    style, script = (_source(name) for name in ("page.css", "page.js"))
    album = Album(document, pictures, reals, no_reals=no_reals)
    groups = [GroupSection(index, group, document, pictures, album) for index, group in enumerate(document["groups"])]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("page.html.j2").render(
        document=document,
        single=document["kind"] == "report",
        verdict=summarise_group(document),
        groups=groups,
        quiz=make_quiz(document, groups, album),
        no_reals=no_reals,
        style=style,
        script=script,
        script_digest=digest,
    )


def _source(name: str) -> str:
    """A style sheet or script with the newlines that a browser will see: the policy names the script by its hash."""
    return (HOME / name).read_text(encoding="utf-8").replace("\r\n", "\n")
