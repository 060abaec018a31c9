"""`zoo tune`: a number of a recipe multiplied, short runs, and what is written of them; tiny nets and phantoms."""

import json

import pytest
from PIL import Image

import zoo
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.training.sweep import best_factors, have_not_learned, tune

SET = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"]
R1 = [*SET, "penalties.r1.weight=[[0, 1], [1, 0.5]]"]
FLAGS = [part for text in R1 for part in ("--set", text)]
LR = {"param": "optimizer.generator.lr", "data": "phantoms:4", "device": "cpu", "set": SET}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("tune")
    command = ["tune", "dcgan-64", "--param", "penalties.r1.weight", "--factors", "0.25,4", "--kimg", "0.032", *FLAGS]
    return out, [*command, "--data", "phantoms:4", "--device", "cpu", "--out", str(out)]


def test_a_sweep_and_the_same_command_again(swept, monkeypatch, capsys):
    out, command = swept
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    folder = out / "dcgan-64-penalties.r1.weight"
    assert json.loads((folder / "tune.json").read_text()) == document
    first, second = document["rows"]
    assert (first["factor"], second["factor"]) == (0.25, 4)
    assert first["value"] == [[0, 0.25], [1, 0.125]]
    assert zoo.load_recipe(folder / "x4" / "dcgan-64-000" / "recipe.yaml").penalties["r1"].weight.at(0) == 4
    for row in document["rows"]:
        assert row["nimg"] == 32
        assert row["error"] is None
        for key in ("loss_d", "loss_g", "gap", "ssim_nearest", "ssim_nearest_unseen", "ssim_pairwise"):
            assert isinstance(row[key], float), key
        assert row["best"]["metric"] == "ssim"
    assert all(row in document["rows"] for row in best_factors(document))
    assert document["nearest_factors"] == []
    assert document["none_has_learned"] is True
    with Image.open(folder / "tune.png") as picture:
        assert picture.width > picture.height / 2 > 300
    monkeypatch.setattr("zoo.training.trainer.Trainer.step", lambda self: pytest.fail("trained again"))
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "penalties.r1.weight" in said
    assert "x0.25" in said
    assert "none has learned after 0.032 kimg: all are untrained" in said
    assert "SSIM distance from real" in said


def test_longer_goes_on_and_what_fails_stops_no_other(tmp_path, monkeypatch):
    from zoo.training.trainer import Trainer

    tune("dcgan-64", factors=[1], kimg=0.016, out=tmp_path, **LR)
    original, steps = Trainer.step, []

    def step(self):
        steps.append(self.nimg)
        if self.recipe.optimizer.generator.lr.at(0) > 1:
            raise MemoryError("no memory")
        original(self)

    monkeypatch.setattr(Trainer, "step", step)
    document = tune("dcgan-64", factors="1e5,1", kimg=0.032, out=tmp_path, **LR)
    broken, whole = document["rows"]
    assert broken["error"] == "MemoryError: no memory"
    assert steps == [0, 16, 24]
    assert whole["nimg"] == 32
    assert best_factors(document) == []  # 32 images teach nothing
    assert have_not_learned(document)


def test_rows_without_a_step_of_g_have_no_loss_of_it(tmp_path):
    """Of ten rows of one step each, G learns in two; medians are over those that there are."""
    more = ["train.d_steps=5", "train.log_kimg=0.008", "train.sample_kimg=0.08"]
    document = tune("dcgan-64", factors=[1], kimg=0.08, out=tmp_path, **LR | {"set": [*SET, *more]})
    log = zoo.Run(document["rows"][0]["run"]).rows()
    assert ["loss_g" in row for row in log] == (4 * [False] + [True]) * 2
    # A fifth of the rows: the last two.
    assert document["rows"][0]["loss_d"] == pytest.approx((log[8]["loss_d"] + log[9]["loss_d"]) / 2)
    assert document["rows"][0]["loss_g"] == log[9]["loss_g"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"param": "penalties.r1.wieght"}, r"dcgan-64 has no such number \(did you mean 'penalties.r1.weight'\?\)"),
        ({"param": "penalties.r2.weight"}, "has no such number"),
        ({"param": "loss.name"}, 'is "nonsaturating", not a number'),
        ({"param": "optimizer.generator.betas"}, r"is \[0.5, 0.999\], not a number"),
        ({"param": "penalties.r1"}, "is {.*, not a number"),
        ({"param": "loss.label_smoothing"}, "is 0, which no factor changes"),
        ({"param": "lr"}, "say which; dcgan-64 has optimizer.generator.lr and optimizer.discriminator.lr"),
        ({"param": "train.log_kimg"}, "does not change training"),
        ({"param": "train.kimg"}, "cannot be swept"),
        ({"param": "train.batch", "factors": "0.3"}, "train.batch: must be"),
        ({"factors": "1,x"}, "must be different numbers"),
        ({"factors": "1,1.0"}, "must be different numbers"),
        ({"factors": "-1"}, "must be different numbers"),
        ({"factors": ""}, "must be different numbers"),
        ({"factors": "nan"}, "must be different numbers"),
        ({"kimg": 0}, "--kimg 0: must be above 0"),
    ],
)
def test_slips_are_told_before_anything_is_trained(change, said, tmp_path):
    with pytest.raises(ZooError, match=said):
        tune("dcgan-64", **{"param": "penalties.r1.weight", "set": R1, "out": tmp_path / "tune", **change})
    assert not (tmp_path / "tune").exists()


@pytest.mark.parametrize(
    ("metric", "values", "alarmed", "best"),
    [
        ("ssim", (0.693, 0.694, 0.9), (), [1, 2]),  # less than seeds differ by
        ("ssim", (0.69, 0.60, 0.9), (), [2]),
        ("ssim", (0.2, 0.6, 0.9), (1,), [2]),  # a collapsed run is not the best
        ("ssim", (0.2, 0.6, 0.9), (1, 2, 3), [1]),
        ("fid", (100.0, 104.0, 120.0), (), [1, 2]),
        ("kid", (0.01, 0.02, 0.03), (), [1]),
    ],
)
def test_no_winner_within_the_noise_of_seeds(metric, values, alarmed, best):
    rows = [
        {
            "factor": factor,
            "error": None,
            "best": {"metric": metric, "value": value},
            "alarms": [{"name": "collapse"}] * (factor in alarmed),
        }
        for factor, value in enumerate(values, 1)
    ]
    assert [row["factor"] for row in best_factors({"rows": rows})] == best
    assert not have_not_learned({"rows": rows})
    rows[0]["best"] = {"metric": "other", "value": 0.0}
    assert best_factors({"rows": rows}) == []
    assert best_factors({"rows": []}) == []


@pytest.mark.parametrize(
    ("alarms", "best", "unlearned"),
    [
        (("untrained", "untrained", "untrained"), [], True),
        (("untrained", "collapse", "untrained"), [1], False),  # it has learned one image
        (("untrained", None, "collapse"), [1], False),
        ((None, "untrained", "untrained"), [0], False),
    ],
)
def test_an_untrained_run_is_never_the_best(alarms, best, unlearned):
    rows = [
        {
            "factor": factor,
            "error": None,
            "best": {"metric": "ssim", "value": 0.9 - factor / 10},
            "alarms": [{"name": name}] if name else [],
        }
        for factor, name in enumerate(alarms)
    ]
    document = {"rows": rows, "kimg": 1}
    assert [row["factor"] for row in best_factors(document)] == best
    assert have_not_learned(document) == unlearned


def test_exit_code(tmp_path, capsys):
    assert main(["tune", "dcgan-64", "--param", "nonsense", "--out", str(tmp_path / "tune")]) == 2
    assert "no such number" in capsys.readouterr().err
