"""Several processes with gloo equal one: gradients, weights, norms, losses, features; and processes may be lost."""

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

import zoo
from zoo.runtime import distributed
from zoo.training import checkpoint

WORKER = Path(__file__).parent / "distributed_worker.py"
SETTINGS = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"]
SGD = ["optimizer.generator.name=sgd", "optimizer.discriminator.name=sgd"]
PENALTIES = ["penalties.r1.weight=1", "penalties.r2.weight=1"]
CADENCE = ["train.log_kimg=0.008", "train.sample_kimg=0.064", "train.checkpoint_kimg=0.032", "train.precision=fp32"]
DOUBLE = {
    f"{update}, {'batch norm in both' if norm else 'no batch norm in D'}": [
        "double",
        "dcgan-64",
        *SETTINGS,
        *([] if norm else ["discriminator=multires-28", "discriminator.dropout=0"]),
        *PENALTIES,
        *SGD,
        f"train.update={update}",
    ]
    for update in ("alternating", "simultaneous")
    for norm in (True, False)
}
SCALED = ["double", "dcgan-64", *SETTINGS, *SGD, "loss.name=relativistic", "scales={sizes: [4, 8]}"]
DOUBLE["scales, batch norm in both"] = [*SCALED, "augment={name: diffaugment}"]
UNSYNCHRONISED = ["double", "dcgan-64", *SETTINGS, *SGD, "train.sync_batch_norm=false"]
LOSSES = ["losses", "dcgan-64", *SETTINGS]
RANDOM_LAYERS = ["double", "stylegan-256", "data.resolution=16", *SETTINGS[1:], *SGD, "train.micro_batch=4"]
FEATURES = ["features", "dcgan-64", *SETTINGS, "train.batch=6"]
UNEVEN = "train.batch: 8 images cannot be divided evenly among 3 processes; set a multiple of 3"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run_group(jobs, processes, folder):
    """Run jobs of ``distributed_worker.py`` in one group; the results, and the exit codes of the processes."""
    file, out = folder / f"jobs-{processes}.json", folder / f"results-{processes}.pt"
    file.write_text(json.dumps(jobs))
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    group = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(file), str(out)],
            env={**base, "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    codes = [process.wait(timeout=240) for process in group]
    return torch.load(out, weights_only=True), codes


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results by the number of processes and the name of the job: starting processes takes longer than the jobs."""
    folder = tmp_path_factory.mktemp("groups")
    both = {**DOUBLE, "unsynchronised": UNSYNCHRONISED, "losses": LOSSES, "random layers": RANDOM_LAYERS}
    train = ["train", str(folder / "runs"), "0.064", *SETTINGS, *CADENCE]
    jobs = {
        1: {**both, "features": FEATURES},
        2: {**both, "norm": ["norm"], "means": ["means"], "train": train},
        3: {"features": FEATURES, "refusal": ["refusal", "dcgan-64", *SETTINGS]},
    }
    results = {}
    for processes, group_jobs in jobs.items():
        results[processes], codes = run_group(group_jobs, processes, folder)
        assert codes == [0] * processes
    return results


@pytest.mark.parametrize("job", DOUBLE)
def test_two_processes_equal_one_in_double_precision(results, job):
    """Gradients of each phase, and weights after three SGD steps, to 1e-10; with R1 and R2, batch norm in G."""
    one, two = results[1][job], results[2][job]
    assert one.keys() == two.keys()
    names = {"G", "D", *(("heads", "scale_discriminators") if job.startswith("scales") else ())}
    assert {key.split(".")[0] for key in one} == names | {f"grad_{name}" for name in names}
    for key, value in one.items():
        scale = value.double().abs().max().clamp(min=1e-3)
        assert (two[key].double() - value.double()).abs().max() <= 1e-10 * scale.clamp(min=1), key


def test_without_synchronised_norms_each_process_has_its_own_statistics(results):
    one, two = (results[processes]["unsynchronised"] for processes in (1, 2))
    assert any((two[key] - one[key]).abs().max() > 1e-6 for key in one if key.startswith("grad_D"))


def test_losses_over_twenty_adam_steps(results):
    one, two = (results[processes]["losses"] for processes in (1, 2))
    assert len(one["loss_d"]) == 20
    for name in ("loss_d", "loss_g", "d_acc_real"):
        torch.testing.assert_close(two[name], one[name], atol=1e-3, rtol=1e-3, msg=name)


def test_random_layers_do_not_depend_on_the_process_that_draws(results):
    """Dropout and style mixing: two processes equal one that takes the same micro-batches."""
    one, two = (results[processes]["random layers"] for processes in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-10, msg=key)


def test_synchronised_norm_equals_batch_norm_to_second_derivatives(results):
    """Against torch's own on the whole batch: outputs, running statistics, first and second derivatives."""
    differences = results[2]["norm"]
    assert len(differences) >= 10
    for key, difference in differences.items():
        assert difference < 1e-12, key


def test_features_are_gathered_in_order(results):
    one, three = (results[processes]["features"]["features"] for processes in (1, 3))
    assert one.shape[0] == 40
    torch.testing.assert_close(three, one)


def test_means_are_over_all_processes(results):
    means = results[2]["means"]
    assert means["loss_d"].item() == pytest.approx((0.5 + 1.0 + 5.0) / 2)
    assert means["r1"].item() == pytest.approx(4.0)


def test_an_uneven_batch_is_refused_in_every_process(results):
    assert results[3]["refusal"]["errors"] == [UNEVEN] * 3


def test_collectives_report_a_lost_process(tmp_path):
    results, codes = run_group({"lost_peer": ["lost_peer"]}, 2, tmp_path)
    assert codes[1] == -signal.SIGKILL
    names = ("backward", "all_reduce_sum", "reduce_gradients", "broadcast", "all_gather", "barrier")
    assert results["lost_peer"] == dict.fromkeys(names, ("LostPeerError", True))


def test_lost_processes_are_recognised_by_the_type_of_the_error():
    assert distributed.is_lost_peer(torch.distributed.DistNetworkError("timed out"))
    assert distributed.is_lost_peer(distributed.LostPeerError("connection closed by peer"))
    for text in ("could not restore the state dict", "gloo", "connection reset", "NCCL store timed out"):
        assert not distributed.is_lost_peer(RuntimeError(text))


def test_a_run_continues_with_another_number_of_processes(results, capsys):
    folder = Path(results[2]["train"]["folder"])
    assert losses(folder)[-1][0] == 64
    zoo.train(resume=folder, kimg=0.128, device="cpu")
    assert "processes 2 -> 1" in capsys.readouterr().err
    assert [nimg for nimg, *_ in losses(folder)] == list(range(8, 129, 8))
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_after_a_restart_by_torchrun_new_continues_the_run(tmp_path, monkeypatch, capsys):
    options = {"data": "phantoms:2", "out": tmp_path, "device": "cpu", "set": [*SETTINGS, *CADENCE], "new": True}
    run = zoo.train("dcgan-64", kimg=0.032, **options)
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert zoo.train("dcgan-64", kimg=0.064, **options).path == run.path
    assert f"resuming {run.path} at nimg 32" in capsys.readouterr().out
    assert losses(run.path)[-1][0] == 64


def torchrun(out, *options, processes=2):
    settings = [*SETTINGS, *CADENCE]
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port", free_port()),
        *(*options, "-m", "zoo", "train", "dcgan-64", "--data", "phantoms:2", "--out", str(out), "--device", "cpu"),
        *(word for text in settings for word in ("--set", text)),
    ]


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["nimg"], row["loss_d"], row["loss_g"]) for row in rows]


@pytest.mark.slow
def test_torchrun_restarts_a_killed_worker_and_nothing_is_lost(tmp_path):
    """The group continues from the last checkpoint and ends as an uninterrupted run does."""
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
    output, _ = group.communicate(timeout=240)
    assert group.returncode == 0, output
    assert f"resuming {folder} at nimg " in output
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
    raise AssertionError("there is no such worker")


@pytest.mark.slow
def test_every_process_reports_an_uneven_batch_in_one_line(tmp_path):
    command = torchrun(tmp_path, processes=3)
    result = subprocess.run([*command, "--kimg", "0.064"], capture_output=True, text=True, timeout=240)
    assert result.returncode != 0
    for process in ("", "process 1: ", "process 2: "):
        assert f"zoo: {process}{UNEVEN}\n" in result.stderr
    assert not list(tmp_path.iterdir())
