"""The quiz "real or fake?": the data that the page's script needs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.report.html.album import QUIZ_POOL_IMAGES, Album, no_images
from zoo.report.html.group_section import GroupSection
from zoo.report.html.sprites import Sprite, make_sprite

QUIZ_TILES = 20
QUIZ_MIN_IMAGES = 6  # of either kind; with fewer there is no quiz
QUIZ_SLACK_TILES = 2  # the number of fakes may differ by this from half of the tiles


def make_quiz(document: Mapping[str, Any], groups: Sequence[GroupSection], album: Album) -> dict[str, Any] | None:
    """Return sheets of tiles and, per generator, which sheets a round uses; None if there are too few images."""
    # The seed depends on the document alone, so that every reader of a page starts with the same tiles.
    seed = zlib.crc32(f"{document['title']}\n{document.get('made', '')}".encode("utf-8", "replace"))
    sheets: list[dict[str, Any]] = []
    choices = []
    for group in groups:
        reals = album.reals.get(group.name, no_images())
        if len(reals) < QUIZ_MIN_IMAGES:
            continue
        real = None
        for line, grid in group.samples:
            unshown = album.quiz_fakes[line.name]
            if max(len(unshown), grid.sprite.count) < QUIZ_MIN_IMAGES:
                continue
            if real is None:
                real = _add_sheet(sheets, make_sprite(reals[:QUIZ_POOL_IMAGES], 6, side=group.side))
            if len(unshown) >= 2 * QUIZ_MIN_IMAGES:
                fake = _add_sheet(sheets, make_sprite(unshown, 6, side=group.side))
            else:
                fake = _add_sheet(sheets, grid.sprite, element=f"grid-{line.anchor}")
            # The order of the two sheets is random, so that it does not tell a reader of the source which is real.
            swapped = bool(zlib.crc32(f"{seed} {line.name}".encode("utf-8", "replace")) & 1)
            pair = [fake, real] if swapped else [real, fake]
            choices.append({"name": line.name, "group": group.name, "sheets": pair, "odd": swapped})
    if not choices:
        return None
    return {"seed": seed, "tiles": QUIZ_TILES, "slack": QUIZ_SLACK_TILES, "sheets": sheets, "choices": choices}


def _add_sheet(sheets: list[dict[str, Any]], sprite: Sprite, *, element: str = "") -> int:
    """Append a sprite, or the id of the page's element that shows it already; return its index."""
    sheet: dict[str, Any] = {key: getattr(sprite, key) for key in ("count", "columns", "side", "gap")}
    sheets.append({**sheet, "from": element} if element else {**sheet, "uri": sprite.uri})
    return len(sheets) - 1
