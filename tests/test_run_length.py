"""The length of a run in epochs and hours, and the line that says when it will end."""

from types import SimpleNamespace

import pytest
import torch

import zoo
from zoo.core.errors import ZooError
from zoo.core.measurements import load_measurements
from zoo.training import checkpoint, run_length
from zoo.training.run_length import TIME_IS_UP, EndForecast, StopAtTime, _clock
from zoo.training.sweep import tune
from zoo.training.trainer import Trainer

TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
CADENCES = ["train.log_kimg=0.016", "train.sample_kimg=0.04", "train.checkpoint_kimg=0.04"]
OPTIONS = {"data": "phantoms:2", "device": "cpu", "set": [*TINY, *CADENCES]}


class Clock:
    """Stands for the module `time`; it moves only when told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(run_length, "time", SimpleNamespace(monotonic=lambda: self.now))


def test_epochs_count_passes_over_the_training_images(tmp_path):
    run = zoo.train("dcgan-64", out=tmp_path, epochs=2, **OPTIONS)
    assert (run.info["kimg"], run.info["nimg"]) == (2 * 32 / 1000, 64)
    assert run.info["recipe_digest"] == zoo.load_recipe("dcgan-64", TINY).digest
    longer = zoo.train(resume=run.path, epochs=3, device="cpu")
    assert (longer.path, longer.info["nimg"], longer.info["status"]) == (run.path, 96, "finished")


def test_hours_stop_with_a_last_look_and_the_same_command_continues(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    original = Trainer.step

    def step(self):
        original(self)
        clock.now += 100.0  # seconds

    monkeypatch.setattr("zoo.training.trainer.Trainer.step", step)
    run = zoo.train("dcgan-64", out=tmp_path / "a", kimg=0.08, hours=0.08, **OPTIONS)  # 288 s: three steps
    assert (run.info["status"], run.info["nimg"]) == ("interrupted", 24)
    last = run.rows()[-1]
    assert last["nimg"] == 24
    assert "ssim_nearest" in last
    assert (run.path / "training.gif").is_file()
    assert checkpoint.newest_checkpoint(run.state).name == "nimg-000000000024.pt"
    again = zoo.train("dcgan-64", out=tmp_path / "a", kimg=0.08, hours=1, **OPTIONS)
    assert (again.path, again.info["status"], again.info["nimg"]) == (run.path, "finished", 80)
    whole = zoo.train("dcgan-64", out=tmp_path / "b", kimg=0.08, **OPTIONS)
    weights = [
        checkpoint.load_checkpoint(checkpoint.newest_checkpoint(r.state))["trainer"]["generator"] for r in (run, whole)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    losses = [{row["nimg"]: row["loss_d"] for row in r.rows()} for r in (again, whole)]
    assert losses[0].pop(24)
    assert losses[0] == losses[1]


def test_a_signal_comes_before_the_time_and_context_managers_are_entered(monkeypatch):
    clock = Clock(monkeypatch)
    stop = StopAtTime(10, lambda: None)
    assert stop() is None
    clock.now = 10.0
    assert stop() == TIME_IS_UP
    assert StopAtTime(-1, lambda: 15)() == 15
    from zoo.cli.signals import StopOnSignals

    inner = StopOnSignals()
    with StopAtTime(10, inner):
        assert inner._previous
    assert not inner._previous


def forecast(monkeypatch, *, name, kimg, rate, hours=None, nimg=0):
    """The lines said while steps of a batch of 8 are made at ``rate`` images a second."""
    clock, lines = Clock(monkeypatch), []
    recipe = zoo.load_recipe(name, ["train.batch=8", "train.evaluate_share=0"])
    trainer = SimpleNamespace(recipe=recipe, nimg=nimg, device=torch.device("cpu"))
    stop = None if hours is None else StopAtTime(3600 * hours, None)
    watched = EndForecast(trainer, round(1000 * kimg), stop, lines.append)
    for step in range(200):
        clock.now += 60.0 if step == 0 else 8 / rate  # the first step compiles
        trainer.nimg += 8
        watched.step()
    return lines


def test_the_end_is_said_once_from_the_first_steps(monkeypatch):
    (line,) = forecast(monkeypatch, name="fastgan-r3-64", kimg=1000, rate=10)
    best = load_measurements().longest_run("fastgan-r3-64", 36)
    assert "in about 1 d 3 h (1000 kimg at 10 images/s); --kimg 36 takes about an hour" in line
    assert f"; on brain slices fastgan-r3-64 had FID {best.fid:g} (500 fakes) after {best.kimg:.0f} kimg" in line
    (line,) = forecast(monkeypatch, name="fastgan-r3-64", kimg=36, rate=10)
    assert "in about 59 min" in line
    assert "--kimg" not in line  # short enough
    (line,) = forecast(monkeypatch, name="fastgan-r3-64", kimg=1000, rate=10, nimg=100_000)
    assert "--kimg 136 takes about an hour" in line  # in total
    (line,) = forecast(monkeypatch, name="r3gan-256-full", kimg=1000, rate=1)
    assert "--kimg 3.6 takes about an hour; the quality of r3gan-256-full at that length was not measured" in line
    assert forecast(monkeypatch, name="fastgan-r3-64", kimg=0.5, rate=10) == []  # it ends within a minute


def test_the_end_of_the_time_is_said_where_it_comes_first(monkeypatch):
    (line,) = forecast(monkeypatch, name="fastgan-r3-64", kimg=1000, rate=10, hours=1)
    assert "when the time of --hours is up, after about 35 of 1000 kimg" in line
    assert "had FID" in line
    (line,) = forecast(monkeypatch, name="fastgan-r3-64", kimg=10, rate=10, hours=1)
    assert "--hours" not in line


def test_benchmarks_and_sweeps_take_no_epochs(tmp_path):
    for length in ({"epochs": 1}, {"hours": 1}):
        with pytest.raises(ZooError, match="as kimg, not as epochs or hours"):
            zoo.bench(["dcgan-64"], out=tmp_path, **length)
        with pytest.raises(ZooError, match="as kimg, not as epochs or hours"):
            tune("dcgan-64", param="optimizer.generator.lr", out=tmp_path, **length)


def test_an_end_beyond_the_calendar_is_said():
    assert _clock(1e13) == "after the year 9999"
