"""timm's spelling: list, create and take features of models."""

import pytest
import torch

import zoo
from zoo.core.errors import ZooError
from zoo.training.checkpoint import load_checkpoint, newest_checkpoint

SMALL = {"generator__width": 0.125, "discriminator__width": 0.125}


def test_list_models():
    names = zoo.list_models()
    assert zoo.list_models("dcgan*") == zoo.list_models(filter="dcgan*") == [n for n in names if n.startswith("dcgan")]
    chosen = zoo.list_models(["dcgan*", "lean*"], exclude_filters=["*-stable", "*256*"])
    assert chosen == ["dcgan-64", "dcgan-128"]
    assert zoo.list_models(exclude_filters="*-stable") == [name for name in names if not name.endswith("-stable")]
    assert zoo.list_models("none*") == []
    assert zoo.is_model("dcgan-64")
    assert not zoo.is_model("dcgan-65")


def test_list_weights():
    trained = zoo.list_models(pretrained=True)
    assert {"dcgan-64-stable", "fastgan-r3-64", "multires-28-stable"} < {*trained}
    assert zoo.list_weights("brain*") == ["brain-128", "brain-256", "brain-28", "brain-64"]
    assert {*trained, *zoo.list_weights("brain*")} == {*zoo.list_weights()}
    assert zoo.list_models("dcgan*", pretrained=True) == ["dcgan-64-stable"]


def test_create_with_keywords():
    by_words, by_keywords = (
        zoo.create("dcgan-64", "generator.width=0.5", device="meta"),
        zoo.create("dcgan-64", generator__width=0.5, device="meta"),
    )
    for one, other in zip(by_words, by_keywords, strict=True):
        assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    for function in (zoo.create, zoo.create_discriminator):
        with pytest.raises(TypeError, match=rf"{function.__name__}\(\) got an unexpected keyword argument 'widht'"):
            function("dcgan-64", widht=1)
    with pytest.raises(ZooError, match=r"generator.widht: unknown key"):
        zoo.create("dcgan-64", generator__widht=1)


def test_create_pretrained():
    for name in ("multires-28-stable", "brain-28"):
        G, D = zoo.create(name, pretrained=True)
        loaded = zoo.load_generator(name, precision="fp32")
        z = loaded.latents(3)
        torch.testing.assert_close(G.eval()(z), loaded(z))  # whose memory layout is another one
        assert D(G(z)).shape == (3,)
    # All but the generator may change, which a fine-tuning does.
    assert zoo.create("brain-28", pretrained=True, discriminator__width=0.5)[1](G(z)).shape == (3,)
    with pytest.raises(ZooError, match=r"brain-28: generator.width=0.5: the pretrained weights fit another generator"):
        zoo.create("brain-28", pretrained=True, generator__width=0.5)
    with pytest.raises(ZooError, match=r"brain-29: no pretrained weights of this name \(did you mean 'brain-2"):
        zoo.create("brain-29", pretrained=True)


@pytest.mark.parametrize("name", zoo.list_models())
def test_features_of_every_discriminator(name):
    """On the meta device, which takes no memory: shapes are those that ``feature_info`` names."""
    with torch.device("meta"):
        network = zoo.create_discriminator(name, features_only=True)
        image = network.discriminator.image
        maps = network.eval()(torch.empty(4, image.channels, image.resolution, image.resolution))
    assert len(maps) >= 2
    for info, features in zip(network.feature_info, maps, strict=True):
        side = image.resolution // info["reduction"]
        packs = 4 // getattr(network.discriminator, "packing", 1)
        assert features.shape[:2] == (packs, info["num_chs"])  # images, and not a layer's kernels
        assert image.resolution // features.shape[2] == info["reduction"], (side, features.shape)
    sides = [features.shape[2] for features in maps]
    assert sides == sorted(set(sides), reverse=True)


@pytest.mark.parametrize(
    "more", [{}, {"discriminator__packing": 2}, {"discriminator__san": True}, {"discriminator__spectral_norm": True}]
)
def test_features_are_those_of_the_forward_pass(more):
    network = zoo.create_discriminator("dcgan-64", features_only=True, **SMALL, **more).eval()
    x = torch.randn(4, 1, 64, 64).requires_grad_()
    maps = network(x)
    # The last convolution maps the last feature map to the logits.
    last = [module for module in network.discriminator.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    inputs = []
    last.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    network.discriminator(x)
    assert torch.equal(maps[-1], inputs[0])
    sum(features.sum() for features in maps).backward()
    assert x.grad.abs().sum() > 0


def test_discriminator_of_a_run(runs):
    run = zoo.Run(runs / "dcgan-64-000")
    D = zoo.create_discriminator(zoo.load_recipe(run.recipe_file), init_from=run.path)
    stored = load_checkpoint(newest_checkpoint(run.state))["trainer"]["discriminator"]
    assert all(torch.equal(value, stored[name]) for name, value in D.state_dict().items())


@pytest.mark.parametrize("name", ["dcgan-64", "stylegan2-64", "projected-64", "r3gan-64", "upscale-128"])
def test_the_default_device_is_respected(name):
    with torch.device("meta"):
        networks = zoo.create(name)
    assert {tensor.device.type for network in networks for tensor in network.state_dict().values()} == {"meta"}
    with torch.device("meta"):
        networks = zoo.create(name, device="cpu", **SMALL)
    assert {tensor.device.type for network in networks for tensor in network.state_dict().values()} == {"cpu"}
