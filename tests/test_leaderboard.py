"""The leaderboard's pieces: budgets, adoption, continuation, ranking, rows and tables; on tiny nets and phantoms."""

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

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import budget
import leaderboard
import standings
import tables
import tutorial
from budget import Job, Kept

BENCHMARKS = Path(budget.__file__).parent
TINY = ("data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8")
BUSY = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nwhile True: pass"


def tiny(**how):
    return Job(**{"group": "64", "name": "one", "recipe": "dcgan-64", "overrides": TINY, "kimg": 0.032, **how})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one run of the tiny job."""
    out = tmp_path_factory.mktemp("runs")
    zoo.train("dcgan-64", data="phantoms:4", out=out, kimg=0.032, device="cpu", set=list(TINY))
    return out


@pytest.fixture
def runs(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def race(kept, monkeypatch, code):
    monkeypatch.setattr(Kept, "command", lambda *_: ["-c", code])
    monkeypatch.setattr(budget, "POLL", 0.02)
    budget.train([kept], data="phantoms:4", samples=2, side_by_side=2, say=lambda _: None)


def test_a_spent_budget_ends_the_process(tmp_path, monkeypatch):
    kept = Kept(tiny(core_seconds=0.3), tmp_path)
    race(kept, monkeypatch, BUSY)
    assert kept.facts["core_seconds"] >= 0.3
    assert kept.ended == "error"  # it made nothing
    assert "nothing to judge" not in budget.told(kept)
    assert "before there was anything to judge" in budget.told(kept)


def test_what_another_process_trains_is_told(runs):
    kept = Kept(tiny(kimg=1.0), runs)
    kept.write(run="dcgan-64-000", wall=7.0)
    assert budget.told(kept).startswith("64.one: stopped; ")
    with kept.run.claim():
        assert budget.told(kept).startswith("64.one: in training; ")


def test_a_job_goes_on_with_the_rest_of_its_budget(tmp_path, monkeypatch):
    Kept(tiny(core_seconds=100), tmp_path).write(core_seconds=99.8, wall=7.0)
    kept = Kept(tiny(core_seconds=100), tmp_path)
    race(kept, monkeypatch, BUSY)
    assert 100 <= kept.facts["core_seconds"] < 110
    assert kept.facts["wall"] >= 7


def test_children_of_a_job_count(tmp_path, monkeypatch):
    kept = Kept(tiny(core_seconds=0.3), tmp_path)
    race(kept, monkeypatch, f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])")
    assert kept.facts["core_seconds"] >= 0.3


def test_what_failed_says_its_last_line(tmp_path, monkeypatch):
    kept = Kept(tiny(), tmp_path)
    race(kept, monkeypatch, "import sys\nprint('zoo: it cannot be')\nsys.exit(2)")
    assert kept.ended == "error"
    assert Kept(tiny(), tmp_path).facts["error"] == "zoo: it cannot be"


def test_children_end_with_a_parent_that_was_killed(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import budget, os, subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', {BUSY!r}], preexec_fn=budget._end_with_parent)\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    for _ in range(1000):
        if not _alive(int(done.stdout)):
            return
        time.sleep(0.01)
    os.kill(int(done.stdout), signal.SIGKILL)
    pytest.fail("the child lives on")


def _alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_of_the_same_numbers_is_adopted(runs):
    (run,) = zoo.training.run_folder.find_runs(runs)
    digest = run.info["data_digest"]
    strangers = [
        tiny(overrides=(*TINY, "train.seed=1")),
        tiny(overrides=(*TINY, "ema.halflife_kimg=1")),
        tiny(kimg=0.016),
        tiny(recipe="lean-256"),
        tiny(wall=9.0),
    ]
    for job in strangers:
        assert Kept(job, runs).adopt(digest, set()) is None
    assert Kept(tiny(), runs).adopt("other images", set()) is None
    assert Kept(tiny(), runs).adopt(digest, {run.name}) is None
    kept = Kept(tiny(overrides=(*TINY, "train.log_kimg=3")), runs)
    assert kept.adopt(digest, set()).path == run.path
    assert kept.ended == "kimg"
    assert kept.facts["wall"] == run.rows()[-1]["time"]
    again = Kept(tiny(kimg=0.064), runs)
    assert again.run.path == run.path
    assert again.ended is None
    assert again.adopt(digest, set()) is None
    assert "--resume" in again.command("phantoms:4", 2)
    assert leaderboard.taken(runs) == {run.name}


def test_a_recipe_that_has_changed_begins_anew(runs):
    digest = zoo.training.run_folder.find_runs(runs)[0].info["data_digest"]
    kept = Kept(tiny(), runs)
    assert kept.renew() is None
    kept.adopt(digest, set())
    assert kept.renew() is None
    changed = Kept(tiny(overrides=(*TINY, "ema.halflife_kimg=1")), runs)
    assert changed.nimg == 32
    assert changed.outdated
    assert not kept.outdated
    assert "--resume" in changed.command("slices", 2)
    assert "--resume" not in changed.command("slices", 2, anew=True)  # what --dry-run tells of it
    assert changed.renew() == kept.folder.with_name("64.one-before-1")
    assert (changed.nimg, changed.facts["core_seconds"]) == (0, 0)
    assert changed.adopt(digest, set()) is None
    changed.write(run=zoo.training.run_folder.find_runs(runs)[0].name)
    assert changed.renew() == kept.folder.with_name("64.one-before-2")


def test_a_longer_run_is_a_copy_that_goes_on(runs):
    source = Kept(tiny(), runs)
    source.adopt(zoo.training.run_folder.find_runs(runs)[0].info["data_digest"], set())
    kept = Kept(tiny(group="long", kimg=0.064, continues="64.one"), runs)
    (kept.folder / ".copy").mkdir(parents=True)  # of a copy that was killed
    kept.copy(source)
    kept.copy(source)
    assert [found.name for found in zoo.training.run_folder.find_runs(kept.folder)] == ["dcgan-64-000"]
    assert kept.nimg == 32
    assert kept.facts["core_seconds"] == source.facts["core_seconds"] > 0
    assert kept.ended is None
    command = kept.command("phantoms:4", 2)
    assert command[command.index("--resume") + 1] == str(kept.run.path)
    zoo.train(resume=kept.run, kimg=0.064, device="cpu")
    assert Kept(kept.job, runs).ended == "kimg"
    assert source.nimg == 32


def row(name, fid, px=64, alarms=(), group="64", **more):
    plain = {"group": group, "name": name, "kind": "job", "error": None, "recipe": name, "overrides": [], "seed": 0}
    return {**plain, "px": px, "fid": fid, "alarms": list(alarms), **more}


def test_ranking():
    rows = [row("broken", None), row("collapsed", 5.0, alarms=[{"name": "collapse"}]), row("b", 20.0), row("a", 10.0)]
    rows.append(row("small", 15.0, px=28))
    assert [one["name"] for one in standings.ranking(rows)] == ["small", "a", "b", "collapsed", "broken"]
    assert [one["name"] for one in standings.best(rows, "64")] == ["a", "b", "collapsed"]
    assert [one["name"] for one in standings.best(rows, "64", ["b", "broken"])] == ["b"]


def test_the_plain_net_is_trained_on_as_many_images_as_the_winner():
    rows = [row("fastgan-64", 10.0, kimg=39.6), row("r3gan-64", 20.0, kimg=60.0)]
    rows += [row("fastgan-64", 5.0, group="long", kimg=131.2), row("r3gan-64", 6.0, group="long", kimg=200.0)]
    assert [(one.name, one.recipe, one.kimg, one.continues) for one in leaderboard.same(rows)] == [
        ("dcgan-64-at-40", "dcgan-64", 40.0, None),
        ("dcgan-64-at-131", "dcgan-64", 131.0, None),
    ]
    rows.append(row("dcgan-64", 140.0, kimg=100.0))
    assert [one.continues for one in leaderboard.same(rows)] == [None, "64.dcgan-64"]


def test_rows_take_the_places_of_their_jobs(tmp_path):
    path = tmp_path / "rows.jsonl"
    floor = {"group": "floors", "name": "black", "kind": "baseline"}
    standings.merge(path, [row("a", 1.0), row("b", 2.0), {**floor, "px": 28}, {**floor, "px": 64}])
    seeds = [row(f"a-{s}", 1.0, group="seeds", recipe="a", seed=s, overrides=[f"train.seed={s}"]) for s in (1, 2)]
    standings.merge(path, [row("a", 3.0), {**floor, "px": 28}, *seeds])
    found = standings.read(path)
    assert [(one["name"], one.get("fid")) for one in found[:4]] == [
        ("a", 3.0),
        ("b", 2.0),
        ("black", None),
        ("black", None),
    ]
    assert [one["note"] for one in found[:2]] == ["", "not yet proven"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--groups", "sedes"], "--groups sedes: is none (did you mean 'seeds'?)"),
        (["--groups", "64", "--names", "dcgan-46"], "--names dcgan-46: no such job (did you mean 'dcgan-64'?)"),
        (["--groups", "seeds"], "group seeds: goes by the figures of group 64"),
        (["--jobs", "0"], "--jobs: at least 1"),
    ],
)
def test_slips_are_told_in_a_line(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        leaderboard.main(["--data", "phantoms:4", "--runs", str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_the_tutorial_goes_on_and_has_the_recipes_layers(tmp_path):
    recipe = zoo.recipes.load_recipe("dcgan-64").parameters
    assert tutorial.trainable(tutorial.generator(64)) == recipe.generator
    assert tutorial.trainable(tutorial.discriminator(64)) == recipe.discriminator
    images = zoo.data.load("phantoms:4", zoo.core.config.DataConfig(resolution=64))
    first = tutorial.Tutorial(images, tmp_path, width=2, workers=0)
    first.step()
    first.save()
    again = tutorial.Tutorial(images, tmp_path, width=2, workers=0)
    assert again.nimg == 64
    again.step()
    again.write_fakes(3)
    assert np.load(tmp_path / "fakes.npz")["images"].shape == (3, 1, 64, 64)


def test_from_plan_to_tables(runs, monkeypatch, capsys):
    """Jobs are trained in this process, which is quicker; all else is as it is."""
    trained = []

    def train(jobs, **_):
        for kept in jobs:
            if kept.ended is None:
                trained.append(kept.job.key)
                zoo.train(resume=kept.run, kimg=kept.job.kimg, device="cpu", announce=sys.stderr)

    def long(rows):
        (best,) = leaderboard._best(rows, "long")
        return [tiny(group="long", name=best["name"], kimg=0.064, continues="64.one")]

    monkeypatch.setattr(budget, "train", train)
    monkeypatch.setitem(leaderboard.PLAN, "64", lambda rows: [tiny(), tiny(name="none", recipe="nothing")])
    monkeypatch.setitem(leaderboard.PLAN, "long", long)
    command = ["--data", "phantoms:4", "--runs", str(runs), "--spaces", "random", "--samples", "16"]
    leaderboard.main([*command, "--groups", "64,long", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(one["group"], one["name"], one["kimg"]) for one in rows] == [("64", "one", 0.032), ("long", "one", 0.064)]
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
    monkeypatch.setattr("judged.draw", lambda *_: None)
    leaderboard.main([*command, "--groups", "64,long"])
    assert trained == ["long.one"]
    leaderboard.main([*command, "--groups", "64,long", "--dry-run"])
    assert "64.one: done; 0.0 of 0.032 kimg" in capsys.readouterr().out
    monkeypatch.setattr(tables, "results", lambda _: standings.read(runs / "results.jsonl"))
    text = tables.TABLES["leaderboard"]()
    assert "`one`, longer" in text
    assert "(unseen subjects)" in text
    assert tables.TABLES["leaderboard_128"]().count("\n") == 2
