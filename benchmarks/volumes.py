"""Measure how fast volumes are read: the first time, and from the cache.

    python benchmarks/volumes.py --volumes 200

Volumes of 256 x 256 x 160 int16 are made in a temporary folder, as .nii.gz of level 1.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from zoo.core.config import DataConfig
from zoo.data.dataset import load_dataset

SHAPE = (256, 256, 160)


def make_volumes(folder: Path, count: int) -> float:
    """Write ellipsoids of smooth noise in empty space; return their size in MB."""
    import nibabel
    from nibabel.openers import Opener

    Opener.default_compresslevel = 1
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in SHAPE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.6
    for number in range(count):
        texture = rng.integers(200, 1000, [side // 8 for side in SHAPE]).astype(np.int16)
        for axis in range(3):
            texture = texture.repeat(8, axis=axis)
        volume = np.where(inside, texture + rng.integers(0, 32, SHAPE, np.int16), 0).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"sub-{number:03d}.nii.gz")
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def main() -> None:
    """Print seconds, MB and slices a second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=200, help="number of volumes (default: 200)")
    parser.add_argument("--resolution", type=int, default=256, help="of the prepared slices (default: 256)")
    parser.add_argument("--window", choices=["volume"], help="as data.window; default: one window for the set")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place, "volumes"), Path(place, "cache")
        folder.mkdir()
        size = make_volumes(folder, arguments.volumes)
        config = DataConfig(resolution=arguments.resolution, window=arguments.window)
        for name in ("first", "again"):
            start = time.perf_counter()
            slices = len(load_dataset(folder, config, cache_dir=cache).names)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{name}: {arguments.volumes} volumes, {size:.0f} MB, {slices} slices: {seconds:.1f} s, "
                f"{slices / seconds:.0f} slices/s, peak memory {peak:.0f} MB"
            )


if __name__ == "__main__":
    main()
