"""Budgets, adopted and continued runs, ranking, rows and tables of the leaderboard, on tiny networks and phantoms."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.core.config import DataConfig
from zoo.data.dataset import load_dataset
from zoo.models.summary import count_parameters
from zoo.recipes import load_recipe, summarise_recipe
from zoo.training.run_folder import find_runs

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import leaderboard
import leaderboard_jobs
import leaderboard_plan
import leaderboard_rows
import leaderboard_tables
import pytorch_tutorial
from common import read_rows
from leaderboard_jobs import Job, JobFolder

BENCHMARKS = Path(leaderboard_jobs.__file__).parent
TINY = ("data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8")
BUSY = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nwhile True: pass"


def tiny_job(**changes):
    return Job(**{"group": "64", "name": "one", "recipe": "dcgan-64", "overrides": TINY, "kimg": 0.032, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one run of the tiny job."""
    out = tmp_path_factory.mktemp("runs")
    zoo.train("dcgan-64", data="phantoms:4", out=out, kimg=0.032, device="cpu", set=list(TINY))
    return out


@pytest.fixture
def runs(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def run_code(folder, monkeypatch, code):
    """Run ``code`` as the process of a job."""
    monkeypatch.setattr(JobFolder, "command", lambda *_: ["-c", code])
    monkeypatch.setattr(leaderboard_jobs, "POLL_SECONDS", 0.02)
    leaderboard_jobs.train_jobs([folder], data="phantoms:4", num_samples=2, parallel=2, print_line=lambda _: None)


def test_variety_tries_each_switch_with_two_seeds_and_24_core_minutes():
    jobs = leaderboard_plan.plan_variety([])
    assert len({job.name for job in jobs}) == len(jobs) == 2 * len(leaderboard_plan.VARIETY)
    assert {job.core_seconds for job in jobs} == {24 * 60.0}
    assert len({job.load_recipe().digest for job in jobs}) == len(jobs)  # also: every override is valid
    base = leaderboard_plan.Job(group="64", name="base", recipe="fastgan-r3-64", kimg=1.0).load_recipe()
    assert base.digest not in {job.load_recipe().digest for job in jobs}


def test_a_spent_budget_ends_the_process(tmp_path, monkeypatch):
    folder = JobFolder(tiny_job(core_seconds=0.3), tmp_path)
    run_code(folder, monkeypatch, BUSY)
    assert folder.state["core_seconds"] >= 0.3
    assert folder.end_reason == "error"  # it wrote no weights
    assert "the budget was spent before there were weights to evaluate" in folder.describe_state()


def test_state_names_a_run_that_another_process_trains(runs):
    folder = JobFolder(tiny_job(kimg=1.0), runs)
    folder.update_state(run="dcgan-64-000", wall=7.0)
    assert folder.describe_state().startswith("64.one: stopped; ")
    with folder.run.claim():
        assert folder.describe_state().startswith("64.one: in training; ")


def test_a_job_resumes_with_the_rest_of_its_budget(tmp_path, monkeypatch):
    JobFolder(tiny_job(core_seconds=100), tmp_path).update_state(core_seconds=99.8, wall=7.0)
    folder = JobFolder(tiny_job(core_seconds=100), tmp_path)
    run_code(folder, monkeypatch, BUSY)
    assert 100 <= folder.state["core_seconds"] < 110
    assert folder.state["wall"] >= 7


def test_child_processes_count_for_the_budget(tmp_path, monkeypatch):
    folder = JobFolder(tiny_job(core_seconds=0.3), tmp_path)
    run_code(folder, monkeypatch, f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])")
    assert folder.state["core_seconds"] >= 0.3


def test_a_failed_job_records_the_last_line_of_its_log(tmp_path, monkeypatch):
    folder = JobFolder(tiny_job(), tmp_path)
    run_code(folder, monkeypatch, "import sys\nprint('zoo: it cannot be')\nsys.exit(2)")
    assert folder.end_reason == "error"
    assert JobFolder(tiny_job(), tmp_path).state["error"] == "zoo: it cannot be"


def test_children_end_when_their_parent_is_killed(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import leaderboard_jobs, os, subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', {BUSY!r}], preexec_fn=leaderboard_jobs._end_with_parent)\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    for _ in range(1000):
        if not _alive(int(done.stdout)):
            return
        time.sleep(0.01)
    os.kill(int(done.stdout), signal.SIGKILL)
    pytest.fail("the child is still running")


def _alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_with_the_same_recipe_and_images_is_adopted(runs):
    (run,) = find_runs(runs)
    digest = run.info["data_digest"]
    different_jobs = [
        tiny_job(overrides=(*TINY, "train.seed=1")),
        tiny_job(overrides=(*TINY, "ema.halflife_kimg=1")),
        tiny_job(kimg=0.016),
        tiny_job(recipe="lean-256"),
        tiny_job(wall=9.0),
    ]
    for job in different_jobs:
        assert JobFolder(job, runs).adopt_run(digest, set()) is None
    assert JobFolder(tiny_job(), runs).adopt_run("other images", set()) is None
    assert JobFolder(tiny_job(), runs).adopt_run(digest, {run.name}) is None
    folder = JobFolder(tiny_job(overrides=(*TINY, "train.log_kimg=3")), runs)
    assert folder.adopt_run(digest, set()).path == run.path
    assert folder.end_reason == "kimg"
    assert folder.state["wall"] == run.rows()[-1]["time"]
    again = JobFolder(tiny_job(kimg=0.064), runs)
    assert again.run.path == run.path
    assert again.end_reason is None
    assert again.adopt_run(digest, set()) is None
    assert "--resume" in again.command("phantoms:4", 2)
    assert leaderboard.adopted_runs(runs) == {run.name}


def test_a_job_restarts_when_its_recipe_has_changed(runs):
    digest = find_runs(runs)[0].info["data_digest"]
    folder = JobFolder(tiny_job(), runs)
    assert folder.set_aside_if_outdated() is None
    folder.adopt_run(digest, set())
    assert folder.set_aside_if_outdated() is None
    changed = JobFolder(tiny_job(overrides=(*TINY, "ema.halflife_kimg=1")), runs)
    assert changed.nimg == 32
    assert changed.outdated
    assert not folder.outdated
    assert "--resume" in changed.command("slices", 2)
    assert "--resume" not in changed.command("slices", 2, restart=True)  # what --dry-run prints
    assert changed.set_aside_if_outdated() == folder.folder.with_name("64.one-before-1")
    assert (changed.nimg, changed.state["core_seconds"]) == (0, 0)
    assert changed.adopt_run(digest, set()) is None
    changed.update_state(run=find_runs(runs)[0].name)
    assert changed.set_aside_if_outdated() == folder.folder.with_name("64.one-before-2")


def test_a_longer_run_continues_a_copy(runs):
    source = JobFolder(tiny_job(), runs)
    source.adopt_run(find_runs(runs)[0].info["data_digest"], set())
    folder = JobFolder(tiny_job(group="long", kimg=0.064, continues="64.one"), runs)
    (folder.folder / ".copy").mkdir(parents=True)  # left by a copy that was killed
    folder.copy_run(source)
    folder.copy_run(source)
    assert [run.name for run in find_runs(folder.folder)] == ["dcgan-64-000"]
    assert folder.nimg == 32
    assert folder.state["core_seconds"] == source.state["core_seconds"] > 0
    assert folder.end_reason is None
    command = folder.command("phantoms:4", 2)
    assert command[command.index("--resume") + 1] == str(folder.run.path)
    zoo.train(resume=folder.run, kimg=0.064, device="cpu")
    assert JobFolder(folder.job, runs).end_reason == "kimg"
    assert source.nimg == 32


def row(name, fid, px=64, alarms=(), group="64", **more):
    facts = {"group": group, "name": name, "kind": "job", "error": None, "recipe": name, "overrides": [], "seed": 0}
    return {**facts, "px": px, "fid": fid, "alarms": list(alarms), **more}


def test_rows_are_ranked_by_size_alarm_and_fid():
    rows = [row("broken", None), row("collapsed", 5.0, alarms=[{"name": "collapse"}]), row("b", 20.0), row("a", 10.0)]
    rows.append(row("small", 15.0, px=28))
    assert [each["name"] for each in leaderboard_rows.rank_rows(rows)] == ["small", "a", "b", "collapsed", "broken"]
    assert [each["name"] for each in leaderboard_rows.best_rows(rows, "64")] == ["a", "b", "collapsed"]
    assert [each["name"] for each in leaderboard_rows.best_rows(rows, "64", ["b", "broken"])] == ["b"]


def test_the_base_recipe_is_trained_on_as_many_images_as_the_winner():
    rows = [row("fastgan-64", 10.0, kimg=39.6), row("r3gan-64", 20.0, kimg=60.0)]
    rows += [row("fastgan-64", 5.0, group="long", kimg=131.2), row("r3gan-64", 6.0, group="long", kimg=200.0)]
    assert [(job.name, job.recipe, job.kimg, job.continues) for job in leaderboard_plan.plan_same(rows)] == [
        ("dcgan-64-at-40", "dcgan-64", 40.0, None),
        ("dcgan-64-at-131", "dcgan-64", 131.0, None),
    ]
    rows.append(row("dcgan-64", 140.0, kimg=100.0))
    assert [job.continues for job in leaderboard_plan.plan_same(rows)] == [None, "64.dcgan-64"]


def test_new_rows_replace_earlier_rows_of_the_same_jobs(tmp_path):
    path = tmp_path / "rows.jsonl"
    baseline = {"group": "floors", "name": "black", "kind": "baseline"}
    leaderboard_rows.merge_rows(path, [row("a", 1.0), row("b", 2.0), {**baseline, "px": 28}, {**baseline, "px": 64}])
    seeds = [row(f"a-{s}", 1.0, group="seeds", recipe="a", seed=s, overrides=[f"train.seed={s}"]) for s in (1, 2)]
    leaderboard_rows.merge_rows(path, [row("a", 3.0), {**baseline, "px": 28}, *seeds])
    rows = read_rows(path)
    assert [(each["name"], each.get("fid")) for each in rows[:4]] == [
        ("a", 3.0),
        ("b", 2.0),
        ("black", None),
        ("black", None),
    ]
    assert [each["note"] for each in rows[:2]] == ["", "not yet proven"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--groups", "sedes"], "--groups sedes: unknown group (did you mean 'seeds'?)"),
        (["--groups", "64", "--names", "dcgan-46"], "--names dcgan-46: unknown job (did you mean 'dcgan-64'?)"),
        (["--groups", "seeds"], "group seeds: depends on the results of group 64"),
        (["--jobs", "0"], "--jobs must be at least 1"),
    ],
)
def test_wrong_options_are_reported_in_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        leaderboard.main(["--data", "phantoms:4", "--runs", str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_tutorial_resumes_and_has_the_layers_of_the_recipe(tmp_path):
    G, D = summarise_recipe(load_recipe("dcgan-64"))
    assert count_parameters(pytorch_tutorial.build_generator(64)) == G.parameters
    assert count_parameters(pytorch_tutorial.build_discriminator(64)) == D.parameters
    images = load_dataset("phantoms:4", DataConfig(resolution=64))
    first = pytorch_tutorial.Tutorial(images, tmp_path, width=2, workers=0)
    first.step()
    first.save()
    again = pytorch_tutorial.Tutorial(images, tmp_path, width=2, workers=0)
    assert again.nimg == 64
    again.step()
    again.write_samples(3)
    assert np.load(tmp_path / "fakes.npz")["images"].shape == (3, 1, 64, 64)


def test_from_plan_to_tables(runs, monkeypatch, capsys):
    """Everything is real but that jobs are trained in this process, which is faster."""
    trained = []

    def train(jobs, **_):
        for folder in jobs:
            if folder.end_reason is None:
                trained.append(folder.job.key)
                zoo.train(resume=folder.run, kimg=folder.job.kimg, device="cpu", announce=sys.stderr)

    def long(rows):
        (best,) = leaderboard_plan._best_of_64(rows, "long")
        return [tiny_job(group="long", name=best["name"], kimg=0.064, continues="64.one")]

    monkeypatch.setattr(leaderboard_jobs, "train_jobs", train)
    monkeypatch.setitem(leaderboard_plan.PLAN, "64", lambda rows: [tiny_job(), tiny_job(name="none", recipe="nothing")])
    monkeypatch.setitem(leaderboard_plan.PLAN, "long", long)
    command = ["--data", "phantoms:4", "--runs", str(runs), "--spaces", "random", "--samples", "16"]
    leaderboard.main([*command, "--groups", "64,long", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(each["group"], each["name"], each["kimg"]) for each in rows] == [
        ("64", "one", 0.032),
        ("long", "one", 0.064),
    ]
    assert rows[0]["adopted"]
    assert rows[0]["params_g"] > 0
    assert rows[0]["fid"] == rows[0]["figures"]["fid"]["value"]
    assert rows[0]["ssim_nearest_unseen"] > 0
    assert str(runs) not in json.dumps(rows)
    assert sorted(path.name for path in (runs / "pictures").iterdir()) == [
        "leaderboard-64.png",
        "leaderboard-long-one.png",
        "leaderboard-long.png",
        "leaderboard-one.png",
    ]
    assert trained == ["long.one"]
    monkeypatch.setattr("zoo.hub.load.LoadedGenerator.sample", lambda *_, **__: pytest.fail("sampled again"))
    monkeypatch.setattr("leaderboard_scores.draw_grid", lambda *_: None)
    leaderboard.main([*command, "--groups", "64,long"])
    assert trained == ["long.one"]
    leaderboard.main([*command, "--groups", "64,long", "--dry-run"])
    assert "64.one: done; 0.0 of 0.032 kimg" in capsys.readouterr().out
    monkeypatch.setattr(leaderboard_tables, "saved_rows", lambda: read_rows(runs / "results.jsonl"))
    text = leaderboard_tables.leaderboard("64", "long")
    assert "`one`, longer" in text
    assert "(unseen subjects)" in text
    assert leaderboard_tables.leaderboard("128").count("\n") == 2
