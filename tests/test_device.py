"""The name of a device, and the device that it means."""

from __future__ import annotations

import pytest
import torch

from zoo.core.errors import ZooError
from zoo.runtime.device import choose_device, number_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, of which the program has chosen the second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1), ("auto", 1), (torch.device("cuda"), 1), (torch.device("cuda", 0), 0)],
    ids=str,
)
def test_a_gpu_has_its_number(name: str | torch.device, expected: int) -> None:
    assert choose_device(name) == torch.device("cuda", expected)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_has_its_number_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(variable, value)
    assert choose_device("auto") == torch.device("cuda", 0)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ZooError, match="--device cuda:2: not on this machine, which has cuda"):
        choose_device("cuda:2")


@pytest.mark.usefixtures("two_gpus")
def test_only_a_plain_cuda_gets_a_number() -> None:
    devices = [torch.device("cuda"), torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")]
    numbered = [number_device(device) for device in devices]
    assert numbered == [torch.device("cuda", 1), *devices[1:]]
