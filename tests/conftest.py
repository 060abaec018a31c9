"""One thread a test process (two of them share two cores), a cache and a temporary home of the session's own."""

import os
import random
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, and by the processes that tests start

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
# Ignored in the background of a shell, and under nohup; tests send them.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_sessionstart():
    torch.manual_seed(0)


def pytest_collection_finish():
    """Numbers drawn by an import come before any seed of a test, and differ between processes."""
    if not torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(0).get_state()):
        raise pytest.UsageError("a test module draws random numbers while it is imported. Draw them in its tests.")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    before = {
        name: os.environ.pop(name, None)
        for name in ("ZOO_CACHE", "ZOO_DATA", "ZOO_WEIGHTS", "ZOO_OFFLINE", "ZOO_MEASURE")
    }
    os.environ["ZOO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["ZOO_OFFLINE"] = "1"
    os.environ["ZOO_MEASURE"] = "0"  # no result may depend on a measurement
    yield
    for name in ("ZOO_CACHE", "ZOO_OFFLINE", "ZOO_MEASURE"):
        os.environ.pop(name)
    os.environ.update({name: value for name, value in before.items() if value is not None})


@pytest.fixture(autouse=True)
def _seeds():
    """Whatever ran before, and in whichever process, a test draws the same numbers."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads():
    """Resuming a run sets the thread count of its past."""
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session", autouse=True)
def _single_precision():
    """``auto`` is fp32 here, whatever the machine: results must not depend on it."""
    import zoo.runtime.speed

    before, zoo.runtime.speed.has_bf16 = zoo.runtime.speed.has_bf16, lambda device: False
    yield
    zoo.runtime.speed.has_bf16 = before


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder with one run, tiny, of ``dcgan-64`` at 16 pixels on phantoms of four people."""
    import zoo

    out = tmp_path_factory.mktemp("tiny")
    small = ["data.resolution=16", "generator.width=0.125", "discriminator.width=0.125", "train.batch=8"]
    small.append("data.holdout=0.5")  # two people, from whom copies can be told
    zoo.train("dcgan-64", data="phantoms:4", out=out, kimg=0.032, device="cpu", set=small)
    return out


@pytest.fixture(scope="session")
def published(runs, tmp_path_factory):
    """What `zoo publish` made of it under the name ``tiny``."""
    import zoo

    folder = tmp_path_factory.mktemp("published") / "tiny"
    zoo.publish(runs / "dcgan-64-000", str(folder), name="tiny", extractors=["random"], num_samples=24, device="cpu")
    return folder
