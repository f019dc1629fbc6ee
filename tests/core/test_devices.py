"""Devices: names, errors, random numbers, and one that is neither a CPU nor CUDA."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from zpyro import UserError
from zpyro.distributed import seeding
from zpyro.nn import devices
from zpyro.training import choose_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [torch.device("cuda", number) for number in range(2)]
    monkeypatch.setattr(devices, "accelerators", lambda: found)


@pytest.mark.fast
@pytest.mark.usefixtures("two_gpus")
def test_names_of_devices() -> None:
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.fast
@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cuda:2", "torch finds only cuda:0, cuda:1; take one of them"),
        ("mps", "torch finds no MPS device here; take cpu or auto, or install"),
        ("meta", "torch finds no META device here"),
        ("gpu", "'gpu', which is no device of torch; take auto, cpu"),
        ("cuda:first", "which is no device of torch"),
    ],
)
def test_a_device_that_is_not_there(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        choose_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.fast
def test_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "accelerators", list)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="torch finds no CUDA device here"):
        choose_device("cuda")


@pytest.mark.fast
def test_random_numbers_are_restored() -> None:
    states = seeding.random_states()
    first = torch.randn(3)
    with devices.fork_rng(torch.device("cpu")):
        torch.randn(5)
    second = torch.randn(3)
    # As written by a machine with other devices, or before other types of them were known.
    seeding.restore_random_states({"cpu": states["cpu"], "cuda": [], "xpu": [torch.zeros(1)]})
    torch.testing.assert_close(torch.randn(3), first)
    torch.testing.assert_close(torch.randn(3), second)


def test_a_device_without_float64() -> None:
    """Training, resuming, bounds and samples use no float64 there and equal those of a CPU."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.core.simulated_device"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    on_cpu, there, error = json.loads(result.stdout.splitlines()[-1])
    assert error == {"refused": "the simulated device has no float64"}
    assert (on_cpu.pop("device"), there.pop("device")) == ("cpu", "simulated")
    assert there == pytest.approx(on_cpu, rel=1e-5)
