"""Types as users see them: mypy and pyright on a file that uses the package."""

import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parent.parent
FILE = ROOT / "tests" / "downstream" / "use_zoo.py"
WRONG = 'import zoo\nG, D = zoo.create("dcgan-64")\nx: int = G(zoo.load_generator("brain-64").latents(1))\n'


def check(checker, path, folder):
    words = {
        "mypy": [
            "--strict",
            "--follow-imports=silent",
            "--ignore-missing-imports",
            "--cache-dir",
            str(folder / "cache"),
        ],
        "pyright": ["--pythonpath", sys.executable],
    }[checker]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", checker, *words, str(path)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_file_has_the_types_it_expects(checker, tmp_path):
    if util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    if checker == "pyright":
        (tmp_path / "pyrightconfig.json").write_text(
            f'{{"extraPaths": ["{ROOT.as_posix()}"], "typeCheckingMode": "standard"}}'
        )
    done = check(checker, FILE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    done = check(checker, wrong, tmp_path)
    assert done.returncode == 1
    assert '"Tensor"' in done.stdout


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "zoo" / "py.typed").is_file()
    assert zoo.__version__ == metadata.version("gan-zoo")
