"""The leaderboard: train recipes under equal budgets, evaluate them alike, rank them by FID.

    python benchmarks/leaderboard.py --data PATH              # everything; the same command resumes
    python benchmarks/leaderboard.py --data PATH --groups 64,seeds --jobs 2 --save
    python benchmarks/leaderboard.py --data PATH --status     # what is done; --dry-run: also the remaining commands

PATH holds training images and held-out subjects (folders ``train`` and ``validate``, or what a recipe's
``data.holdout`` separates). Budgets are CPU time (``leaderboard_jobs.py``). A run ``<recipe>-<NNN>`` in --runs that has
a job's recipe and images is adopted. Rows are written to ``results.jsonl`` in --runs; with --save also to
``benchmarks/results/leaderboard.jsonl``, and image grids to ``benchmarks/pictures``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import leaderboard_jobs
import leaderboard_scores
from common import Row, make_parser, read_rows
from leaderboard_jobs import TUTORIAL, Job, JobFolder
from leaderboard_plan import PLAN
from leaderboard_rows import merge_rows, rank_rows

from zoo import recipes
from zoo.core.config import DataConfig
from zoo.core.console import Display
from zoo.core.errors import ZooError, suggest
from zoo.data.dataset import load_dataset
from zoo.evaluation.evaluate_generators import NUM_SAMPLES

HERE = Path(__file__).resolve().parent
RESULTS, PICTURES = HERE / "results" / "leaderboard.jsonl", HERE / "pictures"
EXTRACTORS = "inception,random"  # the first one ranks


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _make_parser()
    options = parser.parse_args(arguments)
    options.runs = options.runs.resolve()
    if Path(options.data).exists():
        options.data = str(Path(options.data).resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        groups = select_groups(options)
        if options.status or options.dry_run:
            return print_status(groups, options)
        rows = [row for group in groups for row in run_group(group, options)]
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json:
        print(json.dumps(rows, indent=2))
    return None


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add = parser.add_argument
    every_group = ",".join(PLAN)
    add("--data", required=True, metavar="PATH", help="images, as `zoo train` takes them")
    add("--runs", type=Path, default=Path("runs/leaderboard"), metavar="DIR", help="(default: runs/leaderboard)")
    add("--groups", default=every_group, metavar="NAME,...", help=f"(default: {every_group})")
    add("--names", metavar="NAME,...", help="only these jobs")
    add("--jobs", type=int, default=2, metavar="N", help="parallel runs, which share the cores (default: 2)")
    add("--budget-scale", type=float, default=1.0, metavar="S", help="factor of lengths and budgets (default: 1)")
    add(
        "--samples",
        type=int,
        default=NUM_SAMPLES,
        metavar="N",
        help=f"images per row (default: {NUM_SAMPLES})",
    )
    add("--spaces", default=EXTRACTORS, metavar="NAME,...", help=f"extractors, the first ranks (default: {EXTRACTORS})")
    add("--device", default="cpu", help="where images are made and compared (default: cpu, as in all other rows)")
    add("--train-only", action="store_true", help="train and do not evaluate; run again without it to evaluate")
    add("--retry", action="store_true", help="train failed jobs again")
    add("--save", action="store_true", help=f"also write results/{RESULTS.name} and pictures/")
    add("--status", action="store_true", help="print what is done and train nothing")
    add("--dry-run", action="store_true", help="like --status, with the commands of the remaining jobs")
    add("--json", action="store_true", help="print rows as JSON on stdout")
    return parser


def select_groups(options: argparse.Namespace) -> list[str]:
    """Return the groups of --groups in the order of the plan.

    Raises:
        ZooError: a group or a job is unknown, or a number is out of range.
    """
    if options.jobs < 1 or not options.budget_scale > 0 or options.samples < 2:
        raise ZooError("out of range: --jobs must be at least 1, --budget-scale above 0, --samples at least 2.")
    names = _split_names(options.groups)
    for name in names:
        if name not in PLAN:
            raise ZooError(f"--groups {name}: unknown group{suggest(name, PLAN)}. Choose from {', '.join(PLAN)}.")
    groups = [name for name in PLAN if name in names]
    _check_job_names(groups, options)
    return groups


def _check_job_names(groups: Sequence[str], options: argparse.Namespace) -> None:
    job_names: dict[str, None] = {}
    # Jobs of some groups depend on results that do not exist yet; their names start with a recipe's name.
    prefixes: tuple[str, ...] = ()
    for group in groups:
        try:
            job_names |= dict.fromkeys(job.name for job in plan_group(group, options, every_name=True))
        except ZooError:
            prefixes = tuple(recipes.list_models())
    for name in _split_names(options.names or ""):
        if name not in job_names and not (prefixes and name.startswith(prefixes)):
            hint = suggest(name, job_names)
            raise ZooError(f"--names {name}: unknown job{hint}. Choose from {', '.join(job_names)}.")


def plan_group(group: str, options: argparse.Namespace, *, every_name: bool = False) -> list[Job]:
    """Return a group's jobs with scaled budgets, only those of --names unless ``every_name``.

    Raises:
        ZooError: the jobs depend on results that do not exist yet.
    """
    rows, names, scale = read_rows(results_file(options)), _split_names(options.names or ""), options.budget_scale
    jobs = []
    for job in PLAN[group](rows):
        if names and job.name not in names and not every_name:
            continue
        core_seconds = job.core_seconds and job.core_seconds * scale
        wall = job.wall and job.wall * scale
        jobs.append(replace(job, kimg=job.kimg * scale, core_seconds=core_seconds, wall=wall))
    return jobs


def results_file(options: argparse.Namespace) -> Path:
    return options.runs / "results.jsonl"


def run_group(group: str, options: argparse.Namespace) -> list[Row]:
    """Train and evaluate a group; return its rows, the best first."""
    display = Display()

    def print_line(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    jobs = plan_group(group, options)
    # Before the training, so that missing weights of an extractor are reported before hours are spent.
    table = leaderboard_scores.ScoreTable(
        data=options.data,
        runs=options.runs,
        extractor=options.spaces,
        num_samples=options.samples,
        device=options.device,
        display=display,
    )
    folders = prepare_jobs(jobs, options, display)
    leaderboard_jobs.train_jobs(
        folders, data=options.data, num_samples=options.samples, parallel=options.jobs, print_line=print_line
    )
    if not folders or options.train_only:
        return []
    rows = table.evaluate(folders)
    merged = merge_rows(results_file(options), rows)
    if options.save:
        merged = merge_rows(RESULTS, rows)
    draw_group(group, folders, rows, PICTURES if options.save else options.runs / "pictures")
    names = {folder.job.name for folder in folders}
    ranked = rank_rows([row for row in merged if row["group"] == group and row["name"] in names])
    for row in ranked:
        print_line(describe_row(row))
    return ranked


def prepare_jobs(jobs: Sequence[Job], options: argparse.Namespace, display: Display) -> list[JobFolder]:
    """Return the folders of the jobs whose recipes can be loaded.

    Images are loaded here, so that their preparation counts for no job's budget. Runs are adopted or copied.
    """
    folders = []
    for job in jobs:
        try:
            config = DataConfig(resolution=leaderboard_scores.TUTORIAL_RESOLUTION)
            if not job.is_tutorial:
                config = job.load_recipe().data
        except ZooError as error:
            display.warn(f"{job.key}: left out: {error}")
            continue
        folder = JobFolder(job, options.runs)
        data_digest = load_dataset(options.data, config, reporter=display).digest
        if options.retry and folder.state["error"] is not None:
            folder.update_state(error=None)
        if (aside := folder.set_aside_if_outdated()) is not None:
            display.say(f"{job.key}: its recipe has changed, so it restarts. The earlier run is in {aside}.")
        if (run := folder.adopt_run(data_digest, adopted_runs(options.runs))) is not None:
            display.say(f"{job.key}: adopts {run.path}")
        if job.continues:
            group, name = job.continues.split(".", 1)
            folder.copy_run(JobFolder(replace(job, group=group, name=name, continues=None), options.runs))
        folders.append(folder)
    return folders


def adopted_runs(runs: Path) -> set[str]:
    """Return the names of the runs that jobs have adopted."""
    files = (runs / "jobs").glob("*/job.json")
    return {str(json.loads(file.read_text(encoding="utf-8"))["run"]) for file in files}


def draw_group(group: str, folders: Sequence[JobFolder], rows: Sequence[Row], out: Path) -> None:
    """Draw a grid of each job's images, and an overview with one row per job, the best first."""
    images_by_name = {folder.job.name: leaderboard_scores.draw_grid(folder, out) for folder in folders}
    ranked = {}
    for row in rank_rows([row for row in rows if row["group"] == group]):
        images = images_by_name.get(row["name"])
        if images is not None:
            ranked[row["name"]] = images
    if ranked:
        leaderboard_scores.draw_overview(ranked, out / f"leaderboard-{group}.png")


def print_status(groups: Sequence[str], options: argparse.Namespace) -> None:
    """Print one line per job; with --dry-run also the commands of the jobs that have not ended."""
    fid_by_job = {(row["group"], row["name"]): row.get("fid") for row in read_rows(results_file(options))}
    states: list[Row] = []
    for group in groups:
        try:
            jobs = plan_group(group, options)
        except ZooError as error:
            states.append({"group": group, "error": str(error)})
            continue
        states += [_job_status(job, fid_by_job.get((group, job.name)), options) for job in jobs]
    if options.json:
        print(json.dumps(states, indent=2))
        return
    for state in states:
        print(state.get("line") or state["error"])
        if "command" in state:
            print(f"    {state['command']}")


def _job_status(job: Job, fid: float | None, options: argparse.Namespace) -> Row:
    """Return what is known of a job: its state, ``line`` for people, and ``command`` if --dry-run asks for it."""
    folder = JobFolder(job, options.runs)
    status: Row = {"group": job.group, "name": job.name, "recipe": job.recipe, "kimg": folder.nimg / 1000}
    status |= {"ended_by": folder.end_reason, "fid": fid, **folder.state}
    try:
        status["recipe_found"] = job.recipe == TUTORIAL or bool(job.load_recipe())
        outdated = folder.outdated
    except ZooError as error:
        return status | {"recipe_found": False, "line": f"{job.key}: {error}"}
    note = "" if fid is None else f"; FID {fid:.1f}"
    if outdated:  # the training and the FID belong to another recipe
        status |= {"ended_by": None, "fid": None, "kimg": 0.0}
        note = "; its recipe has changed"
    status["line"] = f"{folder.describe_state()}{note}"
    if options.dry_run and status["ended_by"] is None:
        command = folder.command(options.data, options.samples, restart=outdated)
        status["command"] = shlex.join(["python", *command])
    return status


def describe_row(row: Row) -> str:
    """Return a row of results as one line."""
    key = f"{row['group']}.{row['name']}"
    if row["error"] is not None or None in (row["fid"], row["kid"], row["ssim_nearest"]):
        return f"{key}: {row['error'] or 'has no FID, KID or SSIM'}"
    metrics = f"FID {row['fid']:.1f}, KID {row['kid']:.4f}, SSIM nearest {row['ssim_nearest']:.3f}"
    line = f"{key}: {metrics} after {row['kimg']:.0f} kimg and {row['core_seconds']:.0f} core-seconds"
    if row["alarms"]:
        line += f"; alarms: {', '.join(dict.fromkeys(alarm['name'] for alarm in row['alarms']))}"
    if row["sees"]:
        line += f"; D pretrained on {row['sees']}"
    return line


def _split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main()
