"""A few kills of benchmarks/kill.py, which docs/exact-resume.md reports at scale."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("train", 3), ("download", 3), ("publish", 2)])
def test_killed_commands_end_as_undisturbed_ones(kind, kills):
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kinds", kind, "--kills", str(kills), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])
    assert row["kills"] == kills
    assert row["same"] == row["trials"] > 0
    assert row["leftovers"] == row["failures"] == []
