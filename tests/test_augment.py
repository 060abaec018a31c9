"""Augmentation: what it does to images, what it never does, and the probability that follows overfitting."""

import copy

import pytest
import torch

from zoo import recipes
from zoo.core.config import AugmentConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.training.augment import (
    _BRIGHTNESS,
    _COLUMN,
    _CONTRAST,
    _CUTS,
    _FLIPS,
    _ROW,
    PASSES,
    Ada,
    augment_images,
    draw_augmentations,
)
from zoo.training.trainer import Trainer

ALL = ("translation", "brightness", "contrast", "cutout", "xflip")


def config(*policy, name="diffaugment", **more):
    return AugmentConfig(name=name, policy=policy or ALL, **more)


def neutral(count=1):
    draws = torch.zeros(count, 8)
    draws[:, _CONTRAST] = 1
    return draws


def pictures(count=2, channels=1, size=8):
    return 2 * torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) - 1


def test_numbers_that_mean_nothing_change_nothing():
    x = pictures()
    torch.testing.assert_close(augment_images(x, neutral(2), ALL), x)
    never = draw_augmentations(config(), 0, 0, 4, p=0.0)
    torch.testing.assert_close(augment_images(pictures(4), never[:, 0], ALL), pictures(4))


def test_a_pair_shares_one_draw_and_phases_do_not():
    single, paired = (draw_augmentations(config(paired=value), 0, 0, 64) for value in (False, True))
    columns = {name: paired[:, index] for index, name in enumerate(PASSES)}
    for phase in ("D", "G"):
        assert torch.equal(columns[f"{phase} real"], columns[f"{phase} fake"])
        assert torch.equal(columns[f"{phase} real"], single[:, PASSES.index(f"{phase} real")])
    assert not torch.equal(columns["D real"], columns["G real"])
    x = pictures(64)
    moved = [augment_images(x, columns[f"D {side}"], ALL) for side in ("real", "fake")]
    assert torch.equal(*moved)


def test_translation_moves_whole_pixels_and_brings_in_black():
    x, draws = pictures(), neutral(2)
    draws[0, _ROW], draws[0, _COLUMN] = 2 / 8, -1 / 8
    moved = augment_images(x, draws, ("translation",))
    torch.testing.assert_close(moved[0, :, 2:, :7], x[0, :, :6, 1:])
    assert (moved[0, :, :2] == -1).all()
    assert (moved[0, :, :, 7] == -1).all()
    assert torch.equal(moved[1], x[1])


def test_brightness_contrast_and_flip():
    x, draws = pictures(), neutral(2)
    draws[:, _BRIGHTNESS], draws[:, _CONTRAST], draws[:, _FLIPS] = 0.25, 0.5, 1
    torch.testing.assert_close(augment_images(x, draws, ("brightness",)), x + 0.25)
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(augment_images(x, draws, ("contrast",)), (x + mean) / 2)
    assert torch.equal(augment_images(x, draws, ("xflip",)), x.flip(3))


def test_cutout_cuts_a_quarter_at_most():
    draws = neutral()
    draws[:, _CUTS], draws[:, 4:6] = 1, 0.5
    cut = augment_images(torch.ones(1, 1, 8, 8), draws, ("cutout",))
    assert (cut == 0).sum() == 16
    assert (cut[..., 2:6, 2:6] == 0).all()


def test_can_be_differentiated_twice():
    """R1 is taken through it, with respect to the images before."""
    x = pictures(2, 1, 6).double().requires_grad_()
    draws = draw_augmentations(config(), 0, 0, 2)[:, 0].double()
    assert torch.autograd.gradgradcheck(lambda x: augment_images(x, draws, ALL).square().sum((1, 2, 3)), (x,))


def test_draws_belong_to_the_seed_and_the_images_seen_and_passes_differ():
    one = draw_augmentations(config(), 1, 64, 8)
    assert one.shape == (8, len(PASSES), 8)
    assert torch.equal(one, draw_augmentations(config(), 1, 64, 8))
    for other in (draw_augmentations(config(), 2, 64, 8), draw_augmentations(config(), 1, 128, 8)):
        assert not torch.equal(one, other)
    assert not torch.equal(one[:, 0], one[:, 1])
    assert one[..., _ROW].abs().max() <= 0.125
    assert not draw_augmentations(config("brightness"), 1, 64, 8)[..., (_ROW, _COLUMN, _CUTS, _FLIPS)].any()


@pytest.mark.parametrize("side", ["real", "fake"])
def test_one_side_alone_is_refused(side):
    """What is done to fakes alone leaks: G learns to make it."""
    with pytest.raises(ZooError, match=rf"augment: images: must be \[real, fake\], not {side} alone"):
        recipes.load_recipe("dcgan-64", [f"augment={{name: diffaugment, images: [{side}]}}"])


def trainer(*overrides):
    resolved = recipes.load_recipe(
        "dcgan-64",
        ["data.resolution=16", "generator.width=0.05", "discriminator.width=0.05", "train.batch=4", *overrides],
    )
    return Trainer(resolved, load_dataset("phantoms:2", resolved.data), torch.device("cpu"))


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_d_sees_every_image_augmented(monkeypatch, update, loss):
    made = trainer(
        f"train.update={update}", f"loss.name={loss}", "augment={name: diffaugment}", "penalties.r1.weight=1"
    )
    seen, given = [], []
    forward = made.D.forward
    monkeypatch.setattr(made.D, "forward", lambda x, label=None: (seen.append(x.detach().clone()), forward(x))[1])
    import zoo.training.forward_passes as module

    real = module.augment_images
    monkeypatch.setattr(
        module, "augment_images", lambda x, draws, policy: (given.append(real(x, draws, policy)), given[-1])[1]
    )
    made.step()
    assert len(seen) == len(given) == (2 if update == "simultaneous" else 4 if loss == "relativistic" else 3)
    assert all(torch.equal(a, b) for a, b in zip(seen, given, strict=True))
    assert not torch.equal(seen[0], seen[1])


def test_adas_probability_follows_the_sign_of_reals():
    ada = Ada(config(name="ada", target=0.6, speed_kimg=1.0, most=0.05))
    for _ in range(Ada.UPDATE_EVERY_STEPS):
        ada.add_signs(torch.tensor(1.0), 1.0)
        ada.update(10)
    assert ada.p == pytest.approx(10 * Ada.UPDATE_EVERY_STEPS / 1000)
    for _ in range(Ada.UPDATE_EVERY_STEPS):
        ada.add_signs(torch.tensor(1.0), 1.0)
        ada.update(10)
    assert ada.p == 0.05  # the most
    for _ in range(4 * Ada.UPDATE_EVERY_STEPS):
        ada.add_signs(torch.tensor(0.2), 0.5)
        ada.add_signs(torch.tensor(0.6), 0.5)  # a mean of 0.4
        ada.update(10)
    assert ada.p == 0.0


def test_adas_state_goes_on():
    first = trainer("augment={name: ada, speed_kimg: 0.05, target: 0.0}")
    for _ in range(6):
        first.step()
    second = trainer("augment={name: ada, speed_kimg: 0.05, target: 0.0}")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.ada.p == first.ada.p
    for one in (first, second):
        for _ in range(6):
            one.step()
    assert first.ada.p > 0
    assert second.ada.p == first.ada.p
    assert all(torch.equal(a, b) for a, b in zip(first.G.parameters(), second.G.parameters(), strict=True))


def test_adas_state_is_what_all_processes_saw(monkeypatch):
    """Two with means of 0.9 and 0.1 have seen 0.5, whichever of them goes on with it."""
    import zoo.training.augment as module

    seen = [0.9 / 2, 0.1 / 2]
    monkeypatch.setattr(module.distributed, "all_gather", lambda value: seen)
    ada = Ada(config(name="ada"))
    ada.add_signs(torch.tensor(0.9), 0.5)
    state = ada.state_dict()
    assert state["signs"] == pytest.approx(0.5)
    for first, own in ((True, 0.5), (False, 0.0)):
        monkeypatch.setattr(
            module.distributed, "current_world", lambda first=first: module.distributed.World(0 if first else 1, 2)
        )
        other = Ada(config(name="ada"))
        other.load_state_dict(state, torch.device("cpu"))
        assert other._signs.item() == pytest.approx(own)


@pytest.mark.parametrize("loss", ["relativistic", "wasserstein"])
def test_ada_wants_logits_whose_sign_says_something(loss):
    with pytest.raises(ZooError, match=f"augment.name: ada goes by the sign of logits, which means nothing to {loss}"):
        recipes.load_recipe("dcgan-64", [f"loss.name={loss}", "augment={name: ada}"])
