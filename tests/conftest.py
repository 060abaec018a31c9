"""One thread a test process (two of them share two cores), a cache and a temporary home of the session's own."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, and by the processes that tests start

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    before = {name: os.environ.pop(name, None) for name in ("ZOO_CACHE", "ZOO_DATA", "ZOO_WEIGHTS", "ZOO_OFFLINE")}
    os.environ["ZOO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["ZOO_OFFLINE"] = "1"
    yield
    os.environ.pop("ZOO_CACHE")
    os.environ.pop("ZOO_OFFLINE")
    os.environ.update({name: value for name, value in before.items() if value is not None})


@pytest.fixture(autouse=True)
def _threads():
    """Resuming a run sets the thread count of its past."""
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session", autouse=True)
def _single_precision():
    """``auto`` is fp32 here, whatever the machine: results must not depend on it."""
    import zoo.speed

    before, zoo.speed.has_bf16 = zoo.speed.has_bf16, lambda device: False
    yield
    zoo.speed.has_bf16 = before
