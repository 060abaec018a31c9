"""`zoo publish`: what is written, completely or not at all, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.core.files import temporary_suffix
from zoo.evaluation.bench import report
from zoo.evaluation.model_card import _alarm_lines, format_card
from zoo.evaluation.publish import _catalogue_entry, _OutputFolder, _read_text
from zoo.evaluation.results import ResultRow
from zoo.evaluation.targets import Target
from zoo.hub import pretrained, upload
from zoo.metrics.alarms import Alarm
from zoo.metrics.evaluate_images import ImageEvaluator
from zoo.metrics.value import MetricValue, missing_value
from zoo.report import image_grid
from zoo.training.generator_file import load_generator_file

QUICK = {"extractors": ["random"], "num_samples": 24, "device": "cpu"}
FILES = ["LICENSE.md", "README.md", "card.json", "config.json", "recipe.yaml", "samples.png", "tiny.safetensors"]


@pytest.fixture
def run(runs):
    return runs / "dcgan-64-000"


@pytest.fixture
def copying(monkeypatch):
    """An evaluator that takes everything for copies."""
    judge = ImageEvaluator.evaluate

    def find_copies(self, *arguments):
        evaluation = judge(self, *arguments)
        alarm = Alarm(name="memorisation", metric="copies_ssim", value=1.0, threshold=0.1, text="All are copies.")
        evaluation.alarms.append(alarm)
        return evaluation

    monkeypatch.setattr(ImageEvaluator, "evaluate", find_copies)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_contains_weights_card_and_generated_images(published, run):
    assert names(published) == FILES
    assert names(published.parent) == ["tiny"]
    generator = zoo.load_generator(published / "tiny.safetensors", precision="fp32")
    assert all(parameter.dtype == torch.float32 for parameter in generator.parameters())
    ours, theirs = generator.sample(16), zoo.load_generator(run, precision="fp32").sample(16)
    assert (ours.int() - theirs.int()).abs().max() <= 3  # fp16 weights
    half, whole = (path.stat().st_size for path in (published / "tiny.safetensors", run / "generator.safetensors"))
    assert half < 0.75 * whole
    with Image.open(published / "samples.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(image_grid.make_grid(ours, 8)))
    entry = pretrained.read_published_folder(published)
    assert (entry.name, entry.nimg, entry.resolution, entry.channels) == ("tiny", 32, 16, 1)
    assert entry.judged.samples == 24
    assert entry.judged.space == "random"
    assert entry.judged.copies_told
    assert {"fid", "kid"} <= entry.metrics.keys()
    assert entry.data.startswith("Trained on phantoms")


def test_card_describes_the_generator(published, run):
    card = (published / "README.md").read_text()
    entry = pretrained.read_published_folder(published)
    for text in ("license: other", "![Generated images 0 to 15 of seed 0](samples.png)", "zoo.load_generator(path)"):
        assert text in card
    for text in (entry.sha256, entry.data, entry.licence, entry.recipe_digest, "| FID (random) |", "(unseen subjects)"):
        assert text in card
    assert str(run.parent) not in card + (published / "card.json").read_text()
    content = json.loads((published / "card.json").read_text())
    assert content["figures"]["fid"]["value"] == pytest.approx(entry.metrics["fid"].value)
    assert "unseen subjects" in content["baselines"]


def test_data_statement_and_licence(run, tmp_path, capsys):
    (tmp_path / "data.txt").write_text("Believed to derive\nfrom OASIS-1.\n")
    words = [str(run), "--to", tmp_path / "x", "--spaces", "random", "--samples", "24", "--device", "cpu", "--json"]
    words += ["--data-statement", tmp_path / "data.txt", "--licence", "As the data."]
    words += ["--training-statement", "An hour on a laptop."]
    assert main(["publish", *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"published": str(tmp_path / "x")}
    assert "warning: untrained: Fakes " in captured.err
    assert "card.json, config.json, dcgan-64.safetensors, recipe.yaml, samples.png" in captured.err
    entry = pretrained.read_published_folder(tmp_path / "x")
    assert (entry.name, entry.data, entry.licence, entry.training) == (
        "dcgan-64",
        "Believed to derive from OASIS-1.",
        "As the data.",
        "An hour on a laptop.",
    )
    assert "## Training\n\nAn hour on a laptop.\n" in (tmp_path / "x" / "README.md").read_text()


def test_the_training_of_a_run_is_described(published, run, tmp_path):
    entry = pretrained.read_published_folder(published)
    assert re.fullmatch(r"\d+ minutes on .+, \d+ threads?\.", entry.training)
    weights = shutil.copy(run / "generator.safetensors", tmp_path / "alone.safetensors")
    zoo.publish(weights, str(tmp_path / "x"), data_statement="Phantoms.", data="phantoms:4", **QUICK)
    assert pretrained.read_published_folder(tmp_path / "x").training == ""
    assert "What it took is not known." in (tmp_path / "x" / "README.md").read_text()


def test_copies_are_refused(run, tmp_path, copying, capsys):
    # 25: results for 24 images are kept from before, without the alarm.
    words = ["publish", run, "--to", tmp_path / "x", "--spaces", "random", "--samples", 25, "--device", "cpu"]
    words = [str(word) for word in words]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "copies training images: All are copies." in error
    assert names(tmp_path) == []
    assert main([*words, "--despite-alarm", "memorization"]) == 2
    assert "did you mean 'memorisation'?" in capsys.readouterr().err
    assert main([*words, "--despite-alarm", "memorisation"]) == 0
    assert "- **memorisation**: All are copies." in (tmp_path / "x" / "README.md").read_text()
    assert "memorisation" in pretrained.read_published_folder(tmp_path / "x").judged.alarms


def test_force_replaces_only_published_folders(run, tmp_path):
    place = tmp_path / "x"
    place.mkdir()
    zoo.publish(run, str(place), name="tiny", **QUICK)
    (place / "old").write_text("")
    with pytest.raises(ZooError, match="--force replaces it"):
        zoo.publish(run, str(place), name="tiny", **QUICK)
    zoo.publish(run, str(place), name="tiny", force=True, **QUICK)
    assert names(place) == FILES
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ZooError, match="was not written by `zoo publish`"):
        zoo.publish(run, str(tmp_path / "mine"), force=True, **QUICK)
    assert names(tmp_path) == ["mine", "x"]


def test_what_a_killed_process_left_is_put_back(run, tmp_path):
    """Killed between the two renames: the earlier publication lies in the folder of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    ending = temporary_suffix().replace(f"-{os.getpid()}.", f"-{process.pid}.")
    old = tmp_path / f"{_OutputFolder(str(tmp_path / 'x'), force=False).prefix}abc{ending}" / "old"
    old.mkdir(parents=True)
    (old / "card.json").write_text("{}")
    for other in ("y", "x-abc", "x-"):
        zoo.publish(run, str(tmp_path / other), name="tiny", **QUICK)
        assert old.is_dir()  # of another target
    with pytest.raises(ZooError, match="--force replaces it"):
        zoo.publish(run, str(tmp_path / "x"), name="tiny", **QUICK)
    assert names(tmp_path / "x") == ["card.json"]
    zoo.publish(run, str(tmp_path / "x"), name="tiny", force=True, **QUICK)
    assert names(tmp_path) == ["x", "x-", "x-abc", "y"]
    assert names(tmp_path / "x") == FILES


def test_failure_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.evaluation.publish.save_png", full)
    with pytest.raises(ZooError, match="cannot be written \\(no space left on device\\)"):
        zoo.publish(run, str(tmp_path / "x"), name="tiny", **QUICK)
    assert names(tmp_path) == []


def test_best_weights_and_files_outside_of_runs(run, tmp_path, monkeypatch):
    from zoo.training.generator_file import save_generator

    generator, recipe, _ = load_generator_file(run / "generator.safetensors")
    best = zoo.Run(run).best_file
    there = best.is_file()
    if not there:
        save_generator(best, generator, recipe=recipe, nimg=16)
    nimg = load_generator_file(best)[2]
    zoo.publish(run, str(tmp_path / "x"), name="tiny", best=True, **QUICK)
    assert pretrained.read_published_folder(tmp_path / "x").nimg == nimg
    if not there:
        best.unlink()
    save_generator(tmp_path / "alone.safetensors", generator, recipe=recipe, nimg=5)
    with pytest.raises(ZooError, match="--data-statement"):
        zoo.publish(tmp_path / "alone.safetensors", str(tmp_path / "y"), **QUICK)
    with pytest.raises(ZooError, match="--best: applies to runs"):
        zoo.publish(tmp_path / "alone.safetensors", str(tmp_path / "y"), best=True, **QUICK)
    named = {"data_statement": "Phantoms.", **QUICK}
    monkeypatch.setenv("ZOO_DATA", "phantoms:3")  # says nothing of these weights
    with pytest.raises(ZooError, match=r"alone: its file does not name the images .* by --data"):
        zoo.publish(tmp_path / "alone.safetensors", str(tmp_path / "y"), **named)
    zoo.publish(tmp_path / "alone.safetensors", str(tmp_path / "y"), data="phantoms:4", **named)
    assert "do not name the images they were trained on" in (tmp_path / "y" / "README.md").read_text()
    assert json.loads((tmp_path / "y" / "card.json").read_text())["trained_on"] == "images that its file does not name"
    assert pretrained.read_published_folder(tmp_path / "y").data == "Phantoms."


@pytest.mark.parametrize("command", ["report", "bench", "publish"])
def test_a_published_folder_is_evaluated_like_its_weights(command, run, tmp_path):
    folder = zoo.load_generator(run).save_pretrained(tmp_path / "brains")
    options = {"data": "phantoms:4", **QUICK}
    if command == "report":
        assert "dcgan-64" in report(folder, out=tmp_path / "page.html", **options).read_text()
    elif command == "bench":
        document = zoo.bench([str(folder)], out=tmp_path / "bench", **options)
        row = document["groups"][0]["rows"][0]
        assert (row["name"], row["error"]) == ("brains", None)
    else:
        zoo.publish(folder, str(tmp_path / "new"), name="tiny", data_statement="Phantoms.", **options)
        assert names(tmp_path / "new") == FILES
    next(folder.glob("*.safetensors")).write_bytes(b"other")
    with pytest.raises(ZooError, match="brains"):
        report(folder, **options)


def test_upload_to_hugging_face(run, monkeypatch):
    """With a stand-in for the API: what is uploaded, and one line for what prevents it."""
    uploaded, there = {}, []

    class Api:
        def __init__(self, endpoint):
            assert endpoint == "https://huggingface.co"

        def repo_exists(self, repo):
            return bool(there)

        def list_repo_files(self, repo):
            return [".gitattributes", *there]

        def repo_info(self, repo):
            return SimpleNamespace(private=False)

        def create_repo(self, repo, exist_ok, private):
            assert exist_ok
            assert private is None  # as the owner's settings say

        def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
            from pathlib import Path

            assert delete_patterns == ([name for name in there if name == "old.safetensors"] or None)

            if "full" in there:
                raise RuntimeError("403 Forbidden\nand more")
            uploaded[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    to = "hf:owner/brains"
    with pytest.raises(ZooError, match="--to hf:owner/brains: ZOO_OFFLINE is set"):
        zoo.publish(run, to, name="tiny", **QUICK)
    monkeypatch.delenv("ZOO_OFFLINE")
    monkeypatch.setattr(upload, "offline_reason", lambda: "")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ZooError, match="no token for Hugging Face"):
        zoo.publish(run, to, name="tiny", **QUICK)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "x")
    with pytest.raises(ZooError, match="must read hf:owner/name"):
        zoo.publish(run, "hf:brains", name="tiny", **QUICK)
    assert zoo.publish(run, to, name="tiny", **QUICK) == "https://huggingface.co/owner/brains"
    assert sorted(uploaded["owner/brains"]) == FILES
    assert b'path = "hf:owner/brains"' in uploaded["owner/brains"]["README.md"]
    there.append("config.json")
    with pytest.raises(ZooError, match=r"has files that `zoo publish` did not write \(config\.json\)"):
        zoo.publish(run, to, name="tiny", force=True, **QUICK)
    there.extend(["card.json", "old.safetensors", "parts/other.safetensors"])
    zoo.publish(run, to, name="tiny", force=True, **QUICK)
    with pytest.raises(ZooError, match=r"already has published weights\. --force replaces them"):
        zoo.publish(run, to, name="tiny", **QUICK)
    with pytest.raises(ZooError, match="is public already"):
        zoo.publish(run, to, name="tiny", force=True, private=True, **QUICK)
    with pytest.raises(ZooError, match=r"--private: .* is a folder"):
        zoo.publish(run, str(run.parent / "out"), name="tiny", private=True, **QUICK)
    there.append("full")
    with pytest.raises(ZooError, match=r"cannot be uploaded \(403 Forbidden\)$"):
        zoo.publish(run, to, name="tiny", force=True, **QUICK)


def test_card_without_heldout_images_says_that_copies_cannot_be_recognised(run):
    values = {
        "fid": MetricValue(value=1.0, n=24),
        "copies_ssim": missing_value("no held-out images", 24),
    }
    row = ResultRow(name="tiny", kind="file", values=values, cost={"nimg": 1}, facts={"samples": 24})
    path = run / "generator.safetensors"
    recipe = load_generator_file(path)[1]
    target = Target(name="tiny", kind="file", group="tiny", weights=path, recipe=recipe)
    group = SimpleNamespace(rows=[row], data=SimpleNamespace(train=[1], unseen=[]))
    entry = _catalogue_entry(target, SimpleNamespace(extractors=[]), group, "x", "y")
    assert not entry.judged.copies_told
    notes = ["inception: not available: put it into /home/me"]
    card = format_card(entry, recipe, _alarm_lines(entry, row.to_json()), "", notes, "x")
    assert "whether it copies is not known" in card
    assert "- inception: not available\n" in card
    assert "/home/me" not in card


@pytest.mark.parametrize("text", ["CC-BY-4.0", "Apache-2.0", "https://opensource.org/license/mit", "MIT"])
def test_a_licence_may_be_a_name_or_an_address(text):
    assert _read_text(text, "--licence") == text


@pytest.mark.parametrize("text", ["licence.txt", "LICENCE.md", "texts/licence"])
def test_a_missing_file_of_text_is_named(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match=rf"--licence {text}: no such file"):
        _read_text(text, "--licence")
