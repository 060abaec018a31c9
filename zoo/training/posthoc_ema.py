"""Averages of any width after training, from snapshots of a few (Karras et al. 2024, arXiv:2312.02696, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from zoo.core.config import EmaConfig
from zoo.core.errors import ZooError, error_reason
from zoo.core.output_place import check_file
from zoo.models.base import Generator
from zoo.runtime.device import choose_device
from zoo.training.ema import Ema, power_exponent
from zoo.training.generator_file import load_generator_file, save_generator
from zoo.training.run_folder import Run, find_run

MAX_ERROR = 0.25  # of a profile, relative to its norm; beyond it the result would not be the average that was asked for


class PowerProfile(NamedTuple):
    """How much the weights after each image count: as t^exponent from 0 to ``nimg``, with sum one.

    Attributes:
        nimg: images seen when the average was taken.
        exponent: gamma (see ``zoo.training.ema.power_exponent``).
    """

    nimg: int
    exponent: float

    def dot(self, other: PowerProfile) -> float:
        """Return the integral of the product of two profiles."""
        exponent = self.exponent + other.exponent
        end = min(self.nimg, other.nimg)
        # Ratios first: the powers themselves overflow.
        ends = (end / self.nimg) ** self.exponent * (end / other.nimg) ** other.exponent
        return (self.exponent + 1) * (other.exponent + 1) / (exponent + 1) * ends * end / self.nimg / other.nimg


def combine_profiles(profiles: Sequence[PowerProfile], target: PowerProfile) -> tuple[np.ndarray, float]:
    """Return the factors (n,) of ``profiles`` whose sum is nearest to ``target``, and its relative error.

    Least squares (Karras et al. 2024, algorithm 3), with factors that sum to one: with few snapshots free ones do not,
    and would scale weights that never changed.
    """
    products = np.array([[a.dot(b) for b in profiles] for a in profiles])
    wanted = np.array([profile.dot(target) for profile in profiles])
    # Scaled to norm one, since profiles of few images are high; neighbours are nearly parallel, hence no plain solve.
    scale = 1 / np.sqrt(np.diag(products))
    ones = scale / scale.max()  # the sum of scaled factors, but for a factor
    system = np.block([[products * np.outer(scale, scale), ones[:, None]], [ones[None], np.zeros((1, 1))]])
    solution = np.linalg.lstsq(system, np.append(wanted * scale, 1 / scale.max()), rcond=1e-12)[0]
    factors = scale * solution[:-1]  # without Lagrange's multiplier
    factors /= factors.sum()
    square = target.dot(target)
    remainder = square - 2 * factors @ wanted + factors @ products @ factors
    return factors, float(np.sqrt(max(0.0, remainder) / square))


def reconstruct_ema(
    source: str | Path, std: float, *, kimg: float | None = None, out: str | Path | None = None, device: str = "auto"
) -> tuple[Path, float]:
    """Write the generator that ``ema.power_std: std`` would have given, and return its file and the profile's error.

    Args:
        source: folder or name of a run with ``ema.snapshot_stds``.
        std: deviation of the average relative to the training so far.
        kimg: thousands of images after which it is taken; default: those of the newest snapshot.
        out: default: ``ema-<std>.safetensors`` in the run's folder, with ``-<kimg>`` after it where ``kimg`` is given.

    Raises:
        ZooError: no snapshots; or ``std`` or ``kimg`` is out of their range.
    """
    run = find_run(source, Path("runs"))
    if not 0.001 <= std < 0.28:
        raise ZooError(f"--std {std:g}: must be at least 0.001 and below 0.28, the deviation of nearly a plain mean")
    files = _list_snapshots(run)
    newest = max(profile.nimg for profile, _ in files)
    if kimg is not None and not math.isfinite(kimg):
        raise ZooError(f"--kimg {kimg}: must be a finite number of thousands of images")
    nimg = newest if kimg is None else round(kimg * 1000)
    files = [(profile, path) for profile, path in files if profile.nimg <= nimg]
    if not files or nimg > newest:
        raise ZooError(
            f"--kimg {nimg / 1000:g}: the snapshots of {run.path} do not reach it; the last is {newest / 1000:g}"
        )
    target = PowerProfile(nimg, power_exponent(std))
    factors, error = combine_profiles([profile for profile, _ in files], target)
    if error > MAX_ERROR:
        raise ZooError(
            f"--std {std:g}: the snapshots of {run.path} give it with an error of {error:.0%}; take one nearer to "
            "ema.snapshot_stds, or train with more snapshots (ema.snapshot_kimg)"
        )
    length = "" if kimg is None else f"-{kimg:g}"
    path = Path(out) if out is not None else run.path / f"ema-{std:g}{length}.safetensors"
    check_file(path, (".safetensors",), "a generator")
    generator = _sum_snapshots([path for _, path in files], factors)
    chosen = choose_device(device)
    ema = Ema(generator.to(chosen), EmaConfig(power_std=std))
    recipe = load_generator_file(files[-1][1])[1]
    ema.calibrate_for(recipe, nimg, chosen)
    try:
        save_generator(path, ema.module, recipe=recipe, nimg=nimg, power_std=repr(std), error=f"{error:.4f}")
    except OSError as failure:
        raise ZooError(f"{path}: cannot be written ({error_reason(failure)})") from None
    return path, error


def _list_snapshots(run: Run) -> list[tuple[PowerProfile, Path]]:
    """Return the profiles and files of a run's snapshots, oldest first."""
    files = [(PowerProfile(nimg, power_exponent(std)), path) for nimg, std, path in run.list_snapshots()]
    if not files:
        raise ZooError(
            f"{run.path}: has no snapshots of averages. Train with them: --set 'ema.snapshot_stds=[0.05, 0.1]'"
        )
    return files


@torch.no_grad()
def _sum_snapshots(paths: Sequence[Path], factors: np.ndarray) -> Generator:
    """Return the newest generator with the sum of all, times their factors, as parameters."""
    sums: dict[str, torch.Tensor] = {}
    for path, factor in zip(paths, factors.tolist(), strict=True):
        generator = load_generator_file(path)[0]
        for name, parameter in generator.named_parameters():
            term = factor * parameter.double()  # factors of both signs cancel
            sums[name] = sums[name] + term if name in sums else term
    for name, parameter in generator.named_parameters():
        parameter.copy_(sums[name])
    return generator
