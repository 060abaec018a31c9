"""A run that was killed and resumed is the run that was not, bit for bit: weights, averages, optimisers, log."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import zoo
from zoo.core.errors import Interrupted, ZooError
from zoo.losses.adversarial import LOSSES
from zoo.training import checkpoint
from zoo.training.trainer import Trainer

# 20 steps of 8 images; rows, grids and checkpoints fall on different steps.
SMALL = {
    "dcgan-64": ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125"],
    "dcgan-256": ["data.resolution=32", "generator.width=0.05", "discriminator.width=0.05"],
    "multires-28": ["generator.width=0.1", "discriminator.width=0.1"],
    "lean-256": ["data.resolution=32", "generator.width=0.1", "discriminator.width=0.1"],
    "upscale-256": [
        "data.resolution=32",
        "generator.frozen_body=false",
        "generator.width=0.1",
        "discriminator.width=0.1",
    ],
    "stylegan2-64": ["data.resolution=16", "generator.width=0.05", "discriminator.width=0.05"],
    "stylegan-256": ["data.resolution=16", "generator.width=0.05", "discriminator.width=0.1", "train.batch=8"],
}
SCALES = "scales={sizes: [4, 8], weight: [[0, 1], [0.1, 0.5]]}"
LENGTHS = [
    "train.kimg=0.16",
    "train.batch=8",
    "train.log_kimg=0.024",
    "train.sample_kimg=0.08",
    "train.checkpoint_kimg=0.04",
    "train.evaluate_share=1",
]


def settings(name, *more):
    return [*SMALL[name], *LENGTHS, *more]


def train(name, out, *more, **options):
    return zoo.train(name, data="phantoms:2", out=out, device="cpu", set=settings(name, *more), **options)


def result(run):
    """Everything that a later step or a reader depends on, without wall-clock times."""
    state = checkpoint.load_checkpoint(checkpoint.newest_checkpoint(run.state))["trainer"]
    rows = [
        {key: value for key, value in row.items() if key not in ("img_per_s", "data_wait_s", "time")}
        for row in run.rows()
    ]
    return state, rows


def assert_identical(a, b, path="state"):
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_identical(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_identical(left, right, f"{path}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def crash_after(monkeypatch, steps):
    """Die inside the step after ``steps`` whole ones, once."""
    original, taken = Trainer.step, []

    def step(self):
        if len(taken) == steps:
            taken.append(self)
            raise MemoryError("killed here")
        taken.append(self)
        original(self)

    monkeypatch.setattr(Trainer, "step", step)


# These run in `make test`: micro-batches in bf16, adaptive augmentation and plain batch norms.
FAST_CASES = [
    ("dcgan-64", ["train.micro_batch=4", "train.precision=bf16", "data.xflip=true"]),
    ("dcgan-64", ["augment={name: ada, speed_kimg: 0.1, target: 0.0}", "train.d_steps=2", "ema.power_std=0.1", SCALES]),
    ("multires-28", []),
]
SLOW_CASES = [
    ("dcgan-64", ["penalties.r1.weight=1", "penalties.r2.weight=0.5", "penalties.r2.every=3"]),
    ("stylegan-256", ["train.micro_batch=2", "data.order=replacement"]),
    (
        "dcgan-64",
        [
            "discriminator.san=true",
            "autoencoder={weight: [[0, 10], [0.1, 0]]}",
            "train.batch=[[0, 8], [0.03, 16], [0.06, 4]]",
            "train.micro_batch=4",
            "penalties.r1.every=3",
            "train.d_steps=2",
        ],
    ),
    (
        "stylegan2-64",
        [
            "discriminator.packing=2",
            "discriminator.minibatch_std=2",
            "discriminator.group=2",
            "penalties={r1: {step: 0.01, share: 0.5}}",
            "ema.snapshot_stds=[0.1]",
            SCALES,
        ],
    ),
    *(("dcgan-64", [f"loss.name={loss}"]) for loss in LOSSES),
    ("dcgan-64", ["train.precision=bf16"]),
    ("dcgan-64", ["train.micro_batch=4"]),
    ("dcgan-64", ["train.checkpoint_minutes=1e-6"]),  # a checkpoint after every step
    (
        "dcgan-64",
        ["penalties.r1.weight=1", "penalties.r1.every=2", "train.precision=bf16", "train.update=simultaneous"],
    ),
    ("dcgan-64", ["optimizer.generator.lr=[[0, 1e-3], [0.1, 1e-4]]", "optimizer.discriminator.name=sgd"]),
    ("dcgan-64", ["penalties={gp1: {}, lecam: {every: 2}}", "discriminator.spectral_norm=true"]),
    ("stylegan2-64", ["penalties={path_length: {every: 2}, r1: {every: 4}}"]),
    ("dcgan-256", []),
    ("dcgan-256", ["train.micro_batch=4", "train.precision=bf16"]),
    ("lean-256", ["train.precision=bf16"]),
    ("stylegan-256", []),
    ("upscale-256", []),
]
CASES = [*FAST_CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)]


@pytest.mark.parametrize(
    ("name", "more"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_crash_and_the_same_call_again(name, more, tmp_path, monkeypatch, capsys):
    straight = result(train(name, tmp_path / "straight", *more))
    with monkeypatch.context() as patch:
        crash_after(patch, 13)
        with pytest.raises(MemoryError):
            train(name, tmp_path / "broken", *more)
    run = train(name, tmp_path / "broken", *more)
    saved = 104 if "train.checkpoint_minutes=1e-6" in more else 80
    assert f"resuming {run.path} at nimg {saved}" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "broken").iterdir()] == [f"{name}-000"]
    state, rows = result(run)
    assert_identical(state, straight[0])
    assert rows == straight[1]
    assert len({row["nimg"] for row in rows}) == len(rows)
    assert rows[-1]["nimg"] == 160


@pytest.mark.parametrize(
    ("name", "more"),
    [
        pytest.param("dcgan-64", ["train.precision=fp32"], marks=pytest.mark.slow),
        pytest.param("multires-28", ["train.precision=bf16"], marks=pytest.mark.slow),
    ],
)
def test_sigkill_of_a_real_process(name, more, tmp_path):
    straight = result(train(name, tmp_path / "straight", *more))
    command = [sys.executable, "-m", "zoo", "train", name, "--data", "phantoms:2", "--out", str(tmp_path / "killed")]
    command += ["--device", "cpu", *(word for text in settings(name, *more) for word in ("--set", text))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    state = tmp_path / "killed" / f"{name}-000" / "state"
    wait_for(lambda: list(state.glob("*.pt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert second.stdout.startswith(f"resuming {tmp_path / 'killed' / name}-000 at nimg ")
    state, rows = result(zoo.Run(tmp_path / "killed" / f"{name}-000"))
    assert_identical(state, straight[0])
    assert rows == straight[1]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_signals_finish_the_step_save_and_say_so(signum, code, tmp_path):
    command = [sys.executable, "-m", "zoo", "train", "dcgan-64", "--data", "phantoms:2", "--out", str(tmp_path)]
    command += ["--kimg", "1000", *(word for text in settings("dcgan-64") for word in ("--set", text))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "dcgan-64-000"
    log = folder / "log.jsonl"
    wait_for(lambda: log.exists() and log.read_text(), process)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "everything is saved" in errors
    assert "Traceback" not in errors
    info = json.loads((folder / "run.json").read_text())
    assert info["status"] == "interrupted"
    assert (
        checkpoint.load_checkpoint(checkpoint.newest_checkpoint(folder / "state"))["trainer"]["nimg"]
        == info["nimg"]
        > 0
    )


@pytest.mark.slow
def test_stop_between_rows_keeps_the_row_whole(tmp_path):
    straight = result(train("dcgan-64", tmp_path / "straight"))
    calls = []

    def stop():  # asked after every step of 8 images: step 13 lies between two rows, and between two checkpoints
        calls.append(1)
        return len(calls) == 13

    with pytest.raises(Interrupted, match=r"stopped by request at nimg 104; everything is saved"):
        train("dcgan-64", tmp_path / "broken", stop=stop)
    state, rows = result(train("dcgan-64", tmp_path / "broken"))
    assert_identical(state, straight[0])
    assert rows == straight[1]


def test_library_calls_leave_signals_to_their_caller(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = []

    def stop():
        during.append((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))

    train("dcgan-64", tmp_path, stop=stop)
    assert set(during) == {before}


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("more", [{}, {"kimg": 0.064}])
def test_a_run_without_its_checkpoints_keeps_its_weights(more, runs, tmp_path):
    """As in a copy that was shared: starting anew would overwrite what was trained."""
    folder = tmp_path / "runs" / "dcgan-64-000"
    shutil.copytree(runs / "dcgan-64-000", folder)
    shutil.rmtree(folder / "state")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ZooError, match=r"has seen 32 images, but has no checkpoint in state/ .*--new"):
        zoo.train(resume=folder, device="cpu", **more)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent.name != "state"}
    assert after == before
