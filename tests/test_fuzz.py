"""A bounded run of the fuzzer (``python -m tests.fuzz``): no traceback, no hang, nothing wrong accepted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def fuzz(folder, *arguments):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "tests.fuzz", "--json", "--save", str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_no_input_ends_in_a_traceback_a_hang_or_a_wrong_value(tmp_path):
    code, document = fuzz(tmp_path)
    assert [(row["outcome"], row["detail"], row["repeat"]) for row in document["failures"]] == []
    assert code == 0
    assert document["counts"]["all"]["tried"] == 400
    assert all(counts["tried"] >= 10 for counts in document["counts"].values())


@pytest.mark.slow
def test_a_case_is_repeated_by_its_kind_number_and_seed(tmp_path):
    runs = [fuzz(tmp_path, "--kinds", "set,manifest", "--cases", "12", "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert runs[0]["cases"] == runs[1]["cases"]
    assert runs[0]["cases"] != runs[2]["cases"]
