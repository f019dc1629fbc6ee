"""The one place where random numbers start."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Start torch's generators, of every device, anew: weights, training noise, prior samples.

    Data sets and their batches take their seeds as arguments and need no global state.
    """
    torch.manual_seed(seed)


def random_states() -> dict[str, object]:
    """The state of every generator that training draws from, as plain tensors."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def restore_random_states(states: dict[str, object]) -> None:
    """Put back what :func:`random_states` gave; a machine without those devices ignores theirs."""
    cpu, devices = states["cpu"], states["cuda"]
    assert isinstance(cpu, Tensor)
    assert isinstance(devices, list)
    torch.set_rng_state(cpu)
    if torch.cuda.is_available() and len(devices) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(devices)


def named_noise(names: Sequence[str], steps: int, size: int, seed: int, draw: int = 0) -> Tensor:
    """Standard normal draws (B, steps, size) that depend on each sequence's name, not on its place.

    A sequence so has the same noise in whatever batch, order or device it is evaluated.

    Args:
        names: of the sequences.
        steps: T, of the padded batch.
        size: Z.
        seed: of all the draws.
        draw: number of the draw, for several particles a sequence.
    """
    noise = np.empty((len(names), steps, size), dtype=np.float32)
    for row, name in enumerate(names):
        key = zlib.crc32(name.encode("utf-8", "surrogateescape"))
        np.random.default_rng([seed, draw, key]).standard_normal(out=noise[row], dtype=np.float32)
    return torch.from_numpy(noise)
