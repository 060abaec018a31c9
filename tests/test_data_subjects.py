"""Subjects, near-duplicates, and that no subject is both trained on and held out."""

import numpy as np
import pytest
from PIL import Image

from zoo.core.config import DataConfig
from zoo.core.progress import SilentReporter
from zoo.data import near_duplicates as module
from zoo.data.dataset import load_dataset
from zoo.data.near_duplicates import NEAR_DUPLICATE_BITS, near_duplicates
from zoo.data.phantoms import phantom
from zoo.data.subjects import find_subjects, hold_out_subjects, natural_sort_key


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def smooth(seed: int, size: int = 48) -> np.ndarray:
    """An image unlike those of other seeds."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6)).astype(np.uint8)
    return np.asarray(Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC))


def write(root, images):
    for name, pixels in images.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (
            ["case_001_slice_0.nii.png", "case_001_slice_1.nii.png", "case_002_slice_0.nii.png"],
            ["case_001"] * 2 + ["case_002"],
        ),
        (["sub-01_ses-1_T1w_3.png", "sub-01_ses-2_T1w.png", "sub-02_T1w.png"], ["sub-01", "sub-01", "sub-02"]),
        (["OAS1_0001_MR1_55.png", "OAS1_0001_MR2_55.png", "OAS1_0002_MR1.png"], ["oas1_0001"] * 2 + ["oas1_0002"]),
        (["patient12_a.png", "Patient12_b.png", "patient3_a.png"], ["patient12", "patient12", "patient3"]),
        (["ab7_slice_1.png", "ab7_slice_2.png", "cd9_slice_1.png"], ["ab7", "ab7", "cd9"]),
        (["x/patient_1/7.png", "x/patient_1/8.png", "y/patient_2/9.png"], ["patient_1", "patient_1", "patient_2"]),
        (["P1/slice_1.png", "P1/slice_2.png", "P2/slice_1.png"], ["P1", "P1", "P2"]),
        (["t1/case_1_slice_0.png", "t2/case_1_slice_0.png", "t1/case_2_slice_0.png"], ["case_1", "case_1", "case_2"]),
        (["normal/1.png", "tumour/1.png", "normal/2.png"], None),  # classes, not people
        (["brain_slice_1.png", "brain_slice_2.png"], None),  # a single subject does not count
        (["1.png", "2.png"], None),
        (["showcase_1.png", "showcase_2.png"], None),
        (["case_1.png", "case_2.png", "something.png"], None),  # fits too few
    ],
)
def test_subjects_from_names(names, subjects):
    assert find_subjects(names) == subjects


def test_a_rare_name_without_a_match_is_a_subject_by_itself():
    names = [f"case_{i}_slice_{j}.png" for i in range(50) for j in range(2)] + ["odd.png"]
    found = find_subjects(names)
    assert found is not None
    assert found[-1] == "odd.png"
    assert len(set(found)) == 51


def test_natural_order():
    names = ["slice_10", "slice_2", "Slice_3", "a/10/b", "a/9/b", "007", "7", ""]
    assert sorted(names, key=natural_sort_key) == ["", "007", "7", "a/9/b", "a/10/b", "slice_2", "Slice_3", "slice_10"]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.1, 17), (0.5, 86), (1.0, 170)])
def test_hold_out_takes_its_share_of_groups(share, count):
    groups = [f"case_{i}" for i in range(171) for _ in range(4)]
    held = hold_out_subjects(groups, share)
    assert abs(len(held) - count) <= 1
    assert held == hold_out_subjects(groups[::-1], share)


def test_hold_out_is_stable_when_subjects_are_added():
    before, after = (hold_out_subjects([f"case_{i}" for i in range(count)], 0.1) for count in (100, 104))
    assert len(before & after) >= 8


def test_hold_out_leaves_training_images():
    assert hold_out_subjects(["a", "a", "a"], 0.1) == frozenset()
    assert len(hold_out_subjects(["a", "b"], 0.1)) == 1
    for seed in range(20):  # whichever comes first by hash, the giant group is not held out
        assert f"giant{seed}" not in hold_out_subjects([f"giant{seed}"] * 90 + ["x", "y", "z"], 0.1)


def test_subjects_are_never_in_both_parts(tmp_path):
    root = write(tmp_path / "set", {f"case_{i}_slice_{j}.png": smooth(i * 3 + j) for i in range(12) for j in range(3)})
    for share in (0.1, 0.3, 0.5):
        data = load_dataset(root, DataConfig(resolution=16, holdout=share))
        assert data.subjects is not None
        assert not {data.subjects[i] for i in data.train} & {data.subjects[i] for i in data.unseen}
        assert sorted([*data.train, *data.unseen]) == list(range(36))
        assert data.train.dtype == data.unseen.dtype == np.int64
    assert len(load_dataset(root, DataConfig(resolution=16, holdout=0)).unseen) == 0
    one, other = (load_dataset(root, DataConfig(resolution=r)) for r in (16, 24))
    np.testing.assert_array_equal(one.unseen, other.unseen)
    assert "36 images of 12 subjects, 1 subject (3 images) held out" in one.description


def test_near_duplicates_stay_together_without_subjects(tmp_path):
    rng = np.random.default_rng(0)
    images = {}
    for group in range(10):
        base = smooth(group)
        for copy in range(4):  # re-encoded, a little noisier, a little brighter
            noisy = base + rng.normal(0, 1, base.shape) + copy
            images[f"{len(images):02d}.{'jpg' if copy % 2 else 'png'}"] = noisy.clip(0, 255).astype(np.uint8)
    data = load_dataset(write(tmp_path / "set", images), DataConfig(resolution=16))
    assert data.subjects is None
    assert "40 images in 10 groups of near-duplicates, 1 group (4 images) held out" in data.description
    assert len({int(data.names[i][:2]) // 4 for i in data.unseen}) == 1
    everything = load_dataset(tmp_path / "set", DataConfig(resolution=16, holdout=0))
    assert everything.description.endswith("40 images, none held out")


def write_class_folders(kind, root):
    """Two classes of four people each, some images of a person; return the person of an image by its name."""
    people = [(f"grade{1 + index // 4}", index) for index in range(8)]
    if kind == "png":  # the same names in both folders: without classes these would be subjects
        for folder, person in people:
            base = smooth(person, 32)
            write(root, {f"{folder}/{2 * (person % 4) + copy}.png": base // 2 + 8 * copy for copy in range(2)})
        return lambda name: f"{name.split('/')[0]} {int(name.split('/')[1].split('.')[0]) // 2}"
    for folder, person in people:
        volume = np.stack([smooth(10 * person + k, 16) for k in range(6)], axis=-1).astype(np.int16)
        if kind == "nifti":
            nibabel = pytest.importorskip("nibabel", reason="NIfTI needs the extra [medical]")
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / folder / f"scan{person % 4}.nii")
        else:
            pytest.importorskip("pydicom", reason="DICOM needs the extra [medical]")
            from tests.test_data_dicom import write_series

            patient = {"patient": f"P{person}", "series": f"1.2.{person}", "suffix": f"-{person}.dcm"}
            write_series(root / folder, volume, **patient)
    return lambda name: name.rpartition("#")[0]


@pytest.mark.parametrize("kind", ["png", "nifti", "dicom"])
def test_folders_that_are_classes_leave_people_whole(kind, tmp_path):
    """Classes are no subjects, but images of one person stay together: by file, by the header, or by likeness."""
    person = write_class_folders(kind, tmp_path / "set")
    options = {"slices": "all"} if kind != "png" else {}
    data = load_dataset(tmp_path / "set", DataConfig(resolution=16, labels="folder", holdout=0.25, **options))
    trained, heldout = ({person(data.names[i]) for i in part} for part in (data.train, data.unseen))
    assert len(trained | heldout) == 8
    assert heldout
    assert not trained & heldout
    assert ("near-duplicates" in data.description) == (kind == "png")


def test_people_who_look_alike_stay_apart_at_any_size(tmp_path):
    """Near-duplicates are found on the images as stored: at 28 pixels all heads are alike."""
    for subject in range(12):
        for slice_ in (14, 15):
            path = tmp_path / "set" / f"grade{1 + subject // 6}" / f"{subject % 6}_{slice_}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(phantom(subject, slice_, 128)).save(path)
    found = [load_dataset(tmp_path / "set", DataConfig(resolution=side, labels="folder")) for side in (16, 28, 128)]
    assert len({data.description for data in found}) == 1
    assert "near-duplicates" in found[0].description
    assert len(found[0].unseen) == len(found[2].unseen) > 0
    trained, heldout = ({found[1].names[i].split("_")[0] for i in part} for part in (found[1].train, found[1].unseen))
    assert not trained & heldout


def test_no_subjects_by_word_are_no_groups_of_near_duplicates(tmp_path):
    root = write(tmp_path / "set", {f"case_{i // 4}_slice_{i % 4}.png": smooth(i // 4) for i in range(40)})
    assert load_dataset(root, DataConfig(resolution=16)).description.endswith("1 subject (4 images) held out")
    data = load_dataset(root, DataConfig(resolution=16, subjects="none"))
    assert data.description.endswith("40 images, 4 held out")


def brute_force(hashes):
    bits = np.unpackbits(hashes, axis=1).astype(int)
    near = np.abs(bits[:, None] - bits[None]).sum(-1) <= NEAR_DUPLICATE_BITS
    group = np.arange(len(hashes))
    for _ in hashes:
        group = np.array([group[row].min() for row in near])
    return group


@pytest.mark.parametrize("tile", [3, 16, 2048])
@pytest.mark.parametrize("projected", [False, True])
def test_groups_are_those_of_brute_force(tile, projected, monkeypatch):
    monkeypatch.setattr(module, "MIN_PROJECTED", 0 if projected else 1000)
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (9, 1024))[rng.integers(0, 9, 60)]
    bits ^= rng.random(bits.shape) < rng.choice([0.0, 0.02, 0.045], (60, 1))
    hashes = np.packbits(bits.astype(np.uint8), axis=1)
    found = near_duplicates(hashes, SilentReporter(), tile)
    np.testing.assert_array_equal(found, brute_force(hashes))
    assert 1 < len(set(found)) < 60


@pytest.mark.parametrize(("apart", "groups"), [(NEAR_DUPLICATE_BITS, 1), (NEAR_DUPLICATE_BITS + 1, 2)])
def test_groups_reach_exactly_to_the_threshold(apart, groups):
    bits = np.zeros((2, 1024), np.uint8)
    bits[1, :apart] = 1
    assert len(set(near_duplicates(np.packbits(bits, axis=1), SilentReporter(), tile=1))) == groups


def test_files_and_subjects_in_two_splits_are_not_held_out(tmp_path):
    images = {f"train/case_{i}_slice_0.png": smooth(i) for i in range(4)}
    images |= {"test/case_3_slice_9.png": smooth(9), "test/case_8_slice_0.png": smooth(2)}
    images["test/case_7_slice_0.png"] = smooth(7)
    warnings = []

    class Log(SilentReporter):
        def warn(self, message):
            warnings.append(message)

    data = load_dataset(write(tmp_path / "set", images), DataConfig(resolution=16), reporter=Log())
    assert (len(data.train), len(data.unseen)) == (4, 1)
    assert data.names[data.unseen[0]] == "test/case_7_slice_0.png"
    reasons = {problem.name: problem.reason for problem in data.problems}
    assert "the same file as train/case_2_slice_0.png" in reasons["test/case_8_slice_0.png"]
    assert "both trained on and held out" in reasons["case_3"]
    assert len(warnings) == 2


def test_no_holdout_trains_on_all_split_folders(tmp_path):
    images = {
        f"{split}/case_{i}_slice_0.png": smooth(i) for i, split in enumerate(["train", "train", "validate", "test"])
    }
    folder = write(tmp_path / "set", images)
    data = load_dataset(folder, DataConfig(resolution=16, holdout=0))
    assert (len(data.train), len(data.unseen)) == (4, 0)
    assert "none held out" in data.description
    assert data.digest != load_dataset(folder, DataConfig(resolution=16)).digest


def test_held_out_share_is_rounded_to_whole_subjects():
    groups = [f"s{number}" for number in range(40) for _ in range(3)]
    assert [len(hold_out_subjects(groups, share)) for share in (0.0, 0.01, 0.1, 0.26)] == [0, 1, 4, 10]
