"""The command line: output, files, exit codes, and one line for each error that a user can fix."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.cli.main import build_parser, main
from zoo.cli.options import call_keywords
from zoo.cli.signals import StopOnSignals
from zoo.core.files import temporary_suffix
from zoo.core.measurements import load_measurements
from zoo.core.options import EvaluationOptions, TrainOptions

TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
CADENCES = ["train.log_kimg=0.016", "train.sample_kimg=0.04", "train.checkpoint_kimg=0.04"]
SET = [word for text in (*TINY, *CADENCES) for word in ("--set", text)]


def call(capsys, *arguments):
    """Run a command; return exit code, stdout, stderr."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    return code, out, err


def train(capsys, out, *more):
    return call(capsys, "train", "dcgan-64", "--data", "phantoms:2", "--out", out, "--device", "cpu", *SET, *more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, trained once."""
    out = tmp_path_factory.mktemp("trained")
    command = ["train", "dcgan-64", "--data", "phantoms:2", "--out", str(out), "--device", "cpu", "--kimg", "0.08"]
    assert main([*command, *SET]) == 0
    return out / "dcgan-64-000"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name))


def test_arguments_become_options_and_keywords():
    parsed = build_parser().parse_args(["report", "x", "--samples", "5", "--spaces", "random", "--json"])
    assert call_keywords(parsed, evaluation=EvaluationOptions) == {
        "target": "x",
        "out": None,
        "runs": "runs",
        "no_reals": False,
        "evaluation": EvaluationOptions(extractors=["random"], num_samples=5),
    }
    parsed = build_parser().parse_args(["train", "dcgan-64", "--kimg", "2", "--set", "train.batch=8", "--new"])
    keywords = call_keywords(parsed, options=TrainOptions)
    assert keywords["options"] == TrainOptions(kimg=2.0, set=["train.batch=8"], new=True)
    assert keywords["recipe"] == "dcgan-64"


def test_list(capsys):
    measured = load_measurements()
    for arguments, expected in (
        (["list"], {run.recipe for run in measured.runs} | {*measured.start_here.values()}),
        (["list", "--all"], set(zoo.list_models())),
        (["list", "dcgan*"], set(zoo.list_models("dcgan*"))),
    ):
        code, out, _ = call(capsys, *arguments)
        assert code == 0
        assert max(map(len, out.splitlines())) <= 100
        lines = [line.split() for line in out.splitlines()]
        assert {line[0] for line in lines if line} & set(zoo.list_models()) == expected
    starts = [line.split()[0] for line in call(capsys, "list")[1].splitlines() if "start here" in line]
    assert starts == [measured.start_here[size] for size in (28, 64, 128, 256)]
    code, out, _ = call(capsys, "list", "--json")
    assert [row["name"] for row in json.loads(out)] == zoo.list_models()
    assert [*json.loads(out)[0]] == [
        "name",
        "arch",
        "resolution",
        "channels",
        "latent",
        "params_g",
        "params_d",
        "source",
        "start_here",
        "measured",
        "heldout_fid",
    ]
    listed = {row["name"]: row for row in json.loads(out)}
    assert {name for name, row in listed.items() if row["start_here"]} == {*starts}
    best = measured.best_run("fastgan-r3-64")
    assert listed["fastgan-r3-64"]["measured"] == json.loads(json.dumps(dataclasses.asdict(best)))
    assert listed["fastgan-r3-64"]["heldout_fid"] == measured.heldout_fid[64]
    assert listed["r3gan-256-full"]["measured"] is None
    code, out, _ = call(capsys, "list", "multires-*", "--json")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == zoo.list_models("multires-*")
    assert {"name", "resolution", "channels", "latent", "params_g", "params_d"} <= rows[0].keys()
    code, _, err = call(capsys, "list", "dcgam-64")
    assert (code, err) == (2, "zoo: no recipe matches 'dcgam-64' (did you mean 'dcgan-64'?)\n")


def commands(parser):
    """Every command's parser, by its words."""
    for action in parser._actions:
        for name, child in (action.choices or {}).items() if isinstance(action.choices, dict) else ():
            yield from [(name, child)] if not child._subparsers else ((f"{name} {n}", c) for n, c in commands(child))


def test_help_lists_groups_and_every_command_has_an_example(capsys):
    code, out, _ = call(capsys)
    assert code == 0
    assert out == call(capsys, "--help")[1]
    places = [out.index(f"\n{title}:\n") for title in ("train", "look", "use", "share")]
    assert places == sorted(places)
    names = []
    for name, parser in commands(build_parser()):
        assert f"\n  {name.split()[0]} " in out
        names.append(name)
        text = parser.format_help()
        (example,) = re.findall(r"^example: zoo (.*)$", text, re.MULTILINE)
        assert example.startswith(name)
        assert build_parser().parse_args(shlex.split(example)).parser.prog == f"zoo {name}"
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"
            if action.option_strings and isinstance(action.default, int | float | str) and action.nargs != 0:
                assert f"(default: {action.default})" in " ".join(text.split()), f"{name} {action.dest}"
    assert len(names) == 18


def test_both_spellings_of_licence():
    for flag in ("--licence", "--license"):
        assert build_parser().parse_args(["publish", "x", "--to", "y", flag, "MIT"]).licence == "MIT"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("zoo trai", {"train"}),
        ("zoo train fastgan-r3-1", {"fastgan-r3-128"}),
        ("zoo train dcgan-64 --epo", {"--epochs"}),
        ("zoo sample fastgan-r3-64-", {"fastgan-r3-64-cpu", "fastgan-r3-64-packed", "fastgan-r3-64-varied"}),
    ],
)
def test_a_shell_can_complete_a_line(line, expected, tmp_path):
    pytest.importorskip("argcomplete")
    out = tmp_path / "completions"
    environment = os.environ | {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line}
    environment |= {"COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    subprocess.run([sys.executable, "-m", "zoo"], env=environment, cwd=tmp_path, check=False)
    assert {word.strip() for word in out.read_text().splitlines()} == expected


@pytest.mark.parametrize(
    ("text", "kimg"), [("40", 40), ("0.5", 0.5), ("40k", 40), ("40K", 40), ("1.2M", 1200), ("1e2", 100)]
)
def test_kimg_may_be_given_in_images(text, kimg):
    for command in (["train", "dcgan-64"], ["bench", "dcgan-64"], ["tune", "dcgan-64", "--param", "x"]):
        assert build_parser().parse_args([*command, "--kimg", text]).kimg == pytest.approx(kimg)
    assert build_parser().parse_args(["bench", "--train-kimg", text]).kimg == pytest.approx(kimg)


def test_show(capsys):
    code, out, _ = call(capsys, "show", "lean-256", "--set", "train.batch=2")
    assert code == 0
    assert "batch: 2" in out
    assert "256 x 256 x 256" not in out
    assert "64 x 256 x 256" in out
    assert "69,113,408" in out
    shown = json.loads(call(capsys, "show", "lean-256", "--json")[1])
    assert shown["generator"]["parameters"] == 69113408
    assert shown["generator"]["macs"] / 1e9 == pytest.approx(7.9, abs=0.05)  # the originals' own count
    assert shown["recipe"]["train"]["batch"] == 10


@pytest.mark.parametrize(
    ("name", "g", "d"),
    [
        ("dcgan-256", 1.38, 0.92),
        ("lean-256", 7.9, 0.28),
        ("dcgan-128", 2.2, 2.2),
        ("stylegan-256", 103.2, 2.4),  # 114.5 with the dense layers of the noise at every pixel, which are folded here
        ("multires-28", 0.05, 0.01),
        ("multires-64", 0.21, 0.11),
        ("multires-128", 1.06, 0.64),
        ("multires-256", 20.2, 3.4),
    ],
)
def test_multiply_adds_match_the_originals(name, g, d):
    from zoo.recipes import summarise_recipe

    generator, discriminator = summarise_recipe(zoo.load_recipe(name))
    assert generator.macs / 1e9 == pytest.approx(g, rel=0.025, abs=0.005)
    assert discriminator.macs / 1e9 == pytest.approx(d, rel=0.025, abs=0.005)


@pytest.mark.parametrize("name", ["dcgan-64", "stylegan2-64", "r3gan-64", "fastgan-64", "projected-64"])
def test_layer_table_adds_up(name):
    from zoo.recipes import summarise_recipe

    for network in summarise_recipe(zoo.load_recipe(name)):
        assert sum(layer.parameters for layer in network.layers) == network.parameters
        assert 0.9 * network.macs < sum(layer.macs for layer in network.layers) <= network.macs  # blurs are no layers


def test_train_writes_a_complete_run_folder(run, capsys):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files == {
        "recipe.yaml",
        "run.json",
        "log.jsonl",
        "samples/reals.png",
        "samples/fakes_init.png",
        "samples/fakes-000000.040.png",
        "samples/fakes-000000.080.png",
        "training.gif",
        "losses.png",
        "d_accuracy.png",
        "ssim.png",
        "generator-best.safetensors",
        "generator.safetensors",
        "state/lock",
        "state/nimg-000000000040.pt",
        "state/nimg-000000000040.pt.sha256",
        "state/nimg-000000000080.pt",
        "state/nimg-000000000080.pt.sha256",
    }
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    keys = {
        "nimg",
        "loss_d",
        "loss_g",
        "d_real",
        "d_fake",
        "d_acc_real",
        "d_acc_fake",
        "img_per_s",
        "data_wait_s",
        "time",
    }
    assert all(keys <= row.keys() for row in rows)
    assert [row["nimg"] for row in rows] == [16, 32, 40, 48, 64, 80]
    validated = [row for row in rows if "ssim_nearest" in row]
    assert [row["nimg"] for row in validated] == [40, 80]
    assert "7x7" in validated[0]["ssim_definition"]
    assert zoo.load_recipe(run / "recipe.yaml").train.kimg == 0.08
    with Image.open(run / "training.gif") as animation:
        assert animation.n_frames >= 2
    from safetensors import safe_open

    with safe_open(run / "generator.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["nimg"] == "80"
    assert json.loads(metadata["recipe"])["name"] == "dcgan-64"
    assert metadata["torch"]


def test_train_prints_data_and_output_paths(tmp_path, capsys):
    code, out, err = train(capsys, tmp_path, "--kimg", "0.016")
    assert code == 0
    assert "training.gif" in out
    assert "phantoms of 2 subjects" in err


def test_train_without_data_says_that_it_uses_phantoms(tmp_path, capsys, monkeypatch):
    blank = np.zeros((32, 16, 16), np.uint8)
    monkeypatch.setattr("zoo.data.phantoms.phantom_subject", lambda *arguments: blank)  # 64 subjects take a while
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    _, _, err = call(capsys, "train", "dcgan-64", "--out", tmp_path / "runs", "--kimg", "0.016", *SET)
    assert "no --data (or ZOO_DATA): training on built-in phantom brains" in err


def test_train_json_is_one_document_and_resume_announces_itself(run, capsys):
    code, out, _ = call(capsys, "train", "--resume", run, "--kimg", "0.12", "--json")
    document = json.loads(out)
    assert (code, document["nimg"], document["status"]) == (0, 120, "finished")
    assert document["last"]["nimg"] == 120
    code, out, err = call(capsys, "train", "--resume", run)
    assert out.splitlines()[0] == f"resuming {run} at nimg 120"
    assert "is finished; --kimg M beyond 0.12 extends it" in err


def test_same_command_after_a_finished_run_starts_a_new_one(run, capsys):
    assert train(capsys, run.parent, "--kimg", "0.08")[0] == 0
    assert sorted(path.name for path in run.parent.iterdir()) == ["dcgan-64-000", "dcgan-64-001"]


def test_extending_equals_training_longer(capsys, tmp_path):
    """Weights and rows are equal, except for one more row where the shorter run ended between two rows."""
    from zoo.training import checkpoint

    short, long = tmp_path / "short" / "dcgan-64-000", tmp_path / "long" / "dcgan-64-000"
    train(capsys, tmp_path / "short", "--kimg", "0.072")
    call(capsys, "train", "--resume", short, "--kimg", "0.16")
    train(capsys, tmp_path / "long", "--kimg", "0.16")
    a, b = (
        checkpoint.load_checkpoint(checkpoint.newest_checkpoint(path / "state"))["trainer"]["generator"]
        for path in (short, long)
    )
    assert all((a[name] == b[name]).all() for name in a)
    rows = [{row["nimg"]: row["loss_d"] for row in zoo.Run(path).rows()} for path in (short, long)]
    assert rows[0].pop(72)
    assert rows[0] == rows[1]


def test_resume_uses_its_own_data_despite_zoo_data(run, capsys, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", "phantoms:3")
    assert call(capsys, "train", "--resume", run, "--kimg", "0.12")[0] == 0


def test_same_command_finishes_a_run_killed_at_its_end(run, capsys):
    zoo.Run(run).write_info(status="running")
    (run / "training.gif").unlink()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    of_the_dead = temporary_suffix().replace(f"-{os.getpid()}.", f"-{process.pid}.")
    leftover, in_use = (run / "state" / f".nimg-000000000080.pt{end}" for end in (of_the_dead, temporary_suffix()))
    leftover.touch()
    in_use.touch()  # another command writes there at the moment
    code, out, _ = train(capsys, run.parent, "--kimg", "0.08")
    assert code == 0
    assert out.startswith(f"resuming {run} at nimg 80\n")
    assert zoo.Run(run).info["status"] == "finished"
    assert (run / "training.gif").is_file()
    assert not leftover.exists()
    assert in_use.exists()
    assert len(list(run.parent.iterdir())) == 1


def test_resume_with_fewer_kimg_changes_nothing(run, capsys):
    before = (run / "recipe.yaml").read_text()
    assert call(capsys, "train", "--resume", run, "--kimg", "0.01")[0] == 0
    assert (run / "recipe.yaml").read_text() == before


@pytest.mark.slow
def test_deterministic_resume_is_exact_and_prints_no_warning(tmp_path, capsys):
    train(capsys, tmp_path, "--kimg", "0.04", "--deterministic")
    _, _, err = call(capsys, "train", "--resume", tmp_path / "dcgan-64-000", "--kimg", "0.08", "--deterministic")
    assert "not bit-exact" not in err
    _, _, err = call(capsys, "train", "--resume", tmp_path / "dcgan-64-000", "--kimg", "0.12")
    assert "not bit-exact: deterministic True -> False" in err


def test_damaged_run_json_is_an_error(run, capsys):
    (run / "run.json").write_text("{}")
    code, _, err = call(capsys, "train", "--resume", run)
    assert code == 2
    assert "run.json: is damaged" in err
    assert call(capsys, "runs", run.parent)[0] == 0


def test_profile_prints_step_parts_and_writes_nothing(capsys, tmp_path, monkeypatch):
    from zoo.training.profiling import profiler

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profiler, "WARMUP_PERIODS", 1)
    original = profiler.profile_steps
    monkeypatch.setattr(profiler, "profile_steps", lambda trainer, seconds: original(trainer, 0.05))
    small = [word for text in ("data.resolution=16", "train.batch=4") for word in ("--set", text)]
    arguments = ["train", "dcgan-64", "--data", "phantoms:2", "--device", "cpu", "--profile", *small]
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    for words in ("D forward and backward", "optimisers", "average of weights", "without timers:", "roofline:", "GB/s"):
        assert words in out
    code, out, _ = call(capsys, *arguments, "--json")
    document = json.loads(out)
    assert document["parts"].keys() >= {"data", "fakes", "D", "G", "optimiser", "ema", "logging"}
    assert 0 < document["share_of_floor"] < 1
    assert list(tmp_path.iterdir()) == []
    for flag in ("--new", "--tensorboard"):
        code, _, err = call(capsys, *arguments, flag)
        assert code == 2
        assert "--profile takes a recipe, and none of --resume, --new, --kimg, --epochs, --hours, " in err


def test_resume_reports_why_it_is_not_bit_exact(run, capsys):
    _, _, err = call(capsys, "train", "--resume", run, "--kimg", "0.12", "--precision", "bf16")
    assert "not bit-exact: precision fp32 -> bf16" in err


def test_only_one_process_trains_a_run(run, capsys):
    with zoo.Run(run).claim():
        code, _, err = call(capsys, "train", "--resume", run, "--kimg", "1")
        assert code == 2
        assert "another process is training it" in err


def test_tensorboard(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    assert train(capsys, tmp_path, "--kimg", "0.016", "--tensorboard")[0] == 0
    assert list((tmp_path / "dcgan-64-000" / "tensorboard").glob("events*"))


def test_runs(run, capsys):
    code, out, _ = call(capsys, "runs", run.parent)
    assert code == 0
    assert "dcgan-64-000" in out
    assert "finished" in out
    (row,) = json.loads(call(capsys, "runs", run.parent, "--json")[1])
    assert (row["status"], row["nimg"], row["recipe"]) == ("finished", 80, "dcgan-64")
    assert row["last"]["nimg"] == 80
    assert row["last"]["ssim_nearest"] is not None
    with (run / "log.jsonl").open("a") as file:  # a row without a validation: only its SSIM is an earlier one's
        file.write(json.dumps({"nimg": 96, "loss_d": 0.125, "time": 7200.0}) + "\n")
    (later,) = json.loads(call(capsys, "runs", run.parent, "--json")[1])
    assert later["last"] == row["last"] | {"nimg": 96, "loss_d": 0.125, "time": 7200.0}
    assert "0.125" in call(capsys, "runs", run.parent)[1]
    (run / "run.json").write_text("{")
    assert call(capsys, "runs", run.parent)[0] == 0


def test_sample_and_interpolate(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "sample", run, "-n", "4", "--seed", "7")
    assert code == 0
    assert (tmp_path / "dcgan-64-000-samples.png").is_file()
    document = json.loads(call(capsys, "sample", run, "-n", 4, "--out", tmp_path / "x.npz", "--json")[1])
    assert document["n"] == 4
    with np.load(tmp_path / "x.npz") as file:
        assert np.array_equal(file["images"], zoo.load_generator(run).sample(4).numpy())
    assert call(capsys, "sample", run, "-n", 3, "--out", tmp_path / "folder")[0] == 0
    assert len(list((tmp_path / "folder").iterdir())) == 3
    assert call(capsys, "sample", run, "-n", 3, "--out", tmp_path / "folder", "--seed", "1")[0] == 0  # the same names
    for count in (2, 11):  # some of the old ones would stay, as if they were of this generator
        with monkeypatch.context() as patch:  # refused before anything is sampled
            patch.delattr(zoo.LoadedGenerator, "sample")
            code, _, err = call(capsys, "sample", run, "-n", count, "--out", tmp_path / "folder")
        assert (code, "which would be mixed with the new images" in err) == (2, True)
        assert len(list((tmp_path / "folder").iterdir())) == 3
    monkeypatch.chdir(run)
    assert call(capsys, "sample", ".", "-n", 2)[0] == 0
    (run / "dcgan-64-000-samples.png").unlink()
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "sample", run, "--truncation", "0.5")
    assert (code, "has no styles" in err) == (2, True)
    code, out, _ = call(capsys, "interpolate", run, "--out", tmp_path / "walk.gif", "-n", 2, "--frames", 3)
    assert code == 0
    assert "15 frames" in out


def test_python_train_matches_the_command(tmp_path, capsys):
    run = zoo.train("dcgan-64", data="phantoms:2", out=tmp_path, kimg=0.016, device="cpu", set=TINY, train__seed=5)
    assert run.path == tmp_path / "dcgan-64-000"
    assert zoo.load_recipe(run.recipe_file).train.seed == 5
    assert run.info["nimg"] == run.rows()[-1]["nimg"] == 16


BAD = [
    (["train", "dcgan-65"], ["no recipe 'dcgan-65'", "did you mean 'dcgan-64'"]),
    (["train"], ["Give a recipe's name"]),
    (["train", "dcgan-64", "--resume", "x"], ["not both"]),
    (["train", "--resume", "nowhere"], ["no run 'nowhere'; there are no runs in runs"]),
    (["train", "--resume", "."], ["is not a run"]),
    (["train", "dcgan-64", "--data", "nowhere"], ["nowhere"]),
    (["train", "dcgan-64", "--data", "empty"], ["empty", "no images"]),
    (["train", "dcgan-64", "--data", "phantoms:none"], ["phantoms"]),
    (["train", "dcgan-64", "--device", "tpu"], ["--device tpu: not on this machine"]),
    (["train", "dcgan-64", "--kimg", "0"], ["train.kimg", "at least 0.001"]),
    (["train", "dcgan-64", "--data", "phantoms:1"], ["fewer than a batch"]),
    (["train", "dcgan-64", "--data", "phantoms:2", "--set", "data.holdout=0", "--out", "file"], ["file", "run folder"]),
    (["show", "dcgan-64", "--set", "train.batch"], ["KEY=VALUE"]),
    (["sample", "nowhere/x.safetensors"], ["no run or file"]),
    (["sample", "dcgan-128"], ["No trained weights for 'dcgan-128' in runs/ or among the pretrained models"]),
    (["sample", "dcgan-64", "-n", "0"], ["at least 1"]),
    (["interpolate", "dcgan-64", "--frames", "0"], ["--frames 0: must be at least 1"]),
    (["runs", "nowhere"], ["no folder nowhere"]),
    (["trian"], ["unknown value 'trian'", "did you mean 'train'", "Choose from train, tune"]),
    (["train", "dcgan-64", "--precision", "fp16"], ["argument --precision: unknown value 'fp16'", "auto, fp32, bf16"]),
    (["compare", "a", "b", "--channels", "2"], ["argument --channels: unknown value '2'", "Choose from 1, 3"]),
    (["data"], ["zoo data: ", "required"]),
    (["train", "dcgan-64", "--precison", "bf16"], ["unknown argument --precison", "did you mean '--precision'"]),
    (["train", "dcgan-64", "--device", "cpu:abc"], ["--device cpu:abc: not on this machine"]),
    (
        ["train", "multires-28", "--data", "phantoms:2", "--set", "train.batch=1"],
        ["train.batch: the generator normalises over the batch"],
    ),
    (["data", "check", "phantoms:1", "--resolution", "0"], ["--resolution 0: must be at least 1"]),
    (["train", "dcgan-64", "--kimg", "inf"], ["train.kimg", "finite"]),
    (["train", "dcgan-64", "--set", "optimizer.generator.lr=-1"], ["optimizer.generator.lr", "at least 0"]),
    (["train", "dcgan-64", "--set", "optimizer.generator.betas=[0.5, 1.0]"], ["betas[1]", "below 1"]),
    (["train", "dcgan-64", "--set", "name=../x"], ["name: must be letters"]),
    (["train", "dcgan-64", "--set", "data.window=dtpye"], ["data.window", "did you mean 'dtype'"]),
    (
        ["train", "dcgan-64", "--data", "phantoms:2", "--set", "train.batch=8", "--set", "train.init_from=nowhere"],
        ["train.init_from: nowhere does not exist"],
    ),
    (["sample", "dcgan-64", "--mix", "4"], ["--mix 4: must have the form ROWSxCOLUMNS"]),
    (["sample", "dcgan-64", "--mix", "4x4", "-n", "3"], ["leave out -n"]),
    (["data", "check", "nowhere"], ["nowhere"]),
    (["train", "dcgan-64", "--kimg", "40x"], ["--kimg: '40x' is no length", "such as 40k"]),
    (["train", "dcgan-64", "--kimg", "1", "--epochs", "2"], ["--kimg and --epochs both set the length"]),
    (["train", "dcgan-64", "--epochs", "0"], ["--epochs 0: must be above 0"]),
    (["train", "dcgan-64", "--hours", "-1"], ["--hours -1: must be above 0"]),
    (["bench"], ["no trained runs in runs", "--demo", "zoo bench dcgan-64"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda value: " ".join(value))
def test_bad_input_prints_one_line_and_exits_with_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    code, _, err = call(capsys, *arguments)
    assert code == 2
    line = err.splitlines()[-1]
    for word in words:
        assert word in line
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_resume_refuses_other_numbers_and_other_images(run, capsys):
    code, _, err = call(capsys, "train", "--resume", run, "--kimg", "1", "--set", "train.batch=4")
    assert code == 2
    assert "train.batch=4 changes its numbers" in err
    code, _, err = call(capsys, "train", "--resume", run, "--kimg", "1", "--data", "phantoms:3")
    assert code == 2
    assert "was trained on other images" in err


def test_closed_stdout_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo", "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == ""


def test_first_signal_asks_to_stop_and_a_second_one_interrupts():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopOnSignals() as stop:
        assert stop() is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # another signal is collected too, but the first one counts
        assert stop() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("ignored", [signal.SIGINT, signal.SIGHUP])
def test_signals_that_were_ignored_stay_so(ignored):
    """SIGINT in the background of a shell without job control, SIGHUP under nohup."""
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        with StopOnSignals() as stop:
            signal.raise_signal(ignored)
            assert stop() is None
            signal.raise_signal(signal.SIGTERM)
            assert stop() == signal.SIGTERM
        assert signal.getsignal(ignored) == signal.SIG_IGN
    finally:
        signal.signal(ignored, before)


def test_signals_are_left_alone_outside_the_main_thread():
    before = signal.getsignal(signal.SIGINT)
    stops = []

    def use():
        with StopOnSignals() as stop:
            stops.append((stop(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert stops == [(None, before)]


@pytest.mark.slow
def test_training_continues_after_its_output_is_closed(tmp_path):
    command = [sys.executable, "-m", "zoo", "train", "dcgan-64", "--data", "phantoms:2", "--out", str(tmp_path)]
    command += ["--kimg", "0.08", "--device", "cpu", *SET]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 0
    assert zoo.Run(tmp_path / "dcgan-64-000").info["status"] == "finished"


ROOT = Path(__file__).parent.parent
TOPICS = ("install", "training", "variety", "evaluation", "privacy", "projection", "results")
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in TOPICS)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documented_commands_parse(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pattern = r"(?: {4})?(?:(?:torchrun|uvx|docker run) .*)?\bzoo (.+)"
    commands = [match[1] for line in lines if (match := re.match(pattern, line))]
    assert commands
    for command in commands:
        parsed, unknown = build_parser().parse_known_args(shlex.split(command, comments=True))
        assert unknown == [], command
        recipe = getattr(parsed, "recipe", None)
        if recipe in zoo.list_models():
            assert zoo.load_recipe(recipe, parsed.set).name == recipe


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["unset", "count", "policy"],
)
def test_waiting_threads_sleep_soon_unless_the_user_has_decided(variables, expected):
    code = "import os, sys; from zoo.cli.main import main; main(['list']); print(os.environ.get('GOMP_SPINCOUNT'))"
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=kept | variables, check=True
    )
    assert done.stdout.splitlines()[-1] == expected
