"""What ``auto`` stands for, chosen by stand-in timings: no time is measured here."""

import dataclasses
import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch

import zoo
import zoo.runtime.speed
from zoo import recipes
from zoo.core.console import Display
from zoo.core.errors import ZooError
from zoo.core.files import cache_folder
from zoo.runtime.device import cpu_model, describe_environment, is_same_machine
from zoo.runtime.kernels import load_kernels
from zoo.runtime.speed import AutoChoice, choose_speed
from zoo.training import auto_speed
from zoo.training.auto_speed import choose_auto, choose_measured_speed, search
from zoo.training.resume import Session

CPU = torch.device("cpu")
TINY = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=4"]
DEFAULT = AutoChoice(precision="fp32", channels_last=True, threads=8)
ALL = {"precision": ["bf16"], "channels_last": [False], "threads": [4, 2, 1]}


class StandInTimes:
    """Seconds of each setting, multiplied; counts the comparisons."""

    def __init__(self, **factors):
        self.factors, self.comparisons = factors, []

    def seconds(self, choice):
        names = (choice.precision, "NHWC" if choice.channels_last else "NCHW", f"t{choice.threads}")
        result = 1.0
        for name in names:
            result *= self.factors.get(name, 1.0)
        return result

    def compare(self, ours, theirs):
        self.comparisons.append((ours, theirs))
        return self.seconds(theirs) / self.seconds(ours)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measuring is on, with bf16, eight threads, an idle machine, an empty cache and times that the test may set."""
    times = StandInTimes()
    monkeypatch.delenv("ZOO_MEASURE")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto_speed, "has_bf16", lambda device: True)
    monkeypatch.setattr(auto_speed, "_is_busy", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(auto_speed._StepTimer, "compare", lambda self, ours, theirs: times.compare(ours, theirs))
    return times


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({}, ("fp32", True, 8)),
        ({"bf16": 1.8}, ("fp32", True, 8)),
        ({"bf16": 0.5}, ("bf16", True, 8)),
        ({"bf16": 0.99}, ("fp32", True, 8)),  # within the margin
        ({"NCHW": 0.8}, ("fp32", False, 8)),
        ({"NCHW": 0.95}, ("fp32", True, 8)),
        ({"t4": 0.5, "t2": 0.2, "t1": 0.3}, ("fp32", True, 2)),
        ({"t4": 0.95, "t2": 0.1}, ("fp32", True, 8)),  # the first that is not faster ends the search
        ({"bf16": 0.7, "NCHW": 0.7, "t4": 0.7}, ("bf16", False, 4)),
    ],
)
def test_search_takes_what_is_faster_by_more_than_the_margin(factors, expected):
    best, _ = search(DEFAULT, ALL, StandInTimes(**factors).compare)
    assert dataclasses.astuple(best) == expected


def test_ratios_compare_what_was_rejected_with_what_was_kept():
    _, ratios = search(DEFAULT, ALL, StandInTimes(bf16=0.5, NCHW=1.25, t4=0.5, t2=0.75).compare)
    assert ratios == {"fp32": 2.0, "NCHW": 1.25, "8 threads": 2.0, "2 threads": 1.5}


def test_a_second_call_reads_the_cache(measured):
    measured.factors = {"bf16": 0.5, "t4": 0.5}
    recipe = recipes.load_recipe("dcgan-64", TINY)
    first = choose_auto(recipe, CPU)
    count = len(measured.comparisons)
    measured.factors = {}
    second = choose_auto(recipe, CPU)
    assert first.choice == second.choice == AutoChoice(precision="bf16", channels_last=True, threads=4)
    assert first.ratios == second.ratios
    assert len(measured.comparisons) == count == 4  # 8 threads with 4, and 4 with 2
    assert "measured before" in str(second)
    assert str(first).startswith("auto: bf16, channels_last, 4 threads (fp32 takes 2.00 times as long, ")
    for path in (cache_folder() / "auto").iterdir():
        content = json.loads(path.read_text())
        assert (content["cpu"], content["torch"], content["threads"]) == (cpu_model(), torch.__version__, 8)


@pytest.mark.parametrize("damaged", ["", "{}", '{"choice": 3}', '{"choice": {"precision": "bf16"}}', "[]"])
def test_a_damaged_cache_is_measured_again(damaged, measured):
    recipe = recipes.load_recipe("dcgan-64", [*TINY, "speed.threads=8"])
    choose_auto(recipe, CPU)
    (path,) = (cache_folder() / "auto").iterdir()
    path.write_text(damaged)
    measured.factors = {"bf16": 0.5}
    assert choose_auto(recipe, CPU).choice.precision == "bf16"
    assert json.loads(path.read_text())["choice"]["precision"] == "bf16"


def test_other_networks_threads_torch_and_cpus_are_measured_anew(measured, monkeypatch):
    changes = [
        lambda: None,
        lambda: monkeypatch.setattr(torch, "get_num_threads", lambda: 4),
        lambda: monkeypatch.setattr(torch, "__version__", "99"),
        lambda: monkeypatch.setattr(auto_speed, "cpu_model", lambda: "another"),
    ]
    fixed = [*TINY, "speed.channels_last=true"]  # bf16 and threads are left: two entries each
    for number, change in enumerate(changes, 1):
        change()
        choose_auto(recipes.load_recipe("dcgan-64", fixed), CPU)
        assert len(list((cache_folder() / "auto").iterdir())) == 2 * number
    choose_auto(recipes.load_recipe("dcgan-64", [*fixed, "train.kimg=9", "train.seed=3"]), CPU)  # same networks
    assert len(list((cache_folder() / "auto").iterdir())) == 2 * len(changes)
    choose_auto(recipes.load_recipe("dcgan-64", [*fixed, "generator.width=0.25"]), CPU)
    assert len(list((cache_folder() / "auto").iterdir())) == 2 * len(changes) + 2


def test_a_busy_machine_changes_neither_precision_nor_layout(measured, monkeypatch):
    measured.factors = {"bf16": 0.5}
    recipe = recipes.load_recipe("dcgan-64", TINY)
    idle = choose_auto(recipe, CPU).choice
    monkeypatch.setattr(auto_speed, "_is_busy", lambda: True)
    measured.factors = {"bf16": 2, "NCHW": 0.5}
    assert choose_auto(recipe, CPU).choice == idle


@pytest.mark.parametrize(
    ("overrides", "expected", "compared"),
    [
        (["train.precision=fp32"], ("fp32", False, 4), {"channels_last", "threads"}),
        (["train.precision=bf16"], ("bf16", False, 4), {"channels_last", "threads"}),
        (["speed.channels_last=true"], ("bf16", True, 4), {"precision", "threads"}),
        (["speed.channels_last=false"], ("bf16", False, 4), {"precision", "threads"}),
        (["speed.threads=3"], ("bf16", False, 3), {"precision", "channels_last"}),
        (["train.precision=fp32", "speed.channels_last=true", "speed.threads=3"], ("fp32", True, 3), set()),
    ],
)
def test_what_is_set_is_not_measured(overrides, expected, compared, measured):
    measured.factors = {"bf16": 0.5, "NCHW": 0.5, "t4": 0.5}
    speed = choose_measured_speed(recipes.load_recipe("dcgan-64", [*TINY, *overrides]), CPU)
    assert (speed.precision, speed.channels_last, speed.threads) == expected
    fields = [field.name for field in dataclasses.fields(AutoChoice)]
    differing = {name for a, b in measured.comparisons for name in fields if getattr(a, name) != getattr(b, name)}
    assert differing == compared


@pytest.mark.parametrize("why", ["busy", "OMP_NUM_THREADS", "processes"])
def test_threads_are_left_alone(why, measured, monkeypatch):
    measured.factors = {"t4": 0.1}
    if why == "busy":
        monkeypatch.setattr(auto_speed, "_is_busy", lambda: True)
    elif why == "processes":
        two = auto_speed.distributed.World(rank=0, size=2)
        monkeypatch.setattr(auto_speed.distributed, "current_world", lambda: two)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert choose_auto(recipes.load_recipe("dcgan-64", TINY), CPU).choice.threads == 8


def test_emulated_bf16_is_not_tried(measured, monkeypatch):
    monkeypatch.setattr(auto_speed, "has_bf16", lambda device: False)
    measured.factors = {"bf16": 0.1}
    assert choose_auto(recipes.load_recipe("dcgan-64", TINY), CPU).choice.precision == "fp32"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_is_not_measured(device, measured):
    assert choose_auto(recipes.load_recipe("dcgan-64", TINY), torch.device(device)) is None
    assert measured.comparisons == []


def test_measuring_can_be_turned_off(measured, monkeypatch):
    monkeypatch.setenv("ZOO_MEASURE", "0")
    monkeypatch.setattr(zoo.runtime.speed, "has_bf16", lambda device: True)
    recipe = recipes.load_recipe("dcgan-64", TINY)
    assert choose_measured_speed(recipe, CPU) == choose_speed(recipe, CPU)
    assert choose_speed(recipe, CPU).precision == "bf16"
    assert measured.comparisons == []


def test_other_processes_take_the_choice_of_the_first(measured, monkeypatch):
    sent = []
    choice = auto_speed.AutoResult(choice=AutoChoice(precision="bf16", channels_last=False, threads=2))
    monkeypatch.setattr(auto_speed.distributed, "current_world", lambda: auto_speed.distributed.World(rank=1, size=2))
    monkeypatch.setattr(auto_speed.distributed, "broadcast", lambda value: sent.append(value) or choice)
    assert choose_auto(recipes.load_recipe("dcgan-64", TINY), CPU) is choice
    assert sent == [None]
    assert measured.comparisons == []


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dcgan-64", []),
        ("stylegan2-64", []),
        ("multires-28", []),
        ("dcgan-64", ["data.labels=folder"]),
        ("lean-256", ["train.batch=2"]),  # convolutions alone
        ("stylegan-256", ["train.batch=2"]),
        ("dcgan-64", ["discriminator.packing=2"]),
        ("dcgan-64", ["discriminator.packing=3", "train.batch=6"]),
        ("dcgan-64", ["discriminator.packing=16", "train.batch=16"]),  # more than a timed pass takes: convolutions
    ],
)
def test_steps_run_and_leave_random_state_and_threads(name, more, monkeypatch):
    """Real steps, with a clock that always says the same."""
    if "data.labels=folder" in more and not recipes.load_recipe(name).generator.config.conditional:
        pytest.skip("takes no classes")
    monkeypatch.setattr(auto_speed, "FORWARD_MACS", 2e7)
    monkeypatch.setattr(auto_speed.time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(auto_speed._StepTimer, "compare", lambda self, *choices: [self._time(c) for c in choices] and 1)
    recipe = recipes.load_recipe(name, more)
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    result = auto_speed._measure(recipe, dataclasses.replace(DEFAULT, threads=1), ALL | {"threads": [2]})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert result.choice == dataclasses.replace(DEFAULT, threads=1)


def test_convolutions_are_recorded_and_cropped():
    """By hand: 4 x 4 kernels of dcgan at 16 pixels, an eighth wide, from 1 x 1 to 16 x 16 and back."""
    recipe = recipes.load_recipe("dcgan-64", TINY)
    convolutions = auto_speed._list_convolutions(recipe, *recipes.build_networks(recipe, "meta"))
    expected = [100 * 16 * 16, 16 * 16 * 8 * 16, 64 * 16 * 8 * 1, 64 * 16 * 1 * 8, 16 * 16 * 8 * 16, 16 * 16]
    assert [each.macs for each in convolutions] == expected
    speed = choose_speed(recipe, CPU)
    kept = list(auto_speed._crop_convolutions(convolutions, speed))
    heavy = sorted(expected, reverse=True)
    assert sum(heavy[: len(kept) - 1]) < 0.9 * sum(expected) <= sum(heavy[: len(kept)])
    assert all(x.dtype == torch.float32 and x.requires_grad and kernel.requires_grad for x, kernel, _ in kept)


def train(out, **more):
    options = {"data": "phantoms:2", "out": out, "device": "cpu", "kimg": 0.016}
    return zoo.train("dcgan-64", **{**options, "set": [*TINY, "train.checkpoint_kimg=0.008"], **more})


def test_a_run_records_its_choice_and_resumes_with_it(measured, tmp_path):
    measured.factors = {"bf16": 0.5, "NCHW": 0.5, "t4": 0.5}
    run = train(tmp_path)
    recorded = {key: run.info["speed"][key] for key in ("precision", "channels_last", "threads")}
    assert recorded == {"precision": "bf16", "channels_last": False, "threads": 4}
    for path in (cache_folder() / "auto").iterdir():
        path.unlink()
    count = len(measured.comparisons)
    measured.factors = {"bf16": 2, "NCHW": 2, "t4": 2}
    again = zoo.train(resume=run.path, kimg=0.024, device="cpu")
    assert {key: again.info["speed"][key] for key in recorded} | {"threads": 4} == recorded
    assert len(measured.comparisons) == count


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda info, environment: None, ("bf16", True)),  # recorded
        (lambda info, environment: info["speed"].pop("threads"), ("bf16", True)),  # of an earlier version
        (lambda info, environment: info.pop("speed"), ("fp32", True)),  # of an early one: flags (none, in tests)
        (lambda info, environment: environment.update(cpu="another"), ("fp32", False)),  # moved: measured anew
        (lambda info, environment: environment.update(hardware="another"), ("fp32", False)),
        (lambda info, environment: environment.pop("cpu"), ("bf16", True)),
    ],
)
def test_resume_uses_the_record_on_the_same_machine(change, expected, measured):
    measured.factors = {"bf16": 2, "NCHW": 0.5}
    recipe = recipes.load_recipe("dcgan-64", TINY)
    speed = choose_speed(recipe, CPU, auto=AutoChoice(precision="bf16", channels_last=True, threads=4))
    environment = describe_environment(CPU, "bf16")
    info = {"speed": speed.to_json(), "environment": environment}
    change(info, environment)
    session = Session(device=CPU, display=Display(quiet=True), announce=sys.stdout, stop=None)
    restored = session._restore_speed(SimpleNamespace(info=info), recipe, {"environment": environment})
    assert (restored.precision, restored.channels_last) == expected


@pytest.mark.parametrize(("recorded", "expected"), [(True, True), (False, False), (None, False)])
def test_a_run_keeps_its_fused_layers(recorded, expected):
    """None: of a version that had none, whose numbers would change by rounding."""
    if not load_kernels():
        pytest.skip("needs a C compiler")
    recipe, environment = recipes.load_recipe("dcgan-64", TINY), describe_environment(CPU, "fp32")
    speed = {**choose_speed(recipe, CPU).to_json(), "fused_layers": recorded}
    if recorded is None:
        del speed["fused_layers"]
    session = Session(device=CPU, display=Display(quiet=True), announce=sys.stdout, stop=None)
    info = SimpleNamespace(info={"speed": speed, "environment": environment})
    assert session._restore_speed(info, recipe, {"environment": environment}).fused_layers is expected


@pytest.mark.slow
def test_resume_may_override_the_record(measured, tmp_path):
    measured.factors = {"bf16": 0.5}
    run = train(tmp_path)
    again = zoo.train(resume=run.path, kimg=0.024, device="cpu", precision="fp32", set=["speed.threads=3"])
    assert (again.info["speed"]["precision"], again.info["speed"]["threads"]) == ("fp32", 3)


def test_training_sets_the_thread_count_back(tmp_path):
    torch.set_num_threads(2)
    run = train(tmp_path, kimg=0.008, set=[*TINY, "speed.threads=1"])
    assert run.info["environment"]["threads"] == 1
    assert torch.get_num_threads() == 2


def test_a_thread_count_is_a_positive_number_or_auto():
    with pytest.raises(ZooError, match=r"speed\.threads"):
        recipes.load_recipe("dcgan-64", ["speed.threads=0"])
    with pytest.raises(ZooError, match=r"speed\.threads"):
        recipes.load_recipe("dcgan-64", ["speed.threads=many"])
    plain = recipes.load_recipe("dcgan-64")
    assert recipes.load_recipe("dcgan-64", ["speed.threads=2"]).digest == plain.digest


def test_environments_of_the_same_machine():
    now = describe_environment(CPU, "fp32")
    assert is_same_machine(now, describe_environment(CPU, "bf16"))
    assert not is_same_machine({**now, "device": "cuda"}, now)
    assert os.sep not in cpu_model()
    assert cpu_model()
