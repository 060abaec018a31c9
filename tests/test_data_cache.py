"""The cache: instant when nothing changed, equal for equal content, never incomplete, safe for parallel processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.progress import SilentReporter
from zoo.core.threads import map_chunks
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.sources.folder import FolderSource

CONFIG = DataConfig(resolution=16)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "set")


def write(root, count=40, size=16):
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (size, size)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"case_{index // 2}_slice_{index % 2}.png")
    return root


class Log(SilentReporter):
    """A reporter that records."""

    def __init__(self):
        self.bars, self.messages, self.warnings, self.steps = [], [], [], 0

    def start(self, task, total):
        self.bars.append(task)

    def advance(self, n):
        self.steps += n

    def say(self, message):
        self.messages.append(message)

    def warn(self, message):
        self.warnings.append(message)


def loaded(path, config=CONFIG) -> tuple[Dataset, Log]:
    log = Log()
    return load_dataset(path, config, reporter=log), log


def run(code, *arguments, **options):
    """``code`` in another process, after some imports."""
    head = """if True:
        import os, resource, signal, sys
        from pathlib import Path
        from zoo.core.config import DataConfig
        from zoo.data.dataset import load_dataset
        from zoo.core.progress import SilentReporter
        from zoo.core.errors import ZooError
        config = DataConfig(resolution=16)
    """
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], text=True, stdout=subprocess.PIPE, **options)


def sets(cache):
    return sorted(path.name for path in (cache / "sets").glob("*"))


def test_the_second_start_opens_no_file(folder, monkeypatch):
    first, log = loaded(folder)
    assert log.bars == ["reading", "decoding"]
    assert log.steps == 80
    assert len(log.messages) == 1
    monkeypatch.setattr(FolderSource, "raw", None)
    second, log = loaded(folder)
    assert log.bars == log.messages == log.warnings == []
    assert second.digest == first.digest
    assert second.names == first.names
    assert second.subjects == first.subjects
    assert second.description == first.description
    np.testing.assert_array_equal(second.images, first.images)
    np.testing.assert_array_equal(second.unseen, first.unseen)


def test_images_are_mapped_and_taken_as_tensors(folder):
    data, _ = loaded(folder)
    assert isinstance(data.images, np.memmap)
    assert not data.images.flags.writeable
    taken = data.take(data.train[:3])
    assert (taken.shape, str(taken.dtype)) == ((3, 1, 16, 16), "torch.uint8")
    np.testing.assert_array_equal(taken.numpy(), data.images[data.train[:3]])
    np.testing.assert_array_equal(data.take([5, 5, 0]).numpy(), data.images[[5, 5, 0]])
    assert data.take(taken.new_tensor([1]).long()).shape == (1, 1, 16, 16)


def test_content_matters_but_not_times_and_locations(folder, tmp_path, cache):
    first, _ = loaded(folder)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    touched, log = loaded(folder)
    assert log.bars == ["reading"]
    moved = tmp_path / "elsewhere" / "by another name"
    shutil.copytree(folder, moved)
    there, log = loaded(moved)
    assert log.bars == ["reading"]
    assert first.digest == touched.digest == there.digest
    assert len(sets(cache)) == 1
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "case_0_slice_0.png")
    changed, log = loaded(folder)
    assert log.bars == ["reading", "decoding"]
    assert changed.digest != first.digest
    assert changed.images[0].max() == 0
    (moved / "case_0_slice_0.png").rename(moved / "case_0_slice_7.png")
    renamed, _ = loaded(moved)
    assert renamed.digest != first.digest


def test_each_setting_but_the_holdout_has_its_cache(folder, cache):
    first, _ = loaded(folder)
    for change in ({"resolution": 8}, {"channels": 3}, {"fit": "crop"}, {"window": (0.0, 100.0)}):
        data, log = loaded(folder, DataConfig(**{"resolution": 16, **change}))
        assert log.bars == ["decoding"]
        assert data.digest != first.digest
    data, log = loaded(folder, DataConfig(resolution=16, holdout=0.5))
    assert log.bars == []
    assert len(data.unseen) == 20
    assert data.digest != first.digest
    assert len(sets(cache)) == 5


@pytest.mark.parametrize("damage", ["short", "long", "empty", "header", "json", "keys", "missing", "shape", "index"])
def test_a_damaged_cache_is_rebuilt(folder, cache, damage):
    first, _ = loaded(folder)
    (home,) = (cache / "sets").iterdir()
    images, facts = home / "images.npy", home / "set.json"
    digest, before = first.digest, np.array(first.images)
    raw = images.read_bytes()
    if damage == "index":
        (index,) = (cache / "index").iterdir()
        index.write_text("{")
    elif damage in ("json", "keys"):
        facts.write_text("{'" if damage == "json" else json.dumps({"names": [], "colour": 3}))
    elif damage == "missing":
        facts.unlink()
    elif damage == "shape":
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"names": ["one"]}))
    else:
        images.unlink()  # what is mapped stays as it is
        images.write_bytes({"short": raw[:-100], "long": raw + b"x", "empty": b"", "header": b"x" + raw[1:]}[damage])
    again, log = loaded(folder)
    assert log.bars == (["reading"] if damage == "index" else ["decoding"])
    assert any("damaged" in message for message in log.messages) == (damage != "index")
    assert again.digest == digest
    np.testing.assert_array_equal(again.images, before)
    assert len(sets(cache)) == 1
    assert loaded(folder)[1].bars == []


def test_a_killed_process_leaves_no_set(folder, cache):
    code = """
        class Killed(SilentReporter):
            steps = 0
            def advance(self, n):
                self.steps += n
                if self.steps > 60:  # half of the images are decoded
                    os.kill(os.getpid(), signal.SIGKILL)
        load_dataset(sys.argv[1], config, reporter=Killed())
    """
    process = run(code, folder)
    process.communicate()
    assert process.returncode == -9
    (left,) = sets(cache)
    assert left.startswith(".building-")
    data, log = loaded(folder)
    assert log.bars == ["reading", "decoding"]
    assert len(data.images) == 40
    assert left not in sets(cache)


def test_an_interrupted_build_cleans_up(folder, cache):
    class Impatient(SilentReporter):
        def advance(self, n):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset(folder, CONFIG, reporter=Impatient())
    assert sets(cache) == []


def test_processes_that_build_the_same_set_at_once(folder, cache):
    code = """
        data = load_dataset(sys.argv[1], config)
        print(data.digest, int(data.images.sum()))
    """
    processes = [run(code, folder) for _ in range(3)]
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    data, log = loaded(folder)
    assert answers == {f"{data.digest} {int(data.images.sum())}\n"}
    assert log.bars == []
    assert len(sets(cache)) == 1


def test_the_second_of_two_builds_keeps_the_first(folder, cache):
    class Slow(Log):
        """Another build finishes while this one decodes."""

        def start(self, task, total):
            if task == "decoding":
                load_dataset(folder, CONFIG)

    data = load_dataset(folder, CONFIG, reporter=Slow())
    assert len(data.images) == 40
    assert len(sets(cache)) == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, cache, monkeypatch):
    code = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            load_dataset(sys.argv[1], config)
        except ZooError as error:
            print(error)
    """
    process = run(code, folder)
    output = process.communicate()[0]
    assert process.returncode == 0
    assert output.count("\n") == 1
    assert "the cache cannot be written (File too large). Free some space, or set ZOO_CACHE" in output
    assert sets(cache) == []
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ZooError, match=r"the cache needs .* GB, but only .* are free"):
        load_dataset(folder, CONFIG)
    assert sets(cache) == []


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ZooError, match=r"the cache cannot be written \(Not a directory\)") as error:
        load_dataset(folder, CONFIG)
    assert "\n" not in str(error.value)


def test_a_read_only_index_works(folder, cache):
    first, _ = loaded(folder)
    shutil.rmtree(cache / "index")
    (cache / "index").write_text("a file where the folder should be")
    second, log = loaded(folder)
    assert log.bars == ["reading"]
    assert second.digest == first.digest


def test_a_set_that_changes_while_it_is_read(folder, cache):
    class Meddler(SilentReporter):
        def start(self, task, total):
            if task == "decoding":
                Image.new("L", (16, 16)).save(folder / "case_3_slice_0.png")

    with pytest.raises(ZooError, match=r"it changed while it was read\. Run again"):
        load_dataset(folder, CONFIG, reporter=Meddler())
    assert sets(cache) == []
    assert load_dataset(folder, CONFIG).images[6].max() == 0


def test_a_change_that_keeps_size_and_time_is_fixed_on_the_second_try(tmp_path, cache):
    """A change that the signature cannot show is noticed when new settings decode the files."""
    np.save(tmp_path / "x.npy", np.zeros((4, 16, 16), np.uint8))
    path, before = tmp_path / "x.npy", (tmp_path / "x.npy").stat()
    load_dataset(path, CONFIG)
    np.save(path, np.ones((4, 16, 16), np.uint8))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ZooError, match="changed"):
        load_dataset(path, DataConfig(resolution=8))
    assert load_dataset(path, DataConfig(resolution=8)).images.min() == 1


def test_one_warning_line_for_left_out_images_at_every_start(folder):
    for index in range(5):
        (folder / f"case_{30 + index}_slice_0.png").write_bytes(b"")
    for _ in range(2):
        data, log = loaded(folder)
        assert len(data.images) == 40
        assert [problem.name for problem in data.problems] == [f"case_{30 + index}_slice_0.png" for index in range(5)]
        assert len(log.warnings) == 1
        assert "5 left out: case_30_slice_0.png (an empty file), " in log.warnings[0]
        assert log.warnings[0].endswith("and 2 more")
        assert "\n" not in log.warnings[0]
    data.require(36)
    with pytest.raises(ZooError, match=r"36 images to train on, fewer than a batch of 37. Lower .*5 problems"):
        data.require(37)


def test_names_that_are_not_text(folder):
    name = os.fsencode(folder) + b"/\xff\nx.png"
    with open(name, "wb") as file:  # noqa: PTH123
        file.write(b"")
    for _ in range(2):
        data, log = loaded(folder)
        assert len(data.images) == 40
        assert log.warnings == ["folder " + "/".join(folder.parts[-2:]) + ": 1 left out: ? x.png (an empty file)"]


def test_nothing_left_is_an_error(tmp_path, cache):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(ZooError, match=r"none of its 2 image files is usable \(a\.png: not a PNG") as error:
        load_dataset(folder, CONFIG)
    assert "\n" not in str(error.value)
    assert sets(cache) == []
    for split in ("train", "test"):
        (folder / split).mkdir()
    Image.new("L", (16, 16)).save(folder / "test" / "c.png")
    (folder / "train" / "d.png").write_bytes(b"x")
    with pytest.raises(ZooError, match="nothing is left to train on"):
        load_dataset(folder, CONFIG)


def test_the_default_cache_folder(monkeypatch, tmp_path):
    from zoo.core.files import cache_folder

    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "zoo"


def test_a_cache_folder_argument_has_priority(folder, tmp_path, cache):
    load_dataset(folder, CONFIG, cache_dir=tmp_path / "mine")
    assert len(sets(tmp_path / "mine")) == 1
    assert not cache.exists()


def test_memory_stays_flat(tmp_path):
    """Sixteen times the images at 256 pixels: 40 MB more of them, and next to no more memory."""
    code = """
        import tracemalloc
        config = DataConfig(resolution=256)
        peaks = []
        for path in sys.argv[1:]:
            tracemalloc.start()
            load_dataset(path, config)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        print(*peaks)
    """
    load_dataset(write(tmp_path / "warm", 2), CONFIG)
    process = run(code, write(tmp_path / "few", 40), write(tmp_path / "many", 640))
    few, many = map(int, process.communicate()[0].split())
    assert many < few + 8e6, (few, many)


def test_workers_never_run_far_ahead():
    started = []
    parts = map_chunks(lambda part: started.append(part) or part.start, 1000, 2, task="", reporter=SilentReporter())
    assert next(parts) == (range(2), 0)
    time.sleep(0.1)
    assert len(started) <= 33  # twice the 16 threads there are at most
    assert [start for _, start in parts] == list(range(2, 1000, 2))
    parts.close()


def test_an_error_in_a_worker_is_raised_and_ends_the_bar():
    log = Log()
    log.stop = lambda: log.messages.append("stopped")
    with pytest.raises(ZeroDivisionError):
        list(map_chunks(lambda part: 1 // (5 - part.start), 10, 1, task="", reporter=log))
    assert log.messages == ["stopped"]
