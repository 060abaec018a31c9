"""Recipes: all of them build, mistakes are explained in one line, digests cover what changes results."""

import dataclasses
import re

import pytest
import yaml

from zoo import recipes
from zoo.core.errors import ZooError
from zoo.core.schedule import BatchSchedule, Schedule
from zoo.losses.objective import Objective


@pytest.mark.parametrize("name", recipes.list_models())
def test_recipe_survives_yaml_and_its_row_in_the_list_agrees_with_its_networks(name):
    recipe = recipes.load_recipe(name)
    assert recipe.name == name
    assert recipes.recipe_from_dict(yaml.safe_load(recipe.to_yaml()), where="again") == recipe
    (summary,) = recipes.summarise_recipes(name)
    generator, discriminator = recipes.build_networks(recipe, "meta")
    assert summary["arch"] == recipe.generator.arch
    assert summary["resolution"] == generator.image.resolution == discriminator.image.resolution
    assert summary["channels"] == generator.image.channels
    assert summary["latent"] == generator.latent.dim
    assert summary["params_g"] == sum(p.numel() for p in generator.parameters() if p.requires_grad)
    assert summary["params_d"] == sum(p.numel() for p in discriminator.parameters() if p.requires_grad)
    assert summary["source"]


def test_list_models_filters_and_sorts_naturally():
    sizes = ["multires-28", "multires-64", "multires-128", "multires-256"]
    expected = [name for size in sizes for name in (size, f"{size}-stable")]
    assert recipes.list_models("multires-*") == expected
    assert recipes.list_models("multires-*4") == ["multires-64"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.bacth=3", ["train.bacth", "unknown key", "did you mean 'batch'", "allowed here: kimg"]),
        ("trian.batch=3", ["trian", "did you mean 'train'"]),
        ("train.batch=ten", ["train.batch", "whole number", "'ten'"]),
        ("train.batch=true", ["train.batch", "whole number"]),
        ("train.batch=0", ["train.batch", "at least 1"]),
        ("train.kimg=-1", ["train.kimg", "at least 0.001"]),
        ("train.kimg=.nan", ["train.kimg", "nan"]),
        ("train.micro_batch=7", ["train", "micro_batch 7 does not divide batch 64"]),
        ("train.update=both", ["train.update", "simultaneous, alternating"]),
        ("generator.latnet=3", ["generator.latnet", "did you mean 'latent'"]),
        ("generator.width=0", ["generator.width", "above 0"]),
        ("generator.arch=dcgen", ["generator.arch", "did you mean 'dcgan'"]),
        ("generator=dcgan-65", ["no recipe 'dcgan-65'", "did you mean 'dcgan-64'"]),
        ("loss.name=nonsaturatin", ["loss.name", "did you mean 'nonsaturating'"]),
        ("penalties.r3.weight=1", ["penalties", "r1, r2", "'r3'"]),
        ("data.resolution=100", ["data.resolution", "100"]),
        ("data.fit=padd", ["data.fit", "pad, crop, stretch", "did you mean 'pad'"]),
        ("data.holdout=2", ["data.holdout", "at most 1"]),
        ("data.window=[1]", ["data.window"]),
        ("optimizer.generator.lr=[[5, 1], [1, 2]]", ["optimizer.generator.lr", "rising kimg"]),
        ("optimizer.discriminator.name=sgdd", ["optimizer.discriminator.name", "did you mean 'sgd'"]),
        ("name.x=1", ["name", "is a value"]),
        ("speed.compile=reduce-overhed", ["speed.compile", "did you mean 'reduce-overhead'"]),
        ("train", ["KEY=VALUE"]),
        ("train.batch=[", ["not YAML"]),
    ],
)
def test_mistakes_are_explained_in_one_line(override, words):
    with pytest.raises(ZooError) as caught:
        recipes.load_recipe("dcgan-64", [override])
    message = str(caught.value)
    assert message.startswith("dcgan-64: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_label_smoothing_needs_labels():
    with pytest.raises(ZooError, match=r"loss\.label_smoothing"):
        recipes.load_recipe("dcgan-64", ["loss.name=hinge", "loss.label_smoothing=0.1"])


def test_unknown_name_and_file():
    with pytest.raises(ZooError, match=r"did you mean 'lean-256'"):
        recipes.load_recipe("leen-256")
    with pytest.raises(ZooError, match=r"no recipe file nowhere/x\.yaml"):
        recipes.load_recipe("nowhere/x.yaml")


def test_a_missing_file_is_explained_by_what_is_near(tmp_path):
    run = tmp_path / "runs" / "lean-256-000"
    run.mkdir(parents=True)
    (run / "recipe.yaml").touch()
    (tmp_path / "mine.yaml").touch()
    for path, explanation in (
        (run, f"{run} is the folder of a run: its recipe is {run}/recipe.yaml, and `zoo train --resume {run}` "),
        (tmp_path / "mime.yaml", "mime.yaml (did you mean 'mine.yaml'?)"),
        (tmp_path / "lean-256.yaml", "lean-256.yaml (did you mean 'lean-256'?)"),
        (tmp_path / "a\0b.yaml", "no recipe file "),
        (tmp_path / "none" / "x.yaml", f"no recipe file {tmp_path}/none/x.yaml"),
    ):
        with pytest.raises(ZooError, match=re.escape(explanation)):
            recipes.load_recipe(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("? [a]\n: 1\n", "is not YAML"),
        ("a: [", "is not YAML"),
        ("- 1\n- 2\n", "mapping"),
        ("name: x\n", "is missing"),
        ("", "mapping"),
    ],
)
def test_broken_files(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ZooError, match=words) as caught:
        recipes.load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_path_to_a_file_works_like_a_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((recipes.RECIPES / "dcgan-64.yaml").read_text().replace("name: dcgan-64", "name: mine"))
    assert recipes.load_recipe(path, ["train.batch=8"]).train.batch == 8
    assert recipes.load_recipe(path).name == "mine"


def test_numbers_that_yaml_reads_as_text():
    assert recipes.load_recipe("dcgan-64", ["optimizer.generator.lr=1e-3"]).optimizer.generator.lr.at(0) == 1e-3


def test_a_network_section_may_name_another_recipe():
    mixed = recipes.load_recipe("dcgan-256", ["discriminator=lean-256"])
    assert mixed.discriminator == recipes.load_recipe("lean-256").discriminator
    assert mixed.generator == recipes.load_recipe("dcgan-256").generator
    assert mixed.parameters is None  # the counts in the file are of its own pair
    thin = recipes.load_recipe("dcgan-256", ["discriminator=lean-256", "discriminator.width=0.5"])
    assert thin.discriminator.config == dataclasses.replace(mixed.discriminator.config, width=0.5)


def test_digest_covers_what_changes_results():
    base = recipes.load_recipe("dcgan-64")
    for same in (
        "train.kimg=7",
        "train.log_kimg=3",
        "train.sample_kimg=3",
        "train.checkpoint_kimg=3",
        "train.keep=9",
        "train.checkpoint_minutes=1",
        "speed.cuda_graphs=true",
        "speed.compile=reduce-overhead",
    ):
        assert recipes.override_recipe(base, same).digest == base.digest, same
    for other in (
        "train.batch=32",
        "train.seed=1",
        "train.precision=bf16",
        "train.micro_batch=32",
        "train.update=simultaneous",
        "data.holdout=0",
        "generator.width=0.5",
        "optimizer.generator.lr=1e-3",
        "ema.halflife_kimg=1",
        "loss.name=hinge",
        "penalties.r1.weight=1",
    ):
        assert recipes.override_recipe(base, other).digest != base.digest, other


def test_digest_of_earlier_versions_is_kept():
    """Runs and checkpoints are found by it."""
    assert recipes.load_recipe("dcgan-64").digest == "a2ccebb8f8e06483"
    assert recipes.load_recipe("stylegan2-64", ["data.labels=folder"]).digest == "a235d1f17f8e1994"


def test_schedule_is_linear_between_points_and_constant_outside():
    schedule = Schedule.parse([[1, 0.0], [3, 4.0]])
    assert [schedule.at(n) for n in (0, 1000, 2000, 3000, 9000)] == [0.0, 0.0, 2.0, 4.0, 4.0]
    assert Schedule.parse(Schedule.parse([[1, 0.0], [3, 4.0]]).plain()) == schedule
    assert Schedule.parse(2).at(12345) == 2.0


@pytest.mark.parametrize(
    ("data", "expected"),  # at 0, 1, 2, 8, 32 and 200 kimg
    [
        ({"value": 4.0, "sqrt_kimg": 8}, [4, 4, 4, 4, 2, 0.8]),
        ({"value": 4.0, "warmup_kimg": 2, "sqrt_kimg": 8}, [0, 2, 4, 4, 2, 0.8]),
        ({"value": 4.0, "warmup_kimg": 16}, [0, 0.25, 0.5, 2, 4, 4]),
        ({"value": [[0, 4], [32, 8]], "sqrt_kimg": 8}, [4, 4.125, 4.25, 5, 4, 1.6]),
        ({"value": 4.0}, [4] * 6),
    ],
)
def test_schedule_with_warm_up_falls_with_the_inverse_square_root(data, expected):
    schedule = Schedule.parse(data)
    values = [schedule.at(nimg) for nimg in (0, 1000, 2000, 8000, 32000, 200000)]
    assert values == pytest.approx(expected)
    assert Schedule.parse(schedule.plain()) == schedule
    text = yaml.safe_dump(data, default_flow_style=True).strip()
    recipe = recipes.load_recipe("dcgan-64", [f"optimizer.generator.lr={text}"])
    assert recipe.optimizer.generator.lr == schedule
    assert recipes.recipe_from_dict(yaml.safe_load(recipe.to_yaml()), where="again").digest == recipe.digest


def test_batches_change_with_the_first_step_after_their_kimg():
    batches = BatchSchedule.parse([[0, 8], [0.02, 32], [0.05, 4]])
    nimg, sizes = 0, []
    for step in range(6):
        assert batches.steps(nimg) == step
        sizes.append(batches.at(nimg))
        nimg += sizes[-1]
    assert sizes == [8, 8, 8, 32, 4, 4]  # until 24, 56 and for ever
    ends = {0: 0, 1: 8, 8: 8, 17: 24, 24: 24, 25: 56, 56: 56, 57: 60, 64: 64}
    assert {images: batches.end(images) for images in ends} == ends
    plain = recipes.load_recipe("dcgan-64", ["train.batch=16"]).train.batches
    assert [plain.at(99), plain.steps(160), plain.end(17), plain.sizes] == [16, 10, 32, (16,)]


def test_a_batch_that_later_stages_skip_is_never_taken():
    batches = BatchSchedule.parse([[0, 100], [0.01, 7], [0.02, 50]])  # the first step ends after both
    assert [batches.at(0), batches.at(100), batches.steps(150)] == [100, 50, 2]


def test_batch_schedule_in_a_recipe():
    recipe = recipes.load_recipe("dcgan-64", ["train.batch=[[0, 8], [0.2, 32]]", "penalties.r1.every=1"])
    assert recipes.recipe_from_dict(yaml.safe_load(recipe.to_yaml()), where="again") == recipe
    (r1,) = [term for term in Objective(recipe).terms if term.name == "r1"]
    gammas = [r1.weight.at(nimg) for nimg in (0, 8, 192, 200, 232)]
    assert gammas == pytest.approx([0.0002 * 64**2 / batch for batch in (8, 8, 8, 32, 32)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[1, 8], [2, 16]]", r"a whole number or a list of \[kimg, images\] pairs with rising kimg from 0"),
        ("[[0, 8], [0, 16]]", "rising kimg from 0"),
        ("[[0, 8], [1, 0]]", "rising kimg from 0"),
        ("[[0, 8], [1, 8.5]]", "rising kimg from 0"),
        ("[[0, true], [1, 8]]", "rising kimg from 0"),
        ("[[false, 8]]", "rising kimg from 0"),
        ("[]", "rising kimg from 0"),
        ("[8, 16]", "rising kimg from 0"),
    ],
)
def test_mistakes_in_a_batch_schedule_are_explained(text, words):
    with pytest.raises(ZooError, match=rf"train\.batch: must be .*{words}"):
        recipes.load_recipe("dcgan-64", [f"train.batch={text}"])
    with pytest.raises(ZooError, match="micro_batch 8 does not divide batch 12"):
        recipes.load_recipe("dcgan-64", ["train.batch=[[0, 8], [1, 12]]", "train.micro_batch=8"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{value: 1e-3, warmup: 2}", r"lr: unknown key 'warmup' \(did you mean 'warmup_kimg'\?\); allowed here"),
        ("{warmup_kimg: 2}", r"lr: value: must be a number"),
        ("{value: 1e-3, sqrt_kimg: -2}", "must be a number of at least 0"),
        ("{value: 1e-3, sqrt_kimg: [[0, 1], [1, 2]]}", "sqrt_kimg: must be a number of at least 0"),
    ],
)
def test_mistakes_in_a_schedule_are_explained(text, words):
    with pytest.raises(ZooError, match=words):
        recipes.load_recipe("dcgan-64", [f"optimizer.generator.lr={text}"])


def test_a_duplicate_key_is_an_error(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((recipes.RECIPES / "dcgan-64.yaml").read_text() + "\nname: again\n")
    with pytest.raises(ZooError, match=r"line \d+: is not YAML \(the key 'name' stands twice\)"):
        recipes.load_recipe(path)


def test_recipes_that_refer_to_each_other_are_an_error(tmp_path):
    path = tmp_path / "mine.yaml"
    text = (recipes.RECIPES / "lean-256.yaml").read_text()
    path.write_text(text[: text.index("generator:")] + f"generator: {path}\n" + text[text.index("discriminator:") :])
    with pytest.raises(ZooError, match="generator: refers to itself"):
        recipes.load_recipe(path)


def test_dates_are_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((recipes.RECIPES / "dcgan-64.yaml").read_text().replace("name: dcgan-64", "name: 2024-01-01"))
    assert recipes.load_recipe(path).name == "2024-01-01"


def test_arch_overrides_both_networks_of_a_loaded_recipe():
    with pytest.raises(ZooError, match=r"generator\..*: unknown key"):
        recipes.override_recipe(recipes.load_recipe("dcgan-64"), "arch=lean")
