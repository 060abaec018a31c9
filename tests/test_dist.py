"""Two processes with gloo equal one: gradients, weights, norms, losses, features; and a worker may die."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from zoo.training import checkpoint

WORKER = Path(__file__).parent / "dist_worker.py"
SETTINGS = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"]
STILL = ["discriminator=multires-28", "discriminator.dropout=0"]  # nothing random inside, no norm
PENALTIES = ["penalties.r1.weight=1", "penalties.r2.weight=1"]
SGD = ["optimizer.generator.name=sgd", "optimizer.discriminator.name=sgd"]


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run(job, processes, *overrides, folder):
    """What ``dist_worker.py`` wrote in its first process."""
    out = folder / f"{job}-{processes}.pt"
    command = [sys.executable, str(WORKER), job, str(out), *overrides]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port()}
    group = [
        subprocess.Popen(
            command, env={**base, "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(processes)
    ]
    assert [process.wait(timeout=120) for process in group] == [0] * processes
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
@pytest.mark.parametrize("norm", ["without batch norm in D, R1 and R2", "with batch norm in both, R1 and R2"])
def test_two_processes_equal_one_in_double_precision(update, norm, tmp_path):
    """Gradients of each phase, and weights after three SGD steps, to 1e-10; G has batch norm in both cases."""
    more = STILL if norm.startswith("without") else []
    overrides = [*SETTINGS, *more, *PENALTIES, *SGD, f"train.update={update}"]
    one, two = (run("double", count, "dcgan-64", *overrides, folder=tmp_path) for count in (1, 2))
    assert one.keys() == two.keys()
    assert {key.split(".")[0] for key in one} == {"G", "D", "grad_G", "grad_D"}
    for key, value in one.items():
        scale = value.double().abs().max().clamp(min=1e-3)
        assert (two[key].double() - value.double()).abs().max() <= 1e-10 * scale.clamp(min=1), key


def test_without_synchronised_norms_each_process_has_its_own_statistics(tmp_path):
    overrides = ["dcgan-64", *SETTINGS, *SGD, "train.sync_batch_norm=false"]
    one, two = (run("double", count, *overrides, folder=tmp_path) for count in (1, 2))
    assert any((two[key] - one[key]).abs().max() > 1e-6 for key in one if key.startswith("grad_D"))


def test_losses_over_twenty_adam_steps(tmp_path):
    one, two = (run("losses", count, "dcgan-64", *SETTINGS, folder=tmp_path) for count in (1, 2))
    assert len(one["loss_d"]) == 20
    for name in ("loss_d", "loss_g", "d_acc_real"):
        torch.testing.assert_close(two[name], one[name], atol=1e-3, rtol=1e-3, msg=name)


def test_what_is_drawn_inside_does_not_depend_on_who_draws_it(tmp_path):
    """Dropout and style mixing: two processes equal one that takes the same micro-batches."""
    overrides = ["stylegan-256", "data.resolution=16", *SETTINGS[1:], *SGD, "train.micro_batch=4"]
    one, two = (run("double", count, *overrides, folder=tmp_path) for count in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-10, msg=key)


def test_norm_is_batch_norm_and_differentiable_twice(tmp_path):
    """Against torch's own on the whole batch: outputs, running statistics, first and second derivatives."""
    found = run("norm", 2, folder=tmp_path)
    assert len(found) >= 10
    for key, difference in found.items():
        assert difference < 1e-12, key


def test_features_are_gathered_in_order(tmp_path):
    overrides = [*SETTINGS, "train.batch=6"]
    one, three = (run("features", count, "dcgan-64", *overrides, folder=tmp_path) for count in (1, 3))
    assert one["features"].shape[0] == 40
    torch.testing.assert_close(three["features"], one["features"])


def test_means_are_of_all_processes_whatever_each_has_met(tmp_path):
    found = run("means", 2, folder=tmp_path)
    assert found["loss_d"].item() == pytest.approx((0.5 + 1.0 + 5.0) / 2)
    assert found["r1"].item() == pytest.approx(4.0)


def torchrun(out, *options, processes=2, more=()):
    settings = [*SETTINGS, "train.log_kimg=0.008", "train.sample_kimg=0.064", "train.checkpoint_kimg=0.032"]
    settings += ["train.precision=fp32", *more]
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port", port()),
        *(*options, "-m", "zoo", "train", "dcgan-64", "--data", "phantoms:2", "--out", str(out), "--device", "cpu"),
        *(word for text in settings for word in ("--set", text)),
    ]


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder):
    return [(row["nimg"], row["loss_d"], row["loss_g"]) for row in rows(folder)]


def test_a_killed_worker_is_started_again_and_nothing_is_lost(tmp_path):
    """torchrun restarts the group; it goes on from the last checkpoint and ends where an unbroken run does."""
    kimg = ("--kimg", "0.256")
    subprocess.run([*torchrun(tmp_path / "straight"), *kimg], check=True, capture_output=True, timeout=240)
    straight = tmp_path / "straight" / "dcgan-64-000"
    command = [*torchrun(tmp_path / "broken", "--max-restarts=2"), *kimg, "--new"]
    group = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "broken" / "dcgan-64-000"
    deadline = time.monotonic() + 120
    while not list((folder / "state").glob("nimg-*.pt")):
        assert group.poll() is None, group.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(worker(group.pid, rank=1), signal.SIGKILL)
    said, _ = group.communicate(timeout=240)
    assert group.returncode == 0, said
    assert f"resuming {folder} at nimg " in said
    assert not (tmp_path / "broken" / "dcgan-64-001").exists()
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert losses(folder) == losses(straight)
    ours, theirs = (
        checkpoint.load_checkpoint(checkpoint.newest_checkpoint(each / "state"))["trainer"]
        for each in (folder, straight)
    )
    for side in ("generator", "discriminator", "ema"):
        for name, value in theirs[side].items():
            assert torch.equal(ours[side][name], value), f"{side}.{name}"


def worker(pid, rank):
    """The process that torchrun started as ``rank``."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"\nPPid:\t{pid}\n" in (path / "status").read_text():
                environment = (path / "environ").read_bytes().split(b"\0")
                if f"RANK={rank}".encode() in environment:
                    return int(path.name)
        except OSError:
            continue
    raise AssertionError("no such worker")


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    two = torchrun(tmp_path)
    subprocess.run([*two, "--kimg", "0.064"], check=True, capture_output=True, timeout=240)
    folder = tmp_path / "dcgan-64-000"
    alone = [sys.executable, "-m", "zoo", "train", "--resume", str(folder), "--kimg", "0.128", "--device", "cpu"]
    done = subprocess.run(alone, check=True, capture_output=True, text=True, timeout=240)
    assert "processes 2 -> 1" in done.stderr
    assert [row["nimg"] for row in rows(folder)] == list(range(8, 129, 8))
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_a_batch_that_cannot_be_cut_is_refused_in_a_line(tmp_path):
    command = torchrun(tmp_path, processes=3)
    done = subprocess.run([*command, "--kimg", "0.064"], capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    for process in ("", "process 1: ", "process 2: "):
        assert f"zoo: {process}train.batch: 8 images cannot be cut evenly among 3 processes\n" in done.stderr
    assert not list(tmp_path.iterdir())
