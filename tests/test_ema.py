"""Closed forms of the averaged generator's decay, and averages that are computed after training."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

import zoo
from zoo.cli.main import main
from zoo.core.config import EmaConfig, ImageSpec
from zoo.models.dcgan import DCGANGenerator, DCGANGeneratorConfig
from zoo.training.ema import Ema, power_exponent
from zoo.training.posthoc_ema import PowerProfile, combine_profiles


def decay(nimg, batch, **config):
    return Ema(tiny_generator(), EmaConfig(**config)).decay(nimg, batch)


def tiny_generator():
    return DCGANGenerator(DCGANGeneratorConfig(width=0.1), ImageSpec(resolution=16, channels=1))


def test_share_of_the_average_halves_after_the_half_life():
    assert decay(10**6, 8, halflife_kimg=0.5, ramp=None) ** (500 / 8) == pytest.approx(0.5)


def test_half_life_ramps_up_with_the_images_seen():
    assert decay(1000, 8, halflife_kimg=10.0, ramp=0.05) == pytest.approx(0.5 ** (8 / 50))


def test_no_half_life_means_no_average():
    assert decay(1000, 8, halflife_kimg=0.0) == 0.0


def test_products_of_profiles_are_their_integrals():
    t = (np.arange(400000) + 0.5) / 400000
    for (end, exponent), (other_end, other_exponent) in [((0.5, 16.97), (1.0, 6.94)), ((1.0, 3.0), (1.0, 0.5))]:
        a = np.where(t <= end, (exponent + 1) / end * (t / end) ** exponent, 0.0)
        b = np.where(t <= other_end, (other_exponent + 1) / other_end * (t / other_end) ** other_exponent, 0.0)
        scaled = PowerProfile(round(1000 * end), exponent).dot(PowerProfile(round(1000 * other_end), other_exponent))
        assert 1000 * scaled == pytest.approx((a * b).mean(), rel=1e-4)


@pytest.mark.parametrize("std", [0.03, 0.05, 0.075, 0.15, 0.2])
def test_averages_of_any_width_follow_from_snapshots_of_two(std):
    """Of a random walk, against the average that was kept all along (Karras et al. 2024, section 3.2)."""
    steps, batch = 4000, 8
    walk = np.cumsum(np.random.default_rng(0).standard_normal(steps))
    kept = dict.fromkeys((0.05, 0.1, std), 0.0)
    emas = {value: Ema(tiny_generator(), EmaConfig(power_std=value)) for value in kept}
    profiles, snapshots = [], []
    for step, weight in enumerate(walk, 1):
        for value, ema in emas.items():
            decay = ema.decay(step * batch, batch)
            kept[value] = decay * kept[value] + (1 - decay) * weight
        if step % 100 == 0:
            for value in (0.05, 0.1):
                profiles.append(PowerProfile(step * batch, power_exponent(value)))
                snapshots.append(kept[value])
    factors, error = combine_profiles(profiles, PowerProfile(steps * batch, power_exponent(std)))
    assert error < 0.1
    assert factors.sum() == pytest.approx(1, abs=0.02)
    assert np.dot(factors, snapshots) == pytest.approx(kept[std], abs=0.02 * walk.std())


def test_zoo_ema_repeats_a_snapshot_and_refuses_what_it_cannot(tmp_path, capsys):
    small = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"]
    averages = ["ema={power_std: 0.05, snapshot_stds: [0.05, 0.1], snapshot_kimg: 0.016}"]
    run = zoo.train("dcgan-64", data="phantoms:2", out=tmp_path, kimg=0.04, device="cpu", set=[*small, *averages])
    assert len(list(run.snapshots.iterdir())) == 6  # at 16, 32 and, the end, 40 images
    assert main(["ema", str(run.path), "--std", "0.05,0.1", "--json", "--device", "cpu"]) == 0
    same, wider = json.loads(capsys.readouterr().out)
    assert same["error"] == pytest.approx(0, abs=1e-3)
    expected = safetensors.torch.load_file(run.generator_file)
    tensors = safetensors.torch.load_file(same["out"])
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-3 * float(expected[name].abs().max()), rtol=0)
    assert main(["ema", str(run.path), "--std", "0.05", "--kimg", "0.032", "--json", "--device", "cpu"]) == 0
    (earlier,) = json.loads(capsys.readouterr().out)
    assert earlier["out"] == str(run.path / "ema-0.05-0.032.safetensors")  # and not that of the whole run
    assert zoo.load_generator(earlier["out"]).nimg == 32
    other = zoo.load_generator(wider["out"])
    assert other.nimg == 40
    assert other.sample(2).shape == (2, 1, 16, 16)
    for arguments, words in [
        (["--std", "0.3"], "must be at least 0.001 and below 0.28"),
        (["--std", "x"], "must be numbers"),
        (["--std", "0.05,0.1", "--out", "a.safetensors"], "takes one file"),
        (["--std", "0.05", "--kimg", "1"], "do not reach it; the last is 0.04"),
        (["--std", "0.05", "--kimg", "nan"], "--kimg nan: must be a finite number"),
        (["--std", "0.05", "--kimg", "inf"], "--kimg inf: must be a finite number"),
        (["--std", "nan"], "must be at least 0.001 and below 0.28"),
        (["--std", "0.001"], "give it with an error of"),
    ]:
        assert main(["ema", str(run.path), *arguments]) == 2
        assert words in capsys.readouterr().err


def test_zoo_ema_needs_snapshots(runs, capsys):
    assert main(["ema", str(runs / "dcgan-64-000"), "--std", "0.05"]) == 2
    assert "ema.snapshot_stds=[0.05, 0.1]" in capsys.readouterr().err


@pytest.mark.parametrize("kimg", [2, 20, 38, 60])
@pytest.mark.parametrize("std", [0.03, 0.05, 0.075, 0.15])
@pytest.mark.parametrize("stds", [(0.05,), (0.05, 0.1)])
def test_factors_of_few_snapshots_sum_to_one(kimg, std, stds):
    """Weights that never change must stay; free factors would multiply them by 0.78 to 0.93 here."""
    dates = sorted({min(20_000 * count, 1000 * kimg) for count in range(1, 5)})
    profiles = [PowerProfile(date, power_exponent(value)) for date in dates for value in stds]
    target = PowerProfile(1000 * kimg, power_exponent(std))
    factors, error = combine_profiles(profiles, target)
    assert factors.sum() == pytest.approx(1, abs=1e-12)
    # The nearest of all that sum to one: none on the way to any single snapshot is nearer.
    products = np.array([[a.dot(b) for b in profiles] for a in profiles])
    wanted = np.array([profile.dot(target) for profile in profiles])
    slopes = products @ factors - wanted
    assert slopes == pytest.approx(np.full(len(slopes), slopes.mean()), abs=1e-6 * target.dot(target))
    assert (error < 1e-6) == (std in stds)
