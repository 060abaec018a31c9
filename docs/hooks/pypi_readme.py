"""A hook of hatchling: the README as the package index shows it, which has no other file of the repository.

With ``Repository`` among ``[project.urls]`` relative links become absolute, to the tag of the version; without it
images are left out and links become plain text, so that none is broken.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_IMAGE = re.compile(r'(?:<img [^>]*?src="(?!https?:)[^"]+"[^>]*>|!\[[^\]]*\]\((?!https?:)[^)]+\)) ?')
_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")
_SOURCE = re.compile(r'src="(?!https?:)([^"]+)"')


class ReadmeHook(MetadataHookInterface):
    """Fill in ``readme``, which ``pyproject.toml`` declares as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = metadata.get("urls", {}).get("Repository")
        readme = absolute_readme(text, address, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def absolute_readme(text: str, repository: str | None, version: str) -> str:
    """Return the README without relative links.

    Args:
        text: Markdown.
        repository: address of its page on a code host that serves ``blob`` and ``raw``; None: there is none.
        version: whose tag ``vVERSION`` is linked.
    """
    if repository is None:
        text = re.sub(r"\n{3,}", "\n\n", _IMAGE.sub("", text))
        return _LINK.sub(r"\1", text)
    address = repository.rstrip("/")
    text = _SOURCE.sub(rf'src="{address}/raw/v{version}/\1"', text)
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)", rf"![\1]({address}/raw/v{version}/\2)", text)
    return _LINK.sub(rf"[\1]({address}/blob/v{version}/\2)", text)
