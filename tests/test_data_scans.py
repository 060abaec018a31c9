"""Volumes: orientation, slices, windows, subjects and names of NIfTI and DICOM."""

import numpy as np
import pytest

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.progress import SilentReporter
from zoo.data.dataset import load_dataset
from zoo.data.slices import SliceChoice
from zoo.data.sources.registry import open_source
from zoo.data.sources.source import SourceOptions

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs the extra [medical]")

SHAPE = (5, 6, 7)  # right, front, top


class Recorder(SilentReporter):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)

    warn = say


def ramp(shape=SHAPE):
    """A volume in RAS in which each voxel has another value."""
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(np.int16)


def save_nifti(path, volume, codes="RAS", spacing=(1, 1, 1), **header):
    """Store a volume that is in RAS in another orientation."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -10, -20, -30
    image = nibabel.Nifti1Image(volume, affine)
    stored = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        )
    )
    for name, value in header.items():
        stored.header[name] = value
    nibabel.save(stored, path)


def slices_of(path, **options):
    source = open_source(path, SourceOptions(**options))
    return np.stack([source.raw(index) for index in range(len(source.names))])


def axial(volume):
    """Slices from bottom to top: front on top, right on the left."""
    return np.stack([volume[::-1, ::-1, z].T for z in range(volume.shape[2])])


def coronal(volume):
    return np.stack([volume[::-1, y, ::-1].T for y in range(volume.shape[1])])


def sagittal(volume):
    return np.stack([volume[x, ::-1, ::-1].T for x in range(volume.shape[0])])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL", "ASL"])
@pytest.mark.parametrize("cut", [axial, coronal, sagittal])
def test_any_stored_orientation_gives_the_same_slices(tmp_path, codes, cut):
    save_nifti(tmp_path / "v.nii.gz", ramp(), codes)
    found = slices_of(tmp_path / "v.nii.gz", axis=cut.__name__, slices="all")
    assert found.dtype == np.float32
    assert np.array_equal(found, cut(ramp()))


def test_slices_are_chosen_by_content_index_share_and_mm(tmp_path):
    volume = np.zeros((8, 8, 10), np.float32)
    volume[2:6, 2:6, 3:7] = 100
    volume[2, 2, 1] = 100  # one bright pixel of 16 is more than 5 %, of 64 it is not
    volume[1:7, 1:7, 5] = 90
    save_nifti(tmp_path / "v.nii", volume, spacing=(1, 1, 2))  # slices at -30, -28, ..., -12 mm
    expected = {
        None: range(3, 7),
        "all": range(10),
        "2..4": range(2, 4),
        "-2..": range(8, 10),
        "..3": range(3),
        "20%..50%": range(2, 5),
        "-28mm..-24 mm": range(1, 4),
        "..-28mm": range(2),
    }
    for choice, used in expected.items():
        assert np.array_equal(slices_of(tmp_path / "v.nii", slices=choice), axial(volume)[list(used)]), choice


@pytest.mark.parametrize("text", ["", "..", "5", "5..2", "1mm..2%", "some", "a..b", "40:120"])
def test_a_wrong_choice_of_slices_is_one_line(text):
    with pytest.raises(ZooError, match=r"^data\.slices: .* is neither 'all' nor a range such as"):
        SliceChoice.parse(text)


def test_pixels_become_square(tmp_path):
    volume = np.repeat(np.arange(4, dtype=np.float32)[None, None], 4, axis=0).repeat(4, axis=1)
    save_nifti(tmp_path / "v.nii", volume, spacing=(1, 1, 3))
    found = slices_of(tmp_path / "v.nii", axis="coronal", slices="all")
    assert found.shape == (4, 12, 4)
    centres = np.clip((np.arange(12) + 0.5) / 3 - 0.5, 0, 3)[::-1]  # linear between the centres of the voxels
    assert np.allclose(found[0], centres[:, None], atol=1e-6)
    assert slices_of(tmp_path / "v.nii", slices="all").shape == (4, 4, 4)


def test_scale_and_bytes_are_kept(tmp_path):
    save_nifti(tmp_path / "bytes.nii", ramp().astype(np.uint8))
    assert slices_of(tmp_path / "bytes.nii").dtype == np.uint8
    image = nibabel.Nifti1Image(ramp(), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nibabel.save(image, tmp_path / "ct.nii")
    assert np.array_equal(slices_of(tmp_path / "ct.nii", slices="all"), axial(ramp() * 2.0 - 1024))


def test_complex_values_are_refused(tmp_path):
    save_nifti(tmp_path / "x.nii", (ramp() * (3 + 4j)).astype(np.complex64))
    with pytest.raises(ZooError, match="complex64 values are not intensities"):
        slices_of(tmp_path / "x.nii")


def test_a_link_to_a_file_without_a_suffix_is_read_by_its_own(tmp_path):
    """As tools that keep files by their hash make them."""
    save_nifti(tmp_path / "x.nii", ramp())
    (tmp_path / "store").mkdir()
    (tmp_path / "x.nii").rename(tmp_path / "store" / "abcdef")
    (tmp_path / "x.nii").symlink_to(tmp_path / "store" / "abcdef")
    assert np.array_equal(slices_of(tmp_path / "x.nii", slices="all"), axial(ramp()))


def test_windows_per_set_volume_and_range(tmp_path):
    (tmp_path / "set").mkdir()
    for number, scale in enumerate((1, 10)):
        save_nifti(tmp_path / "set" / f"sub-{number}.nii", (ramp((16, 16, 16)) * 1.0 * scale).astype(np.float32))
    config = DataConfig(resolution=16, slices="all", holdout=0.0)
    means = {}
    for window in (None, "volume", (0.0, 40960.0)):
        data = load_dataset(
            tmp_path / "set", DataConfig(**{**vars(config), "window": window}), cache_dir=tmp_path / "cache"
        )
        means[window] = data.images[:16].mean(), data.images[16:].mean()
        assert (data.window is None) == (window == "volume")
    assert means["volume"][0] == means["volume"][1]
    assert means[None][0] < means[None][1] / 5
    assert means[(0.0, 40960.0)] == pytest.approx((12.3, 127.5), abs=1)


def test_a_set_says_what_was_decided_and_holds_out_subjects(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for subject in range(4):
        for visit in range(2):
            save_nifti(folder / f"sub-{subject}_ses-{visit}.nii.gz", ramp((16, 16, 16)) * (subject + 1))
    (folder / "sub-7.nii.gz").write_bytes(b"damaged")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4, 3)), np.eye(4)), folder / "sub-8.nii")
    reporter = Recorder()
    data = load_dataset(folder, DataConfig(resolution=16, holdout=0.25), reporter=reporter, cache_dir=tmp_path / "c")
    assert len(set(data.subjects)) == 4
    assert not {data.subjects[i] for i in data.train} & {data.subjects[i] for i in data.unseen}
    assert {problem.name: problem.reason for problem in data.problems} == {
        "sub-7.nii.gz": "damaged, or no NIfTI or MGH file",
        "sub-8.nii": "a 4-D volume (4 x 4 x 4 x 3), such as a time series; save one 3-D volume per file",
    }
    said = " ".join(reporter.lines)
    for key in ("data.axis", "data.slices", "data.window", "one subject per patient or file"):
        assert key in said
    again = load_dataset(folder, DataConfig(resolution=16, holdout=0.25), cache_dir=tmp_path / "c")
    assert again.digest == data.digest


def test_keys_of_volumes_are_refused_elsewhere(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 16, 16), np.uint8))
    for key in ({"axis": "coronal"}, {"slices": "all"}, {"window": "volume"}):
        with pytest.raises(ZooError, match=r"^data\..*has no volumes"):
            load_dataset(tmp_path / "x.npy", DataConfig(resolution=16, **key), cache_dir=tmp_path / "c")
    save_nifti(tmp_path / "x.nii", ramp())
    with pytest.raises(ZooError, match=r"data\.window: the type of NIfTI"):
        load_dataset(tmp_path / "x.nii", DataConfig(resolution=16, window="dtype"), cache_dir=tmp_path / "c")


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch):
    import importlib.util

    save_nifti(tmp_path / "x.nii", ramp())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ZooError, match=r"needs the package nibabel: pip install 'gan-zoo\[medical\]'"):
        open_source(tmp_path / "x.nii", SourceOptions())


def test_new_keys_leave_digests_as_they_were():
    from zoo.recipes import load_recipe

    plain = load_recipe("dcgan-64").digest
    assert load_recipe("dcgan-64", ["data.axis=axial", "data.slices=null"]).digest == plain
    assert (
        len({plain, *(load_recipe("dcgan-64", [key]).digest for key in ("data.axis=coronal", "data.slices=all"))}) == 3
    )


def test_a_check_shows_a_row_of_slices_per_volume(tmp_path):
    from PIL import Image

    from zoo.data.check import check_images

    folder = tmp_path / "set"
    folder.mkdir()
    for number, level in enumerate((250, 40, 120)):
        volume = np.zeros((16, 16, 20), np.uint8)
        volume[2:14, 2:14, 4:16] = level
        save_nifti(folder / f"sub-{number}.nii", volume)
    report = check_images(folder, out=tmp_path / "check", resolution=16)
    assert (report.images, report.subjects) == (36, 3)
    sheet = np.asarray(Image.open(tmp_path / "check" / "contact_sheet.png").convert("L"))
    assert sheet.shape == (3 * 18 + 2, 8 * 18 + 2)
    assert [sheet[10 + 18 * row, 10 + 18 * column] for row in range(3) for column in (0, 7)] == [
        250,
        250,
        40,
        40,
        120,
        120,
    ]
