"""Callbacks and log writers: what they receive, that they change no number, and that one that raises loses nothing."""

import csv
import hashlib
import sys
import types

import numpy as np
import pytest
import torch

import zoo
from zoo.core.errors import ZooError
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.log_writers import check_loggers, numbers

TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
CADENCES = ["train.log_kimg=0.008", "train.sample_kimg=0.016", "train.checkpoint_kimg=0.016", "train.evaluate_share=1"]


def train(out, **keywords):
    settings = {"data": "phantoms:2", "device": "cpu", "kimg": 0.032, "set": [*TINY, *CADENCES], **keywords}
    return zoo.train("dcgan-64", out=out, **settings)


class Recorder:
    """Remembers everything, and disturbs what a callback can disturb."""

    def __init__(self):
        self.rows, self.images, self.checkpoints, self.ends = [], [], [], []

    def on_log(self, row):
        self.rows.append(dict(row))
        row.clear()
        torch.manual_seed(len(self.rows))
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)

    def on_images(self, nimg, images):
        self.images.append((nimg, images.clone()))
        images.zero_()
        torch.rand(3)

    def on_checkpoint(self, path):
        self.checkpoints.append(path)

    def on_end(self, run):
        self.ends.append((run.path, run.info["status"]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


def state(run):
    """Everything of a checkpoint that is not a time, as bytes."""
    content = torch.load(newest_checkpoint(run.state), weights_only=True)["trainer"]
    parts = []

    def add(value):
        if isinstance(value, torch.Tensor):
            parts.append(value.numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                parts.append(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            parts.append(repr(value).encode())

    add(content)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_values_do_not_depend_on_callbacks(plain, tmp_path):
    watching = Recorder()
    run = train(tmp_path, callbacks=[watching])
    assert state(run) == state(plain)
    clocks = ("time", "img_per_s", "data_wait_s")
    with_callback, without = (
        [{k: v for k, v in row.items() if k not in clocks} for row in r.rows()] for r in (run, plain)
    )
    assert with_callback == without
    # What was received is what is in the run folder.
    assert watching.rows == run.rows()
    assert [nimg for nimg, _ in watching.images] == [0, 16, 32]
    last = watching.images[-1][1]
    assert (last.dtype, last.shape) == (torch.uint8, (64, 1, 16, 16))
    assert torch.equal(last[:16], zoo.load_generator(run, precision="fp32").sample(16))
    assert [path.name for path in watching.checkpoints] == ["nimg-000000000016.pt", "nimg-000000000032.pt"]
    assert watching.ends == [(run.path, "finished")]


class Failing:
    def __init__(self, name, at):
        self.name, self.left = name, at

    def __getattr__(self, name):
        if name != self.name:
            raise AttributeError(name)
        return self._count

    def _count(self, *arguments):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("no space on the server\nsecond line")


@pytest.mark.parametrize(
    ("name", "at", "nimg", "status"),
    [
        ("on_log", 1, 8, "failed"),
        ("on_images", 1, 8, "failed"),
        ("on_images", 2, 16, "failed"),
        ("on_checkpoint", 1, 24, "failed"),
        ("on_end", 1, 32, "finished"),
    ],
)
@pytest.mark.slow
def test_a_callback_that_raises_stops_the_run_with_everything_saved(plain, tmp_path, name, at, nimg, status):
    other = Recorder()
    with pytest.raises(ZooError, match=f"Failing.{name} failed .RuntimeError: no space on the server.*") as caught:
        train(tmp_path, callbacks=[Failing(name, at), other])
    assert "\n" not in str(caught.value)
    run = zoo.Run(tmp_path / "dcgan-64-000")
    assert (run.info["nimg"], run.info["status"]) == (nimg, status)
    assert newest_checkpoint(run.state).name == f"nimg-{nimg:012d}.pt"
    assert other.checkpoints[-1] == newest_checkpoint(run.state)
    assert other.ends == [(run.path, status)]
    assert state(train(tmp_path, new=False) if status == "failed" else run) == state(plain)


def test_a_stopped_run_ends_for_its_callbacks(tmp_path):
    watching = Recorder()
    with pytest.raises(zoo.core.errors.Interrupted):
        train(tmp_path, callbacks=[watching], stop=lambda: True)
    assert watching.ends == [(tmp_path / "dcgan-64-000", "interrupted")]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"callbacks": [print]},
            r"callbacks\[0\]: builtin_function_or_method has none of the methods on_log, on_images",
        ),
        ({"callbacks": Recorder()}, "callbacks: must be a list of objects, not Recorder"),
        ({"loggers": ["wandv"]}, r"--logger wandv: unknown logger \(did you mean 'wandb'\?\)"),
    ],
)
def test_errors_come_before_training(tmp_path, keywords, message):
    with pytest.raises(ZooError, match=message):
        train(tmp_path, **keywords)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(
            ZooError, match=rf"--logger {name} needs the package {name}: pip install 'gan-zoo\[{name}\]'"
        ):
            check_loggers([name])
    assert check_loggers("csv,csv") == ["csv"]


@pytest.mark.slow
def test_csv_holds_the_log_also_after_a_resume(tmp_path):
    run = train(tmp_path, loggers=["csv"], kimg=0.016)
    run = zoo.train(resume=run.path, kimg=0.032, loggers="csv", device="cpu")
    with (run.path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["nimg"]) for row in rows] == [8, 16, 24, 32]
    for row, expected in zip(rows, run.rows(), strict=True):
        assert {key: float(value) for key, value in row.items() if value} == {
            "nimg": expected["nimg"],
            **numbers(expected),
        }


@pytest.mark.slow
def test_tensorboard_gets_scalars_images_and_the_recipe(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path, tensorboard=True)
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"loss_g", "loss_d", "samples", "final/loss_g"} <= {*events.Tags()["scalars"], *events.Tags()["images"]}
    assert [event.step for event in events.Images("samples")] == [0, 16, 32]
    assert [event.step for event in events.Scalars("loss_g")] == [8, 16, 24, 32]
    assert events.Scalars("loss_g")[-1].value == pytest.approx(run.rows()[-1]["loss_g"])
    assert b"train.batch" in events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content


def test_mlflow_gets_one_run_also_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is an extra")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = train(tmp_path, loggers=["mlflow"], kimg=0.016)
    zoo.train(resume=run.path, kimg=0.032, loggers=["mlflow"], device="cpu")
    client = MlflowClient()
    (logged,) = client.search_runs([client.get_experiment_by_name("gan-zoo").experiment_id])
    assert (logged.info.run_name, logged.info.status) == ("dcgan-64-000", "FINISHED")
    assert logged.data.params["train.batch"] == "8"
    history = client.get_metric_history(logged.info.run_id, "loss_g")
    assert [(point.step, point.value) for point in history] == [(row["nimg"], row["loss_g"]) for row in run.rows()]
    files = client.list_artifacts(logged.info.run_id, "samples")
    assert len(files) == 3


@pytest.mark.slow
def test_wandb_gets_one_run_also_after_a_resume(tmp_path, monkeypatch):
    """By a stand-in module: the package itself is tried by hand, since it starts a process and wants an account."""
    calls = []

    class Series:
        id = "abc"

        def __getattr__(self, name):
            return lambda *arguments, **keywords: calls.append((name, arguments, keywords))

    def init(**keywords):
        calls.append(("init", (), keywords))
        return Series()

    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace()
    fake.init, fake.Image = init, np.asarray
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = train(tmp_path, loggers=["wandb"], kimg=0.016)
    zoo.train(resume=run.path, kimg=0.032, loggers=["wandb"], device="cpu")
    starts = [keywords for name, _, keywords in calls if name == "init"]
    assert [start["id"] for start in starts] == [None, "abc"]
    assert starts[0]["config"]["train.batch"] == 8
    logged = [arguments[0] for name, arguments, _ in calls if name == "log"]
    assert [row["nimg"] for row in logged if "loss_g" in row] == [8, 16, 24, 32]
    assert [row["nimg"] for row in logged if "samples" in row] == [0, 16, 32]
    assert [keywords for name, _, keywords in calls if name == "finish"] == [{"exit_code": 0}] * 2


def test_a_logger_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace()
    fake.init = lambda **keywords: {}["no key"]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(ZooError, match=r"--logger wandb: cannot be started \(KeyError: 'no key'\)"):
        train(tmp_path, loggers=["wandb"])
