"""Devices of torch: their names, copies to them, their random numbers, and what they can add up.

Example:
    >>> choose_device("cpu")
    device(type='cpu')
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from zpyro.errors import UserError

_PINNED = ("cuda", "xpu")
"""Accelerators that read page-locked memory of the host while the host continues."""


def accelerators() -> list[torch.device]:
    """Every accelerator that torch finds, with its index; all are of one type."""
    if not torch.accelerator.is_available():
        return []
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return [torch.device(found.type, n) for n in range(torch.accelerator.device_count())]


def choose_device(name: str) -> torch.device:
    """The device of a name of torch's, such as "cpu", "cuda", "cuda:1", "mps" or "xpu".

    Args:
        name: "auto" takes the accelerator that torch finds, otherwise the CPU.

    Raises:
        UserError: for a name that torch does not know, or a device that is not there.
    """
    present = accelerators()
    if name == "auto":
        return torch.device(present[0].type if present else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"device is {name!r}, which is no device of torch; take auto, cpu, cuda, cuda:1, mps "
            "or xpu"
        ) from error
    if device.type == "cpu":
        return torch.device("cpu")
    here = [each for each in present if each.type == device.type]
    if not here:
        kind = device.type.upper()
        raise UserError(
            f"device is {name}, but torch finds no {kind} device here; take cpu or auto, "
            f"or install a torch built for {kind}"
        )
    if ":" in name and device not in here:
        raise UserError(
            f"device is {name}, but torch finds only {', '.join(map(str, here))}; take one of them"
        )
    return device


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device, copied to an accelerator without waiting for it where it can do that."""
    if device.type not in _PINNED or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The floating type for sums on a device.

    float64 on a CPU and on CUDA; float32 elsewhere, because other devices need not have float64
    (Metal has none).
    """
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


@contextlib.contextmanager
def fork_rng(device: torch.device) -> Generator[None, None, None]:
    """Restore the random numbers of the CPU and of a device at the end of the block."""
    with torch.random.fork_rng(devices=[]):
        states = rng_states([device])
        try:
            yield
        finally:
            set_rng_states([device], states)


def rng_states(devices: list[torch.device]) -> list[Tensor]:
    """The state of the random numbers of accelerators, as tensors on the host."""
    return [_generators(each).get_rng_state(*_which(each)) for each in devices if _has_own(each)]


def set_rng_states(devices: list[torch.device], states: list[Tensor]) -> None:
    """Restore what :func:`rng_states` returned for the same devices."""
    own = [each for each in devices if _has_own(each)]
    for device, state in zip(own, states, strict=True):
        _generators(device).set_rng_state(state, *_which(device))


def _has_own(device: torch.device) -> bool:
    return device.type != "cpu"


def _generators(device: torch.device) -> Any:
    return torch.get_device_module(device)


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """The argument that selects a device; Metal has a single one and takes none."""
    return () if device.type == "mps" else (device,)
