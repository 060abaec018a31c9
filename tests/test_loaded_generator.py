"""A loaded generator makes the images of its seed whatever its caller does, or says in one line why not."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.core.errors import ZooError
from zoo.hub.load import LoadedGenerator
from zoo.models import dcgan
from zoo.recipes import build_networks
from zoo.runtime.torch_defaults import torch_defaults
from zoo.training.generator_file import load_generator_file, save_generator


@pytest.fixture(scope="module")
def style_file(tmp_path_factory):
    """A small StyleGAN2, which draws noise and has styles."""
    recipe = zoo.load_recipe("stylegan2-64", ["generator.width=0.1", "data.resolution=16"])
    torch.manual_seed(0)
    generator, _ = build_networks(recipe)
    for name, parameter in generator.named_parameters():
        if name.endswith("strength"):
            nn.init.constant_(parameter, 0.5)
    path = tmp_path_factory.mktemp("style") / "g.safetensors"
    save_generator(path, generator, recipe=recipe, nimg=7)
    return path


@pytest.fixture(params=["batch norms", "styles"])
def source(request, runs, style_file):
    return runs / "dcgan-64-000" if request.param == "batch norms" else style_file


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AMBIENT = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
}


@pytest.mark.parametrize("when", ["load", "use", "both"])
@pytest.mark.parametrize("ambient", AMBIENT)
def test_settings_of_the_caller_change_no_image(ambient, when, source):
    before = zoo.load_generator(source)
    latents, images = before.latents(5, seed=1), before.sample(5, seed=1)
    with AMBIENT[ambient]() if when != "use" else contextlib.nullcontext():
        generator = zoo.load_generator(source)
    with AMBIENT[ambient]() if when != "load" else contextlib.nullcontext():
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        assert torch.equal(generator.latents(5, seed=1), latents)
        assert torch.equal(generator.sample(5, seed=1), images)
        assert torch.equal(zoo.GeneratedDataset(generator, 5, seed=1, transform=lambda image: image)[4], images[4])
        if generator.has_styles:
            assert torch.equal(generator.sample(5, seed=1, truncation=1.0), before.sample(5, seed=1, truncation=1.0))
            assert torch.equal(generator.mix(2, 2, seed=1), before.mix(2, 2, seed=1))
        assert (torch.get_default_dtype(), torch.get_default_device()) == (dtype, device)
    generator(latents.requires_grad_()).sum().backward()  # tensors of inference mode could not do this
    assert latents.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("ambient", ["float64", "meta", "autocast", "no gradients"])
def test_settings_of_the_caller_change_no_training_and_no_metric(ambient, runs, tmp_path):
    small = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
    with AMBIENT[ambient]():
        run = zoo.train(
            "dcgan-64", data="phantoms:4", out=tmp_path, kimg=0.032, device="cpu", set=[*small, "data.holdout=0.5"]
        )
        keywords = {"metrics": ["ssim", "fid"], "extractors": ["random"], "device": "cpu"}
        a, b = tmp_path / "a.npy", tmp_path / "b.npy"
        images = zoo.load_generator(run.path).sample(24).numpy()
        np.save(a, images[:12, 0])
        np.save(b, images[12:, 0])
        inside = zoo.compare(a, b, **keywords)
    outside = zoo.compare(a, b, **keywords)
    original, _, _ = load_generator_file(runs / "dcgan-64-000" / "generator.safetensors")
    again, _, _ = load_generator_file(run.generator_file)
    for (name, tensor), other in zip(original.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    losses = [[row.get("loss_d") for row in rows] for rows in (run.rows(), zoo.Run(runs / "dcgan-64-000").rows())]
    assert losses[0] == losses[1]
    for name in ("ssim_nearest", "ssim_pairwise", "fid"):
        assert inside[name] == outside[name], name


def test_the_same_settings_hold_inside_the_block_alone():
    with default_dtype(torch.float64), torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        with torch_defaults():
            tensor = torch.zeros(2, 2)
            assert (tensor.dtype, tensor.device.type) == (torch.float32, "cpu")
            assert (tensor @ tensor).dtype == torch.float32
        assert (torch.zeros(1).dtype, torch.zeros(1).device.type) == (torch.float64, "meta")
        assert torch.is_autocast_enabled("cpu")


class Net(nn.Module):
    def __init__(self, fakes):
        super().__init__()
        self.fakes = fakes


TRAINED = {
    "train() of a parent": lambda net: net.train(),
    "train() of it": lambda net: net.fakes.train(),
    "train() of its generator": lambda net: net.fakes.generator.train(),
    "train() of every part": lambda net: [module.train() for module in net.modules()],
    "train(True) of a copy's parent": lambda net: Net(net).train(True),
}


@pytest.mark.parametrize("way", TRAINED)
def test_no_train_switches_a_loaded_generator(way, source):
    generator = zoo.load_generator(source)
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    images = generator.sample(20, seed=1)
    net = Net(generator)
    TRAINED[way](net)
    floats = generator(generator.latents(4, 1))
    assert torch.equal(generator.sample(20, seed=1), images)
    assert torch.equal(generator.sample(4, seed=1), images[:4])
    assert not any(module.training for module in generator.modules())
    data = zoo.GeneratedDataset(generator, 20, seed=1, transform=lambda image: image)
    TRAINED[way](net)
    assert torch.equal(data[19], images[19])
    net.eval()
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert floats.shape == (4, *images.shape[1:])


SEEDS = [
    1,
    1.0,
    np.int64(1),
    np.uint8(1),
    np.float32(1),
    np.array(1),
    np.array([1]),
    torch.tensor(1),
    torch.tensor([1.0]),
]
BAD_SEEDS = [True, np.True_, torch.tensor(True), 1.5, -1, -1.0, 2**63, 1e30, float("nan"), float("inf"), "1", None, [1]]
BAD_SEEDS += [torch.tensor([1, 2]), torch.tensor(1.5), np.array([]), 1j]


@pytest.mark.parametrize("seed", SEEDS, ids=repr)
def test_all_forms_of_a_seed_give_the_same_images(seed, source):
    generator = zoo.load_generator(source)
    images = generator.sample(3, seed=1)
    assert torch.equal(generator.sample(3, seed=seed), images)
    assert torch.equal(generator.decode(generator.latents(3, seed), seed=seed), images)
    assert torch.equal(zoo.GeneratedDataset(generator, 3, seed=seed, transform=lambda image: image)[2], images[2])


@pytest.mark.parametrize("seed", BAD_SEEDS, ids=repr)
def test_what_is_no_seed_is_refused(seed, style_file):
    generator = zoo.load_generator(style_file)
    z = generator.latents(2, 0)
    calls = [
        lambda: generator.sample(2, seed=seed),
        lambda: generator.latents(2, seed),
        lambda: generator.mix(1, 1, seed),
    ]
    for call in [*calls, lambda: generator.decode(z, seed=seed), lambda: zoo.GeneratedDataset(generator, 2, seed=seed)]:
        with pytest.raises(ZooError, match=r"^seed .*: must be a whole number from 0 to"):
            call()


NUMBER = "number of images .*: must be a whole number from 1 to"
SHAPE = r"latents: must be a floating tensor of shape \(N, {dim}\)"
BAD_CALLS = {
    "sample(0)": (lambda g, z: g.sample(0), NUMBER),
    "sample(-1)": (lambda g, z: g.sample(-1), NUMBER),
    "sample(1.5)": (lambda g, z: g.sample(1.5), NUMBER),
    "sample('2')": (lambda g, z: g.sample("2"), NUMBER),
    "sample(True)": (lambda g, z: g.sample(True), NUMBER),
    "sample of too many": (lambda g, z: g.sample(10**12), NUMBER),
    "latents(0)": (lambda g, z: g.latents(0), NUMBER),
    "latents of too many": (lambda g, z: g.latents(10**12), NUMBER),
    "a data set of none": (lambda g, z: zoo.GeneratedDataset(g, 0), "number of images 0"),
    "too narrow": (lambda g, z: g.decode(z[:, :5]), SHAPE),
    "too wide": (lambda g, z: g.decode(torch.cat([z, z], 1)), SHAPE),
    "one latent": (lambda g, z: g.decode(z[0]), SHAPE),
    "four dimensions": (lambda g, z: g.decode(z[:, :, None, None]), SHAPE),
    "no latents": (lambda g, z: g.decode(z[:0]), NUMBER),
    "whole numbers": (lambda g, z: g.decode(z.long()), SHAPE),
    "complex numbers": (lambda g, z: g.decode(z.to(torch.complex64)), SHAPE),
    "numpy": (lambda g, z: g.decode(z.numpy()), SHAPE + ".*not ndarray"),
    "a list": (lambda g, z: g.decode(z.tolist()), SHAPE),
    "forward, too narrow": (lambda g, z: g(z[:, :5]), SHAPE),
    "NaN": (lambda g, z: g.decode(z * float("nan")), "NaN or infinite"),
    "one NaN": (
        lambda g, z: g.decode(z.masked_fill(torch.arange(z.numel()).view_as(z) == 3, float("nan"))),
        "NaN or inf",
    ),
    "infinite": (lambda g, z: g.decode(z.clone().fill_(float("-inf"))), "NaN or infinite"),
    "infinite in double": (lambda g, z: g.decode(z.double() * 1e300), "NaN or infinite"),
    "truncation NaN": (lambda g, z: g.sample(2, truncation=float("nan")), "truncation"),
    "truncation of 1e30": (lambda g, z: g.sample(2, truncation=1e30), "truncation"),
    "truncation in words": (lambda g, z: g.sample(2, truncation="half"), "truncation"),
    "no rows": (lambda g, z: g.mix(0, 1), "number of rows 0"),
    "half a column": (lambda g, z: g.mix(1, 0.5), "number of columns 0.5"),
    "too large a table": (lambda g, z: g.mix(10**5, 10**5), "number of images"),
    "crossover": (lambda g, z: g.mix(1, 1, crossover=99), "crossover 99"),
    "a class of none": (lambda g, z: g.sample(2, label=0), "trained without classes"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_say_what_is_wanted(case, style_file):
    generator = zoo.load_generator(style_file)
    call, message = BAD_CALLS[case]
    with pytest.raises(ZooError, match=message.replace("{dim}", str(generator.latent.dim))) as caught:
        call(generator, generator.latents(2, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("convert", ["double", "half", "bfloat16", "float"])
def test_other_precisions_make_the_same_images(convert, source):
    generator = zoo.load_generator(source)
    before = generator.sample(4, seed=1).int()
    if convert != "float":
        generator.speed = replace(generator.speed, precision="bf16")  # as on machines that have it
    getattr(generator, convert)()
    tolerance = {"double": 1, "float": 0, "half": 8}.get(convert, 255)  # grey levels; bfloat16 draws noise of its own
    for images in (generator.sample(4, seed=1), generator.decode(generator.latents(4, 1), seed=1)):
        assert (images.int() - before).abs().max() <= tolerance
    assert generator(generator.latents(2, 1).double()).isfinite().all()  # latents of any floating type


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_latents_may_have_another_floating_type(kind, source):
    generator = zoo.load_generator(source)
    z = generator.latents(3, 1).to(kind)
    assert torch.equal(generator.decode(z), generator.decode(z.float()))


def test_overflow_inside_the_generator_is_no_black_image(style_file):
    generator = zoo.load_generator(style_file)
    generator.generator.constant.data.fill_(3e38)
    with pytest.raises(ZooError, match="images: hold NaN or infinite values"):
        generator.sample(2)
    with pytest.raises(ZooError, match="images: hold NaN or infinite values"):
        zoo.GeneratedDataset(generator, 2)[0]


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "auto", torch.device("cpu")], ids=str)
def test_devices_by_name_and_as_objects(device, style_file):
    assert next(zoo.load_generator(style_file, device=device).parameters()).device.type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("device", ["gpu", "", "cpu:7", "cuda:x", torch.device("meta"), None, 5, "x" * 5000], ids=str)
def test_unknown_devices_are_refused(device, style_file):
    with pytest.raises(ZooError, match=r"--device .*: not on this machine"):
        zoo.load_generator(style_file, device=device)


class Buffered(dcgan.DCGANGenerator):
    """A generator with tensors that its state dict leaves out."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)
        self.register_buffer("pattern", torch.randn(1, 1, 16, 16), persistent=False)
        self.shift = torch.linspace(-0.1, 0.1, 16)  # no buffer at all

    def forward(self, z, label=None):
        return self.scale * super().forward(z, label) + 0.1 * self.pattern + self.shift


def test_tensors_outside_the_state_dict_are_what_init_made_them(monkeypatch, tmp_path):
    from zoo.models import registry

    plain = registry.get_architecture("dcgan")
    monkeypatch.setitem(registry.ARCHITECTURES._items, "dcgan", replace(plain, generator=Buffered))
    small = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
    run = zoo.train("dcgan-64", data="phantoms:2", out=tmp_path, kimg=0.016, device="cpu", set=small)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    generator = zoo.load_generator(run.path)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(zoo.runtime.rng.derive_seed(0, "weights"))
    fresh, _ = build_networks(zoo.load_recipe(run.recipe_file))
    for name in ("scale", "pattern", "shift"):
        assert torch.equal(getattr(generator.generator, name), getattr(fresh, name)), name
    fresh.load_state_dict(generator.generator.state_dict())
    assert isinstance(generator, LoadedGenerator)
    z = generator.latents(16, 0)
    with torch.no_grad():
        torch.testing.assert_close(generator(z), fresh.eval()(z))  # equal but for the memory layout
