"""DICOM: geometry, values, series, damaged files, and that nothing shows who the patients are."""

import numpy as np
import pytest

from tests.test_data_scans import SHAPE, axial, coronal, ramp, sagittal
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.progress import SilentReporter
from zoo.data.check import check_images
from zoo.data.dataset import load_dataset
from zoo.data.sources.registry import open_source
from zoo.data.sources.source import SourceOptions

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra [medical]")
pytest.importorskip("nibabel", reason="DICOM needs the extra [medical]")

NAME, NUMBER = "Doe^Jonathan", "MRN-4711"


def write_file(path, pixels, *, number=1, orientation=None, position=None, patient=NUMBER, series="1.2.3", **more):
    """Write an image (H, W), or frames (N, H, W)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = MRImageStorage, f"{series}.{number}", series
    data.PatientID, data.PatientName, data.InstanceNumber = patient, NAME, number
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    if orientation is not None:
        data.ImageOrientationPatient, data.ImagePositionPatient = list(orientation), list(position)
        data.PixelSpacing, data.SliceThickness = [1, 1], 1
    data.PixelData = pixels.tobytes()
    for key, value in more.items():
        setattr(data, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path)


def write_series(folder, volume, plane="axial", suffix=".dcm", **more):
    """Write a volume in RAS as slices, in an order that is not that of their positions."""
    flipped = volume[::-1, ::-1]  # LPS
    planes = {  # slices (H, W), directions of a row and a column in LPS
        "axial": (lambda k: flipped[:, :, k].T, (1, 0, 0, 0, 1, 0), 2, (0, 0)),
        "coronal": (lambda k: flipped[:, k, ::-1].T, (1, 0, 0, 0, 0, -1), 1, (0, volume.shape[2] - 1)),
        "sagittal": (lambda k: flipped[k, :, ::-1].T, (0, 1, 0, 0, 0, -1), 0, (0, volume.shape[2] - 1)),
    }
    cut, orientation, axis, start = planes[plane]
    count = volume.shape[axis]
    for number, k in enumerate(np.random.default_rng(0).permutation(count)):
        position = [*start]
        position.insert(axis, k)
        more_of = {"orientation": orientation, "position": position, **more}
        write_file(folder / f"{NUMBER}_{number}{suffix}", cut(int(k)), number=number + 1, **more_of)


def slices_of(path, **options):
    source = open_source(path, SourceOptions(slices="all", **options))
    return np.stack([source.raw(index) for index in range(len(source.names))])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_a_series_gives_the_slices_of_its_volume(tmp_path, plane, suffix):
    write_series(tmp_path / "set", ramp(), plane, suffix)
    for cut in (axial, coronal, sagittal):
        assert np.array_equal(slices_of(tmp_path / "set", axis=cut.__name__), cut(ramp())), cut


def test_values_are_rescaled_and_white_zero_is_inverted(tmp_path):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    cases = {
        "plain": ({}, pixels),
        "ct": ({"RescaleSlope": 2, "RescaleIntercept": -1024}, pixels * 2.0 - 1024),
        "inverted": ({"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}, 4095.0 - pixels),
    }
    for name, (more, expected) in cases.items():
        write_file(tmp_path / name, pixels, **more)
        found = slices_of(tmp_path / name)
        assert found.dtype == np.float32
        assert np.array_equal(found[0], expected), name
    write_file(tmp_path / "bytes.dcm", pixels.astype(np.uint8), PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(slices_of(tmp_path / "bytes.dcm")[0], 255 - pixels)
    assert slices_of(tmp_path / "bytes.dcm").dtype == np.uint8


def transformations(*scales):
    """Functional groups with a slope and an intercept each."""
    from pydicom.dataset import Dataset

    groups = []
    for slope, intercept in scales:
        scale, group = Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slope, intercept, "US"
        group.PixelValueTransformationSequence = [scale]
        groups.append(group)
    return groups


def test_scales_of_enhanced_files_are_those_of_each_frame(tmp_path):
    frames = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    scales = np.array([(1, -1024), (2, 0), (0.5, 10)])
    own = frames * scales[:, :1, None] + scales[:, 1:, None]
    inverted = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 8, "HighBit": 7}
    cases = {
        "shared": ({"SharedFunctionalGroupsSequence": transformations((2, -5))}, frames * 2.0 - 5),
        "own": ({"PerFrameFunctionalGroupsSequence": transformations(*scales.tolist())}, own),
        "both": (
            {
                "SharedFunctionalGroupsSequence": transformations((7, 7)),
                "PerFrameFunctionalGroupsSequence": transformations(*scales.tolist()),
            },
            own,
        ),
        # From low + high of the stored range: 2 * 0 - 5 and 2 * 255 - 5.
        "inverted": (
            {"SharedFunctionalGroupsSequence": transformations((2, -5)), **inverted},
            (2 * 255.0 - 10) - (frames * 2.0 - 5),
        ),
    }
    for name, (more, expected) in cases.items():
        write_file(tmp_path / name, frames, **more)
        assert np.array_equal(slices_of(tmp_path / name), expected.astype(np.float32)), name


def test_colours_and_palettes_become_grey_bytes(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    write_file(tmp_path / "rgb", rgb[..., 0], PixelData=rgb.tobytes(), **colours)
    grey = np.rint(rgb @ np.array([0.299, 0.587, 0.114], np.float32))
    found = slices_of(tmp_path / "rgb")
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], grey)
    table = np.arange(255, -1, -1, dtype=np.uint16) * 257  # white first
    palette = {f"{colour}PaletteColorLookupTableData": table.tobytes() for colour in ("Red", "Green", "Blue")}
    palette |= {f"{colour}PaletteColorLookupTableDescriptor": [256, 0, 16] for colour in ("Red", "Green", "Blue")}
    write_file(tmp_path / "palette", rgb[..., 0], PhotometricInterpretation="PALETTE COLOR", **palette)
    values = slices_of(tmp_path / "palette")[0].astype(float)
    np.testing.assert_allclose(
        values / values.max(), (255 - rgb[..., 0].astype(float)) / (255 - rgb[..., 0]).max(), atol=2e-3
    )


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("tag", "value", "kind"),
    [
        ("InstanceNumber", b"1A", "IS"),
        ("InstanceNumber", b"1\\2", "IS"),
        ("NumberOfFrames", b"x ", "IS"),
        ("ImageOrientationPatient", b"1\\0\\0\\a\\1\\0", "DS"),
        ("ImagePositionPatient", b"1\\2", "DS"),
    ],
)
def test_a_malformed_header_leaves_its_file_out(tag, value, kind, tmp_path):
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    write_series(tmp_path / "good", ramp(), series="1.2.1")
    write_file(tmp_path / "bad.dcm", np.ones((3, 3), np.int16), series="1.2.2")
    data = pydicom.dcmread(tmp_path / "bad.dcm")
    number = Tag(tag_for_keyword(tag))
    data._dict[number] = RawDataElement(number, kind, len(value), value, 0, False, True)
    data.save_as(tmp_path / "bad.dcm")
    source = open_source(tmp_path, SourceOptions(slices="all"))
    assert len(source.names) == SHAPE[2]
    (problem,) = source.listing.problems
    assert problem.reason == f"a DICOM file with a malformed {tag}"


def test_slightly_different_digits_are_one_orientation(tmp_path):
    for number in range(10):
        cosine = 0.124999 if number % 2 else 0.125001  # which two digits tell apart
        other = (1 - cosine**2) ** 0.5
        orientation, position = (other, cosine, 0, -cosine, other, 0), (0, 0, number)
        pixels = np.full((3, 4), number + 1, np.int16)
        write_file(tmp_path / f"{number}.dcm", pixels, number=number, orientation=orientation, position=position)
    source = open_source(tmp_path, SourceOptions(slices="all"))
    assert len(source.names) == 10
    assert source.listing.problems == []
    assert sorted(int(source.raw(index).max()) for index in range(10)) == list(range(1, 11))
    assert len({source.file_name(name) for name in source.names}) == 1


def test_frames_and_images_without_geometry(tmp_path):
    frames = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    write_file(tmp_path / "cine.dcm", frames)
    assert np.array_equal(slices_of(tmp_path / "cine.dcm"), frames)
    for number, side in ((1, 4), (2, 6)):  # radiographs of one study may have several sizes
        write_file(tmp_path / "xray" / f"{number}.dcm", np.full((side, 5), side, np.uint8), number=number)
    source = open_source(tmp_path / "xray", SourceOptions())
    assert sorted(source.raw(index).shape for index in range(2)) == [(4, 5), (6, 5)]
    assert len(set(source.listing.subjects)) == 1


def test_unusable_files_are_left_out_in_one_line_each(tmp_path):
    write_series(tmp_path / "good", ramp(), series="1.2.1")
    write_series(tmp_path / "sizes", ramp(), series="1.2.2")
    write_file(
        tmp_path / "sizes" / "z.dcm",
        np.ones((3, 3), np.int16),
        series="1.2.2",
        number=99,
        orientation=(1, 0, 0, 0, 1, 0),
        position=(0, 0, 7),
    )
    write_series(tmp_path / "times", ramp(), series="1.2.3")
    write_file(
        tmp_path / "times" / "z.dcm",
        ramp()[:, :, 0].T.copy(),
        series="1.2.3",
        number=99,
        orientation=(1, 0, 0, 0, 1, 0),
        position=(0, 0, 3),
    )
    write_series(tmp_path / "gap", ramp(), series="1.2.4")
    write_file(
        tmp_path / "gap" / "z.dcm",
        ramp()[:, :, 0].T.copy(),
        series="1.2.4",
        number=99,
        orientation=(1, 0, 0, 0, 1, 0),
        position=(0, 0, 12),
    )
    (tmp_path / f"{NUMBER}.dcm").write_bytes(b"damaged")
    source = open_source(tmp_path, SourceOptions(slices="all"))
    assert len(source.names) == SHAPE[2]
    reasons = sorted(problem.reason for problem in source.listing.problems)
    assert reasons == [
        "not a readable DICOM file (InvalidDicomError)",
        "several slices at one place, such as a time series",
        "slices are missing, or not evenly spaced (1 to 6 mm)",
        "slices of several sizes (3x3, 5x6)",
    ]
    damaged = next(problem.name for problem in source.listing.problems if "readable" in problem.reason)
    assert damaged == "file 16 of 32 by name"


def test_compressed_files(tmp_path):
    from pydicom.data import get_testdata_file

    path = get_testdata_file("MR_small_RLE.dcm", download=False)
    plain = get_testdata_file("MR_small.dcm", download=False)
    assert np.array_equal(slices_of(path), slices_of(plain))
    assert np.array_equal(slices_of(plain)[0], pydicom.dcmread(plain).pixel_array)


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    from pydicom.data import get_testdata_file
    from pydicom.pixels.decoders import RLELosslessDecoder

    monkeypatch.setattr(RLELosslessDecoder, "_available", {})
    with pytest.raises(
        ZooError, match=r"compressed \(.*\), and no decoder is installed: pip install 'gan-zoo\[medical"
    ):
        _ = open_source(get_testdata_file("MR_small_RLE.dcm", download=False), SourceOptions()).layout


@pytest.mark.slow
def test_nothing_shows_who_the_patients_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        patient = f"{NUMBER}-{number}"
        for visit in range(2):
            folder = tmp_path / "set" / f"{NAME}-{number}" / str(visit)
            write_series(folder, ramp((16, 16, 16)) * (number + 1), patient=patient, series=f"1.9.{number}.{visit}")
    (tmp_path / "set" / f"{NAME}.dcm").write_bytes(b"damaged")

    lines = []

    class Recorder(SilentReporter):
        def say(self, message):
            lines.append(message)

        warn = say

    config = DataConfig(resolution=16, holdout=0.25)
    data = load_dataset("set", config, reporter=Recorder(), cache_dir=tmp_path / "cache")
    assert len(set(data.subjects)) == 4
    assert len({data.subjects[index] for index in data.unseen}) == 1
    assert not {data.subjects[i] for i in data.train} & {data.subjects[i] for i in data.unseen}
    report = check_images("set", out=tmp_path / "check")
    written = [path for folder in ("cache", "check") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(written) >= 4
    texts = [path.read_bytes() + str(path).encode() for path in written]
    texts += [repr(item).encode() for item in (data, data.names, data.problems, report, lines)]
    for text in texts:
        for secret in (NAME, "Jonathan", NUMBER):
            assert secret.encode() not in text
    assert load_dataset("set", config, cache_dir=tmp_path / "cache").digest == data.digest
