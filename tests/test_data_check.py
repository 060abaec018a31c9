"""``zoo data check``: numbers, a contact sheet and a histogram."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from zoo.cli.main import main
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.progress import RecordingReporter
from zoo.data.check import check_images, print_check_report
from zoo.data.dataset import load_dataset


def noise(*shape, seed=0, dtype=np.uint8, high=256):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def printed(report):
    console = Console(file=io.StringIO(), width=100)
    print_check_report(report, console)
    return console.file.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    for split, cases in (("train", range(6)), ("test", (5, 6))):
        (root / split).mkdir(parents=True)
        for case in cases:
            Image.fromarray(noise(20, 30, seed=case + 100 * (split == "test"))).save(
                root / split / f"case_{case}_slice_0.png"
            )
    Image.fromarray(noise(16, 16, 3)).save(root / "train" / "case_7_slice_0.png")
    (root / "train" / "case_8_slice_0.png").write_bytes((root / "train" / "case_1_slice_0.png").read_bytes())
    (root / "train" / "case_9_slice_0.png").write_bytes(b"")
    (root / "notes.csv").write_text("a,b")
    return root


def test_report_of_a_set(folder, tmp_path):
    report = check_images(folder, out=tmp_path / "out")
    assert report.images == 10
    assert report.others == 1
    assert report.splits == {"train": 8, "test": 2}
    assert report.subjects == 9
    assert report.sizes == {"30x20": 9, "16x16": 1}
    assert report.modes == {"L": 9, "RGB": 1}
    assert report.bits == {8: 10}
    assert report.range == (0, 255)
    assert report.window is None
    assert report.duplicates == [["train/case_1_slice_0.png", "train/case_8_slice_0.png"]]
    assert (report.near_duplicates, report.near_groups) == (2, 1)
    assert report.shared_subjects == ["case_5"]
    assert [problem.name for problem in report.problems] == ["train/case_9_slice_0.png"]
    images = [noise(20, 30, seed=case) for case in (0, 1, 2, 3, 4, 5, 105, 106, 1)] + [noise(16, 16, 3)]
    counts = np.bincount(np.concatenate([pixels.ravel() for pixels in images]), minlength=256)
    assert report.histogram == counts.tolist()
    assert json.loads(json.dumps(report.to_json()))["images"] == 10
    text = printed(report)
    for text_part in (
        "30x20: 9, 16x16: 1",
        "train: 8, test: 2",
        "an empty file",
        "equal: train/case_1_slice_0.png",
        "case_5",
    ):
        assert text_part in text


@pytest.mark.parametrize("alike", [False, True])
def test_look_alikes_are_explained(tmp_path, alike):
    for index in range(6):
        Image.fromarray(noise(32, 32, seed=0 if alike else index)).save(tmp_path / f"{index}.png")
    text = " ".join(printed(check_images(tmp_path, out=tmp_path / "check")).split())
    assert ("as neighbouring slices of one subject do" in text) == alike


def test_groups_that_are_the_subjects_are_called_so(tmp_path):
    for index in range(6):
        Image.fromarray(noise(32, 32, seed=index // 3)).save(tmp_path / f"case_{index // 3}_slice_{index}.png")
    report = check_images(tmp_path, out=tmp_path / "check")
    assert report.groups_are_subjects
    assert "6 in 2 groups, one for each subject" in printed(report)
    Image.fromarray(noise(32, 32, seed=1)).save(tmp_path / "case_0_slice_9.png")
    assert not check_images(tmp_path, out=tmp_path / "check").groups_are_subjects


@pytest.mark.parametrize(
    ("strays", "subjects", "sentence"),
    [
        ([], 10, ""),
        (["legend.png"], 11, "legend.png: no subject in the name, so each is a subject by itself"),
        (["a.png", "b.png"], None, "subjects are named by 50 of 52 files, too few to use them."),
        ([f"x{index}.png" for index in range(60)], None, ""),  # names of most files hold none: no stray files
    ],
)
def test_files_without_a_subject_are_named(tmp_path, strays, subjects, sentence):
    names = [f"case_{index // 5}_slice_{index % 5}.png" for index in range(50)] + strays
    for index, name in enumerate(names):
        Image.fromarray(noise(8, 8, seed=index)).save(tmp_path / name)
    report = check_images(tmp_path, out=tmp_path / "check")
    assert report.subjects == subjects
    assert report.missing_subjects.startswith(sentence)
    assert bool(report.missing_subjects) == bool(sentence)
    reporter = RecordingReporter()
    load_dataset(tmp_path, DataConfig(resolution=8), reporter=reporter, cache_dir=tmp_path / "cache")
    warnings = [line for line in reporter.lines if "subjects are named" in line]
    assert len(warnings) == (subjects is None and bool(sentence))
    if warnings:
        assert warnings[0].endswith(": a.png, b.png")


def test_the_contact_sheet_and_the_histogram(folder, tmp_path):
    report = check_images(folder, out=tmp_path / "out", resolution=32)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["contact_sheet.png", "histogram.png"]
    assert report.files == [str(tmp_path / "out" / name) for name in ("contact_sheet.png", "histogram.png")]
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.size == (8 * 34 + 2, 2 * 34 + 2)
        assert np.asarray(sheet).max() > 100
    with Image.open(tmp_path / "out" / "histogram.png") as histogram:
        assert histogram.width > 400


def test_deep_images_are_measured(tmp_path):
    images = noise(20, 16, 16, dtype=np.uint16, high=5000)
    np.save(tmp_path / "x.npy", images)
    report = check_images(tmp_path / "x.npy", out=tmp_path / "out")
    assert report.bits == {16: 20}
    assert report.modes == {"uint16": 20}
    assert report.range == (images.min(), images.max())
    assert report.window == tuple(np.percentile(images, [0.5, 99.5], method="inverted_cdf"))
    assert sum(report.histogram) == images.size
    assert report.subjects is None
    json.dumps(report.to_json())
    assert "not contained in names" in printed(report)


def test_a_set_without_usable_images_is_still_reported(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    report = check_images(tmp_path, out=tmp_path / "out")
    assert (report.images, len(report.problems), report.files) == (0, 1, [])
    assert "an empty file" in printed(report)


def test_default_and_unwritable_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_images("phantoms:1", resolution=16)
    assert (tmp_path / "data-check-phantoms-1" / "contact_sheet.png").exists()
    np.save(tmp_path / "my set.npy", noise(3, 8, 8, 5))
    check_images(tmp_path / "my set.npy")
    assert (tmp_path / "data-check-my-set" / "contact_sheet.png").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ZooError, match="cannot be written"):
        check_images("phantoms:1", out=tmp_path / "file" / "out", resolution=16)
    with pytest.raises(ZooError, match="there is no"):
        check_images(tmp_path / "nothing")


def test_the_output_of_a_check_is_not_part_of_the_set(folder, monkeypatch):
    before = check_images(folder, out=folder.parent / "out").images
    monkeypatch.chdir(folder)
    assert check_images(folder).images == before
    assert list(folder.glob("data-check-*/*.png"))
    assert check_images(folder).images == before


def test_the_reported_window_is_the_applied_one(tmp_path):
    mask = np.zeros((4, 16, 16), np.float32)
    mask[0, 0, 0] = 0.5
    np.save(tmp_path / "mask.npy", mask)
    report = check_images(tmp_path / "mask.npy", out=tmp_path / "out")
    assert report.window == load_dataset(tmp_path / "mask.npy", DataConfig(resolution=16)).window == (0.0, 0.5)


def test_a_strict_set_with_a_bad_image_is_unusable(tmp_path, monkeypatch, capsys):
    """Training leaves out damaged files of a folder, but none of an array's images."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).random((6, 16, 16), dtype=np.float32)
    images[3, 0, 0] = np.nan
    np.save("bad.npy", images)
    assert main(["data", "check", "bad.npy"]) == 2
    checked = capsys.readouterr().err
    assert "bad.npy: image 3 holds NaN or infinite values. Replace it or leave it out" in checked
    assert main(["train", "dcgan-64", "--data", "bad.npy", "--set", "train.batch=2"]) == 2
    assert checked.splitlines()[-1] in capsys.readouterr().err
