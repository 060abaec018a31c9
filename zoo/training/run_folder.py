"""The run folder: everything a training leaves behind and continues from.

runs/<recipe>-<NNN>/
    recipe.yaml            the resolved recipe
    run.json               data, device, versions, progress
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from zoo.core.config import Recipe
from zoo.core.errors import ZooError, error_reason, suggest
from zoo.core.files import atomic_file

INFO = ("recipe", "recipe_digest", "data", "data_digest", "data_description", "status", "nimg", "kimg")


class Run:
    """A run's folder.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

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

    @property
    def info(self) -> dict[str, Any]:
        """What ``run.json`` says: ``recipe_digest, data, data_digest, device, status, nimg, kimg`` and more."""
        return json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    def write_info(self, **changes: Any) -> None:
        """Change some of ``run.json``, keep the rest."""
        path = self.path / "run.json"
        before = self.info if path.exists() else {}
        with atomic_file(path, "w") as file:
            json.dump({**before, **changes}, file, indent=2)
            file.write("\n")

    def write_recipe(self, recipe: Recipe) -> None:
        """The resolved recipe; :func:`zoo.recipes.load_recipe` takes the file."""
        with atomic_file(self.recipe_file, "w") as file:
            file.write(f"# As trained, every default filled in. Digest {recipe.digest}.\n{recipe.to_yaml()}")

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """One process a run: hold its lock; the lock goes with the process.

        Raises:
            ZooError: another process holds it.
        """
        lock = filelock.FileLock(self.state / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ZooError(f"{self.path}: another process is training it") from None
        try:
            for leftover in self.path.rglob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def locked(self) -> bool:
        """Whether a process is training it."""
        try:
            with self.claim():
                return False
        except ZooError:
            return True

    def rows(self) -> list[dict[str, Any]]:
        """The log, one dict a line; a line cut short by a kill is left out."""
        return list(self._rows())

    def drop_rows_after(self, nimg: int) -> None:
        """Rewrite the log without what was logged after ``nimg`` images, so that each ``nimg`` stands once."""
        kept = [row for row in self._rows() if row["nimg"] <= nimg]
        with atomic_file(self.log_file, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not self.log_file.exists():
            return
        for line in self.log_file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def create_run(out: Path, name: str) -> Run:
    """A new folder ``out/<name>-<NNN>`` with the next free number.

    Raises:
        ZooError: ``out`` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        number = max((int(run.name.rsplit("-", 1)[1]) for run in find_runs(out, name)), default=-1) + 1
        while True:
            try:
                (out / f"{name}-{number:03d}").mkdir()
                break
            except FileExistsError:  # another process took it meanwhile
                number += 1
    except OSError as error:
        raise ZooError(f"{out}: cannot make a run folder ({error_reason(error)})") from None
    run = Run(out / f"{name}-{number:03d}")
    run.state.mkdir()
    run.samples.mkdir()
    return run


def find_runs(out: Path, name: str | None = None) -> list[Run]:
    """Runs in ``out``, of one recipe or of all, oldest number first."""
    if not out.is_dir():
        return []
    runs = []
    for path in out.iterdir():
        stem, _, number = path.name.rpartition("-")
        if number.isdigit() and (name is None or stem == name) and path.is_dir():
            runs.append((stem, int(number), Run(path)))
    return [run for _, _, run in sorted(runs, key=lambda item: item[:2])]


def find_equal_runs(out: Path, name: str, recipe_digest: str, data_digest: str) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Runs of a recipe's name in ``out`` with these numbers and images, newest first, and what they say of themselves;
    broken ones are passed over.
    """
    for old in reversed(find_runs(out, name)):
        try:
            info = open_run(old.path).info
        except (ZooError, ValueError):
            continue
        if (info["recipe_digest"], info["data_digest"]) == (recipe_digest, data_digest):
            yield old, info


def open_run(path: str | Path) -> Run:
    """The run in folder ``path``.

    Raises:
        ZooError: no such folder, or none that a training left.
    """
    run = Run(path)
    if not run.path.is_dir():
        siblings = [other.name for other in find_runs(run.path.parent)]
        raise ZooError(f"no run {path}{suggest(run.name, siblings)}")
    if not run.recipe_file.is_file() or not (run.path / "run.json").is_file():
        raise ZooError(f"{path}: is not a run (no recipe.yaml and run.json in it)")
    try:
        missing = [key for key in INFO if key not in run.info]
    except (ValueError, TypeError):
        missing = ["a JSON object"]
    if missing:
        raise ZooError(f"{path}/run.json: is damaged (it lacks {', '.join(missing)})")
    return run
