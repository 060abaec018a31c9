"""`zoo doctor`: what this machine has and what zoo would choose on it, as text for a report of a fault."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import shutil
import stat
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.cli.options import Commands, add_command, add_shared, complete_recipes
from zoo.cli.output import print_json, print_line
from zoo.core.errors import error_reason
from zoo.core.wording import count_of

PACKAGES = (
    *("torch", "numpy", "timm", "torch-fidelity", "safetensors", "huggingface-hub", "pillow", "tifffile", "matplotlib"),
    *("einops", "filelock", "rich", "pyyaml", "jinja2", "triton", "tensorboard", "wandb", "mlflow-skinny", "pandas"),
)
VARIABLES = re.compile(
    r"ZOO_(?!TEST)\w+|OMP_NUM_THREADS|MKL_NUM_THREADS|CUDA_VISIBLE_DEVICES|HF_HUB_OFFLINE|HF_ENDPOINT|CC|XDG_CACHE_HOME|"
    r"TORCHINDUCTOR_CACHE_DIR|WORLD_SIZE"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DEFAULT_RECIPE = "fastgan-r3-64"  # whose `auto` settings are shown


def add_doctor_command(commands: Commands) -> None:
    """Add ``doctor``."""
    text = "show versions, devices, measured speed, weights, cache, and what auto means here"
    p = add_command(commands, _doctor, "doctor", text, "zoo doctor --json")
    recipe = p.add_argument("name", nargs="?", default=DEFAULT_RECIPE, metavar="NAME|FILE", help="whose auto is shown")
    recipe.completer = complete_recipes  # type: ignore[attr-defined]
    add_shared(p, "--device")


def _doctor(arguments: Namespace) -> None:
    document = hide_names(examine_machine(arguments.name, arguments.device))
    if arguments.json:
        return print_json(document)
    for section, facts in document.items():
        print_line(f"{section}:")
        for name, value in facts.items():
            print_line(f"  {name}: {value}")
    return None


def examine_machine(recipe: str, device: str) -> dict[str, dict[str, Any]]:
    """Return facts by section; takes a few seconds, in which rates are measured. Nothing is downloaded.

    Args:
        recipe: whose ``auto`` settings are looked up.
        device: of the rates and settings, as for training.

    Raises:
        ZooError: no such recipe or device.
    """
    from zoo.recipes import load_recipe
    from zoo.runtime.device import choose_device

    resolved, chosen = load_recipe(recipe), choose_device(device)
    return {
        "versions": _versions(),
        "machine": _machine(),
        "devices": _devices(),
        f"rates on {chosen}": _rates(chosen),
        "tools": _tools(),
        "weights": _weights(),
        "cache": _cache(),
        f"auto for {recipe} on {chosen}": _auto(resolved, chosen),
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)},
    }


def hide_names(value: Any) -> Any:
    """Return plain data with the home folder as ``~`` and the user's name as USER."""
    from zoo.core.files import hide_home

    if isinstance(value, dict):
        return {hide_names(key): hide_names(item) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    value = re.sub(r"//[^/@\s]+@", "//", hide_home(value))  # a password in an address
    user = ""
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container may have no entry for the user
        user = getpass.getuser()
    if len(user) > 1 and user != "root":
        value = re.sub(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])", "USER", value)
    return value


def _versions() -> dict[str, str]:
    from importlib import metadata

    from zoo.core.version import version

    versions = {"zoo": version(), "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _machine() -> dict[str, Any]:
    import torch

    from zoo.runtime.device import cpu_model

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(),
        "processor": cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": f"{cores} of {os.cpu_count()}",
        "threads": torch.get_num_threads(),
        "encoding": f"{sys.getfilesystemencoding()}, output {getattr(sys.stdout, 'encoding', None)}",
    }


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": "yes"}
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {facts.major}.{facts.minor}"
    devices["cuda"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if len(devices) > 1 else "no"
    devices["mps"] = "yes" if torch.backends.mps.is_available() else "no"
    return devices


def _rates(device: Any) -> dict[str, str]:
    from zoo.training.profiling.roofline import measure_rates

    try:
        rates = measure_rates(device)
    except RuntimeError as error:  # a driver that does not fit, no memory
        return {"failed": str(error).splitlines()[0]}
    unit = "billion multiply-adds per second"
    return {
        "fp32": f"{rates.fp32 / 1e9:,.0f} {unit}",
        "bf16": f"{rates.bf16 / 1e9:,.0f} {unit}",
        "copy": f"{rates.copy / 1e9:.1f} GB/s",
    }


def _tools() -> dict[str, str]:
    from zoo.metrics.ssim import ssim

    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    return {"compiler": compiler or "none", "SSIM": ssim.engine(), "browser": browser or "none"}


def _weights() -> dict[str, str]:
    from zoo.core.errors import ZooError
    from zoo.core.progress import SilentReporter
    from zoo.hub.pretrained import load_catalogue
    from zoo.metrics.features.backbone_weights import DINOV2, find_inception_weights, find_timm_weights

    finders = {
        "inception": lambda: find_inception_weights(None, SilentReporter()),
        "dinov2": lambda: find_timm_weights(DINOV2, None, SilentReporter()),
    }
    found = {}
    with _offline():
        for name, find in finders.items():
            try:
                found[name] = str(find())
            except ZooError as error:
                wrong = "ZOO_OFFLINE" not in str(error)
                found[name] = str(error) if wrong else "none; the first evaluation downloads them"
    return found | {entry.name: entry.where for entry in load_catalogue().values()}


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let nothing be downloaded in the block."""
    before = os.environ.get("ZOO_OFFLINE")
    os.environ["ZOO_OFFLINE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("ZOO_OFFLINE")
        if before is not None:
            os.environ["ZOO_OFFLINE"] = before


def _cache() -> dict[str, str]:
    from zoo.core.files import cache_folder, is_folder

    folder = cache_folder()
    facts = {"folder": str(folder)}
    try:
        parts = sorted(path for path in folder.iterdir() if path.is_dir()) if is_folder(folder) else []
    except OSError as error:
        parts, facts["content"] = [], f"cannot be read ({error_reason(error)})"
    for part in parts:
        sizes = [*_file_sizes(part)]
        facts[part.name] = f"{sum(sizes) / 1e6:,.1f} MB in {count_of(len(sizes), 'file')}"
    place = next((path for path in (folder, *folder.parents) if is_folder(path)), folder)
    facts["free"] = f"{shutil.disk_usage(place).free / 1e9:,.1f} GB"
    facts["writable"] = "yes" if os.access(place, os.W_OK) else "no"
    return facts


def _file_sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):  # which leaves out folders that are closed, or gone since
        for name in names:
            with contextlib.suppress(OSError):  # removed by a process that is training
                status = Path(place, name).lstat()
                if stat.S_ISREG(status.st_mode):
                    yield status.st_size


def _auto(recipe: Any, device: Any) -> dict[str, Any]:
    from zoo.training.auto_speed import choose_measured_speed

    lines: list[str] = []
    speed = choose_measured_speed(recipe, device, lines.append)
    return {**speed.to_json(), **{f"note {index}": line for index, line in enumerate(lines, 1)}}
