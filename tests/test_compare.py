"""`zoo compare`: any two sets of images, with a random feature extractor."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.cli.main import main
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset

FLOORS = ["unseen subjects", "train half against half", "dataset mean", "black", "noise"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three folders of phantoms of different subjects: reals, others and unseen."""
    root = tmp_path_factory.mktemp("sets")
    images = load_dataset("phantoms:12", DataConfig(resolution=32, holdout=0.0))
    for name, subjects in (("reals", range(6)), ("fakes", range(6, 10)), ("unseen", range(10, 12))):
        (root / name).mkdir()
        for subject in subjects:
            for place in range(32):
                i = subject * 32 + place
                Image.fromarray(images.images[i, 0]).save(root / name / f"case_{subject}_slice_{place}.png")
    return root


def compare(capsys, *arguments):
    assert main(["compare", *map(str, arguments), "--spaces", "random", "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # one document, and nothing else


def test_figures_have_intervals_floors_and_definitions(sets, capsys):
    found = compare(capsys, sets / "fakes", sets / "reals", "--unseen", sets / "unseen")
    for name in ("fid", "kid", "precision", "recall", "density", "coverage", "ssim_nearest", "ssim_pairwise"):
        figure = found[name]
        assert {"value", "low", "high", "n"} <= set(figure)
        assert figure["low"] <= figure["value"] <= figure["high"], name
    assert found["fid"]["n"] == 128
    assert found["alarms"] == []
    assert list(found["floors"]) == FLOORS
    assert found["floors"]["black"]["ssim_pairwise"]["value"] == 1
    noise = found["floors"]["noise"]
    assert noise["ssim_nearest"]["value"] < 0.1 < found["ssim_nearest"]["value"]
    assert noise["fid"]["value"] > 5 * found["fid"]["value"]
    assert "7x7" in found["definitions"]["ssim"]
    assert found["shape"] == "32 x 32 grey"
    assert found["fit"] is None
    assert (found["fakes"]["n"], found["reals"]["subjects"]) == (128, 6)


@pytest.mark.parametrize(
    ("number", "metrics", "more", "checked"),
    [
        (128, None, {}, ["collapse", "memorisation", "untrained"]),
        (128, None, {"unseen": None}, ["collapse", "untrained"]),
        (128, ["ssim_nearest"], {}, ["untrained"]),
        (128, ["ssim_nearest"], {"floors": False}, []),  # better than noise is known by noise
        (128, ["ssim_pairwise"], {}, ["collapse"]),
        (7, ["ssim_pairwise"], {}, []),  # so few do not tell how alike they are
        (128, ["precision", "recall"], {}, []),  # recall needs 200 fakes
        (128, ["density", "coverage"], {}, ["collapse"]),
        (128, ["coverage"], {}, []),
        (128, ["fid"], {}, []),  # of random features
        (128, ["copies_ncc"], {}, ["memorisation"]),
        (128, ["copies_ncc"], {"unseen": None}, []),
    ],
)
def test_alarms_that_could_not_be_triggered_are_not_free_of_danger(sets, number, metrics, more, checked):
    fakes = np.stack([np.asarray(Image.open(path)) for path in sorted((sets / "fakes").iterdir())[:number]])
    options = {"unseen": sets / "unseen", "metrics": metrics, "extractors": ["random"], "intervals": False, **more}
    assert zoo.compare(fakes, sets / "reals", **options)["checked_alarms"] == checked


def test_identical_heldout_images_show_nothing_and_stop_nothing(sets):
    same = np.zeros((24, 32, 32), np.uint8)
    found = zoo.compare(sets / "fakes", sets / "reals", unseen=same, extractors=["random"], metrics=["privacy"])
    assert found["membership_distance"]["value"] is not None


def test_a_window_serves_files_of_several_types(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, dtype in (("a", np.uint16), ("b", np.float32)):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        values = rng.integers(0, 100, (16, 16)).astype(dtype)
        Image.fromarray(values, "F" if dtype is np.float32 else None).save(tmp_path / "mixed" / f"{name}.tif")
    command = [
        "compare",
        tmp_path / "mixed",
        tmp_path / "mixed",
        "--fit",
        "pad",
        "--resolution",
        16,
        "--metrics",
        "ssim",
    ]
    assert main([*map(str, command)]) == 2
    assert "has both float32 and uint16 images. Give --window BLACK WHITE" in capsys.readouterr().err
    assert main([*map(str, command), "--window", "0", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ssim_nearest"]["value"] == pytest.approx(1)


def test_a_window_that_changes_nothing_is_said(sets, capsys):
    words = [*map(str, (sets / "fakes", sets / "reals")), "--fit", "pad", "--resolution", "32", "--window", "0", "9"]
    assert main(["compare", *words, "--metrics", "ssim", "--no-floors", "--json"]) == 0
    assert "--window: changes nothing, since all images have 8 bits" in capsys.readouterr().err


def test_a_set_is_at_no_distance_from_itself_and_wholly_copied(sets, capsys):
    found = compare(capsys, sets / "reals", sets / "reals", "--unseen", sets / "unseen")
    assert abs(found["fid"]["value"]) < 1e-6
    assert found["ssim_nearest"]["value"] == pytest.approx(1)
    assert found["recall"]["value"] == found["coverage"]["value"] == 1
    metrics = {alarm["metric"] for alarm in found["alarms"] if alarm["name"] == "memorisation"}
    assert {"copies_ssim", "copies_ncc"} <= metrics
    assert found["nearest"][0]["ncc"] == pytest.approx(1)
    assert found["nearest"][0]["fake"] == found["nearest"][0]["real"]


@pytest.mark.parametrize(
    ("fakes", "unseen", "expected"),
    [
        ("fakes", "unseen", []),
        ("reals", "unseen", ["reals and reals hold the same images"]),
        ("mixed", "unseen", ["32 of 160 images of mixed are in reals too"]),
        ("fakes", "mixed", ["32 of 160 images of mixed are in reals too"]),
    ],
)
def test_images_in_both_sets_are_counted(sets, monkeypatch, capsys, fakes, unseen, expected):
    monkeypatch.chdir(sets)
    if not (sets / "mixed").exists():
        shutil.copytree(sets / "fakes", sets / "mixed")
        for path in (sets / "reals").glob("case_3_*.png"):
            shutil.copy(path, sets / "mixed")
    assert main(["compare", fakes, "reals", "--unseen", unseen, "--metrics", "ssim", "--no-floors", "--json"]) == 0
    captured = capsys.readouterr()
    notes = [note for note in json.loads(captured.out)["notes"] if "images" in note]
    assert len(notes) == len(expected)
    for note, text in zip(notes, expected, strict=True):
        assert note.startswith(text)
        assert note in captured.err


def test_one_picture_again_and_again_is_collapse(sets, capsys, tmp_path):
    one = np.asarray(Image.open(sets / "fakes" / "case_6_slice_9.png"))
    np.savez(tmp_path / "fakes.npz", images=np.repeat(one[None], 80, axis=0))
    found = compare(capsys, tmp_path / "fakes.npz", sets / "reals", "--no-floors")
    assert {"ssim_pairwise", "ssim_twins"} <= {alarm["metric"] for alarm in found["alarms"]}
    assert all({"name", "metric", "value", "threshold", "text"} <= set(alarm) for alarm in found["alarms"])
    assert found["floors"] == {}
    assert found["copies_ncc"]["value"] is None
    assert "held-out" in found["copies_ncc"]["note"]


def test_images_are_fitted_on_request_and_the_result_says_so(sets, capsys):
    found = compare(
        capsys, sets / "fakes", sets / "reals", "--fit", "pad", "--resolution", "16", "--metrics", "ssim",
        "--no-floors", "--no-intervals",
    )  # fmt: skip
    assert found["fit"] == {"fit": "pad", "resolution": 16, "channels": 1}
    assert found["shape"] == "16 x 16 grey"
    assert set(found) & set(zoo.metrics.registry.METRICS) == {"ssim_nearest", "ssim_pairwise", "ssim_twins"}
    assert found["ssim_nearest"]["low"] is None


def test_spectra_and_the_extrapolated_fid_are_measured_if_named(sets, capsys):
    names = ("fid_infinity", "spectrum", "grid")
    found = compare(capsys, sets / "fakes", sets / "reals", "--metrics", ",".join(names))
    assert set(found) & set(zoo.metrics.registry.METRICS) == set(names)
    assert found["fid_infinity"]["note"] == "not available: 128 fakes, fewer than 2000"
    assert found["spectrum"]["low"] <= found["spectrum"]["value"] <= found["spectrum"]["high"]
    assert 0 < found["spectrum"]["value"] < 0.5 < found["floors"]["noise"]["spectrum"]["value"]
    assert 0.5 < found["grid"]["value"] < 3
    assert "cycles per pixel" in found["definitions"]["spectrum"]


def test_the_table_for_people(sets, capsys):
    assert main(["compare", str(sets / "fakes"), str(sets / "reals"), "--metrics", "ssim_nearest,ncc_nearest"]) == 0
    out = capsys.readouterr().out
    assert "SSIM nearest" in out
    assert "(dataset mean)" in out
    assert "±" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["fakes", "nowhere"], "there is no 'nowhere'"),
        (["fakes", "reals", "--metrics", "fdi"], "--metrics fdi: unknown metric (did you mean 'fid'?)"),
        (["fakes", "reals", "--spaces", "inceptoin"], "did you mean 'inception'"),
        (["fakes", "reals", "--spaces", "timm:a.x,timm:a.y"], "would have the same names"),
        (["fakes", "reals", "--metrics", "copies_features", "--no-floors"], "no Inception weights"),
        (["fakes", "reals", "--metrics", "fid_infinity", "--no-floors"], "no Inception weights"),
        (["fakes", "reals", "--fit", "pad"], "--fit pad|crop|stretch and --resolution R go together"),
        (["fakes", "small"], "must share one shape: add --fit pad --resolution 16"),
        (["brain-28", "reals"], "is a generator, not a set of images. `zoo bench brain-28 --data reals` evaluates it"),
        (["dcgan-64", "reals"], "`zoo sample dcgan-64 -n 2000 --out fakes/` writes images to compare"),
        (["reals", "brain-28"], "brain-28: is a generator"),
        (["fakes", "reals", "--weights", "nowhere.pth", "--metrics", "fid"], "nowhere.pth"),
    ],
)
def test_bad_input_is_one_line(sets, capsys, monkeypatch, arguments, line):
    monkeypatch.chdir(sets)
    np.savez("small.npz", images=np.zeros((8, 16, 16), np.uint8))
    arguments = ["small.npz" if part == "small" else part for part in arguments]
    assert main(["compare", *arguments]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert len(err.strip().splitlines()) == 1


def test_too_few_images_for_a_metric_are_named(sets):
    found = zoo.compare(
        sets / "fakes", sets / "reals", extractors=["random"], metrics=["features"], floors=False, intervals=False
    )
    assert found["fid"]["value"] > 0
    few = sets / "few"
    few.mkdir()
    Image.open(sets / "fakes" / "case_6_slice_9.png").save(few / "a.png")
    found = zoo.compare(few, sets / "reals", extractors=["random"], floors=False)
    assert found["fid"]["value"] is None
    assert "fewer than 2" in found["fid"]["note"]
    assert found["ssim_pairwise"]["value"] is None
    (few / "a.png").unlink()
    with pytest.raises(ZooError, match="no images"):
        zoo.compare(few, sets / "reals")


def test_what_is_remembered_belongs_to_its_subjects(sets, capsys, tmp_path):
    """The same pixels without subjects' names are judged otherwise, whichever was judged first."""
    for name in ("reals", "unseen"):
        (tmp_path / name).mkdir()
        for index, path in enumerate(sorted((sets / name).iterdir())):
            (tmp_path / name / f"{index}.png").write_bytes(path.read_bytes())
    options = ["--metrics", "copies_ncc", "--no-floors"]
    named = compare(capsys, sets / "fakes", sets / "reals", "--unseen", sets / "unseen", *options)
    nameless = compare(capsys, sets / "fakes", tmp_path / "reals", "--unseen", tmp_path / "unseen", *options)
    assert named["reals"]["subjects"] == 6
    assert nameless["reals"]["subjects"] is None
    assert named["copies_ncc"]["note"] != nameless["copies_ncc"]["note"]
    assert named["alarms"] == nameless["alarms"] == []


def test_collapse_of_varied_pixels_is_seen_in_features(sets, capsys, tmp_path):
    """Ten pictures again and again; without SSIM, coverage must tell. Unlike images are no collapse."""
    some = [np.asarray(Image.open(sets / "reals" / f"case_0_slice_{i}.png")) for i in range(8, 18)]
    np.savez(tmp_path / "ten.npz", images=np.tile(np.stack(some), (10, 1, 1)))
    found = compare(capsys, tmp_path / "ten.npz", sets / "reals", "--metrics", "features", "--no-floors")
    assert {alarm["metric"] for alarm in found["alarms"]} & {"recall", "coverage"}
    reals = np.stack([np.asarray(Image.open(path)) for path in sorted((sets / "fakes").iterdir())])
    np.savez(tmp_path / "inverted.npz", images=255 - reals)
    found = compare(capsys, tmp_path / "inverted.npz", sets / "reals", "--no-floors")
    assert found["recall"]["value"] < 0.02
    assert [alarm for alarm in found["alarms"] if alarm["name"] == "collapse"] == []


def test_black_and_mean_images_ring_as_they_should(sets, capsys):
    found = compare(capsys, sets / "fakes", sets / "reals", "--unseen", sets / "unseen", "--metrics", "ssim")
    rung = {name for name, floor in found["floors"].items() if floor["alarms"]}
    assert rung == {"dataset mean", "black"}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_differences_in_brightness_are_not_windowed_away(sets, capsys, tmp_path, dtype):
    """Of images of more than 8 bits, all sets go through the window of the reals."""
    paths = sorted((sets / "reals").iterdir())
    reals = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(dtype) * (4 if dtype == "uint16" else 1)
    np.savez(tmp_path / "reals.npz", images=reals)
    np.savez(tmp_path / "dark.npz", images=(reals // 2).astype(dtype))
    fit = ["--fit", "pad", "--resolution", "32", "--metrics", "ssim_nearest", "--no-floors"]
    dark = compare(capsys, tmp_path / "dark.npz", tmp_path / "reals.npz", *fit)
    same = compare(capsys, tmp_path / "reals.npz", tmp_path / "reals.npz", *fit)
    assert same["ssim_nearest"]["value"] == pytest.approx(1)
    assert dark["ssim_nearest"]["value"] < 0.9
    assert dark["fakes"]["window"] == dark["reals"]["window"] == same["reals"]["window"]


def test_what_is_grey_by_chance_is_judged_beside_colours(sets, capsys, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "reals.npz", images=rng.integers(0, 256, (40, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "black.npz", images=np.zeros((40, 32, 32, 3), np.uint8))
    colours = [tmp_path / "black.npz", tmp_path / "reals.npz", "--metrics", "ssim", "--no-floors"]
    found = compare(capsys, *colours)
    assert found["shape"] == "32 x 32 RGB"
    assert "ssim_pairwise" in {alarm["metric"] for alarm in found["alarms"]}
    assert compare(capsys, *colours, "--fit", "pad", "--resolution", "16")["shape"] == "16 x 16 RGB"
    grey = compare(capsys, *colours, "--fit", "pad", "--resolution", "16", "--channels", "1")
    assert (grey["shape"], grey["fit"]["channels"]) == ("16 x 16 grey", 1)
    same = compare(capsys, tmp_path / "black.npz", sets / "reals", "--metrics", "ssim", "--no-floors")
    assert same["shape"] == "32 x 32 grey"  # grey pictures saved as RGB


def test_copies_can_be_told_without_weights(sets, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setenv("ZOO_WEIGHTS", str(tmp_path / "none"))
    (tmp_path / "none").mkdir()
    command = ["compare", str(sets / "fakes"), str(sets / "reals"), "--unseen", str(sets / "unseen"), "--json"]
    assert main([*command, "--metrics", "ssim,copies", "--no-floors"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["copies_ncc"]["value"] is not None
    assert "weights" in found["copies_features"]["note"]
    assert main([*command, "--metrics", "features"]) == 2


def test_figures_say_which_network_they_are_of(sets, capsys):
    found = compare(capsys, sets / "fakes", sets / "reals", "--metrics", "fid,kid", "--no-floors")
    fid, kid = found["metrics"]
    assert fid["title"] == "FID (random)"
    assert "Inception" not in fid["sentence"]
    assert found["kid"]["error"] >= 0
    assert kid["name"] == "kid"
