"""Classes: where they come from, and what they do to training and sampling."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import recipes
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.data.dataset import load_dataset
from zoo.data.labels import index_classes, read_labels
from zoo.models.registry import get_architecture, list_architectures
from zoo.runtime.rng import fixed_labels
from zoo.training.trainer import Trainer
from zoo.training.trainer_state import find_nonfinite_state

SMALL = ["data.resolution=16", "generator.width=0.1", "discriminator.width=0.1", "train.batch=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen dark and eight bright images, in folders and in a manifest, of twelve subjects."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    lines = ["file,sex,kind"]
    for index in range(24):
        kind = "bright" if index % 3 == 0 else "dark"
        (root / kind).mkdir(exist_ok=True)
        name = f"{kind}/case_{index // 2:03d}_slice_{index % 2}.png"
        low = 150 if kind == "bright" else 0
        Image.fromarray(rng.integers(low, low + 100, (16, 16), np.uint8)).save(root / name)
        lines.append(f"{name},{'f' if index % 2 else 'm'},{kind}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def load(folder, **config):
    return load_dataset(folder, DataConfig(resolution=16, **config))


def test_classes_from_folders_and_columns(folder, tmp_path):
    by_folder = load(folder, labels="folder")
    assert list(by_folder.classes) == ["bright", "dark"]
    names = [by_folder.names[index].split("/")[0] for index in range(24)]
    assert [list(by_folder.classes)[label] for label in by_folder.labels] == names
    shares = np.bincount(by_folder.labels[by_folder.train]) / len(by_folder.train)
    assert list(by_folder.classes.values()) == pytest.approx(shares.tolist())
    by_column = load(folder, labels="kind")
    assert np.array_equal(by_column.labels, by_folder.labels)
    assert list(load(folder, labels="sex").classes) == ["f", "m"]
    assert load(folder).labels is None
    assert load(folder).digest != by_folder.digest
    packed = shutil.make_archive(str(tmp_path / "set"), "zip", folder)
    assert np.array_equal(load(packed, labels="sex").labels, load(folder, labels="sex").labels)


def test_invalid_labels_are_refused(folder):
    with pytest.raises(ZooError, match=r"has no column 'kinds' \(nearest: kind\)|has no column 'kinds'.*kind"):
        load(folder, labels="kinds")
    with pytest.raises(ZooError, match=r"no manifest.csv with a column 'sex'"):
        read_labels(["a/x.png"], "sex", None, "the set")
    with pytest.raises(ZooError, match="the folders name only 'a'"):
        read_labels(["a/x.png", "a/y.png"], "folder", None, "the set")
    with pytest.raises(ZooError, match=r"gives b.png no kind \(1 image"):
        read_labels(["a.png", "b.png"], "kind", "file,kind\na.png,x\n", "the set")
    with pytest.raises(ZooError, match="the set has a, b, but the recipe names a, c"):
        index_classes(["a", "b"], np.array([0, 1]), ["a", "c"], "the set")
    with pytest.raises(ZooError, match=r"data.labels: the generator of lean takes no classes; these do: .*dcgan"):
        recipes.load_recipe("lean-256", ["data.labels=folder"])


def test_fixed_labels_are_as_frequent_as_in_training():
    assert fixed_labels(0, 5, ()) is None
    labels = fixed_labels(1, 4000, (0.2, 0.5, 0.3))
    assert np.bincount(labels.numpy()) / 4000 == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    assert torch.equal(labels[100:200], fixed_labels(1, 100, (0.2, 0.5, 0.3), first=100))


@pytest.mark.parametrize(
    "arch", [name for name in list_architectures() if get_architecture(name).generator_config.conditional]
)
def test_networks_with_classes_train_on_them(folder, arch):
    """Each conditional family: labels reach both networks, and another label gives another image and another logit."""
    name = f"{arch}-64"
    resolved = recipes.load_recipe(
        name, [*SMALL, "data.labels=kind", "data.resolution=32", "data.classes={bright: 0.3, dark: 0.7}"]
    )
    trainer = Trainer(resolved, load_dataset(folder, resolved.data), torch.device("cpu"))
    for _ in range(2):
        trainer.step()
    assert find_nonfinite_state(trainer) is None
    G, D = trainer.G.eval(), trainer.D.eval()
    z = torch.randn(1, G.latent.dim).expand(2, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        images = [G(z, torch.full((2,), label)) for label in (0, 1) if torch.manual_seed(0)]
        logits = [D(images[0], torch.full((2,), label)) for label in (0, 1)]
    assert not torch.allclose(images[0], images[1])
    assert not torch.allclose(logits[0], logits[1])


def test_from_training_to_sampling_one_class(folder, tmp_path):
    run = zoo.train(
        "dcgan-64", data=folder, out=tmp_path, device="cpu", set=[*SMALL, "data.labels=folder", "train.kimg=0.032"]
    )
    assert recipes.load_recipe(run.recipe_file).data.classes == pytest.approx(run_shares(run))
    generator = zoo.load_generator(run)
    assert generator.classes == ["bright", "dark"]
    mixed, dark, same = (generator.sample(20, label=label) for label in (None, "dark", 1))
    assert torch.equal(dark, same)
    labels = fixed_labels(0, 20, generator.image.shares)
    assert torch.equal(mixed, generator.sample(20, label=labels))
    assert torch.equal(mixed[labels == 1], dark[labels == 1])
    assert torch.equal(mixed[:7], generator.sample(7))
    with pytest.raises(ZooError, match=r"no class 'darc'.*dark.*knows bright, dark"):
        generator.sample(1, label="darc")
    again = zoo.train(resume=run.path, kimg=0.064, device="cpu")
    assert again.info["nimg"] == 64


def run_shares(run):
    return json.loads(json.dumps(load_dataset(run.info["data"], recipes.load_recipe(run.recipe_file).data).classes))


def test_a_class_of_an_unconditional_generator(runs):
    with pytest.raises(ZooError, match="class dark: dcgan-64 was trained without classes"):
        zoo.load_generator(runs / "dcgan-64-000").sample(1, label="dark")


def test_split_folders_are_not_classes(folder, tmp_path):
    """Neither by folder nor for a manifest that names files without them."""
    for index, path in enumerate(sorted(folder.glob("*/*.png"))):
        split = "validate" if index % 4 == 3 else "train"
        (tmp_path / split / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, tmp_path / split / path.parent.name / path.name)
    shutil.copyfile(folder / "manifest.csv", tmp_path / "manifest.csv")
    assert list(load(tmp_path, labels="folder").classes) == ["bright", "dark"]
    assert list(load(tmp_path, labels="sex").classes) == ["f", "m"]
    for path in tmp_path.glob("*/*/*.png"):
        path.rename(path.parent.parent / path.name)
    with pytest.raises(ZooError, match=r"data\.labels"):
        load(tmp_path, labels="folder")


def test_an_image_outside_the_class_folders_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set", ignore=shutil.ignore_patterns("*.csv"))
    next((tmp_path / "set" / "dark").iterdir()).rename(tmp_path / "set" / "stray.png")
    with pytest.raises(ZooError, match=r"data\.labels: .*stray\.png lies in no folder, .* \(1 image in all\)"):
        load(tmp_path / "set", labels="folder")


def test_a_class_without_training_images_is_refused():
    with pytest.raises(ZooError, match="no training image is of class 'b'"):
        index_classes(["a", "b", "c"], np.array([0, 2]), [], "the set")


def test_a_manifest_with_a_short_line():
    with pytest.raises(ZooError, match=r"gives a\.png no kind"):
        read_labels(["a.png", "b.png"], "kind", "kind,file\nx\ny,b.png\n", "the set")


def test_fakes_of_a_data_set_know_their_classes(folder, tmp_path):
    settings = [*SMALL, "data.labels=folder", "train.kimg=0.016"]
    generator = zoo.load_generator(zoo.train("dcgan-64", data=folder, out=tmp_path, device="cpu", set=settings))
    dark = zoo.GeneratedDataset(generator, 20, label="dark", transform=lambda image: image)
    assert torch.equal(torch.stack([image for image, _ in dark]), generator.sample(20, label="dark"))
    assert {label for _, label in dark} == {1}
    mixed = zoo.GeneratedDataset(generator, 20, seed=3, transform=lambda image: image)
    assert torch.equal(torch.stack([image for image, _ in mixed]), generator.sample(20, seed=3))
    assert [label for _, label in mixed] == fixed_labels(3, 20, generator.image.shares).tolist()
    for wrong in (torch.zeros(3), torch.full((20,), 2)):
        with pytest.raises(ZooError, match=r"must be 20 whole numbers \(shape \(20,\)\) from 0 to 1"):
            generator.sample(20, label=wrong)


def test_grades_are_evaluated(folder, tmp_path):
    """Classes that are called 1 and 2: nothing asks for one by its index."""
    for name, grade in (("dark", "1"), ("bright", "2")):
        shutil.copytree(folder / name, tmp_path / "set" / grade)
    settings = [*SMALL, "data.labels=folder", "train.kimg=0.016"]
    run = zoo.train("dcgan-64", data=tmp_path / "set", out=tmp_path, device="cpu", set=settings)
    options = {"metrics": ["fid", "ssim"], "extractors": ["random"], "num_samples": 24, "device": "cpu"}
    document = zoo.bench([str(run.path)], out=tmp_path / "bench", **options)
    assert document["groups"][0]["rows"][0]["error"] is None
    assert (tmp_path / "bench" / "report.html").is_file()


def test_the_command_line_on_classes(folder, capsys):
    from zoo.cli.main import main

    assert main(["train", "--classes", "dcgan-64", "--data", str(folder)]) == 2
    assert "write it before the flag" in capsys.readouterr().err
    assert main(["train", "dcgan-64", "--data", str(folder), "--classes", "no"]) == 2
    assert "has no column 'no'" in capsys.readouterr().err
