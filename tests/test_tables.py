"""The tables in README.md, benchmarks/README.md and docs/ are those of benchmarks/results."""

import json
import subprocess
import sys
from pathlib import Path

import zoo
from zoo.core.measurements import load_measurements

ROOT = Path(__file__).parent.parent


def test_tables_match_the_results():
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_measurements_name_recipes_and_the_best_of_each_size():
    measured = load_measurements()
    known = zoo.list_models()
    assert {run.recipe for run in measured.runs} | {*measured.start_here.values()} <= set(known)
    assert set(measured.start_here) == {zoo.load_recipe(name).data.resolution for name in known}
    best = measured.best_run("fastgan-r3-64")
    rows = [json.loads(line) for line in (ROOT / "benchmarks/results/leaderboard.jsonl").read_text().splitlines()]
    fids = [row["fid"] for row in rows if row.get("recipe") == "fastgan-r3-64" and row["overrides"] == ["train.seed=0"]]
    assert best.fid == round(min(fids), 1)
    assert measured.longest_run("fastgan-r3-64", best.kimg / 2).kimg < best.kimg
    assert measured.longest_run("fastgan-r3-64", 1) is None
    assert measured.best_run("none") is None


def test_every_results_file_has_a_table():
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for results in (ROOT / "benchmarks" / "results").glob("*.jsonl"):
        assert f"<!-- table: {results.stem} -->" in text
