"""Things by name, registered by the package's own files and by plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from zoo.core.plugins import Plugin, current_plugin, find_loaded, load_installed_plugins

Item = TypeVar("Item")


class Registry(Mapping[str, Item], Generic[Item]):
    """A mapping of names to things of one kind, such as losses.

    The package's own things are imported on first use; installed plug-ins (``zoo.core.plugins``) once a name is not
    among them, or all names are asked for.

    Args:
        kind: one of them, for messages: "loss".
        discover: imports the files of the package that register such things; None: they are registered already.
    """

    def __init__(self, kind: str, discover: Callable[[], None] | None = None) -> None:
        self.kind = kind
        self._discover = discover
        self._items: dict[str, Item] = {}
        self._origins: dict[str, tuple[str, str]] = {}
        self._plugins: dict[str, str | None] = {}

    def register(self, name: str, item: Item, definition: object) -> None:
        """Add ``item`` as ``name``; the same definition again, as of a cell that is run twice, replaces it.

        Args:
            name: what recipes and the command line call it.
            item: what is stored.
            definition: its class or function, which must be another one for another item.

        Raises:
            ValueError: another item has this name.
        """
        definition = getattr(definition, "func", definition)  # of functools.partial
        origin = getattr(definition, "__module__", ""), getattr(definition, "__qualname__", name)
        if not origin[0].startswith("zoo."):
            self._load(installed=False)  # so that the newcomer, not a file of the package, is refused
        if name in self._items and self._origins[name] != origin:
            first, second = (".".join(place) for place in (self._origins[name], origin))
            raise ValueError(f"two of the {self.kind} kind have the name {name!r}: {first} and {second}; rename one")
        self._items[name], self._origins[name], self._plugins[name] = item, origin, current_plugin()

    def plugin_of(self, name: str) -> Plugin | None:
        """Return the plug-in that registered ``name``; None: it was no plug-in."""
        return find_loaded(self._plugins.get(name))

    def is_own(self, name: str) -> bool:
        """Return whether a file of this package registered ``name``."""
        return self._origins[name][0].startswith("zoo.")

    def known(self) -> list[Item]:
        """Return what is registered so far; nothing is imported."""
        return list(self._items.values())

    def __getitem__(self, name: str) -> Item:
        self._load(installed=False)
        if name not in self._items:
            self._load(installed=True)
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._load(installed=True)
        return iter(list(self._items))

    def __len__(self) -> int:
        self._load(installed=True)
        return len(self._items)

    def _load(self, *, installed: bool) -> None:
        if self._discover is not None:
            # Forgotten first: the files that it imports may look things up themselves.
            discover, self._discover = self._discover, None
            try:
                discover()
            except BaseException:
                self._discover = discover
                raise
        if installed:
            load_installed_plugins()
