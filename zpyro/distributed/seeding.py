"""Seeds and states of random number generators."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch's generators of every device, for weights, training noise and prior samples.

    Data sets and their batches take their seeds as arguments.
    """
    torch.manual_seed(seed)


def random_states() -> dict[str, object]:
    """The state of every generator that training uses, as plain tensors."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def restore_random_states(states: dict[str, object]) -> None:
    """Restore :func:`random_states`; states of devices that this machine lacks are ignored."""
    cpu, devices = states["cpu"], states["cuda"]
    assert isinstance(cpu, Tensor)
    assert isinstance(devices, list)
    torch.set_rng_state(cpu)
    if torch.cuda.is_available() and len(devices) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(devices)


def named_noise(names: Sequence[str], steps: int, size: int, seed: int, draw: int = 0) -> Tensor:
    """Standard normal noise (B, steps, size) that depends on the names of the sequences.

    A sequence has the same noise in every batch, in every order and on every device.

    Args:
        names: of the sequences.
        steps: T, of the padded batch.
        size: Z.
        seed: of the noise.
        draw: number of the particle.
    """
    noise = np.empty((len(names), steps, size), dtype=np.float32)
    for row, name in enumerate(names):
        key = zlib.crc32(name.encode("utf-8", "surrogateescape"))
        np.random.default_rng([seed, draw, key]).standard_normal(out=noise[row], dtype=np.float32)
    return torch.from_numpy(noise)
