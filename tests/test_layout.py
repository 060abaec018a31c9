"""Rules of the code base that a reader may rely on."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zoo
from zoo.models.registry import list_architectures

PACKAGE = Path(zoo.__file__).parent
ROOT = PACKAGE.parent

# Imports run one way: a package imports itself and packages of lower levels.
LEVELS = {
    "core": 1,
    "runtime": 2,
    "data": 2,
    "report": 2,
    "models": 3,
    "losses": 3,
    "metrics": 3,
    "recipes": 4,
    "training": 5,
    "hub": 6,
    "evaluation": 7,
    "cli": 8,
    "__main__": 9,
    "__init__": 9,
}


OPTIONAL = ("tensorboard", "wandb", "mlflow", "hub", "export", "medical", "formats")  # extras, imported where needed


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def home(path):
    """The first part of a module's name under the package."""
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported(path, *, inside):
    """Modules under zoo that a file imports: at its top, or ``inside`` functions too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if inside else tree.body
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "zoo":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zoo."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("zoo."))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = home(path)
    for name in imported(path, inside=False):
        assert name == own or LEVELS[name] < LEVELS[own], f"{path} imports {name}"


def test_models_know_no_trainer_and_no_sibling():
    for path in (PACKAGE / "models").glob("*.py"):
        assert set(imported(path, inside=True)) <= {"core", "models", "runtime"}


def test_the_trainer_names_no_architecture():
    for name in ("training/trainer", "training/loop", "training/train", "losses/objective", "training/ema"):
        text = (PACKAGE / f"{name}.py").read_text().lower()
        for arch in list_architectures():
            assert f'"{arch}' not in text


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(line for name in OPTIONAL for line in extras[name])]
    names = {line.split(">")[0].split("[")[0].strip().replace("-", "_").lower() for line in declared}
    distributions = {"PIL": "pillow", "yaml": "pyyaml", "mlflow": "mlflow_skinny"}
    used = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            found = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found = [node.module]
            for module in found:
                top = module.split(".")[0]
                if top in sys.stdlib_module_names or top == "zoo":
                    continue
                name = distributions.get(top, top).lower()
                assert name in names, f"{path} imports {top}, which is not declared"
                used.add(name)
    indirect = {"tensorboard", "python_gdcm"}  # torch.utils.tensorboard and pydicom import these
    assert used == names - indirect, "declared, and imported by nothing"


@pytest.mark.parametrize("code", ["import zoo", "zoo --help", "zoo list", "zoo list --json", "zoo runs --help"])
def test_what_must_be_quick_loads_no_torch(code):
    heavy = "print([name for name in ('torch', 'timm', 'torch_fidelity', 'numpy') if name in sys.modules])"
    call = "import zoo" if code == "import zoo" else f"from zoo.cli.main import main; main({code.split()[1:]!r})"
    script = f"import sys\ntry:\n    {call}\nexcept SystemExit:\n    pass\n{heavy}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names_resolve():
    for name in zoo.__all__:
        assert getattr(zoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = zoo.nonsense


def test_every_module_says_what_it_is_for():
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_wheel_ships_the_recipes(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; `make test` installs it")
    import zipfile

    build = importlib.import_module("hatchling.build")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        wheel = tmp_path / build.build_wheel(str(tmp_path))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert f"zoo/_recipes/{recipe.name}" in inside
    assert {"zoo/hub/pretrained.yaml", "zoo/core/measurements.json"} <= set(inside)
    for weights in (PACKAGE / "hub" / "_weights").glob("*"):
        assert f"zoo/hub/_weights/{weights.name}" in inside
    for part in (PACKAGE / "hub" / "_explorer").rglob("*.*"):
        assert part.relative_to(ROOT).as_posix() in inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/", "examples/"))]
