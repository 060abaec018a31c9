"""The walk-through of CONTRIBUTING.md, as a new user follows it: in an empty folder, block by block."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.cli.main import main

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Extend it from outside")[2].partition("\n## ")[0]


@pytest.mark.slow
def test_the_walk_through_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_DATA", "")
    commands = []
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL):
        if kind == "sh":
            commands += block.splitlines()
            for line in block.splitlines():
                program, *arguments = shlex.split(line)
                if program == "python":
                    subprocess.run([sys.executable, *arguments], check=True)
                else:
                    assert main(arguments) == 0, (line, capsys.readouterr().err)
        else:
            (tmp_path / re.match(r"# (\S+)", block)[1]).write_text(block, encoding="utf-8")
    assert {command.split()[1] for command in commands} >= {"show", "train", "sample", "data", "bench"}
    first, second = (json.loads((tmp_path / f"runs/mine-00{n}/run.json").read_text()) for n in (0, 1))
    assert "mygan.py" in [plugin["name"] for plugin in first["plugins"]]
    assert "slices.py" in [plugin["name"] for plugin in second["plugins"]]
    assert "40 images of 2 subjects" in second["data_description"]
    row, *_ = map(json.loads, (tmp_path / "bench/results.jsonl").read_text().splitlines())
    edges = row["figures"]["edges"]
    assert 0 < edges["low"] < edges["value"] < edges["high"]
