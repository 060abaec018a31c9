"""The plan of the leaderboard: which recipes are trained in which group, under which budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from common import Row
from leaderboard_jobs import TUTORIAL, Job
from leaderboard_rows import best_rows

from zoo import recipes
from zoo.core.errors import ZooError

# Budgets. Core-seconds are CPU time of all threads.
CORE_SECONDS_PER_MINUTE = 120.0  # a minute of two cores
SHORT: dict[str, Any] = {"kimg": 100.0, "core_seconds": 12 * CORE_SECONDS_PER_MINUTE}
ABLATED: dict[str, Any] = {"kimg": 30.0, "core_seconds": 12 * CORE_SECONDS_PER_MINUTE}
LONG: dict[str, Any] = {"kimg": 300.0, "core_seconds": 40 * CORE_SECONDS_PER_MINUTE}
WIDE: dict[str, Any] = {"kimg": 1000.0, "core_seconds": 40 * CORE_SECONDS_PER_MINUTE}
HOUR: dict[str, Any] = {"kimg": 1000.0, "core_seconds": 60 * CORE_SECONDS_PER_MINUTE}
HOURS: dict[str, Any] = {"kimg": 1000.0, "core_seconds": 4 * 3600.0}
PEER: dict[str, Any] = {"kimg": 1000.0, "wall": 9 * 60.0}

PLAIN = ("multires-28", "multires-64", "dcgan-64")
STABLE = ("multires-28-stable", "multires-64-stable", "dcgan-64-stable")
# The last one combines the generator and the discriminator of two families.
FAMILIES = ("stylegan2-64", "fastgan-64", "r3gan-64", "projected-64", "fastgan-r3-64")
STABLE_128 = ("dcgan-128-stable", "multires-128-stable")
# Recipes at 128 and 256 pixels that train for hours: the original projects, each with what it must have seen (kimg).
ORIGINALS = {
    "dcgan-256": 50.0,
    "lean-256": 50.0,
    "dcgan-256-stable": 50.0,
    "lean-256-stable": 50.0,
    "dcgan-128": 20.0,
    "dcgan-128-stable": 20.0,
    "multires-128": 10.0,
    "multires-256": 10.0,
    "stylegan-256": 2.0,
}
# The second stage of upscale recipes starts with a generator of 64 pixels, which had 4,800 core-seconds of training.
# The path is from the repository, where this script is started.
SMALL_GENERATOR = "train.init_from=zoo/hub/_weights/fastgan-r3-64.safetensors"
UPSCALE = ("upscale-256", "upscale-128")
BASE_RECIPE = "dcgan-64"  # the seeds and the tutorial are compared with it
EXTRA_SEEDS = (1, 2)
PRETRAINED_ON = {"projected": "ImageNet"}  # data that D has seen before, by the first part of a recipe's name

# Changes that could stabilise an original recipe without touching its networks, each tried alone.
R1 = ("penalties.r1.weight=1", "penalties.r1.every=8")
PAIRED = ("loss.name=relativistic", *R1, "penalties.r2.weight=1", "penalties.r2.every=8")
LIGHTER = (*PAIRED, "penalties.r1.weight=0.2", "penalties.r2.weight=0.2")
SPECTRAL = ("discriminator.spectral_norm=true",)
AUGMENT = ("augment={name: diffaugment, policy: [translation]}",)
# stylegan-256 at 32 pixels and a quarter of its width, with learning rates at which 30 kimg suffice to learn.
STYLEGAN_32 = (
    "data.resolution=32",
    "generator.latent=64",
    "generator.channels=64",
    "discriminator.channels=[16, 32, 32, 64]",
    "discriminator.dense=64",
)
# The same at 64 pixels, with one more stage in D.
STYLEGAN_64 = (
    "data.resolution=64",
    *STYLEGAN_32[1:3],
    "discriminator.channels=[16, 16, 32, 32, 64]",
    STYLEGAN_32[4],
)
USABLE_RATES = ("optimizer.generator.lr=2e-4", "optimizer.discriminator.lr=1.5e-4")
FALLING_RATES = ("optimizer.generator.lr=[[5, 2e-4], [15, 1e-4]]", "optimizer.discriminator.lr=1e-3")
LIGHTEST = ("penalties.r1.weight=0.03", "penalties.r2.weight=0.03")  # a 64th of those at 256 pixels

# name: recipe and overrides
ABLATION: dict[str, tuple[str, tuple[str, ...]]] = {
    "multires-64+r1": ("multires-64", R1),
    "multires-64+paired": ("multires-64", PAIRED),
    "multires-64+lighter": ("multires-64", LIGHTER),
    "multires-64+spectral": ("multires-64", SPECTRAL),
    "dcgan-64+r1": ("dcgan-64", R1),
    "dcgan-64+paired": ("dcgan-64", PAIRED),
    "dcgan-64+augment": ("dcgan-64", AUGMENT),
    "dcgan-64+spectral": ("dcgan-64", SPECTRAL),
    "multires-28+r1": ("multires-28", R1),
    "multires-28+paired": ("multires-28", LIGHTER),
    "multires-28+spectral": ("multires-28", SPECTRAL),
    "fastgan-64+augment": ("fastgan-64", AUGMENT),
    "fastgan-64+hinge": ("fastgan-64", ("loss.name=hinge",)),
    "stylegan-32": ("stylegan-256", (*STYLEGAN_32, *USABLE_RATES)),
    "stylegan-32+rates": ("stylegan-256", (*STYLEGAN_32, *FALLING_RATES)),
    "stylegan-32+paired": ("stylegan-256-stable", (*STYLEGAN_32, *LIGHTEST, *USABLE_RATES)),
    "stylegan-32-stable": ("stylegan-256-stable", (*STYLEGAN_32, *LIGHTEST)),
    "stylegan-64": ("stylegan-256", (*STYLEGAN_64, *USABLE_RATES)),
    "stylegan-64-stable": ("stylegan-256-stable", (*STYLEGAN_64, *LIGHTEST)),
    "multires-28": ("multires-28", ()),
    "multires-64": ("multires-64", ()),
    "dcgan-64": ("dcgan-64", ()),
    "dcgan-64-no-ema": ("dcgan-64", ("ema.halflife_kimg=0",)),
}
SEED = "train.seed=0"  # of all groups that do not try several, whatever a recipe says

# Switches against few kinds of images (docs/variety.md), each tried alone on this recipe.
VARIETY_RECIPE = "fastgan-r3-64"
VARIETY_SEEDS = (0, 1)
DIFFERENCE = "{weight: 0.03, every: 1, step: 0.01, share: 0.25}"
VARIETY: dict[str, tuple[str, ...]] = {
    # The baseline: its snapshots, combined by `zoo ema`, are further candidates and change none of its numbers.
    "base": ("ema.snapshot_stds=[0.05, 0.1]", "ema.snapshot_kimg=2"),
    "minibatch-std": ("discriminator.minibatch_std=4",),
    "packing": ("discriminator.packing=2",),
    "differences": (f"penalties={{r1: {DIFFERENCE}, r2: {DIFFERENCE}, centre: {{}}}}",),
    "root-rates": (
        "optimizer.generator.lr={value: 3e-4, warmup_kimg: 0.5, sqrt_kimg: 10}",
        "optimizer.discriminator.lr={value: 1e-3, warmup_kimg: 0.5, sqrt_kimg: 30}",
    ),
    "batches": ("train.batch=[[0, 8], [20, 32]]",),
    "paired-augment": ("augment={name: diffaugment, policy: [translation], paired: true}",),
    "san": ("discriminator.san=true",),
    "autoencoder": ("autoencoder={weight: [[0, 10], [5, 0]]}",),
    "minibatch-std-autoencoder": ("discriminator.minibatch_std=4", "autoencoder={weight: [[0, 10], [5, 0]]}"),
    "mode-seeking": ("penalties.mode_seeking.weight=0.1",),
    "scales": ("scales={sizes: [16, 32]}",),
}
# Recipes that combine several of them, at 28 and at 64 pixels, the latter with their seeds.
RECIPE_28 = "fastgan-r3-28"
HOUR_SEEDS = {"fastgan-r3-64-cpu": (0,), "fastgan-r3-64-packed": (0, 1, 2)}


def _job(group: str, name: str, recipe: str, overrides: Sequence[str] = (), **budget: Any) -> Job:
    sees = PRETRAINED_ON.get(recipe.split("-")[0], "")
    return Job(group=group, name=name, recipe=recipe, overrides=tuple(overrides), sees=sees, **budget)


def plan_64(rows: Sequence[Row]) -> list[Job]:
    """Plan the recipes at 28 and 64 pixels."""
    return [_job("64", name, name, (SEED,), **SHORT) for name in (*PLAIN, *STABLE, *FAMILIES)]


def plan_ablation(rows: Sequence[Row]) -> list[Job]:
    """Plan each stabilising change alone."""
    return [
        _job("ablation", name, recipe, (SEED, *overrides), **ABLATED) for name, (recipe, overrides) in ABLATION.items()
    ]


def plan_variety(rows: Sequence[Row]) -> list[Job]:
    """Plan each switch of docs/variety.md alone, with the budget of group 64."""
    return [
        _job("variety", f"{name}-seed{seed}", VARIETY_RECIPE, (f"train.seed={seed}", *overrides), **SHORT)
        for name, overrides in VARIETY.items()
        for seed in VARIETY_SEEDS
    ]


def plan_28(rows: Sequence[Row]) -> list[Job]:
    """Plan the recipe for variety at 28 pixels: about twenty minutes of one core."""
    return [_job("28", RECIPE_28, RECIPE_28, (SEED,), kimg=120.0)]


def plan_hour(rows: Sequence[Row]) -> list[Job]:
    """Plan an hour of two cores for the recipes with variety at 64 pixels, the best one with three seeds."""
    return [
        _job("hour", f"{recipe}-seed{seed}", recipe, (f"train.seed={seed}",), **HOUR)
        for recipe, seeds in HOUR_SEEDS.items()
        for seed in seeds
    ]


def plan_seeds(rows: Sequence[Row]) -> list[Job]:
    """Plan more training seeds of the winner and of the base recipe, with the budget of group 64."""
    jobs = []
    for name in dict.fromkeys([_best_of_64(rows, "seeds")[0]["recipe"], BASE_RECIPE]):
        jobs += [_job("seeds", f"{name}-seed{seed}", name, (f"train.seed={seed}",), **SHORT) for seed in EXTRA_SEEDS]
    return jobs


def plan_long(rows: Sequence[Row]) -> list[Job]:
    """Plan longer trainings of the best two, which resume exactly and whose budget includes what they have spent."""
    return [
        _job("long", row["name"], row["recipe"], row["overrides"], continues=f"64.{row['name']}", **LONG)
        for row in _best_of_64(rows, "long")[:2]
    ]


def plan_same(rows: Sequence[Row]) -> list[Job]:
    """Plan the base recipe for as many images as the winner has seen in its short and in its long run.

    Where that is more than the base recipe saw in group 64, its run of that group is continued.
    """
    winner = _best_of_64(rows, "same")[0]["name"]
    seen_kimg = set()
    base_kimg = None
    for row in rows:
        if row["fid"] is None:
            continue
        if row["group"] in ("64", "long") and row["name"] == winner:
            seen_kimg.add(round(row["kimg"]))
        if (row["group"], row["name"]) == ("64", BASE_RECIPE):
            base_kimg = row["kimg"]
    jobs = []
    for kimg in sorted(seen_kimg):
        continues = f"64.{BASE_RECIPE}" if base_kimg is not None and kimg > base_kimg else None
        name = f"{BASE_RECIPE}-at-{kimg}"
        jobs.append(_job("same", name, BASE_RECIPE, (SEED,), kimg=float(kimg), continues=continues))
    return jobs


def plan_128(rows: Sequence[Row]) -> list[Job]:
    """Plan the stable recipes and the two best families at 128 pixels."""
    jobs = [_job("128", name, name, (SEED,), **WIDE) for name in STABLE_128]
    for row in _best_of_64(rows, "128", FAMILIES)[:2]:
        name = row["recipe"].replace("-64", "-128")
        if name in recipes.list_models():
            jobs.append(_job("128", name, name, (SEED,), **WIDE))
        else:
            jobs.append(_job("128", name, row["recipe"], (SEED, "data.resolution=128"), **WIDE))
    return jobs


def plan_256(rows: Sequence[Row]) -> list[Job]:
    """Plan the second stage of the recipes that enlarge images of 64 pixels."""
    return [_job("256", name, name, (SEED, SMALL_GENERATOR), **HOURS) for name in UPSCALE]


def plan_originals(rows: Sequence[Row]) -> list[Job]:
    """Plan the original projects and their stable twins at 128 and 256 pixels."""
    return [_job("originals", name, name, (SEED,), kimg=kimg) for name, kimg in ORIGINALS.items()]


def plan_peer(rows: Sequence[Row]) -> list[Job]:
    """Plan the tutorial, and for the same seconds the recipe with the same layers and the winner."""
    names = dict.fromkeys([BASE_RECIPE, _best_of_64(rows, "peer")[0]["recipe"]])
    return [_job("peer", TUTORIAL, TUTORIAL, **PEER), *(_job("peer", name, name, (SEED,), **PEER) for name in names)]


# In the order of training. Each function takes the rows so far, because later groups depend on the best recipes.
PLAN: dict[str, Callable[[Sequence[Row]], list[Job]]] = {
    "64": plan_64,
    "ablation": plan_ablation,
    "seeds": plan_seeds,
    "long": plan_long,
    "same": plan_same,
    "128": plan_128,
    "256": plan_256,
    "originals": plan_originals,
    "peer": plan_peer,
    "variety": plan_variety,
    "28": plan_28,
    "hour": plan_hour,
}


def _best_of_64(rows: Sequence[Row], group: str, names: Sequence[str] = ()) -> list[Row]:
    best = best_rows(rows, "64", names)
    if not best:
        raise ZooError(f"group {group}: depends on the results of group 64, which has none yet. Run --groups 64 first.")
    return best
