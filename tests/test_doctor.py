"""`zoo doctor`: what it says is so, and no user is named."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli.doctor import examine_machine, hide_names
from zoo.cli.main import main
from zoo.runtime.device import choose_device
from zoo.training.auto_speed import choose_measured_speed
from zoo.training.profiling import roofline


@pytest.fixture(autouse=True)
def _rates(monkeypatch):
    """Rates as if they were measured, which takes a second."""
    rates = roofline.DeviceRates(fp32=32e9, bf16=64e9, copy=6.25e9)
    monkeypatch.setattr(roofline, "measure_rates", lambda device: rates)


def test_facts_are_right(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "x").write_bytes(bytes(2_500_000))
    facts = examine_machine("dcgan-64", "cpu")
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["machine"]["threads"] == torch.get_num_threads()
    assert facts["rates on cpu"]["bf16"] == "64 billion multiply-adds per second"
    assert facts["rates on cpu"]["copy"] == "6.2 GB/s"
    assert facts["cache"]["sets"] == "2.5 MB in 1 file"
    assert facts["weights"]["fastgan-r3-64"] == "packaged"
    expected = choose_measured_speed(zoo.load_recipe("dcgan-64"), choose_device("cpu")).to_json()
    assert {key: facts["auto for dcgan-64 on cpu"][key] for key in expected} == expected
    assert facts["variables"]["ZOO_CACHE"] == str(tmp_path)
    assert os.environ["ZOO_OFFLINE"] == "1"  # as it was


def test_output(capsys, tmp_path, monkeypatch):
    home = tmp_path / "home" / "alice"
    home.mkdir(parents=True)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setenv("ZOO_CACHE", str(home / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["doctor", "dcgan-64", "--device", "cpu", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["cache"]["folder"] == f"~{os.sep}cache"
    assert main(["doctor", "dcgan-64", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert f"  torch: {metadata.version('torch')}" in text.splitlines()
    for shown in (out, text):
        assert "alice" not in shown
        assert "hf_secret" not in shown
    assert not Path(home / "cache" / "weights").exists()  # nothing was downloaded


def test_names_are_hidden(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "bob")
    home = str(Path.home())
    for text, expected in (
        (f"{home}/x", "~/x"),
        ("/tmp/torch_bob/x", "/tmp/torch_USER/x"),
        ("bobsleigh", "bobsleigh"),
        ("https://bob:pw@host/x", "https://host/x"),
    ):
        assert hide_names({"a": [text][0]}) == {"a": expected}
        assert hide_names({text: 1}) == {expected: 1}
    assert hide_names({"a": 1}) == {"a": 1}


def test_a_cache_that_changes_or_cannot_be_read(monkeypatch, tmp_path):
    from zoo.cli.doctor import _cache

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    (tmp_path / "sets").mkdir()
    for name in ("a", "b"):
        (tmp_path / "sets" / name).write_bytes(b"1")
    original = Path.lstat

    def lstat(path):
        if path.name == "a":  # removed by another process since it was listed
            raise FileNotFoundError(path)
        return original(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert _cache()["sets"] == "0.0 MB in 1 file"

    real = os.scandir
    (tmp_path / "gone").mkdir()

    def scandir(path="."):
        if str(path).endswith("gone"):
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _cache()["gone"] == "0.0 MB in 0 files"

    def closed(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    assert _cache()["content"] == "cannot be read (permission denied)"


@pytest.mark.parametrize(
    ("words", "message"), [(["dcgan-65"], "did you mean 'dcgan-64'"), (["--device", "tpu"], "not on this machine")]
)
def test_errors(words, message, capsys):
    assert main(["doctor", *words]) == 2
    assert message in capsys.readouterr().err
