"""`zoo bench` and `zoo report`, on tiny networks and phantoms, with a random feature extractor."""

import json
import shutil

import pytest

import zoo
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.core.options import EvaluationOptions, TrainOptions
from zoo.evaluation.bench import failed_rows, report

TINY = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"]
QUICK = {"metrics": ["fid", "ssim", "copies_ncc"], "extractors": ["random"], "num_samples": 24, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of two trained runs."""
    out = tmp_path_factory.mktemp("runs")
    for name in ("dcgan-64", "lean-256"):
        zoo.train(name, data="phantoms:4", out=out, kimg=0.032, device="cpu", set=TINY)
    return out


def test_runs_are_evaluated_with_baselines(runs, tmp_path):
    document = zoo.bench(runs=runs, out=tmp_path / "bench", **QUICK)
    (group,) = document["groups"]
    assert group["name"] == "16 x 16 grey"
    assert group["ranked_by"] == "fid"
    values = [row["figures"]["fid"]["value"] for row in group["rows"]]
    assert values == sorted(values)
    assert {row["name"] for row in group["rows"]} == {"dcgan-64-000", "lean-256-000"}
    assert group["baselines"][0]["name"] == "unseen subjects"
    cost = group["rows"][0]["cost"]
    for key in ("parameters_g", "macs_d", "checkpoint_bytes", "nimg", "sample_img_per_s", "train_img_per_s", "wall_s"):
        assert cost[key] > 0, key
    lines = [json.loads(line) for line in (tmp_path / "bench" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 2 + len(group["baselines"])
    for key in ("recipe_digest", "data_digest", "seeds", "versions", "weights_sha256"):
        assert lines[0][key], key
    assert "| dcgan-64-000 |" in (tmp_path / "bench" / "table.md").read_text()
    page = (tmp_path / "bench" / "report.html").read_text()
    assert "dcgan-64-000" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_finished_rows_are_not_evaluated_again(runs, tmp_path, monkeypatch):
    run = str(runs / "dcgan-64-000")
    first = zoo.bench([run], out=tmp_path / "bench", **QUICK)
    monkeypatch.setattr("zoo.hub.load.LoadedGenerator.sample", lambda *_, **__: pytest.fail("sampled again"))
    again = zoo.bench([run], out=tmp_path / "bench", evaluation=EvaluationOptions(**QUICK))
    assert again["groups"] == first["groups"]


def test_keywords_of_earlier_versions_warn(runs, tmp_path):
    old = {"metrics": ["ssim"], "spaces": ["random"], "samples": 4, "device": "cpu"}
    with (
        pytest.warns(DeprecationWarning, match=r"report\(spaces=...\) is called extractors now"),
        pytest.warns(DeprecationWarning, match=r"report\(samples=...\) is called num_samples now"),
    ):
        report(runs / "dcgan-64-000", out=tmp_path / "page.html", **old)
    with (
        pytest.warns(DeprecationWarning, match=r"bench\(train_kimg=...\) is called kimg now"),
        pytest.raises(ZooError, match="--kimg -1: must be above 0"),
    ):
        zoo.bench(["dcgan-64"], train_kimg=-1)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'num_sample'.*num_samples"):
        zoo.bench(["dcgan-64"], num_sample=4)


def test_recipes_are_trained_and_an_interrupted_bench_continues(tmp_path, monkeypatch):
    from zoo.training.trainer import Trainer

    call = {"data": "phantoms:4", "kimg": 0.024, "seeds": 2, "set": TINY, "out": tmp_path / "bench", **QUICK}
    original, steps = Trainer.step, []

    def step(self):
        steps.append(self)
        if len(steps) == 5:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        zoo.bench(["dcgan-64"], **call)
    monkeypatch.setattr(Trainer, "step", original)
    document = zoo.bench(["dcgan-64"], **call)
    assert sorted(run.name for run in (tmp_path / "bench" / "runs").iterdir()) == ["dcgan-64-000", "dcgan-64-001"]
    (row,) = document["groups"][0]["rows"]
    assert row["seeds"] == [0, 1]
    assert row["spread"]["fid"]["seeds"] == 2
    assert row["cost"]["nimg"] == 24
    monkeypatch.setattr(Trainer, "step", lambda self: pytest.fail("trained again"))
    assert zoo.bench(["dcgan-64"], **call)["groups"][0]["rows"][0]["figures"] == row["figures"]


def test_longer_unfinished_run_is_not_continued(tmp_path, monkeypatch):
    from zoo.training.trainer import Trainer

    call = {"data": "phantoms:4", "out": tmp_path / "bench", **QUICK}
    settings = [*TINY, "train.checkpoint_kimg=0.016"]
    original = Trainer.step

    limit = 48

    def step(self):
        if self.nimg >= limit:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        zoo.bench(["dcgan-64"], kimg=0.08, set=settings, **call)
    document = zoo.bench(["dcgan-64"], kimg=0.0160001, set=settings, **call)
    assert document["groups"][0]["rows"][0]["cost"]["nimg"] == 16
    zoo.bench(["dcgan-64"], kimg=0.0160001, set=settings, **call)
    assert len(list((tmp_path / "bench" / "runs").iterdir())) == 2
    limit = 24
    with pytest.raises(KeyboardInterrupt):
        zoo.bench(["dcgan-64"], kimg=0.032, set=settings, **call)
    limit = 48
    zoo.bench(["dcgan-64"], kimg=0.032, set=settings, **call)  # continues the one of 24 images
    assert len(list((tmp_path / "bench" / "runs").iterdir())) == 3


def test_a_shorter_training_does_not_finish_a_longer_one(tmp_path, monkeypatch):
    from zoo.training.trainer import Trainer

    settings = {"data": "phantoms:4", "out": tmp_path, "device": "cpu", "set": [*TINY, "train.checkpoint_kimg=0.016"]}
    original = Trainer.step

    def step(self):
        if self.nimg >= 48:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        zoo.train("dcgan-64", kimg=0.08, **settings)
    short = zoo.train("dcgan-64", kimg=0.016, **settings)
    assert (short.name, short.info["nimg"]) == ("dcgan-64-001", 16)
    monkeypatch.setattr(Trainer, "step", original)
    longer = zoo.train("dcgan-64", kimg=0.08, **settings)  # the unfinished one, which is still called so
    assert (longer.name, longer.info["nimg"]) == ("dcgan-64-000", 80)


def test_recipes_of_one_name_are_not_merged_as_seeds(tmp_path):
    for name, rate in (("a", "1e-4"), ("b", "2e-4")):
        recipe = zoo.load_recipe("dcgan-64", [*TINY, f"optimizer.generator.lr={rate}"])
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.yaml").write_text(recipe.to_yaml())
    targets = [str(tmp_path / name / "mine.yaml") for name in ("a", "b", "a")]
    document = zoo.bench(targets, data="phantoms:4", kimg=0.008, out=tmp_path / "bench", **QUICK)
    rows = document["groups"][0]["rows"]
    assert len(rows) == len({row["name"] for row in rows}) == 2
    assert all(row["seeds"] == [0] for row in rows)


def test_failed_seed_is_listed_in_the_row_of_the_others(tmp_path, monkeypatch):
    from zoo.evaluation.bench import train

    devices = []

    def sometimes(recipe, *, options, **arguments):
        devices.append(options.device)
        if recipe.train.seed == 1:
            raise ZooError("diverged, say")
        return train(recipe, options=options, **arguments)

    monkeypatch.setattr("zoo.evaluation.bench.train", sometimes)
    training = TrainOptions(data="phantoms:4", kimg=0.008, set=TINY)
    evaluation = EvaluationOptions(**QUICK)
    document = zoo.bench(["dcgan-64"], training=training, evaluation=evaluation, seeds=3, out=tmp_path / "bench")
    (row,) = document["groups"][0]["rows"]
    assert row["seeds"] == [0, 2]
    assert row["failed"] == ["diverged, say"]
    assert failed_rows(document) == ["dcgan-64: a training seed failed: diverged, say"]
    assert devices == ["cpu"] * 3  # that of the evaluation


def test_file_without_run_needs_data(runs, tmp_path):
    lone = shutil.copy(runs / "dcgan-64-000" / "generator.safetensors", tmp_path / "lone.safetensors")
    with pytest.raises(ZooError, match=r"lone: the files do not say what images they were trained on\. Give --data"):
        zoo.bench([lone], out=tmp_path / "bench", **QUICK)
    document = zoo.bench([lone, str(runs / "lean-256-000")], out=tmp_path / "bench", **QUICK)
    assert failed_rows(document) == []
    assert "4 subjects" in document["groups"][0]["data"]["description"]


def test_damaged_results_are_measured_again(runs, tmp_path):
    call = {"out": tmp_path / "bench", **QUICK}
    first = zoo.bench([str(runs / "dcgan-64-000")], **call)
    for path in (tmp_path / "bench" / "judged").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:1000])
    again = zoo.bench([str(runs / "dcgan-64-000")], **call)
    rows = [document["groups"][0]["rows"][0]["figures"] for document in (first, again)]
    assert rows[0] == rows[1]


def test_damaged_runs_do_not_stop_the_others(runs, tmp_path, capsys):
    for name in ("damaged", "other", "empty"):
        shutil.copytree(runs / "dcgan-64-000", tmp_path / name)
    weights = tmp_path / "damaged" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3] + b"abc")
    info = json.loads((tmp_path / "other" / "run.json").read_text())
    (tmp_path / "other" / "run.json").write_text(json.dumps(info | {"data_digest": "x", "data": "phantoms:5"}))
    (tmp_path / "empty" / "generator.safetensors").unlink()
    targets = [str(tmp_path / name) for name in ("damaged", "other", "empty")]
    arguments = ["bench", *targets, str(runs / "lean-256-000"), "--out", str(tmp_path / "bench"), "--samples", "24"]
    arguments += ["--data", "phantoms:4", "--spaces", "random", "--metrics", "fid,ssim_nearest", "--json"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    rows = {row["name"]: row for row in document["groups"][0]["rows"]}
    assert rows["lean-256-000"]["figures"]["fid"]["value"] > 0
    assert "wrong hash" in rows["damaged"]["error"]
    assert "other images" in rows["other"]["error"]
    assert "no generator.safetensors yet" in rows["empty"]["error"]
    assert len(failed_rows(document)) == 3
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_lack_of_memory_does_not_stop_the_others(runs, tmp_path, monkeypatch, error):
    from zoo.hub.load import LoadedGenerator

    original = LoadedGenerator.sample

    def sample(self, *arguments, **settings):
        if self.recipe.name == "lean-256":
            raise error
        return original(self, *arguments, **settings)

    monkeypatch.setattr(LoadedGenerator, "sample", sample)
    document = zoo.bench(runs=runs, out=tmp_path / "bench", **QUICK)
    (line,) = failed_rows(document)
    assert line.startswith(f"lean-256-000: {type(error).__name__}")
    assert document["groups"][0]["rows"][0]["figures"]["fid"]["value"] > 0


def test_runs_are_evaluated_against_their_own_images(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", "phantoms:7")
    document = zoo.bench(runs=runs, out=tmp_path / "bench", **QUICK)
    assert failed_rows(document) == []
    assert document["groups"][0]["data"]["description"].startswith("phantoms of 4 ")


def test_sizes_are_ranked_separately(runs, tmp_path, capsys):
    small = zoo.train("multires-28", data="phantoms:4", out=tmp_path, kimg=0.008, device="cpu", set=[
        "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"
    ])  # fmt: skip
    document = zoo.bench([str(runs / "dcgan-64-000"), str(small.path)], out=tmp_path / "bench", **QUICK)
    assert [group["name"] for group in document["groups"]] == ["16 x 16 grey", "28 x 28 grey"]
    assert "different sizes do not compare" in capsys.readouterr().err


def test_data_sets_are_ranked_separately(runs, tmp_path, capsys):
    # Two sets of equal descriptions but other images, and a part of the first, which is compared with the whole.
    for number, (data, more) in enumerate((("phantoms:5", []), ("phantoms:4", ["data.holdout=0"]), ("phantoms:5", []))):
        zoo.train("dcgan-64", data=data, out=tmp_path / str(number), kimg=0.008, device="cpu", set=[*TINY, *more])
    targets = [str(runs / "dcgan-64-000"), *(str(tmp_path / str(number) / "dcgan-64-000") for number in range(3))]
    assert main(["bench", *targets, str(runs / "lean-256-000"), "--out", str(tmp_path / "bench"), "--samples", "24",
        "--spaces", "random", "--metrics", "fid", "--no-reals"]) == 0  # fmt: skip
    captured = capsys.readouterr()
    assert "broken" not in captured.out
    assert captured.err.count("different data sets do not compare") == 1
    lines = [json.loads(line) for line in (tmp_path / "bench" / "results.jsonl").read_text().splitlines()]
    groups = {}
    for line in lines:
        if line["kind"] == "run":
            groups.setdefault(line["group"], []).append(line["name"])
    assert [len(names) for names in groups.values()] == [2, 2, 1]
    first, second, third = groups
    assert second == "16 x 16 grey (phantoms of 5 subjects)"
    assert first.startswith("16 x 16 grey (phantoms of 4 subjects, ")
    assert third.startswith("16 x 16 grey (phantoms of 4 subjects, ")
    assert len({first, third}) == 2


def test_run_trained_on_heldout_images_is_refused(runs, tmp_path):
    zoo.train("dcgan-64", data="phantoms:4", out=tmp_path, kimg=0.008, device="cpu", set=[*TINY, "data.holdout=0"])
    document = zoo.bench(
        [str(runs / "dcgan-64-000"), str(tmp_path / "dcgan-64-000")], data="phantoms:4", out=tmp_path / "b", **QUICK
    )
    (line,) = failed_rows(document)
    assert "has seen 32 of the held-out images" in line
    assert str(tmp_path) in line  # two of one name go by their paths


def test_report_of_one_run(runs, tmp_path):
    page = report(runs / "lean-256-000", out=tmp_path / "page.html", no_reals=True, **QUICK)
    assert page == tmp_path / "page.html"
    assert "lean-256-000" in page.read_text()
    with pytest.raises(ZooError, match="no run or file 'lean-257'"):
        report("lean-257", runs=runs, **QUICK)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "no run, file or recipe 'nonsense'"),
        (["dcgan-46"], "did you mean 'dcgan-64'?"),
        (["dcgan-64", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["dcgan-64", "--train-kimg", "-1"], "--kimg -1: must be above 0"),
        (["dcgan-64", "--samples", "1"], "--samples 1: must be at least 2"),
        (["dcgan-64", "--set", "data.resolutoin=16"], "did you mean 'resolution'?"),
        (["dcgan-64", "--data", "/nowhere"], "there is no 'nowhere'"),
        (["dcgan-64", "--metrics", "ssmi"], "did you mean 'ssim'?"),
        (["dcgan-64", "lean-265"], "did you mean 'lean-256'?"),
        (["dcgan-64", "--set", "train.seed=3"], "--set train.seed: is set by the benchmark. Use --seeds K"),
        (["dcgan-64", "--data", "phantoms:2", "--out", "/proc/nowhere"], "/proc/nowhere: cannot be written"),
    ],
)
def test_bad_input_is_one_line(arguments, line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--metrics" not in arguments:
        arguments = [*arguments, "--metrics", "ssim"]
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert [text.startswith("zoo") for text in err.strip().splitlines()].count(True) == 1
    assert not (tmp_path / "bench").exists()
