"""Real or fake: what the page's script needs to ask."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.report.html.album import POOL, Album, none
from zoo.report.html.group_section import GroupSection
from zoo.report.html.sprites import Sprite, make_sprite

Plain = Mapping[str, Any]

TILES = 20
FEWEST = 6  # images of either kind without which there is no quiz
SLACK = 2  # so many more or fewer than half of the tiles may be fakes


def make_quiz(document: Plain, groups: Sequence[GroupSection], album: Album) -> dict[str, Any] | None:
    """What the script needs: sheets of tiles, and which of them make up a round; None where there is nothing to ask."""
    seed = zlib.crc32(f"{document['title']}\n{document.get('made', '')}".encode("utf-8", "replace"))
    sheets: list[dict[str, Any]] = []
    choices = []
    for group in groups:
        reals = album.reals.get(group.name, none())
        if len(reals) < FEWEST:
            continue
        real = None
        for line, grid in group.samples:
            spare = album.spare[line.name]
            if max(len(spare), grid.sprite.count) < FEWEST:
                continue
            if real is None:
                real = _sheet(sheets, make_sprite(reals[:POOL], 6, side=group.side))
            if len(spare) >= 2 * FEWEST:
                fake = _sheet(sheets, make_sprite(spare, 6, side=group.side))
            else:
                fake = _sheet(sheets, grid.sprite, shown=f"grid-{line.anchor}")
            swapped = bool(zlib.crc32(f"{seed} {line.name}".encode("utf-8", "replace")) & 1)
            pair = [fake, real] if swapped else [real, fake]
            choices.append({"name": line.name, "group": group.name, "sheets": pair, "odd": swapped})
    if not choices:
        return None
    return {"seed": seed, "tiles": TILES, "slack": SLACK, "sheets": sheets, "choices": choices}


def _sheet(sheets: list[dict[str, Any]], found: Sprite, *, shown: str = "") -> int:
    """Enter a sprite, or the place where the page shows it already; its number."""
    entry: dict[str, Any] = {key: getattr(found, key) for key in ("count", "columns", "side", "gap")}
    sheets.append({**entry, "from": shown} if shown else {**entry, "uri": found.uri})
    return len(sheets) - 1
