"""Cases of recipes: ``--set``, YAML files, settings that are trained with, and arguments of other commands."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.shared import TINY
from tests.fuzz.values import agrees, at_path, leaves, odd_text, paths_of, unquoted

NAMES = ("multires-28", "dcgan-64", "stylegan2-64")
WHOLE_FILES = (b"", b"\0", b"[]", b"8", b"- a\n", b"--- a\n--- b\n", b"a: &a [*a]\n", b"%YAML 9.9\n---\na: 1")
SECTIONS = ("data", "loss", "optimizer", "ema", "train", "speed", "penalties", "augment")


def _recipe(name: str) -> dict[str, Any]:
    from zoo.recipes import load_recipe

    return load_recipe(name).to_dict()


def overrides(case: Case) -> None:
    """``zoo show NAME --set KEY=VALUE``: the value that is used is the one that was written."""
    rng, name = case.rng, case.rng.choice(NAMES)
    path = rng.choice(paths_of(_recipe(name)))
    key, text = ".".join(path), odd_text(rng)
    if rng.random() < 0.2:
        odd_keys = (key + ".x", key[:-1], "." + key, key + ".", "", "..", "a" * 5000, "\x1b[31m", key.upper(), "[/b].x")
        key = rng.choice((*odd_keys, path[0], " " + key + " ", "generator", "discriminator", "arch", "ü.ß", key + "\n"))
    result = case.zoo("show", name, "--json", "--set", f"{key}={text}")
    if result.code:
        return
    try:
        used = at_path(json.loads(result.out)["recipe"], [part.strip() for part in key.split(".")])
    except KeyError:
        return
    case.expect(agrees(unquoted(text), used), f"{key}={text[:80]!a} is used as {used!a}")
    _expect_finite(case, json.loads(result.out)["recipe"])


def _expect_finite(case: Case, value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _expect_finite(case, item)
    elif isinstance(value, float):
        case.expect(math.isfinite(value), f"a resolved recipe holds {value}")


def recipe_file(case: Case) -> None:
    """``zoo show FILE.yaml`` with a mutated file: what it says is what is used."""
    from zoo.recipes import find_recipe_file

    rng = case.rng
    text = find_recipe_file(rng.choice(NAMES)).read_text(encoding="utf-8")
    lines = text.split("\n")
    match rng.randrange(8):
        case 0:
            content = case.odd_bytes(text.encode())
        case 1:
            at = rng.randrange(len(lines))
            lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [" " + lines[at]], ["\t" + lines[at]]))
            content = "\n".join(lines).encode()
        case 2:
            unknown = rng.choice(("train:\n", "")) + "\n".join(
                f"  k{index}: 1" for index in range(rng.choice((3, 20000)))
            )
            content = (text + "\n" + unknown).encode()
        case 3:
            content = text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-le")))
        case 4:
            content = rng.choice(
                (b"", b"\0", b"[]", b"8", b"- a\n", b"--- a\n--- b\n", b"a: &a [*a]\n", b"%YAML 9.9\n---\na: 1")
            )
        case _:
            values = [index for index, line in enumerate(lines) if ": " in line and not line.lstrip().startswith("#")]
            at = rng.choice(values)
            lines[at] = f"{lines[at].partition(': ')[0]}: {odd_text(rng)}"
            content = "\n".join(lines).encode("utf-8", "surrogatepass")
    (case.folder / "odd.yaml").write_bytes(content)
    result = case.zoo("show", "odd.yaml", "--json")
    if result.code:
        return
    recipe = json.loads(result.out)["recipe"]
    for path, written in leaves(content.decode("utf-8-sig", "replace")):
        if path[:1] and path[0] in SECTIONS:
            try:
                used = at_path(recipe, path)
            except KeyError:
                continue
            case.expect(agrees(written, used), f"{'.'.join(path)}: {str(written)[:80]!a} is used as {used!a}")
    _expect_finite(case, recipe)


SETTINGS = {
    "train.log_kimg": ("1e-300", "1e308", "5e-324"),
    "train.sample_kimg": ("1e-9", "1e308"),
    "train.checkpoint_kimg": ("1e-9", "1e308"),
    "train.checkpoint_minutes": ("1e-300", "1e308"),
    "train.keep": ("1", "9999999999999999999"),
    "train.seed": ("-1", "18446744073709551616", "9" * 30, "-" + "9" * 30, "9223372036854775807"),
    "train.batch": ("1", "3", "64", "65", "100000", "9" * 30),
    "train.d_steps": ("2", "9" * 30),
    "train.micro_batch": ("1", "3", "8", "16"),
    "train.evaluate_share": ("0", "1"),
    "train.init_from": ("x", "''", ".", "/dev/null", "'\\0'", "../shared", "x" * 5000),
    "ema.halflife_kimg": ("0", "1e308", "5e-324"),
    "ema.ramp": ("1e308", "5e-324", "null"),
    "ema.power_std": ("1e-300", "0.27999"),
    "optimizer.generator.lr": ("0", "1e308", "5e-324", "[[0, 1e-3], [0.008, 0]]", "[[1e308, 1]]", "[]"),
    "optimizer.discriminator.eps": ("1e308", "5e-324", "1e-46"),
    "optimizer.generator.betas": ("[0, 0]", "[0.999999999999, 0]"),
    "data.holdout": ("0", "1", "0.999", "1e-9", "0.5"),
    "data.window": ("[5, 5]", "[1, 0]", "[.nan, 1]", "[-1e308, 1e308]", "dtype", "[0, 1e-45]"),
    "data.channels": ("3", "2", "5"),
    "data.resolution": ("8", "17", "16"),
    "data.fit": ("crop", "stretch"),
    "generator.width": ("1e-9", "1e-300", "0.01"),
    "loss.label_smoothing": ("1", "0.5", "1e-300"),
    "penalties": ("{r1: {weight: 1e308}}", "{r1: {every: 9999999999999999999}}", "{}", "{gp1: {}}", "{x: {}}"),
    "augment": ("{name: ada, speed_kimg: 5e-324}", "{name: diffaugment, policy: []}", "{name: ada, target: 1}", "x"),
}
LENGTHS = (
    "0.008",
    "0.016",
    "0.0080000001",
    "1e-9",
    "5e-324",
    "0",
    "-1",
    "-0.0",
    "nan",
    "inf",
    "1e308",
    "1e400",
    "x",
    "",
)


def training(case: Case) -> None:
    """``zoo train`` with extreme settings: refused before a folder is made, or trained to that length."""
    rng = case.rng
    kimg = rng.choice(LENGTHS) if rng.random() < 0.3 else "0.008"
    changes = []
    for key in rng.sample(sorted(SETTINGS), rng.choice((1, 1, 2))):
        changes += ["--set", f"{key}={rng.choice(SETTINGS[key])}"]
    result = case.zoo("train", "dcgan-64", "--data", "phantoms:4", "--kimg", kimg, *TINY, *changes)
    runs = sorted((case.folder / "runs").glob("dcgan-64-*"))
    if result.code:
        for run in runs:
            status = json.loads((run / "run.json").read_text())["status"] if (run / "run.json").exists() else "missing"
            case.expect(status == "failed", f"refused, but a run of status {status} was left: {result.err[-200:]!a}")
        return
    info = json.loads((runs[-1] / "run.json").read_text())
    batch = next((int(text.partition("=")[2]) for text in changes if text.startswith("train.batch=")), 8)
    steps = max(1, -(-round(float(kimg) * 1000) // batch))
    d_steps = 2 if "train.d_steps=2" in changes else 1
    case.expect(
        info["nimg"] in (steps * batch, -(-steps // d_steps) * d_steps * batch), f"--kimg {kimg}: {info['nimg']} images"
    )
    expect_finite_weights(case, runs[-1] / "generator.safetensors")


def expect_finite_weights(case: Case, path: Any) -> None:
    """Read a generator's file with the library itself, and look for NaN and infinite weights."""
    import safetensors.torch

    for name, tensor in safetensors.torch.load_file(path).items():
        case.expect(bool(tensor.isfinite().all()), f"{path}: {name} is not finite")


COUNTS = (
    "0",
    "-1",
    "1",
    "3",
    "017",
    "1_0",
    "1e3",
    "4.0",
    "",
    " 4 ",
    "٣",
    "nan",
    "9" * 12,
    "9" * 30,
    "2147483648",
    "x",
    "--",
)
NUMBERS = (*COUNTS, "0.5", "1.5", "-0.5", "inf", "-inf", "1e308", "5e-324")
PLACES = (
    *(
        "x.png",
        "x.npz",
        "folder",
        "out/epoch.10",
        "grid.PNG",
        "x.gif",
        "x.jpg",
        "",
        ".",
        "..",
        "/dev/full",
        "/dev/null",
        "/",
    ),
    *(
        "/proc/x.png",
        "a/b/c/d.png",
        "x" * 300 + ".png",
        "x" * 5000,
        "\x00.png",
        "\x1b[31m.png",
        "[/b].png",
        "\ud800.png",
    ),
    *("\ud800.png", "file/x.png", "file", "a\nb.png", "~/x.png", "-x.png", " .png"),
)
CONTENTS = (b"", b"x", b"\x93NUMPY", b"PK\3\4", b"\0" * 100, bytes(range(256)))
NAMES_OF_THINGS = (
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "x" * 300,
        "x" * 5000,
        "\x00",
        "\x1b[31m",
        "[/b]",
        "[v1]",
        "\ud800",
        "dcgan-64",
        "dcgan-6",
    ),
    *(
        "file",
        "folder",
        "*",
        "[",
        "a\nb",
        "/dev/zero",
        "/dev/null",
        "/proc/self/mem",
        "phantoms:0",
        "phantoms:-1",
        "phantoms:",
    ),
    *("phantoms:4", "phantoms:٣", "phantoms:x", "file.npy", "file.npz", "file.zip", "file.yaml", "file.safetensors"),
    *(
        "folder.yaml",
        "folder.zip",
        "folder.safetensors",
        "fifo",
        "fifo.yaml",
        "fifo.zip",
        "fifo.npy",
        "fifo.safetensors",
    ),
)


def arguments(case: Case) -> None:
    """Arguments of the commands that use things: counts, places, names."""
    rng = case.rng
    for name in ("file", "file.npy", "file.npz", "file.zip", "file.yaml", "file.safetensors"):
        (case.folder / name).write_bytes(
            rng.choice((b"", b"x", b"\x93NUMPY", b"PK\3\4", b"\0" * 100, bytes(range(256))))
        )
    for name in ("folder", "folder.yaml", "folder.zip", "folder.safetensors"):
        (case.folder / name).mkdir()
    for name in ("fifo", "fifo.yaml", "fifo.zip", "fifo.npy", "fifo.safetensors"):
        os.mkfifo(case.folder / name)
    run, thing = case.shared / "runs" / "dcgan-64-000", rng.choice(NAMES_OF_THINGS)
    count, number = rng.choice(COUNTS), rng.choice(NUMBERS)
    match rng.randrange(10):
        case 0:
            result = case.zoo("sample", run, "-n", count, "--seed", rng.choice(COUNTS), "--out", "x.npz", "--json")
            _expect_count(case, result.code == 0, count)
        case 1:
            case.zoo("sample", run, "-n", "2", "--out", rng.choice(PLACES))
        case 2:
            flags = {"-n": "1", "--points": "1", "--frames": "1", rng.choice(("-n", "--points", "--frames")): count}
            case.zoo("interpolate", run, *(word for flag in flags.items() for word in flag))
        case 3:
            case.zoo("interpolate", run, "-n", "1", "--points", "1", "--frames", "1", "--out", rng.choice(PLACES))
        case 4:
            case.zoo("sample", run, "-n", "2", rng.choice(("--truncation", "--mix", "--class", "--device")), number)
        case 5:
            case.zoo(rng.choice(("show", "list", "runs")), thing)
        case 6:
            case.zoo(*rng.choice((("data", "check"), ("sample",), ("interpolate",))), thing)
        case 7:
            flag = rng.choice(("--fit", "--resolution", "--channels", "--metrics", "--spaces", "--weights", "--unseen"))
            images = case.shared / "images.npy"
            case.zoo(
                "compare", images, images, "--metrics", "ssim_nearest", "--no-floors", "--no-intervals", flag, number
            )
        case 8:
            case.zoo("compare", thing, case.shared / "images.npy", "--metrics", "ssim_nearest", "--no-floors")
        case 9:
            case.zoo("data", "check", case.shared / "images.npy", "--resolution", number, "--out", rng.choice(PLACES))


def _expect_count(case: Case, done: bool, count: str) -> None:
    import numpy as np

    if done:
        images = np.load(case.folder / "x.npz")["images"]
        case.expect(len(images) == int(count), f"-n {count} made {len(images)} images")
        case.expect(images.std() > 0, "the images are of one grey")
