"""Names of any kind are printed as they are, and whatever goes wrong is one line with the right exit code."""

import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cli import main as cli
from zoo.cli.output import print_line, print_table
from zoo.core import network
from zoo.core.console import Display, PlainConsole
from zoo.core.errors import MAX_MESSAGE, ZooError, one_line, printable, shorten, suggest
from zoo.hub.save_images import save_images

NAMES = [
    "a[/b]",
    "scans [v1]",
    "[bold]x[/bold]",
    "[red]",
    ":smile:",
    "a\x1b[31mb",
    "a\x1b]0;title\x07b",
    "a\nb",
    "a\rb",
]
NAMES += ["a\u202eb", "a\x9b2Jb", "é"]


def call(capsys, *arguments):
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    return code, out, err


def is_clean(text):
    return all(c.isprintable() or c == "\n" for c in text)


def seen(text, name):
    """Whether a name is in a text, with its control characters as escapes."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return escaped in text.replace("\n", "")


@pytest.mark.parametrize("name", NAMES)
def test_all_that_prints_prints_names_as_they_are(name, capsys):
    display = Display()
    display.say(f"say {name}")
    display.warn(name)
    print_line(f"line {name}")
    print_table(["name", name], [[name, "1"], ["b", name]])
    console = PlainConsole()
    console.print(f"console {name}")
    out, err = capsys.readouterr()
    assert is_clean(out + err)
    assert out.count("\n") <= 10 + name.count("\n")
    assert seen(err, f"say {name}")
    assert seen(err, f"warning: {name}")
    assert seen(out, f"line {name}")
    assert seen(out, name)


@pytest.mark.parametrize("name", NAMES)
def test_commands_print_names_as_they_are(name, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name.replace("/", "") / "dcgan-64-000"
    shutil.copytree(runs / "dcgan-64-000", folder)
    shown = folder.parent.name
    out = f"{shown}/x.png"
    for command in (
        ["runs", shown],
        ["sample", f"{shown}/dcgan-64-000", "-n", "2", "--out", out],
        [
            "interpolate",
            f"{shown}/dcgan-64-000",
            "-n",
            "1",
            "--points",
            "1",
            "--frames",
            "2",
            "--out",
            f"{shown}/x.gif",
        ],
        ["show", folder / "recipe.yaml", "--set", f"train.batch={json.dumps(name)}"],
        ["sample", f"{shown}-none"],
        ["train", f"{shown}-none"],
        ["report", f"{shown}-none"],
        ["bench", f"{shown}-none"],
        ["compare", f"{shown}-none", "."],
        ["data", "check", f"{shown}-none"],
        ["runs", f"{shown}-none"],
        ["publish", f"{shown}-none", "--to", "x"],
        ["list", f"{shown}-none"],
        ["sample", "x", f"--{shown}"],
    ):
        code, printed, err = call(capsys, *command)
        assert is_clean(printed + err), command
        assert code in (0, 2), (command, err)
        if code == 2:
            assert len([line for line in err.splitlines() if line.startswith("zoo")]) == 1, (command, err)


LONG = "x" * 5000


@pytest.mark.parametrize(
    "name", [LONG, f"{LONG}.yaml", f"a/{LONG}", f"{LONG}.safetensors", "a\x00b", "\udcff", chr(0xD800)]
)
def test_impossible_names_are_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (
        ["show", name],
        ["train", name],
        ["train", "--resume", name],
        [
            "train",
            "dcgan-64",
            "--set",
            f"train.init_from={json.dumps(name)}",
            "--data",
            "phantoms:2",
            "--device",
            "cpu",
        ],
        ["tune", name, "--param", "train.batch"],
        ["runs", name],
        ["list", name],
        ["sample", name],
        ["interpolate", name],
        ["report", name],
        ["bench", name],
        ["publish", name, "--to", "x"],
        ["sample", "x", f"--{name}"],
        [name],
    ):
        code, out, err = call(capsys, *command)
        assert (code, out) == (2, ""), (command[0], err[-300:])
        lines = [line for line in err.splitlines() if line.startswith("zoo")]
        assert len(lines) == 1, (command[0], err[-300:])
        assert len(lines[0]) < MAX_MESSAGE + 200
        assert is_clean(err)
    with pytest.raises(ZooError):
        zoo.load_generator(name, runs=tmp_path)
    for call_with_name in (zoo.train, zoo.bench, zoo.load_recipe):
        with pytest.raises(ZooError):
            call_with_name([name] if call_with_name is zoo.bench else name)


@pytest.mark.parametrize(
    "error",
    [ValueError("a\nb"), MemoryError(), RecursionError("deep"), KeyError("k"), OSError(9, "bad file descriptor")],
)
def test_an_unexpected_error_is_one_line_and_a_file(error, monkeypatch, tmp_path, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli.look, "_list", fail)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    code, out, err = call(capsys, "list")
    assert (code, out, err.count("\n")) == (1, "", 1)
    (file,) = (tmp_path / "cache" / "errors").iterdir()
    assert f"zoo: unexpected error in version {zoo.core.version.version()}: {type(error).__name__}"[:50] in err
    assert str(file) in err
    text = file.read_text()
    assert "Traceback (most recent call last)" in text
    assert "in fail\n    raise error" in text
    assert zoo.core.version.version() in text
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["list"])
    # Where neither the cache nor the current folder can be written.
    monkeypatch.delenv("ZOO_DEBUG")
    monkeypatch.setenv("ZOO_CACHE", "/dev/null/x")
    monkeypatch.setattr(
        cli.Path, "write_text", lambda *arguments, **keywords: (_ for _ in ()).throw(OSError(28, "full"))
    )
    code, out, err = call(capsys, "list")
    assert (code, err.count("\n")) == (1, 1)
    assert "ZOO_DEBUG=1" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ZooError("x"), 2), (KeyboardInterrupt(), 130), (BrokenPipeError(), 0), (OSError(28, "full", "x"), 2)],
)
def test_expected_errors_keep_their_codes(error, code, monkeypatch, tmp_path, capfd):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli.look, "_list", fail)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    assert cli.main(["list"]) == code
    assert not (tmp_path / "cache").exists()


def test_a_closed_terminal_silences_the_display(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    display = Display()
    display.say("x")
    display.warn("y")
    assert display.console.quiet
    cli._print_error("x")


OUTPUTS = {
    "grid.PNG": "grid",
    "grid.png": "grid",
    "x.Npz": "array",
    "epoch.10": "folder",
    "v1.2.3": "folder",
    "run.d": "folder",
    "plain": "folder",
    "x.png/": "folder",
    "x.jpg": None,
    "x.TIFF": None,
    "x.npy": None,
    "x.zip": None,
    "x.gif": None,
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_forms_of_out(name, tmp_path, runs, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "sample", runs / "dcgan-64-000", "-n", "2", "--out", f"out/{name}")
    path = tmp_path / "out" / name
    if OUTPUTS[name] is None:
        assert code == 2
        assert "unknown suffix. Use .png (one grid), .npz (one array) or the name of a folder." in err
        assert not path.parent.exists()
        return
    assert code == 0, err
    if OUTPUTS[name] == "grid":
        assert Image.open(path).format == "PNG"
    elif OUTPUTS[name] == "array":
        assert np.load(path)["images"].shape == (2, 1, 16, 16)
    else:
        assert sorted(file.name for file in path.iterdir()) == ["0.png", "1.png"]
        code, _, err = call(capsys, "sample", runs / "dcgan-64-000", "-n", "2", "--out", f"out/{name}")
        assert code == 0, err  # the folder exists now


def test_walks_may_end_in_capitals(runs, tmp_path, capsys):
    out = tmp_path / "walk.GIF"
    few = ["-n", "1", "--points", "2", "--frames", "1"]
    assert call(capsys, "interpolate", runs / "dcgan-64-000", *few, "--out", out)[0] == 0
    assert Image.open(out).n_frames == 2


LIMITS = {
    "sample -n 1000000000000": "number of images",
    "sample -n 100000": "a grid shows at most",
    "sample --mix 99999999999x3": "no styles|number of images",
    "sample --seed -1": "seed -1",
    "interpolate --frames 100000": "--frames 100000",
    "interpolate --points 1000000": "frames in all",
    "interpolate -n 1000000": "lower -n",
    "bench --samples 10000000000": "--samples 10000000000: must be at least 2, and at most",
    "bench --seeds 100000": "--seeds 100000: must be at least 1, and at most",
}


@pytest.mark.parametrize("command", LIMITS)
def test_numbers_beyond_all_use_are_refused_before_any_work(command, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, *more = command.split()
    code, _, err = call(capsys, name, runs / "dcgan-64-000", *more)
    assert code == 2
    assert any(part in err for part in LIMITS[command].split("|")), err
    assert not list(tmp_path.glob("*.*"))


def test_images_of_any_size_are_a_folder_or_a_grid(tmp_path):
    save_images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), tmp_path / "epoch.10")
    assert len(list((tmp_path / "epoch.10").iterdir())) == 2


def test_texts_of_errors_are_bounded():
    assert one_line("a\nb\x1b[0m") == "a b\\x1b[0m"
    assert len(one_line("x" * 10**6)) < MAX_MESSAGE + 20
    assert printable("a\tb\n", keep="\n") == "a\\tb\n"
    assert printable("é日本") == "é日本"
    for value in ("x" * 10**6, list(range(10**5)), {"a": ["x" * 1000] * 1000}, [[[["x"] * 100] * 100] * 100], 10**5000):
        assert len(shorten(value)) < 300
    assert shorten({"a": [1, "b"]}) == "{'a': [1, 'b']}"
    assert suggest("x" * 10**6, ["a"] * 10**6) == ""
    assert suggest("dcgam", ["dcgan"]) == " (did you mean 'dcgan'?)"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("r3gan-32", "r3gan-64"),  # the nearest size of the same network
        ("r3gan-200", "r3gan-256"),
        ("r3gan-512-full", "r3gan-256-full"),
        ("multires-82-stable", "multires-28-stable"),  # swapped digits before the nearest size
        ("multires-60-stable", "multires-64-stable"),
        ("dcgna-64", "dcgan-64"),
        ("dcgan-64-7", "dcgan-64-003"),
        ("r3gan", "r3gan-64"),
        ("64", None),
    ],
)
def test_suggestions_of_another_number(word, expected):
    choices = ["r3gan-256", "r3gan-256-full", "r3gan-64", "multires-28-stable", "multires-64-stable", "dcgan-64"]
    choices += ["dcgan-64-000", "dcgan-64-003"]
    assert suggest(word, choices) == (f" (did you mean {expected!r}?)" if expected else "")


def test_a_download_that_drips_ends(monkeypatch):
    released = threading.Event()
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="not complete after 0 s"):
        network.call_with_deadline(released.wait, seconds=0.05)
    released.set()
    assert time.monotonic() - start < 60
    assert network.call_with_deadline(lambda a, b: a + b, 1, b=2, seconds=60) == 3
    with pytest.raises(KeyError):
        network.call_with_deadline({}.__getitem__, "x", seconds=60)
    assert network.download_seconds(10**7) == pytest.approx(620)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_compiled_code_is_not_read_where_others_can_write(mode, tmp_path, monkeypatch):
    from zoo.runtime.speed import set_compile_cache

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    folder, lines = tmp_path / "cache" / "compiled", []
    set_compile_cache(folder, lines.append)
    assert (os.environ["TORCHINDUCTOR_CACHE_DIR"], lines) == (str(folder), [])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(mode)
    link = tmp_path / "link"
    link.symlink_to(folder)
    for place in (folder, link):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        set_compile_cache(place, lines.append)
        used = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        assert used not in (str(folder), str(link))
        assert stat.S_IMODE(Path(used).stat().st_mode) == 0o700
        assert "others own it or can write there" in lines.pop()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)  # someone else's
    set_compile_cache(folder, lines.append)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] != str(folder)


@pytest.mark.parametrize("count", [2, 49, 50])
def test_kid_of_few_images_has_a_note(count, tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).integers(0, 256, (count, 16, 16), np.uint8))
    command = [
        "compare",
        tmp_path / "a.npy",
        tmp_path / "b.npy",
        "--metrics",
        "kid",
        "--spaces",
        "random",
        "--device",
        "cpu",
    ]
    code, out, _ = call(capsys, *command, "--no-floors", "--no-intervals")
    assert code == 0
    assert (f"KID of {count} images scatters more" in out) == (count < 50)
    document = json.loads(call(capsys, *command, "--no-floors", "--no-intervals", "--json")[1])
    note = next(value for key, value in document.items() if key.startswith("kid")).get("note", "")
    assert ("scatters more" in note) == (count < 50)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "dcgan-64", "--data", ""],
        ["train", "dcgan-64", "--data", "", "--profile"],
        ["bench", "dcgan-64", "--data", "", "--spaces", "random"],
        ["tune", "dcgan-64", "--param", "train.batch", "--data", ""],
        ["compare", "", "phantoms:2", "--fit", "pad", "--resolution", "16"],
        ["compare", "phantoms:2", " ", "--fit", "pad", "--resolution", "16"],
        ["compare", "phantoms:2", "phantoms:3", "--unseen", "", "--fit", "pad", "--resolution", "16"],
        ["project", "", "--generator", "RUN"],
        ["data", "check", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_phantoms(command, runs, tmp_path, monkeypatch, capsys):
    """As of a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(runs / "dcgan-64-000") if word == "RUN" else word for word in command]) == 2
    assert "the path is empty" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--resume", ""],
        ["bench", ""],
        ["bench", " "],
        ["report", ""],
        ["sample", ""],
        ["interpolate", ""],
        ["project", "phantoms:2", "--generator", ""],
        ["ema", "", "--std", "0.05"],
        ["publish", "", "--to", "OUT"],
        ["export", "", "--to", "OUT"],
        ["explore", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_current_folder(command, runs, tmp_path, monkeypatch, capsys):
    """As of a variable that is not set; here the current folder is a run, which was not named."""
    monkeypatch.chdir(shutil.copytree(runs / "dcgan-64-000", tmp_path / "run"))
    before = sorted(path.name for path in Path().iterdir())
    assert cli.main([str(tmp_path / "out.onnx") if word == "OUT" else word for word in command]) == 2
    assert "the name of a run or generator is empty" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == before
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("place", [".", "", "folder", "page.txt", "file/x.SUFFIX"])
@pytest.mark.parametrize(
    ("command", "suffix"),
    [
        (["report", "RUN", "--spaces", "random", "--samples", "24", "--out"], "html"),
        (["explore", "RUN", "--out"], "html"),
        (["ema", "RUN", "--std", "0.05", "--out"], "safetensors"),
        (["interpolate", "RUN", "--out"], "gif"),
        (["export", "RUN", "--to"], "onnx"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_bad_place_for_a_file_is_refused_before_the_work(command, suffix, place, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    run = shutil.copytree(runs / "dcgan-64-000", tmp_path / "run")
    if command[0] == "ema":
        add_snapshots(run)
    for name in ("zoo.evaluation.bench.evaluate_one", "zoo.hub.load.LoadedGenerator.ready"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("worked first"))
    words = [str(run) if word == "RUN" else word for word in command]
    assert cli.main([*words, place.replace("SUFFIX", suffix)]) == 2
    expected = {"page.txt": "Change the suffix", "file/x.SUFFIX": "file: cannot be written"}
    assert expected.get(place, f"is a folder. Name a file that ends in .{suffix}") in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "run"]


def add_snapshots(run):
    opened = zoo.Run(run)
    opened.snapshots.mkdir()
    for nimg, std in ((8, 0.05), (16, 0.05), (24, 0.05), (32, 0.05)):
        shutil.copy(opened.generator_file, opened.snapshot_file(nimg, std))


@pytest.mark.parametrize("place", [".", "../dcgan-64-000", "generator.safetensors"])
def test_results_of_the_current_folder_have_its_name(place, runs, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(runs / "dcgan-64-000", tmp_path / "dcgan-64-000")
    monkeypatch.chdir(folder)
    assert cli.main(["report", place, "--spaces", "random", "--metrics", "ssim", "--samples", "24"]) == 0
    page = folder / ("generator-report.html" if "gen" in place else "report.html")
    assert page.is_file()
    assert ("generator" if "gen" in place else "dcgan-64-000") in page.read_text().split("</h1>")[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["list"], ["weights", "--json"], ["--version"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_one_line(command):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([sys.executable, "-m", "zoo", *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (2, "zoo: cannot write (no space left on device)\n")


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EIO, "x.png: cannot read or write (input/output error)"), (errno.ENOSPC, "x.png: cannot write (no space")],
)
def test_a_broken_disk_is_one_line_and_leaves_stdout(number, words, monkeypatch, capfd):
    def fail(*_):
        print("half", end="")
        raise OSError(number, os.strerror(number), "x.png")

    monkeypatch.setattr(cli, "_run_command", fail)
    assert cli.main(["list"]) == 2
    print("whole")  # a caller's own
    output = capfd.readouterr()
    assert words in output.err
    assert output.out == "halfwhole\n"
