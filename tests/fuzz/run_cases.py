"""Cases of what a training leaves: run folders, checkpoints with right checksums, generator files."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.recipe_cases import expect_finite_weights
from tests.fuzz.shared import END, RUN
from tests.fuzz.values import ODD_JSON, odd_text, replace_at


def _copy_run(case: Case, name: str = RUN) -> Path:
    return Path(shutil.copytree(case.shared / "runs" / RUN, case.folder / "runs" / name))


def run_folder(case: Case) -> None:
    """A run whose JSON, recipe or log was changed, next to a good one that must still be listed and continued."""
    rng = case.rng
    good, run = _copy_run(case, "dcgan-64-001"), _copy_run(case)
    name = rng.choice(("run.json", "run.json", "run.json", "recipe.yaml", "log.jsonl", "log.jsonl"))
    path = run / name
    match rng.randrange(5):
        case 0:
            path.write_bytes(case.odd_bytes(path.read_bytes()))
        case 1:
            path.unlink()
            match rng.randrange(3):
                case 0:
                    path.mkdir()
                case 1:
                    path.symlink_to(rng.choice((path, "/dev/zero", "/proc/self/mem", "/dev/null")))
        case _:
            _mutate_text(case, path)
    if rng.random() < 0.1:
        (run / "samples" / rng.choice(("fakes-x.png", "fakes-.png", "fakes-1e9.png", "fakes--1.png"))).write_bytes(b"x")
    listing = case.zoo("runs", "runs", *(["--json"] if rng.random() < 0.7 else []))
    case.expect(good.name in listing.out, "a good run is no longer listed")
    if listing.out.startswith("["):
        for row in json.loads(listing.out):
            _expect_sane_row(case, row)
    match rng.randrange(3):
        case 0:
            case.zoo("sample", run, "-n", "2", "--out", "x.npz")
        case 1:
            result = case.zoo("train", "--resume", run, "--kimg", END / 1000, "--device", "cpu")
            if result.code == 0:
                _expect_same_end(case, run)


def _expect_sane_row(case: Case, row: Mapping[str, Any]) -> None:
    if str(row["status"]).startswith("unreadable"):
        return
    for key in ("nimg", "kimg"):
        number = isinstance(row[key], int | float) and not isinstance(row[key], bool)
        case.expect(
            number and math.isfinite(row[key]) and row[key] >= 0, f"{row['run']} is listed with {key} {row[key]!a}"
        )
    case.expect(isinstance(row["status"], str), f"{row['run']} is listed with status {row['status']!a}")


def _mutate_text(case: Case, path: Path) -> None:
    rng, lines = case.rng, path.read_text(encoding="utf-8").split("\n")
    if path.suffix == ".yaml":
        at = rng.choice([index for index, line in enumerate(lines) if ": " in line and not line.startswith("#")])
        lines[at] = f"{lines[at].partition(': ')[0]}: {odd_text(rng)}"
    elif path.suffix == ".jsonl":
        at = rng.randrange(len(lines) - 1)
        lines[at] = json.dumps(replace_at(rng, json.loads(lines[at]), rng.choice(ODD_JSON)))
    else:
        lines = [json.dumps(replace_at(rng, json.loads("\n".join(lines)), rng.choice(ODD_JSON)))]
        if rng.random() < 0.1:
            lines = ["[" * 100_000, "{" * 5, "[]", "null", "3", ""][rng.randrange(6) :][:1]
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")


def weights_digest(run: Path) -> str:
    """Hash a run's generator."""
    import safetensors.torch

    state = hashlib.sha256()
    for name, tensor in sorted(safetensors.torch.load_file(run / "generator.safetensors").items()):
        state.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def _expect_same_end(case: Case, run: Path) -> None:
    info = json.loads((run / "run.json").read_text())
    case.expect(info["nimg"] == END, f"trained to {END} images, and run.json says {info['nimg']!a}")
    case.expect(info["status"] == "finished", f"trained to the end, and run.json says {info['status']!a}")
    same = weights_digest(run) == weights_digest(case.shared / "end" / RUN)
    case.expect(same, "continued to other weights than an undisturbed run")


def checkpoint(case: Case) -> None:
    """A checkpoint of right checksum and other content: refused, or the older one continues to the same end."""
    import torch

    rng, run = case.rng, _copy_run(case)
    newest, older = sorted((run / "state").glob("nimg-*.pt"), reverse=True)[:2]
    state = torch.load(newest, weights_only=True)
    change = _mutate_state(case, state)
    case.note(f"checkpoint: {change}")
    torch.save(state, newest)
    _write_sum(newest)
    if rng.random() < 0.2:
        shutil.copy(newest, older)
        _write_sum(older)
    result = case.zoo("train", "--resume", run, "--kimg", END / 1000, "--device", "cpu")
    if result.code == 0:
        expect_finite_weights(case, run / "generator.safetensors")
        _expect_same_end(case, run)


def _write_sum(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def _mutate_state(case: Case, state: dict[str, Any]) -> str:
    """Change a checkpoint in place, in a way that cannot be meant; return what was changed."""
    import torch

    rng, path = case.rng, ["trainer"] if case.rng.random() < 0.85 else []
    content: Any = state
    for key in path:
        content = content[key]
    for _ in range(rng.randrange(1, 6)):
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            break
        key = rng.choice(keys)
        path.append(key)
        if not isinstance(content[key], dict | list) or not content[key]:
            break
        content = content[key]
    key, parent = path[-1], state
    for part in path[:-1]:
        parent = parent[part]
    old = parent[key]
    name = ".".join(map(str, path))
    if rng.random() < 0.25 and isinstance(parent, dict):
        del parent[key]
        return f"{name} is missing"
    if isinstance(old, torch.Tensor) and rng.random() < 0.8:
        odd = [old.new_zeros((*old.shape, 2)), old.new_zeros(0), None, "x", old.to(torch.complex64)]
        if old.is_floating_point():
            odd += [torch.full_like(old, float("nan")), torch.full_like(old, float("inf"))] * 2
        parent[key] = rng.choice(odd)
    elif key == "nimg":
        parent[key] = rng.choice((-5, 10**30, 1e30, float("nan"), "32", None, True, 31.5, 33, [32]))
    else:
        choices = (None, "x", -1, [], {}, float("nan"), torch.zeros(3), {"a": 1}, [1, 2, 3])
        parent[key] = rng.choice([value for value in choices if type(value) is not type(old)])
    return f"{name} is {str(parent[key])[:60]!a}, was {str(old)[:60]!a}"


def generator_file(case: Case) -> None:
    """A ``generator.safetensors`` of other content and right hash: refused, or the images of its weights."""
    import numpy as np
    import safetensors
    import safetensors.torch

    from zoo.training.generator_file import _hash

    rng, path = case.rng, case.folder / "odd.safetensors"
    source = case.shared / "runs" / RUN / "generator.safetensors"
    with safetensors.safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = safetensors.torch.load_file(source)
    changed = rng.randrange(4)
    if changed == 0:
        path.write_bytes(case.odd_bytes(source.read_bytes()))
    elif changed == 1:
        key = rng.choice(sorted(metadata))
        value = rng.choice(
            (odd_text(rng), None, json.dumps(replace_at(rng, json.loads(metadata["recipe"]), rng.choice(ODD_JSON))))
        )
        metadata = {**metadata, key: value} if value is not None else {k: v for k, v in metadata.items() if k != key}
        if rng.random() < 0.5:
            metadata["recipe"] = json.dumps(replace_at(rng, json.loads(_recipe_text(metadata)), rng.choice(ODD_JSON)))
        try:
            path.write_bytes(safetensors.torch.save(tensors, metadata))
        except (UnicodeEncodeError, ValueError):  # a lone surrogate
            return
    else:
        tensors = _mutate_tensors(case, copy.deepcopy(tensors))
        path.write_bytes(safetensors.torch.save(tensors, {**metadata, "sha256": _hash(tensors)}))
    result = case.zoo("sample", path, "-n", "4", "--out", "x.npz", "--json")
    if result.code:
        return
    case.expect(changed != 2 and changed != 3, "weights that are not those of the network are sampled")
    expected = case.zoo("sample", source, "-n", "4", "--out", "good.npz")
    case.expect(expected.code == 0, "the good file cannot be sampled")
    images, good = (np.load(case.folder / name)["images"] for name in ("x.npz", "good.npz"))
    case.expect(images.shape != good.shape or (images == good).all(), "the same weights give other images")


def _recipe_text(metadata: Mapping[str, str]) -> str:
    try:
        json.loads(metadata["recipe"])
    except (KeyError, ValueError):
        return "{}"
    return metadata["recipe"]


def _mutate_tensors(case: Case, tensors: dict[str, Any]) -> dict[str, Any]:
    import torch

    # Of a missing counter of batches torch makes 0, which changes no image.
    name = case.rng.choice([key for key in sorted(tensors) if "num_batches_tracked" not in key])
    old = tensors[name]
    match case.rng.randrange(5):
        case 0:
            del tensors[name]
        case 1:
            tensors["extra"] = torch.zeros(3)
        case 2:
            tensors[name] = torch.zeros((*old.shape, 2))
        case _:
            name = case.rng.choice([key for key, tensor in sorted(tensors.items()) if tensor.is_floating_point()])
            value = case.rng.choice((float("nan"), float("inf"), -float("inf")))
            tensors[name] = torch.full_like(tensors[name], value)
            case.note(f"{name} is {value}")
    return tensors
