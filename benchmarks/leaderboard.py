"""The leaderboard: recipes trained under equal budgets, judged alike, ranked by FID with KID beside.

    python benchmarks/leaderboard.py --data PATH              # all of it; the same command goes on where it was
    python benchmarks/leaderboard.py --data PATH --groups 64,seeds --jobs 2 --save
    python benchmarks/leaderboard.py --data PATH --status     # what is done; --dry-run: and the commands of the rest

PATH holds training images and unseen subjects (``train`` and ``validate`` folders, or what a recipe's ``data.holdout``
leaves out). Budgets are in CPU time (``budget.py``). A finished or unfinished run ``<recipe>-<NNN>`` that lies in
--runs and has the numbers of a job is adopted. Rows go into ``results.jsonl`` in --runs, with --save also into
``benchmarks/results/leaderboard.jsonl``, and pictures into ``benchmarks/pictures``. One whose alarm rang ranks behind
all others, and what failed keeps its row.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import budget
import judged
import standings
from budget import TUTORIAL, Job, Kept

from zoo import recipes
from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError, suggest
from zoo.data.dataset import load_dataset
from zoo.evaluation.bench import NUM_SAMPLES
from zoo.metrics.features.select_extractors import select_extractors
from zoo.runtime.device import choose_device

HERE = Path(__file__).resolve().parent
RESULTS, PICTURES = HERE / "results" / "leaderboard.jsonl", HERE / "pictures"
SPACES = "inception,random"  # the first ranks
GROUPS = ("64", "ablation", "seeds", "long", "same", "128", "peer")

# The plan. Budgets in core-seconds: minutes of two cores.
MINUTE = 120.0
SHORT: dict[str, Any] = {"kimg": 100.0, "core_seconds": 12 * MINUTE}
ABLATED: dict[str, Any] = {"kimg": 30.0, "core_seconds": 12 * MINUTE}
LONG: dict[str, Any] = {"kimg": 300.0, "core_seconds": 40 * MINUTE}
WIDE: dict[str, Any] = {"kimg": 1000.0, "core_seconds": 40 * MINUTE}
PEER: dict[str, Any] = {"kimg": 1000.0, "wall": 9 * 60.0}

PLAIN = ("multires-28", "multires-64", "dcgan-64")
STABLE = ("multires-28-stable", "multires-64-stable", "dcgan-64-stable")
FAMILIES = ("stylegan2-64", "fastgan-64", "r3gan-64", "projected-64", "fastgan-r3-64")  # the last is of two
STABLE_128 = ("dcgan-128-stable", "multires-128-stable")
BASE = "dcgan-64"  # what the seeds and the peer are held against
SEEDS = (1, 2)
SEES = {"projected": "ImageNet"}  # by the first part of a recipe's name: what its D was trained on before

# What could stabilise an original without touching its networks, each alone.
R1 = ("penalties.r1.weight=1", "penalties.r1.every=8")
PAIRED = ("loss.name=relativistic", *R1, "penalties.r2.weight=1", "penalties.r2.every=8")
LIGHTER = (*PAIRED, "penalties.r1.weight=0.2", "penalties.r2.weight=0.2")
SPECTRAL = ("discriminator.spectral_norm=true",)
AUGMENT = ("augment={name: diffaugment, policy: [translation]}",)
# stylegan-256 at 32 pixels and a quarter of its width, and with rates that learn something in 30 kimg.
SMALL = (
    "data.resolution=32",
    "generator.latent=64",
    "generator.channels=64",
    "discriminator.channels=[16, 32, 32, 64]",
    "discriminator.dense=64",
)
USABLE = ("optimizer.generator.lr=2e-4", "optimizer.discriminator.lr=1.5e-4")
LIGHTEST = ("penalties.r1.weight=0.03", "penalties.r2.weight=0.03")  # a 64th of those at 256 pixels
FALLING = ("optimizer.generator.lr=[[5, 2e-4], [15, 1e-4]]", "optimizer.discriminator.lr=1e-3")
# name: recipe, and what is set in it
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
    "stylegan-32": ("stylegan-256", (*SMALL, *USABLE)),
    "stylegan-32+rates": ("stylegan-256", (*SMALL, *FALLING)),
    "stylegan-32+paired": ("stylegan-256-stable", (*SMALL, *LIGHTEST, *USABLE)),
    "stylegan-32-stable": ("stylegan-256-stable", (*SMALL, *LIGHTEST)),
    "multires-28": ("multires-28", ()),
    "multires-64": ("multires-64", ()),
    "dcgan-64": ("dcgan-64", ()),
    "dcgan-64-no-ema": ("dcgan-64", ("ema.halflife_kimg=0",)),
}
SEED = "train.seed=0"  # of all but the seeds' group, whatever a recipe says

Row = dict[str, Any]


def job(group: str, name: str, recipe: str, overrides: Sequence[str] = (), **how: Any) -> Job:
    sees = SEES.get(recipe.split("-")[0], "")
    return Job(group=group, name=name, recipe=recipe, overrides=tuple(overrides), sees=sees, **how)


def group_64(rows: Sequence[Row]) -> list[Job]:
    return [job("64", name, name, (SEED,), **SHORT) for name in (*PLAIN, *STABLE, *FAMILIES)]


def ablation(rows: Sequence[Row]) -> list[Job]:
    return [job("ablation", name, recipe, (SEED, *sets), **ABLATED) for name, (recipe, sets) in ABLATION.items()]


def seeds(rows: Sequence[Row]) -> list[Job]:
    """More training seeds of the winner and of the plain net, as long as in the first group."""
    names = dict.fromkeys([_best(rows, "seeds")[0]["recipe"], BASE])
    return [
        job("seeds", f"{name}-seed{seed}", name, (f"train.seed={seed}",), **SHORT) for name in names for seed in SEEDS
    ]


def long(rows: Sequence[Row]) -> list[Job]:
    """The same runs of the best two, made longer: resuming is exact. Their budget holds what they have spent."""
    return [
        job("long", row["name"], row["recipe"], row["overrides"], continues=f"64.{row['name']}", **LONG)
        for row in _best(rows, "long")[:2]
    ]


def same(rows: Sequence[Row]) -> list[Job]:
    """The plain net after as many images as the winner has seen, in its short run and, if there is one, in its long:
    where that is more than it saw in the first group, as that run made longer.
    """
    winner = _best(rows, "same")[0]
    found = [row for row in rows if row["group"] in ("64", "long") and row["name"] == winner["name"]]
    sizes = sorted({round(row["kimg"]) for row in found if row["fid"] is not None})
    short = next((row for row in rows if (row["group"], row["name"]) == ("64", BASE) and row["fid"] is not None), None)
    made = []
    for kimg in sizes:
        continues = f"64.{BASE}" if short and kimg > short["kimg"] else None
        made.append(job("same", f"{BASE}-at-{kimg}", BASE, (SEED,), kimg=float(kimg), continues=continues))
    return made


def group_128(rows: Sequence[Row]) -> list[Job]:
    """The stable twins, and the two best families: by their own recipes of that size, else by a larger picture."""
    made = [job("128", name, name, (SEED,), **WIDE) for name in STABLE_128]
    for row in _best(rows, "128", FAMILIES)[:2]:
        name = row["recipe"].replace("-64", "-128")
        known = name in recipes.list_models()
        what = (name, (SEED,)) if known else (row["recipe"], (SEED, "data.resolution=128"))
        made.append(job("128", name, *what, **WIDE))
    return made


def peer(rows: Sequence[Row]) -> list[Job]:
    """The tutorial, and ours for the same seconds: the same layers, and the winner."""
    names = dict.fromkeys([BASE, _best(rows, "peer")[0]["recipe"]])
    return [job("peer", TUTORIAL, TUTORIAL, **PEER), *(job("peer", name, name, (SEED,), **PEER) for name in names)]


PLAN: dict[str, Callable[[Sequence[Row]], list[Job]]] = {
    "64": group_64,
    "ablation": ablation,
    "seeds": seeds,
    "long": long,
    "same": same,
    "128": group_128,
    "peer": peer,
}


def _best(rows: Sequence[Row], group: str, names: Sequence[str] = ()) -> list[Row]:
    found = standings.best(rows, "64", names)
    if not found:
        raise ZooError(f"group {group}: goes by the figures of group 64, and there are none yet")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, metavar="PATH", help="what `zoo train` takes")
    add("--runs", type=Path, default=Path("runs/leaderboard"), metavar="DIR", help="(default: runs/leaderboard)")
    add("--groups", default=",".join(GROUPS), metavar="NAME,...", help=f"(default: {','.join(GROUPS)})")
    add("--names", metavar="NAME,...", help="these jobs only")
    add("--jobs", type=int, default=2, metavar="N", help="runs side by side, which share the cores (default: 2)")
    add("--budget-scale", type=float, default=1.0, metavar="S", help="of lengths and budgets (default: 1)")
    add("--samples", type=int, default=NUM_SAMPLES, metavar="N", help=f"fakes a row (default: {NUM_SAMPLES})")
    add("--spaces", default=SPACES, metavar="NAME,...", help=f"feature spaces, the first ranks (default: {SPACES})")
    add("--train-only", action="store_true", help="judge nothing yet; the same command without it does")
    add("--retry", action="store_true", help="train again what has failed")
    add("--save", action="store_true", help=f"also into {RESULTS.name} and pictures, beside this file")
    add("--status", action="store_true", help="say what is done, and train nothing")
    add("--dry-run", action="store_true", help="the same, with the commands of what is not")
    add("--json", action="store_true", help="rows as JSON on stdout")
    options = parser.parse_args(arguments)
    options.runs = options.runs.resolve()
    if Path(options.data).exists():
        options.data = str(Path(options.data).resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        chosen = groups(options)
        if options.status or options.dry_run:
            return show(chosen, options)
        rows = [row for group in chosen for row in compete(group, options)]
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json:
        print(json.dumps(rows, indent=2))
    return None


def groups(options: argparse.Namespace) -> list[str]:
    """The groups that were asked for, in the order of the plan.

    Raises:
        ZooError: there is no such group or job, or a number makes no sense.
    """
    if options.jobs < 1 or not options.budget_scale > 0 or options.samples < 2:
        raise ZooError("--jobs: at least 1; --budget-scale: above 0; --samples: at least 2")
    wanted = _listed(options.groups)
    for name in wanted:
        if name not in PLAN:
            raise ZooError(f"--groups {name}: is none{suggest(name, PLAN)}; some of {', '.join(PLAN)}")
    chosen = [name for name in PLAN if name in wanted]
    known: dict[str, None] = {}
    later: tuple[str, ...] = ()  # how names may begin in groups whose jobs are known when those of another are judged
    for group in chosen:
        try:
            known |= dict.fromkeys(one.name for one in plan(group, options, every=True))
        except ZooError:
            later = tuple(recipes.list_models())
    for name in _listed(options.names or ""):
        if name not in known and not (later and name.startswith(later)):
            raise ZooError(f"--names {name}: no such job{suggest(name, known)}; one of {', '.join(known)}")
    return chosen


def plan(group: str, options: argparse.Namespace, *, every: bool = False) -> list[Job]:
    """A group's jobs, scaled; those of --names unless ``every``.

    Raises:
        ZooError: they depend on figures that are not there yet.
    """
    rows, names, scale = standings.read(results(options)), _listed(options.names or ""), options.budget_scale

    def scaled(one: Job) -> Job:
        budgets: dict[str, Any] = {
            key: value and value * scale for key, value in (("core_seconds", one.core_seconds), ("wall", one.wall))
        }
        return replace(one, kimg=one.kimg * scale, **budgets)

    return [scaled(one) for one in PLAN[group](rows) if every or not names or one.name in names]


def results(options: argparse.Namespace) -> Path:
    return options.runs / "results.jsonl"


def compete(group: str, options: argparse.Namespace) -> list[Row]:
    """Train and judge a group; its rows, best first."""
    display = Display()

    def say(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    planned = plan(group, options)
    cpu = choose_device("cpu")  # weights that are not to be had are known before hours are spent
    spaces = select_extractors([options.spaces], None, weights=None, device=cpu, reporter=display, notes=[])
    jobs = ready(planned, options, display)
    budget.train(jobs, data=options.data, samples=options.samples, side_by_side=options.jobs, say=say)
    if not jobs or options.train_only:
        return []
    rows = judged.judged(
        jobs,
        data=options.data,
        runs=options.runs,
        spaces=spaces,
        samples=options.samples,
        display=display,
    )
    for path in [results(options), *([RESULTS] if options.save else [])]:
        merged = standings.merge(path, rows)
    draw(group, jobs, rows, PICTURES if options.save else options.runs / "pictures")
    mine = {one.job.name for one in jobs}
    ranked = standings.ranking([row for row in merged if row["group"] == group and row["name"] in mine])
    for row in ranked:
        say(line(row))
    return ranked


def ready(jobs: Sequence[Job], options: argparse.Namespace, display: Display) -> list[Kept]:
    """Jobs with what was kept of them: images prepared, which is on nobody's budget, and runs adopted or copied."""
    kept = []
    for one in jobs:
        try:
            config = one.resolved().data if one.recipe != TUTORIAL else DataConfig(resolution=64)
        except ZooError as error:
            display.warn(f"{one.key}: left out: {error}")
            continue
        mine = Kept(one, options.runs)
        digest = load_dataset(options.data, config, reporter=display).digest
        if options.retry and mine.facts["error"] is not None:
            mine.write(error=None)
        if (aside := mine.renew()) is not None:
            display.say(f"{one.key}: its recipe has changed since and it begins anew; what it had trained: {aside}")
        if (old := mine.adopt(digest, taken(options.runs))) is not None:
            display.say(f"{one.key}: adopts {old.path}")
        if one.continues:
            group, name = one.continues.split(".", 1)
            mine.copy(Kept(replace(one, group=group, name=name, continues=None), options.runs))
        kept.append(mine)
    return kept


def taken(runs: Path) -> set[str]:
    """Runs that jobs have adopted."""
    files = (runs / "jobs").glob("*/job.json")
    return {str(json.loads(file.read_text(encoding="utf-8"))["run"]) for file in files}


def draw(group: str, jobs: Sequence[Kept], rows: Sequence[Row], folder: Path) -> None:
    strips = {kept.job.name: judged.draw(kept, folder) for kept in jobs}
    order = [row["name"] for row in standings.ranking([row for row in rows if row["group"] == group])]
    some = {name: strip for name in order if (strip := strips.get(name)) is not None}
    if some:
        judged.overview(some, folder / f"leaderboard-{group}.png")


def show(chosen: Sequence[str], options: argparse.Namespace) -> None:
    """What is done, a line a job; with --dry-run the command of what is not."""
    rows = {(row["group"], row["name"]): row for row in standings.read(results(options))}
    found = []
    for group in chosen:
        try:
            jobs = plan(group, options)
        except ZooError as error:
            found.append({"group": group, "error": str(error)})
            continue
        for one in jobs:
            kept = Kept(one, options.runs)
            state: Row = {"group": group, "name": one.name, "recipe": one.recipe, "kimg": kept.nimg / 1000}
            state |= {"ended_by": kept.ended, "fid": rows.get((group, one.name), {}).get("fid"), **kept.facts}
            try:
                state["recipe_found"] = one.recipe == TUTORIAL or bool(one.resolved())
                said = "" if state["fid"] is None else f"; FID {state['fid']:.1f}"
                if anew := kept.outdated:  # what it has, and what that was judged by, are of another recipe
                    state |= {"ended_by": None, "fid": None, "kimg": 0.0}
                    said = "; its recipe has changed since"
                state["line"] = f"{budget.told(kept)}{said}"
            except ZooError as error:
                state |= {"recipe_found": False, "line": f"{one.key}: {error}"}
            if options.dry_run and state["recipe_found"] and state["ended_by"] is None:
                state["command"] = shlex.join(["python", *kept.command(options.data, options.samples, anew=anew)])
            found.append(state)
    if options.json:
        return print(json.dumps(found, indent=2))
    for state in found:
        print(state.get("line") or state["error"])
        if "command" in state:
            print(f"    {state['command']}")
    return None


def line(row: Row) -> str:
    """A row as text."""
    if row["error"] is not None or None in (row["fid"], row["kid"], row["ssim_nearest"]):
        return f"{row['group']}.{row['name']}: {row['error'] or 'has no FID, KID or SSIM'}"
    alarms = ", ".join(dict.fromkeys(alarm["name"] for alarm in row["alarms"]))
    return (
        f"{row['group']}.{row['name']}: FID {row['fid']:.1f}, KID {row['kid']:.4f}, SSIM nearest "
        f"{row['ssim_nearest']:.3f} after {row['kimg']:.0f} kimg and {row['core_seconds']:.0f} core-seconds"
        f"{'; rings: ' + alarms if alarms else ''}{'; sees ' + row['sees'] if row['sees'] else ''}"
    )


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main()
