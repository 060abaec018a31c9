"""The run folder: everything a training leaves behind and continues from.

runs/<recipe>-<NNN>/
    recipe.yaml            the resolved recipe
    run.json               data, device, versions, progress, and where the seconds went
    log.jsonl              one object a line
    samples/               reals.png fakes_init.png fakes-<kimg>.png
    training.gif losses.png d_accuracy.png ssim.png
    generator.safetensors  the averaged generator, with recipe, images seen and versions in its metadata
    generator-best.safetensors  the generator of the best validation so far, by train.best
    ema/                   snapshots of further averages, for `zoo ema`
    state/                 checkpoints and a lock
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zoo.core.arguments import refuse_empty_name
from zoo.core.config import Recipe
from zoo.core.errors import ZooError, error_reason, shorten, suggest
from zoo.core.files import atomic_file, is_file, is_folder, remove_leftovers, temporary_folder
from zoo.core.locks import hold_lock, is_locked

MAX_LISTED_RUNS = 8  # in an error
MAX_NIMG = 10**15  # images that a network can have seen

# Types of the keys of run.json that are read; the first of them are always there.
_REQUIRED: dict[str, Any] = dict.fromkeys(("recipe", "recipe_digest", "data_digest", "data_description", "status"), str)
_REQUIRED |= {"data": str | None, "nimg": int, "kimg": int | float}
_OPTIONAL: dict[str, Any] = {"device": str, "best": dict | None, "reason": str, "environment": dict}
INFO_NAME = "run.json"
_SNAPSHOT_NAME = re.compile(r"nimg-([0-9]+)-std-([0-9]+\.[0-9]+)\.safetensors")
_GRID_NAME = re.compile(r"fakes-[0-9]+\.[0-9]+\.png")
# Keys of a row of the log that hold no number.
_TEXTS = ("ssim_definition",)


class Run:
    """A run's folder.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: dict[str, Any] = {}  # of run.json, when it was last read or written
        self._identity: tuple[int, int] | None = None  # of the folder, while it is trained

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: a small table with the newest grid."""
        from zoo.training.notebook import run_html

        return run_html(self)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name if self.path.name in ("", "..") else self.path.name  # "." has no name

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def log_file(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def generator_file(self) -> Path:
        return self.path / "generator.safetensors"

    @property
    def best_file(self) -> Path:
        return self.path / "generator-best.safetensors"

    @property
    def snapshots(self) -> Path:
        return self.path / "ema"

    def snapshot_file(self, nimg: int, std: float) -> Path:
        """The snapshot of an average with this deviation (``ema.power_std``) after ``nimg`` images."""
        return self.snapshots / f"nimg-{nimg:012d}-std-{std!r}.safetensors"

    def list_snapshots(self) -> list[tuple[int, float, Path]]:
        """Images seen, deviation and file of each snapshot, oldest first; other files there are not the run's."""
        matches = [(_SNAPSHOT_NAME.fullmatch(path.name), path) for path in self.snapshots.glob("nimg-*.safetensors")]
        return sorted((int(match[1]), float(match[2]), path) for match, path in matches if match)

    @property
    def info(self) -> dict[str, Any]:
        """What ``run.json`` says: ``recipe_digest, data, data_digest, device, status, nimg, kimg`` and more.

        Raises:
            ZooError: it cannot be read, or a key is missing or of another type.
        """
        path = self.path / INFO_NAME
        try:
            if path.exists() and not path.is_file():  # a link to a device would never end
                raise ZooError(f"{path}: cannot be read (it is no file)")
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ZooError(f"{path}: cannot be read ({error_reason(error)})") from None
        except (ValueError, RecursionError):
            raise ZooError(f"{path}: is damaged (it is not JSON)") from None
        if problem := _find_problem(content):
            raise ZooError(f"{path}: is damaged ({problem})")
        self._known = content
        return content

    def write_info(self, **changes: Any) -> None:
        """Change some of ``run.json``, keep the rest; one that was deleted or damaged meanwhile is written anew."""
        with contextlib.suppress(ZooError):
            self._known = self.info
        self._known = {**self._known, **changes}
        with atomic_file(self.path / INFO_NAME, "w") as file:
            json.dump(self._known, file, indent=2)
            file.write("\n")

    def write_recipe(self, recipe: Recipe) -> None:
        """The resolved recipe; :func:`zoo.recipes.load_recipe` takes the file."""
        with atomic_file(self.recipe_file, "w") as file:
            file.write(f"# As trained, every default filled in. Digest {recipe.digest}.\n{recipe.to_yaml()}")

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """One process a run: hold its lock; the lock goes with the process.

        Raises:
            ZooError: another process holds it, or the folder cannot be written.
        """
        with hold_lock(self.state / "lock", f"{self.path}: another process is training it"):
            for folder in (self.path, self.state, self.samples, self.snapshots):
                remove_leftovers(folder)  # of a process that was killed while it wrote
            self._identity = self._read_identity()
            try:
                yield
            finally:
                self._identity = None

    def require_folder(self) -> None:
        """Check that the folder is the one that was claimed; writing would make it anew, with a part of a run.

        Raises:
            ZooError: it was deleted or renamed meanwhile.
        """
        if self._identity not in (None, self._read_identity()):
            raise ZooError(
                f"{self.path}: the folder was deleted or renamed during training, which stops here; what was saved "
                "before is where the folder is now. Name it as before, and `zoo train --resume` continues from there"
            )

    def _read_identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def locked(self) -> bool:
        """Whether a process is training it; nothing is written, so that folders may be read-only."""
        return is_locked(self.state / "lock")

    def grids(self) -> list[Path]:
        """The sample grids in the order of training; other files in their folder are not the run's."""
        return [path for path in sorted(self.samples.glob("fakes-*.png")) if _GRID_NAME.fullmatch(path.name)]

    def rows(self) -> list[dict[str, Any]]:
        """The log, one dict a line; a line cut short by a kill, or with a value of another type, is left out."""
        return [row for row in self._rows() if _is_log_row(row)]

    def drop_after(self, nimg: int) -> None:
        """Remove what was logged, drawn and averaged after ``nimg`` images, which a resumed run has not seen."""
        for path in self.grids():
            if float(path.stem.removeprefix("fakes-")) * 1000 > nimg + 0.5:
                path.unlink()
        for seen, _, path in self.list_snapshots():
            if seen > nimg:
                path.unlink()
        kept = [row for row in self._rows() if _is_count(row.get("nimg")) and row["nimg"] <= nimg]
        with atomic_file(self.log_file, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not self.log_file.is_file():  # a link to a device would never end
            return
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def _find_problem(content: Any) -> str:
    """Return what is wrong with the content of run.json, or an empty string."""
    if not isinstance(content, dict):
        return "it lacks a JSON object"
    if missing := [key for key in _REQUIRED if key not in content]:
        return f"it lacks {', '.join(missing)}"
    for key, kind in {**_REQUIRED, **_OPTIONAL}.items():
        value = content.get(key)
        fits = key not in content or (isinstance(value, kind) and not isinstance(value, bool))
        if not fits or (isinstance(value, int | float) and not 0 <= value <= MAX_NIMG):
            return f"{key} is {shorten(value)}"
    best = content.get("best")
    if best is not None and not (isinstance(best.get("metric"), str) and _is_number(best.get("value"))):
        return f"best is {shorten(best)}"
    return ""


def _is_log_row(row: dict[str, Any]) -> bool:
    """Return whether all values of a row have the types that the training loop writes."""
    for key, value in row.items():
        if key == "alarms":
            is_list = isinstance(value, list)
            if not is_list or not all(isinstance(a, dict) and isinstance(a.get("name"), str) for a in value):
                return False
        elif not (isinstance(value, str) if key in _TEXTS else value is None or _is_number(value)):
            return False
    return _is_count(row.get("nimg"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NIMG


def create_run(out: Path, name: str, describe: Callable[[Run], None]) -> Run:
    """Create a folder ``out/<name>-<NNN>`` with the next free number.

    Args:
        describe: writes what the folder says about itself; a process that is killed meanwhile leaves no run.

    Raises:
        ZooError: ``out`` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with temporary_folder(f".{name}-", out) as place:
            draft = Run(Path(place) / "run")
            draft.state.mkdir(parents=True)
            draft.samples.mkdir()
            describe(draft)
            number = max((int(run.name.rsplit("-", 1)[1]) for run in find_runs(out, name)), default=-1) + 1
            while not _move(draft.path, out / f"{name}-{number:03d}"):  # another process took it meanwhile
                number += 1
    except OSError as error:
        raise ZooError(f"{out}: cannot make a run folder ({error_reason(error)})") from None
    return Run(out / f"{name}-{number:03d}")


def _move(source: Path, target: Path) -> bool:
    """Rename a folder unless ``target`` exists."""
    if target.exists():
        return False
    try:
        source.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    return True


def find_runs(out: Path, name: str | None = None) -> list[Run]:
    """Runs in ``out``, oldest number first: of one recipe, or of all, with those that were renamed."""
    if not is_folder(out):
        return []
    runs = []
    try:
        paths = list(out.iterdir())
    except OSError as error:
        raise ZooError(f"{out}: cannot be read ({error_reason(error)})") from None
    for path in paths:
        stem, _, number = path.name.rpartition("-")
        if re.fullmatch("[0-9]+", number) and (name is None or stem == name) and is_folder(path):
            runs.append((stem, int(number), Run(path)))
        elif name is None and is_file(path / INFO_NAME):
            runs.append((path.name, -1, Run(path)))
    return [run for _, _, run in sorted(runs, key=lambda item: item[:2])]


def find_equal_runs(out: Path, name: str, recipe_digest: str, data_digest: str) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Runs of a recipe's name in ``out`` with these numbers and images, newest first, and what they say of themselves;
    broken ones are passed over.
    """
    for old in reversed(find_runs(out, name)):
        try:
            info = open_run(old.path).info
        except ZooError:
            continue
        if (info["recipe_digest"], info["data_digest"]) == (recipe_digest, data_digest):
            yield old, info


def find_run(word: str | Path, runs: Path) -> Run:
    """Return the run that ``word`` names: its folder, its name in ``runs``, or its recipe, which means the newest.

    Raises:
        ZooError: no such run, with the nearest one and those that there are.
    """
    refuse_empty_name(word)
    path = Path(word)
    if is_folder(path):
        return open_run(path)
    if is_folder(runs / path):
        return open_run(runs / path)
    if of_recipe := find_runs(runs, str(word)):
        return open_run(of_recipe[-1].path)
    folder = path.parent if is_folder(path.parent) and path.parent != Path() else runs
    names = [run.name for run in find_runs(folder)]
    listed = f"runs in {folder}: {', '.join(names[-MAX_LISTED_RUNS:])}" if names else f"there are no runs in {folder}"
    more = f" and {len(names) - MAX_LISTED_RUNS} older" if len(names) > MAX_LISTED_RUNS else ""
    raise ZooError(f"no run {shorten(str(word), 200)}{suggest(path.name, names)}; {listed}{more}")


def open_run(path: str | Path) -> Run:
    """The run in folder ``path``.

    Raises:
        ZooError: no such folder, or none that a training left.
    """
    run = Run(path)
    if not is_folder(run.path):
        siblings = [other.name for other in find_runs(run.path.parent)]
        raise ZooError(f"no run {path}{suggest(run.name, siblings)}")
    if not is_file(run.recipe_file) or not is_file(run.path / INFO_NAME):
        raise ZooError(f"{path}: is not a run (no recipe.yaml and run.json in it)")
    _ = run.info  # read here, so that damage is reported where the run is named
    return run
