"""Atomic writes: killed at any stage they leave the old or the new file, and nothing after the next start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo.core import files

WRITE = """
from pathlib import Path
from zoo.core.files import atomic_file
with atomic_file(Path('a.txt'), 'w') as file:
    file.write('new' * 1000)
"""


def write_in_process(folder, stage):
    environment = {**os.environ, files.KILL_VARIABLE: str(stage), "PYTHONPATH": str(Path(files.__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", WRITE], cwd=folder, env=environment, check=False).returncode


@pytest.fixture
def unswept(monkeypatch):
    """A process that has not looked for leftovers yet."""
    monkeypatch.setattr(files, "_swept", set())


@pytest.mark.parametrize(
    ("stage", "content", "left"),
    [(1, "old", None), (2, "old", "new" * 500), (3, "old", "new" * 1000), (4, "new" * 1000, None)],
)
def test_a_writer_killed_at_any_stage(stage, content, left, tmp_path, unswept):
    (tmp_path / "a.txt").write_text("old")
    assert write_in_process(tmp_path, stage) == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == content
    leftovers = [path.read_text() for path in tmp_path.glob(".*")]
    assert leftovers == ([] if left is None else [left])
    with files.atomic_file(tmp_path / "b.txt", "w") as file:  # any write into the folder removes them
        file.write("later")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_without_the_variable_nothing_is_counted(tmp_path, monkeypatch):
    monkeypatch.delenv(files.KILL_VARIABLE, raising=False)
    before = repr(files._stages)
    with files.atomic_file(tmp_path / "a.txt", "w") as file:
        file.write("x")
    assert repr(files._stages) == before


@pytest.fixture(scope="module")
def dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


DAYS = 3 * 24 * 3600


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (".x.png.{here}-{dead}.tmp", None, False),
        (".x.png.{here}-{dead}.tmp.0123abcd.partial", None, False),  # torch.hub adds to the name
        (".x.png.{here}-{alive}.tmp", None, True),
        (".x.png.{here}-{alive}.tmp", DAYS, False),  # the number belongs to another process by now
        (".x.png.{there}-{dead}.tmp", None, True),  # processes of another machine cannot be looked up
        (".x.png.{there}-{dead}.tmp", DAYS, False),
        (".x.png.tmp", DAYS, True),  # others' files
        (".x.png.12345.tmp", DAYS, True),
        ("x.png.{here}-{dead}.tmp", DAYS, True),
        (".x.{here}-{huge}.tmp", DAYS, True),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_only_what_killed_processes_left_is_removed(name, age, stays, folder, tmp_path, dead):
    numbers = {
        "here": files._machine(),
        "there": "0" * 8,
        "dead": dead,
        "alive": os.getpid(),
        "huge": "9" * 30,
    }
    path = tmp_path / name.format(**numbers)
    if folder:
        path.mkdir()
        (path / "content").write_text("x")
    else:
        path.write_text("x")
    if age:
        for each in [path, *path.rglob("*")]:
            os.utime(each, (time.time() - age,) * 2)
    files.remove_leftovers(tmp_path)
    assert path.exists() == stays


def test_a_prefix_limits_what_is_removed(tmp_path, dead):
    ending = f".{files._machine()}-{dead}.tmp"
    for name in (f".mine-a{ending}", f".other-a{ending}"):
        (tmp_path / name).mkdir()
    with files.temporary_folder(".mine-", tmp_path) as folder:
        assert Path(folder).parent == tmp_path
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([Path(folder).name, f".other-a{ending}"])
    assert [path.name for path in tmp_path.iterdir()] == [f".other-a{ending}"]
