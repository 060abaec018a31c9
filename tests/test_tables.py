"""The tables in the READMEs are those of the results beside them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tables_are_those_of_the_results():
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_have_a_table():
    readmes = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("docs/results.md", "benchmarks/README.md"))
    for results in (ROOT / "benchmarks" / "results").glob("*.jsonl"):
        assert f"<!-- table: {results.stem} -->" in readmes
