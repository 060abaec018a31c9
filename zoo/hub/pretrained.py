"""The catalogue of pretrained weights, which load by name.

``pretrained.yaml`` has one entry per name. Small files are part of the package (``zoo/hub/_weights``), larger ones are
only in the repository (``benchmarks/weights``) or at an address; downloads are kept in the cache. Every file is checked
by its hash. Next to a packaged file are its model card (``<name>.md``) and a grid of its samples (``<name>.png``).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import yaml

from zoo.core.errors import ZooError, error_message, error_reason
from zoo.core.files import atomic_file, cache_folder, replace_file
from zoo.core.network import call_with_deadline, download_seconds, hub_endpoint, offline_reason
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.schema import Count, NonNegative, Range, from_plain, to_plain
from zoo.core.yaml_io import read_yaml
from zoo.recipes import match_names

CATALOGUE = Path(__file__).with_name("pretrained.yaml")
ROOT = CATALOGUE.parents[2]  # of a checkout; for an installed package, the folder that contains it
IN_PACKAGE, IN_REPOSITORY = "zoo/hub/_weights", "benchmarks/weights"
CARD = "card.json"  # in a published folder: its entry of the catalogue
DOWNLOAD_TIMEOUT_SECONDS = 30  # without a byte from the server

GreyLevel = Annotated[float, Range(low=0, high=255)]


# The names of all fields are keys of pretrained.yaml and card.json.
@dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """A metric's value and its 95 % interval, if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """How the metrics of an entry were measured."""

    samples: Count  # generated images
    seed: int = 0  # of their latents
    space: str | None = None  # feature extractor of FID and KID; null: they were not measured
    against: str = ""  # the real images, in words
    alarms: tuple[str, ...] = ()  # those that were triggered
    copies_told: bool = True  # whether there were enough held-out images to recognise copies


@dataclass(frozen=True, kw_only=True)
class SampleCheck:
    """Statistics of images 0 to 15 of seed 0, in fp32 on a CPU; a test compares them.

    Attributes:
        mean: of all pixels, 0 to 255.
        std: of all pixels.
        grid: PNG of the images, a path relative to the repository.
        columns: of that grid.
    """

    mean: GreyLevel
    std: NonNegative
    grid: str | None = None
    columns: Count = 8


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights:
    """One entry of the catalogue.

    Attributes:
        name: by which it loads: that of the recipe that trained it.
        alias: a second name, by which the best generator of a size loads: ``brain-64``.
        sha256: of the file.
        size: of the file in bytes.
        recipe: name of the recipe.
        recipe_digest: :attr:`zoo.core.config.Recipe.digest` of the recipe as trained.
        nimg: number of images it was trained on.
        data: statement on the training images.
        training: what the training took; empty: not known.
        licence: terms of use.
        file: path relative to the repository; part of the wheel if it starts with ``zoo/``.
        url: ``https://...`` or ``hf:owner/name/file``.
        train_seeds: seeds of the training.
        metrics: values by the names in ``zoo.metrics.registry``.
        judged: how these were measured.
        card: path of the model card, relative to the repository.
        check: what a test compares its samples with.
    """

    name: str
    sha256: str
    size: Count
    recipe: str
    recipe_digest: str
    resolution: Count
    channels: Count = 1
    nimg: int
    data: str
    licence: str
    training: str = ""
    alias: str | None = None
    file: str | None = None
    url: str | None = None
    train_seeds: tuple[int, ...] = ()
    metrics: dict[str, MeasuredValue] = field(default_factory=dict)
    judged: EvaluationFacts | None = None
    card: str | None = None
    check: SampleCheck | None = None

    def __post_init__(self) -> None:
        for key, name in (("name", self.name), ("alias", self.alias)):
            if name is not None and not re.fullmatch(r"[\w-]+", name):  # a name with a dot would be taken for a file
                raise ValueError(f"{key}: must be letters, digits, '-' and '_', not {name!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: must be 64 hexadecimal digits, not {self.sha256!r}")
        if self.url is not None and not re.match(r"https://.|hf:[^/]+/[^/]+/.", self.url):
            raise ValueError(f"url: must be https://... or hf:owner/name/file, not {self.url!r}")
        for path in self.paths():
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{path}: must be a path from the repository's root")

    def paths(self) -> list[str]:
        """Return the paths of its files relative to the repository: weights, card, grid."""
        grid = self.check.grid if self.check else None
        return [path for path in (self.file, self.card, grid) if path is not None]

    @property
    def local(self) -> Path | None:
        """The file in the package or the repository, if it exists; not verified."""
        path = ROOT / self.file if self.file is not None else None
        return path if path is not None and path.is_file() else None

    @property
    def cached(self) -> Path:
        """Where a download is kept. Other versions of the weights have other names."""
        return cache_folder() / "weights" / f"{self.name}-{self.sha256[:8]}.safetensors"

    @property
    def where(self) -> str:
        """``packaged``, ``in the repository``, ``cached``, ``to fetch: <address>`` or ``to be put into <path>``."""
        if self.local is not None:
            return "packaged" if str(self.file).startswith("zoo/") else "in the repository"
        if self.cached.is_file():
            return "cached"
        return f"to fetch: {_address(self.url)}" if self.url is not None else f"to be put into {self.cached}"

    def path(self, reporter: Reporter | None = None) -> Path:
        """Return the verified file; download it if necessary.

        Raises:
            ZooError: the file differs from the catalogue's or is not available; says which file to put where.
        """
        if self.local is not None:
            if not self._matches(self.local):
                raise ZooError(f"{self.local}: is not the file of the catalogue (wrong hash). Install it again.")
            return self.local
        if self._matches(self.cached):
            return self.cached
        reason = offline_reason() if self.url is not None else "it has no public address"
        if self.url is None or reason:
            source = f"{_address(self.url)} as " if self.url is not None else ""
            raise ZooError(
                f"No weights of {self.name}: {reason}. Put {source}{self.cached.name} ({self.size / 1e6:.1f} MB, "
                f"SHA-256 {self.sha256[:16]}...) into {self.cached.parent}"
            )
        self._download(self.url, reporter or SilentReporter())
        return self.cached

    def to_json(self) -> dict[str, Any]:
        """Return all attributes as plain data, ``where`` it is, and ``path`` if the file is on this machine."""
        path = self.local or (self.cached if self.cached.is_file() else None)
        return {**to_plain(self), "where": self.where, "path": str(path) if path else None}

    def _matches(self, path: Path) -> bool:
        return has_hash(path, self.size, self.sha256)

    def _download(self, url: str, reporter: Reporter) -> None:
        """Download into the cache; the file appears there only after its hash was checked."""
        reporter.say(f"downloading {_address(url)} ({self.size / 1e6:.1f} MB) into {self.cached.parent}")
        try:
            with replace_file(self.cached) as temporary:
                _fetch(url, temporary, download_seconds(self.size))
                if not self._matches(temporary):
                    raise ZooError(f"{_address(url)}: is not the file of the catalogue (wrong hash)")
        except OSError as error:
            raise ZooError(f"{self.cached}: cannot be written ({error_reason(error)})") from None


def has_hash(path: Path, size: int, sha256: str) -> bool:
    """Return whether ``path`` is a file of ``size`` bytes with this hash."""
    if not path.is_file() or path.stat().st_size != size:  # cheap, and most other files differ in size
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def load_catalogue(path: Path | None = None) -> dict[str, PretrainedWeights]:
    """Return the entries of ``pretrained.yaml``, or of another such file, by name.

    Raises:
        ZooError: an invalid entry, with the dotted path of the key.
    """
    path = path or CATALOGUE
    entries = {}
    for name, keys in read_yaml(path, "a catalogue of weights").items():
        if isinstance(keys, dict):
            keys = {"name": str(name), **keys}
        try:
            entries[str(name)] = from_plain(PretrainedWeights, keys, name)
        except ZooError as error:
            raise ZooError(f"{path.name}: {error}") from None
    names = [*entries, *(entry.alias for entry in entries.values() if entry.alias)]
    for name in names:
        if names.count(name) > 1:
            raise ZooError(f"{path.name}: {name}.alias: is also the name or alias of another entry. Choose another.")
    return entries


def list_weights(filter: str | Sequence[str] = "*") -> list[str]:
    """List the names and aliases of pretrained weights that match a shell pattern, sorted."""
    return sorted(match_names(load_named_weights(), filter))


def load_named_weights() -> dict[str, PretrainedWeights]:
    """Return the entries of the catalogue under each name and alias by which they load."""
    entries = load_catalogue()
    return entries | {entry.alias: entry for entry in entries.values() if entry.alias}


def read_published_folder(folder: Path) -> PretrainedWeights:
    """Return the entry of a folder that ``zoo publish`` wrote, without ``file`` and ``url``.

    Raises:
        ZooError: another folder, or its weights differ from those that its card describes.
    """
    try:
        content = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise ZooError(f"{folder}: was not written by `zoo publish` ({CARD}: {error_reason(error)})") from None
    except ValueError:
        raise ZooError(f"{folder / CARD}: is damaged") from None
    try:
        entry = from_plain(PretrainedWeights, content.get("entry") if isinstance(content, dict) else None)
    except ZooError as error:
        raise ZooError(f"{folder / CARD}: {error}") from None
    if not has_hash(folder / f"{entry.name}.safetensors", entry.size, entry.sha256):
        raise ZooError(f"{folder}: {entry.name}.safetensors is missing, or differs from the one {CARD} describes")
    return entry


def add_to_catalogue(
    folder: Path, *, to: str | None = IN_PACKAGE, url: str | None = None, alias: str | None = None
) -> PretrainedWeights:
    """Add a published folder to the catalogue; an entry of the same name is replaced.

    Args:
        folder: what ``zoo publish`` wrote.
        to: folder, relative to the repository, that the weights are copied into; None: they are only at ``url``, and
            card and grid are copied into ``zoo/hub/_weights``.
        url: public address of the weights.
        alias: second name, which is taken from the entry that has it; default: that of the replaced entry.

    Raises:
        ZooError: an incomplete folder, or a place cannot be written.
    """
    entry = read_published_folder(folder)
    place = f"{to or IN_PACKAGE}/{entry.name}"
    check = replace(entry.check, grid=f"{place}.png") if entry.check else None
    file = f"{place}.safetensors" if to is not None else None
    before = load_catalogue()
    if alias is None and entry.name in before:
        alias = before[entry.name].alias
    added = replace(entry, file=file, url=url, alias=alias, card=f"{place}.md", check=check)
    others = {
        name: replace(other, alias=None) if alias and other.alias == alias else other for name, other in before.items()
    }
    try:
        text = (folder / "README.md").read_text(encoding="utf-8").replace("(samples.png)", f"({entry.name}.png)")
        with atomic_file(ROOT / f"{place}.md", "w") as card:
            card.write(text)
        _copy(folder / "samples.png", ROOT / f"{place}.png")
        if file is not None:
            _copy(folder / f"{entry.name}.safetensors", ROOT / file)
        text = CATALOGUE.read_text(encoding="utf-8")
        with atomic_file(CATALOGUE, "w") as catalogue:
            catalogue.write(_to_yaml({**others, entry.name: added}, text))
        # Last: until the catalogue is written, the old files are those it describes.
        if entry.name in before:
            for path in set(before[entry.name].paths()) - set(added.paths()):
                (ROOT / path).unlink(missing_ok=True)
    except OSError as error:
        raise ZooError(f"{ROOT}: cannot be written ({error_reason(error)})") from None
    return added


def _copy(source: Path, target: Path) -> None:
    with replace_file(target) as temporary:
        shutil.copyfile(source, temporary)


def _to_yaml(entries: Mapping[str, PretrainedWeights], text: str) -> str:
    """Return entries as YAML, sorted by name and without empty values, below the comment at the start of ``text``."""
    comment = re.match(r"(#.*\n)*", text)
    content = {}
    for name in sorted(entries):
        plain = to_plain(entries[name])
        content[name] = {key: value for key, value in plain.items() if key != "name" and value not in (None, [])}
    return (comment[0] if comment else "") + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118)


def _split_hub_url(url: str) -> tuple[str, str] | None:
    """Return repository and file of ``hf:owner/name/file``; None for other addresses."""
    match = re.fullmatch(r"hf:([^/]+/[^/]+)/(.+)", url)
    return (match[1], match[2]) if match else None


def _address(url: str) -> str:
    """Return ``url`` as an address for a browser."""
    if not (parts := _split_hub_url(url)):
        return url
    return f"{hub_endpoint()}/{parts[0]}/resolve/main/{parts[1]}"


def _fetch(url: str, path: Path, seconds: float) -> None:
    """Download ``url`` to ``path``, with the libraries' own progress bars.

    Raises:
        ZooError: no such file, no connection, a server that is silent for too long, or more than ``seconds`` in all.
    """
    timeout = socket.getdefaulttimeout()
    try:
        if parts := _split_hub_url(url):
            from huggingface_hub import hf_hub_download

            with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as folder:
                file = call_with_deadline(
                    hf_hub_download, *parts, local_dir=folder, endpoint=hub_endpoint(), seconds=seconds
                )
                shutil.move(file, path)
        else:
            import torch.hub

            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)  # torch.hub sets none and would wait forever
            download = torch.hub.download_url_to_file
            call_with_deadline(download, url, str(path), progress=sys.stderr.isatty(), seconds=seconds)
    except Exception as error:  # of many kinds: HTTP, names, certificates, timeouts, the disk
        raise ZooError(f"{_address(url)}: cannot be downloaded ({error_message(error)})") from None
    finally:
        socket.setdefaulttimeout(timeout)
