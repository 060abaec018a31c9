"""What the switches are, and that none of them changes a number by more than rounding."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import zoo.runtime.speed
from zoo import recipes
from zoo.core.errors import ZooError
from zoo.core.progress import RecordingReporter
from zoo.data.dataset import load_dataset
from zoo.data.loader import ImageLoader
from zoo.data.pixel_range import to_uint8
from zoo.models import sampling
from zoo.models.layers import Dense, Dropout
from zoo.runtime.speed import CompiledNetwork, Speed, choose_speed, is_compiler_error
from zoo.training.profiling.profiler import profile_steps
from zoo.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=4"]


def make(*overrides, name="dcgan-64", reporter=None):
    resolved = recipes.load_recipe(name, [*TINY, *overrides])
    return Trainer(resolved, load_dataset("phantoms:2", resolved.data), CPU, reporter=reporter)


def after(trainer, steps=3):
    for _ in range(steps):
        trainer.step()
    return {f"{side}.{key}": value for side in "GD" for key, value in getattr(trainer, side).state_dict().items()}


@pytest.mark.parametrize("switch", ["channels_last", "fused", "fused_layers", "reuse_memory"])
@pytest.mark.parametrize("name", ["dcgan-64", "stylegan-256", "multires-64"])
def test_a_switch_changes_rounding_alone(switch, name):
    """Two SGD steps: Adam would magnify rounding."""
    sgd = ["optimizer.generator.name=sgd", "optimizer.discriminator.name=sgd"]
    on, off = (after(make(*sgd, f"speed.{switch}={value}", name=name), 2) for value in ("true", "false"))
    for key, value in on.items():
        torch.testing.assert_close(off[key], value, rtol=1e-4, atol=5e-5, msg=key)


def test_fused_adam_is_adam():
    on, off = (make(f"speed.fused={value}") for value in ("true", "false"))
    assert on.optimizers["G"].param_groups[0]["fused"] is True
    for trainer in (on, off):
        for network, optimizer in ((trainer.G, trainer.optimizers["G"]), (trainer.D, trainer.optimizers["D"])):
            for step in range(3):
                torch.manual_seed(step)
                for parameter in network.parameters():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
    for a, b in zip(on.G.parameters(), off.G.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_auto_is_bf16_where_the_hardware_has_it(monkeypatch):
    resolved = recipes.load_recipe("dcgan-64")
    assert choose_speed(resolved, CPU).precision == "fp32"
    monkeypatch.setattr(zoo.runtime.speed, "has_bf16", lambda device: True)
    assert choose_speed(resolved, CPU).precision == "bf16"
    assert choose_speed(recipes.load_recipe("dcgan-64", ["train.precision=fp32"]), CPU).precision == "fp32"


def test_nothing_is_compiled_unless_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(zoo.runtime.speed.importlib.util, "find_spec", lambda name: object())
    chosen = {
        value: choose_speed(
            recipes.load_recipe("dcgan-64", [f"speed.compile={value}"]), torch.device("cuda", 0)
        ).compile
        for value in ("auto", "false", "true", "reduce-overhead")
    }
    assert chosen == {"auto": False, "false": False, "true": True, "reduce-overhead": "reduce-overhead"}


def test_unavailable_switches_are_reported_in_a_line():
    said = RecordingReporter()
    trainer = make("speed.cuda_graphs=true", "speed.tf32=true", "speed.resident=true", reporter=said)
    trainer.step()
    assert [line.split(":")[0] for line in said.lines] == ["speed.cuda_graphs", "speed.tf32", "speed.resident"]
    assert "compile: reduce-overhead" in said.lines[0]
    assert not trainer.speed.tf32


def test_switches_are_no_numbers_and_bad_ones_are_refused():
    plain = recipes.load_recipe("dcgan-64")
    assert recipes.load_recipe("dcgan-64", ["speed.channels_last=false", "speed.compile=true"]).digest == plain.digest
    with pytest.raises(ZooError, match=r"speed\.channels_last: .*'of'"):
        recipes.load_recipe("dcgan-64", ["speed.channels_last=of"])
    with pytest.raises(ZooError, match=r"speed\.chanels_last.*channels_last"):
        recipes.load_recipe("dcgan-64", ["speed.chanels_last=true"])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.15, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(kind, p):
    torch.manual_seed(0)
    x = torch.ones(64, 8, 31, 33, dtype=kind).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = Dropout(p)(x)
    share = (y == 0).double().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    kept = y[y != 0]
    assert torch.equal(kept, torch.full_like(kept, 1 / (1 - p)).to(kind)) or kind is not torch.bfloat16
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=0.01)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y.detach())
    assert torch.equal(Dropout(p).eval()(x), x)


@pytest.mark.parametrize("p", [0.0, 1e-9, 1.0])
def test_dropout_of_nothing_and_of_all(p):
    x = torch.randn(4, 8)
    assert torch.equal(Dropout(p)(x), x if p < 1 else torch.zeros_like(x))


def test_dropout_in_bf16_is_differentiable_twice():
    x = torch.randn(8, 4, 6, 6).bfloat16().requires_grad_()
    torch.manual_seed(1)
    y = Dropout(0.5)(x)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(second, torch.where(y == 0, 0.0, 8.0).bfloat16())  # d2 (2x)^2


def test_dense_is_linear_whatever_autocast_says():
    dense, x = Dense(7, 5), torch.randn(3, 7)
    expected = nn.functional.linear(x, dense.weight, dense.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dense(x), expected)
        assert torch.equal(dense(x.bfloat16()), dense(x.bfloat16().float()))


def test_a_network_that_cannot_be_compiled_runs_as_it_is(monkeypatch):
    class Linear(nn.Linear):
        def forward(self, x, label=None):
            return super().forward(x)

    said = []
    network = Linear(3, 2)

    def broken(*args, **kwargs):
        def call(x, label):
            raise RuntimeError("no C++ compiler found\nand a long story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    compiled = CompiledNetwork(network, Speed(device=CPU, compile=True), said.append)
    x = torch.randn(4, 3)
    assert torch.equal(compiled(x), network(x))
    assert torch.equal(compiled(x), network(x))
    assert said[-1] == "speed.compile: Linear: no C++ compiler found; off"
    assert len(said) == 2


def generated_module(source, name="torch._inductor.runtime.compile_tasks.cabc"):
    """Return the names of a module as inductor generates them: a file in its cache, called after the loader."""
    names = {"__name__": name}
    exec(compile(source, "/cache/ab/cabc.py", "exec"), names)
    return names


class FailingBackward(torch.autograd.Function):
    """Identity, whose backward pass calls a function: ``apply(x, function)``."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.function()
        return gradient, None


FAILURE = "raise AssertionError('expected size 512==512, stride 16==1 at dim=1\\nError in op: convolution_backward')"


def failing_trainer(module, error=FAILURE):
    """Return a trainer that compiles, and whose G fails in its backward pass in code of a module of this name."""
    trainer = make()
    trainer.speed = replace(trainer.speed, compile=True)
    generate, fail = trainer.passes.compiled["G"], generated_module(f"def call():\n    {error}", module)["call"]
    trainer.passes.compiled["G"] = lambda z, label: FailingBackward.apply(generate(z, label), fail)
    return trainer


@pytest.mark.parametrize("module", ["torch._inductor.runtime.compile_tasks.cabc", "torch._inductor.lowering"])
@pytest.mark.parametrize("error", [FAILURE, "raise OSError('expected size 512==512, stride 16==1')"])
def test_a_backward_pass_that_fails_as_compiled_is_explained(module, error):
    expected = r"^speed\.compile: expected size 512==512, stride 16==1.*; --set speed\.compile=false trains without$"
    with pytest.raises(ZooError, match=expected):
        failing_trainer(module, error).step()


@pytest.mark.parametrize("module", ["mygan", "torch._dynamo.eval_frame", "torch._functorch.vmap"])
def test_errors_of_what_was_compiled_stay_as_they_are(module):
    """Compiled and uncompiled code is called through the last two."""
    with pytest.raises(AssertionError, match="expected size"):
        failing_trainer(module).step()


def test_compiled_code_without_memory_is_no_failure_of_the_compiler():
    error = "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB')"
    trainer = failing_trainer("torch._inductor.runtime.compile_tasks.cabc", error)
    with pytest.raises(ZooError, match=r"^train\.micro_batch"):
        trainer.step()


@pytest.mark.slow
def test_modules_that_inductor_loads_have_the_name_that_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._inductor.codecache import PyCodeCache

    module = PyCodeCache.load("def call():\n    assert False, 'expected size'\n")
    with pytest.raises(AssertionError) as caught:
        module.call()
    assert is_compiler_error(caught.value)


@pytest.mark.slow
def test_a_compiled_generator_learns_what_a_plain_one_does(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    sgd = ["optimizer.generator.name=sgd", "optimizer.discriminator.name=sgd", "penalties.r1.weight=1"]
    said = RecordingReporter()
    compiled, plain = make(*sgd, "speed.compile=true", reporter=said), make(*sgd)
    ours, theirs = after(compiled, 2), after(plain, 2)
    if not any(line.startswith("compiled ") for line in said.lines):
        pytest.skip(said.lines[-1])
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-5, msg=key)


class Scarce(nn.Module):
    """A network whose device has room for so many images."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room, self.seen = network, room, []
        self.latent = getattr(network, "latent", None)

    def forward(self, x, label=None):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return self.network(x)


def scarce(*overrides, room):
    trainer = make(*overrides)
    trainer.passes.compiled["D"].network = Scarce(trainer.D, room)
    return trainer


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_out_of_memory_names_the_largest_micro_batch_that_fits(update):
    still = ["generator=stylegan-256", "generator.mixing=0", "discriminator=multires-28", "discriminator.dropout=0"]
    trainer = scarce(*still, "train.batch=8", f"train.update={update}", room=2)
    expected = (
        r"train\.micro_batch: 8 images at once do not fit.*; 2 is the most that fits: --set train\.micro_batch=2$"
    )
    with pytest.raises(ZooError, match=expected):
        trainer.step()
    assert trainer.passes.compiled["D"].network.seen[-1] == 2


def test_out_of_memory_without_any_micro_batch_that_fits():
    trainer = scarce("discriminator=multires-28", "train.batch=8", room=0)
    with pytest.raises(ZooError, match=r"8 images at once do not fit.* neither does any smaller part"):
        trainer.step()


@pytest.mark.parametrize(
    "override", ["discriminator.packing=4", "discriminator.minibatch_std=4", "penalties={mode_seeking: {}}"]
)
def test_out_of_memory_never_advises_what_is_refused(override):
    """Of the parts of 12 images only 4 has whole packs or groups of 4; mode seeking needs two images."""
    still = ["generator=stylegan-256", "generator.mixing=0", "discriminator=multires-28", "discriminator.dropout=0"]
    trainer = scarce(*still, override, "train.batch=12", room=7)
    advice = f"{6 if 'mode' in override else 4} is the most that fits"
    with pytest.raises(ZooError, match=advice):
        trainer.step()


def test_out_of_memory_with_batch_statistics_stops_and_names_what_fits():
    trainer = scarce("train.batch=16", room=4)
    before = copy.deepcopy(trainer.D.state_dict())
    expected = (
        r"16 images at once do not fit.*; 4 is the most that fits: --set train\.micro_batch=4 \(the .* normalises"
    )
    with pytest.raises(ZooError, match=expected):
        trainer.step()
    weights = [key for key in before if "running" not in key and "tracked" not in key]
    assert all(torch.equal(before[key], trainer.D.state_dict()[key]) for key in weights)


def test_feed_gives_the_images_asked_for_ahead_or_not():
    resolved = recipes.load_recipe("dcgan-64", TINY)
    images = load_dataset("phantoms:2", resolved.data)
    feed = ImageLoader(images, CPU)
    for following in (None, np.array([3, 1]), np.array([2, 0])):
        for positions in (np.array([0, 2]), np.array([3, 1])):
            assert torch.equal(feed.take(positions, following), images.take(positions))
    assert feed.waited > 0
    feed.close()


def test_pages_that_were_read_are_let_go_and_read_again():
    resolved = recipes.load_recipe("dcgan-64", TINY)
    images = load_dataset("phantoms:2", resolved.data)
    before = images.take([0, 5])
    images.forget()
    assert torch.equal(images.take([0, 5]), before)


@pytest.mark.parametrize(
    "more",
    [
        ["penalties.r1.weight=1", "penalties.r1.every=2"],
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(["train.update=simultaneous"], marks=pytest.mark.slow),
    ],
)
def test_profile_accounts_for_a_step(more):
    found = profile_steps(make(*more), 0.3)
    parts = found.parts
    phases = {"both"} if "train.update=simultaneous" in more else {"fakes", "D", "G"}
    assert {"data", "optimiser", "ema", "logging", *phases} <= parts.keys()
    assert ("penalties" in parts) == any("penalties" in text for text in more)
    assert found.profiled == pytest.approx(sum(parts.values()))
    assert found.profiled == pytest.approx(found.step, rel=1.0)
    assert 0 < found.floor < found.step


def test_work_is_counted_by_hand():
    """dcgan at 16 px, an eighth wide, simultaneous, from the shapes of its convolutions."""
    from zoo.training.profiling.roofline import count_work

    resolved = recipes.load_recipe("dcgan-64", [*TINY, "train.update=alternating"])
    images = load_dataset("phantoms:2", resolved.data)
    # 1x1 to 4x4, 8x8, 16x16 and back, of 100, 16, 8 and 1 channels
    g = [100 * 16 * 16, 16 * 16 * 8 * 16, 64 * 16 * 8 * 1]
    d = [64 * 16 * 1 * 8, 16 * 16 * 8 * 16, 16 * 16]
    learning_g = 3 * sum(g) - g[0]  # forward, and gradients of inputs (but of the latents) and of kernels
    learning_d = 2 * (3 * sum(d) - d[0])  # on real and on fake images
    through_d = 2 * sum(d)  # forward, and gradients of inputs
    assert count_work(resolved, images).macs == learning_g + learning_d + through_d


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_grouped_convolutions_are_counted_by_their_groups(kind):
    from zoo.training.profiling.roofline import MacCounter

    layer, x = kind(8, 12, 3, padding=1, groups=4), torch.randn(2, 8, 5, 7, requires_grad=True)
    with MacCounter() as counter:
        layer(x).sum().backward()
    forward = 2 * 5 * 7 * 12 * (8 // 4) * 9
    assert counter.macs == 3 * forward


def test_lazy_penalties_count_for_their_part_of_the_work():
    from zoo.training.profiling.roofline import count_work

    def macs(*more):
        resolved = recipes.load_recipe("dcgan-64", [*TINY, *more])
        return count_work(resolved, load_dataset("phantoms:2", resolved.data)).macs

    without, always = macs(), macs("penalties.r1.weight=1")
    lazy = macs("penalties.r1.weight=1", "penalties.r1.every=4")
    assert lazy == pytest.approx(without + (always - without) / 4, abs=1)
    assert always > without


def test_sampling_uses_the_switches_and_may_be_told_otherwise(tmp_path, monkeypatch):
    import zoo

    run = zoo.train(
        "dcgan-64", data="phantoms:2", out=tmp_path, device="cpu", kimg=0.008, set=[*TINY, "train.sample_kimg=1"]
    )
    plain = zoo.load_generator(run)
    monkeypatch.setattr(zoo.runtime.speed, "has_bf16", lambda device: True)
    low = zoo.load_generator(run)
    assert (plain.speed.precision, low.speed.precision) == ("fp32", "bf16")
    a, b = plain.sample(8).int(), low.sample(8).int()
    assert 0 < (a - b).abs().max() <= 4
    assert torch.equal(zoo.load_generator(run, precision="fp32").sample(8).int(), a)


def test_sampling_makes_fewer_at_once_where_memory_does_not_suffice():
    made = make()
    G = made.averaged()
    z = torch.randn(20, G.latent.dim)
    scarce = Scarce(G, 4)
    ours = sampling.in_chunks(G, [z], scarce, seed=0)
    torch.testing.assert_close(ours, sampling.generate_images(G, z), rtol=1e-4, atol=1e-5)
    assert max(size for size in scarce.seen if size <= 4) == 4
    with pytest.raises(ZooError, match="an image does not fit the memory of cpu"):
        sampling.in_chunks(G, [z], Scarce(G, 0), seed=0)


def test_memory_is_kept_without_a_word(tmp_path):
    """In a process of its own, since malloc is the process's."""
    code = "import torch; from zoo.runtime import speed; speed._keep_freed_memory(); x = torch.ones(1 << 26)"
    code += "; print(torch.ones(9).sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tensor(9.)"


def test_png_of_a_bf16_sample_is_that_of_its_rounding():
    x = torch.tensor([[[[-1.0, 0.0, 1.0, 2.0]]]]).bfloat16()
    assert to_uint8(x.float()).flatten().tolist() == [0, 128, 255, 255]


def test_a_run_goes_on_where_memory_is_laid_out_otherwise():
    """Adam's moments follow their weights: a fused kernel would pair them by their place in memory."""
    nchw, nhwc = (make(f"speed.channels_last={value}") for value in ("false", "true"))
    nchw.step()
    nhwc.load_state_dict(copy.deepcopy(nchw.state_dict()))
    for optimizer in nhwc.optimizers.values():
        for parameter, kept in optimizer.state.items():
            assert kept["exp_avg"].stride() == parameter.stride()
    nchw.step()
    nhwc.step()
    for a, b in zip(nchw.G.parameters(), nhwc.G.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
