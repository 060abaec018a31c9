"""Losses of the first three steps of two networks, as they were recorded when the trainer was written.

Values differ between processors by rounding, so they are compared to one part in a thousand; ``benchmarks/golden.py``
compares everything bit for bit on one machine.
"""

import pytest

import zoo

# Values of steps 1 to 3; fp32, phantoms of eight subjects, batches of 8.
GOLDEN = {
    "multires-28": [
        {"loss_d": 1.4099276, "loss_g": 0.7004517},
        {"loss_d": 1.3613148, "loss_g": 0.6775447},
        {"loss_d": 1.3307235, "loss_g": 0.6703154},
    ],
    "r3gan-64": [
        {"loss_d": 0.4894755, "r1": 0.00054911, "r2": 0.00054911, "loss_g": 2.4393752},
        {"loss_d": 0.6811237, "loss_g": 1.5189456},
        {"loss_d": 0.3118268, "loss_g": 2.4633811},
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_first_losses_are_the_recorded_ones(name, tmp_path):
    rows = train(name, tmp_path)
    for row, expected in zip(rows, GOLDEN[name], strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-3)


def train(name, out):
    settings = ["train.batch=8", "train.log_kimg=0.008", "train.evaluate_share=0", "train.precision=fp32"]
    run = zoo.train(name, data="phantoms:8", out=out, kimg=0.024, device="cpu", set=settings)
    return run.rows()
