"""A run records where its time went: exclusive parts that add up to the time of training."""

import json
from types import SimpleNamespace

import pytest

import zoo
from zoo.cli.main import main
from zoo.training import run_clock
from zoo.training.run_clock import ASIDE, RunClock, describe_seconds

SMALL = ["generator.width=0.0625", "discriminator.width=0.0625", "train.batch=8", "train.log_kimg=0.008"]
SMALL += ["train.sample_kimg=0.016", "train.checkpoint_kimg=0.016"]


@pytest.fixture
def now(monkeypatch):
    """Seconds of a clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(run_clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_parts_inside_others_count_once(now):
    def wait():
        now[0] += 2.0  # steps that the device has not finished

    clock = RunClock(elapsed=50.0, seconds={"steps": 40.0}, wait=wait, started=now[0])
    with clock.counting("steps"):
        now[0] += 10.0
    with clock.counting("checkpoints"):
        now[0] += 1.0
        with clock.counting("curves"):
            now[0] += 3.0
            with clock.counting("reference"):
                now[0] += 5.0
        now[0] += 0.5
    now[0] += 4.0
    expected = {"steps": 40.0 + 10.0 + 3 * 2.0, "checkpoints": 1.5, "curves": 3.0, "reference": 5.0}
    assert clock.seconds == expected
    assert clock.aside == 4.5
    assert clock.total == 50.0 + 10.0 + 15.5 + 4.0
    assert clock.record() == {**expected, "other": 14.0}  # 10 s before this process that nothing was recorded of


def test_seconds_as_a_line():
    seconds = {"steps": 3500.0, "validation": 60.0, "grids": 36.0, "curves": 0.9, "other": 3.1, "checkpoints": 0.0}
    assert describe_seconds(seconds) == "1 h 00 min: steps 97.2%, validation 1.7%, grids 1.0%, other 0.1%"
    for damaged in (None, {}, [], "x", {"steps": None}, {"steps": float("nan"), "grids": "x"}, {"steps": -1.0}):
        assert describe_seconds(damaged) == ""


@pytest.mark.slow
def test_a_run_and_its_continuation_record_all_their_time(tmp_path, capsys):
    keywords = {"data": "phantoms:2", "out": tmp_path, "device": "cpu"}
    first = zoo.train("dcgan-64", kimg=0.032, set=SMALL, **keywords).info["seconds"]
    command = ["train", "--resume", str(tmp_path / "dcgan-64-000"), "--kimg", "0.064", "--device", "cpu"]
    assert main(command) in (0, None)
    out = capsys.readouterr().out
    seconds = json.loads((tmp_path / "dcgan-64-000" / "run.json").read_text())["seconds"]
    assert set(seconds) == {"steps", *ASIDE, "reference", "callbacks", "animation", "other"}
    assert first["steps"] > 0  # other parts may round to 0, or not be due yet: that depends on the time they take
    # A continuation counts from its checkpoint; whatever else the first start did may have come after it.
    assert seconds["steps"] >= first["steps"]
    assert seconds["reference"] >= first["reference"]
    logged = [json.loads(line)["time"] for line in (tmp_path / "dcgan-64-000" / "log.jsonl").read_text().splitlines()]
    assert sum(seconds.values()) >= logged[-1]  # whose row was written before the last checkpoint
    assert f"  {describe_seconds(seconds)}\n" in out
