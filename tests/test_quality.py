"""A small network must learn: after two minutes its images are nearer to real ones than their mean image is."""

import numpy as np
import pytest

import zoo
from zoo.data.dataset import load_dataset

DATA = "phantoms:16"


@pytest.mark.slow
def test_trained_generator_beats_the_mean_image(tmp_path):
    settings = ["train.evaluate_share=0", "train.precision=fp32", "ema.halflife_kimg=1"]
    run = zoo.train("multires-28-stable", data=DATA, out=tmp_path, kimg=KIMG, device="cpu", set=settings)
    np.save(tmp_path / "fakes.npy", zoo.load_generator(run, device="cpu").sample(300).numpy()[:, 0])
    images = load_dataset(DATA, run_data_config())
    np.save(tmp_path / "reals.npy", images.take(images.train).numpy()[:, 0])
    result = zoo.compare(
        tmp_path / "fakes.npy",
        tmp_path / "reals.npy",
        extractors=["random"],
        metrics=["fid"],
        intervals=False,
        device="cpu",
    )
    assert result["fid"]["value"] < result["floors"]["dataset mean"]["fid"]["value"]


KIMG = 14.0  # about two minutes on one core


def run_data_config():
    return zoo.load_recipe("multires-28-stable").data
