"""Jobs of benchmarks/gpu.py run in slices: what is done stays done, and what does not fit waits."""

import sys
from pathlib import Path

import pytest

from zoo.recipes import list_models

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu
import other_packages


def job(name, code="pass", minutes=1.0):
    return gpu.GpuJob(name=name, minutes=minutes, command=("-c", code))


def test_a_slice_continues_with_the_jobs_that_are_not_done(tmp_path, monkeypatch, capsys):
    jobs = [
        job("speed-long", minutes=20.0),
        job("speed-good", "print('a line')"),
        job("speed-bad", "import sys; sys.exit('no such device')"),
        job("train-other"),
    ]
    monkeypatch.setattr(gpu, "list_jobs", lambda *options: jobs)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--only", "speed"])
    gpu.main()
    assert [gpu.find_state(each, tmp_path) for each in jobs] == ["waiting", "done", "failed", "waiting"]
    assert (tmp_path / "speed-good.done.txt").read_text() == "a line\n"
    assert (tmp_path / "speed-bad.failed.txt").read_text() == "no such device\n"
    capsys.readouterr()
    gpu.main()
    assert capsys.readouterr().out == ""  # what failed runs again once its file is gone
    (tmp_path / "speed-bad.failed.txt").unlink()
    gpu.main()
    assert "speed-bad: failed" in capsys.readouterr().out


def test_jobs_are_commands_of_scripts_and_recipes_that_exist(tmp_path):
    jobs = gpu.list_jobs(tmp_path, "phantoms:16", "cuda")
    assert len({each.name for each in jobs}) == len(jobs) > 20
    for each in jobs:
        if each.command[0] == "-m":
            assert each.command[:3] == ("-m", "zoo", "train")
            assert each.command[3] in list_models()
        else:
            assert Path(each.command[0]).is_file()
            assert each.command[1] in {*list_models(), *other_packages.NETWORKS}


@pytest.mark.parametrize("kind", ["train_speed", "profile", "train", "other_packages"])
def test_the_list_is_printed_without_a_gpu(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--list", "--only", kind, "--out", str(tmp_path / "none")])
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("waiting" in line and kind in line for line in lines)
    assert not (tmp_path / "none").exists()
