"""Model repositories on the Hugging Face Hub, and folders of the same layout.

    config.json       names the weights, their size and hash, and holds the recipe as trained
    *.safetensors     the generator
    recipe.yaml README.md LICENSE.md ...   for people; loading does not read them

Loading reads the first two and executes nothing. Downloads are kept in the cache, by commit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from zoo.core.config import Recipe
from zoo.core.errors import ZooError, error_message, error_reason
from zoo.core.files import atomic_file, cache_folder, is_file
from zoo.core.network import call_with_deadline, download_seconds, hub_endpoint, offline_reason
from zoo.core.version import version

CONFIG = "config.json"
CARD_FILE, LICENCE_FILE, RECIPE_FILE = "README.md", "LICENSE.md", "recipe.yaml"
PREFIX = "hf:"
LIBRARY = "gan-zoo"
TASK = "unconditional-image-generation"  # the Hub has no task for classes of images
MAX_CONFIG_BYTES = 1 << 20

_ADDRESS = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")

Metrics: TypeAlias = Mapping[str, tuple[str, float]]  # by the metric's name: title and value


@dataclass(frozen=True)
class _Weights:
    """What config.json says about the file of weights."""

    name: str
    size: int
    sha256: str


def is_hub_address(source: object) -> bool:
    """Return whether ``source`` is meant as ``hf:OWNER/NAME``."""
    return isinstance(source, str) and source.startswith(PREFIX)


def write_config(folder: Path, weights: Path, recipe: Recipe, nimg: int) -> None:
    """Write ``config.json`` for a file of weights in ``folder``."""
    content = {
        "library": LIBRARY,
        "version": version(),
        "weights": weights.name,
        "size": weights.stat().st_size,
        "sha256": _hash_file(weights),
        "nimg": nimg,
        "recipe": recipe.to_dict(),
    }
    with atomic_file(folder / CONFIG, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def find_weights(folder: Path) -> Path:
    """Return the verified weights of a folder with a ``config.json``.

    Raises:
        ZooError: it was not written by zoo, or the weights are others.
    """
    weights = _read_config(folder / CONFIG, str(folder))
    return _verify(folder / weights.name, weights, str(folder))


def fetch_weights(address: str) -> Path:
    """Return the verified weights of ``hf:OWNER/NAME[@REVISION]``, from the cache where they are.

    Raises:
        ZooError: a malformed address; no such repository, revision or generator; no connection, or another hash.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ZooError(f"{address}: must read hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    repository, revision = match.groups()
    config = _fetch(address, repository, CONFIG, revision, MAX_CONFIG_BYTES)
    weights = _read_config(config, address)
    # Both of one commit: the branch may move between the two downloads.
    path = _fetch(address, repository, weights.name, config.parent.name, weights.size)
    return _verify(path, weights, address)


def card_header(
    recipe: Recipe, *, name: str, tags: Sequence[str] = (), data: str = "", metrics: Metrics | None = None
) -> str:
    """Return the YAML header of a model card, as the Hub reads it.

    Args:
        recipe: how the generator was trained.
        name: of the model.
        tags: besides ``gan`` and the architecture.
        data: statement on the training images, the data set of the metrics.
        metrics: of the evaluation; None: it was not evaluated.
    """
    from huggingface_hub import EvalResult, ModelCardData  # here: it takes a second to import

    results = []
    for metric, (title, value) in (metrics or {}).items():
        results.append(
            EvalResult(
                task_type=TASK,
                dataset_type="images",
                dataset_name=data[:200] or "training images",
                metric_type=metric,
                metric_name=title,
                metric_value=value,
            )
        )
    header = ModelCardData(
        license="other",
        license_name="see-license",
        license_link=LICENCE_FILE,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=["gan", recipe.generator.arch, *tags],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{header.to_yaml().strip()}\n---\n"


def _read_config(path: Path, where: str) -> _Weights:
    problem = f"{where}: holds no generator of zoo"
    if not is_file(path):
        raise ZooError(f"{problem} (no {CONFIG})")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ZooError(f"{problem} ({CONFIG} is too large)")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error_reason(error)})") from None
    except (ValueError, RecursionError):
        raise ZooError(f"{problem} ({CONFIG} is damaged)") from None
    if not isinstance(content, dict) or content.get("library") != LIBRARY:
        raise ZooError(f"{problem} ({CONFIG} is that of another library)")
    name, size, sha256 = (content.get(key) for key in ("weights", "size", "sha256"))
    # A file next to config.json, whatever it claims.
    if not (isinstance(name, str) and re.fullmatch(r"[\w-]+\.safetensors", name)):
        raise ZooError(f"{problem} ({CONFIG}: weights is no name of a .safetensors file)")
    if not (isinstance(size, int) and size > 0 and isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise ZooError(f"{problem} ({CONFIG}: size or sha256 is damaged)")
    return _Weights(name, size, sha256)


def _verify(path: Path, weights: _Weights, where: str) -> Path:
    if not is_file(path):
        raise ZooError(f"{where}: {weights.name} is missing")
    if path.stat().st_size != weights.size or _hash_file(path) != weights.sha256:
        raise ZooError(f"{where}: {weights.name} is not the file that {CONFIG} describes (wrong hash)")
    return path


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(address: str, repository: str, name: str, revision: str | None, size: int) -> Path:
    """Download a file into the cache, or find it there."""
    from huggingface_hub import errors, hf_hub_download

    reason = offline_reason()
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache_folder() / "hub", "endpoint": hub_endpoint()}
    options["local_files_only"] = bool(reason)
    try:
        file = call_with_deadline(hf_hub_download, repository, name, seconds=download_seconds(size), **options)
    except errors.LocalEntryNotFoundError as error:
        cause = reason or error_message(error.__cause__ or error)
        raise ZooError(f"{address}: {cause}, and {name} was not downloaded before") from None
    except errors.RevisionNotFoundError:
        raise ZooError(f"{address}: the repository has no such revision") from None
    except errors.RepositoryNotFoundError:  # a private one looks the same
        raise ZooError(
            f"{address}: no such repository. For a private one run `hf auth login` or set HF_TOKEN"
        ) from None
    except errors.EntryNotFoundError:
        raise ZooError(f"{address}: holds no generator of zoo (no {name})") from None
    except Exception as error:  # of many kinds: HTTP, names, certificates, timeouts, the disk
        raise ZooError(f"{address}: cannot be downloaded ({error_message(error)})") from None
    return Path(file)
