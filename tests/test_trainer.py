"""The step against a loop written out by hand, for both update orders; every mixed pair; accumulation; penalties."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from zoo import recipes
from zoo.core.config import EmaConfig
from zoo.core.console import format_training_row
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.pixel_range import from_uint8
from zoo.runtime import rng
from zoo.training.ema import Ema, power_exponent
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state

THIN = ["generator.width=0.125", "discriminator.width=0.125", "train.batch=4"]
TINY = ["data.resolution=16", *THIN]
DEVICE = torch.device("cpu")


def make(name, *overrides):
    resolved = recipes.load_recipe(name, overrides)
    return Trainer(resolved, load_dataset("phantoms:2", resolved.data), DEVICE)


def by_size():
    """Every two networks by themselves; every pair of two architectures once, at the smallest size that both have."""
    found = {
        name: recipes.load_recipe(name, ["generator.width=1", "discriminator.width=1"])
        for name in recipes.list_models()
    }
    alone = {str((one.generator, one.discriminator, one.image)): name for name, one in reversed(found.items())}
    pairs = {}
    for (name, one), (other, two) in itertools.product(found.items(), found.items()):
        if one.data.resolution == two.data.resolution:
            pairs.setdefault((one.generator.arch, two.generator.arch), (name, other))
    return [*((name, name) for name in alone.values()), *(pair for pair in pairs.values() if pair[0] != pair[1])]


@pytest.mark.parametrize(("generator", "discriminator"), by_size())
def test_every_pair_of_a_size_trains(generator, discriminator):
    """Some steps at the true resolution, an eighth of the width, a batch of two images or packs."""
    steps = 3 if generator.startswith("upscale") else 2  # as many as layers in a row that start at zero, and one
    batch = 2 * recipes.load_recipe(discriminator).discriminator.config.packing
    trainer = make(
        generator,
        f"discriminator={discriminator}",
        "generator.width=0.125",
        "discriminator.width=0.125",
        f"train.batch={batch}",
        "train.micro_batch=null",
    )
    trained = [p for network in (trainer.G, trainer.D) for p in network.parameters() if p.requires_grad]
    before = [p.clone() for p in trained]
    for _ in range(steps):
        trainer.step()
    assert trainer.nimg == batch * steps
    assert find_nonfinite_state(trainer) is None
    moved = [not torch.equal(a, b) for a, b in zip(before, trained, strict=True) if a.dim() > 1]
    assert all(moved)


@pytest.mark.parametrize("loss", ["hinge", "relativistic", "wasserstein"])
def test_accuracy_means_something(loss):
    """Logits that have no zero are judged in pairs, and a constant added to them changes nothing that is shown."""
    trainer = make("multires-28", *THIN, f"loss.name={loss}")
    trainer.step()
    row = trainer.meters.means()
    pairs = loss != "hinge"
    assert ("d_acc_pairs" in row) == pairs
    assert ("d_acc_real" in row) == ("d_acc_fake" in row) == (not pairs)
    moved = row | {key: row[key] + 3 for key in ("d_real", "d_fake")}
    assert (format_training_row(row) == format_training_row(moved)) == pairs


def test_a_row_without_an_update_of_g_has_no_loss_of_it():
    row = {"loss_d": 1.25, "d_real": 0.5, "d_fake": -0.5, "d_acc_pairs": 0.75}
    assert format_training_row(row) == "D 1.250  D(x) - D(G(z)) 1.00 logits  D acc pairs 75%"


def reference_batches(trainer):
    """What the trainer draws for its first steps, drawn again."""
    seed, size = trainer.recipe.train.seed, trainer.recipe.train.batch
    order = rng.ImageOrder(seed, len(trainer.data.train))
    for nimg in range(0, 3 * size, size):
        yield (
            from_uint8(trainer.data.take(trainer.data.train[order.take(nimg, size)])),
            rng.draw_latents(seed, nimg, size, trainer.G.latent.dim),
        )


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_step_is_the_loop_written_out(update):
    """multires without dropout has batch norm in G, none in D, and nothing random inside."""
    overrides = ["generator.width=0.1", "discriminator.width=0.1", "discriminator.dropout=0", "train.batch=4"]
    overrides += [f"train.update={update}", "speed.channels_last=false"]  # the same kernels: Adam magnifies rounding
    trainer, twin = (make("multires-28", *overrides) for _ in range(2))
    G, D = twin.G, twin.D
    opt_g, opt_d = twin.optimizers["G"], twin.optimizers["D"]
    for real, z in reference_batches(twin):
        if update == "alternating":
            fake = G(z)
            opt_d.zero_grad()
            (bce(D(real), 1.0) + bce(D(fake.detach()), 0.0)).backward()
            opt_d.step()
            opt_g.zero_grad()
            bce(D(fake), 1.0).backward()
            opt_g.step()
        else:
            fake = G(z)
            fake_logits = D(fake)
            loss_d = bce(D(real), 1.0) + bce(fake_logits, 0.0)
            grads_d = torch.autograd.grad(loss_d, list(D.parameters()), retain_graph=True)
            grads_g = torch.autograd.grad(bce(fake_logits, 1.0), list(G.parameters()))
            for network, grads, optimizer in ((D, grads_d, opt_d), (G, grads_g, opt_g)):
                for parameter, grad in zip(network.parameters(), grads, strict=True):
                    parameter.grad = grad
                optimizer.step()
    for _ in range(3):
        trainer.step()
    for name, value in twin.G.state_dict().items():
        torch.testing.assert_close(trainer.G.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for name, value in twin.D.state_dict().items():
        torch.testing.assert_close(trainer.D.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_accumulation_equals_the_whole_batch(update):
    """Where nothing depends on the batch's make-up, micro-batches give the same gradients (SGD, double precision)."""
    overrides = [
        "data.resolution=16",
        "generator=stylegan-256",
        "generator.width=0.05",
        "generator.mixing=0",
        "discriminator=multires-28",
        "discriminator.width=0.1",
        "discriminator.dropout=0",
        "train.batch=8",
        f"train.update={update}",
        "optimizer.generator.name=sgd",
        "optimizer.discriminator.name=sgd",
        "penalties.r1.weight=1",
        "penalties.r2.weight=1",
    ]
    whole, cut = make("dcgan-64", *overrides), make("dcgan-64", *overrides, "train.micro_batch=2")
    for trainer in (whole, cut):
        for network in (trainer.G, trainer.D, trainer.ema.module):
            network.double()
        for module in trainer.G.modules():  # noise is drawn anew for each micro-batch: silence it
            if type(module).__name__ == "NoiseInjection":
                for parameter in module.parameters():
                    torch.nn.init.zeros_(parameter)
                    parameter.requires_grad_(False)
    for _ in range(3):
        whole.step()
        cut.step()
    for a, b in ((whole.G, cut.G), (whole.D, cut.D)):
        for (name, left), right in zip(a.named_parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11, msg=name)
    for name, value in whole.meters.means().items():
        assert cut.meters.means()[name] == pytest.approx(value, rel=1e-9), name


def test_accumulation_records_batch_statistics_once():
    """Alternating with micro-batches makes the fakes twice; running statistics count them once."""
    trainer = make("dcgan-64", *TINY, "train.micro_batch=2", "optimizer.generator.lr=0")
    twin = make("dcgan-64", *TINY)
    z = rng.draw_latents(trainer.recipe.train.seed, 0, 4, trainer.G.latent.dim)
    with torch.no_grad():
        for part in z.split(2):
            twin.G(part)
    trainer.step()
    for name, value in twin.G.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(trainer.G.state_dict()[name], value, msg=name)


def test_lazy_penalties_count_every_nth_step_at_n_times_the_weight():
    trainer = make("dcgan-64", *TINY, "penalties.r1.weight=2", "penalties.r1.every=2")
    r1 = next(term for term in trainer.objective.terms if term.name == "r1")
    assert [r1.due(i) for i in range(4)] == [True, False, True, False]
    for _ in range(4):
        trainer.step()
    assert trainer.meters.batches["r1"] == 2
    assert trainer.meters.means()["r1"] > 0
    assert trainer.meters.batches["loss_d"] == 4


@pytest.mark.parametrize("penalty", ["r1", "r2"])
def test_penalties_move_d_and_nothing_else(penalty):
    """In a simultaneous step, where G's gradient is taken before D moves."""
    options = [*TINY, "train.update=simultaneous"]
    plain, penalised = (make("dcgan-64", *options, *more) for more in ([], [f"penalties.{penalty}.weight=10"]))
    plain.step()
    penalised.step()
    assert any(not torch.equal(a, b) for a, b in zip(plain.D.parameters(), penalised.D.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.G.parameters(), penalised.G.parameters(), strict=True))


def test_learning_rates_follow_their_schedules():
    trainer = make("dcgan-64", *TINY, "optimizer.generator.lr=[[0, 1e-3], [0.008, 0]]")
    rates = []
    for _ in range(3):
        trainer.step()
        rates.append(trainer.optimizers["G"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 5e-4, 0.0])


def test_ema_follows_its_half_life_and_keeps_its_own_statistics():
    trainer = make("dcgan-64", *TINY, "ema.halflife_kimg=0.004", "ema.ramp=null")
    before = next(trainer.G.parameters()).clone()
    trainer.step()
    after = next(trainer.G.parameters())
    torch.testing.assert_close(next(trainer.ema.module.parameters()), (before + after) / 2)
    z = torch.randn(64, trainer.G.latent.dim, generator=rng.seeded_generator("z"))
    averaged = trainer.averaged()
    inside = averaged(z)
    averaged.train()
    torch.testing.assert_close(inside.mean(), averaged(z).mean(), atol=0.02, rtol=0)


def test_ema_by_a_power_weighs_each_image_by_it():
    """The average after n steps, written out (Karras et al. 2024, equation 4)."""
    std = 0.1
    exponent = power_exponent(std)
    assert (exponent + 1) ** 0.5 / (exponent + 2) / (exponent + 3) ** 0.5 == pytest.approx(std)
    G = recipes.create("dcgan-64", "data.resolution=8", *THIN)[0]
    ema = Ema(G, EmaConfig(power_std=std))
    values = torch.rand(200)
    for step, value in enumerate(values, 1):
        for parameter in G.parameters():
            parameter.data.fill_(value)
        ema.update(G, 4 * step, 4)
    weights = torch.arange(1, 201, dtype=torch.float64) ** exponent
    expected = (weights * values).sum() / weights.sum()
    assert next(ema.module.parameters()).flatten()[0].item() == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize("steps", [1, 3])
def test_g_is_updated_after_so_many_batches_of_ds(steps):
    trainer = make("dcgan-64", *TINY, f"train.d_steps={steps}", "ema.halflife_kimg=0")
    moved = {"G": [], "D": []}
    for _ in range(6):
        before = {side: next(getattr(trainer, side).parameters()).clone() for side in moved}
        trainer.step()
        for side, seen in moved.items():
            seen.append(not torch.equal(before[side], next(getattr(trainer, side).parameters())))
    assert moved["D"] == [True] * 6
    assert moved["G"] == [index % steps == steps - 1 for index in range(6)]


def test_more_steps_of_d_want_alternating_updates():
    with pytest.raises(ZooError, match="d_steps: simultaneous updates are one each"):
        recipes.load_recipe("dcgan-64", ["train.d_steps=2", "train.update=simultaneous"])


def test_losses_of_ds_own_are_minimised_and_logged():
    trainer = make("fastgan-64", "data.resolution=32", *THIN, "optimizer.discriminator.lr=2e-3")
    for _ in range(2):
        trainer.step()
    early = trainer.meters.means()["reconstruction"]
    trainer.meters.reset()
    for _ in range(30):
        trainer.step()
    assert trainer.meters.means()["reconstruction"] < early


def test_nan_is_noticed_by_name():
    trainer = make("dcgan-64", *TINY)
    trainer.step()
    assert find_nonfinite_state(trainer) is None
    with torch.no_grad():
        next(trainer.G.parameters())[0, 0, 0, 0] = float("inf")
    assert find_nonfinite_state(trainer) == f"generator.{next(iter(trainer.G.state_dict()))}"


@pytest.mark.parametrize("resolution", [136, 200])
def test_statistics_are_measured_on_whole_batches(resolution):
    """Where 65,536 over the resolution is no multiple of a batch: a rest of one image has no deviation."""
    trainer = make(
        "multires-64",
        f"data.resolution={resolution}",
        "generator.width=0.02",
        "discriminator.width=0.02",
        "train.batch=2",
    )
    trainer.step()
    seen = []
    trainer.ema.module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    trainer.averaged()
    assert set(seen) == {16}
