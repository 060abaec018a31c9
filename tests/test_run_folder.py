"""A run folder that is damaged, read-only, deleted or renamed is reported in one line and stops nothing else."""

import json
import shutil
import signal

import pytest
import torch

import zoo
from zoo.cli.main import main
from zoo.cli.signals import StopOnSignals
from zoo.core.errors import Interrupted, ZooError
from zoo.core.locks import hold_lock, is_locked
from zoo.training import checkpoint
from zoo.training.run_folder import Run, find_run, find_runs, open_run
from zoo.training.validation import Validator

SMALL = [
    "data.resolution=16",
    "generator.width=0.125",
    "discriminator.width=0.125",
    "train.batch=8",
    "data.holdout=0.5",
]
ANY_VALUE = [None, True, "x", "", 3, -5, 1.5, 1e30, float("nan"), float("inf"), [], [1], {}, {"a": 1}, 10**400]


@pytest.fixture
def run(runs, tmp_path):
    return Run(shutil.copytree(runs / "dcgan-64-000", tmp_path / "runs" / "dcgan-64-000"))


def train(out, **keywords):
    keywords = {"data": "phantoms:4", "kimg": 0.032, "device": "cpu", "set": SMALL} | keywords
    return zoo.train("dcgan-64", out=out, **keywords)


def listed(capsys, out, *more):
    assert main(["runs", str(out), *more]) == 0
    return capsys.readouterr().out


def test_no_run_json_stops_a_listing(run, capsys):
    """Any JSON value in place of the object, and of every key in it, and texts that are no JSON."""
    good = run.info
    path = run.path / "run.json"
    other = Run(shutil.copytree(run.path, run.path.with_name("dcgan-64-001")))
    texts = [json.dumps(value) for value in [*ANY_VALUE, "{}"]]
    texts += [json.dumps({**good, key: value}) for key in [*good, "best"] for value in ANY_VALUE]
    texts += ["", "{", "[" * 100_000, "9" * 5000, "\x00", '{"a": 1e999}']
    for text in texts:
        path.write_text(text)
        try:
            info = open_run(run.path).info
        except ZooError as error:
            message = str(error)
            assert "run.json: is damaged" in message
            assert "\n" not in message
            assert len(message) < 500
        else:  # what is accepted has the types that are relied on
            assert isinstance(info["nimg"], int)
            assert 0 <= info["kimg"] < 1e16
            assert isinstance(info["status"], str)
    for text in texts[:: len(texts) // 12]:
        path.write_text(text)
        lines = listed(capsys, run.path.parent)
        assert other.name in lines
        assert run.name in lines
        json.loads(listed(capsys, run.path.parent, "--json"))
    path.write_bytes(b"\xff\xfe")
    assert "is damaged" in listed(capsys, run.path.parent)
    path.unlink()
    assert "is not a run" in listed(capsys, run.path.parent)


@pytest.mark.parametrize("file", ["run.json", "log.jsonl"])
@pytest.mark.parametrize("kind", ["folder", "endless device", "missing target"])
def test_what_is_no_file_stops_no_listing(run, file, kind, capsys):
    path = run.path / file
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "endless device" else run.path / "gone")
    assert run.name in listed(capsys, run.path.parent)
    if file == "log.jsonl" and kind == "folder":
        assert main(["train", "--resume", str(run.path), "--kimg", "0.04", "--device", "cpu"]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_rows_of_other_types_are_left_out_of_the_log(run, capsys):
    good = run.rows()
    keys = ("nimg", "time", "loss_d", "loss_g", "ssim_nearest", "ssim_pairwise", "alarms", "img_per_s")
    bad = [{**good[-1], key: value} for key in keys for value in ("x", {"a": 1}, [1], True)]
    bad += [{key: value for key, value in good[-1].items() if key != "nimg"}, {"nimg": -1}, {"nimg": 1e30}]
    with run.log_file.open("a") as log:
        log.writelines(json.dumps(row) + "\n" for row in bad)
        log.write('[1]\n"x"\nnull\n{\n' + "[" * 100_000 + "\n" + "9" * 5000 + "\n")
    with run.log_file.open("ab") as log:
        log.write(b"\xff\xfe\n")
    assert run.rows() == good
    assert run.name in listed(capsys, run.path.parent)
    run.drop_after(10**9)
    assert run.rows() == good


def test_names_that_look_like_runs_are_passed_over(run, capsys):
    for name in ("x-²", "x-\u0661", "-", "x-", "x--1", "[b]-0", "a\x1b[31m-1"):
        (run.path.parent / name).mkdir()
    (run.path.parent / "file-3").write_text("")
    assert [found.name for found in find_runs(run.path.parent)] == ["[b]-0", "a\x1b[31m-1", "dcgan-64-000", "x--1"]
    text = listed(capsys, run.path.parent)
    assert "[b]-0" in text
    assert "a\\x1b[31m-1" in text
    assert "\x1b" not in text


def test_asking_whether_a_run_is_locked_writes_nothing(run, capsys):
    lock = run.state / "lock"
    lock.unlink(missing_ok=True)
    before = sorted(path.name for path in run.path.rglob("*"))
    run.write_info(status="running")
    assert not run.locked()
    assert "stopped" in listed(capsys, run.path.parent)
    assert zoo.load_generator(run.path).sample(1).shape == (1, 1, 16, 16)
    assert sorted(path.name for path in run.path.rglob("*")) == before
    with run.claim():
        assert run.locked()
        assert "running" in listed(capsys, run.path.parent)
        with pytest.raises(ZooError, match="another process is training it"), run.claim():
            pass
    assert not run.locked()


def test_locks_in_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZooError, match="cannot be written"), hold_lock(tmp_path / "file" / "lock", "held"):
        pass
    assert not is_locked(tmp_path / "none" / "lock")
    (tmp_path / "lock").mkdir()  # no file
    assert not is_locked(tmp_path / "lock")


def test_a_second_benchmark_or_sweep_in_one_folder_says_so(runs, tmp_path):
    keywords = {"metrics": ["ssim"], "num_samples": 8, "device": "cpu"}
    (tmp_path / "bench").mkdir()
    with (
        hold_lock(tmp_path / "bench" / ".lock", ""),
        pytest.raises(ZooError, match="another benchmark is writing there"),
    ):
        zoo.bench([runs / "dcgan-64-000"], out=tmp_path / "bench", **keywords)
    assert [path.name for path in (tmp_path / "bench").iterdir()] == [".lock"]
    folder = tmp_path / "tune" / "dcgan-64-optimizer.generator.lr"
    folder.mkdir(parents=True)
    from zoo.training.sweep import tune

    with hold_lock(folder / ".lock", ""), pytest.raises(ZooError, match="another sweep is writing there"):
        tune(
            "dcgan-64", param="optimizer.generator.lr", out=tmp_path / "tune", data="phantoms:4", set=SMALL, kimg=0.016
        )


def at_step(number, action):
    """A `stop` that acts once, after so many steps, and never stops."""
    steps = []

    def stop():
        steps.append(1)
        if len(steps) == number:
            action()

    return stop


@pytest.mark.parametrize("way", ["renamed", "deleted", "replaced"])
def test_a_folder_that_is_gone_in_training_is_noticed(way, tmp_path):
    path, elsewhere = tmp_path / "dcgan-64-000", tmp_path / "elsewhere"

    def remove():
        if way == "deleted":
            shutil.rmtree(path)
        else:
            path.rename(elsewhere)
        if way == "replaced":
            path.mkdir()

    with pytest.raises(ZooError, match="was deleted or renamed during training"):
        train(
            tmp_path,
            kimg=0.08,
            stop=at_step(3, remove),
            set=[*SMALL, "train.checkpoint_kimg=0.016", "train.log_kimg=0.008"],
        )
    assert path.exists() == (way == "replaced")
    if way == "replaced":
        assert not list(path.iterdir())
        path.rmdir()
    if way != "deleted":
        elsewhere.rename(path)
        assert zoo.train(resume=path, kimg=0.08, device="cpu").info["status"] == "finished"


def test_files_deleted_in_training_are_written_anew(tmp_path):
    path = tmp_path / "dcgan-64-000"

    def remove():
        (path / "run.json").unlink()
        (path / "recipe.yaml").unlink()

    with pytest.raises(Interrupted, match=r"everything is saved, `zoo train --resume .*` continues"):
        train(tmp_path, kimg=0.08, stop=at_step_then_stop(2, remove))
    run = open_run(path)
    assert (run.info["status"], run.info["nimg"]) == ("interrupted", 16)
    assert zoo.train(resume=path, device="cpu").info["status"] == "finished"


def at_step_then_stop(number, action):
    steps = []

    def stop():
        steps.append(1)
        if len(steps) == number:
            action()
            return True
        return None

    return stop


@pytest.mark.parametrize(
    "name", ["fakes-x.png", "fakes-1.png", "fakes-.png", "fakes-nan.png", "fakes-99999999.000.png"]
)
def test_stray_files_among_the_grids_do_not_fail_a_run(name, tmp_path, capsys):
    def add():
        (tmp_path / "dcgan-64-000" / "samples" / name).write_text("no image")

    run = train(tmp_path, stop=at_step(2, add))
    assert run.info["status"] == "finished"
    readable = name != "fakes-99999999.000.png"  # which has the name of a grid
    assert (run.path / "training.gif").is_file() == readable
    assert ("cannot read the image" in capsys.readouterr().err) != readable


def test_a_closed_terminal_stops_like_sigterm_except_under_nohup(tmp_path):
    before = signal.getsignal(signal.SIGHUP)
    stop = StopOnSignals()
    hang_up = at_step(2, lambda: signal.raise_signal(signal.SIGHUP))

    class Both(StopOnSignals):
        def __call__(self):
            hang_up()
            return super().__call__()

    with pytest.raises(Interrupted, match="stopped by SIGHUP at nimg 16; everything is saved") as caught:
        train(tmp_path, kimg=0.08, stop=Both())
    assert caught.value.signum == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_before_the_first_validation_does_not_wait_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Validator, "reference", lambda self: pytest.fail("real images are compared"))
    with pytest.raises(Interrupted, match="everything is saved"):
        train(tmp_path, kimg=0.08, set=[*SMALL, "train.log_kimg=0.008"], stop=at_step_then_stop(2, lambda: None))
    path = tmp_path / "dcgan-64-000"
    assert (path / "losses.png").is_file()
    assert not (path / "ssim.png").exists()


def edited(*keys, value):
    """An edit that sets or, for `...`, removes what is under these keys of a checkpoint."""

    def edit(state):
        for key in keys[:-1]:
            state = state[key]
        if value is ...:
            del state[keys[-1]]
        else:
            state[keys[-1]] = value

    return edit


def spoil(side, change):
    """An edit of the first weight of a network."""

    def edit(state):
        tensors = state["trainer"][side]
        name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
        tensors[name] = change(tensors[name])

    return edit


EDITS = {f"no {key}": edited(key, value=...) for key in ("trainer", "elapsed", "environment")}
EDITS |= {
    f"trainer without {key}": edited("trainer", key, value=...) for key in ("nimg", "generator", "ema", "optimizers")
}
EDITS |= {
    f"nimg of {value}": edited("trainer", "nimg", value=value) for value in (1e30, -5, 7, None, "8", True, 10**30)
}
for part in ("generator", "discriminator", "ema", "optimizers", "meters"):
    EDITS |= {f"{part} is {value!r}": edited("trainer", part, value=value) for value in (None, 3, {}, [])}
for network in ("generator", "discriminator", "ema"):
    EDITS |= {
        f"{network} of another shape": spoil(network, lambda tensor: tensor[..., :1]),
        f"{network} of whole numbers": spoil(network, lambda tensor: tensor.long()),
        f"{network} with NaN": spoil(network, lambda tensor: tensor * float("nan")),
        f"{network} with None": spoil(network, lambda tensor: None),
    }
EDITS |= {
    "a clock of text": edited("elapsed", value="x"),
    "a clock of NaN": edited("elapsed", value=float("nan")),
    "parts of the time of text": edited("seconds", value="x"),
    "a part of the time of None": edited("seconds", "steps", value=None),
    "a part of the time below 0": edited("seconds", "steps", value=-1.0),
    "no threads": edited("environment", "threads", value=...),
    "many threads": edited("environment", "threads", value=10**30),
    "negative threads": edited("environment", "threads", value=-1),
    "a validator of text": edited("watch", value="x"),
    "a best of text": edited("watch", "best", value="x"),
    "a best without a value": edited("watch", "best", value={"metric": "ssim"}),
    "seconds of None": edited("watch", "spent", value=None),
    "a moment of another shape": lambda state: state["trainer"]["optimizers"]["G"]["state"][0].update(
        exp_avg=torch.zeros(3)
    ),
    "a moment of None": lambda state: state["trainer"]["optimizers"]["D"]["state"][0].update(exp_avg="x"),
    "no parameter groups": edited("trainer", "optimizers", "G", "param_groups", value=[]),
    "betas of None": lambda state: state["trainer"]["optimizers"]["G"]["param_groups"][0].update(betas=None),
    "means of another shape": lambda state: state["trainer"]["meters"][0].update(sums={"a,b": torch.zeros(5)}),
}
OTHERS = {"a number": 3, "None": None, "a list": [], "an empty mapping": {}}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    run = train(tmp_path_factory.mktemp("two"), kimg=0.032, set=[*SMALL, "train.checkpoint_kimg=0.016"])
    assert len(list(run.state.glob("nimg-*.pt"))) == 2
    return run


@pytest.mark.parametrize("case", [*EDITS, *OTHERS])
def test_checkpoints_of_wrong_content_fall_back_to_the_older_one(case, two_checkpoints, tmp_path):
    from zoo.training.checkpoint_content import check_content

    run = Run(shutil.copytree(two_checkpoints.path, tmp_path / two_checkpoints.name))
    path = checkpoint.newest_checkpoint(run.state)
    state = checkpoint.load_checkpoint(path)
    recipe = zoo.load_recipe(run.recipe_file)
    check_content(path, state, recipe)
    if case in OTHERS:
        state = OTHERS[case]
    else:
        EDITS[case](state)
    for file in (path, path.with_name(path.name + ".sha256")):
        file.unlink()
    checkpoint.save_checkpoint(run.state, 32, state, keep=2)  # with the right hash
    warnings = []
    older = checkpoint.load_newest_checkpoint(run.state, warnings.append, lambda *these: check_content(*these, recipe))
    assert older is not None
    assert older["trainer"]["nimg"] == 16
    assert len(warnings) == 1
    assert "\n" not in warnings[0]
    assert "it is set aside" in warnings[0]
    assert sorted(file.name for file in run.state.glob("unusable-*")) == [
        f"unusable-{path.name}",
        f"unusable-{path.name}.sha256",
    ]


def test_a_run_continues_from_the_older_checkpoint_as_if_it_were_the_newest(two_checkpoints, tmp_path, capsys):
    run = Run(shutil.copytree(two_checkpoints.path, tmp_path / two_checkpoints.name))
    path = checkpoint.newest_checkpoint(run.state)
    whole = checkpoint.load_checkpoint(path)["trainer"]
    state = checkpoint.load_checkpoint(path)
    state["trainer"]["generator"] = None
    path.unlink()
    checkpoint.save_checkpoint(run.state, 32, state, keep=2)
    zoo.train(resume=run.path, device="cpu")
    assert "it is set aside" in capsys.readouterr().err
    again = checkpoint.load_checkpoint(checkpoint.newest_checkpoint(run.state))["trainer"]
    for side in ("generator", "discriminator", "ema"):
        for name, tensor in whole[side].items():
            assert torch.equal(again[side][name], tensor), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_wherever_they_are_loaded(value, run, tmp_path):
    from safetensors.torch import load_file, save_file

    from zoo.training.warm_start import warm_start

    tensors = load_file(run.generator_file)
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    tensors[name].view(-1)[3] = value
    recipe = zoo.load_recipe(run.recipe_file)
    path = tmp_path / "g.safetensors"
    save_file(tensors, path, {"recipe": json.dumps(recipe.to_dict()), "nimg": "7"})
    with pytest.raises(ZooError, match="holds NaN or infinite numbers"):
        zoo.load_generator(path)
    generator, _ = zoo.create(recipe)
    with pytest.raises(ZooError, match="holds NaN or infinite numbers"):
        warm_start(str(path), {"G": generator, "ema": generator}, lambda text: None)


def narrower(tensors, name):
    tensors[name] = tensors[name][:1].contiguous()


FILES = {
    "a missing tensor": (lambda tensors, name: tensors.pop(name), {}, "lacks"),
    "an unknown tensor": (lambda tensors, name: tensors.update(x=torch.zeros(1)), {}, "has unknown x"),
    "another shape": (narrower, {}, "has the shape"),
    "whole numbers": (lambda tensors, name: tensors.update({name: tensors[name].long()}), {}, "holds torch.int64"),
    "too large for fp32": (
        lambda tensors, name: tensors.update({name: tensors[name].double() + 1e300}),
        {},
        "NaN or inf",
    ),
    "a negative count": (lambda tensors, name: None, {"nimg": "-5"}, "no number of images"),
    "a count of 1e30": (lambda tensors, name: None, {"nimg": "1e30"}, "is damaged"),
    "a huge count": (lambda tensors, name: None, {"nimg": "9" * 30}, "no number of images"),
    "a deep recipe": (lambda tensors, name: None, {"recipe": "[" * 100_000}, "is damaged"),
    "a huge network": (lambda tensors, name: None, {"width": 64}, "far fewer numbers than that network|has the shape"),
}


@pytest.mark.parametrize("case", FILES)
def test_generator_files_that_fit_no_network_are_refused(case, run, tmp_path):
    from safetensors.torch import load_file, save_file

    change, metadata, message = FILES[case]
    tensors = load_file(run.generator_file)
    change(tensors, next(name for name, tensor in tensors.items() if tensor.dim() > 1))
    content = zoo.load_recipe(run.recipe_file).to_dict()
    content["generator"]["width"] = metadata.get("width", content["generator"]["width"])
    texts = {"recipe": json.dumps(content), "nimg": "7"} | {k: v for k, v in metadata.items() if k != "width"}
    save_file(tensors, tmp_path / "g.safetensors", texts)
    with pytest.raises(ZooError, match=message) as caught:
        zoo.load_generator(tmp_path / "g.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("{runs}/dcgan-64-000", "dcgan-64-000"),
        ("dcgan-64-000", "dcgan-64-000"),  # by name, as the listing prints it
        ("dcgan-64", "dcgan-64-011"),  # a recipe: its newest run
        ("dcgan-64-12", "no run 'dcgan-64-12' (did you mean 'dcgan-64-011'?); runs in {runs}: dcgan-64-004, "),
        ("{runs}/dcgan-46-000", "(did you mean 'dcgan-64-000'?); runs in {runs}: dcgan-64-004, "),
        ("nothing", "no run 'nothing'; runs in {runs}: dcgan-64-004, "),
        ("nowhere/x-000", "dcgan-64-010, dcgan-64-011 and 4 older"),
    ],
)
def test_a_run_is_found_by_folder_name_or_recipe(tmp_path, word, expected):
    for number in range(12):
        path = tmp_path / f"dcgan-64-{number:03d}"
        path.mkdir()
        (path / "recipe.yaml").touch()
        (path / "run.json").write_text(
            '{"recipe": "", "recipe_digest": "", "data_digest": "", "data_description": "", "status": "", '
            '"data": null, "nimg": 0, "kimg": 1}'
        )
    word, expected = (text.format(runs=tmp_path) for text in (word, expected))
    if expected.startswith("dcgan") and " " not in expected:
        assert find_run(word, tmp_path).name == expected
        return
    with pytest.raises(ZooError) as caught:
        find_run(word, tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_resumed_run_has_not_seen_is_removed(run):
    """Grids and averages that were made after the checkpoint are of a training that did not happen."""
    run.snapshots.mkdir(exist_ok=True)
    kept = [run.samples / "fakes-000000.024.png", run.snapshots / "nimg-000000000024-std-0.05.safetensors"]
    gone = [run.samples / "fakes-000000.040.png", run.snapshots / "nimg-000000000040-std-0.1.safetensors"]
    others = [run.samples / "fakes-mine.png"]
    others += [run.snapshots / f"nimg-{name}.safetensors" for name in ("x-std-0.1", "000000000040-std-0.1-backup")]
    for path in (*kept, *gone, *others):
        path.write_bytes(b"")
    run.drop_after(24)
    assert [path.exists() for path in (*kept, *gone, *others)] == [True, True, False, False, True, True, True]


def test_renamed_runs_are_listed(run, capsys):
    run.path.rename(run.path.parent / "my best")
    folder = run.path.parent
    (folder / "notes").mkdir()
    assert [found.name for found in find_runs(folder)] == ["my best"]
    assert find_runs(folder, "dcgan-64") == []
    assert "my best" in listed(capsys, folder)
    assert "my best" in listed(capsys, folder / "my best")
    assert "no runs in" in listed(capsys, folder / "notes")
