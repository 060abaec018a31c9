"""Validation during training: values, alarms, the best generator, and stopping."""

from dataclasses import replace

import pytest
import torch

import zoo
from zoo.data.dataset import load_dataset
from zoo.training import generator_file
from zoo.training.loop import CollapsedError
from zoo.training.trainer import Trainer
from zoo.training.validation import Validator

TINY = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=8"]
EVERY_STEP = [
    "train.log_kimg=0.008",
    "train.sample_kimg=0.008",
    "train.checkpoint_kimg=0.016",
    "train.evaluate_share=1",
]


def train(out, *more, kimg=0.04):
    return zoo.train("dcgan-64", data="phantoms:20", out=out, kimg=kimg, device="cpu", set=[*TINY, *EVERY_STEP, *more])


class Lines(list):
    def warn(self, message):
        self.append(message)

    def say(self, message):
        self.append(message)

    start = advance = stop = lambda self, *_: None


@pytest.fixture(scope="module")
def trainer():
    recipe = zoo.load_recipe("dcgan-64", TINY)
    return Trainer(recipe, load_dataset("phantoms:20", recipe.data), torch.device("cpu"))


def real_images(trainer, positions):
    return trainer.data.take(positions)


@pytest.mark.slow
def test_log_has_every_validation_and_the_values_of_real_images(tmp_path):
    rows = train(tmp_path).rows()
    assert [row["nimg"] for row in rows] == [8, 16, 24, 32, 40]
    for row in rows:
        assert -1 <= row["ssim_nearest"] <= 1
        assert 0 < row["ssim_nearest_unseen"] < 1
        assert 0 < row["ncc_nearest_unseen"] <= 1
        assert 0 < row["ssim_pairwise_real"] < 1
        assert max(row["ssim_nearest_noise"], row["ssim_nearest_black"]) < row["ssim_nearest_unseen"]
        assert row["ssim_nearest_mean"] < row["ssim_nearest_unseen"]
        assert row["copies_ssim"] == row["copies_ncc"] == 0
        assert {alarm["name"] for alarm in row["alarms"]} <= {"collapse", "untrained"}
    assert "untrained" in [alarm["name"] for alarm in rows[0]["alarms"]]


def test_validation_keeps_to_its_share_of_the_time(trainer):
    validator = Validator(trainer, Lines())
    assert validator.due(0.0)
    validator.record_duration(1.0)
    assert not validator.due(99.0)  # two seconds of 99 are more than a fiftieth
    assert validator.due(100.0)
    validator.record_duration(2.0)
    assert not validator.due(249.0)
    assert validator.due(250.0)
    again = Validator(trainer, Lines(), validator.state_dict())
    assert not again.due(249.0)


@pytest.mark.parametrize(("share", "due"), [(0, [False, False, False]), (1, [True, True, True])])
def test_never_and_always(trainer, share, due):
    validator = Validator(trainer, Lines())
    validator.config = replace(validator.config, evaluate_share=share)
    found = []
    for elapsed in (0.0, 1.0, 1e9):
        found.append(validator.due(elapsed))
        validator.record_duration(2.0)
    assert found == due


def test_heldout_images_trigger_no_alarm_and_one_repeated_image_does(trainer):
    lines = Lines()
    validator = Validator(trainer, lines)
    heldout = real_images(trainer, trainer.data.unseen)
    assert len(heldout) == 64
    assert validator.validate(heldout)["alarms"] == []
    row = validator.validate(heldout[:1].repeat(64, 1, 1, 1))
    assert {alarm["metric"] for alarm in row["alarms"]} == {"ssim_pairwise", "ssim_twins"}
    assert sum("collapse" in line for line in lines) == 2
    validator.validate(heldout[:1].repeat(64, 1, 1, 1))
    assert sum("collapse" in line for line in lines) == 2  # reported once
    validator.validate(real_images(trainer, trainer.data.train[::3][:64]))
    assert any("no longer" in line for line in lines)


def test_noise_is_reported_as_untrained_in_one_line(trainer):
    lines = Lines()
    validator = Validator(trainer, lines)
    noise = torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    row = validator.validate(noise)
    assert {alarm["metric"] for alarm in row["alarms"]} == {"ssim_nearest", "ncc_nearest"}
    validator.validate(real_images(trainer, trainer.data.unseen))
    assert [line.partition(":")[0] for line in lines if "untrained" in line] == ["untrained at nimg 0", "untrained"]


def test_shifted_training_images_trigger_memorisation(trainer):
    copied = torch.roll(real_images(trainer, trainer.data.train[::3][:64]), 1, dims=3)
    row = Validator(trainer, Lines()).validate(copied)
    assert "copies_ncc" in [alarm["metric"] for alarm in row["alarms"] if alarm["name"] == "memorisation"]


def test_best_generator_is_saved_next_to_the_last(tmp_path):
    run = train(tmp_path)
    best = run.info["best"]
    assert best["metric"] == "ssim"
    row = next(row for row in run.rows() if row["nimg"] == best["nimg"])
    gap = abs(row["ssim_nearest"] - row["ssim_nearest_unseen"]) + abs(row["ssim_pairwise"] - row["ssim_pairwise_real"])
    assert best["value"] == pytest.approx(gap)
    assert generator_file.load_generator_file(run.best_file)[2] == best["nimg"]
    assert zoo.load_generator(run.best_file).nimg == best["nimg"]
    none = train(tmp_path / "none", "train.best=none", kimg=0.008)
    assert not none.best_file.exists()


def test_another_best_metric_starts_from_nothing(trainer):
    validator = Validator(trainer, Lines(), {"best": {"metric": "fid", "value": 0.001, "nimg": 8}})
    row = {"ssim_nearest": 0.5, "ssim_nearest_unseen": 0.9, "ssim_pairwise": 0.7, "ssim_pairwise_real": 0.6}
    assert validator.improved(row, 16)
    assert validator.best == {"metric": "ssim", "value": pytest.approx(0.5), "nimg": 16}
    assert not validator.improved(row | {"ssim_nearest": 0.4}, 24)


def test_best_by_kid_needs_weights_before_the_first_step(tmp_path):
    with pytest.raises(zoo.ZooError, match="ZOO_WEIGHTS"):
        train(tmp_path, "train.best=kid")


def test_kid_in_training_uses_more_fakes(tmp_path, monkeypatch):
    from zoo.metrics.features.extractor import load_extractor

    monkeypatch.setattr("zoo.training.validation.load_extractor", lambda name, **options: load_extractor("random"))
    monkeypatch.setattr("zoo.training.validation.NUM_RANKING_IMAGES", 32)
    run = train(tmp_path, "train.best=kid", kimg=0.016)
    rows = run.rows()
    assert all(row["kid"] > 0 for row in rows)
    assert run.info["best"]["value"] == min(row["kid"] for row in rows)


@pytest.mark.slow
def test_collapsed_run_is_stopped_on_request(tmp_path, monkeypatch):
    def validate(self, fakes, ranking_features=None):
        self._collapsed_ssim = [*self._collapsed_ssim, 0.99]
        return {"alarms": []}

    monkeypatch.setattr(Validator, "validate", validate)
    with pytest.raises(CollapsedError, match=r"collapsed by nimg 40: .*stop_on_collapse=false"):
        train(tmp_path, "train.stop_on_collapse=true", kimg=0.08)
    run = zoo.Run(tmp_path / "dcgan-64-000")
    assert (run.info["status"], run.info["nimg"]) == ("failed", 40)
    monkeypatch.undo()
    done = zoo.train(resume=run.path, device="cpu", set=["train.stop_on_collapse=false"])
    assert done.info["status"] == "finished"
    assert train(tmp_path / "other", kimg=0.08).info["status"] == "finished"


def test_growing_variety_does_not_stop_a_run(trainer):
    validator = Validator(trainer, Lines())
    validator._collapsed_ssim = [0.99, 0.98, 0.97, 0.97, 0.96]
    assert not validator.has_collapsed()
    validator._collapsed_ssim = [0.96, 0.97, 0.97, 0.97, 0.97]
    assert validator.has_collapsed()
    validator._collapsed_ssim = [0.97] * 4
    assert not validator.has_collapsed()
