"""Checkpoints are whole or not there, the newest whole one counts, and loading runs no code."""

import os
import pickle
import resource
import signal
import subprocess
import sys

import pytest
import torch

import zoo
from zoo.core.errors import ZooError
from zoo.recipes import build_networks
from zoo.training import checkpoint, generator_file
from zoo.training.loop import DivergedError
from zoo.training.trainer import Trainer

TINY = [
    "data.resolution=16",
    "generator.width=0.125",
    "discriminator.width=0.125",
    "train.batch=8",
    "train.log_kimg=0.024",
    "train.sample_kimg=0.08",
    "train.checkpoint_kimg=0.04",
]


def train(out, *more, name="dcgan-64", **options):
    return zoo.train(name, data="phantoms:2", out=out, device="cpu", set=[*TINY, *more], **options)


def state(value):
    return {"value": torch.full((4,), float(value)), "number": value}


def test_round_trip_and_the_last_k(tmp_path):
    for nimg in (8, 16, 1024):
        checkpoint.save_checkpoint(tmp_path, nimg, state(nimg), keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"nimg-{n:012d}.pt{end}" for n in (16, 1024) for end in ("", ".sha256")]
    loaded = checkpoint.load_newest_checkpoint(tmp_path, pytest.fail)
    assert loaded["number"] == 1024
    assert torch.equal(loaded["value"], torch.full((4,), 1024.0))


def test_sums_are_in_the_format_of_sha256sum(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, 8, state(8), keep=2)
    subprocess.run(["sha256sum", "--check", f"{path.name}.sha256"], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "no sum", "damaged sum"])
def test_a_damaged_newest_falls_back_with_a_warning(damage, tmp_path):
    for nimg in (8, 16):
        path = checkpoint.save_checkpoint(tmp_path, nimg, state(nimg), keep=2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flip":
            path.write_bytes(content)
        case "truncate":
            path.write_bytes(content[:-100])
        case "empty":
            path.write_bytes(b"")
        case "no sum":
            path.with_name(path.name + ".sha256").unlink()
        case "damaged sum":
            path.with_name(path.name + ".sha256").write_bytes(b"\xff\xfe\x00")
    warnings = []
    assert checkpoint.load_newest_checkpoint(tmp_path, warnings.append)["number"] == 8
    assert len(warnings) == 1
    assert path.name in warnings[0]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_damaged_checkpoints_never_take_the_place_of_intact_ones(keep, tmp_path):
    """Resumed from the intact one, a run saves earlier than the damaged one was."""
    checkpoint.save_checkpoint(tmp_path, 8, state(8), keep=9)
    checkpoint.save_checkpoint(tmp_path, 32, state(32), keep=9).write_bytes(b"torn")
    warnings = []
    assert checkpoint.load_newest_checkpoint(tmp_path, warnings.append, lambda path, state: None)["number"] == 8
    assert len(warnings) == 1
    kept = checkpoint.save_checkpoint(tmp_path, 16, state(16), keep=keep)
    assert checkpoint.load_newest_checkpoint(tmp_path, pytest.fail)["number"] == 16
    assert checkpoint.newest_checkpoint(tmp_path) == kept
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    intact = ["nimg-000000000016.pt"] if keep == 1 else ["nimg-000000000008.pt", "nimg-000000000016.pt"]
    assert names == ["damaged-nimg-000000000032.pt", *intact]


def test_the_newest_checkpoint_is_kept_next_to_later_ones(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 32, state(32), keep=1)
    assert checkpoint.save_checkpoint(tmp_path, 16, state(16), keep=1).is_file()
    assert [path.name for path in tmp_path.glob("*.pt")] == ["nimg-000000000016.pt"]


def test_nothing_whole_is_an_error_and_nothing_at_all_is_none(tmp_path):
    assert checkpoint.load_newest_checkpoint(tmp_path, pytest.fail) is None
    checkpoint.save_checkpoint(tmp_path, 8, state(8), keep=2).write_bytes(b"x")
    with pytest.raises(ZooError, match="none of the 1 checkpoints can be read"):
        checkpoint.load_newest_checkpoint(tmp_path, lambda message: None)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(as_zip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    if as_zip:
        torch.save({"trainer": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ZooError, match="evil"):
        checkpoint.load_tensors(path)
    with pytest.raises(ZooError, match="evil"):
        zoo.train("dcgan-64", data="phantoms:2", out=tmp_path, set=[*TINY, f"train.init_from={path}"])
    assert not (tmp_path / "pwned").exists()


def test_a_malicious_checkpoint_in_a_run_is_refused(tmp_path, monkeypatch, capfd):
    """Even with a sum that matches."""
    import hashlib

    monkeypatch.chdir(tmp_path)
    run = train(tmp_path, "train.kimg=0.08")
    for path in run.state.glob("*.pt"):
        torch.save({"trainer": Malicious()}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
    with pytest.raises(ZooError, match="none of the 2 checkpoints"):
        zoo.train(resume=run.path, kimg=0.16)
    assert "would run code" in capfd.readouterr().err
    assert not (tmp_path / "pwned").exists()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from zoo.training import checkpoint
from zoo.core.errors import ZooError
folder = Path(sys.argv[1])
checkpoint.save_checkpoint(folder, 8, {"number": 8}, keep=2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # no file beyond a megabyte, as on a disk that fills up
try:
    checkpoint.save_checkpoint(folder, 16, {"number": 16, "big": torch.zeros(1 << 20)}, keep=2)
except ZooError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_the_previous_checkpoint_is_intact(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)
    assert "cannot write the checkpoint (file too large)" in done.stdout
    assert "nimg-000000000008.pt is intact" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "nimg-000000000008.pt",
        "nimg-000000000008.pt.sha256",
    ]
    assert checkpoint.load_newest_checkpoint(tmp_path, pytest.fail)["number"] == 8


def test_saving_twice_at_one_count_keeps_what_is_whole_and_replaces_what_is_not(tmp_path):
    path = checkpoint.save_checkpoint(tmp_path, 8, state(8), keep=2)
    before = path.stat().st_mtime_ns
    assert checkpoint.save_checkpoint(tmp_path, 8, state(8), keep=2) == path
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"damaged")
    checkpoint.save_checkpoint(tmp_path, 8, state(8), keep=2)
    assert checkpoint.load_checkpoint(path)["number"] == 8


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ZooError, match=r"cannot write the checkpoint \(.*\); there was no earlier checkpoint"):
        checkpoint.save_checkpoint(tmp_path / "file", 8, state(8), keep=2)


@pytest.mark.parametrize("limit", [20_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_pictures_on_a_full_disk_are_one_line_too(limit, tmp_path):
    """The first grid, or the generator's file, does not fit."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    train(tmp_path / "other", "train.kimg=0.008")  # fills the image cache
    command = [sys.executable, "-m", "zoo", "train", "dcgan-64", "--data", "phantoms:2", "--out", str(tmp_path)]
    command += ["--device", "cpu", "--kimg", "0.08", *(word for text in TINY for word in ("--set", text))]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 2
    assert "cannot be written (file too large); no checkpoint was written yet" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert zoo.Run(tmp_path / "dcgan-64-000").info["status"] == "failed"


def test_training_on_a_full_disk_exits_with_one_line(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # the generator fits, the state does not

    command = [sys.executable, "-m", "zoo", "train", "dcgan-64", "--data", "phantoms:2", "--out", str(tmp_path)]
    command += ["--device", "cpu", "--kimg", "0.08", *(word for text in TINY for word in ("--set", text))]
    command[command.index("generator.width=0.125")] = "generator.width=0.5"
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2
    assert "cannot write the checkpoint" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    run = zoo.Run(tmp_path / "dcgan-64-000")
    assert run.info["status"] == "failed"
    assert not list(tmp_path.rglob("*.tmp"))


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    original = Trainer.step

    def step(self):
        original(self)
        if self.nimg == 96:
            with torch.no_grad():
                next(self.D.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(DivergedError, match=r"became NaN or infinite by nimg 96.*nimg-000000000080\.pt"):
        train(tmp_path, "train.kimg=0.16")
    run = zoo.Run(tmp_path / "dcgan-64-000")
    assert run.info["status"] == "failed"
    assert checkpoint.load_newest_checkpoint(run.state, pytest.fail)["trainer"]["nimg"] == 80


def test_resume_falls_back_past_a_damaged_checkpoint(tmp_path, capfd):
    run = train(tmp_path, "train.kimg=0.08")
    checkpoint.newest_checkpoint(run.state).write_bytes(b"gone")
    zoo.train(resume=run.path)
    out, err = capfd.readouterr()
    assert out == f"resuming {run.path} at nimg 40\n"
    assert "is damaged" in err
    rows = run.rows()
    assert [row["nimg"] for row in rows] == [24, 48, 72, 80]


@pytest.mark.slow
def test_fine_tuning_lists_what_does_not_match(tmp_path, capfd):
    first = train(tmp_path, "train.kimg=0.08")
    for source in (first.path, first.generator_file):
        other = train(tmp_path, "train.kimg=0.04", "data.channels=3", f"train.init_from={source}")
        err = capfd.readouterr().err
        assert "fresh weights, because missing in the source or of another shape: layers." in err
        assert other.info["status"] == "finished"
    with pytest.raises(ZooError, match=r"train\.init_from: no tensor in .* fits"):
        train(tmp_path, f"train.init_from={first.generator_file}", "generator.width=0.3")
    before = sorted(tmp_path.iterdir())
    for content in (torch.zeros(1), [1], {"trainer": {}}, {"x": 1}):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(ZooError, match=r"train\.init_from: .*odd\.pt"):
            train(tmp_path, f"train.init_from={tmp_path / 'odd.pt'}")
    (tmp_path / "odd.pt").unlink()
    with pytest.raises(ZooError, match=r"train\.init_from: nowhere does not exist"):
        train(tmp_path, "train.init_from=nowhere")
    assert sorted(tmp_path.iterdir()) == before  # no run was begun


def test_fine_tuning_starts_from_the_weights(tmp_path):
    first = train(tmp_path, "train.kimg=0.08")
    other = train(
        tmp_path, "train.kimg=0.008", f"train.init_from={first.path}", "optimizer.generator.lr=0", "train.seed=1"
    )
    a, b = (
        checkpoint.load_checkpoint(checkpoint.newest_checkpoint(run.state))["trainer"]["generator"]
        for run in (first, other)
    )
    for name, value in a.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(b[name], value), name


def test_generator_files_say_what_is_wrong(tmp_path):
    run = train(tmp_path, "train.kimg=0.04")
    for name, content in (("cut", run.generator_file.read_bytes()[:500]), ("empty", b""), ("text", b"hello" * 10)):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ZooError, match="is not a safetensors file, or damaged"):
            generator_file.load_generator_file(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ZooError, match="no recipe in its metadata"):
        generator_file.load_generator_file(tmp_path / "bare.safetensors")
    for recipe in ("{", "[]", "3"):
        save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors", {"recipe": recipe})
        with pytest.raises(ZooError, match=r"odd\.safetensors"):
            generator_file.load_generator_file(tmp_path / "odd.safetensors")


def test_a_generator_of_other_weights_than_it_was_written_with_is_refused(tmp_path):
    import safetensors
    import safetensors.torch

    recipe = zoo.load_recipe("multires-28", ["generator.width=0.05"])
    generator, _ = build_networks(recipe)
    path = tmp_path / "g.safetensors"
    generator_file.save_generator(path, generator, recipe=recipe, nimg=7, metric="kid")
    assert generator_file.load_generator_file(path)[2] == 7
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["metric"] == "kid"
    tensors = safetensors.torch.load_file(path)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    with pytest.raises(ZooError, match="wrong hash"):
        generator_file.load_generator_file(path)


def test_half_precision_keeps_what_it_would_spoil_and_loads_as_single(tmp_path):
    import safetensors.torch

    recipe = zoo.load_recipe("dcgan-64", ["data.resolution=16", "generator.width=0.125"])
    generator, _ = build_networks(recipe)
    state = generator.state_dict()
    variances = [name for name in state if name.endswith("running_var")]
    state[variances[0]].fill_(1e-7)  # below the normal numbers of fp16
    weight = next(name for name, parameter in generator.named_parameters() if parameter.dim() == 4)
    state[weight].view(-1)[0] = 1e-9  # nothing beside the others
    bias = next(name for name, parameter in generator.named_parameters() if parameter.dim() == 1)
    state[bias][0] = 70_000.0  # more than fp16 holds
    path, whole = tmp_path / "half.safetensors", tmp_path / "whole.safetensors"
    generator_file.save_generator(path, generator, recipe=recipe, nimg=7, dtype=torch.float16)
    generator_file.save_generator(whole, generator, recipe=recipe, nimg=7)
    kept = {name for name, tensor in safetensors.torch.load_file(path).items() if tensor.dtype == torch.float32}
    assert kept == {variances[0], bias}
    assert path.stat().st_size < 0.6 * whole.stat().st_size
    loaded = generator_file.load_generator_file(path)[0].state_dict()
    for name, tensor in loaded.items():
        assert tensor.dtype == state[name].dtype
        torch.testing.assert_close(tensor, state[name], rtol=5e-4, atol=1e-6)
    assert torch.equal(generator_file.load_generator_file(whole)[0].state_dict()[weight], state[weight])
