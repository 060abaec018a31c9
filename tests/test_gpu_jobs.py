"""Jobs of benchmarks/gpu.py run in slices: what is done stays done, and a training continues."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu

WAIT = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\ntime.sleep(60)"


def job(name, code="pass"):
    return gpu.GpuJob(name=name, kind=name.split("-")[0], command=["-c", code])


def test_a_slice_resumes_where_the_last_one_ended(tmp_path, monkeypatch):
    clock, calls = [0.0], []

    def run_job(job, options, limit):
        calls.append((job.name, limit))
        clock[0] += limit if job.kind == "train" else 100.0
        status = {"profile-bad": "failed", "train-long": "cut"}.get(job.name, "done")
        return status, [{"ratio": 2.0}], None

    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(gpu, "run_job", run_job)
    jobs = [job("profile-good"), job("profile-bad"), job("train_speed-slow"), job("train-long")]
    options = argparse.Namespace(out=tmp_path, retry=False, minutes=7.0)
    gpu.run_slice(jobs, options, {})
    # 420 s: 100 s for each profile; 220 s are too few for a speed job of 240 s; the training leaves 60 s to save.
    assert calls == [("profile-good", 420.0), ("profile-bad", 320.0), ("train-long", 160.0)]
    state = json.loads((tmp_path / "state.json").read_text())
    assert {name: entry["status"] for name, entry in state.items()} == {
        "profile-good": "done",
        "profile-bad": "failed",
        "train-long": "cut",
    }
    calls.clear()
    gpu.run_slice(jobs, options, state)
    assert calls == [("train_speed-slow", 420.0), ("train-long", 200.0)]  # of its 360 s it has had 160
    assert state["train-long"]["status"] == "done"


def test_a_job_ends_with_rows_an_error_or_its_limit(tmp_path):
    options = argparse.Namespace(out=tmp_path)
    code = "print('a line'); print('[{\"ratio\": 2.0}]')"
    assert gpu.run_job(job("profile-good", code), options, 60) == ("done", [{"ratio": 2.0}], None)
    code = "import sys; sys.exit('no such device')"
    assert gpu.run_job(job("profile-bad", code), options, 60) == ("failed", [], "no such device")
    assert gpu.run_job(job("train-long", WAIT), options, 0.5) == ("cut", [], None)


def test_the_list_of_jobs_is_printed_without_a_gpu():
    command = [sys.executable, gpu.__file__, "--list", "--only", "profile"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "profile-multires-28-reduce-overhead" in output
    assert "speed.compile=reduce-overhead" in output
