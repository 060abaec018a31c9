"""Hooks of MkDocs: pages from outside ``docs/``, generated pages, and links written for a code host."""

from __future__ import annotations

import logging
import re
from typing import Any

from api_pages import contract_page, python_page
from architecture_pages import architecture_pages, own_architectures
from command_page import command_page
from mkdocs.structure.files import File
from site_links import (
    PAGES_OUTSIDE,
    ROOT,
    existing_files,
    first_heading,
    indent_lists,
    linked_paths,
    relocate_links,
    repository_path,
    site_path,
)

log = logging.getLogger("mkdocs.hooks.zoo")
_titles: dict[str, str] = {}  # of the pages in the repository, by path


def on_config(config: Any) -> Any:
    """Add a page per architecture to the navigation."""
    (section,) = (item["Architectures"] for item in config.nav if "Architectures" in item)
    listed = [{name: f"architectures/{name}.md"} for name in own_architectures()]
    section[:] = [item for item in section if item not in listed] + listed  # once, however often it is served
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add pages from outside ``docs/``, generated pages, and the files that pages link to."""
    content = {place: (ROOT / path).read_text(encoding="utf-8") for path, place in PAGES_OUTSIDE.items()}
    content |= {"reference/commands.md": command_page(), "reference/python.md": python_page()}
    content |= {"reference/contracts.md": contract_page(), **architecture_pages()}
    for place, text in content.items():
        files.append(File.generated(config, place, content=text))
    linked = []
    for page in files.documentation_pages():
        path, text = repository_path(page.src_uri), page.content_string
        _titles[path] = first_heading(text) or path
        linked += linked_paths(text, path)
    for path in existing_files(linked):
        if files.get_file_from_path(site_path(path)) is None:
            files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links and lists for a code host into those of the site."""
    path = repository_path(page.file.src_uri)
    for linked in linked_paths(markdown, path):
        if files.get_file_from_path(site_path(linked)) is None:
            log.warning("%s: links to %s, which does not exist", path, linked)
    return indent_lists(relocate_links(markdown, path, _titles))


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Remove the roles of reStructuredText that docstrings use: ``:func:`` and others."""
    return re.sub(r":(?:func|class|meth|mod|attr|data):(?=<code>)", "", html)
