"""Plug-ins: every kind by every way in, what is never executed, and the one line that a mistake gives."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
import zoo.core.plugins as plugins
from zoo.cli.main import main
from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.registry import Registry
from zoo.data.dataset import load_dataset
from zoo.data.sources.registry import SOURCES
from zoo.losses.adversarial import LOSSES
from zoo.losses.penalties import PENALTIES
from zoo.metrics.registry import METRICS, choose_metrics
from zoo.models.registry import ARCHITECTURES
from zoo.recipes import RECIPES, override_recipe

NETWORKS = """
from dataclasses import dataclass
from torch import nn
import zoo
from zoo.models import Discriminator, Generator, LatentSpec, NetworkConfig

@dataclass(frozen=True, kw_only=True)
class Config(NetworkConfig):
    hidden: int = 8

class G(Generator):
    def __init__(self, config, image):
        super().__init__(config, image, LatentSpec(dim=4))
        shape = (image.channels, image.resolution, image.resolution)
        self.layers = nn.Sequential(nn.Linear(4, shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape))

class D(Discriminator):
    def __init__(self, config, image):
        super().__init__(config, image)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(image.channels * image.resolution**2, 1))
"""
REGISTER = "\nzoo.register_architecture('tiny', generator=(Config, G), discriminator=(Config, D))\n"
ARCHITECTURE = NETWORKS + REGISTER
LOSS = "import zoo\nfrom zoo.losses.adversarial import hinge_d, wasserstein_g\n"
LOSS += "def mine_d(real, fake, smoothing):\n    return hinge_d(real, fake)\n"
LOSS += "zoo.register_loss('mine', discriminator=mine_d, generator=wasserstein_g)\n"
PENALTY = "import zoo\ndef drift(step):\n    return step.real_logits.square().mean()\n"
PENALTY += "zoo.register_penalty('drift', drift, weight=0.001)\n"
SOURCE = """
import numpy as np
import zoo
from zoo.data.sources.volumes import VolumeSource

class Stack(VolumeSource):
    kind = "stack"
    suffixes = (".stack.gz", ".stack")

    def read(self, path):
        return np.fromfile(path, np.uint8).reshape(-1, 8, 8)

zoo.register_source("stack", Stack, folders=True)
"""
METRIC = "import zoo\ndef brightness(comparison):\n    return comparison.fakes.images[:].mean()\n"
METRIC += "zoo.register_metric('brightness', brightness, better='match', sentence='Mean grey level.')\n"
KINDS = {
    "architecture": (ARCHITECTURE, ARCHITECTURES, "tiny"),
    "loss": (LOSS, LOSSES, "mine"),
    "penalty": (PENALTY, PENALTIES, "drift"),
    "source": (SOURCE, SOURCES, "stack"),
    "metric": (METRIC, METRICS, "brightness"),
}
RECIPE = """
plugins: [./plug.py]
arch: tiny
data: {resolution: 8}
optimizer: {generator: {lr: 0.001}, discriminator: {lr: 0.001}}
train: {kimg: 0.016, batch: 8, sample_kimg: 1}
"""


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    """Forget what a test registers and loads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "load_installed_plugins", plugins.load_installed_plugins)
    for registry in (ARCHITECTURES, LOSSES, PENALTIES, SOURCES, METRICS):
        list(registry)  # what the package registers stays
        for name in ("_items", "_origins", "_plugins"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    plugins.load_installed_plugins.cache_clear()
    plugins.report_change.cache_clear()
    plugins._warn.cache_clear()
    yield
    plugins.load_installed_plugins.cache_clear()


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def install(module, text, monkeypatch, tmp_path):
    """Write a distribution with an entry point, as pip would."""
    site = tmp_path / f"site-{module}"
    write(site / f"{module}.py", text)
    write(site / f"{module}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    write(site / f"{module}-1.dist-info/entry_points.txt", f"[gan_zoo.plugins]\nx = {module}\n")
    monkeypatch.syspath_prepend(str(site))


def error(capsys, *arguments):
    """Run a command that must fail for a reason that the user can mend; return its one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    return lines[-1]


@pytest.mark.parametrize("way", ["recipe", "flag", "module", "entry point"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_by_every_way(kind, way, tmp_path, monkeypatch):
    text, registry, name = KINDS[kind]
    assert name not in registry
    if way == "recipe":
        write("plug.py", text)
        recipe = Path(RECIPES / "dcgan-64.yaml").read_text()
        write("own.yaml", f"plugins: [./plug.py]\n{recipe}")
        assert [plugin.name for plugin in zoo.load_recipe("own.yaml").plugins] == ["plug.py"]
    elif way == "flag":
        write("plug.py", text)
        assert main(["list", "--plugin", "plug.py", "--json"]) == 0
    elif way == "module":
        module = f"plug_module_{kind}"
        write(f"{module}.py", text)
        monkeypatch.syspath_prepend(str(tmp_path))
        zoo.load_plugin(module)
    else:
        install(f"plug_installed_{kind}", text, monkeypatch, tmp_path)
        plugins.load_installed_plugins.cache_clear()
    assert name in registry
    assert not registry.is_own(name)
    assert registry.plugin_of(name) is not None
    assert len(registry.plugin_of(name).sha256) == 64


def test_a_recipe_without_plugins_keeps_digest_and_text():
    recipe = zoo.load_recipe("dcgan-64")
    assert "plugins" not in recipe.to_yaml()
    write("plug.py", METRIC)
    write("own.yaml", "plugins: [plug.py]\n" + Path(RECIPES / "dcgan-64.yaml").read_text())
    assert zoo.load_recipe("own.yaml").digest == recipe.digest
    again = override_recipe(zoo.load_recipe("own.yaml"), "train.seed=3")
    assert [plugin.name for plugin in again.plugins] == ["plug.py"]


@pytest.fixture
def trained(monkeypatch):
    """A run of networks from a plug-in, in a process that has not loaded it."""
    write("plug.py", ARCHITECTURE + "\n__import__('pathlib').Path('executed').write_text('x')\n")
    write("own.yaml", RECIPE)
    run = zoo.train("own.yaml", data="phantoms:4", device="cpu")
    assert run.name == "own-000"  # named after the file
    forget(monkeypatch)
    Path("executed").unlink()
    return run


def forget(monkeypatch):
    monkeypatch.setattr(plugins, "_loaded", {})
    ARCHITECTURES._items.pop("tiny", None)
    plugins.report_change.cache_clear()
    plugins._warn.cache_clear()


def test_what_came_with_a_run_is_never_executed(trained, capsys):
    recipe = trained.recipe_file.read_text()
    record = re.search(r"\{name: plug.py, sha256: [0-9a-f]{64}\}", recipe)[0]
    for entry in (record, "./plug.py", "../../plug.py", str(Path("plug.py").resolve()), "plug"):
        trained.recipe_file.write_text(recipe.replace(record, entry))
        (trained.path / "plug.py").write_text("open('executed', 'a').write('y')")
        for command in (
            ["sample", str(trained.path)],
            ["train", "--resume", str(trained.path), "--kimg", "0.032"],
            ["show", str(trained.recipe_file)],
            ["bench", str(trained.path), "--out", "b"],
            ["train", str(trained.recipe_file)],
        ):
            line = error(capsys, *command)
            assert "--plugin" in line, line
            assert "Traceback" not in line
    with pytest.raises(ZooError, match=r"'tiny' comes from a plug-in that is not loaded: add --plugin PATH/plug.py"):
        zoo.load_generator(trained.generator_file)
    line = error(capsys, "train", "dcgan-64", "--set", "plugins=[plug.py]")
    assert "plugins: is a key of recipe files alone; on the command line use --plugin" in line
    assert not Path("executed").exists()


def test_a_run_is_used_again_with_its_plugin(trained, monkeypatch, capsys):
    before = zoo.load_generator(trained, plugins=["plug.py"]).sample(2, seed=1)
    forget(monkeypatch)
    assert main(["sample", str(trained.path), "-n", "2", "--out", "s", "--plugin", "plug.py"]) == 0
    assert "changed" not in capsys.readouterr().err
    forget(monkeypatch)
    assert main(["train", "--resume", str(trained.path), "--kimg", "0.024", "--plugin", "plug.py"]) == 0
    forget(monkeypatch)
    assert json.loads((trained.path / "run.json").read_text())["nimg"] == 24
    assert main(["train", "own.yaml", "--data", "phantoms:4"]) == 0  # the local recipe loads it
    forget(monkeypatch)
    write("plug.py", Path("plug.py").read_text() + "# edited\n")
    capsys.readouterr()
    changed = zoo.load_generator("own-000", plugins=["plug.py"])
    text = " ".join(capsys.readouterr().err.split())
    assert re.search("the plug-in plug.py has changed since the run was trained .sha256 [0-9a-f]{12}, now", text)
    assert changed.sample(2, seed=1).shape == before.shape


FORWARD = "    def forward(self, z):\n        return self.layers(z)\n"
BROKEN = {
    "syntax": ("def f(:\n", r"plug.py, line 1: SyntaxError: "),
    "import": ("import nothing_of_this_name\n", r"plug.py, line 1: ModuleNotFoundError: No module named 'nothing_of"),
    "raises": ("x = 1\nx.y\n", r"plug.py, line 2: AttributeError: "),
    "config": (
        NETWORKS + REGISTER.replace("generator=(Config", "generator=(dict"),
        r"TypeError: the generator of 'tiny': dict is no config; derive it from zoo.models.NetworkConfig",
    ),
    "no dataclass": (
        NETWORKS.replace("@dataclass(frozen=True, kw_only=True)", "") + REGISTER,
        r"the config Config lacks @dataclass\(frozen=True, kw_only=True\)",
    ),
    "class": (REGISTER and NETWORKS + REGISTER.replace("(Config, D)", "(Config, G)"), r"G must derive from .*Discrimi"),
    "same name": (NETWORKS + REGISTER.replace("tiny", "dcgan"), r"have the name 'dcgan': zoo.models.dcgan"),
    "no label": (
        NETWORKS.replace("class D", f"{FORWARD}\nclass D") + REGISTER,
        r"generator: G.forward\(z\) takes no label; write forward\(self, x, label=None\)",
    ),
    "images": (
        NETWORKS.replace("shape = (image.channels,", "shape = (2,") + REGISTER,
        r"generator: G makes images of shape \(4, 2, 8, 8\), not \(4, 1, 8, 8\)",
    ),
    "latents": (
        NETWORKS.replace("nn.Linear(4,", "nn.Linear(5,") + REGISTER,
        r"generator: G fails on latents \(4, 4\) \(RuntimeError: ",
    ),
    "no latent": (
        NETWORKS.replace(", LatentSpec(dim=4))", ")") + REGISTER,
        r"the networks: cannot be built \(TypeError: .*latent",
    ),
    "logits": (
        NETWORKS.replace("2, 1))", "2, 1), nn.Flatten(0), nn.Unflatten(0, (2, 2)), nn.Flatten(1, 1))") + REGISTER,
        r"discriminator: D (returns logits of shape|fails on images)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_one_line_and_breaks_no_other_recipe(name, capsys):
    text, expected = BROKEN[name]
    write("plug.py", text)
    write("own.yaml", RECIPE)
    line = error(capsys, "show", "own.yaml")
    assert line.startswith("zoo: own.yaml: "), line
    assert re.search(expected, line), line
    assert main(["show", "dcgan-64"]) == 0


def test_places_that_hold_no_plugin(capsys):
    write("mygan.py", METRIC)
    assert "did you mean 'mygan.py'?" in error(capsys, "list", "--plugin", "./mygann.py")
    assert "Python finds no such module (did you mean ./mygan.py?)" in error(capsys, "list", "--plugin", "mygan")
    assert "neither a Python file (.py) nor" in error(capsys, "list", "--plugin", "my gan")
    write("own.yaml", RECIPE.replace("[./plug.py]", "./plug.py"))
    assert "plugins: must be a list" in error(capsys, "show", "own.yaml")


def test_an_installed_plugin_that_fails_is_left_out(monkeypatch, tmp_path, capsys):
    install("plug_broken", "def f(:\n", monkeypatch, tmp_path)
    plugins.load_installed_plugins.cache_clear()
    assert "fid" in choose_metrics(None)
    assert "plug-in 'x' (plug_broken) is left out: plug_broken.py, line 1" in " ".join(capsys.readouterr().err.split())


def test_a_broken_file_of_the_package_is_left_out(monkeypatch, tmp_path, capsys):
    package = tmp_path / "some_models"
    for name, text in {"__init__": "", "good": "value = 1", "wrong": "def f(:"}.items():
        write(package / f"{name}.py", text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import some_models

    plugins.import_modules(some_models)
    assert sys.modules["some_models.good"].value == 1
    assert "some_models.wrong is left out: wrong.py, line 1" in " ".join(capsys.readouterr().err.split())


def test_the_same_definition_replaces_itself_and_another_does_not():
    things: Registry[int] = Registry("thing")

    def one():
        pass

    things.register("a", 1, one)
    things.register("a", 2, one)
    assert things["a"] == 2
    with pytest.raises(ValueError, match="have the name 'a'"):
        things.register("a", 3, print)
    with pytest.raises(KeyError):
        things["b"]


def write_stacks(folder, *names):
    for place, name in enumerate(names):
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.random.default_rng(place).integers(0, 256, (3 + place, 8, 8), np.uint8).tofile(path)


def test_a_source_of_volumes(monkeypatch):
    write("plug.py", SOURCE)
    zoo.load_plugin("plug.py")
    write_stacks("set", "train/a.stack.gz", "train/b.stack", "test/c.stack", "train/a_mask.stack.gz")
    write("set/test/empty.stack", "")
    write("set/manifest.csv", "file,kind\ntrain/a.stack.gz,x\ntrain/b.stack,y\ntest/c.stack,x\n")
    config = DataConfig(resolution=8, labels="kind")
    data = load_dataset("set", config)
    assert data.names[:3] == [f"train/a.stack.gz#{n}" for n in range(3)]
    assert data.subjects == ["train/a.stack.gz"] * 3 + ["train/b.stack"] * 4 + ["test/c.stack"] * 5
    assert [len(data.train), len(data.unseen)] == [7, 5]
    assert [problem.reason for problem in data.problems if "empty" in problem.name] == ["it holds no image"]
    assert data.labels.tolist() == [0] * 3 + [1] * 4 + [0] * 5
    assert (data.images[3, 0] == np.fromfile("set/train/b.stack", np.uint8)[:64].reshape(8, 8)).all()
    assert load_dataset("set", config).digest == data.digest
    assert len(load_dataset("set/train/b.stack", DataConfig(resolution=8)).names) == 4
    # An edited reader reads the same files again, and gives other images.
    write("plug.py", SOURCE.replace(".reshape(-1, 8, 8)", ".reshape(-1, 8, 8)[:, ::-1]"))
    zoo.load_plugin("plug.py")
    assert (load_dataset("set", config).images[3, 0, ::-1] == data.images[3, 0]).all()


def test_a_source_with_a_prefix(capsys):
    text = SOURCE.replace("folders=True", "prefix='pacs'").replace("zoo.register_source", "Prefixed = Stack\n#")
    text += """
from zoo.data.folder_layout import Listing
from zoo.data.sources.source import Source

class Remote(Source):
    def __init__(self, place, options):
        self.label = f"study {place}"
    layout = Listing(["one", "two", "three"], subjects=["p", "p", "q"])
    def signature(self):
        return "1"
    def raw(self, index):
        return np.full((8, 8), index, np.uint8)

zoo.register_source("pacs", Remote, prefix="pacs")
"""
    write("plug.py", text)
    zoo.load_plugin("plug.py")
    data = load_dataset("pacs:42", DataConfig(resolution=8))
    assert (data.description, data.subjects) == (
        "study 42: 3 images of 2 subjects, 1 subject (1 image) held out",
        [*"ppq"],
    )
    with pytest.raises(ZooError, match="expected something after 'pacs:'"):
        load_dataset("pacs:", DataConfig(resolution=8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs suffixes, a prefix or recognise"),
        ({"suffixes": ["nii"]}, "must start with a dot"),
        ({"suffixes": [".zip"]}, "both read '.zip'"),
        ({"prefix": "phantoms"}, "both read 'phantoms'"),
        ({"prefix": "a b"}, "must be a word"),
    ],
)
def test_sources_that_cannot_be_registered(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.register_source("new", print, **arguments)


def test_a_metric_that_fails_has_no_value(runs, capsys):
    write("plug.py", METRIC.replace("comparison.fakes.images[:].mean()", "1 / 0"))
    np.save("a.npy", np.zeros((8, 8, 8), np.uint8))
    assert main(["compare", "a.npy", "a.npy", "--plugin", "plug.py", "--metrics", "brightness", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)["brightness"]
    assert value["value"] is None
    assert "plug.py, line 3: ZeroDivisionError" in value["note"]


@pytest.mark.parametrize(("value", "note"), [("float('nan')", "its value is nan"), ("1e999", "its value is inf")])
def test_a_metric_that_is_no_number_is_missing(value, note, runs, capsys):
    write("plug.py", METRIC.replace("comparison.fakes.images[:].mean()", value))
    np.save("a.npy", np.zeros((8, 8, 8), np.uint8))
    assert main(["compare", "a.npy", "a.npy", "--plugin", "plug.py", "--metrics", "brightness", "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert document["brightness"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 8,
        "note": f"not available: {note}",
    }


def test_what_failed_once_is_computed_again(runs, capsys):
    """With the same plug-in, images and weights: as after a lack of memory."""
    metric = METRIC.replace("comparison.fakes.images[:].mean()", "1 / 0 if Path('full').exists() else 0.5")
    write("plug.py", "from pathlib import Path\n" + metric)
    Path("full").touch()
    command = ["bench", str(runs / "dcgan-64-000"), "--plugin", "plug.py", "--metrics", "brightness", "--samples", "8"]
    values = []
    for _ in range(2):
        assert main([*command, "--out", "bench", "--json"]) == 0
        (group,) = json.loads(capsys.readouterr().out)["groups"]
        values.append([row["figures"]["brightness"]["value"] for row in (*group["rows"], group["baselines"][-1])])
        Path("full").unlink(missing_ok=True)
    assert values == [[None, None], [0.5, 0.5]]


@pytest.mark.parametrize("family", ["features", "spectrum", "ssim", "copies", "privacy"])
def test_a_metric_of_the_packages_families_leaves_its_own_as_they_are(family, runs, capsys):
    write("plug.py", METRIC.replace("better='match'", f"better='match', family='{family}'"))
    np.save("a.npy", np.random.default_rng(0).integers(0, 255, (16, 8, 8), np.uint8))
    command = ["compare", "a.npy", "a.npy", "--metrics", "spectrum,fid", "--spaces", "random", "--json"]
    assert main(command) == 0
    plain = json.loads(capsys.readouterr().out)
    command[4] += ",brightness"
    assert main([*command, "--plugin", "plug.py"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["brightness"]["value"] > 0
    for name in ("fid", "spectrum"):
        assert both[name] == plain[name]


@pytest.mark.parametrize("name", ["FID", "all", "ssim", "a b", "fid"])
def test_metrics_that_cannot_be_registered(name):
    with pytest.raises(ValueError, match=r"cannot be called|have the name"):
        zoo.register_metric(name, print, better="lower", sentence="")
