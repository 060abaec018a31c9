"""Where files of the repository appear in the documentation site, and links between them.

Pages are written for a code host: their links are relative to their place in the repository. Here each is resolved to a
path of the repository, and then made relative to the place of the page in the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Pages outside docs/, by their path in the repository, and where the site has them.
PAGES_OUTSIDE = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "benchmarks/notes.md": "benchmarks/notes.md",
}
_ORIGINS = {place: path for path, place in PAGES_OUTSIDE.items()}
_FENCE = re.compile(r"\s*(```|~~~)")
_ITEM = re.compile(r"([-*+]|\d+\.) ")
# Code spans come first, so that nothing inside them is taken for a link.
_LINK = re.compile(r'`[^`]*`|\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)|(?P<key>src|href)="(?P<value>[^"]+)"')


@dataclass(frozen=True)
class Link:
    """A relative link of a page.

    Attributes:
        path: what it points to, relative to the repository.
        anchor: from ``#`` on; empty if there is none.
        text: what a reader sees; None: an attribute of an HTML element.
    """

    path: str
    anchor: str
    text: str | None


def site_path(path: str) -> str:
    """Return where the site has a file of the repository: ``docs/data.md`` is ``data.md``."""
    return PAGES_OUTSIDE.get(path) or path.removeprefix("docs/")


def repository_path(place: str) -> str:
    """Return which file of the repository a page of the site is; generated pages are as if they lay in ``docs/``."""
    return _ORIGINS.get(place) or f"docs/{place}"


def resolve_links(text: str, path: str, replace: Callable[[Link], tuple[str, str | None]]) -> str:
    """Replace the relative links of a page; code and addresses stay as they are.

    Args:
        text: Markdown.
        path: of the page, relative to the repository.
        replace: returns target and text of a link.
    """

    def substitute(match: re.Match[str]) -> str:
        target = match["target"] or match["value"]
        if target is None or re.match(r"[a-z]+:|#|/", target):
            return match[0]
        place, sign, anchor = target.partition("#")
        resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), place))
        target, label = replace(Link(resolved, sign + anchor, match["text"]))
        return f'{match["key"]}="{target}"' if match["key"] else f"[{label}]({target})"

    return "".join(line if is_code else _LINK.sub(substitute, line) for line, is_code in split_lines(text))


def linked_paths(text: str, path: str) -> list[str]:
    """List the files of the repository that a page links to."""
    paths = []

    def record(link: Link) -> tuple[str, str | None]:
        paths.append(link.path)
        return link.path, link.text

    resolve_links(text, path, record)
    return paths


def relocate_links(text: str, path: str, titles: dict[str, str]) -> str:
    """Make a page's links relative to its place in the site; file names as link texts become titles.

    Args:
        text: Markdown.
        path: of the page, relative to the repository.
        titles: of all pages, by their path relative to the repository.
    """
    folder = posixpath.dirname(site_path(path)) or "."

    def relocate(link: Link) -> tuple[str, str | None]:
        target = posixpath.relpath(site_path(link.path), folder) + link.anchor
        names = (link.path, link.path.removeprefix("docs/"), posixpath.basename(link.path))
        return target, titles.get(link.path, link.text) if link.text in names else link.text

    return resolve_links(text, path, relocate)


def indent_lists(text: str) -> str:
    """Indent what belongs to a list item by four spaces, as Python-Markdown wants it; code hosts take two."""
    lines = []
    in_list = False
    for line, is_code in split_lines(text):
        if line.strip() and not line.startswith(" "):
            in_list = _ITEM.match(line) is not None
        indent = len(line) - len(line.lstrip(" "))
        if in_list and not is_code and 2 <= indent < 4:
            line = "    " + line.lstrip(" ")
        lines.append(line)
    return "".join(lines)


def split_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it is code: fenced, or indented outside a list."""
    fence = None
    in_list = False
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if fence is None and line.strip() and not line.startswith(" "):
            in_list = _ITEM.match(line) is not None
        yield line, bool(fence or mark or (line.startswith("    ") and not in_list))
        if mark:
            fence = mark[1] if fence is None else None if fence == mark[1] else fence


def first_heading(text: str) -> str | None:
    """Return the title of a page."""
    match = re.search(r"^# (.+)$", text, re.MULTILINE)
    return match[1] if match else None


def existing_files(paths: Iterable[str]) -> list[str]:
    """Return the paths that are files of the repository, each once."""
    return [path for path in dict.fromkeys(paths) if not path.startswith("../") and (ROOT / path).is_file()]
