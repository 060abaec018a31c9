"""The tables in README.md, benchmarks/README.md and docs/ are those of benchmarks/results."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tables_match_the_results():
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_every_results_file_has_a_table():
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for results in (ROOT / "benchmarks" / "results").glob("*.jsonl"):
        assert f"<!-- table: {results.stem} -->" in text
