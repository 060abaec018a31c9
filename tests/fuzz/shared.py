"""Inputs that all cases start from: a run of a tiny network, its end after more steps, and images of known content."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np

TINY = (
    *("--set", "data.resolution=16", "--set", "generator.width=0.125", "--set", "discriminator.width=0.125"),
    *("--set", "train.batch=8", "--set", "train.evaluate_share=0", "--set", "data.holdout=0.5", "--device", "cpu"),
)
NUM_IMAGES = 8
SIDE = 24
RUN = "dcgan-64-000"
LENGTH, END = 32, 48  # images that the run and its continuation have seen


def build_shared(folder: Path) -> None:
    """Train the run to ``LENGTH`` images, a copy of it to ``END``, and write the images of :func:`known_images`."""
    from zoo.cli.main import main

    train = ["train", "dcgan-64", "--data", "phantoms:4", "--out", str(folder / "runs"), "--kimg", str(LENGTH / 1000)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main([*train, *TINY, "--set", "train.checkpoint_kimg=0.008"]) == 0
        shutil.copytree(folder / "runs", folder / "end")
        assert main(["train", "--resume", str(folder / "end" / RUN), "--kimg", str(END / 1000), "--device", "cpu"]) == 0
    np.save(folder / "images.npy", np.stack(known_images()))


def known_images(seed: int = 0, *, side: int = SIDE) -> list[np.ndarray]:
    """Return ``NUM_IMAGES`` smooth grey images (side, side) uint8 that use the whole range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images = []
    for _ in range(NUM_IMAGES):
        image = np.zeros((side, side))
        for _ in range(5):
            row, column, spread = rng.uniform(0, side), rng.uniform(0, side), side * rng.uniform(0.3, 1.5)
            image += rng.uniform(60, 160) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / spread)
        image = (image - image.min()) / (image.max() - image.min())
        images.append((image * 255).round().astype(np.uint8))
    return images
