"""Plug-ins: Python files and modules outside the package that register architectures, losses, metrics or sources.

A plug-in is code, so that only the user starts it: by ``--plugin``, by the key ``plugins:`` of a recipe file outside
run folders, or by installing a distribution with an entry point. What comes with weights or a run is never executed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.core.arguments import as_list
from zoo.core.errors import ZooError, describe_error, error_message, one_line, shorten, suggest

ENTRY_POINTS = "gan_zoo.plugins"
MAX_PLUGIN_BYTES = 1 << 24


@dataclass(frozen=True)
class Plugin:
    """A plug-in as a recipe records it.

    Attributes:
        name: of the file, without its folder, or of the module.
        sha256: of the file's content; empty if it is not known.
    """

    name: str
    sha256: str = ""

    described = "a file, a module, or a mapping of name and sha256"

    @classmethod
    def parse(cls, data: Any) -> Plugin:
        """Read what :meth:`plain` returns, or the name alone.

        Raises:
            ValueError: it is neither.
        """
        if isinstance(data, Plugin):
            return data
        if isinstance(data, str):
            return cls(data)
        if (
            isinstance(data, dict)
            and set(data) == {"name", "sha256"}
            and all(isinstance(x, str) for x in data.values())
        ):
            return cls(**data)
        raise ValueError(f"must be {cls.described}, not {shorten(data)}")

    @property
    def key(self) -> str:
        """The name that a file and its import as a module share."""
        return self.name.removesuffix(".py").rpartition(".")[2]

    def plain(self) -> dict[str, str]:
        """Return the mapping for YAML."""
        return {"name": self.name, "sha256": self.sha256}


_loaded: dict[str, Plugin] = {}  # by name of the module
_loading: ContextVar[str | None] = ContextVar("zoo_plugin", default=None)


def load_plugin(plugin: str | Path, *, folder: str | Path = ".") -> Plugin:
    """Run a plug-in, which registers what it adds; one whose file is unchanged is run once.

    Args:
        plugin: a Python file, or the name of a module that Python can import.
        folder: that a relative path starts from.

    Raises:
        ZooError: there is no such file or module, or it fails; one line with the file and the line in it.
    """
    text = str(plugin)
    if text.endswith(".py") or "/" in text or "\\" in text:
        return _load_file(Path(folder) / Path(plugin).expanduser(), text)
    return _load_module(text)


def load_plugins(plugins: Iterable[str | Path], *, folder: str | Path = ".") -> None:
    """Run :func:`load_plugin` for each."""
    for plugin in as_list(plugins):
        load_plugin(plugin, folder=folder)


@functools.cache
def load_installed_plugins() -> None:
    """Load the plug-ins that installed distributions name in the entry-point group ``gan_zoo.plugins``.

    One that fails is reported and left out.
    """
    import importlib.metadata  # takes a while, and most commands need it not

    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        name = entry.module
        if name in _loaded:
            continue
        try:
            with _register_as(name):
                entry.load()
            _loaded[name] = Plugin(name, _hash_module(sys.modules[name]))
        except Exception as error:
            _warn(f"the installed plug-in {entry.name!r} ({name}) is left out: {explain_error(error)}")


def import_modules(package: ModuleType) -> None:
    """Import all modules of a package, which register what they define; one that fails is reported and left out."""
    for module in pkgutil.iter_modules(package.__path__):
        name = f"{package.__name__}.{module.name}"
        try:
            importlib.import_module(name)
        except Exception as error:
            _warn(f"{name} is left out: {explain_error(error)}")


def current_plugin() -> str | None:
    """Return the module of the plug-in that is being loaded; None: what is registered is part of no plug-in."""
    return _loading.get()


def find_loaded(module: str | None) -> Plugin | None:
    """Return the plug-in that was loaded as ``module``."""
    return _loaded.get(module or "")


def loaded_plugins() -> list[Plugin]:
    """Return all plug-ins loaded so far."""
    return list(_loaded.values())


def code_version(module: str) -> str:
    """Return the digest of the file of a plug-in, or an empty string for a module of this package."""
    plugin = _loaded.get(module)
    return plugin.sha256 if plugin is not None else ""


def explain_missing(plugins: Iterable[Plugin]) -> str:
    """Return how to load those of some recorded plug-ins that are not loaded, or an empty string."""
    loaded = {plugin.key for plugin in _loaded.values()}
    names = [plugin.name for plugin in plugins if plugin.key not in loaded]
    if not names:
        return ""
    flags = " ".join(f"--plugin {name if _is_module(name) else f'PATH/{name}'}" for name in names)
    return f"comes from a plug-in that is not loaded: add {flags} (in Python: zoo.load_plugin)"


@functools.cache
def report_change(recorded: Plugin) -> None:
    """Report on stderr, once, that a plug-in is not the one that was recorded."""
    for plugin in _loaded.values():
        if plugin.key == recorded.key and recorded.sha256 and plugin.sha256 != recorded.sha256:
            _warn(
                f"the plug-in {plugin.name} has changed since the run was trained "
                f"(sha256 {recorded.sha256[:12]}, now {plugin.sha256[:12]}); results may differ"
            )


def _load_file(path: Path, text: str) -> Plugin:
    path = path.resolve()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PLUGIN_BYTES)
    except OSError as error:
        names = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ZooError(f"plug-in {text}: {error_message(error)}{suggest(path.name, names)}") from None
    digest = hashlib.sha256(content).hexdigest()
    name = f"zoo_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    plugin = Plugin(path.name, digest)
    if _loaded.get(name) == plugin:
        return plugin
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ZooError(f"plug-in {text}: is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look modules up here
    try:
        with _register_as(name):
            exec(compile(content, str(path), "exec"), module.__dict__)  # the bytes that were hashed
    except Exception as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise ZooError(f"plug-in {text}: {explain_error(error, str(path))}") from error
    _loaded[name] = plugin
    return plugin


def _load_module(name: str) -> Plugin:
    if name in _loaded:
        return _loaded[name]
    try:
        if not _is_module(name):
            raise ZooError(f"plug-in {name}: is neither a Python file (.py) nor the name of a module")
        with _register_as(name):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # one that the plug-in itself imports
            raise ZooError(f"plug-in {name}: {explain_error(error)}") from error
        files = [str(path) for path in Path().glob("*.py")]
        hint = f" (did you mean ./{name}.py?)" if f"{name}.py" in files else ""
        raise ZooError(f"plug-in {name}: Python finds no such module{hint}. Install it, or give a .py file") from None
    except ZooError:
        raise
    except Exception as error:
        raise ZooError(f"plug-in {name}: {explain_error(error)}") from error
    _loaded[name] = Plugin(name, _hash_module(module))
    return _loaded[name]


def _is_module(name: str) -> bool:
    return not name.endswith(".py") and all(part.isidentifier() for part in name.split("."))


def _hash_module(module: ModuleType) -> str:
    with contextlib.suppress(OSError, TypeError):
        return hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    return ""


@contextlib.contextmanager
def _register_as(name: str) -> Iterator[None]:
    token = _loading.set(name)
    try:
        yield
    finally:
        _loading.reset(token)


def explain_error(error: Exception, file: str = "") -> str:
    """Return an error of a plug-in as one line, with the line of its file that raised it."""
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or '?').name}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file] or frames[-1:]
    place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""
    return one_line(f"{place}{describe_error(error)}")


@functools.cache
def _warn(text: str) -> None:
    from zoo.core.console import Display

    Display().warn(text)
