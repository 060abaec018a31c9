"""Trained generators that load by name: what there is, where each lies, and that it is the one it is said to be.

``pretrained.yaml`` beside this file has an entry a name. Small files lie in the package (``zoo/hub/_weights``), larger ones in
the repository alone (``benchmarks/weights``) or at an address; what is fetched is kept in the cache. Each is known by
its hash. Beside a file of ours lie its card (``<name>.md``) and a picture of what it makes (``<name>.png``).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import yaml

from zoo.core.errors import ZooError, error_reason
from zoo.core.files import atomic_file, cache_folder, replace_file
from zoo.core.progress import Reporter, SilentReporter
from zoo.core.schema import Count, NonNegative, Range, from_plain, to_plain
from zoo.core.yaml_io import read_yaml
from zoo.hub.download import download_file, download_url, has_hash, offline_reason

HERE = Path(__file__).parent
ROOT = HERE.parents[1]  # of a checkout; of an installed package, the folder it lies in
CATALOGUE = HERE / "pretrained.yaml"
IN_PACKAGE, IN_REPOSITORY = "zoo/hub/_weights", "benchmarks/weights"
CARD = "card.json"  # of a published folder; what an entry is made of

Level = Annotated[float, Range(low=0, high=255)]


@dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """A figure and its 95 % interval, as far as there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """By what the figures were measured."""

    samples: Count  # fakes
    seed: int = 0  # of their latents
    space: str | None = None  # the features of FID and KID; null: there were none
    against: str = ""  # which real images
    alarms: tuple[str, ...] = ()  # those that rang
    copies_told: bool = True  # whether there were unseen images enough to tell copies from


@dataclass(frozen=True, kw_only=True)
class SampleCheck:
    """What images 0 to 15 of seed 0 are, in fp32 on a CPU; tests hold it true.

    Attributes:
        mean: of all pixels, 0 to 255.
        std: the same.
        grid: a picture of them, a path from the repository's root.
        columns: images a row in it.
    """

    mean: Level
    std: NonNegative
    grid: str | None = None
    columns: Count = 8


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights:
    """One trained generator of the catalogue.

    Attributes:
        name: by which it loads.
        sha256: of the file.
        size: of the file, in bytes.
        recipe: the name of the recipe, as trained.
        recipe_digest: its :attr:`zoo.core.config.Recipe.digest`.
        nimg: images it was trained on.
        data: what is to be said of the training images.
        licence: under which terms it may be used.
        file: a path from the repository's root, in the wheel too if it begins with ``zoo/``.
        url: ``https://...`` or ``hf:owner/name/file``.
        train_seeds: of training.
        metrics: names as in ``zoo.metrics.registry``.
        card: the model card, a path as ``file``.
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
    file: str | None = None
    url: str | None = None
    train_seeds: tuple[int, ...] = ()
    metrics: dict[str, MeasuredValue] = field(default_factory=dict)
    judged: EvaluationFacts | None = None
    card: str | None = None
    check: SampleCheck | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):  # one with a dot would be taken for a file
            raise ValueError(f"name: must be letters, digits, '-' and '_', not {self.name!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: must be 64 hexadecimal digits, not {self.sha256!r}")
        if self.url is not None and not re.match(r"https://.|hf:[^/]+/[^/]+/.", self.url):
            raise ValueError(f"url: must be https://... or hf:owner/name/file, not {self.url!r}")
        for path in (self.file, self.card, self.check.grid if self.check else None):
            if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
                raise ValueError(f"{path}: must be a path from the repository's root")

    @property
    def local(self) -> Path | None:
        """The file where it came with the package or the repository; whether it is whole is not looked at."""
        path = ROOT / self.file if self.file is not None else None
        return path if path is not None and path.is_file() else None

    @property
    def cached(self) -> Path:
        """Where it is kept, or is to be put, if it did not come along. Another version of it is another file."""
        return cache_folder() / "weights" / f"{self.name}-{self.sha256[:8]}.safetensors"

    @property
    def where(self) -> str:
        """``packaged``, ``in the repository``, ``cached``, ``to fetch: <address>`` or ``to be put into <path>``."""
        if self.local is not None:
            return "packaged" if str(self.file).startswith("zoo/") else "in the repository"
        if self.cached.is_file():
            return "cached"
        return f"to fetch: {download_url(self.url)}" if self.url is not None else f"to be put into {self.cached}"

    def path(self, reporter: Reporter | None = None) -> Path:
        """The file, fetched if it has to be, and verified.

        Raises:
            ZooError: it is another one than the catalogue's, or not to be had; says which file is to be put where.
        """
        if self.local is not None:
            if not has_hash(self.local, self.size, self.sha256):
                raise ZooError(f"{self.local}: is not the file of the catalogue (wrong hash); install it again")
            return self.local
        if has_hash(self.cached, self.size, self.sha256):
            return self.cached
        why = offline_reason() if self.url is not None else "it has no public address"
        if self.url is None or why:
            source = f"{download_url(self.url)} as " if self.url is not None else ""
            raise ZooError(
                f"no weights of {self.name} here, and {why}: put {source}{self.cached.name} ({self.size / 1e6:.1f} MB, "
                f"SHA-256 {self.sha256[:16]}...) into {self.cached.parent}"
            )
        download_file(self.url, self.cached, size=self.size, sha256=self.sha256, reporter=reporter or SilentReporter())
        return self.cached

    def to_json(self) -> dict[str, Any]:
        """Plain data with all attributes, where it is, and ``path`` if it is here."""
        here = self.local or (self.cached if self.cached.is_file() else None)
        return {**to_plain(self), "where": self.where, "path": str(here) if here else None}


def load_catalogue(path: Path | None = None) -> dict[str, PretrainedWeights]:
    """The entries of ``pretrained.yaml``, or of another such file, by name.

    Raises:
        ZooError: something in it does not fit: one line with its dotted path.
    """
    path = path or CATALOGUE
    entries = {}
    for name, keys in read_yaml(path, "a catalogue of weights").items():
        try:
            entries[str(name)] = from_plain(
                PretrainedWeights, {"name": str(name), **keys} if isinstance(keys, dict) else keys, name
            )
        except ZooError as error:
            raise ZooError(f"{path.name}: {error}") from None
    return entries


def read_published_folder(folder: Path) -> PretrainedWeights:
    """The entry that a folder made by ``zoo publish`` describes, as yet without ``file`` and ``url``.

    Raises:
        ZooError: it is no such folder, or its weights are not those of its card.
    """
    try:
        content = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise ZooError(f"{folder}: `zoo publish` did not make it ({error_reason(error)}: {CARD})") from None
    except ValueError:
        raise ZooError(f"{folder / CARD}: is damaged") from None
    known = content.get("entry") if isinstance(content, dict) else None
    try:
        entry: PretrainedWeights = from_plain(PretrainedWeights, known)
    except ZooError as error:
        raise ZooError(f"{folder / CARD}: {error}") from None
    if not has_hash(folder / f"{entry.name}.safetensors", entry.size, entry.sha256):
        raise ZooError(f"{folder}: {entry.name}.safetensors is not there, or not the one that {CARD} describes")
    return entry


def add_to_catalogue(
    folder: Path, *, to: str | None = IN_PACKAGE, url: str | None = None, root: Path = ROOT, listed: Path | None = None
) -> PretrainedWeights:
    """Enter a published folder in the catalogue, in place of an entry of that name.

    Args:
        folder: what ``zoo publish`` made.
        to: the folder, a path from ``root``, that its weights are copied into; None: they are at ``url`` alone, and
            only card and picture are kept, in ``zoo/hub/_weights``.
        url: where else they are to be had.
        root: the repository's.
        listed: the catalogue; default: that of the package.

    Raises:
        ZooError: the folder is not whole, or a place cannot be written.
    """
    entry, listed = read_published_folder(folder), listed or CATALOGUE
    beside = to or IN_PACKAGE
    copies = {"card": ("README.md", f"{entry.name}.md"), "grid": ("samples.png", f"{entry.name}.png")}
    if to is not None:
        copies["file"] = (f"{entry.name}.safetensors", f"{entry.name}.safetensors")
    try:
        for source, target in copies.values():
            with replace_file(root / beside / target) as temporary:
                if source == "README.md":
                    text = (folder / source).read_text(encoding="utf-8")
                    temporary.write_text(text.replace("(samples.png)", f"({entry.name}.png)"), encoding="utf-8")
                else:
                    shutil.copyfile(folder / source, temporary)
        places = {key: f"{beside}/{target}" for key, (_, target) in copies.items()}
        check = replace(entry.check, grid=places["grid"]) if entry.check else None
        entry = replace(entry, file=places.get("file"), url=url, card=places["card"], check=check)
        before = load_catalogue(listed) if listed.exists() else {}
        entries = {**before, entry.name: entry}
        with atomic_file(listed, "w") as file:
            file.write(_to_yaml(entries, listed.read_text(encoding="utf-8") if listed.exists() else ""))
        for path in _files(before[entry.name]) - _files(entry) if entry.name in before else set():
            (root / path).unlink(missing_ok=True)
    except OSError as error:
        raise ZooError(f"{root}: cannot be written ({error_reason(error)})") from None
    return entry


def _files(entry: PretrainedWeights) -> set[str]:
    found = (entry.file, entry.card, entry.check.grid if entry.check else None)
    return {path for path in found if path is not None}


def _to_yaml(entries: Mapping[str, PretrainedWeights], before: str) -> str:
    """Sorted by name, without what is not known, under the comment that ``before`` begins with."""
    head = re.match(r"(#.*\n)*", before)
    content = {
        name: {
            key: value for key, value in to_plain(entries[name]).items() if key != "name" and value not in (None, [])
        }
        for name in sorted(entries)
    }
    return (head[0] if head else "") + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118)
